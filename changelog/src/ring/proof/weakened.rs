//! Whether the models can fail: each ordering of the ring that is stronger than Relaxed is made Relaxed (a `SeqCst` fence
//! an `AcqRel` one), one at a time, and some model must notice. What none notices stands in [`NOT_FOUND`], with the reason.

use std::collections::BTreeSet;
use std::panic::Location;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Mutex};

use super::{explore, models};

/// Names the ordering to weaken to a child of the test; [`NONE`] weakens none and lists those there are.
const WEAKEN: &str = "FARSHORE_LOOM_WEAKEN";
const NONE: &str = "none";
const CHILD: &str = "ring::proof::weakened::one_is_weakened_in_a_child";

/// Orderings that no model needs: file, the line, and why it stays.
const NOT_FOUND: &[(&str, &str, &str)] = &[
    // A process that ends happens before the one that finds its ring; and these cost nothing.
    ("consumer.rs", "let read_seq = lanes[0].header().read_seq.load(Acquire);", AFTER_ITS_PREDECESSOR),
    ("consumer.rs", "Cursor { next: lane.words().tail.load(Acquire)", AFTER_ITS_PREDECESSOR),
    ("producer.rs", "let (head, tail) = (words.head.load(Acquire)", AFTER_ITS_PREDECESSOR),
    ("producer.rs", "let (payload_head, payload_tail) = (words.payload_head.load(Acquire)", AFTER_ITS_PREDECESSOR),
    ("takeover.rs", ".load(Acquire)", AFTER_ITS_PREDECESSOR),
    // What a process that dies leaves to recovery: no model has two processes, tests/kill.rs has.
    ("producer.rs", "words.payload_head.store(", LEFT_TO_RECOVERY),
    ("producer.rs", "words.payload_tail.store(", LEFT_TO_RECOVERY),
    ("takeover.rs", ".store(ends.", LEFT_TO_RECOVERY),
    // Hints: what is done then is decided by other loads.
    ("consumer.rs", "self.header().void_below.load(Acquire) > seq", A_HINT),
    ("consumer.rs", "cursor.lane.words().head.load(Acquire) > cursor.next", A_HINT),
    ("consumer.rs", "u32::try_from(head.load(Acquire)", A_HINT),
    ("consumer.rs", "let tail = tail.load(Acquire);", A_HINT),
    // The value alone counts, and an earlier Acquire has made it visible.
    ("consumer.rs", "let void = lane.header().void_below.load(Acquire) > seq;", THE_VALUE_ALONE),
    ("consumer.rs", "let void = slot.state.load(Acquire) == State::Void.code();", THE_VALUE_ALONE),
    ("consumer.rs", "if void || lane.words().tail.load(Acquire) > number", THE_VALUE_ALONE),
    ("consumer.rs", "let after = lane.words().tail.load(Acquire);", THE_VALUE_ALONE),
    ("consumer.rs", "self.header().next_seq.load(Acquire)", THE_VALUE_ALONE),
    ("producer.rs", "self.lane.header().next_seq.fetch_add(", THE_VALUE_ALONE),
    (
        "doorbell.rs",
        "word.swap(AWAKE, Ordering::AcqRel)",
        "the fence before it orders, and the futex looks at the value",
    ),
    ("ring/mod.rs", "let next = words.next_seq.load(Acquire);", THE_VALUE_ALONE),
    ("ring/mod.rs", "let (doorbell, shipper) = ", THE_VALUE_ALONE),
    (
        "ring/mod.rs",
        "let void_below = words.void_below.load(Acquire);",
        "as read_seq, which is found; recovery beside an opener has no model",
    ),
    (
        "ring/mod.rs",
        "let resync_end = words.resync_end.load(Acquire);",
        "as read_seq, which is found; a resync has no model",
    ),
    // The model checker knows no load that sees a store of the time after it.
    (
        "consumer.rs",
        "self.lanes[place.lane].lane.slot(place.number).state.store(State::Consumed",
        "keeps the loads of an aborted descriptor before it",
    ),
    // In the model one thread recovers the ring and then writes, and the fence of recovery's bell does as much.
    ("producer.rs", "slot.number.store(number, Release);", "the writer may be another thread than recovery's"),
];
const AFTER_ITS_PREDECESSOR: &str = "read when the process before has ended";
const LEFT_TO_RECOVERY: &str = "the order in which a dead process's stores are found";
const A_HINT: &str = "a hint whether to look";
const THE_VALUE_ALONE: &str = "the value alone counts";

/// An ordering in the sources: file, line, column.
type Site = (String, u32, u32);

static WEAK: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(WEAKEN).ok());
static WEAK_SITE: LazyLock<Option<Site>> = LazyLock::new(|| WEAK.as_deref().and_then(parse));
static SEEN: Mutex<BTreeSet<(&str, u32, u32)>> = Mutex::new(BTreeSet::new());

/// The ordering that is in force at the caller's caller.
#[track_caller]
pub fn in_force(written: Ordering) -> Ordering {
    let at = Location::caller();
    if written == Ordering::Relaxed || WEAK.is_none() || at.file().contains("proof") {
        return written;
    }
    match &*WEAK_SITE {
        Some((file, line, column)) if (at.line(), at.column()) == (*line, *column) && at.file() == file => {
            Ordering::Relaxed
        }
        Some(_) => written,
        None => {
            SEEN.lock().unwrap().insert((at.file(), at.line(), at.column()));
            written
        }
    }
}

fn parse(site: &str) -> Option<Site> {
    let mut parts = site.split(':');
    let site = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(site)
}

/// Explores every model until one fails, and says which one it is at.
#[test]
fn one_is_weakened_in_a_child() {
    if WEAK.is_none() {
        return;
    }
    for (name, preemptions_max, model) in models::ALL {
        println!("model {name}");
        explore(*preemptions_max, *model);
    }
    for (file, line, column) in &*SEEN.lock().unwrap() {
        println!("site {file}:{line}:{column}");
    }
}

fn child(weaken: &str) -> (Output, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", CHILD, "--nocapture", "--test-threads=1"]).env(WEAKEN, weaken);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

/// The line of a site as it is written.
fn line_of((file, line, _): &Site) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().nth(*line as usize - 1).unwrap().trim().to_owned()
}

#[test]
#[ignore = "some minutes: make loom-weakened"]
fn every_ordering_is_needed_or_says_why_not() {
    let (output, said) = child(NONE);
    assert!(output.status.success(), "{said}");
    let sites: Vec<Site> = said.lines().filter_map(|l| l.strip_prefix("site ").and_then(parse)).collect();
    assert!(sites.len() > 20, "{said}");
    let mut wrong = Vec::new();
    for site in &sites {
        let (file, line, column) = site;
        let (output, said) = child(&format!("{file}:{line}:{column}"));
        let found = !output.status.success();
        let text = line_of(site);
        let listed = NOT_FOUND.iter().find(|(in_file, of, _)| file.ends_with(in_file) && text.contains(of));
        let why = listed.map_or("not listed", |(_, _, why)| why);
        let model = said.lines().filter_map(|l| l.rsplit_once("model ")).last().map_or("", |(_, model)| model);
        println!("{file}:{line}:{column} {text}\n    {}", if found { model } else { why });
        if found == listed.is_some() {
            wrong.push((site, text, found));
        }
    }
    assert!(wrong.is_empty(), "neither found nor listed, or both: {wrong:#?}");
}
