//! The configuration of a source: TOML, proved before it is used.
//!
//! Two types, so that nothing unproved is used by accident: [`File`] is what the text says, [`Config`] what was found good.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use farshore_capture::pace;
use farshore_capture::resync::{FULL_WAIT, THROTTLE_WAIT};
use farshore_capture::server::Listen;
use farshore_capture::tls::identity::Clients;
use farshore_changelog::ids::{DISKS_PER_GROUP_MAX, DiskName, GroupName};
use farshore_changelog::ring;
use farshore_shipper::bandwidth::Bandwidth;
use farshore_shipper::config::{THREADS_MAX, UPLOADS, UPLOADS_MAX};
use farshore_shipper::{Compression, ShipperConfig};
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{Access, Encryption, KeySource, Vault, VaultError};
use nix::sched::CpuSet;
use serde::Deserialize;

use crate::access::{self, AccessPlan, FileTls};
use crate::agent::look::Looker;
use crate::failure::{Next, fail};
use crate::paths;
use crate::units::duration;

/// Ring payload a lane, unless the configuration says otherwise.
pub const RING_BYTES: u64 = 128 << 20;
/// Smallest ring payload a lane: a quarter of it must hold a request of 1 MiB.
const RING_BYTES_MIN: u64 = 8 << 20;
/// Largest ring payload a lane.
const RING_BYTES_MAX: u64 = 64 << 30;
/// Payload of a segment at which it is sealed.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// Age of the oldest record at which a segment is sealed.
pub const MAX_DELAY: Duration = Duration::from_secs(1);
/// Time without a record after which an empty segment says that the source lives.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Bytes of sealed segments that may wait in the spool.
const SPOOL_BYTES: u64 = 1 << 30;
/// Most threads that compress, unless the config says otherwise; half of the cores are left to the guests in any case.
const SHIPPER_THREADS: usize = 4;

/// `compression` as it is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "compression must be \"auto\" or a zstd level from 1 to 19")]
enum FileCompression {
    Level(i32),
    Word(FileCompressionWord),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileCompressionWord {
    Auto,
}

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    group: GroupName,
    vault: String,
    #[serde(default)]
    encryption: FileEncryption,
    key_file: Option<PathBuf>,
    key_command: Option<String>,
    state_dir: Option<PathBuf>,
    spool_dir: Option<PathBuf>,
    ring_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    ring_size: Option<ByteSize>,
    segment_size: Option<ByteSize>,
    spool_size: Option<ByteSize>,
    #[serde(default, with = "duration::option")]
    max_delay: Option<Duration>,
    #[serde(default, with = "duration::option")]
    heartbeat: Option<Duration>,
    compression: Option<FileCompression>,
    shipper_threads: Option<usize>,
    uploads: Option<usize>,
    bandwidth: Option<String>,
    #[serde(default)]
    bandwidth_schedule: BTreeMap<String, String>,
    #[serde(default)]
    on_full: OnFull,
    #[serde(default, with = "duration::option")]
    full_wait: Option<Duration>,
    resync_rate: Option<ByteSize>,
    #[serde(default, with = "duration::option")]
    resync_latency: Option<Duration>,
    #[serde(default)]
    engine: EngineChoice,
    lanes: Option<u32>,
    lane_cpus: Option<Vec<usize>>,
    #[serde(default)]
    listen_uids: Vec<u32>,
    #[serde(default)]
    allow_plain_tcp: bool,
    tls: Option<FileTls>,
    disk: Vec<FileDisk>,
}

/// Whether what leaves this host must be sealed.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileEncryption {
    #[default]
    Required,
    Off,
}

/// What the file says of a disk.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDisk {
    name: DiskName,
    source: PathBuf,
    listen: String,
    tls_clients: Option<Vec<String>>,
}

/// What happens to writes while the ring is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The disk goes on without the log after a short wait; what it misses is copied later.
    #[default]
    Overflow,
    /// Writers are held back, for longer.
    Throttle,
}

/// How disk and socket I/O is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// io_uring, or the thread pool where the kernel refuses it.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// The thread pool.
    ThreadPool,
}

/// A source's configuration, proved.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from, absolute.
    pub path: PathBuf,
    /// The protection group.
    pub group: GroupName,
    /// The vault's URL.
    pub vault: String,
    /// Whether the vault must be encrypted.
    pub encryption: Encryption,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Who looks at it for the agent, and ships.
    pub looker: Looker,
    /// Durable state of the group at the source.
    pub state_dir: PathBuf,
    /// Sealed segments that wait for the vault.
    pub spool_dir: PathBuf,
    /// Where the ring lies (tmpfs).
    pub ring_dir: PathBuf,
    /// Where the control socket lies.
    pub run_dir: PathBuf,
    /// Ring payload a lane, in bytes.
    pub ring_bytes: u64,
    /// Payload of a segment at which it is sealed, in bytes.
    pub segment_bytes: u64,
    /// Limit of the spool, in bytes.
    pub spool_bytes: u64,
    /// Age of the oldest record at which a segment is sealed.
    pub max_delay: Duration,
    /// Time without a record after which a heartbeat is sent.
    pub heartbeat: Duration,
    /// zstd level.
    pub compression: Compression,
    /// Threads that compress.
    pub shipper_threads: usize,
    /// Uploads at once.
    pub uploads: usize,
    /// How fast they go at most, by this machine's clocks.
    pub bandwidth: Bandwidth,
    /// What happens to writes while the ring is full.
    pub on_full: OnFull,
    /// How long a write waits for room in the ring before the disk goes on without the log.
    pub full_wait: Duration,
    /// Most bytes a second that a resync reads; `None`: no limit.
    pub resync_rate: Option<u64>,
    /// A resync slows down when a read of it takes longer than this.
    pub resync_latency: Duration,
    /// How I/O is done.
    pub engine: EngineChoice,
    /// I/O threads.
    pub lanes: u32,
    /// Processors that they are pinned to, in turn; empty: wherever the kernel has room.
    pub lane_cpus: Vec<usize>,
    /// Who may connect to the exports.
    pub listen_access: AccessPlan,
    /// The disks, in index order.
    pub disks: Vec<DiskConfig>,
}

/// One disk of the group.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Its name and export name.
    pub name: DiskName,
    /// The raw file or block device, absolute.
    pub source: PathBuf,
    /// Where its export listens.
    pub listen: Listen,
    /// Whom its export is for, over TLS; `None`: every certificate of the authority.
    pub clients: Option<Clients>,
}

impl Config {
    /// Reads and proves the configuration at `path`. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// What is wrong, where in the file, and what to write instead.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            fail(format!("cannot read the configuration {}", path.display()))
                .because(e)
                .next("give the path of a configuration file; the README shows one")
        })?;
        let file: File = toml::from_str(&text).map_err(|e| {
            fail(format!("the configuration {} is not right", path.display()))
                .because(e)
                .next("correct the line that is named; docs/configuration.md lists every key")
        })?;
        let path = std::path::absolute(path)?;
        Self::prove(file, &path).next(format!("correct {}", path.display()))
    }

    /// Reads the group from the argument of a verb that takes a group or a configuration file.
    ///
    /// # Errors
    /// As [`Config::read`], when the argument names a file.
    pub fn group_of(argument: &str) -> Result<(GroupName, Option<Self>)> {
        if argument.ends_with(".toml") || argument.contains('/') {
            let config = Self::read(Path::new(argument))?;
            return Ok((config.group.clone(), Some(config)));
        }
        Ok((GroupName::new(argument)?, None))
    }

    fn prove(file: File, path: &Path) -> Result<Self> {
        let base = path.parent().unwrap_or(Path::new("/"));
        let at = |p: PathBuf| base.join(p);
        ensure!(!file.disk.is_empty(), "it names no [[disk]]");
        ensure!(
            file.disk.len() <= DISKS_PER_GROUP_MAX,
            "it names {} disks, more than the {DISKS_PER_GROUP_MAX} a group may have",
            file.disk.len()
        );
        let mut names = HashSet::new();
        let mut sources = HashSet::new();
        let mut disks = Vec::new();
        for disk in file.disk {
            ensure!(names.insert(disk.name.clone()), "disk {} is named twice", disk.name);
            let source = at(disk.source);
            ensure!(sources.insert(source.clone()), "{} is the source of two disks", source.display());
            let listen = Listen::parse(&disk.listen, base).map_err(|e| {
                fail(format!("disk {}: cannot listen on {:?}", disk.name, disk.listen))
                    .because(e)
                    .next("write listen = \"unix:/path/to.sock\" or \"tcp:127.0.0.1:10809\"")
            })?;
            let clients = access::clients(disk.tls_clients, file.tls.is_some(), &listen)
                .with_context(|| format!("disk {}: tls_clients", disk.name))?;
            disks.push(DiskConfig { name: disk.name, source, listen, clients });
        }
        let ring_bytes = file.ring_size.map_or(RING_BYTES, |s| s.as_u64());
        ensure!(
            (RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring_bytes) && ring_bytes.is_multiple_of(4096),
            "ring_size must be a multiple of 4 KiB between 8 MiB and 64 GiB, not {}",
            ByteSize(ring_bytes)
        );
        let segment_bytes = file.segment_size.map_or(SEGMENT_BYTES, |s| s.as_u64());
        ensure!(
            (64 << 10..=16 << 20).contains(&segment_bytes) && segment_bytes <= ring_bytes / 2,
            "segment_size must lie between 64 KiB and 16 MiB and be at most half of ring_size, not {}",
            ByteSize(segment_bytes)
        );
        let spool_bytes = file.spool_size.map_or(SPOOL_BYTES, |s| s.as_u64());
        ensure!(
            spool_bytes >= 4 * segment_bytes,
            "spool_size must be at least four times segment_size, not {}",
            ByteSize(spool_bytes)
        );
        let max_delay = file.max_delay.unwrap_or(MAX_DELAY);
        let heartbeat = file.heartbeat.unwrap_or(HEARTBEAT);
        check_max_delay(max_delay)?;
        ensure!(
            heartbeat >= Duration::from_millis(100) && heartbeat <= Duration::from_secs(86_400),
            "heartbeat must lie between 100ms and 24h, not {heartbeat:?}"
        );
        let compression = match file.compression {
            None | Some(FileCompression::Word(FileCompressionWord::Auto)) => Compression::Adaptive,
            Some(FileCompression::Level(level)) => {
                ensure!((1..=19).contains(&level), "compression must be \"auto\" or lie between 1 and 19, not {level}");
                Compression::Level(level)
            }
        };
        let full_wait = file.full_wait.unwrap_or(match file.on_full {
            OnFull::Overflow => FULL_WAIT,
            OnFull::Throttle => THROTTLE_WAIT,
        });
        ensure!(
            full_wait >= Duration::from_millis(1) && full_wait <= Duration::from_secs(600),
            "full_wait must lie between 1ms and 10min, not {full_wait:?}"
        );
        let resync_rate = file.resync_rate.map(|s| s.as_u64());
        ensure!(
            resync_rate.is_none_or(|rate| rate >= 64 << 10),
            "resync_rate must be at least 64 KiB a second; leave it out for no limit"
        );
        let resync_latency = file.resync_latency.unwrap_or(pace::LATENCY);
        ensure!(
            resync_latency >= Duration::from_millis(1) && resync_latency <= Duration::from_secs(10),
            "resync_latency must lie between 1ms and 10s, not {resync_latency:?}"
        );
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let disk_count = u32::try_from(disks.len()).unwrap_or(1);
        let shipper_threads = file.shipper_threads.unwrap_or((cores as usize / 2).clamp(1, SHIPPER_THREADS));
        ensure!(
            (1..=THREADS_MAX).contains(&shipper_threads),
            "shipper_threads must lie between 1 and {THREADS_MAX}, not {shipper_threads}"
        );
        let uploads = file.uploads.unwrap_or(UPLOADS);
        ensure!((1..=UPLOADS_MAX).contains(&uploads), "uploads must lie between 1 and {UPLOADS_MAX}, not {uploads}");
        let hours = file.bandwidth_schedule.iter().map(|(hours, rate)| (hours.as_str(), rate.as_str()));
        let bandwidth = Bandwidth::new(file.bandwidth.as_deref(), hours, jiff::tz::TimeZone::system())
            .map_err(|why| anyhow::anyhow!("bandwidth: {why}"))?;
        let lanes = file.lanes.unwrap_or(cores).clamp(1, disk_count);
        let lane_cpus = file.lane_cpus.unwrap_or_default();
        ensure!(
            lane_cpus.iter().all(|cpu| *cpu < CpuSet::count()),
            "lane_cpus names processors by number, below {}, not {lane_cpus:?}",
            CpuSet::count()
        );
        let keys = match (file.key_file, file.key_command) {
            (None, None) => KeySource::Usual,
            (Some(path), None) => KeySource::File(at(path)),
            (None, Some(command)) => KeySource::Command(command),
            (Some(_), Some(_)) => anyhow::bail!("give key_file or key_command, not both"),
        };
        let state_dir = file.state_dir.map_or_else(|| paths::state_dir(&file.group), at);
        Ok(Self {
            spool_dir: file.spool_dir.map_or_else(|| state_dir.join("spool"), at),
            state_dir,
            ring_dir: file.ring_dir.map_or_else(|| PathBuf::from("/dev/shm"), at),
            run_dir: file.run_dir.map_or_else(paths::run_dir, at),
            path: path.to_path_buf(),
            group: file.group,
            vault: file.vault,
            encryption: match file.encryption {
                FileEncryption::Required => Encryption::Required,
                FileEncryption::Off => Encryption::Off,
            },
            keys,
            looker: Looker::default(),
            ring_bytes,
            segment_bytes,
            spool_bytes,
            max_delay,
            heartbeat,
            compression,
            shipper_threads,
            uploads,
            bandwidth,
            on_full: file.on_full,
            full_wait,
            resync_rate,
            resync_latency,
            engine: file.engine,
            lanes,
            lane_cpus,
            listen_access: AccessPlan {
                users: file.listen_uids,
                plain_tcp: file.allow_plain_tcp,
                tls: file.tls.map(|tls| tls.dir(base)),
            },
            disks,
        })
    }

    /// Credentials and keys for the vault.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { encryption: self.encryption, ..Access::of_process().with_keys(self.keys.clone()) }
    }

    /// Opens its vault.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_vault(&self) -> Result<Vault, VaultError> {
        Vault::open_with(&self.vault, &self.access(), RetryPolicy::PATIENT).await
    }

    /// What the group's shipper needs to know of it.
    #[must_use]
    pub fn shipper(&self) -> ShipperConfig {
        ShipperConfig {
            group: self.group.clone(),
            ring_path: ring::path_in(&self.ring_dir, &self.group),
            vault_url: self.vault.clone(),
            access: self.access(),
            state_dir: self.state_dir.clone(),
            spool_dir: self.spool_dir.clone(),
            segment_bytes: self.segment_bytes,
            max_delay: self.max_delay,
            heartbeat: self.heartbeat,
            spool_limit_bytes: self.spool_bytes,
            compression: self.compression,
            threads: self.shipper_threads,
            uploads: self.uploads,
            bandwidth: self.bandwidth.clone(),
        }
    }
}

/// Refuses a `max_delay` that cannot work.
///
/// # Errors
/// What is possible.
pub fn check_max_delay(max_delay: Duration) -> Result<()> {
    ensure!(
        max_delay >= Duration::from_millis(10) && max_delay <= Duration::from_secs(3600),
        "max_delay must lie between 10ms and 1h, not {max_delay:?}"
    );
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
