//! A kernel's file system on a protected disk is changed in every way, while it fsyncs. Then the log is replayed to every FLUSH, and
//! to places between: what is there is what a crash at that moment leaves, so the file system recovers by its journal alone, its
//! checker finds nothing, and every file that was fsynced before is there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use farshore_changelog::ids::Seq;
use farshore_changelog::op::Op;
use farshore_tests::exported_fs::ExportedFs;
use farshore_tests::log_replay::{Standing, replay};
use farshore_tests::pattern::Rng;
use farshore_tests::process::run;
use farshore_tests::root::{SmallFileSystem, as_root};
use farshore_tests::rounds;
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};

/// Rounds of changes; each ends with a file that is fsynced.
const ROUNDS: u64 = 24;
/// Changes in a round.
const CHANGES: u64 = 40;
/// Names that the changes are about.
const NAMES: u64 = 30;
/// Of so many records that are no flush, one is looked at too.
const BETWEEN: usize = 150;
/// Flushes that there must be, or the test shows nothing.
const FLUSHES_MIN: usize = ROUNDS as usize;

/// A file that was fsynced, with the newest record of the log when the fsync had returned.
struct Kept {
    name: String,
    content: Vec<u8>,
    newest: Seq,
}

/// A kind of file system.
struct Fs {
    kind: &'static str,
    bytes: u64,
    mkfs: &'static [&'static str],
    check: &'static [&'static str],
}

const EXT4: Fs = Fs { kind: "ext4", bytes: 64 << 20, mkfs: &["mkfs.ext4", "-q", "-F"], check: &["e2fsck", "-f", "-n"] };
/// The smallest that mkfs.xfs makes.
const XFS: Fs = Fs { kind: "xfs", bytes: 304 << 20, mkfs: &["mkfs.xfs", "-q", "-f"], check: &["xfs_repair", "-n"] };

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Fewer bytes than `max`.
fn some(rng: &mut Rng, max: u64) -> Vec<u8> {
    let len = rng.below(max) as usize;
    rng.bytes(len)
}

/// One change of the tree below `root`; one that is not possible just now is none.
fn change(root: &Path, rng: &mut Rng) {
    let name = |rng: &mut Rng| root.join(format!("d{}/f{}", rng.below(4), rng.below(NAMES)));
    let (one, other) = (name(rng), name(rng));
    let open = |append: bool| File::options().create(true).append(append).write(true).truncate(false).open(&one);
    let _possible_or_not = match rng.below(10) {
        0..=2 => std::fs::write(&one, some(rng, 60_000)),
        3 => open(true).and_then(|mut file| file.write_all(&some(rng, 5_000))),
        4 => open(false).and_then(|file| file.set_len(rng.below(100_000))),
        5 => std::fs::rename(&one, &other),
        6 => std::fs::hard_link(&one, &other),
        7 => std::fs::remove_file(&one),
        8 => std::fs::create_dir(one.with_extension("dir")).or_else(|_| std::fs::remove_dir(one.with_extension("dir"))),
        _ => File::open(&one).and_then(|file| file.sync_all()),
    };
}

/// Changes the file system, and gives what it has kept.
fn load(site: &Site, root: &Path, rng: &mut Rng) -> Vec<Kept> {
    for folder in ["kept", "d0", "d1", "d2", "d3"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        (0..CHANGES).for_each(|_| change(root, rng));
        let (name, content) = (format!("kept/{round}"), some(rng, 30_000));
        let mut file = File::create(root.join(&name)).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        File::open(root.join("kept")).unwrap().sync_all().unwrap();
        all.push(Kept { name, content, newest: site.newest().seq });
    }
    all
}

/// What a crash there would leave: the kernel recovers it, the checker finds nothing, and what was fsynced before is in it.
fn look(site: &Site, fs: &Fs, image: &Path, at: Standing, kept: &[Kept]) {
    let (copy, mounted) = (site.path("copy.raw"), site.path("copy"));
    let mut cp = Command::new("cp");
    cp.args(["--sparse=always", path(image), path(&copy)]);
    let _ = run("cp", cp, VERB_MAX).good();
    {
        let recovered = SmallFileSystem::mount_again(&copy, &mounted);
        for Kept { name, content, .. } in kept.iter().filter(|file| file.newest <= at.seq) {
            let found = std::fs::read(mounted.join(name)).unwrap_or_else(|e| panic!("{at:?}: {name}: {e}"));
            assert!(found == *content, "{at:?}: {name} does not hold what was fsynced");
        }
        recovered.unmount();
    }
    let checked = as_root(&[fs.check, &[path(&copy)]].concat());
    assert!(checked.status.success(), "{at:?}: the file system is damaged:\n{}\n{}", checked.out, checked.err);
}

fn recovers_at_every_flush(fs: &Fs) {
    let mut rng = rounds::chance();
    let mut site = Site::new(SiteSpec { disks: vec![fs.bytes], ..SiteSpec::default() });
    let _ = as_root(&[fs.mkfs, &[path(&site.disks[0].source)]].concat()).good();
    site.start_agent();
    site.wait_protected();
    let mounted = ExportedFs::mount(&site.disks[0].uri(), &site.path("on-this-machine"));
    let kept = load(&site, mounted.root(), &mut rng);
    mounted.unmount();
    let newest = site.newest();
    site.wait_shipped(newest);
    site.stop_agent();

    let image = site.path("replayed.raw");
    let file = File::options().read(true).write(true).create_new(true).open(&image).unwrap();
    file.set_len(fs.bytes).unwrap();
    let (mut flushes, mut between, mut records) = (0, 0, 0);
    replay(&site.vault, 1, &file, |at| {
        records += 1;
        let due = at.op == Op::Flush || (records % BETWEEN == 0 && at.op != Op::Mark);
        if due && at.consistent {
            if at.op == Op::Flush {
                flushes += 1
            } else {
                between += 1
            }
            look(&site, fs, &image, at, &kept);
        }
    });
    println!("{}: {records} records, whole at {flushes} flushes and at {between} places between", fs.kind);
    assert!(flushes >= FLUSHES_MIN && between > 0, "too few flushes or changes: this has shown nothing");
}

#[test]
fn ext4_is_whole_at_every_flush_of_the_log_and_between() {
    recovers_at_every_flush(&EXT4);
}

#[test]
fn xfs_is_whole_at_every_flush_of_the_log_and_between() {
    recovers_at_every_flush(&XFS);
}
