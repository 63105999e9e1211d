//! The notes in the folders of source and target, in foreign bytes: refused, or a note that is written and read as the same.
//!
//! Input: a byte that says which note, then the bytes of its file.
#![no_main]

use std::path::Path;

use farshore::agent::stamp;
use farshore_changelog::ids::{DiskIndex, GroupName};
use farshore_changelog::units::ByteRange;
use farshore_fuzz::Scratch;
use farshore_processor::compare::Comparison;
use farshore_processor::failover::note::{self, Note};
use farshore_processor::status::GroupStatus;
use farshore_processor::target::{GroupDir, Origin};
use farshore_processor::undo::damage;
use farshore_processor::undo::published::Published;
use farshore_shipper::{SourceState, requests};
use libfuzzer_sys::fuzz_target;

/// Where each note lies; the target's folder of the group is `web01`.
const FILES: [&str; 12] = [
    "epoch.json",
    "shipped.json",
    "fenced.json",
    "requests-done.json",
    "requests/00000000000000000001.json",
    "web01/origin.json",
    "web01/status.json",
    "web01/overlay/a/failover.json",
    "web01/undo/published",
    "web01/verify.json",
    "web01/undo/00000000000000004096.damaged",
    "stop.json",
];

fn source(dir: &Path) {
    let state = SourceState::new(dir);
    if let Ok(Some(epoch)) = state.epoch() {
        state.set_epoch(&epoch).expect("a note can be written");
        assert_eq!(state.epoch().expect("what was written can be read"), Some(epoch));
    }
    if let Ok(Some(watermark)) = state.watermark() {
        state.set_watermark(&watermark).expect("a note can be written");
        assert_eq!(state.watermark().expect("what was written can be read"), Some(watermark));
    }
    if let Ok(Some(fenced)) = state.fenced() {
        state.set_fenced(&fenced).expect("a note can be written");
        assert_eq!(state.fenced().expect("what was written can be read"), Some(fenced));
    }
    let _ = stamp::changed(dir, &[]);
    if let Ok(done) = requests::done(dir) {
        let pending = requests::pending(dir);
        if let Ok(pending) = pending {
            assert!(pending.iter().all(|(n, _)| *n > done));
        }
        requests::set_done(dir, 1).expect("a note can be written");
        assert_eq!(requests::done(dir).expect("what was written can be read"), done.max(1));
    }
}

fn target(dir: &Path) {
    let dir = GroupDir::new(dir, &GroupName::new("web01").expect("a valid name"));
    if let Ok(Some(origin)) = Origin::read(&dir) {
        origin.write(&dir).expect("a note can be written");
        assert_eq!(Origin::read(&dir).expect("what was written can be read"), Some(origin));
    }
    if let Ok(Some(status)) = GroupStatus::read(&dir) {
        status.write(&dir).expect("a note can be written");
        assert_eq!(GroupStatus::read(&dir).expect("what was written can be read"), Some(status));
    }
    let path = note::path(&dir, "a");
    if let Ok(Some(note)) = Note::read(&path) {
        note.write(&path).expect("a note can be written");
        assert_eq!(Note::read(&path).expect("what was written can be read"), Some(note));
    }
    if let Ok(mut comparison) = Comparison::read(&dir) {
        comparison.write(&dir).expect("a note can be written");
        assert_eq!(Comparison::read(&dir).expect("what was written can be read"), comparison);
        let differing = comparison.open().count();
        comparison.written(DiskIndex(0), ByteRange { start: 0, end: 1 << 20 }, 4096);
        assert!(comparison.open().count() <= differing);
    }
    if let Ok(known) = damage::known(&dir.undo()) {
        assert!(known.iter().all(|damage| damage.offset <= 4096));
    }
    let _ = note::offsets_needed(dir.root());
    if let Ok(published) = Published::open(&dir.published()) {
        let _ = published.load();
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    let file = FILES[usize::from(*which) % FILES.len()];
    Scratch::folder(file, bytes, |dir| if file.starts_with("web01") { target(dir) } else { source(dir) });
});
