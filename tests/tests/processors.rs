//! Four processors on one vault with forty groups: each group has one owner, whoever dies, sleeps or gives up, and is followed again.
//! Someone who has no part in it watches the locks the whole time, and compares the images in the end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::bin;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::process::{Process, run};
use farshore_tests::rounds;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GROUPS: usize = 40;
const TARGETS: usize = 4;
const DISK_BYTES: usize = 1 << 20;
/// How long, at most, until every group is followed again after anything that happens here, on a busy machine.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(240);
/// How long a processor sleeps; minutes at night. Longer than any wait of the others for it.
const ASLEEP_SECONDS: u32 = 20;
const VERB_MAX: Duration = Duration::from_secs(90);

struct World {
    dir: tempfile::TempDir,
    rings: tempfile::TempDir,
    agents: Vec<Process>,
    processors: Vec<Option<Process>>,
}

fn name(group: usize) -> String {
    format!("g{group:02}")
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("farshore-many-").tempdir().unwrap();
        let rings = tempfile::Builder::new().prefix("farshore-test-").tempdir_in("/dev/shm").unwrap();
        let mut world = Self { dir, rings, agents: Vec::new(), processors: (0..TARGETS).map(|_| None).collect() };
        let _ = run("init", bin::farshore(["init", "--vault", &world.vault()]), VERB_MAX).good();
        for group in 0..GROUPS {
            let agent = world.agent(group);
            world.agents.push(agent);
        }
        for (group, agent) in world.agents.iter_mut().enumerate() {
            let _ = agent.expect_line("is served", VERB_MAX);
            agent.wait_for_socket(&world.dir.path().join(format!("{}.sock", name(group))), VERB_MAX);
        }
        world
    }

    fn vault(&self) -> String {
        format!("file://{}", self.dir.path().join("vault").display())
    }

    fn at(&self, what: &str) -> PathBuf {
        self.dir.path().join(what)
    }

    fn agent(&self, group: usize) -> Process {
        let (name, at) = (name(group), self.dir.path().display());
        File::create(self.at(&format!("{name}.raw"))).and_then(|f| f.set_len(DISK_BYTES as u64)).unwrap();
        let text = format!(
            "group = \"{name}\"\nvault = \"{}\"\nstate_dir = \"{at}/{name}.state\"\nrun_dir = \"{at}/{name}.run\"\n\
             ring_dir = \"{}\"\nring_size = \"8MiB\"\nsegment_size = \"1MiB\"\nspool_size = \"16MiB\"\nmax_delay = \"200ms\"\n\
             heartbeat = \"10s\"\nshipper_threads = 1\n\n[[disk]]\nname = \"vda\"\nsource = \"{at}/{name}.raw\"\nlisten = \"unix:{at}/{name}.sock\"\n",
            self.vault(),
            self.rings.path().display(),
        );
        let config = self.at(&format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        Process::start(&format!("agent {name}"), bin::farshore(["run".as_ref(), config.as_os_str()]))
    }

    fn target(&self, n: usize) -> PathBuf {
        self.at(&format!("target{n}"))
    }

    fn start(&mut self, n: usize) {
        let (vault, target) = (self.vault(), self.target(n).display().to_string());
        let limit = (GROUPS / TARGETS).to_string();
        let args = ["process", "--vault", &vault, "--target", &target, "--max-groups", &limit, "--poll", "200ms"];
        self.processors[n] = Some(Process::start(&format!("processor {n}"), bin::farshore(args)));
    }

    fn signal(&self, n: usize, signal: Signal) {
        let pid = self.processors[n].as_ref().expect("it runs").pid();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn image(&self, n: usize, group: usize) -> PathBuf {
        self.target(n).join(name(group)).join("vda.raw")
    }

    /// The target that has the group's lock; who has none is nobody's now.
    fn owners(&self, group: usize) -> Vec<usize> {
        (0..TARGETS).filter(|&n| is_locked(&self.target(n).join(name(group)).join("lock"))).collect()
    }

    /// Writes to every disk.
    fn write(&self, seed: u8) {
        for group in 0..GROUPS {
            let mut client = Client::open(&self.at(&format!("{}.sock", name(group))), "vda").unwrap();
            let block = vec![seed.wrapping_mul(31).wrapping_add(group as u8) | 1; 64 << 10];
            client.write(u64::from(seed % 16) * (64 << 10), &block).unwrap();
            client.flush().unwrap();
        }
    }

    /// Waits until the groups for which `of` says so equal their sources at the target that has them.
    fn wait_followed(&self, what: &str, of: impl Fn(usize) -> bool) -> Duration {
        let begun = clock::mono();
        let mut left: Vec<usize> = (0..GROUPS).filter(|&group| of(group)).collect();
        while !left.is_empty() {
            assert!(clock::mono() - begun < FOLLOWED_WITHIN, "{what}: groups {left:?} are not followed");
            left.retain(|&group| {
                let source = durable::digest(&self.at(&format!("{}.raw", name(group))));
                !self.owners(group).iter().any(|&n| {
                    let image = self.image(n, group);
                    image.exists() && durable::digest(&image) == source
                })
            });
            clock::sleep(Duration::from_millis(200));
        }
        let took = clock::mono() - begun;
        println!("{what}: followed after {:.1} s", took.as_secs_f64());
        took
    }
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

#[test]
fn forty_groups_and_four_processors_of_which_one_dies_and_one_sleeps() {
    let mut world = World::new();
    world.write(1);
    for n in 0..TARGETS {
        world.start(n);
    }
    world.wait_followed("started at once", |_| true);
    let owners: Vec<usize> = (0..GROUPS).map(|group| world.owners(group)[0]).collect();
    for n in 0..TARGETS {
        assert_eq!(owners.iter().filter(|&&owner| owner == n).count(), GROUPS / TARGETS, "{owners:?}");
    }
    let over = AtomicBool::new(false);
    let targets: Vec<PathBuf> = (0..TARGETS).map(|n| world.target(n)).collect();
    std::thread::scope(|scope| {
        // Nobody else's: what it finds is never two. (A lock that moves between two looks is seen at most once.)
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Acquire) {
                for group in 0..GROUPS {
                    let held = |target: &PathBuf| is_locked(&target.join(name(group)).join("lock"));
                    let holders = || targets.iter().filter(|target| held(target)).count();
                    assert!(holders() <= 1 || holders() <= 1, "two targets hold {}", name(group));
                }
                looks += 1;
                clock::sleep(Duration::from_millis(100));
            }
            looks
        });

        // One is killed, and comes back to its groups; nobody takes them meanwhile.
        world.signal(0, Signal::SIGKILL);
        drop(world.processors[0].take());
        world.write(2);
        world.wait_followed("one is dead", |group| owners[group] != 0);
        world.start(0);
        world.wait_followed("it is back", |_| true);

        // One sleeps: its groups wait for it, and are nobody else's.
        world.signal(1, Signal::SIGSTOP);
        world.write(3);
        world.wait_followed("one sleeps", |group| owners[group] != 1);
        clock::sleep(Duration::from_secs(rounds::count("FARSHORE_ASLEEP_SECONDS", ASLEEP_SECONDS).into()));
        let theirs: Vec<usize> = (0..GROUPS).filter(|&group| owners[group] == 1).collect();
        for &group in &theirs {
            let elsewhere = (0..TARGETS).filter(|&n| n != 1 && world.image(n, group).exists()).count();
            assert_eq!(elsewhere, 0, "{} has moved", name(group));
        }
        world.signal(1, Signal::SIGCONT);
        world.wait_followed("it is awake", |_| true);

        // One group moves, by word.
        let moved = (0..GROUPS).find(|&group| owners[group] == 2).unwrap();
        let verb = |verb: &str, n: usize| {
            let (vault, target, group) = (world.vault(), world.target(n).display().to_string(), name(moved));
            run(verb, bin::farshore([verb, &group, "--vault", &vault, "--target", &target]), VERB_MAX)
        };
        let refused = verb("adopt", 3).bad();
        assert!(refused.err.contains("farshore release"), "{}", refused.err);
        let _ = verb("release", 2).good();
        let left = durable::digest(&world.image(2, moved));
        let _ = verb("adopt", 3).good();
        world.write(4);
        world.wait_followed("one group has moved", |_| true);
        assert_eq!(world.owners(moved), [3]);
        assert_eq!(durable::digest(&world.image(2, moved)), left, "the target that gave it up wrote to it");

        over.store(true, Ordering::Release);
        assert!(watcher.join().unwrap() > 10);
    });
}
