//! A line to another site: real TCP through a guest that routes, whose kernel delays, loses and limits what it passes on (`sch_netem`).
//! Its near end is a network namespace of its own in which commands are run; its far end is this machine.
//!
//! A proxy would not do: it ends the connections, and so hides loss from them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::deps;
use crate::guest::{Guest, GuestSpec};
use crate::process;

/// The networks at both ends, of which this machine is not likely to know others: the router is `.1` in each, whoever uses it `.2`.
const NEAR: &str = "10.213.1";
const FAR: &str = "10.213.2";
/// Packets in one direction, under way or in the queue: more than twice those of a round trip of 50 ms at 100 Mbit/s.
const PACKETS_MAX: u32 = 1000;
/// A program of iproute2 ends at once.
const COMMAND_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// One line at a time: its networks have one address.
static ONE: Mutex<()> = Mutex::new(());

/// The router: sets every line it reads as the qdisc of both ways. (busybox has a `tc` of its own, without netem.)
const ROUTER: &str = r#"
for n in 0 1; do
    /bin/ethtool -K eth$n gro off || exit 1
    /bin/tc qdisc add dev eth$n root netem || exit 1
done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo routes
while read -r how; do
    for n in 0 1; do
        /bin/tc qdisc change dev eth$n root netem $how || exit 1
    done
    echo set
done
"#;

/// What a line does to packets, each way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Bits a second, with all headers.
    pub bits_per_second: u64,
    /// Of both ways together.
    pub round_trip: Duration,
    /// Of all packets, in percent.
    pub loss_percent: f64,
}

/// A line that stands until it is dropped.
pub struct Line {
    router: Guest,
    namespace: String,
    near: String,
    far: String,
    _alone: MutexGuard<'static, ()>,
}

fn ip(args: &[&str]) -> process::Finished {
    let mut ip = Command::new("ip");
    ip.args(args);
    process::run(&format!("ip {}", args.join(" ")), ip, COMMAND_MAX)
}

fn of_system(name: &str) -> PathBuf {
    let found = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: scripts/install-test-deps.sh installs it"))
}

impl Line {
    /// A line like this. Connections from its near end take `congestion` as their way to deal with loss.
    ///
    /// # Panics
    /// When this is not root, or the guest does not boot.
    #[must_use]
    pub fn of(quality: Quality, congestion: &str) -> Self {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        let (namespace, near, far) = (format!("farshore{pid}"), format!("fsn{pid}"), format!("fsf{pid}"));
        for tap in [&near, &far] {
            let _ = ip(&["tuntap", "add", tap, "mode", "tap"]).good();
        }
        let router = Guest::boot(
            "the router",
            &GuestSpec {
                script: Self::script(),
                programs: vec![of_system("tc"), deps::cache().join("ethtool/sbin/ethtool")],
                modules: vec!["sch_netem"],
                taps: vec![near.clone(), far.clone()],
                ..GuestSpec::default()
            },
        );
        let mut line = Self { router, namespace, near: near.clone(), far, _alone: alone };
        line.router.expect("routes", ANSWER_MAX);
        let _ = ip(&["netns", "add", &line.namespace]).good();
        let _ = ip(&["link", "set", &near, "netns", &line.namespace]).good();
        line.in_namespace(&["ip", "link", "set", "lo", "up"]);
        line.in_namespace(&["ip", "addr", "add", &format!("{NEAR}.2/24"), "dev", &near]);
        line.in_namespace(&["ip", "link", "set", &near, "up"]);
        line.in_namespace(&["ip", "route", "add", "default", "via", &format!("{NEAR}.1"), "congctl", congestion]);
        let _ = ip(&["addr", "add", &format!("{FAR}.2/24"), "dev", &line.far]).good();
        let _ = ip(&["link", "set", &line.far, "up"]).good();
        let _ = ip(&["route", "add", &format!("{NEAR}.0/24"), "via", &format!("{FAR}.1")]).good();
        line.set(quality);
        line
    }

    fn script() -> String {
        let mut script = String::new();
        for (n, network) in [NEAR, FAR].iter().enumerate() {
            let _ = writeln!(script, "ip addr flush dev eth{n}");
            let _ = writeln!(script, "ip addr add {network}.1/24 dev eth{n} && ip link set eth{n} up || exit 1");
        }
        script + ROUTER
    }

    fn in_namespace(&self, args: &[&str]) {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]);
        let _ = process::run(&args.join(" "), self.near(command), COMMAND_MAX).good();
    }

    /// The command, run at the near end, where nothing else of this machine can be reached but files and unix sockets.
    #[must_use]
    pub fn near(&self, command: Command) -> Command {
        let mut within = Command::new("nsenter");
        within.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(command.get_program());
        within.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }

    /// This machine's address as it is seen from the near end.
    #[must_use]
    pub fn far_address(&self) -> String {
        format!("{FAR}.2")
    }

    /// Makes it like this from now on.
    ///
    /// # Panics
    /// When the router does not answer.
    pub fn set(&mut self, quality: Quality) {
        let delay = quality.round_trip.as_secs_f64() * 500.0;
        let (loss, rate) = (quality.loss_percent, quality.bits_per_second);
        self.router.say(&format!("delay {delay}ms loss {loss}% rate {rate}bit limit {PACKETS_MAX}"));
        self.router.expect("set", ANSWER_MAX);
    }

    /// Nothing comes through any more, in either direction, and nobody is told.
    ///
    /// # Panics
    /// When the router does not answer.
    pub fn cut(&mut self) {
        self.router.say(&format!("loss 100% limit {PACKETS_MAX}"));
        self.router.expect("set", ANSWER_MAX);
    }

    /// Bytes that came out at the far end, with all headers.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn carried_up(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/rx_bytes", self.far);
        std::fs::read_to_string(path).expect("the far end is there").trim().parse().expect("a number")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.router.kill();
        // The near end goes with its namespace, unless the test failed before it was there.
        for args in [["netns", "del", &self.namespace], ["link", "del", &self.near], ["link", "del", &self.far]] {
            let mut ip = Command::new("ip");
            let _ = ip.args(args).output();
        }
    }
}
