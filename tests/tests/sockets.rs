//! A source opens no door: the process that serves disks talks to nobody but over unix sockets, in whatever state it is started;
//! its children connect outwards to the store; and nothing of it listens on the network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::client::Client;
use farshore_tests::site::{CATCH_UP_MAX, Site, SiteSpec};
use farshore_tests::stores::{Kind, StoreServer};
use farshore_tests::syscalls::{Program, listeners, of_group, programs, traced};

const DISK_BYTES: u64 = 8 << 20;

/// A site whose source runs under strace; its accounts in the order of its starts.
struct Watched {
    site: Site,
    accounts: Vec<PathBuf>,
}

impl Watched {
    fn start(&mut self) {
        let account = self.site.path(&format!("account-{}", self.accounts.len()));
        self.site.start_agent_as(traced(&self.site.agent_command(), &account));
        self.accounts.push(account);
        self.site.wait_protected();
        self.write(self.accounts.len() as u64);
    }

    fn write(&mut self, round: u64) {
        let mut client = Client::open(&self.site.disks[0].socket, "vda").expect("the agent serves its disk");
        client.write(round << 16, &[round as u8; 5000]).expect("a write");
        client.flush().expect("a flush");
        let newest = self.site.newest();
        self.site.wait_shipped(newest);
    }

    /// No process of the running source listens on TCP or UDP; the store beside it does, which shows that `ss` would tell.
    fn assert_nothing_listens(&mut self, store: i32) {
        let (all, leader) = (listeners(), self.site.agent().pid());
        let of =
            |pid: &i32| all.iter().filter(|line| line.contains(&format!("pid={pid},"))).cloned().collect::<Vec<_>>();
        assert!(!of(&store).is_empty(), "ss does not name the store: {all:#?}");
        let source = of_group(leader);
        assert!(source.len() >= 2, "agent and shipper are expected in {source:?}");
        assert_eq!(source.iter().flat_map(of).collect::<Vec<_>>(), [""; 0], "of the source {source:?}");
    }
}

/// The one program with these words among its arguments.
fn the<'a>(programs: &'a [Program], words: &[&str]) -> Vec<&'a Program> {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    programs.iter().filter(|p| quoted.iter().all(|word| p.arguments.contains(word))).collect()
}

/// Of an account: the agent opened unix sockets only, its shipper connected outwards. Gives how many children looked at the vault.
#[track_caller]
fn assert_outbound_by_children_only(account: &Path) -> usize {
    let programs = programs(account);
    let agents = the(&programs, &["run"]);
    let [agent] = agents[..] else { panic!("one agent is expected in {programs:#?}") };
    assert_eq!(agent.network(), [""; 0], "the process that serves disks went to the network");
    assert!(agent.sockets.iter().any(|line| line.starts_with("socket(AF_UNIX")), "its exports: {:#?}", agent.sockets);
    let shippers = the(&programs, &["ship", "--child"]);
    assert!(!shippers.is_empty(), "a shipper is expected in {programs:#?}");
    let connected =
        |p: &&Program| p.sockets.iter().any(|line| line.starts_with("connect(") && line.contains("AF_INET"));
    assert!(shippers.iter().any(connected), "no shipper connected: {shippers:#?}");
    for program in &programs {
        let binds = |line: &&&str| line.starts_with("bind(") && line.contains("AF_INET");
        assert_eq!(program.network().iter().filter(binds).count(), 0, "{program:#?}");
    }
    let lookers = the(&programs, &["ship", "--look"]);
    assert!(lookers.iter().all(connected), "who looks at the vault connects: {lookers:#?}");
    lookers.len()
}

#[test]
fn the_process_that_serves_disks_opens_no_network_socket() {
    let store = StoreServer::start(Kind::Moto);
    let access = Some((store.url("dr"), store.environment()));
    let site = Site::new(SiteSpec { disks: vec![DISK_BYTES], store: access, ..SiteSpec::default() });
    let mut watched = Watched { site, accounts: Vec::new() };

    // The first start enables the group. A processor runs only until the replication is over.
    watched.site.start_processor();
    watched.start();
    watched.assert_nothing_listens(store.pid());

    // After a crash, with the ring there, and with it lost.
    watched.site.kill_agent();
    watched.start();
    watched.site.lose_source();
    std::fs::remove_file(&watched.site.ring).unwrap();
    watched.start();
    watched.assert_nothing_listens(store.pid());

    // And when everything is asked for, in a new epoch that the agent has to open.
    let before = watched.site.newest().epoch;
    let config = watched.site.config.display().to_string();
    let _ = watched.site.verb(["resync", &config, "--full"]).good();
    // The ring is away for a moment meanwhile, so it is not what to look at.
    let _ = watched.site.agent().expect_line("every disk is copied again", CATCH_UP_MAX);
    watched.site.wait_protected();
    watched.write(9);
    watched.assert_nothing_listens(store.pid());
    assert!(watched.site.newest().epoch > before);
    watched.site.stop_agent();
    // strace has seen the end of the agent and writes the rest of what it saw.
    clock::sleep(Duration::from_millis(500));

    let looks: Vec<usize> = watched.accounts.iter().map(|account| assert_outbound_by_children_only(account)).collect();
    println!("looks at the vault by children, of each start: {looks:?}");
    assert!(looks[0] > 0, "the first start asks the vault through a child: {looks:?}");
    assert!(looks[2] > 1, "a lost ring and `resync --full` ask through one: {looks:?}");
}
