//! Disks of every size: one sector, odd numbers of sectors; what is no disk is refused by name.

use std::fs::File;
use std::os::unix::fs::FileExt;

use farshore_tests::client::{Client, command, error};
use farshore_tests::pattern::Rng;
use farshore_tests::process;
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};

#[test]
fn what_is_no_disk_is_refused_by_name() {
    for (size, words) in
        [(0, ["vda.source", "0 bytes"]), (511, ["vda.source", "511 bytes"]), (513, ["vda.source", "513 bytes"])]
    {
        let site = Site::new(SiteSpec { disks: vec![size], ..SiteSpec::default() });
        let said = process::run("farshore run", site.agent_command(), VERB_MAX).bad();
        for word in words.iter().chain(&["sector", "next:"]) {
            assert!(said.err.contains(word), "{word:?} is not in: {}", said.err);
        }
    }
}

/// Writes to the first and the last byte and across every edge that is there, then compares source, image and a point.
fn protects(size: u64) {
    let mut site = Site::new(SiteSpec { disks: vec![size], ..SiteSpec::default() });
    let before = Rng::new(size).bytes(size as usize);
    File::options().write(true).open(&site.disks[0].source).unwrap().write_all_at(&before, 0).unwrap();
    site.start_agent();
    site.wait_protected();
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    assert_eq!(client.size, size);
    client.write(size - 1, &[0xaa]).unwrap();
    client.write(0, &[0xbb]).unwrap();
    let tail = size.min(700);
    client.write(size - tail, &Rng::new(1).bytes(tail as usize)).unwrap();
    client.zeroes(size - tail / 2, (tail / 2) as u32).unwrap();
    client.trim(0, size.min(300) as u32).unwrap();
    assert_eq!(client.ask(0, command::WRITE, size - 1, 2, &[1, 2]).unwrap(), error::ENOSPC, "one byte too far");
    assert_eq!(client.ask(0, command::READ, size, 1, &[]).unwrap(), error::EINVAL);
    client.flush().unwrap();
    let whole = client.read(0, size as u32).unwrap();
    assert_eq!(std::fs::read(&site.disks[0].source).unwrap(), whole);
    let _ = site.mark("all");
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
    let point = site.points().into_iter().find(|p| p.name.as_deref() == Some("all")).expect("the mark is a point");
    let attached = site.attach(&point.id);
    let mut seen = Client::open(&attached.socket, "vda").unwrap();
    assert_eq!(seen.size, size);
    assert_eq!(seen.read(0, size as u32).unwrap(), whole);
    seen.write(size - 1, &[0xcc]).unwrap();
    assert_eq!(seen.read(size - 1, 1).unwrap(), [0xcc]);
    drop((seen, attached));
    let verify = ["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()];
    let _ = site.verb(verify).good();
}

#[test]
fn a_disk_of_one_sector_is_protected() {
    protects(512);
}

#[test]
fn disks_that_are_no_multiple_of_a_page_are_protected() {
    // Below a page, just above one, and with a last region and a last record that are cut short.
    for sectors in [7, 9, 2049 + 7, 8191] {
        protects(sectors * 512);
    }
}
