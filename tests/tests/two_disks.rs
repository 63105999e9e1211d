//! Two disks, one order: a counter goes to disk A and, after A's acknowledgement, to disk B, over and over, while the agent
//! is killed and started again. In every point, and at any seq between points, A is B or B + 1.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Position;
use farshore_tests::client::Client;
use farshore_tests::pattern::Rng;
use farshore_tests::site::{Attached, Site, SiteSpec};

/// Where the counter lies on each disk, and how many bytes are written with it.
const OFFSET: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;
/// How long the counter runs in each life of the agent.
const LIFE: Duration = Duration::from_secs(4);
/// Lives of the agent.
const LIVES: usize = 3;
/// Counts between two marks, and between two flushes.
const MARK_EVERY: u64 = 400;
const FLUSH_EVERY: u64 = 37;
/// Seqs tried between the points.
const SEQS_TRIED: usize = 12;
/// Points that must have been cut.
const POINTS_MIN: usize = 5;

fn block(count: u64) -> Vec<u8> {
    count.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

fn read_count(client: &mut Client) -> u64 {
    let bytes = client.read(OFFSET, BLOCK_BYTES as u32).unwrap();
    let count = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, block(count), "a block is never torn");
    count
}

/// Counts until the agent's life is over. `acknowledged` gets the newest position after each count was acknowledged.
fn count_on(site: &Site, acknowledged: &mut Vec<(u64, Position)>) {
    let [mut a, mut b] = [0, 1].map(|n| Client::open(&site.disks[n].socket, &site.disks[n].name).unwrap());
    let (at_a, at_b) = (read_count(&mut a), read_count(&mut b));
    assert!(at_a == at_b || at_a == at_b + 1, "the source itself: A {at_a}, B {at_b}");
    let end = clock::mono() + LIFE;
    let mut count = at_b;
    while clock::mono() < end {
        count += 1;
        a.write(OFFSET, &block(count)).unwrap();
        b.write(OFFSET, &block(count)).unwrap();
        acknowledged.push((count, site.newest()));
        if count.is_multiple_of(FLUSH_EVERY) {
            b.flush().unwrap();
        }
        if count.is_multiple_of(MARK_EVERY) {
            let _ = site.mark(&format!("count-{count}"));
        }
    }
    // The last write to A is on its way when the agent is killed, or has just been done.
    let _ = a.send_header(0, farshore_tests::client::command::WRITE, OFFSET, BLOCK_BYTES as u32);
    let _ = std::io::Write::write_all(&mut a.stream, &block(count + 1));
}

fn counts_in(attached: &Attached) -> (u64, u64) {
    let [a, b] = ["vda", "vdb"].map(|name| read_count(&mut Client::open(&attached.socket, name).unwrap()));
    (a, b)
}

#[test]
fn a_point_never_shows_the_second_disk_ahead_of_the_first() {
    let mut site = Site::new(SiteSpec {
        disks: vec![16 << 20, 16 << 20],
        process: ["--point-interval", "1s"].map(str::to_owned).to_vec(),
        ..SiteSpec::default()
    });
    let mut acknowledged = Vec::new();
    site.start_agent();
    site.start_processor();
    for life in 1..=LIVES {
        count_on(&site, &mut acknowledged);
        if life < LIVES {
            site.kill_agent();
            site.start_agent();
        }
    }
    site.stop_agent();
    assert!(site.stop_processor().success());
    let _ = site.process_once().good();
    site.assert_equal();

    let points = site.points();
    assert!(points.len() >= POINTS_MIN, "only {} points were cut", points.len());
    let newest = site.standing().expect("something was replayed").position;
    let first = acknowledged[0].1;
    let mut tried: Vec<(String, Option<Position>)> = points.into_iter().map(|p| (p.id, Some(p.position))).collect();
    let mut rng = Rng::new(7);
    for _ in 0..SEQS_TRIED {
        // Rounded down to where a position may be published.
        let seq = first.seq.0 + rng.below(newest.seq.0 - first.seq.0);
        tried.push((seq.to_string(), None));
    }
    let mut nonzero = 0;
    for (id, listed) in &tried {
        let attached = site.attach(id);
        let position = attached.position;
        assert!(listed.is_none_or(|l| l == position), "point {id} is listed at {listed:?} and served at {position}");
        let (a, b) = counts_in(&attached);
        assert!(a == b || a == b + 1, "point {id} at {position}: A {a}, B {b}");
        let before = acknowledged.partition_point(|(_, acknowledged)| *acknowledged <= position);
        if let Some((count, at)) = before.checked_sub(1).map(|n| acknowledged[n]) {
            assert!(b >= count, "point {id} at {position} lacks count {count}, acknowledged at {at}: B {b}");
        }
        nonzero += usize::from(a > 0);
    }
    assert!(nonzero >= tried.len() / 2, "{nonzero} of {} had counted", tried.len());
}
