//! Segments that are lost, damaged, or not where they belong: refused by name, nothing after them applied, and the points before
//! them good. Each kind has its test; each is mended in the end, and replay goes on. What somebody with a bucket alone can do is tried in an
//! encrypted vault too.

use std::path::{Path, PathBuf};

use farshore_tests::durable;
use farshore_tests::forge::Format;
use farshore_tests::site::GROUP;
use farshore_tests::stretches::{TwoStretches, number_of};

/// Spoils the segments that `spoil` names, each with other bytes (`None`: removed), expects replay to stop before `victim`, and
/// mends all of it.
fn stops_before(stretches: &mut TwoStretches, victim: &Path, spoil: Vec<(PathBuf, Option<Vec<u8>>)>, words: &[&str]) {
    let whole: Vec<Vec<u8>> = spoil.iter().map(|(path, _)| std::fs::read(path).unwrap()).collect();
    for (path, bytes) in &spoil {
        match bytes {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
    stretches.assert_stopped_before(victim, words);
    for ((path, _), bytes) in spoil.iter().zip(whole) {
        std::fs::write(path, bytes).unwrap();
    }
}

fn neighbour(segment: &Path, by: i64) -> PathBuf {
    segment.with_file_name(format!("{:020}", number_of(segment).checked_add_signed(by).unwrap()))
}

#[test]
fn a_segment_that_is_lost() {
    let mut stretches = TwoStretches::new();
    let victim = stretches.segment_to_spoil(1);
    stops_before(&mut stretches, &victim, vec![(victim.clone(), None)], &["missing"]);
    stretches.assert_goes_on();
}

#[test]
fn a_segment_that_is_truncated() {
    for mut stretches in [TwoStretches::new(), TwoStretches::sealed()] {
        let victim = stretches.segment_to_spoil(1);
        let whole = std::fs::read(&victim).unwrap();
        for left in [whole.len() - 1, whole.len() / 2, 255, 0] {
            stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(whole[..left].to_vec()))], &[]);
        }
        stretches.assert_goes_on();
    }
}

#[test]
fn a_segment_with_a_flipped_bit() {
    for mut stretches in [TwoStretches::new(), TwoStretches::sealed()] {
        let victim = stretches.segment_to_spoil(1);
        let whole = std::fs::read(&victim).unwrap();
        // In the header, in the first block, in the middle, in the index, in the footer.
        for at in [100, 300, whole.len() / 2, whole.len() - 120, whole.len() - 20] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(flipped))], &[]);
        }
        stretches.assert_goes_on();
    }
}

#[test]
fn two_segments_that_were_swapped() {
    for mut stretches in [TwoStretches::new(), TwoStretches::sealed()] {
        let victim = stretches.segment_to_spoil(1);
        let next = neighbour(&victim, 1);
        let [a, b] = [&victim, &next].map(|path| std::fs::read(path).unwrap());
        let swapped = vec![(victim.clone(), Some(b)), (next, Some(a))];
        stops_before(&mut stretches, &victim, swapped, &[]);
        stretches.assert_goes_on();
    }
}

#[test]
fn a_segment_that_is_there_twice() {
    for mut stretches in [TwoStretches::new(), TwoStretches::sealed()] {
        let first = stretches.segment_to_spoil(1);
        let victim = neighbour(&first, 1);
        let repeated = std::fs::read(&first).unwrap();
        stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(repeated))], &[]);
        stretches.assert_goes_on();
    }
}

#[test]
fn a_segment_of_another_group() {
    let mut stretches = TwoStretches::new();
    let victim = stretches.segment_to_spoil(1);
    let mut foreign = std::fs::read(&victim).unwrap();
    // Whole in itself, with a right hash: the name alone is another's.
    foreign[24..24 + GROUP.len()].copy_from_slice(b"db-07");
    Format::Segment.seal(&mut foreign);
    stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(foreign))], &["db-07"]);
    stretches.assert_goes_on();
}

#[test]
fn a_segment_of_an_older_epoch() {
    let mut stretches = TwoStretches::new();
    stretches.next_epoch();
    let victim = stretches.segment_to_spoil(2);
    let older = durable::segment_files(&stretches.site.vault, GROUP, 1);
    let older = older.into_iter().find(|path| number_of(path) == number_of(&victim)).unwrap();
    let older = std::fs::read(older).unwrap();
    stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(older))], &["epoch"]);
    stretches.assert_goes_on();
}

#[test]
fn a_segment_whose_predecessor_is_another() {
    let mut stretches = TwoStretches::new();
    let victim = stretches.segment_to_spoil(1);
    let mut forged = std::fs::read(&victim).unwrap();
    // The hash of the segment before: a chain that somebody has cut and mended.
    forged[152] ^= 1;
    Format::Segment.seal(&mut forged);
    stops_before(&mut stretches, &victim, vec![(victim.clone(), Some(forged))], &[]);
    stretches.assert_goes_on();
}
