//! A group whose source machine, state folder or disk is another than before: it is refused by name, and taken over on
//! request with a new epoch that copies everything.

use farshore_changelog::ids::Epoch;
use farshore_tests::bin;
use farshore_tests::client::Client;
use farshore_tests::process::{Finished, run};
use farshore_tests::site::{Site, SiteSpec};

const DISK_BYTES: u64 = 16 << 20;
const VERB_MAX: std::time::Duration = std::time::Duration::from_secs(60);

fn write(site: &Site, byte: u8) {
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    client.write(u64::from(byte) << 16, &vec![byte; 65_536]).unwrap();
    client.flush().unwrap();
}

fn enable(site: &Site, adopt: bool) -> Finished {
    let mut args = vec!["enable".to_owned(), site.config.display().to_string(), "--json".into()];
    if adopt {
        args.push("--adopt".into());
    }
    run("farshore enable", bin::farshore(args), VERB_MAX)
}

#[test]
fn a_group_without_its_state_is_refused_until_it_is_adopted() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write(&site, 1);
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();

    // Asked of the source that was: what the adoption does already, and what would begin another epoch after it.
    let ask = ["resync", "web01", "--full", "--vault", &site.vault_url()].map(str::to_owned);
    let _ = run("farshore resync", bin::farshore(ask), VERB_MAX).good();

    std::fs::remove_dir_all(site.path("state")).unwrap();
    let refused = enable(&site, false).bad();
    for word in ["web01", "epoch 1", "--adopt"] {
        assert!(refused.err.contains(word), "{word:?} is not in: {}", refused.err);
    }
    assert_eq!(enable(&site, true).good().json()["epoch"], 2);
    let done = std::fs::read_to_string(site.path("state/requests-done.json")).unwrap();
    assert_eq!(done.split_whitespace().collect::<String>(), r#"{"done":1}"#, "the request would be carried out again");
    // Nothing of the new epoch has reached the vault, so its number is still free.
    assert_eq!(enable(&site, true).good().json()["epoch"], 2);

    site.start_agent();
    site.wait_protected();
    write(&site, 2);
    let newest = site.newest();
    assert_eq!(newest.epoch, Epoch(2));
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
    let points = site.points();
    assert!(points.iter().any(|p| p.position.epoch == Epoch(1)), "the points before are kept: {points:?}");
}
