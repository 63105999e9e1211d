//! `farshore export`: a point of a group as raw or qcow2 files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use farshore_changelog::crashsafe;
use farshore_changelog::ids::DiskName;
use farshore_processor::view::export::export;
use farshore_processor::view::{PointDisk, ReadDisk};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Next, fail};
use crate::output::Output;
use crate::point::{PointArgs, PointShown};
use crate::units::show_bytes;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: PointArgs,
    /// The file to be made; of a group with several disks, the folder in which DISK.raw or DISK.qcow2 are made.
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Only this disk.
    #[arg(long)]
    disk: Option<DiskName>,
    /// The format; without it, told by the ending of --output, else raw.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
}

/// What kind of file to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A sparse raw image.
    Raw,
    /// A qcow2 image, made by qemu-img.
    Qcow2,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

#[derive(Serialize)]
struct Exported {
    group: String,
    point: PointShown,
    files: Vec<FileShown>,
}

#[derive(Serialize)]
struct FileShown {
    disk: String,
    path: PathBuf,
    format: &'static str,
    size_bytes: u64,
    data_bytes: u64,
}

/// Writes the files.
///
/// # Errors
/// When there is no such point, a file is there already, or cannot be written.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let view = args.which.open()?;
    let mut disks = view.disks();
    if let Some(wanted) = &args.disk {
        let names: Vec<String> = disks.iter().map(|d| d.name().to_string()).collect();
        disks.retain(|d| d.name() == wanted);
        ensure!(!disks.is_empty(), "group {} has no disk {wanted}: it has {}", args.which.group, names.join(", "));
    }
    let ending = args.output.extension().is_some_and(|e| e == "qcow2");
    let format = args.format.unwrap_or(if ending { Format::Qcow2 } else { Format::Raw });
    let several = disks.len() > 1 || args.output.is_dir();
    if several {
        crashsafe::create_dir_all(&args.output)?;
    }
    let mut files = Vec::new();
    for disk in disks {
        let path = match several {
            true => args.output.join(format!("{}.{}", disk.name(), format.name())),
            false => args.output.clone(),
        };
        files.push(one(&disk, &path, format, args.force, out)?);
    }
    let exported = Exported {
        group: args.which.group.to_string(),
        point: PointShown::of(view.dir(), view.group(), view.point()),
        files,
    };
    out.print(&exported, |e| {
        let mut text = format!("{}\n", e.point.line());
        for f in &e.files {
            let sizes = format!("{} of {} data", show_bytes(f.data_bytes), show_bytes(f.size_bytes));
            text.push_str(&format!("  {}: {} ({}, {sizes})\n", f.disk, f.path.display(), f.format));
        }
        text
    })
}

fn one(disk: &PointDisk, path: &Path, format: Format, force: bool, out: Output) -> Result<FileShown> {
    let bar = ProgressBar::new(disk.size_bytes());
    if out.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40.cyan} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(disk.name().to_string());
    let raw = match format {
        Format::Raw => path.to_path_buf(),
        Format::Qcow2 => {
            let taken = path.exists() && !force;
            ensure!(!taken, "{} exists: give another name, or overwrite it with --force", path.display());
            beside(path, "raw.tmp")
        }
    };
    let force_raw = force || format == Format::Qcow2;
    let done = export(disk, &raw, force_raw, &mut |at| bar.set_position(at))?;
    bar.finish_and_clear();
    if format == Format::Qcow2 {
        let converted = convert(&raw, path);
        crashsafe::remove(&raw)?;
        converted?;
    }
    Ok(FileShown {
        disk: disk.name().to_string(),
        path: path.to_path_buf(),
        format: format.name(),
        size_bytes: done.size_bytes,
        data_bytes: done.data_bytes,
    })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// qemu-img knows qcow2; the file gets its name once it is whole and durable.
fn convert(raw: &Path, path: &Path) -> Result<()> {
    let partial = beside(path, "partial");
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([raw, &partial])
        .output()
        .what("cannot run qemu-img, which makes qcow2 files", "install qemu-utils, or export --format raw")?;
    if !output.status.success() {
        let _ = std::fs::remove_file(&partial);
        bail!(
            fail(format!("qemu-img could not make {}", path.display()))
                .because(anyhow::anyhow!("{}", String::from_utf8_lossy(&output.stderr).trim()))
        );
    }
    std::fs::File::open(&partial)?.sync_all().context("cannot fsync the qcow2 file")?;
    std::fs::rename(&partial, path)?;
    Ok(crashsafe::sync_parent(path)?)
}
