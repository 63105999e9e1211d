//! `farshore attach`: serves a point of a group, with a private copy-on-write overlay, while replay goes on.

use anyhow::Result;
use farshore_capture::server::Listen;
use farshore_changelog::clock;
use serde::Serialize;

use crate::access::AccessArgs;
use crate::failure::Next;
use crate::output::Output;
use crate::point::{DiskShown, PointArgs, PointShown};
use crate::stop;
use crate::units::show_duration;
use crate::view_export::{NamedDisk, serve, serve_until};

/// Arguments of `attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: PointArgs,
    /// Where to serve: unix:PATH or tcp:HOST:PORT. One export a disk, named after it; the first is the default one.
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// What is served, as it is printed.
#[derive(Debug, Serialize)]
struct Served {
    group: String,
    point: PointShown,
    disks: Vec<DiskShown>,
    /// From the command to the export.
    seconds: f64,
}

/// Serves the point until told to stop.
///
/// # Errors
/// When there is no such point, or it cannot be served.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let started = clock::mono();
    let stop = stop::on_signals()?;
    let listen = Listen::parse(&args.listen, &std::env::current_dir()?)
        .next("write --listen unix:/path/to.sock or tcp:127.0.0.1:10809")?;
    // Before the view is opened, which may take its time.
    let access = args.access.plan();
    access.open([&listen])?;
    let view = args.which.open()?;
    let names: Vec<_> = view.disks().iter().map(|d| d.name().clone()).collect();
    let disks: Vec<NamedDisk> = names.into_iter().zip(view.private_disks()?).collect();
    let shown = DiskShown::all(&disks, &listen, access.tls.is_some());
    let point = PointShown::of(view.dir(), view.group(), view.point());
    let server = serve(disks, &listen, &args.access, &point.line())?;
    let served =
        Served { group: args.which.group.to_string(), point, disks: shown, seconds: started.elapsed().as_secs_f64() };
    out.print(&served, |s| {
        let mut text =
            format!("{} in {}\n", s.point.line(), show_duration(std::time::Duration::from_secs_f64(s.seconds)));
        for disk in &s.disks {
            text.push_str(&disk.line());
        }
        text.push_str("what is written to it is forgotten when this command ends (Ctrl-C)");
        text
    })?;
    serve_until(server, &stop)
}
