//! Object stores as they are run elsewhere: each a real server of its own, started on a free port with an empty folder.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_changelog::clock;
use nix::sys::signal::Signal;

use crate::process::{self, Finished, Process};

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

/// What a SeaweedFS has besides an administrator and a plain bucket.
#[derive(Debug, Default, Clone)]
pub struct Extra {
    /// Users, each with a policy in the language of IAM. A user's secret is its name and `-secret`.
    pub users: Vec<(String, String)>,
    /// The bucket keeps what is overwritten or deleted, and nobody can delete what was put there within a day.
    pub locked: bool,
    /// It listens on every address of this machine.
    pub everywhere: bool,
}

/// A server that runs, with a bucket that is empty.
pub struct StoreServer {
    kind: Kind,
    extra: Extra,
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
        Self::start_with(kind, Extra::default())
    }

    /// Starts a SeaweedFS with more than usual.
    ///
    /// # Panics
    /// As [`StoreServer::start`].
    #[must_use]
    pub fn seaweed(extra: Extra) -> Self {
        Self::start_with(Kind::Seaweed, extra)
    }

    fn start_with(kind: Kind, extra: Extra) -> Self {
        let alone = (kind == Kind::Seaweed).then(|| ONE_SEAWEED.lock().unwrap_or_else(PoisonError::into_inner));
        let port = free_ports();
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { kind, extra, process: None, port, dir, _alone: alone };
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
                std::fs::write(&config, self.extra.identities().to_string()).unwrap();
                let data = dir.join("data");
                std::fs::create_dir_all(&data).unwrap();
                let mut weed = Command::new(installed("bin/weed"));
                weed.args(["server", "-ip=127.0.0.1", "-s3", "-volume.max=64", "-master.volumeSizeLimitMB=256"]);
                weed.arg(if self.extra.everywhere { "-ip.bind=0.0.0.0" } else { "-ip.bind=127.0.0.1" });
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
            Kind::Seaweed | Kind::Moto => {
                let client = self.s3_client(KEY, SECRET);
                let locked = if self.extra.locked { LOCK } else { "" };
                let lock = if self.extra.locked { "True" } else { "False" };
                format!("{client}\ns3.create_bucket(Bucket='{BUCKET}',ObjectLockEnabledForBucket={lock})\n{locked}")
            }
            Kind::Azurite => format!(
                "from azure.storage.blob import BlobServiceClient\n\
                 BlobServiceClient('{}',credential='{AZURITE_KEY}').create_container('{BUCKET}')",
                self.endpoint()
            ),
        };
        // It listens before it is ready.
        let end = clock::mono() + START_MAX;
        loop {
            let made = python(&script);
            if made.status.success() {
                return;
            }
            assert!(clock::mono() < end, "the bucket cannot be made: {}", made.err);
            clock::sleep(LOOK);
        }
    }

    /// The beginning of a Python script: `s3`, a client with these keys, and `bucket`.
    fn s3_client(&self, key: &str, secret: &str) -> String {
        format!(
            "import boto3\nfrom botocore.config import Config\nbucket='{BUCKET}'\n\
             s3=boto3.client('s3',endpoint_url='{}',aws_access_key_id='{key}',aws_secret_access_key='{secret}',region_name='us-east-1',config=Config(retries={{'max_attempts':1}}))",
            self.endpoint()
        )
    }

    /// Runs a script of Amazon's own client, which has `s3` and `bucket`, as the administrator or as a user of [`Extra`].
    #[must_use]
    pub fn script(&self, user: Option<&str>, script: &str) -> Finished {
        let (key, secret) = user.map_or((KEY.to_owned(), SECRET.to_owned()), of_user);
        python(&format!("{}\n{script}", self.s3_client(&key, &secret)))
    }

    /// What the environment of this user of [`Extra`] must say.
    #[must_use]
    pub fn environment_of(&self, user: &str) -> Vec<(String, String)> {
        let (key, secret) = of_user(user);
        let mut all = self.environment();
        for (name, value) in &mut all {
            match name.as_str() {
                "AWS_ACCESS_KEY_ID" => value.clone_from(&key),
                "AWS_SECRET_ACCESS_KEY" => value.clone_from(&secret),
                _ => {}
            }
        }
        all
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

/// What makes a bucket refuse to delete.
const LOCK: &str = "s3.put_object_lock_configuration(Bucket=bucket,ObjectLockConfiguration={'ObjectLockEnabled':'Enabled',\
'Rule':{'DefaultRetention':{'Mode':'COMPLIANCE','Days':1}}})";

/// The keys of a user of [`Extra`].
fn of_user(name: &str) -> (String, String) {
    (name.to_owned(), format!("{name}-secret"))
}

impl Extra {
    /// The administrator and the users, as SeaweedFS reads them.
    fn identities(&self) -> serde_json::Value {
        let user = |name: &str, (key, secret): (String, String)| serde_json::json!({"name": name, "credentials": [{"accessKey": key, "secretKey": secret}]});
        let mut all = vec![user("test", (KEY.to_owned(), SECRET.to_owned()))];
        all[0]["actions"] = serde_json::json!(["Admin", "Read", "Write", "List", "Tagging"]);
        let policies = self.users.iter().map(|(name, policy)| serde_json::json!({"name": name, "content": policy}));
        all.extend(self.users.iter().map(|(name, _)| {
            let mut user = user(name, of_user(name));
            user["policyNames"] = serde_json::json!([name]);
            user
        }));
        serde_json::json!({"identities": all, "policies": policies.collect::<Vec<_>>()})
    }
}

/// Runs a Python script with the clients that were installed beside the servers.
fn python(script: &str) -> Finished {
    let mut python = Command::new(installed("bin/python"));
    python.args(["-c", script]);
    process::run("python", python, START_MAX)
}

/// Distances of SeaweedFS's ports from the first: S3, master, volume, filer, and their gRPC ports.
const SEAWEED_PORTS: [u16; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.kill();
    }
}
