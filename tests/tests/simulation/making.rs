//! What a world is made of before anything happens: its vaults, its disks, its configuration.

use std::path::Path;
use std::sync::Arc;

use farshore::agent::look::Looker;
use farshore::config::Config;
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{Access, Vault};

use crate::cells;
use crate::history::INITIAL;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::source::paused_runtime;
use crate::store::{Side, SimStore};

/// The vault, as each side sees it. What an agent asks at its start is a folder with the same vault object.
pub fn vaults(store: &Arc<SimStore>, folder: &Path) -> (Vault, Vault) {
    let url = format!("file://{}", folder.display());
    let runtime = paused_runtime();
    let target = runtime.block_on(Vault::init_store(store.side(Side::Target), &url)).expect("the store is empty");
    let source = runtime
        .block_on(Vault::open_store(store.side(Side::Source), &url, &Access::of_process()))
        .expect("the vault is there");
    let key = farshore_vault::keys::Key::Vault;
    let object = store.object(&key.path()).expect("the vault was made");
    std::fs::write(folder.join(key.to_string()), object).expect("a file can be written");
    let target = target.with_retry(RetryPolicy { attempts: 2, ..RetryPolicy::PATIENT });
    (source, target)
}

/// Makes the source's disks: some hold something, some are empty.
pub fn make_disks(plan: &Plan, source: &Path, rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut disks = Vec::new();
    for (n, bytes) in plan.disk_bytes.iter().enumerate() {
        let mut disk = vec![0; *bytes as usize];
        for _ in 0..rng.below(4) {
            let all = disk.len() / cells::CELL;
            let first = rng.below(all as u64) as usize;
            let end = (first + rng.below(2000) as usize).min(all);
            cells::fill(INITIAL, n, first, &mut disk[first * cells::CELL..end * cells::CELL]);
        }
        let path = source.join(format!("vd{n}.raw"));
        let file = std::fs::File::create(&path).expect("a disk can be made");
        file.set_len(*bytes).expect("a disk can be sized");
        for (at, sector) in disk.chunks(4096).enumerate().filter(|(_, sector)| sector.iter().any(|b| *b != 0)) {
            std::os::unix::fs::FileExt::write_all_at(&file, sector, at as u64 * 4096).expect("a disk can be written");
        }
        disks.push(disk);
    }
    disks
}

pub fn write_config(plan: &Plan, dir: &Path) -> Config {
    let mut text = format!(
        "group = \"g\"\nencryption = \"off\"\nvault = \"file://{0}/vault\"\nstate_dir = \"source/state\"\nring_dir = \"shm\"\nrun_dir = \"run\"\n\
         lanes = {1}\nring_size = \"8MiB\"\nmax_delay = \"{2}ms\"\nheartbeat = \"{3}ms\"\nsegment_size = \"{4}B\"\n\
         spool_size = \"{5}B\"\nfull_wait = \"{6}ms\"\n",
        dir.display(),
        plan.lanes,
        plan.max_delay.as_millis(),
        plan.heartbeat.as_millis(),
        plan.segment_bytes,
        plan.spool_bytes,
        plan.full_wait.as_millis()
    );
    if let Some(rate) = plan.resync_rate {
        text += &format!("resync_rate = \"{rate}B\"\n");
    }
    for n in 0..plan.disk_bytes.len() {
        text += &format!("[[disk]]\nname = \"vd{n}\"\nsource = \"source/vd{n}.raw\"\nlisten = \"unix:vd{n}.sock\"\n");
    }
    let path = dir.join("g.toml");
    std::fs::write(&path, text).expect("a file can be written");
    let mut config = Config::read(&path).expect("the configuration is right");
    // The smallest that the format has, which is less than what a configuration may ask for.
    config.ring_bytes = plan.ring_bytes;
    config.looker = Looker::Here;
    config
}
