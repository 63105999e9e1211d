use std::sync::Arc;

use farshore_changelog::ids::{DiskName, Epoch, GroupName, Position, Seq};
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 300 * 1024 + 512;

/// A base in memory.
struct Bytes(Vec<u8>);

impl ReadDisk for Bytes {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, hole: false }])
    }
}

fn base() -> Arc<Bytes> {
    Arc::new(Bytes((0..SIZE).map(|i| (i % 251) as u8 + 1).collect()))
}

fn header(granule_bytes: u32) -> Header {
    Header {
        group: GroupName::new("g").unwrap(),
        disk: DiskName::new("vda").unwrap(),
        size_bytes: SIZE,
        granule_bytes,
        position: Position { epoch: Epoch(1), seq: Seq(9) },
        undo_end: 77,
    }
}

fn all<B: ReadDisk>(disk: &B) -> Vec<u8> {
    let mut bytes = vec![0xee; SIZE as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Trim(u64, u64),
    Flush,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || {
        prop_oneof![
            (0u64..SIZE, 0u64..20_000), // any alignment
            (0u64..SIZE / 4096, 1u64..12).prop_map(|(at, n)| (at * 4096, n * 4096)),
            (0u64..SIZE / 512, 1u64..200).prop_map(|(at, n)| (at * 512, n * 512)),
        ]
        .prop_map(|(at, len)| (at, len.min(SIZE - at)))
    };
    let step = prop_oneof![
        6 => (range(), any::<u8>()).prop_map(|((at, len), b)| Step::Write(at, len, b)),
        2 => range().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => range().prop_map(|(at, len)| Step::Trim(at, len)),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..40)
}

fn apply(model: &mut [u8], step: &Step) {
    match step {
        Step::Write(at, len, b) => model[*at as usize..(at + len) as usize].fill(*b),
        Step::Zero(at, len) | Step::Trim(at, len) => model[*at as usize..(at + len) as usize].fill(0),
        Step::Flush | Step::Crash => {}
    }
}

/// A copy of the file as a crash right after a flush would leave it.
fn keep(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}

/// What a crash may leave beyond the flushed state: the new data are there, the bitmap is the flushed one.
fn keep_data_only(from: &Path, flushed: &Path, h: &Header) {
    let mut bytes = std::fs::read(from).unwrap();
    let old = std::fs::read(flushed).unwrap();
    let until = h.data_offset() as usize;
    bytes[..until].copy_from_slice(&old[..until]);
    std::fs::write(from, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn it_reads_as_the_model_and_a_crash_leaves_what_was_flushed(steps in steps(), large: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (path, kept) = (dir.path().join("o/vda.cow"), dir.path().join("kept"));
        let granule = if large { layout::LARGE_GRANULE_BYTES } else { layout::SMALL_GRANULE_BYTES };
        let h = header(granule);
        let mut overlay = Overlay::persistent(base(), h.clone(), &path).unwrap();
        keep(&path, &kept);
        let mut model = base().0.clone();
        let mut flushed = model.clone();
        for step in &steps {
            apply(&mut model, step);
            match step {
                Step::Write(at, len, b) => overlay.write_at(&vec![*b; *len as usize], *at).unwrap(),
                Step::Zero(at, len) => overlay.zero(*at, *len).unwrap(),
                Step::Trim(at, len) => overlay.trim(*at, *len).unwrap(),
                Step::Flush => {
                    overlay.flush().unwrap();
                    keep(&path, &kept);
                    flushed = model.clone();
                }
                Step::Crash => {
                    drop(overlay);
                    std::fs::copy(&kept, &path).unwrap();
                    overlay = Overlay::persistent(base(), h.clone(), &path).unwrap();
                    model = flushed.clone();
                }
            }
            prop_assert!(all(&overlay) == model, "after {:?}", step);
        }
        let before = all(&overlay);
        prop_assert!(before == model);
        // Data beyond the flush, bitmap not: a granule is the base's, or the overlay's with old or new bytes.
        drop(overlay);
        keep_data_only(&path, &kept, &h);
        let overlay = Overlay::persistent(base(), h.clone(), &path).unwrap();
        let after = all(&overlay);
        for (i, ((got, old), new)) in after.iter().zip(&flushed).zip(&model).enumerate() {
            prop_assert!(got == old || got == new, "byte {i}: {got}, flushed {old}, newest {new}");
        }
        // And what is written now does not bring back what was lost.
        overlay.write_at(&[1], 0).unwrap();
        let mut expected = after;
        expected[0] = 1;
        prop_assert!(all(&overlay) == expected);
    }

    #[test]
    fn extents_cover_the_range_and_holes_read_as_zeroes(steps in steps(), at in 0u64..SIZE, len in 1u64..SIZE) {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::private(base(), header(4096), dir.path()).unwrap();
        for step in &steps {
            match step {
                Step::Write(at, len, b) => overlay.write_at(&vec![*b; *len as usize], *at).unwrap(),
                Step::Zero(at, len) | Step::Trim(at, len) => overlay.zero(*at, *len).unwrap(),
                Step::Flush | Step::Crash => overlay.flush().unwrap(),
            }
        }
        let range = ByteRange { start: at, end: (at + len).min(SIZE) };
        let bytes = all(&overlay);
        let mut next = range.start;
        for extent in overlay.extents(range).unwrap() {
            prop_assert_eq!(extent.range.start, next);
            prop_assert!(!extent.range.is_empty());
            next = extent.range.end;
            if extent.hole {
                prop_assert!(bytes[extent.range.start as usize..next as usize].iter().all(|b| *b == 0));
            }
        }
        prop_assert_eq!(next, range.end);
    }
}

#[test]
fn a_private_overlay_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::private(base(), header(4096), dir.path()).unwrap();
    overlay.write_at(b"x", 5).unwrap();
    overlay.flush().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn another_point_another_disk_or_a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.cow");
    let open = Overlay::persistent(base(), header(4096), &path).unwrap();
    let second = Overlay::persistent(base(), header(4096), &path).map(|_| ()).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    drop(open);
    let other = Header { position: Position { epoch: Epoch(1), seq: Seq(10) }, ..header(4096) };
    let refused = Overlay::persistent(base(), other, &path).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("1:9") && refused.to_string().contains("1:10"), "{refused}");
    let other = Header { disk: DiskName::new("vdb").unwrap(), ..header(4096) };
    assert!(Overlay::persistent(base(), other, &path).is_err());
}

#[test]
fn past_the_end_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::private(base(), header(65536), dir.path()).unwrap();
    assert_eq!(overlay.write_at(&[0; 2], SIZE - 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(overlay.zero(u64::MAX, 2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(all(&overlay) == base().0);
}

#[test]
fn writers_of_one_granule_do_not_undo_each_other() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..30u64 {
        let overlay = Overlay::private(base(), header(65536), dir.path()).unwrap();
        // Eight writers fill their own eighth of each granule, all at once.
        std::thread::scope(|s| {
            for writer in 0..8u64 {
                let overlay = &overlay;
                s.spawn(move || {
                    for granule in 0..4u64 {
                        let at = granule * 65536 + writer * 8192;
                        overlay.write_at(&[writer as u8 + 100; 8192], at).unwrap();
                    }
                });
            }
        });
        let bytes = all(&overlay);
        for at in (0..4 * 65536).step_by(8192) {
            let writer = at % 65536 / 8192;
            assert!(bytes[at..at + 8192].iter().all(|b| *b == writer as u8 + 100), "round {round}, byte {at}");
        }
    }
}
