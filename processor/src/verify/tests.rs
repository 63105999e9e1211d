use std::path::{Path, PathBuf};

use bytes::Bytes;
use farshore_changelog::ids::SegmentNo;
use farshore_vault::{Opened, Put, Vault};

use super::*;
use crate::processor::{Processor, ProcessorConfig};
use crate::testing::{Rng, Source};

struct Site {
    tmp: tempfile::TempDir,
    vault: Vault,
    source: Source,
}

async fn site() -> Site {
    let tmp = tempfile::tempdir().unwrap();
    let vault = Vault::init(&format!("file://{}/vault", tmp.path().display())).await.unwrap();
    let mut source = Source::new("web01", 2);
    let mut rng = Rng(3);
    let group = vault.group(&source.group);
    assert!(matches!(group.create_epoch(&source.object).await.unwrap(), Opened::Mine(_)));
    for epoch in 0..2 {
        if epoch == 1 {
            let next = source.next_epoch();
            assert!(matches!(group.create_epoch(&next).await.unwrap(), Opened::Mine(_)));
            group.seal(next.parent.unwrap(), SegmentNo(0), &next).await.unwrap();
        }
        for _ in 0..4 {
            for _ in 0..10 {
                source.random(&mut rng);
            }
            let sealed = source.seal();
            let put = group.put_segment(sealed.head.epoch, sealed.head.number, Bytes::from(sealed.bytes)).await;
            assert_eq!(put.unwrap(), Put::Created);
        }
    }
    let (config, open) = (ProcessorConfig::new(vault.url(), tmp.path().join("target")), vault.clone());
    let outcomes = std::thread::spawn(move || Processor::open_vault(config, open).unwrap().run_once().unwrap());
    assert!(outcomes.join().unwrap().iter().all(|o| o.error.is_none()));
    Site { tmp, vault, source }
}

impl Site {
    async fn vault(&self) -> Report {
        let mut heard = 0;
        let report = verify_vault(&self.vault.group(&self.source.group), &mut |r| heard = r.objects).await.unwrap();
        assert!(heard > 0);
        report
    }

    fn target(&self) -> Report {
        verify_target(&self.tmp.path().join("target"), &self.source.group, &mut |_| {}).unwrap()
    }

    fn files(&self, folder: &str, name: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.tmp.path().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(name) {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_is_sound_is_said_to_be() {
    let site = site().await;
    let vault = site.vault().await;
    assert!(vault.is_sound(), "{:?}", vault.findings);
    // Two epochs, eight segments, a seal.
    assert_eq!(vault.objects, 11);
    let target = site.target();
    assert!(target.is_sound(), "{:?}", target.findings);
    assert!(target.bytes > 0);
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_a_segment_is_found() {
    let site = site().await;
    let files = site.files("vault", "/log/");
    for path in &files {
        let good = std::fs::read(path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 9) {
            flip(path, at);
            let report = site.vault().await;
            assert!(!report.is_sound(), "{} at {at}", path.display());
            std::fs::write(path, &good).unwrap();
        }
    }
    assert!(site.vault().await.is_sound());
}

#[tokio::test]
async fn a_missing_segment_and_a_swapped_one_are_found() {
    let site = site().await;
    let files = site.files("vault", "/log/0000000001/");
    let (second, third) = (std::fs::read(&files[1]).unwrap(), std::fs::read(&files[2]).unwrap());
    std::fs::remove_file(&files[1]).unwrap();
    let report = site.vault().await;
    assert!(report.findings.iter().any(|f| f.what.contains("missing")), "{:?}", report.findings);
    std::fs::write(&files[1], third).unwrap();
    assert!(!site.vault().await.is_sound());
    std::fs::write(&files[1], second).unwrap();
    // Pruned from the start: as it may be.
    std::fs::remove_file(&files[0]).unwrap();
    let report = site.vault().await;
    assert!(report.is_sound() && report.findings.iter().any(|f| f.what.contains("pruned")), "{:?}", report.findings);
}

#[tokio::test]
async fn a_flipped_byte_in_any_file_of_the_target_is_found_and_named() {
    let site = site().await;
    for name in ["/undo/0", "/points", "/position", "/origin.json"] {
        for path in site.files("target", name) {
            let good = std::fs::read(&path).unwrap();
            let step = (good.len() / 23).max(1);
            for at in (0..good.len()).step_by(step) {
                // A position has two slots, one of which does not count, and unused bytes.
                if name == "/position" && at % 4096 > 250 {
                    continue;
                }
                flip(&path, at);
                if name == "/position" {
                    flip(&path, (at + 4096) % good.len().max(4097));
                }
                let report = site.target();
                let named = report.findings.iter().any(|f| f.severity == Severity::Damage);
                assert!(named || name == "/origin.json", "{} at {at}", path.display());
                std::fs::write(&path, &good).unwrap();
            }
        }
    }
    assert!(site.target().is_sound());
    let image = site.files("target", "vd0.raw").remove(0);
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(512).unwrap();
    assert!(site.target().findings.iter().any(|f| f.at.contains("vd0.raw")));
}

#[tokio::test]
async fn what_lies_in_the_vault_for_the_source_is_read_again_too() {
    use farshore_changelog::hashes::Chunk;
    use farshore_changelog::ids::{DiskIndex, Epoch, Hash, Seq};
    use farshore_vault::{HashPlan, HashedDisk, Request};
    let site = site().await;
    let group = site.vault.group(&site.source.group);
    group.put_request(&Request::Digests).await.unwrap();
    let disk = HashedDisk { name: site.source.object.disks[0].name.clone(), units: 1 };
    let plan = HashPlan { epoch: Epoch(2), seq: Seq(1), unit_bytes: 1 << 20, chunk_units: 1, disks: vec![disk] };
    let chunk = Chunk {
        group: site.source.group.clone(),
        epoch: Epoch(2),
        seq: Seq(1),
        disk: DiskIndex(0),
        unit_bytes: 1 << 20,
        chunk_units: 1,
        first_unit: 0,
        hashes: vec![Hash::ZERO],
    };
    group.put_hash_chunk(Epoch(2), DiskIndex(0), 0, Bytes::from(chunk.encode())).await.unwrap();
    group.put_hash_plan(&plan).await.unwrap();
    assert!(site.vault().await.is_sound());
    for name in ["/requests/", "/hashes/0000000002/plan", "/hashes/0000000002/00000"] {
        let path = site.files("vault", name).remove(0);
        let good = std::fs::read(&path).unwrap();
        flip(&path, good.len() / 2);
        let report = site.vault().await;
        assert!(!report.is_sound(), "{name}");
        assert!(report.findings.iter().any(|f| f.at.contains(name)), "{:?}", report.findings);
        std::fs::write(&path, good).unwrap();
    }
    std::fs::remove_file(site.files("vault", "/hashes/0000000002/00000").remove(0)).unwrap();
    assert!(!site.vault().await.is_sound(), "the epoch is not over");
}

#[tokio::test]
async fn a_journal_file_that_is_gone_is_found() {
    let site = site().await;
    let files = site.files("target", "/undo/0");
    let last = files.last().unwrap();
    std::fs::remove_file(last).unwrap();
    let report = site.target();
    assert!(!report.is_sound());
    assert!(report.findings.iter().any(|f| f.what.contains("needs the undo journal")), "{:?}", report.findings);
}

#[tokio::test]
async fn an_unknown_group_is_damage() {
    let site = site().await;
    let nobody = "nobody".parse().unwrap();
    assert!(!verify_vault(&site.vault.group(&nobody), &mut |_| {}).await.unwrap().is_sound());
    assert!(!verify_target(&site.tmp.path().join("target"), &nobody, &mut |_| {}).unwrap().is_sound());
}

#[test]
fn a_report_has_a_limit() {
    let mut report = Report::default();
    for i in 0..report::FINDINGS_MAX + 5 {
        report.damage(i, "bad");
    }
    assert_eq!(
        (report.findings.len(), report.more, report.damaged),
        (report::FINDINGS_MAX, 5, report::FINDINGS_MAX as u64 + 5)
    );
}
