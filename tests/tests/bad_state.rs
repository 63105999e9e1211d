//! Configurations, disks, vaults and targets that are not as they should be: a clear error that says what and where, an exit
//! code that is not 0, nothing applied past it, and every older point still good.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use farshore_changelog::ids::Position;
use farshore_changelog::segment::Kind;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::process::{self, Finished};
use farshore_tests::root::SmallFileSystem;
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};

const DISK_BYTES: u64 = 16 << 20;
/// Room on the full target: the first stretch of writes (some 1 MB and its undo journal) fits, the second (some 8 MB) does not.
const ROOM_BYTES: i64 = 4 << 20;

/// The error names each of `words`, and the verb failed in order.
#[track_caller]
fn refused(finished: Finished, words: &[&str]) {
    let finished = finished.bad();
    for word in words {
        assert!(finished.err.contains(word), "{word:?} is not in: {}", finished.err);
    }
    assert!(finished.err.contains("next:"), "it does not say what to do next: {}", finished.err);
}

/// Runs the agent, which must end by itself.
fn agent(site: &Site) -> Finished {
    process::run("farshore run", site.agent_command(), VERB_MAX)
}

fn write_random(site: &Site, seed: u64, count: u64, len_max: u64) {
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    let mut rng = Rng::new(seed);
    for n in 0..count {
        let len = 1 + rng.below(len_max);
        let data = rng.bytes(len as usize);
        client.write(rng.below(DISK_BYTES - len), &data).unwrap();
        if n % 8 == 0 {
            client.flush().unwrap();
        }
    }
    client.flush().unwrap();
}

#[test]
fn a_configuration_that_is_wrong_is_refused() {
    let site = Site::new(SiteSpec { config: "flavour = \"vanilla\"".into(), ..SiteSpec::default() });
    refused(agent(&site), &["flavour", "web01.toml"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_file(&site.disks[0].source).unwrap();
    refused(agent(&site), &["vda", "vda.source"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_file(&site.config).unwrap();
    refused(agent(&site), &["web01.toml"]);

    let site = Site::new(SiteSpec::default());
    File::options().write(true).open(&site.disks[0].source).unwrap().set_len(1_000_001).unwrap();
    refused(agent(&site), &["vda.source", "512"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_dir_all(&site.vault).unwrap();
    refused(site.process_once(), &["vault"]);
    assert!(!site.vault.exists(), "a vault that is gone is not made anew");
}

#[test]
fn a_disk_that_has_shrunk_is_refused_and_nothing_else_happens_to_it() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let source = site.disks[0].source.clone();
    let size = DISK_BYTES / 2;
    File::options().write(true).open(&source).unwrap().set_len(size).unwrap();
    let before = durable::digest(&source);
    refused(agent(&site), &["vda.source", &DISK_BYTES.to_string(), &size.to_string()]);
    assert_eq!(durable::digest(&source), before);
}

#[test]
fn a_second_agent_of_a_group_is_refused_and_the_first_goes_on() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 5, 50_000);
    refused(agent(&site), &[GROUP]);
    write_random(&site, 2, 5, 50_000);
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

#[test]
fn a_vault_of_another_version_is_refused_by_every_verb() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let _ = site.process_once().good();
    let object = site.vault.join("farshore-vault.json");
    let text = std::fs::read_to_string(&object).unwrap();
    let other = text.replace("\"format\":1", "\"format\":7").replace("\"format\": 1", "\"format\": 7");
    assert_ne!(text, other);
    std::fs::write(&object, other).unwrap();
    refused(agent(&site), &["7", &site.vault_url()]);
    refused(site.process_once(), &["7"]);
    refused(site.verb(["init", "--vault", &site.vault_url()]), &["vault"]);
    refused(
        site.verb(["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()]),
        &["7"],
    );
    // The target needs no vault on the day of the disaster.
    let mut attached = site.attach("latest");
    assert_eq!(attached.server.ended(), None);
}

/// A site whose vault holds two stretches of writes; the source as it was at the mark between them lies in `between`.
struct TwoStretches {
    site: Site,
    mark: Position,
    between: PathBuf,
}

fn two_stretches() -> TwoStretches {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 40, 50_000);
    let mark = site.mark("between");
    let between = site.path("between");
    std::fs::copy(&site.disks[0].source, &between).unwrap();
    for seed in 2..6 {
        write_random(&site, seed, 20, 200_000);
        let newest = site.newest();
        site.wait_shipped(newest);
    }
    site.stop_agent();
    TwoStretches { site, mark, between }
}

impl TwoStretches {
    /// A segment with operations after the mark, not the first of them and not the newest object.
    fn segment_to_spoil(&self) -> PathBuf {
        let files = durable::segment_files(&self.site.vault, GROUP, 1);
        let mut later = files.into_iter().filter(|f| {
            let index = durable::index(f);
            let head = index.head();
            head.kind == Kind::Log && head.first_seq > self.mark.seq && head.last_seq >= head.first_seq
        });
        later.nth(1).expect("the second stretch has several segments")
    }

    /// Replay stops before the spoilt segment, says which it is, and every time again; what came before is good.
    fn assert_stopped_before(&mut self, spoilt: &Path, words: &[&str]) {
        let number: u64 = spoilt.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for _ in 0..2 {
            let finished = self.site.process_once();
            refused(finished, &[words, &[&number.to_string()]].concat());
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

    fn assert_mark_is_good(&mut self) {
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
}

#[test]
fn a_flipped_byte_stops_replay_before_its_segment() {
    // In the header, in the first block, in the middle, in the footer.
    let len = |f: &Path| std::fs::metadata(f).unwrap().len();
    let places: [fn(u64) -> u64; 4] = [|_| 100, |_| 300, |len| len / 2, |len| len - 20];
    let mut stretches = two_stretches();
    let spoilt = stretches.segment_to_spoil();
    let whole = std::fs::read(&spoilt).unwrap();
    for place in places {
        let at = place(len(&spoilt));
        let file = File::options().write(true).open(&spoilt).unwrap();
        file.write_all_at(&[whole[at as usize] ^ 0x10], at).unwrap();
        stretches.assert_stopped_before(&spoilt, &[GROUP]);
        std::fs::write(&spoilt, &whole).unwrap();
    }
    // Once it is whole again, replay goes on to the end.
    let _ = stretches.site.process_once().good();
    stretches.site.assert_equal();
    stretches.assert_mark_is_good();
}

#[test]
fn a_missing_cut_or_exchanged_segment_stops_replay_before_it() {
    let mut stretches = two_stretches();
    let spoilt = stretches.segment_to_spoil();
    let whole = std::fs::read(&spoilt).unwrap();

    std::fs::remove_file(&spoilt).unwrap();
    stretches.assert_stopped_before(&spoilt, &[GROUP]);
    std::fs::write(&spoilt, &whole[..whole.len() - 1]).unwrap();
    stretches.assert_stopped_before(&spoilt, &[GROUP]);
    std::fs::write(&spoilt, b"").unwrap();
    stretches.assert_stopped_before(&spoilt, &[GROUP]);
    // Whole in itself, but another's place.
    let number: u64 = spoilt.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let next = spoilt.with_file_name(format!("{:020}", number + 1));
    std::fs::copy(next, &spoilt).unwrap();
    stretches.assert_stopped_before(&spoilt, &[GROUP]);

    std::fs::write(&spoilt, &whole).unwrap();
    let _ = stretches.site.process_once().good();
    stretches.site.assert_equal();
}

#[test]
fn a_full_target_disk_stops_replay_in_order_and_more_room_lets_it_go_on() {
    let mut stretches = two_stretches();
    let target = stretches.site.target.clone();
    let mounted = SmallFileSystem::mount(&stretches.site.path("small.img"), &target, 64 << 20);
    let ballast = target.join("ballast");
    let free = nix::sys::statvfs::statvfs(&target).unwrap();
    let filling = i64::try_from(free.blocks_available() * free.fragment_size()).unwrap() - ROOM_BYTES;
    nix::fcntl::posix_fallocate(File::create(&ballast).unwrap(), 0, filling).unwrap();
    refused(stretches.site.process_once(), &[GROUP, "No space left"]);
    let standing = stretches.site.standing().expect("the first stretch has room");
    assert!(standing.position >= stretches.mark);
    // A second run fails as the first did and loses nothing.
    refused(stretches.site.process_once(), &["No space left"]);
    assert!(stretches.site.standing().expect("it is still there").position >= standing.position);
    stretches.assert_mark_is_good();
    std::fs::remove_file(&ballast).unwrap();
    let _ = stretches.site.process_once().good();
    stretches.site.assert_equal();
    stretches.assert_mark_is_good();
    drop(mounted);
}
