//! `farshore inspect`: what lies in a file of farshore's, told by its magic, or what a source lost. Everything is proved before it
//! is printed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_changelog::op::{Record, RecordFlags};
use farshore_changelog::ring::Ring;
use farshore_changelog::segment::{Index, Kind};
use farshore_processor::points;
use farshore_processor::position::ReplayPosition;
use serde_json::{Value, json};

use crate::config::Config;
use crate::failure::{Next, fail};
use crate::loss::{self, Receipt};
use crate::output::{Output, table};
use crate::units::show_bytes;
use crate::verbs::block_on;

/// Bytes of every format's magic.
const MAGIC_BYTES: usize = 8;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A segment, seal, undo journal file, ring, position, or catalogue of points.
    #[arg(required_unless_present = "loss")]
    file: Option<PathBuf>,
    /// Print every record, not only how many there are.
    #[arg(long, conflicts_with = "loss")]
    records: bool,
    /// Print what a source logged and no target will replay, because the group was taken over: its loss receipt.
    #[arg(long, value_name = "CONFIG", conflicts_with = "file")]
    loss: Option<PathBuf>,
}

/// How long the vault may take to be opened for a loss receipt, which is printed without it too.
const VAULT_MAX: Duration = Duration::from_secs(10);

/// Prints the file.
///
/// # Errors
/// When it is none of ours, or is damaged.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let Some(path) = &args.file else {
        let config = args.loss.as_deref().context("clap asks for one of the two")?;
        return print_loss(&Config::read(config)?, out);
    };
    let mut magic = [0; MAGIC_BYTES];
    File::open(path)
        .and_then(|f| f.read_exact_at(&mut magic, 0))
        .what(format!("cannot read {}", path.display()), "give the path of a file that farshore wrote")?;
    let found = match &magic {
        b"FARSHSEG" => segments(path, args.records)?,
        b"FARSHRNG" => ring(path)?,
        b"FARSHPTS" => catalogue(path)?,
        // The other slot may be the one that counts, so a position file need not begin with its magic.
        _ if path.file_name().is_some_and(|n| n == "position") => position(path)?,
        b"FARSHPOS" => position(path)?,
        _ => {
            return Err(fail(format!("{} is no segment, undo journal, ring, position or catalogue", path.display()))
                .next("docs/format.md says where each lies")
                .into());
        }
    };
    out.print(&found, |found| {
        let mut text = String::new();
        indent(found, 0, &mut text);
        text
    })
}

fn print_loss(config: &Config, out: Output) -> Result<()> {
    let receipt = block_on(async {
        let vault = tokio::time::timeout(VAULT_MAX, config.open_vault()).await;
        let (vault, unseen) = match vault {
            Ok(Ok(vault)) => (Some(vault.group(&config.group)), None),
            Ok(Err(e)) => (None, Some(e.to_string())),
            Err(_) => (None, Some(format!("it does not answer within {} s", VAULT_MAX.as_secs()))),
        };
        let mut receipt = loss::receipt(config, vault.as_ref()).await?;
        receipt.unseen.extend(unseen.map(|why| format!("the vault: {why}")));
        anyhow::Ok(receipt)
    })??;
    out.print(&receipt, loss_text)
}

fn loss_text(receipt: &Receipt) -> String {
    let mut text = match &receipt.fenced {
        Some(f) => format!(
            "{}: epoch {} was ended by epoch {} ({}, {}). The source's disks have everything; what they got since is in no log.\n",
            receipt.group, f.epoch, f.by_epoch, f.reason, f.at
        ),
        None => format!("{}: nobody has taken the group over\n", receipt.group),
    };
    if receipt.segments.is_empty() {
        text.push_str("nothing that was logged is lost\n");
    } else {
        let mut table = table(["segment", "where", "seqs", "from", "to", "changed"]);
        for s in &receipt.segments {
            let changed =
                s.disks.iter().map(|d| format!("{}: {} in {} ranges", d.disk, show_bytes(d.bytes), d.ranges.len()));
            let changed = s.problem.clone().unwrap_or_else(|| changed.collect::<Vec<_>>().join(", "));
            let seqs = format!("{}-{}", s.first_seq, s.last_seq);
            table.add_row([
                format!("{}:{}", s.epoch, s.number),
                s.place.to_owned(),
                seqs,
                s.from.clone(),
                s.to.clone(),
                changed,
            ]);
        }
        text.push_str(&format!("{table}\n"));
    }
    for unseen in &receipt.unseen {
        text.push_str(&format!("not seen: {unseen}\n"));
    }
    text
}

/// One object, or several that follow each other (an undo journal file).
fn segments(path: &Path, records: bool) -> Result<Value> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut all = Vec::new();
    let mut offset = 0;
    while offset < len {
        let index = Index::read(&mut file, offset, None)
            .with_context(|| format!("{} is damaged at offset {offset}", path.display()))?;
        for block in 0..u32::try_from(index.block_count())? {
            index.read_block(&mut file, offset, block).with_context(|| {
                format!("{} is damaged in block {block} of the segment at {offset}", path.display())
            })?;
        }
        all.push(segment(&index, offset, records));
        offset += index.total_len();
    }
    Ok(if all.len() == 1 { all.remove(0) } else { json!({ "batches": all }) })
}

fn segment(index: &Index, offset: u64, records: bool) -> Value {
    let head = index.head();
    let kind = match head.kind {
        Kind::Log => "log",
        Kind::Undo => "undo",
        Kind::Seal => "seal",
    };
    let mut value = json!({
        "kind": kind, "group": head.group, "epoch": head.epoch, "number": head.number, "offset": offset,
        "first_seq": head.first_seq, "last_seq": head.last_seq, "records": index.records().len(),
        "created": head.created.to_string(), "min_time": head.min_time.to_string(), "max_time": head.max_time.to_string(),
        "watermark": head.watermark, "prev": head.prev, "hash": index.hash(),
        "stored": show_bytes(index.total_len()), "payload": show_bytes(index.payload_bytes()),
        "stored_bytes": index.total_len(), "payload_bytes": index.payload_bytes(),
    });
    if head.kind == Kind::Seal {
        value["successor"] = json!(head.successor);
    }
    if records {
        value["record_list"] = index.records().iter().map(|r| record(&r.record)).collect();
    }
    value
}

fn record(record: &Record) -> Value {
    let names = [
        (RecordFlags::FUA, "fua"),
        (RecordFlags::MORE, "more"),
        (RecordFlags::REREAD, "reread"),
        (RecordFlags::NO_HOLE, "no-hole"),
        (RecordFlags::BOUNDARY, "boundary"),
    ];
    let flags: Vec<&str> = names.iter().filter(|(flag, _)| record.flags.has(*flag)).map(|(_, name)| *name).collect();
    json!({
        "seq": record.seq, "time": record.time.to_string(), "disk": record.disk, "op": format!("{:?}", record.op),
        "offset": record.offset, "len": record.len, "flags": flags.join(" "),
    })
}

fn ring(path: &Path) -> Result<Value> {
    let ring = Ring::open(path).with_context(|| format!("{} cannot be used as a ring", path.display()))?;
    let spec = ring.spec();
    let disks: Vec<Value> = spec
        .disks
        .iter()
        .map(|d| json!({ "name": d.name, "size": show_bytes(d.size_bytes), "size_bytes": d.size_bytes, "block_bytes": d.block_bytes }))
        .collect();
    Ok(json!({
        "kind": "ring", "group": spec.group, "epoch": spec.epoch, "created": spec.created.to_string(), "lanes": spec.lanes,
        "slots_per_lane": spec.slots_per_lane, "payload_per_lane": show_bytes(spec.payload_bytes_per_lane),
        "next_seq": ring.next_seq(), "read_seq": ring.read_seq(), "confirmed_seq": ring.confirmed_seq(),
        "shipper": format!("{:?}", ring.shipper_state()), "shipper_seen": ring.shipper_seen().to_string(), "disks": disks,
    }))
}

fn position(path: &Path) -> Result<Value> {
    let at = ReplayPosition::read(path)?.context("the file went away while it was read")?;
    Ok(json!({
        "kind": "position", "group": at.group, "position": at.position().to_string(), "segment": at.number, "hash": at.hash,
        "time": at.time.to_string(), "undo_end": at.undo_end, "resync": at.resync, "overflow": at.overflow, "generation": at.generation,
        "consistent_position": at.consistent.position.to_string(), "consistent_time": at.consistent.time.to_string(),
    }))
}

fn catalogue(path: &Path) -> Result<Value> {
    let points: Vec<Value> = points::read(path)?
        .iter()
        .map(|p| json!({ "id": p.id, "position": p.position.to_string(), "time": p.time.to_string(), "clock": p.clock.to_string(), "undo_end": p.undo_end, "kind": format!("{:?}", p.kind) }))
        .collect();
    Ok(json!({ "kind": "points", "points": points }))
}

/// JSON as indented lines of `key: value`, for people.
fn indent(value: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if value.is_object() || value.is_array() {
                    text.push_str(&format!("{pad}{key}:\n"));
                    indent(value, depth + 1, text);
                } else {
                    text.push_str(&format!("{pad}{key}: {}\n", plain(value)));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(fields) => {
                        let line: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect();
                        text.push_str(&format!("{pad}- {}\n", line.join(" ")));
                    }
                    other => text.push_str(&format!("{pad}- {}\n", plain(other))),
                }
            }
        }
        other => text.push_str(&format!("{pad}{}\n", plain(other))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
