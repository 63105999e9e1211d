//! Agent and shipper as two services: the agent, which has the disks, runs where there is no network, without the vault's key and
//! without a child; the shipper runs beside it, without the disks and without the rights of root. Either may be away, be killed, or
//! begin first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_shipper::SourceState;
use farshore_tests::bin;
use farshore_tests::client::Client;
use farshore_tests::process::{Process, Stream, run};
use farshore_tests::site::{CATCH_UP_MAX, Site, SiteSpec, VERB_MAX};
use farshore_tests::syscalls::{programs, traced};
use nix::sys::signal::Signal;

const DISK_BYTES: u64 = 8 << 20;
/// What the agent says to do when nobody ships.
const START_IT: &str = "systemctl start farshore-shipper@web01";

/// A site whose agent and shipper are two services.
struct Two {
    site: Site,
    shipper: Option<Process>,
    written: u64,
}

/// The agent in a network of its own, with nothing in it, and in whose home no key is.
fn agent_command(site: &Site) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net").arg("--").arg(bin::path()).args(["run", "--no-shipper"]).arg(&site.config);
    command.env("XDG_CONFIG_HOME", site.path("no-keys"));
    command
}

/// The shipper as its unit has it: root without any right of root's, who sees nothing where the disk is.
fn shipper_command(site: &Site) -> Command {
    let farshore = bin::farshore([OsString::from("ship"), site.config.clone().into()]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
    command
        .arg("mount --bind /dev/null \"$0\" && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"");
    command.arg(&site.disks[0].source).arg(farshore.get_program()).args(farshore.get_args());
    command.envs(farshore.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

impl Two {
    fn new() -> Self {
        let site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
        Self { site, shipper: None, written: 0 }
    }

    /// Both running, a processor too, and the initial replication done.
    fn protected() -> Self {
        let mut two = Self::new();
        two.start_shipper();
        two.start_agent();
        two.site.start_processor();
        two.site.wait_protected();
        two
    }

    fn start_shipper(&mut self) {
        let shipper = Process::start("farshore ship", shipper_command(&self.site));
        let _ = shipper.expect_line("waits for the agent", VERB_MAX);
        self.shipper = Some(shipper);
    }

    fn stop_shipper(&mut self) {
        let mut shipper = self.shipper.take().expect("the shipper was started");
        let status = shipper.terminate(VERB_MAX);
        assert!(status.success(), "the shipper ended with {status}\n{}", shipper.tail());
    }

    fn start_agent(&mut self) {
        let command = agent_command(&self.site);
        self.site.start_agent_as(command);
    }

    fn write(&mut self) {
        self.written += 1;
        let mut client = Client::open(&self.site.disks[0].socket, "vda").expect("the agent serves its disk");
        client.write(self.written << 16, &[self.written as u8; 5000]).expect("a write");
        client.flush().expect("a flush");
    }

    /// What is written now reaches the target.
    fn assert_followed(&mut self) {
        self.write();
        let newest = self.site.newest();
        self.site.wait_shipped(newest);
        self.site.wait_replayed(newest);
        self.site.assert_equal();
    }

    /// Waits until the agent knows whether its shipper is there.
    fn wait_shipper_known(&mut self, there: bool) {
        let deadline = clock::mono() + VERB_MAX;
        loop {
            let status = self.site.agent_status();
            if status["shipper_pid"].is_u64() == there && (status["state"] == "shipper stopped") != there {
                return;
            }
            assert!(clock::mono() < deadline, "there: {there}; {status}\n{}", self.site.agent().tail());
            clock::sleep(Duration::from_millis(100));
        }
    }

    fn left_clean(&self) -> bool {
        SourceState::new(&self.site.path("state")).epoch().unwrap().expect("an epoch is noted").clean
    }
}

/// Of an account: the agent, which went to no network and started nobody.
#[track_caller]
fn assert_alone(account: &Path) {
    let programs = programs(account);
    let [agent] = &programs[..] else { panic!("the agent alone is expected in {programs:#?}") };
    assert!(agent.arguments.contains("\"--no-shipper\""), "{agent:#?}");
    assert_eq!(agent.network(), [""; 0], "the process that serves disks went to the network");
    assert!(agent.sockets.iter().any(|line| line.starts_with("connect(") && line.contains("shipper/web01.sock")));
}

#[test]
fn a_disk_is_protected_by_an_agent_without_network_key_and_children() {
    let mut two = Two::new();
    two.start_shipper();
    let account: PathBuf = two.site.path("account");
    let command = traced(&agent_command(&two.site), &account);
    two.site.start_agent_as(command);
    two.site.start_processor();
    two.site.wait_protected();
    two.assert_followed();
    let service = two.shipper.as_ref().map(Process::pid).expect("the shipper was started");
    assert_eq!(two.site.agent_status()["shipper_pid"], i64::from(service));
    // A request goes to the agent by the way of the vault and the shipper.
    let config = two.site.config.display().to_string();
    let _ = two.site.verb(["resync", &config, "--full"]).good();
    let _ = two.site.agent().expect_line("every disk is copied again", CATCH_UP_MAX);
    two.site.wait_protected();
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(2));
    two.site.stop_agent();
    assert!(two.left_clean(), "the shipper had not drained when the agent ended");
    two.stop_shipper();
    assert!(!two.site.path("run/shipper/web01.sock").exists() && !two.site.path("run/web01.control").exists());
    // strace has seen the end of the agent and writes the rest of what it saw.
    clock::sleep(Duration::from_millis(500));
    assert_alone(&account);
}

#[test]
fn a_killed_shipper_is_started_again_by_its_service_and_a_killed_service_by_whoever_starts_it() {
    let mut two = Two::protected();
    two.site.kill_shipper();
    two.assert_followed();
    // Its shipper drains and ends by itself, as after the death of an agent.
    two.shipper.as_ref().expect("the shipper was started").signal(Signal::SIGKILL);
    two.wait_shipper_known(false);
    two.write();
    two.start_shipper();
    two.wait_shipper_known(true);
    two.assert_followed();
    // Told to end, it drains first.
    two.write();
    let newest = two.site.newest();
    two.stop_shipper();
    two.site.wait_shipped(newest);
    two.wait_shipper_known(false);
    two.site.stop_agent();
    two.start_shipper();
    two.start_agent();
    two.site.wait_protected();
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(1), "nothing was lost, so no epoch was begun");
}

#[test]
fn a_killed_agent_is_followed_by_its_successor_and_a_lost_host_by_the_next_epoch() {
    let mut two = Two::protected();
    for _ in 0..3 {
        two.write();
        two.site.kill_agent();
        two.start_agent();
    }
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(1), "nothing was lost, so no epoch was begun");
    // The host is lost, and the agent begins before there is a shipper.
    two.write();
    two.site.lose_source();
    two.shipper.take().expect("the shipper was started").kill_all();
    std::fs::remove_file(&two.site.ring).unwrap();
    two.start_agent();
    two.start_shipper();
    two.site.wait_protected();
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(2));
    // The ring alone is lost, while the service lives: it lets go of the old one.
    two.site.kill_agent();
    std::fs::remove_file(&two.site.ring).unwrap();
    two.start_agent();
    two.site.wait_protected();
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(3));
}

#[test]
fn without_its_shipper_an_agent_serves_what_is_protected_and_says_what_is_missing() {
    let mut two = Two::new();
    // A first start has to know what the vault has.
    let refused = run("a first start", agent_command(&two.site), VERB_MAX).bad();
    assert!(refused.err.contains(START_IT) && refused.err.contains("next:"), "{}", refused.err);
    two.start_shipper();
    two.start_agent();
    two.site.start_processor();
    two.site.wait_protected();
    two.assert_followed();
    let deadline = clock::mono() + CATCH_UP_MAX;
    while two.site.agent_status()["disks"][0]["lost_bytes"] != 0 {
        assert!(clock::mono() < deadline, "{}", two.site.agent_status());
        clock::sleep(Duration::from_millis(100));
    }
    two.site.stop_agent();
    assert!(two.left_clean());
    two.stop_shipper();

    // As after a reboot: the ring is gone.
    std::fs::remove_file(&two.site.ring).unwrap();
    two.start_agent();
    let _ = two.site.agent().expect_line("nothing is copied again", VERB_MAX);
    two.write();
    two.wait_shipper_known(false);
    let status = two.site.agent_status();
    assert!(status["shipper"].as_str().unwrap().contains(START_IT), "{status}");
    let config = two.site.config.display().to_string();
    let said = two.site.verb(["status", &config]).good().out;
    assert!(said.contains("shipper stopped") && said.contains("farshore-shipper@web01"), "{said}");
    let asked = two.site.agent().output(Stream::Err).join("\n");
    assert!(asked.contains(START_IT), "{asked}");

    two.start_shipper();
    two.wait_shipper_known(true);
    two.site.wait_protected();
    two.assert_followed();
    assert_eq!(two.site.newest().epoch, Epoch(2));
}

#[test]
fn a_second_service_and_one_beside_an_agent_that_ships_itself_are_refused() {
    let mut two = Two::new();
    two.start_shipper();
    let refused = run("a second service", shipper_command(&two.site), VERB_MAX).bad();
    assert!(refused.err.contains("another shipper's service") && refused.err.contains("next:"), "{}", refused.err);
    two.stop_shipper();
    two.site.start_agent();
    two.site.wait_protected();
    let refused = run("a service", shipper_command(&two.site), VERB_MAX).bad();
    assert!(refused.err.contains("ship.lock") && refused.err.contains("--no-shipper"), "{}", refused.err);
}
