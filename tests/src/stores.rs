//! Object stores as they are run elsewhere: each a real server of its own, started on a free port with an empty folder.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_changelog::clock;
use nix::sys::signal::Signal;

use crate::process::{self, Process};

/// Name of the bucket or container that each has.
const BUCKET: &str = "vault";
/// Keys that are no secret.
const KEY: &str = "farshore-test";
const SECRET: &str = "farshore-test-secret";
/// Azurite's well-known account.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Longest wait for a server to answer, on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SeaweedFS, a distributed store with an S3 front.
    Seaweed,
    /// Azure's own emulator of Blob Storage.
    Azurite,
    /// moto's S3.
    Moto,
    /// `rclone serve s3`, which takes conditional puts and ignores the condition.
    Rclone,
}

/// A server that runs, with a bucket that is empty.
pub struct StoreServer {
    kind: Kind,
    process: Option<Process>,
    port: u16,
    dir: tempfile::TempDir,
    /// Of a SeaweedFS: two of them on one machine were seen to end each other.
    _alone: Option<MutexGuard<'static, ()>>,
}

static ONE_SEAWEED: Mutex<()> = Mutex::new(());

/// The folder into which `scripts/install-test-deps.sh` has put the servers.
fn installed(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cache = std::env::var_os("FARSHORE_TEST_CACHE").map_or_else(|| root.join("target/test-cache"), PathBuf::from);
    let path = cache.join("stores").join(file);
    assert!(path.exists(), "{} is missing: scripts/install-test-deps.sh installs it", path.display());
    path
}

/// Ports are taken from here on: below those that the kernel gives to connections.
const PORTS_FROM: u16 = 20_000;
const PORTS: u16 = 10_000;

/// The first of some ports that are free and follow each other. Not the same for two servers of one test program, which listen only after
/// a while.
fn free_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(PORTS)).expect("it is below that");
    let count = SEAWEED_PORTS.len() as u16;
    for _ in 0..PORTS / count {
        let nth = TAKEN.fetch_add(count, Ordering::Relaxed);
        let first = PORTS_FROM + own.wrapping_mul(count).wrapping_add(nth) % PORTS;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports");
}

impl StoreServer {
    /// Starts one.
    ///
    /// # Panics
    /// When it is not installed, or does not answer.
    #[must_use]
    pub fn start(kind: Kind) -> Self {
        let alone = (kind == Kind::Seaweed).then(|| ONE_SEAWEED.lock().unwrap_or_else(PoisonError::into_inner));
        let port = free_ports();
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { kind, process: None, port, dir, _alone: alone };
        server.restart();
        server.make_bucket();
        server
    }

    /// Starts it again over the same folder and port, after [`StoreServer::kill`].
    pub fn restart(&mut self) {
        let command = self.command();
        let mut process = Process::start("store", command);
        let port = self.port;
        process.wait_until("the store answers", START_MAX, || TcpStream::connect(("127.0.0.1", port)).ok());
        self.process = Some(process);
    }

    /// The process id of the server.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_all();
        }
    }

    /// Lets it stand still for a while: connections stay, and nothing is answered.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self, how_long: Duration) {
        let process = self.process.as_ref().expect("it runs");
        process.signal(Signal::SIGSTOP);
        clock::sleep(how_long);
        process.signal(Signal::SIGCONT);
    }

    fn command(&self) -> Command {
        let (port, dir) = (self.port.to_string(), self.dir.path());
        match self.kind {
            Kind::Seaweed => {
                let config = dir.join("s3.json");
                let identity = format!(
                    r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
                );
                std::fs::write(&config, identity).unwrap();
                let data = dir.join("data");
                std::fs::create_dir_all(&data).unwrap();
                let mut weed = Command::new(installed("bin/weed"));
                weed.args([
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-s3",
                    "-volume.max=20",
                    "-master.volumeSizeLimitMB=256",
                ]);
                weed.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
                for (name, distance) in
                    ["s3.port", "master.port", "volume.port", "filer.port"].iter().zip(SEAWEED_PORTS)
                {
                    weed.arg(format!("-{name}={}", self.port + distance));
                }
                for (name, distance) in ["s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc"]
                    .iter()
                    .zip(&SEAWEED_PORTS[4..])
                {
                    weed.arg(format!("-{name}={}", self.port + distance));
                }
                weed
            }
            Kind::Azurite => {
                let mut azurite = Command::new(installed("node_modules/.bin/azurite-blob"));
                azurite.args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--skipApiVersionCheck", "--silent"]);
                azurite.arg("--location").arg(dir);
                azurite
            }
            Kind::Moto => {
                let mut moto = Command::new(installed("bin/moto_server"));
                moto.args(["-p", &port]);
                moto
            }
            Kind::Rclone => {
                std::fs::create_dir_all(dir.join(BUCKET)).unwrap();
                let mut rclone = Command::new(installed("bin/rclone"));
                rclone.args([
                    "serve",
                    "s3",
                    "--addr",
                    &format!("127.0.0.1:{port}"),
                    "--auth-key",
                    &format!("{KEY},{SECRET}"),
                ]);
                rclone.arg(dir);
                rclone
            }
        }
    }

    fn make_bucket(&self) {
        let script = match self.kind {
            Kind::Rclone => return,
            Kind::Seaweed | Kind::Moto => format!(
                "import boto3\nfrom botocore.config import Config\n\
                 s3=boto3.client('s3',endpoint_url='{}',aws_access_key_id='{KEY}',aws_secret_access_key='{SECRET}',region_name='us-east-1',config=Config(retries={{'max_attempts':1}}))\n\
                 s3.create_bucket(Bucket='{BUCKET}')",
                self.endpoint()
            ),
            Kind::Azurite => format!(
                "from azure.storage.blob import BlobServiceClient\n\
                 BlobServiceClient('{}',credential='{AZURITE_KEY}').create_container('{BUCKET}')",
                self.endpoint()
            ),
        };
        // It listens before it is ready.
        let end = clock::mono() + START_MAX;
        loop {
            let mut python = Command::new(installed("bin/python"));
            python.args(["-c", &script]);
            let made = process::run("make the bucket", python, START_MAX);
            if made.status.success() {
                return;
            }
            assert!(clock::mono() < end, "the bucket cannot be made: {}", made.err);
            clock::sleep(LOOK);
        }
    }

    fn endpoint(&self) -> String {
        match self.kind {
            Kind::Azurite => format!("http://127.0.0.1:{}/{AZURITE_ACCOUNT}", self.port),
            Kind::Seaweed | Kind::Moto | Kind::Rclone => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a vault in it, under `prefix`.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        let scheme = if self.kind == Kind::Azurite { "az" } else { "s3" };
        format!("{scheme}://{BUCKET}/{prefix}")
    }

    /// What the environment of whoever uses it must say.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = self.endpoint();
        let set: &[(&str, &str)] = match self.kind {
            Kind::Azurite => &[
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY),
                ("AZURE_STORAGE_ENDPOINT", &endpoint),
                ("AZURE_ALLOW_HTTP", "true"),
            ],
            Kind::Seaweed | Kind::Moto | Kind::Rclone => &[
                ("AWS_ACCESS_KEY_ID", KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ENDPOINT_URL", &endpoint),
                ("AWS_ALLOW_HTTP", "true"),
            ],
        };
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

/// Distances of SeaweedFS's ports from the first: S3, master, volume, filer, and their gRPC ports.
const SEAWEED_PORTS: [u16; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.kill();
    }
}
