//! `farshore demo`: watch a disk being protected.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use farshore_capture::nbd::client::Client;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Hash, Position, Seq};
use serde::Serialize;

use crate::agent::control::{self, Ask, Marked, Reply};
use crate::demo::load::{self, Shared};
use crate::demo::site::{DISK, GROUP, POINT_INTERVAL, Site, digest, digest_file};
use crate::demo::watch::{View, look};
use crate::output::Output;
use crate::units::{show_bytes, show_duration};

/// How often the view is drawn anew.
const DRAW: Duration = Duration::from_millis(100);
/// How long each step may take before the demo gives up.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Part of the disk that holds data before protection begins.
const FILLED_PART: u64 = 4;
/// Name of the mark that is attached at the end.
const MARK: &str = "half-time";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the disk.
    #[arg(long, default_value = "256MiB")]
    size: ByteSize,
    /// Seconds of load.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=3600))]
    seconds: u64,
    /// Folder in which the demo makes its own.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Leave vault, disk and target behind.
    #[arg(long)]
    keep: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    written_bytes: u64,
    writes: u64,
    shipped_bytes: u64,
    initial_bytes: u64,
    ratio: f64,
    worst_rpo_seconds: f64,
    points: usize,
    attach_seconds: f64,
    attached_point: String,
    point_equal: bool,
    image_equal: bool,
}

/// Runs it.
///
/// # Errors
/// When a step fails, or what was attached is not equal to what the disk was.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let mut site = Site::new(&args.dir, args.keep)?;
    let say = |text: String| {
        if !out.json {
            println!("{text}");
        }
    };
    let size = args.size.as_u64() / 4096 * 4096;
    ensure!(size >= 16 << 20, "--size must be 16 MiB or more");
    let filled = size / FILLED_PART;
    say(format!("a disk of {} in {}, a quarter of it in use", show_bytes(size), site.dir().display()));
    site.prepare(size, filled)?;
    start(&mut site)?;
    say("agent, shipper and processor run; the load writes through the NBD socket".to_owned());

    let shared = Arc::new(Shared::default());
    let writer = {
        let (shared, socket) = (Arc::clone(&shared), site.socket());
        std::thread::Builder::new().name("load".into()).spawn(move || load::run(&socket, 2, &shared))?
    };
    let mut view = View::new(args.seconds, out.json);
    let marked = under_load(&mut site, &shared, args.seconds, &mut view);
    shared.stop.store(true, Ordering::Release);
    writer.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    let (mark, at_mark) = marked?;

    catch_up(&mut site, &shared, &mut view, args.seconds)?;
    view.finish();
    let image = site.target().join(GROUP).join(format!("{DISK}.raw"));
    let image_equal = digest_file(&image)? == digest_file(&site.source())?;
    let (attach_time, point_equal) = attach(&mut site, &mark, at_mark, size)?;

    let seen = look(&site)?.context("the target has lost its position")?;
    let written = shared.written.load(Ordering::Relaxed);
    let summary = Summary {
        written_bytes: written,
        writes: shared.writes.load(Ordering::Relaxed),
        shipped_bytes: seen.shipped,
        initial_bytes: filled,
        ratio: (written + filled) as f64 / seen.shipped.max(1) as f64,
        worst_rpo_seconds: view.worst_rpo.as_secs_f64(),
        points: seen.points,
        attach_seconds: attach_time.as_secs_f64(),
        attached_point: MARK.to_owned(),
        point_equal,
        image_equal,
    };
    site.stop();
    out.print(&summary, |s| tell(s, &args.dir))?;
    ensure!(point_equal, "the attached point is not what the disk was: this is a bug, please report it");
    ensure!(image_equal, "the target image is not what the disk is: this is a bug, please report it");
    Ok(())
}

fn start(site: &mut Site) -> Result<()> {
    let (vault, target, config) = (site.vault(), site.target(), site.config());
    site.farshore(&["init", "--vault", &vault])?;
    site.start("run", &["run", text(&config)?])?;
    let socket = site.socket();
    site.wait("the export", STEP_MAX, || Ok(socket.exists()))?;
    let process = [
        "process",
        "--vault",
        &vault,
        "--target",
        text(&target)?,
        "--point-interval",
        POINT_INTERVAL,
        "--poll",
        "100ms",
    ];
    site.start("process", &process)
}

/// Draws while the load runs; at half time holds it for a moment to note what the disk is, and marks that position.
fn under_load(site: &mut Site, shared: &Shared, seconds: u64, view: &mut View) -> Result<(Marked, Hash)> {
    let started = clock::mono();
    let mut marked = None;
    loop {
        let elapsed = started.elapsed();
        site.check()?;
        view.draw(elapsed, shared, look(site)?.as_ref(), true);
        if marked.is_none() && elapsed > Duration::from_secs(seconds) / 2 {
            shared.hold.store(true, Ordering::Release);
            site.wait("the load's pause", STEP_MAX, || Ok(shared.held.load(Ordering::Acquire)))?;
            let hash = digest_file(&site.source())?;
            let ask = Ask::Mark { name: MARK.to_owned() };
            let Reply::Marked(mark) = control::ask(&site.run_dir(), &site.group(), &ask)? else {
                bail!("the agent answered something else than was asked");
            };
            shared.hold.store(false, Ordering::Release);
            marked = Some((mark, hash));
        }
        if elapsed > Duration::from_secs(seconds)
            && let Some(marked) = marked.take()
        {
            return Ok(marked);
        }
        clock::sleep(DRAW);
    }
}

/// Waits until everything the load wrote is in the target image, and initial replication is over.
fn catch_up(site: &mut Site, shared: &Shared, view: &mut View, seconds: u64) -> Result<()> {
    let Reply::Status(agent) = control::ask(&site.run_dir(), &site.group(), &Ask::Status)? else {
        bail!("the agent answered something else than was asked");
    };
    let end = Position { epoch: Epoch(agent.epoch), seq: Seq(agent.last_seq) };
    let since = clock::mono();
    loop {
        let seen = look(site)?;
        view.draw(Duration::from_secs(seconds), shared, seen.as_ref(), false);
        if seen.is_some_and(|s| s.position >= end && !s.resync) {
            return Ok(());
        }
        site.check()?;
        ensure!(since.elapsed() < STEP_MAX, "the target has not caught up within {STEP_MAX:?}");
        clock::sleep(DRAW);
    }
}

/// Attaches the mark's point and compares every byte of it. Gives the time until its first byte could be read.
fn attach(site: &mut Site, mark: &Marked, at_mark: Hash, size: u64) -> Result<(Duration, bool)> {
    let (target, socket) = (site.target(), site.dir().join("point.sock"));
    let point = format!("{}:{}", mark.epoch, mark.seq);
    let listen = format!("unix:{}", socket.display());
    let started = clock::mono();
    site.start("attach", &["attach", GROUP, "--target", text(&target)?, "--point", &point, "--listen", &listen])?;
    site.wait("the attached point", STEP_MAX, || Ok(socket.exists()))?;
    let mut client = Client::connect_unix(&socket, "")?;
    client.read(0, &mut [0; 4096])?;
    let took = started.elapsed();
    let found = digest(size, |offset, bytes| Ok(client.read(offset, bytes)?))?;
    client.disconnect()?;
    Ok((took, found == at_mark))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8; give another --dir", path.display()))
}

fn tell(s: &Summary, dir: &Path) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    let seconds = |s: f64| show_duration(Duration::from_secs_f64(s));
    let equal = |e: bool| if e { "equal, byte by byte" } else { "DIFFERENT" };
    table
        .add_row(["written by the load".to_owned(), format!("{} in {} writes", show_bytes(s.written_bytes), s.writes)]);
    table.add_row(["copied by initial replication".to_owned(), show_bytes(s.initial_bytes)]);
    table.add_row(["shipped to the vault".to_owned(), format!("{}, {:.1} to 1", show_bytes(s.shipped_bytes), s.ratio)]);
    table.add_row(["worst RPO under load".to_owned(), seconds(s.worst_rpo_seconds)]);
    table.add_row(["recovery points".to_owned(), s.points.to_string()]);
    table.add_row(["time to attach one".to_owned(), seconds(s.attach_seconds)]);
    table.add_row([format!("point {:?} against the disk then", s.attached_point), equal(s.point_equal).to_owned()]);
    table.add_row(["target image against the disk now".to_owned(), equal(s.image_equal).to_owned()]);
    format!(
        "\n{table}\n\nfor a disk of your own:\n  \
         farshore init --vault file:///var/lib/farshore/vault\n  \
         farshore run web01.toml          # group, vault and [[disk]] in it: see the README\n  \
         farshore process --vault file:///var/lib/farshore/vault --target /srv/replica\n\
         to look around in a demo's files: farshore demo --keep --dir {}",
        dir.display()
    )
}
