//! An agent is killed while the kernel still writes for it, on a disk that takes its time (dm-delay in a guest). Its successor waits for
//! the flock, and so neither reads nor serves what that write is about to change.

use std::path::PathBuf;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::power_host::{HostSpec, PowerHost, connect};

const DISK_BYTES: usize = 8 << 20;
const BLOCK: usize = 64 << 10;
/// How long a write takes.
const DELAY: Duration = Duration::from_secs(8);
/// After this the agent has given its writes to the kernel, and is killed.
const SENT: Duration = Duration::from_millis(1500);
/// Writes in flight, each of another block.
const WRITES: u8 = 4;

/// The table of a device over the source disk whose writes take this long. Reads do not.
fn table(delay: Duration) -> String {
    format!("0 {} delay /dev/vda 0 0 /dev/vda 0 {}", DISK_BYTES / 512, delay.as_millis())
}

fn program(name: &str) -> PathBuf {
    let found = ["/usr/sbin", "/sbin"].map(|dir| PathBuf::from(dir).join(name)).into_iter().find(|p| p.exists());
    found.unwrap_or_else(|| panic!("{name} was installed"))
}

#[test]
fn a_successor_waits_until_the_kernel_has_written_for_the_dead_agent() {
    farshore_tests::deps::ensure();
    let make =
        format!("echo '{}' | dmsetup create slow --noudevsync && dmsetup mknodes || exit 1", table(Duration::ZERO));
    let mut host = PowerHost::new(HostSpec {
        source_bytes: DISK_BYTES,
        over: Some(("/dev/mapper/slow", make)),
        programs: vec![program("dmsetup")],
        modules: vec!["dm_delay"],
    });
    host.boot();
    host.wait_for("protection", |s| s["state"] == "protected");
    let mut client = host.connect().unwrap();
    client.write(0, &vec![1; WRITES as usize * BLOCK]).unwrap();
    client.flush().unwrap();
    host.shell(&format!(
        "echo '{}' | dmsetup reload slow --noudevsync && dmsetup resume slow --noudevsync",
        table(DELAY)
    ));

    let port = host.port();
    let writers: Vec<_> = (0..WRITES)
        .map(|n| {
            let mut client = connect(port).unwrap();
            std::thread::spawn(move || client.write(u64::from(n) * BLOCK as u64, &vec![2 + n; BLOCK]))
        })
        .collect();
    let sent = clock::mono();
    clock::sleep(SENT);
    host.kill_agent();
    for writer in writers {
        assert!(writer.join().unwrap().is_err(), "a write was answered before the disk had it");
    }
    host.wait_served();
    let waited = sent.elapsed();
    println!("the successor served the disk {waited:?} after the writes were sent");
    assert!(waited >= DELAY, "the disk was served {waited:?} after writes that take {DELAY:?}");
    // The kernel had the writes, so they came to the disk; nobody repeats them.
    let mut client = host.connect().unwrap();
    for n in 0..WRITES {
        let found = client.read(u64::from(n) * BLOCK as u64, BLOCK as u32).unwrap();
        assert!(found.iter().all(|b| *b == 2 + n), "block {n} is not what the kernel was given");
    }
    drop(client);
    host.wait_for("protection", |s| s["state"] == "protected" && s["epoch"] == 1);
    host.stop();
    let vault = host.vault();
    let target = tempfile::tempdir().unwrap();
    assert!(vault.replay(target.path()) == host.source(), "the target image is not the disk");
    let mut log = LogWatch::of(1);
    assert_eq!(
        log.look_in(&vault.folder()).reread(),
        usize::from(WRITES),
        "operations that the successor found in flight"
    );
}
