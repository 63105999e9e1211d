//! The command line as clap reads it: one variant a verb, the arguments of each in the verb's own file.

use clap::{Parser, Subcommand};

use crate::verbs;

/// Disaster recovery for virtual machines: a block device under a running VM logs every write, ships the log to an object
/// store, and replays it at a target site, where a VM can be started from any recovery point.
#[derive(Debug, Parser)]
#[command(name = "farshore", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Print machine-readable JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,

    /// Say more on standard error; twice for debugging. `FARSHORE_LOG` takes a filter such as `farshore_shipper=debug`.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What farshore can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a vault: the place in a store that holds the change logs of any number of groups.
    Init(verbs::init::Args),
    /// Print, copy, hand out and renew the keys of an encrypted vault.
    Key(verbs::key::Args),
    /// Check a configuration and register its group in the vault, without starting to capture.
    Enable(verbs::enable::Args),
    /// Serve the disks of a group to its VM and log, ship and copy them (source agent).
    Run(verbs::run::Args),
    /// Ship the log of a group whose agent runs with `--no-shipper`, as a service of its own.
    Ship(verbs::ship::Args),
    /// Replay every group of a vault onto target images and keep recovery points (target site).
    Process(verbs::process::Args),
    /// Give a group up at this target, so that another can follow it.
    Release(verbs::claims::ReleaseArgs),
    /// Have this target follow a group that was released, or whose target is lost.
    Adopt(verbs::claims::AdoptArgs),
    /// Show the state, position, lag and points of each group.
    Status(verbs::status::Args),
    /// Reckon what a month costs at the object store, and how `max_delay` trades requests for data that may be lost.
    Estimate(verbs::estimate::Args),
    /// List the recovery points of a group.
    Points(verbs::points::Args),
    /// Name a consistent position of a running group, across all its disks.
    Mark(verbs::mark::Args),
    /// Ask the source to copy its disks again: what may differ, or everything; the way out of a log that cannot be followed.
    Resync(verbs::resync::Args),
    /// Serve any point of a group over NBD, with a private copy-on-write overlay, while replay goes on.
    Attach(verbs::attach::Args),
    /// Write a point of a group into raw or qcow2 files.
    Export(verbs::export::Args),
    /// Take a group over at the target site: fence the source and serve a point to the VM.
    Failover(verbs::failover::Args),
    /// Read and re-hash everything in a vault and under a target folder.
    Verify(verbs::verify::Args),
    /// Print what lies in a ring, a segment or an undo journal.
    Inspect(verbs::inspect::Args),
    /// Watch a disk being protected: everything on this machine, in a folder of its own, in under a minute.
    Demo(verbs::demo::Args),
}
