//! `farshore failover`: the target takes the group over and serves a point to the VM.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use farshore_capture::server::Listen;
use farshore_processor::failover::{self, DEFAULT_NAME, Progress, Request, failover};
use farshore_processor::target::GroupDir;
use farshore_vault::Vault;
use serde::Serialize;

use crate::access::AccessArgs;
use crate::failure::Next;
use crate::output::Output;
use crate::paths;
use crate::point::{DiskShown, PointArgs, PointShown};
use crate::stop;
use crate::units::show_duration;
use crate::verbs::block_on;
use crate::view_export::{NamedDisk, serve, serve_until};

/// Arguments of `failover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: PointArgs,
    /// The vault; the source is fenced through it.
    #[arg(long, value_name = "URL")]
    vault: String,
    /// Where to serve [default: unix:GROUP-failover.sock in the run folder].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Name of the overlay that keeps what the VM writes; another name starts another point beside it.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// What was done, as it is printed.
#[derive(Serialize)]
struct Served {
    group: String,
    point: PointShown,
    epoch: u64,
    cut: CutShown,
    overlay: PathBuf,
    seconds: f64,
    disks: Vec<DiskShown>,
}

/// Where the source's log ends.
#[derive(Serialize)]
struct CutShown {
    epoch: u64,
    segment: u64,
}

/// Fences the source, catches up, and serves the point until told to stop. Done again, it serves the same point again.
///
/// # Errors
/// When the vault cannot be used (the source may then not be fenced), or the point cannot be had.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let stop = stop::on_signals()?;
    let address = match &args.listen {
        Some(address) => address.clone(),
        None => format!("unix:{}", paths::run_dir().join(format!("{}-{}.sock", args.which.group, args.name)).display()),
    };
    let listen = Listen::parse(&address, &std::env::current_dir()?)
        .next("write --listen unix:/path/to.sock or tcp:127.0.0.1:10809")?;
    let access = args.access.plan();
    // Before anything is begun, and before the source is fenced.
    access.open([&listen])?;
    let request = Request {
        target: args.which.target.clone(),
        group: args.which.group.clone(),
        point: args.which.point.clone(),
        name: args.name.clone(),
    };
    let mut tell = |progress: Progress| {
        if !out.json {
            eprintln!("{}", story(progress));
        }
    };
    let done = block_on(async {
        let vault = Vault::open(&args.vault).await.map_err(failover::FailoverError::from)?;
        failover(&vault, &request, &mut tell).await
    })?
    .next("see the cause; the same command goes on where it stopped")?;
    let disks: Vec<NamedDisk> = done.disks.into_iter().map(|d| (d.base().name().clone(), d)).collect();
    let shown = DiskShown::all(&disks, &listen, access.tls.is_some());
    let dir = GroupDir::new(&args.which.target, &args.which.group);
    let point = PointShown::of(&dir, &args.which.group, &done.point);
    let server = serve(disks, &listen, &args.access, &point.line())?;
    let served = Served {
        group: args.which.group.to_string(),
        point,
        epoch: done.epoch.0,
        cut: CutShown { epoch: done.cut.epoch.0, segment: done.cut.number.0 },
        overlay: done.folder,
        seconds: done.took.as_secs_f64(),
        disks: shown,
    };
    out.print(&served, text)?;
    serve_until(server, &stop)
}

fn story(progress: Progress) -> String {
    match progress {
        Progress::Opened(epoch) => format!("epoch {epoch} is open: the source is fenced"),
        Progress::Sealed(cut) => format!("its log ends with segment {} of epoch {}", cut.number, cut.epoch),
        Progress::CatchingUp { position, number, cut } => {
            format!("replay stands at {position}, segment {number} of {}", cut.number)
        }
    }
}

fn text(s: &Served) -> String {
    let took = show_duration(Duration::from_secs_f64(s.seconds));
    let mut text = format!("group {} is failed over in {took}: {}\nattach to the VM:\n", s.group, s.point.line());
    for disk in &s.disks {
        text.push_str(&disk.line());
    }
    if let Some(disk) = s.disks.first() {
        text.push_str(&format!("for example: qemu-system-x86_64 … -drive file='{}',format=raw,if=virtio\n", disk.uri));
    }
    text.push_str(&format!(
        "what the VM writes is kept in {}; when this command ends the disks go away, and the same command serves them again",
        s.overlay.display()
    ));
    text
}
