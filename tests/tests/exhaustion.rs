//! No descriptors left, no threads left, a thousand handshakes that nobody finishes: what is open goes on, what is new is
//! refused or waits, and when there is room again everything is as before.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::client::{Client, Socket};
use farshore_tests::pattern::Rng;
use farshore_tests::process::{self, Process};
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};

const MIB: u64 = 1 << 20;
const ENGINES: [&str; 2] = ["io-uring", "thread-pool"];
/// Connections of one listener, negotiating or serving.
const CONNECTIONS_MAX: usize = 100;
/// How long a handshake may take, with some slack.
const HANDSHAKE_MAX: Duration = Duration::from_secs(14);
/// The longest a request of the open connection may take meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Descriptors that one process may have open for itself beside its connections: disks, maps, ring, engines, sockets.
const OWN_DESCRIPTORS_MAX: usize = 60;
/// Part of one core that an agent may use while it can accept nobody.
const IDLE_SHARE_MAX: f64 = 0.2;

fn site(engine: &str) -> Site {
    let config = format!("engine = \"{engine}\"");
    // Not encrypted: the agent runs as another user too, who has no key.
    Site::new(SiteSpec { disks: vec![16 * MIB], config, plain: true, ..SiteSpec::default() })
}

/// The descriptors that a process has open, once they have been the same for a while.
fn open_descriptors(process: &mut Process) -> BTreeSet<u32> {
    let pid = process.pid();
    let list = || -> BTreeSet<u32> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the agent lives");
        entries.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    process.wait_until("rest", VERB_MAX, || {
        let before = list();
        clock::sleep(Duration::from_millis(300));
        (list() == before).then_some(before)
    })
}

/// Sets a limit of a running process: `nofile` or `nproc`, the soft one.
fn limit(pid: i32, what: &str, most: u32) {
    let mut command = as_user_of(pid, Command::new("prlimit"));
    command.args([format!("--pid={pid}"), format!("--{what}={most}:")]);
    let _ = process::run("prlimit", command, VERB_MAX).good();
}

/// A limit of a running process as /proc names it.
fn soft_limit(pid: i32, name: &str) -> u32 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the agent lives");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit of that name");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(1000)
}

/// A command as the user of a running process: only that user may change its limits.
fn as_user_of(pid: i32, command: Command) -> Command {
    let uid = std::fs::metadata(format!("/proc/{pid}")).expect("the agent lives").uid();
    as_user(uid, command)
}

fn as_user(uid: u32, command: Command) -> Command {
    if nix::unistd::geteuid().as_raw() == uid {
        return command;
    }
    let mut other = Command::new("setpriv");
    other.args(["--reuid", &uid.to_string(), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    other.arg(command.get_program()).args(command.get_args());
    other
}

/// Processor time of a process so far, in seconds (proc_pid_stat(5): fields 14 and 15, in ticks of 10 ms).
fn processor_time(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent lives");
    let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |n: usize| fields[n - 3].parse::<f64>().expect("a number of ticks");
    (ticks(14) + ticks(15)) / 100.0
}

/// Writes, reads back and flushes, each within [`ANSWER_MAX`].
#[track_caller]
fn works(client: &mut Client, seed: u64) {
    let began = clock::mono();
    let (at, data) = (seed * 70_001 % (8 * MIB), Rng::new(seed).bytes(9000));
    client.write(at, &data).unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(at, 9000).unwrap(), data);
    assert!(began.elapsed() < ANSWER_MAX, "it took {:?}", began.elapsed());
}

fn assert_all_is_well(mut site: Site) {
    let newest = site.newest();
    site.wait_shipped(newest);
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

/// Whether a new connection is greeted within `time`.
fn is_greeted(stream: &mut UnixStream, time: Duration) -> bool {
    stream.patience(time).unwrap();
    stream.read_exact(&mut [0; 18]).is_ok()
}

#[test]
fn without_a_descriptor_the_open_connection_lives_and_new_ones_wait() {
    for engine in ENGINES {
        let mut site = site(engine);
        site.start_agent();
        site.wait_protected();
        let socket = site.disks[0].socket.clone();
        let mut vm = Client::open(&socket, "vda").unwrap();
        works(&mut vm, 1);
        let (open, pid) = (open_descriptors(site.agent()), site.agent().pid());
        assert!(open.len() < OWN_DESCRIPTORS_MAX, "{open:?} with one client");
        // The limit is on the number of a new descriptor, and the lowest that is free is taken.
        let before = soft_limit(pid, "Max open files");
        limit(pid, "nofile", (0..).find(|n| !open.contains(n)).unwrap());

        let mut late: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let mut asking = Process::start(
            "farshore status",
            farshore_tests::bin::farshore(["status".as_ref(), site.config.as_os_str()]),
        );
        // The accept that was under way may have kept the limit of before.
        let greeted =
            late.iter_mut().map_while(|stream| is_greeted(stream, Duration::from_secs(2)).then_some(())).count();
        assert!(greeted <= 1, "{engine}: there were descriptors left for {greeted}");
        late.drain(..greeted);
        let (began, used) = (clock::mono(), processor_time(pid));
        for seed in 2..22 {
            works(&mut vm, seed);
            clock::sleep(Duration::from_millis(50));
        }
        clock::sleep(Duration::from_secs(1));
        let share = (processor_time(pid) - used) / began.elapsed().as_secs_f64();
        assert!(share < IDLE_SHARE_MAX, "{engine}: the agent turns in circles: {share:.2} of a core");
        // A shipper that dies is started again when it can be; the ring holds what is written.
        site.kill_shipper();
        for seed in 22..30 {
            works(&mut vm, seed);
            clock::sleep(Duration::from_millis(100));
        }

        limit(pid, "nofile", before);
        // Those who waited are greeted, in the order of the accepts that failed; and who asked is answered.
        for stream in &mut late {
            assert!(is_greeted(stream, Duration::from_secs(10)), "{engine}: who waited is not served");
        }
        let asked = asking.wait(VERB_MAX);
        assert!(asked.success() || asked.code() == Some(1), "{asked}");
        works(&mut Client::open(&socket, "vda").unwrap(), 30);
        works(&mut vm, 31);
        drop((late, vm));
        assert_all_is_well(site);
    }
}

/// The agent as a user whose threads are counted: root's are not.
fn agent_of_a_counted_user(site: &Site) -> Command {
    let command = site.agent_command();
    if !nix::unistd::geteuid().is_root() {
        return command;
    }
    const NOBODY: u32 = 65_534;
    let chown = |path: &Path| {
        let mut chown = Command::new("chown");
        chown.arg("-R").arg(NOBODY.to_string()).arg(path);
        let _ = process::run("chown", chown, VERB_MAX).good();
    };
    chown(site.config.parent().expect("it lies in the site's folder"));
    chown(site.ring.parent().expect("it lies in a folder of its own"));
    as_user(NOBODY, command)
}

#[test]
fn without_a_thread_to_be_had_the_open_connection_lives() {
    for engine in ENGINES {
        let mut site = site(engine);
        let command = agent_of_a_counted_user(&site);
        site.start_agent_as(command);
        site.wait_protected();
        let socket = site.disks[0].socket.clone();
        let mut vm = Client::open(&socket, "vda").unwrap();
        // Before its first flush: what that needs must be there already.
        let pid = site.agent().pid();
        let before = soft_limit(pid, "Max processes");
        limit(pid, "nproc", 1);
        for seed in 1..10 {
            works(&mut vm, seed);
        }
        vm.zeroes(MIB, 100_000).unwrap();
        vm.trim(2 * MIB, 100_000).unwrap();
        // The kernel ends helpers that have nothing to do for some seconds.
        clock::sleep(Duration::from_secs(6));
        works(&mut vm, 11);
        // A new connection needs no thread either, and a shipper that died is started when there is one again.
        works(&mut Client::open(&socket, "vda").unwrap(), 12);
        site.kill_shipper();
        works(&mut vm, 13);
        limit(pid, "nproc", before);
        drop(vm);
        assert_all_is_well(site);
    }
}

#[test]
fn a_thousand_half_open_handshakes_are_capped_and_end_after_ten_seconds() {
    let mut sites = ENGINES.map(site);
    let mut open = Vec::new();
    for site in &mut sites {
        site.start_agent();
        site.wait_protected();
        let mut vm = Client::open(&site.disks[0].socket, "vda").unwrap();
        works(&mut vm, 1);
        let before = open_descriptors(site.agent()).len();
        let mut half_open = Vec::new();
        for n in 0..1000 {
            let mut stream = UnixStream::connect(&site.disks[0].socket).unwrap();
            if is_greeted(&mut stream, ANSWER_MAX) {
                half_open.push(stream);
            }
            if n % 100 == 0 {
                works(&mut vm, 2 + n);
            }
        }
        assert!(half_open.len() < CONNECTIONS_MAX, "{} handshakes at a time beside the VM", half_open.len());
        assert!(half_open.len() > CONNECTIONS_MAX / 2, "only {}", half_open.len());
        let held = open_descriptors(site.agent()).len();
        assert!(held <= before + CONNECTIONS_MAX, "{held} descriptors, {before} before");
        open.push((vm, half_open));
    }
    let began = clock::mono();
    for (site, (vm, half_open)) in sites.iter().zip(&mut open) {
        for stream in half_open {
            stream.patience(HANDSHAKE_MAX).unwrap();
            assert!(matches!(stream.read(&mut [0; 64]), Ok(0)), "it is still open");
        }
        assert!(began.elapsed() < HANDSHAKE_MAX, "after {:?}", began.elapsed());
        works(vm, 3000);
        works(&mut Client::open(&site.disks[0].socket, "vda").unwrap(), 3001);
    }
    drop(open);
    sites.into_iter().for_each(assert_all_is_well);
}
