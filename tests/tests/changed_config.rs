//! The configuration is changed between two starts: what can be taken over is taken over, the rest is refused by name, and nothing
//! that lies in ring, map or spool is misread.

use std::path::PathBuf;

use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::site::{GROUP, Site, SiteDisk, SiteSpec, VERB_MAX};
use farshore_tests::stretches::{refused, run_agent};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 16 * MIB;

fn two_disks() -> Site {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES, DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    site
}

/// Writes to every disk, differently each time.
fn write(site: &Site, seed: u64) {
    for (n, disk) in site.disks.iter().enumerate() {
        let mut client = Client::open(&disk.socket, &disk.name).unwrap();
        let mut rng = Rng::new(seed * 100 + n as u64);
        for _ in 0..10 {
            let len = 1 + rng.below(60_000);
            client.write(rng.below(DISK_BYTES - len), &rng.clone().bytes(len as usize)).unwrap();
        }
        client.flush().unwrap();
    }
}

fn wait_for_state(site: &mut Site, state: &str) {
    let deadline = clock::mono() + VERB_MAX;
    while site.agent_status()["state"] != state {
        assert!(clock::mono() < deadline, "never {state}: {}", site.agent_status());
        clock::sleep(std::time::Duration::from_millis(100));
    }
}

/// Everything that was written arrives, in an epoch of this number.
fn assert_goes_on(mut site: Site, epoch: u64) {
    site.start_agent();
    site.wait_protected();
    write(&site, 99);
    assert_eq!(site.newest().epoch, Epoch(epoch));
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

/// The agent is killed while the vault is away: what was written last is in the ring and the spool only.
fn crash_without_vault(site: &mut Site) {
    write(site, 1);
    let newest = site.newest();
    site.wait_shipped(newest);
    let away = site.path("vault-away");
    std::fs::rename(&site.vault, &away).unwrap();
    write(site, 2);
    site.lose_source();
    std::fs::rename(&away, &site.vault).unwrap();
}

#[test]
fn a_changed_ring_and_other_lanes_count_from_the_next_ring_on() {
    let mut site = two_disks();
    let (bytes, lanes) = (durable::ring_payload_bytes(&site.ring), durable::ring_lanes(&site.ring));
    crash_without_vault(&mut site);
    site.reconfigure("ring_size = \"64MiB\"\nlanes = 1\nsegment_size = \"1MiB\"\ncompression = 9");
    site.start_agent();
    write(&site, 3);
    assert_eq!((durable::ring_payload_bytes(&site.ring), durable::ring_lanes(&site.ring)), (bytes, lanes));
    assert_eq!(site.newest().epoch, Epoch(1), "what the ring held was not taken over");
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
    // The host is started again: a new ring, as it is configured now.
    std::fs::remove_file(&site.ring).unwrap();
    site.start_agent();
    site.wait_protected();
    assert_eq!((durable::ring_payload_bytes(&site.ring), durable::ring_lanes(&site.ring)), (64 * MIB, 1));
    site.stop_agent();
    assert_goes_on(site, 2);
}

#[test]
fn disks_in_another_order_are_refused_and_the_old_order_goes_on() {
    let mut site = two_disks();
    crash_without_vault(&mut site);
    site.disks.swap(0, 1);
    site.write_config();
    refused(run_agent(&site), &["vda", "vdb", "enable --adopt"]);
    site.disks.swap(0, 1);
    site.write_config();
    assert_goes_on(site, 1);
}

#[test]
fn a_disk_that_is_left_out_is_refused_and_put_back_it_goes_on() {
    let mut site = two_disks();
    crash_without_vault(&mut site);
    let left_out = site.disks.pop().unwrap();
    site.write_config();
    refused(run_agent(&site), &["1 disks", "2", "enable --adopt"]);
    site.disks.push(left_out);
    site.write_config();
    assert_goes_on(site, 1);
}

fn add_disk(site: &mut Site) {
    let name = format!("vd{}", char::from(b'a' + site.disks.len() as u8));
    let source = site.path(&format!("{name}.source"));
    std::fs::write(&source, Rng::new(5).bytes(DISK_BYTES as usize)).unwrap();
    let socket = site.path(&format!("{name}.sock"));
    let listen = format!("unix:{}", socket.display());
    site.disks.push(SiteDisk { name, source, socket, listen, size: DISK_BYTES });
    site.write_config();
}

#[test]
fn a_disk_that_is_added_begins_an_epoch_and_arrives() {
    let mut site = two_disks();
    write(&site, 1);
    site.stop_agent();
    let _ = site.process_once().good();
    add_disk(&mut site);
    assert_goes_on(site, 2);
}

#[test]
fn a_disk_that_is_added_after_a_crash_begins_an_epoch_and_all_arrive() {
    let mut site = two_disks();
    crash_without_vault(&mut site);
    add_disk(&mut site);
    assert_goes_on(site, 2);
}

#[test]
fn sources_that_were_exchanged_are_not_taken_for_each_other() {
    let mut site = two_disks();
    crash_without_vault(&mut site);
    let (a, b) = site.disks.split_at_mut(1);
    std::mem::swap(&mut a[0].source, &mut b[0].source);
    site.write_config();
    // Names and sizes are right; the files behind them are others, so whatever is done, every byte is copied again.
    site.start_agent();
    site.wait_protected();
    write(&site, 4);
    assert_eq!(site.newest().epoch, Epoch(2));
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

#[test]
fn another_spool_folder_is_noticed_and_the_old_one_goes_on() {
    let mut site = two_disks();
    write(&site, 1);
    let newest = site.newest();
    site.wait_shipped(newest);
    let away = site.path("vault-away");
    std::fs::rename(&site.vault, &away).unwrap();
    write(&site, 2);
    // Sealed and released from the ring: the spool alone has it.
    let spool = site.path("state/spool");
    site.agent().wait_until("a sealed segment", VERB_MAX, || {
        let sealed = std::fs::read_dir(&spool).ok()?.any(|e| e.unwrap().path().extension().is_some_and(|e| e == "seg"));
        sealed.then_some(())
    });
    site.lose_source();
    std::fs::rename(&away, &site.vault).unwrap();
    let elsewhere: PathBuf = site.path("elsewhere");
    site.reconfigure(&format!("spool_dir = \"{}\"", elsewhere.display()));
    site.start_agent();
    let said = site.agent().expect_line("spool was lost", VERB_MAX);
    assert!(said.contains("resync"), "{said}");
    write(&site, 3);
    println!("{}", site.agent_status());
    assert_ne!(site.agent_status()["shipper"], "shipping");
    site.lose_source();
    site.reconfigure("");
    assert_goes_on(site, 1);
}

#[test]
fn another_group_on_this_state_is_refused() {
    let mut site = two_disks();
    crash_without_vault(&mut site);
    let text = std::fs::read_to_string(&site.config).unwrap();
    std::fs::write(&site.config, text.replace(&format!("group = \"{GROUP}\""), "group = \"db-07\"")).unwrap();
    refused(run_agent(&site), &["db-07", GROUP]);
    site.write_config();
    assert_goes_on(site, 1);
}

#[test]
fn another_vault_is_refused_and_the_old_one_goes_on() {
    let mut site = two_disks();
    write(&site, 1);
    site.stop_agent();
    let (ours, other) = (site.vault.clone(), site.path("other-vault"));
    site.vault = other.clone();
    site.write_config();
    site.make_vault();
    refused(run_agent(&site), &["other-vault", "another vault"]);
    // After a crash the disk is served all the same, and nothing is shipped there.
    site.vault = ours.clone();
    site.write_config();
    site.start_agent();
    site.lose_source();
    site.vault = other.clone();
    site.write_config();
    site.start_agent();
    let _ = site.agent().expect_line("another vault", VERB_MAX);
    write(&site, 2);
    wait_for_state(&mut site, "shipper stopped");
    site.lose_source();
    site.vault = ours;
    site.write_config();
    assert_goes_on(site, 1);
    assert!(!other.join("groups").exists(), "something was shipped there");
}

/// The processors that each lane of the agent may run on, as /proc lists them.
fn lanes_run_on(site: &mut Site) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", site.agent().pid())).unwrap();
    let statuses = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let value = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let lanes = statuses.filter(|status| value(status, "Name:").starts_with("farshore-lane-"));
    lanes.map(|status| value(&status, "Cpus_allowed_list:")).collect()
}

#[test]
fn lanes_run_where_they_are_pinned_to() {
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    let mut site = two_disks();
    assert!(lanes_run_on(&mut site).iter().all(|cpus| *cpus != last.to_string()), "lanes are pinned unasked");
    site.stop_agent();
    site.reconfigure(&format!("lane_cpus = [{last}]"));
    site.start_agent();
    let lanes = lanes_run_on(&mut site);
    assert!(!lanes.is_empty() && lanes.iter().all(|cpus| *cpus == last.to_string()), "{lanes:?}");
    site.stop_agent();
    site.reconfigure("lane_cpus = [1023]");
    refused(run_agent(&site), &["processor 1023", "lane_cpus"]);
    site.reconfigure("lane_cpus = [1024]");
    refused(run_agent(&site), &["lane_cpus", "below 1024"]);
    site.reconfigure("");
    assert_goes_on(site, 1);
}
