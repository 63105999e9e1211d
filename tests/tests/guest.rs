//! A real guest: QEMU boots Debian's kernel with a virtio disk that is our NBD export and ext4 on it. It writes numbered,
//! checksummed files, fsyncs and reports each; the source is killed in the middle, twice with a successor, at last for good.
//! Then every recovery point is attached to a fresh guest, which must find a file system that is whole and every file that
//! was reported before that point.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Position;
use farshore_tests::durable;
use farshore_tests::guest::{Guest, GuestDisk, GuestSpec};
use farshore_tests::guest_script::{CHECK_FILES, WRITE_FILES};
use farshore_tests::process::{self, Stream};
use farshore_tests::site::{Attached, GROUP, Site, SiteSpec};

/// Size of the disk: small enough to be copied at once, large enough for what the guest writes.
const DISK_BYTES: u64 = 192 << 20;
/// Reports to wait for.
const REPORTS: usize = 90;
/// After these the agent is killed and started again.
const KILLS_AFTER: [usize; 2] = [30, 55];
/// After every so many a mark is set.
const MARK_EVERY: usize = 12;
/// How long into the next file's writing a kill comes.
const INTO_THE_NEXT: Duration = Duration::from_millis(15);
/// The longest the guest may be silent; it includes the agent's restart.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Points that must at least have been cut: the marks, and some periodic ones.
const POINTS_MIN: usize = 8;
/// Two guests at a time are what two cores can emulate, and one test takes them both.
static GUESTS: Mutex<()> = Mutex::new(());
/// Guests that check points at the same time.
const CHECKERS: usize = 2;

/// A file that the guest has reported as fsynced.
struct Report {
    number: usize,
    sha256: String,
    /// The newest seq when the report came. The guest awaits an answer before it goes on.
    newest: Position,
}

fn make_file_system(source: &Path) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("files")).unwrap();
    std::fs::create_dir(root.path().join("noise")).unwrap();
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-d"]).arg(root.path()).arg(source);
    mkfs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    let _ = process::run("mkfs.ext4", mkfs, Duration::from_secs(60)).good();
}

fn write_and_kill(site: &mut Site) -> Vec<Report> {
    let disk = GuestDisk { socket: site.disks[0].socket.clone(), export: "vda".into(), reconnect_delay_s: 60 };
    let spec = GuestSpec { disks: vec![disk], script: WRITE_FILES.into(), ..GuestSpec::default() };
    let mut guest = Guest::boot("the writing guest", &spec);
    guest.expect("ready", SILENCE_MAX);
    let mut reports = Vec::new();
    while reports.len() < REPORTS {
        let line = guest.expect("report ", SILENCE_MAX);
        let (number, sha256) = line.split_once(' ').expect("report NUMBER SHA256");
        let number = number.parse().expect("a number");
        reports.push(Report { number, sha256: sha256.to_owned(), newest: site.newest() });
        assert_eq!(number, reports.len(), "reports come in order");
        if reports.len().is_multiple_of(MARK_EVERY) {
            let _ = site.mark(&format!("after-{number}"));
        }
        guest.say("go");
        if KILLS_AFTER.contains(&reports.len()) {
            clock::sleep(INTO_THE_NEXT);
            site.kill_agent();
            site.start_agent();
        }
    }
    clock::sleep(INTO_THE_NEXT);
    // The host of the VM is lost: its agent, its shipper, and the VM.
    site.lose_source();
    guest.kill();
    reports
}

/// Boots a guest on an attached point and gives the files it finds, number and SHA-256, after the file system was found whole,
/// and whether its journal was replayed.
fn files_in(attached: &Attached, name: &str) -> (BTreeMap<usize, String>, bool) {
    let disk = GuestDisk { socket: attached.socket.clone(), export: "vda".into(), reconnect_delay_s: 0 };
    let spec = GuestSpec { disks: vec![disk], script: CHECK_FILES.into(), ..GuestSpec::default() };
    let mut guest = Guest::boot(name, &spec);
    let lines = guest.finish(SILENCE_MAX);
    assert!(lines.iter().any(|l| l == "fsck 0"), "{name}: the file system is not clean\n{}", guest.story());
    assert!(lines.iter().any(|l| l == "checked"), "{name}: the check did not finish\n{}", guest.story());
    let files = lines.iter().filter_map(|l| l.strip_prefix("file "));
    let files = files.map(|l| {
        let (number, sum) = l.split_once(' ').expect("file NUMBER SHA256");
        (number.parse().expect("a number"), sum.to_owned())
    });
    (files.collect(), lines.iter().any(|l| l == "replayed"))
}

#[test]
fn every_point_of_a_killed_source_holds_what_its_guest_had_fsynced() {
    let _turn = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut site = Site::new(SiteSpec {
        disks: vec![DISK_BYTES],
        process: ["--point-interval", "2s"].map(str::to_owned).to_vec(),
        ..SiteSpec::default()
    });
    make_file_system(&site.disks[0].source);
    site.start_agent();
    site.start_processor();
    let reports = write_and_kill(&mut site);
    assert!(site.stop_processor().success());
    let _ = site.process_once().good();

    let shipped = site.standing().expect("something was replayed").position;
    // What a report says is true from the flush on that it followed. Where the log that reached the vault ends before the
    // report, that flush may be among what was lost with the host: then the report binds no position in the vault.
    let epoch = reports[0].newest.epoch;
    assert!(reports.iter().all(|r| r.newest.epoch == epoch), "a restarted agent goes on in its ring's epoch");
    let flushes = durable::flushes(&site.vault, GROUP, epoch.0);
    let durable_at: Vec<Position> = reports
        .iter()
        .map(|r| {
            if r.newest > shipped {
                return r.newest;
            }
            let before = flushes.partition_point(|seq| *seq <= r.newest.seq);
            let flush = before.checked_sub(1).map(|n| flushes[n]);
            Position { epoch, seq: flush.expect("a report follows a flush") }
        })
        .collect();

    let mut points: Vec<(String, Position)> = site.points().into_iter().map(|p| (p.id, p.position)).collect();
    assert!(points.len() >= POINTS_MIN, "only {} points were cut", points.len());
    points.push(("latest".into(), shipped));
    let mut attached: Vec<_> = points.iter().map(|(id, position)| (id, *position, site.attach(id))).collect();
    for (id, position, attached) in &attached {
        assert_eq!(attached.position, *position, "point {id} is served at another position");
    }
    // Between points: rounded down to the newest published position at or before the flush of a report, which is never further
    // away than a segment.
    let middle = durable_at[REPORTS / 2];
    let seq = middle.seq.to_string();
    let between = site.attach(&seq);
    let newest_point = points.iter().map(|(_, position)| *position).filter(|p| *p <= middle).max();
    assert!(between.position <= middle && Some(between.position) >= newest_point, "{} for {middle}", between.position);
    attached.push((&seq, between.position, between));
    let work = Mutex::new(attached.iter());
    let counts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CHECKERS {
            scope.spawn(|| {
                loop {
                    let next = work.lock().expect("no checker panicked").next();
                    let Some((id, position, attached)) = next else { break };
                    let (found, replayed) = files_in(attached, &format!("a guest on point {id}"));
                    let expected = durable_at.partition_point(|flush| flush <= position);
                    let mut checked = 0;
                    for report in &reports[..expected] {
                        let sum = found.get(&report.number);
                        assert_eq!(sum, Some(&report.sha256), "point {id} at {position}: file {}", report.number);
                        checked += 1;
                    }
                    // The guest writes one file at a time, so at most one more can have been begun.
                    assert!(found.len() <= expected + 1, "point {id} at {position} holds files from after it");
                    assert_eq!(checked, expected);
                    assert_eq!(checked > 0, *position >= durable_at[0]);
                    assert!(replayed || checked == 0, "point {id} at {position}: it was never mounted");
                    counts.lock().expect("no checker panicked").push((*position, checked));
                }
            });
        }
    });
    let mut counts = counts.into_inner().expect("no checker panicked");
    counts.sort();
    println!("files checked per point: {counts:?}");
    assert_eq!(counts.len(), attached.len());
    assert!(counts.iter().filter(|(_, checked)| *checked > 0).count() >= POINTS_MIN / 2, "{counts:?}");
    let last_kill = durable_at[KILLS_AFTER[1]];
    assert!(counts.iter().any(|(position, _)| *position > last_kill), "no point lies after the restarts: {counts:?}");
}

#[test]
fn a_guests_kernel_driver_reads_and_writes_an_export_over_tcp() {
    let _turn = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut site = Site::new(SiteSpec { tcp: true, ..SiteSpec::default() });
    site.start_agent();
    let port = site.disks[0].listen.rsplit(':').next().expect("tcp:host:port").to_owned();
    let script = format!(
        r#"
        nbd-client -N vda 10.0.2.2 {port} /dev/nbd0 -b 512 -C 2 >&2 || exit 1
        echo "size $(blockdev --getsize64 /dev/nbd0)"
        mkfs.ext4 -q /dev/nbd0 && mount -o discard /dev/nbd0 /mnt || exit 1
        head -c 3000000 /dev/urandom >/mnt/random && sync /mnt/random || exit 1
        rm /mnt/random && fstrim /mnt
        yes farshore | head -c 5000000 >/mnt/text && sync /mnt/text || exit 1
        umount /mnt
        echo "sum $(sha256sum </dev/nbd0)"
        nbd-client -d /dev/nbd0 >&2
        "#
    );
    let mut guest =
        Guest::boot("a guest with its own NBD client", &GuestSpec { script, network: true, ..GuestSpec::default() });
    assert_eq!(guest.expect("size ", SILENCE_MAX), site.disks[0].size.to_string());
    let seen_by_guest = guest.expect("sum ", SILENCE_MAX);
    guest.finish(SILENCE_MAX);
    let newest = site.newest();
    site.wait_shipped(newest);
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
    let mut sum = Command::new("sha256sum");
    sum.arg(site.image(0));
    let sum = process::run("sha256sum", sum, SILENCE_MAX).good().out;
    assert_eq!(sum.split(' ').next(), seen_by_guest.split(' ').next());
}

#[test]
fn the_start_up_of_the_agent_says_how_it_does_its_io() {
    let mut site = Site::new(SiteSpec::default());
    site.start_agent();
    let engine = site.agent_status()["engine"].as_str().expect("the engine's name").to_owned();
    let said = [Stream::Out, Stream::Err].map(|s| site.agent().output(s).join("\n")).concat();
    assert!(said.contains(&engine), "{engine} is not in: {said}");
}
