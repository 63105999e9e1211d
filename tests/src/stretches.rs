//! A site whose vault holds two stretches of writes with a mark between them: something to be damaged, and a point before it that
//! must stay good.

use std::path::{Path, PathBuf};
use std::process::Command;

use farshore_changelog::ids::Position;
use farshore_changelog::segment::Kind;

use crate::client::Client;
use crate::durable;
use crate::pattern::Rng;
use crate::process::{self, Finished};
use crate::site::{Site, SiteSpec, VERB_MAX};

/// Size of the disk.
pub const DISK_BYTES: u64 = 16 << 20;

/// The error names each of `words`, says what to do, and the verb failed in order.
///
/// # Panics
/// When not.
#[track_caller]
pub fn refused(finished: Finished, words: &[&str]) {
    let finished = finished.bad();
    for word in words {
        assert!(finished.err.contains(word), "{word:?} is not in: {}", finished.err);
    }
    assert!(finished.err.contains("next:"), "it does not say what to do next: {}", finished.err);
}

/// Runs the agent, which must end by itself.
#[must_use]
pub fn run_agent(site: &Site) -> Finished {
    process::run("farshore run", site.agent_command(), VERB_MAX)
}

/// Writes `count` pieces of random length to the first disk, with flushes between.
///
/// # Panics
/// When the server refuses.
pub fn write_random(site: &Site, seed: u64, count: u64, len_max: u64) {
    let mut client = Client::open(&site.disks[0].socket, "vda").expect("the agent serves its disk");
    let mut rng = Rng::new(seed);
    for n in 0..count {
        let len = 1 + rng.below(len_max);
        let data = rng.bytes(len as usize);
        client.write(rng.below(site.disks[0].size - len), &data).expect("a write");
        if n % 8 == 0 {
            client.flush().expect("a flush");
        }
    }
    client.flush().expect("a flush");
}

/// The site; the source as it was at the mark lies in `between`.
pub struct TwoStretches {
    /// Its agent has ended.
    pub site: Site,
    /// Where the mark is.
    pub mark: Position,
    between: PathBuf,
}

impl TwoStretches {
    /// Writes, marks, and writes more; everything is in the vault.
    ///
    /// # Panics
    /// When a step of it fails.
    #[must_use]
    pub fn new() -> Self {
        Self::in_vault(true)
    }

    /// The same in an encrypted vault.
    ///
    /// # Panics
    /// As [`TwoStretches::new`].
    #[must_use]
    pub fn sealed() -> Self {
        Self::in_vault(false)
    }

    fn in_vault(plain: bool) -> Self {
        let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], plain, ..SiteSpec::default() });
        site.start_agent();
        site.wait_protected();
        write_random(&site, 1, 40, 50_000);
        let mark = site.mark("between");
        let between = site.path("between");
        std::fs::copy(&site.disks[0].source, &between).expect("room for a copy");
        let mut stretches = Self { site, mark, between };
        stretches.second_stretch(2);
        stretches.site.stop_agent();
        stretches
    }

    fn second_stretch(&mut self, seed: u64) {
        for seed in seed..seed + 4 {
            write_random(&self.site, seed, 20, 200_000);
            let newest = self.site.newest();
            self.site.wait_shipped(newest);
        }
    }

    /// The host is restarted after an orderly stop, and a third stretch is written, in the next epoch.
    ///
    /// # Panics
    /// When a step of it fails.
    pub fn next_epoch(&mut self) {
        std::fs::remove_file(&self.site.ring).expect("there is a ring");
        self.site.start_agent();
        self.site.wait_protected();
        self.second_stretch(10);
        self.site.stop_agent();
    }

    /// A segment of an epoch with operations after the mark, not the first of them and not the newest object.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn segment_to_spoil(&self, epoch: u64) -> PathBuf {
        let files = durable::segment_files(&self.site.vault, crate::site::GROUP, epoch);
        let mut later = files.into_iter().filter(|f| {
            let index = durable::index(f);
            let head = index.head();
            let after = Position { epoch: head.epoch, seq: head.first_seq } > self.mark;
            head.kind == Kind::Log && after && head.last_seq >= head.first_seq
        });
        later.nth(1).expect("each stretch has several segments")
    }

    /// Replay stops before the spoilt segment, says which it is, and every time again; what came before is good.
    ///
    /// # Panics
    /// When not.
    pub fn assert_stopped_before(&mut self, spoilt: &Path, words: &[&str]) {
        let number = number_of(spoilt);
        for _ in 0..2 {
            let finished = self.site.process_once();
            refused(finished, &[words, &[crate::site::GROUP, &number.to_string()]].concat());
            let standing = self.site.standing().expect("what came before was replayed");
            assert_eq!(standing.segment, number - 1);
            let before = spoilt.with_file_name(format!("{:020}", number - 1));
            assert_eq!(standing.position.seq, durable::index(&before).head().last_seq, "nothing past it was applied");
        }
        self.assert_mark_is_good();
        let verify = ["verify", "--vault", &self.site.vault_url(), "--target", &self.site.target.display().to_string()];
        let said = self.site.verb(verify).bad();
        assert!((said.err + &said.out).contains(&number.to_string()));
    }

    /// The point of the mark is served, and is what the source was.
    ///
    /// # Panics
    /// When not.
    pub fn assert_mark_is_good(&mut self) {
        let point = self.site.points().into_iter().find(|p| p.name.as_deref() == Some("between"));
        let point = point.expect("the mark became a point");
        assert_eq!(point.position, self.mark);
        let attached = self.site.attach(&point.id);
        let seen = self.site.path("seen");
        let mut copy = Command::new("nbdcopy");
        copy.arg(attached.uri("vda")).arg(&seen);
        let _ = process::run("nbdcopy", copy, VERB_MAX).good();
        assert_eq!(durable::first_difference(&self.between, &seen), None, "the older point is not what the source was");
    }

    /// What was spoilt is mended: replay goes on to the end.
    ///
    /// # Panics
    /// When not.
    pub fn assert_goes_on(&mut self) {
        let _ = self.site.process_once().good();
        self.site.assert_equal();
        self.assert_mark_is_good();
    }
}

impl Default for TwoStretches {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of a segment, from its file's name.
///
/// # Panics
/// When the file bears none.
#[must_use]
pub fn number_of(segment: &Path) -> u64 {
    segment.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).expect("a segment's file is its number")
}
