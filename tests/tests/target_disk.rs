//! The target's disk under a processor that runs: full, read-only after an error, an image deleted. The group stops with the reason,
//! and goes on by itself once that is mended; nobody starts anything anew.

use std::fs::File;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::root::SmallFileSystem;
use farshore_tests::site::{CATCH_UP_MAX, GROUP, Site, SiteSpec};
use farshore_tests::stretches::write_random;
use serde_json::Value;

const DISK_BYTES: u64 = 16 << 20;

/// A site whose target lies in a file system of its own, with a processor that follows.
struct OnSmall {
    site: Site,
    small: Option<SmallFileSystem>,
}

impl OnSmall {
    fn new() -> Self {
        let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
        let small = SmallFileSystem::mount(&site.path("small.img"), &site.target.clone(), 96 << 20);
        site.start_agent();
        site.start_processor();
        site.wait_protected();
        write_random(&site, 1, 20, 50_000);
        let mut on_small = Self { site, small: Some(small) };
        on_small.follows();
        on_small
    }

    /// Everything written so far is in the image, without a hand.
    fn follows(&mut self) {
        let newest = self.site.newest();
        self.site.wait_replayed(newest);
    }

    fn state(&self) -> Value {
        let target = self.site.target.display().to_string();
        let rows = self.site.verb(["status", GROUP, "--target", &target, "--json"]).good().json();
        rows[0]["target"].clone()
    }

    fn stops(&self, words: &[&str]) {
        let deadline = clock::mono() + CATCH_UP_MAX;
        loop {
            let state = self.state();
            if state["state"] == "stopped" {
                let reason = state["reason"].as_str().unwrap();
                assert!(words.iter().any(|word| reason.contains(word)), "{words:?} is not in {reason}");
                assert!(state["recoverable"]["point"] == "latest", "{state}");
                return;
            }
            assert!(clock::mono() < deadline, "it does not stop: {state}");
            clock::sleep(Duration::from_millis(100));
        }
    }

    fn equals_its_source(&mut self) {
        self.follows();
        self.site.stop_agent();
        assert!(self.site.stop_processor().success(), "it was good in the end");
        let _ = self.site.process_once().good();
        self.site.assert_equal();
    }
}

#[test]
fn a_target_that_is_full_goes_on_by_itself_when_there_is_room() {
    let mut on_small = OnSmall::new();
    let ballast = on_small.site.target.join("ballast");
    let free = nix::sys::statvfs::statvfs(&on_small.site.target).unwrap();
    let filling = i64::try_from(free.blocks_available() * free.fragment_size()).unwrap() - (1 << 20);
    nix::fcntl::posix_fallocate(File::create(&ballast).unwrap(), 0, filling).unwrap();
    for seed in 2..5 {
        write_random(&on_small.site, seed, 20, 200_000);
    }
    on_small.stops(&["no room left"]);
    std::fs::remove_file(&ballast).unwrap();
    on_small.equals_its_source();
}

#[test]
fn a_target_whose_file_system_became_read_only_goes_on_by_itself_when_it_is_mounted_again() {
    let mut on_small = OnSmall::new();
    on_small.small.as_ref().expect("it is mounted").fail();
    write_random(&on_small.site, 2, 20, 50_000);
    // Its word cannot be written there: the verb says that nothing was said, and what it sees itself.
    on_small.site.processor().expect_line("the group has stopped", CATCH_UP_MAX);
    assert_eq!(on_small.state()["recoverable"]["point"], "latest");
    // A group that has stopped holds nothing open, so the file system can be taken away and repaired.
    let image = on_small.site.path("small.img");
    on_small.small = on_small.small.take().map(|small| small.repaired(&image));
    on_small.equals_its_source();
}

#[test]
fn a_deleted_image_stops_its_group_and_put_back_it_goes_on_by_itself() {
    let mut on_small = OnSmall::new();
    let image = on_small.site.image(0);
    let aside = image.with_extension("aside");
    std::fs::rename(&image, &aside).unwrap();
    write_random(&on_small.site, 2, 20, 50_000);
    on_small.stops(&["vda.raw is gone"]);
    std::fs::rename(&aside, &image).unwrap();
    on_small.equals_its_source();
}
