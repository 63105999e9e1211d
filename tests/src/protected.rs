//! A site that is protected, and what must hold of it after any fault that loses no ring: nothing lost, nothing copied again.

use std::path::PathBuf;
use std::time::Duration;

use farshore_changelog::ids::Epoch;
use farshore_changelog::op::Op;

use crate::fio::Job;
use crate::log_watch::LogWatch;
use crate::process::Process;
use crate::site::{GROUP, Site, SiteSpec};
use crate::vm_disk::VmDisk;

/// The longest one fio may take on a busy machine.
const FIO_MAX: Duration = Duration::from_secs(300);

impl Site {
    /// A site with agent and processor running and its initial replication done.
    #[must_use]
    pub fn protected(spec: SiteSpec) -> Self {
        let mut site = Self::new(spec);
        site.start_agent();
        site.start_processor();
        site.wait_protected();
        site
    }

    /// Waits until everything that was logged is replayed, and compares.
    pub fn assert_catches_up(&mut self) {
        let newest = self.newest();
        self.wait_shipped(newest);
        self.wait_replayed(newest);
        self.assert_equal();
    }

    /// The object of an epoch in the vault.
    #[must_use]
    pub fn epoch_object(&self, epoch: u64) -> PathBuf {
        self.vault.join(format!("groups/{GROUP}/to-source/epochs/{epoch:010}.json"))
    }

    /// Asserts that the group is still in its first epoch, that nothing was copied after the initial replication, and that its agent
    /// says so.
    ///
    /// # Panics
    /// When that is not so.
    pub fn assert_nothing_is_copied_again(&self, log: &mut LogWatch) {
        assert_eq!(self.newest().epoch, Epoch(1), "an epoch was begun");
        assert!(!self.epoch_object(2).exists(), "an epoch was opened");
        assert!(log.look(self).ops(Op::ResyncBegin) <= 1, "the disk was copied again");
        assert_eq!(self.agent_status()["state"], "protected");
    }

    /// Ends agent and processor in order, and lets `verify` look over everything at rest.
    ///
    /// # Panics
    /// When one of them is not content.
    pub fn end_and_verify(mut self) {
        self.stop_agent();
        assert!(self.stop_processor().success());
        let target = self.target.display().to_string();
        let _ = self.verb(["verify", "--vault", &self.vault_url(), "--target", &target]).good();
    }
}

/// fio on a stretch of a VM's disk, in small requests of any size and many at a time: it writes all of it and reads it back,
/// `loops` times.
#[must_use]
pub fn verified_load(vm: &VmDisk, offset: u64, bytes: u64, loops: u32, seed: u64) -> Process {
    Job::on(&vm.socket, &vm.export)
        .with("rw=randwrite")
        .with("bsrange=512-16k")
        .with("blockalign=512")
        .with(&format!("offset={offset}"))
        .with(&format!("size={bytes}"))
        .with(&format!("loops={loops}"))
        // A child of fio's own session would outlive it.
        .with("thread")
        .with("iodepth=16")
        .with("fsync=32")
        .with("verify=crc32c")
        .with("verify_fatal=1")
        .with("do_verify=1")
        .with(&format!("randseed={seed}"))
        .start()
}

/// Waits for the end of a load, which must have seen nothing but pauses.
///
/// # Panics
/// When it read what it had not written, met an error, or does not end.
pub fn assert_good(mut fio: Process) {
    let status = fio.wait(FIO_MAX);
    assert!(status.success(), "fio read what was not written, or an error: {status}\n{}", fio.tail());
}
