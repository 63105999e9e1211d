//! A configuration that somebody wrote: refused with a reason, or within the limits that the rest counts on.
#![no_main]

use farshore::config::Config;
use farshore_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let text = text.as_bytes();
    Scratch::with(text, text.len() as u64, |path| match Config::read(path) {
        Ok(config) => {
            assert!((1..=32).contains(&config.disks.len()));
            assert!((1..=config.disks.len() as u32).contains(&config.lanes));
            assert!(config.ring_bytes.is_multiple_of(4096) && config.segment_bytes <= config.ring_bytes / 2);
            assert!(config.spool_bytes >= config.segment_bytes && config.state_dir.is_absolute());
            assert!(config.disks.iter().all(|disk| disk.source.is_absolute()));
        }
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    });
});
