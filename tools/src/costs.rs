//! What a group asks of an object store, and what that costs at list prices. Pure: `docs/costs.md` explains it, and its tables are made
//! here. What is asked for each segment, heartbeat and look is held by `shipper/src/tests/requests.rs` and
//! `processor/src/group/tests/requests.rs`.

use std::time::Duration;

use farshore_processor::discover::{DISCOVER_EVERY, LISTED_EVERY};
use farshore_processor::poll;
use farshore_processor::processor::POLL;
use farshore_processor::vault_retention::LISTED_AFRESH_EVERY;
use farshore_vault::count::LIST_PAGE;

use crate::config::{HEARTBEAT, MAX_DELAY, SEGMENT_BYTES};

/// A month: 30 days.
const MONTH_SECONDS: f64 = 30.0 * 24.0 * 60.0 * 60.0;

/// How a group writes, and what its source and its target were told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// Bytes a second, written at an even pace; what is overwritten within a segment does not count. 0: idle.
    pub churn: f64,
    /// `segment_size`, in bytes.
    pub segment_bytes: u64,
    /// `max_delay`.
    pub max_delay: Duration,
    /// `heartbeat`.
    pub heartbeat: Duration,
    /// `--poll`.
    pub poll: Duration,
}

impl Use {
    /// With the options that a group has unless it says otherwise.
    #[must_use]
    pub fn usual(churn: f64) -> Self {
        Self { churn, segment_bytes: SEGMENT_BYTES, max_delay: MAX_DELAY, heartbeat: HEARTBEAT, poll: POLL }
    }

    /// Segments a second. One is sealed when it is full, or its oldest record has waited for `max_delay`; an idle group seals an empty
    /// one every heartbeat.
    #[must_use]
    pub fn segments(&self) -> f64 {
        if self.churn > 0.0 {
            (self.churn / self.segment_bytes as f64).max(1.0 / self.max_delay.as_secs_f64())
        } else {
            1.0 / self.heartbeat.as_secs_f64()
        }
    }

    /// What the source asks in a second: a put for each segment; and, once a heartbeat, whether there is a successor of its epoch and
    /// whether there is a request, which are two gets that find nothing.
    #[must_use]
    pub fn source(&self) -> Requests {
        self.source_of(self.segments())
    }

    /// As [`Use::source`], of a source that seals so many segments a second.
    #[must_use]
    pub fn source_of(&self, segments: f64) -> Requests {
        let looks = 1.0 / self.heartbeat.as_secs_f64();
        Requests { puts: segments, gets: 2.0 * looks, ..Requests::default() }
    }

    /// What one target asks in a second: a get for each segment, one that finds nothing for each look, a delete for each segment, and
    /// a listing of the whole log a day. A new point asks nothing.
    #[must_use]
    pub fn target(&self) -> Requests {
        self.target_of(self.segments(), self.looks_in_vain())
    }

    /// As [`Use::target`], where so many segments come and so many looks find nothing, a second.
    #[must_use]
    pub fn target_of(&self, segments: f64, looks_in_vain: f64) -> Requests {
        let kept = segments * RETENTION_SECONDS;
        Requests {
            gets: segments + looks_in_vain,
            lists: (kept / LIST_PAGE as f64).ceil().max(1.0) / LISTED_AFRESH_EVERY.as_secs_f64(),
            deletes: segments,
            ..Requests::default()
        }
    }

    /// What a source that seals so many segments a second, and one target, ask in a second. Of the segments as many as there would be of
    /// an idle group are taken for heartbeats: a target looks no more often for them.
    #[must_use]
    pub fn at_pace(&self, segments: f64) -> (Requests, Requests) {
        let written = segments - 1.0 / self.heartbeat.as_secs_f64();
        let spacing = if written > 0.0 { 1.0 / written } else { f64::INFINITY };
        let looks = Duration::try_from_secs_f64(spacing)
            .map_or_else(|_| self.looks_of_idle(), |spacing| self.looks_within(spacing) / spacing.as_secs_f64());
        (self.source_of(segments), self.target_of(segments, looks))
    }

    /// Looks a second after which there was nothing, or nothing more.
    #[must_use]
    pub fn looks_in_vain(&self) -> f64 {
        if self.churn <= 0.0 {
            return self.looks_of_idle();
        }
        let spacing = Duration::from_secs_f64(1.0 / self.segments());
        self.looks_within(spacing) / spacing.as_secs_f64()
    }

    fn looks_of_idle(&self) -> f64 {
        1.0 / poll::pause(Duration::MAX, self.poll).as_secs_f64()
    }

    /// Looks between two segments with something in them that are so far from each other; less than one when they are nearer than
    /// looks are.
    #[must_use]
    pub fn looks_within(&self, spacing: Duration) -> f64 {
        let longest = poll::pause(Duration::MAX, self.poll);
        let (mut quiet, mut looks) = (Duration::ZERO, 0.0);
        while quiet < spacing {
            let pause = poll::pause(quiet, self.poll);
            if pause == longest {
                looks += ((spacing - quiet).as_secs_f64() / longest.as_secs_f64()).ceil();
                break;
            }
            quiet += pause;
            looks += 1.0;
        }
        f64::min(looks, spacing.as_secs_f64() / self.poll.as_secs_f64())
    }

    /// How long a write waits at most until its segment is sealed. The upload comes on top.
    #[must_use]
    pub fn waits(&self) -> Duration {
        if self.churn <= 0.0 {
            return Duration::ZERO;
        }
        let full = self.segment_bytes as f64 / self.churn;
        Duration::try_from_secs_f64(full).map_or(self.max_delay, |full| full.min(self.max_delay))
    }
}

/// What a target asks in a second for the vault as a whole, with so many groups: whether one more was announced, and now and then which
/// there are.
#[must_use]
pub fn of_vault(groups: u64) -> Requests {
    let pages = groups.div_ceil(LIST_PAGE).max(1);
    let (looks, lists) = (1.0 / DISCOVER_EVERY.as_secs_f64(), pages as f64 / LISTED_EVERY.as_secs_f64());
    Requests { gets: looks, lists, ..Requests::default() }
}

/// Requests, a second or a month.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Requests {
    /// Conditional puts.
    pub puts: f64,
    /// Gets, those too that find nothing.
    pub gets: f64,
    /// Pages of listings.
    pub lists: f64,
    /// Deletes.
    pub deletes: f64,
}

impl Requests {
    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            puts: self.puts + other.puts,
            gets: self.gets + other.gets,
            lists: self.lists + other.lists,
            deletes: self.deletes + other.deletes,
        }
    }

    /// So many times these.
    #[must_use]
    pub fn times(self, n: f64) -> Self {
        let Self { puts, gets, lists, deletes } = self;
        Self { puts: puts * n, gets: gets * n, lists: lists * n, deletes: deletes * n }
    }

    /// Of a month, where these are of a second.
    #[must_use]
    pub fn a_month(self) -> Self {
        self.times(MONTH_SECONDS)
    }
}

/// List prices in dollars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Whose.
    pub name: &'static str,
    /// Of a million puts, and of a million pages of listings.
    pub put: f64,
    /// Of a million gets.
    pub get: f64,
    /// Of a million deletes.
    pub delete: f64,
    /// Of a GB stored for a month.
    pub stored: f64,
    /// Of a GB read from another region, and over the internet.
    pub egress: (f64, f64),
}

/// S3 Standard, us-east-1, 2026.
pub const S3: Prices =
    Prices { name: "S3 Standard", put: 5.0, get: 0.4, delete: 0.0, stored: 0.023, egress: (0.02, 0.09) };
/// Azure Blob Storage, hot, zone-redundant, 2026: the dearer end of what regions cost.
pub const AZURE: Prices =
    Prices { name: "Azure Blob, hot, ZRS", put: 6.5, get: 0.5, delete: 0.0, stored: 0.023, egress: (0.02, 0.087) };

impl Prices {
    /// Those of the store that a vault's URL names; `None` of a folder. Google's are those of S3.
    #[must_use]
    pub fn of_store(url: &str) -> Option<Self> {
        match url.split_once("://")?.0 {
            "file" => None,
            "az" => Some(AZURE),
            _ => Some(S3),
        }
    }

    /// Dollars.
    #[must_use]
    pub fn of(&self, asked: Requests) -> f64 {
        ((asked.puts + asked.lists) * self.put + asked.gets * self.get + asked.deletes * self.delete) / 1e6
    }
}

/// `--retention`, unless it is told otherwise.
const RETENTION_SECONDS: f64 = 24.0 * 60.0 * 60.0;
/// Churns of the table, in MB/s.
const CHURNS: [u32; 4] = [0, 1, 10, 50];
/// Delays of the table, in seconds.
const DELAYS: [u64; 4] = [1, 5, 30, 300];

/// The table of `docs/costs.md`: a month of one group with one target. Delays that make no difference share a line.
#[must_use]
pub fn table() -> String {
    let mut text = format!(
        "| churn, MB/s | `max_delay` | PUT | GET | LIST | DELETE | {} | {} |\n|--:|---|--:|--:|--:|--:|--:|--:|\n",
        S3.name, AZURE.name
    );
    for churn in CHURNS {
        let mut lines: Vec<(Vec<String>, String)> = Vec::new();
        for delay in DELAYS {
            let max_delay = Duration::from_secs(delay);
            let used = Use { max_delay, ..Use::usual(f64::from(churn) * 1e6) };
            let asked = used.source().and(used.target()).a_month();
            let Requests { puts, gets, lists, deletes } = asked;
            let figures = format!(
                "{} | {} | {} | {} | ${:.2} | ${:.2} |",
                counted(puts),
                counted(gets),
                counted(lists),
                counted(deletes),
                S3.of(asked),
                AZURE.of(asked)
            );
            match lines.last_mut().filter(|(_, before)| *before == figures) {
                Some((delays, _)) => delays.push(format!("{delay} s")),
                None => lines.push((vec![format!("{delay} s")], figures)),
            }
        }
        let churn = if churn == 0 { "idle".to_owned() } else { churn.to_string() };
        for (delays, figures) in lines {
            let delays = if delays.len() == DELAYS.len() { "any".to_owned() } else { delays.join(", ") };
            text += &format!("| {churn} | {delays} | {figures}\n");
        }
    }
    text
}

/// What of each byte written lies in the vault, in the tables: content of which half compresses away.
const STORED: f64 = 0.5;

/// The table of what is kept and read: content that is stored for a day, and read once by a target elsewhere.
#[must_use]
pub fn data_table() -> String {
    let mut text =
        "| churn, MB/s | in the vault, GB | stored a month | read from another region a month | over the internet a \
                    month |\n|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for churn in CHURNS.into_iter().filter(|churn| *churn > 0) {
        let a_second = f64::from(churn) / 1e3 * STORED;
        let (kept, read) = (a_second * RETENTION_SECONDS, a_second * MONTH_SECONDS);
        let (stored, region, internet) = (kept * S3.stored, read * S3.egress.0, read * S3.egress.1);
        text += &format!("| {churn} | {kept:.0} | ${stored:.2} | ${region:.0} | ${internet:.0} |\n");
    }
    text
}

/// The table of prices in `docs/costs.md`.
#[must_use]
pub fn price_table() -> String {
    let mut text = "| list price, $ | PUT, LIST: a million | GET: a million | DELETE | stored: a GB and month | \
                    read from another region: a GB | over the internet: a GB |\n|---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for Prices { name, put, get, delete, stored, egress: (region, internet) } in [S3, AZURE] {
        text +=
            &format!("| {name} | {put:.2} | {get:.2} | {delete:.2} | {stored:.3} | {region:.3} | {internet:.3} |\n");
    }
    text
}

/// Thousands and millions.
#[must_use]
pub fn counted(requests: f64) -> String {
    if requests >= 1e6 { format!("{:.2} M", requests / 1e6) } else { format!("{:.1} k", requests / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * a.abs().max(1.0)
    }

    #[test]
    fn an_idle_group_costs_its_heartbeats_and_a_look_every_five_seconds() {
        let idle = Use::usual(0.0);
        assert!(near(idle.source().puts, 0.1) && near(idle.source().gets, 0.2));
        assert!(near(idle.target().gets, 0.1 + 0.2) && near(idle.target().lists, 9.0 / 86_400.0));
        assert!(near(idle.source().a_month().puts, 259_200.0));
    }

    #[test]
    fn a_segment_is_sealed_full_or_late_whichever_comes_first() {
        let busy = Use { max_delay: Duration::from_secs(300), ..Use::usual(8.0 * f64::from(8 << 20)) };
        assert!(near(busy.segments(), 8.0));
        assert!(near(Use { max_delay: Duration::from_millis(10), ..busy }.segments(), 100.0));
        // Several come between two looks: each look gets them, and one that finds nothing.
        assert!(near(busy.target().gets, 8.0 + 2.0));
        // The log of a day, once a day.
        assert!(near(busy.target().lists * 86_400.0, 692.0));
        assert!(near(Use { heartbeat: Duration::from_secs(3600), ..Use::usual(0.0) }.target().lists, 1.0 / 86_400.0));
        assert!(near(busy.target().deletes, 8.0));
    }

    #[test]
    fn the_longer_nothing_comes_the_rarer_it_is_looked_for() {
        let slow = |seconds: u64| Use { max_delay: Duration::from_secs(seconds), ..Use::usual(1.0) }.looks_in_vain();
        assert!(near(slow(1), 2.0) && near(slow(2), 2.0));
        assert!(slow(30) < 0.8 && slow(300) < 0.3 && slow(300) > 0.2);
    }

    #[test]
    fn prices_are_of_a_million() {
        let million = Requests { puts: 1e6, gets: 1e6, lists: 1e6, deletes: 1e6 };
        assert!(near(S3.of(million), 10.4) && near(AZURE.of(million), 13.5));
        assert!(near(of_vault(1).lists, 1.0 / 3600.0) && near(of_vault(1001).lists, 2.0 / 3600.0));
        assert!(near(of_vault(1).a_month().gets, 86_400.0) && near(of_vault(1).a_month().lists, 720.0));
    }

    #[test]
    fn a_pace_that_was_kept_costs_what_a_churn_with_that_pace_does() {
        for (used, segments) in
            [(Use::usual(0.0), 0.1), (Use::usual(1e6), 1.0), (Use::usual(80.0 * f64::from(1 << 20)), 10.0)]
        {
            let (source, target) = used.at_pace(segments);
            assert!(near(source.puts, used.source().puts) && near(source.gets, used.source().gets));
            assert!(near(target.deletes, used.target().deletes) && near(target.lists, used.target().lists));
            assert!(target.gets >= used.target().gets && target.gets <= used.target().gets + 2.0, "{target:?}");
        }
        // The last is what was measured in a minute: one heartbeat more or less than there are on average, taken for a rare write.
        for idle in [0.0, 0.1, 0.1023] {
            let (source, target) = Use::usual(0.0).at_pace(idle);
            assert!(
                near(source.puts, idle) && (target.gets - idle - 0.2).abs() < 0.03,
                "{target:?}: heartbeats are no writes"
            );
        }
    }

    #[test]
    fn a_folder_costs_no_requests() {
        assert_eq!(Prices::of_store("file:///vault"), None);
        let name = |url| Prices::of_store(url).map(|p| p.name);
        assert_eq!((name("s3://b/v"), name("az://b/v")), (Some(S3.name), Some(AZURE.name)));
    }
}
