//! Credentials of the store that are withdrawn and replaced while source and target run: it is said that the store refuses them, nothing is
//! lost, and both go on with the new ones without a restart.

use std::path::Path;

use farshore_tests::site::{Site, SiteSpec, VERB_MAX};
use farshore_tests::stores::{Extra, StoreServer};
use farshore_tests::stretches::write_random;

const DISK_BYTES: u64 = 8 << 20;
const SECOND: &str = "second";
/// A policy that allows all of it.
const EVERYTHING: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}]}"#;

fn value<'a>(environment: &'a [(String, String)], name: &str) -> &'a str {
    &environment.iter().find(|(of, _)| of == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Puts a file of AWS's form in place of the one that is there, as tools that renew credentials do.
fn write_profile(path: &Path, key: &str, secret: &str) {
    let next = path.with_extension("next");
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

#[test]
fn credentials_that_are_replaced_while_running_are_taken() {
    let server = StoreServer::seaweed(Extra {
        users: vec![(SECOND.to_owned(), EVERYTHING.to_owned())],
        locked: false,
        ..Extra::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let (first, second) = (server.environment(), server.environment_of(SECOND));
    let (key, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    write_profile(&file, value(&first, key), value(&first, secret));
    let mut environment: Vec<_> = first.iter().filter(|(name, _)| name != key && name != secret).cloned().collect();
    environment.push(("AWS_SHARED_CREDENTIALS_FILE".to_owned(), file.display().to_string()));
    let store = Some((server.url("replaced"), environment));
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], store, ..SiteSpec::default() });
    write_random(&site, 1, 20, 50_000);
    site.assert_catches_up();
    let (agent, processor) = (site.agent().pid(), site.processor().pid());

    write_profile(&file, value(&first, key), "withdrawn-withdrawn-withdrawn");
    write_random(&site, 2, 20, 50_000);
    let _ = site.agent().expect_line("the store refuses it", VERB_MAX);

    write_profile(&file, value(&second, key), value(&second, secret));
    write_random(&site, 3, 20, 50_000);
    site.assert_catches_up();
    assert_eq!((site.agent().pid(), site.processor().pid()), (agent, processor));
    site.end_and_verify();
}
