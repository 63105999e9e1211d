//! What a store lets a source and a target do, by policies that it enforces itself: a disk is protected with the least that a source
//! needs, whoever steals those credentials can do nothing to the history, and a store that refuses to delete stops nothing.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};
use farshore_tests::stores::{Extra, StoreServer};
use farshore_tests::stretches::write_random;

const DISK_BYTES: u64 = 8 << 20;
const PREFIX: &str = "dr";
const USER: &str = "web01-source";

/// The policy of docs/security.md without its condition, which SeaweedFS does not know: it then allows nothing.
fn least() -> String {
    let at = format!("arn:aws:s3:::vault/{PREFIX}");
    let announced = format!("{at}/announced/*");
    let put =
        [format!("{at}/groups/{GROUP}/log/*"), format!("{at}/groups/{GROUP}/to-source/epochs/*"), announced.clone()];
    let get = [format!("{at}/groups/{GROUP}/to-source/*"), format!("{at}/farshore-vault.json"), announced];
    serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:PutObject", "Resource": put},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": get},
    ]})
    .to_string()
}

/// Everything that a target does but delete.
fn no_delete() -> String {
    serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::vault/*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::vault"},
    ]})
    .to_string()
}

/// What is tried with stolen credentials. Each line of its output is what was tried, and how it ended.
const ATTACK: &str = r#"
import json
first, other, epoch = FIRST, OTHER, EPOCH
def tried(name, attempt):
    try:
        answer = attempt()
        errors = answer.get('Errors') or []
        print(name, errors[0]['Code'] if errors else 'done')
    except Exception as e:
        print(name, e.response['Error']['Code'])
tried('get', lambda: s3.get_object(Bucket=bucket, Key=first))
tried('head', lambda: s3.head_object(Bucket=bucket, Key=first))
tried('list', lambda: s3.list_objects_v2(Bucket=bucket, Prefix=first[:-20]))
tried('list-all', lambda: s3.list_objects_v2(Bucket=bucket))
tried('list-versions', lambda: s3.list_object_versions(Bucket=bucket))
tried('delete', lambda: s3.delete_object(Bucket=bucket, Key=first))
tried('delete-version', lambda: s3.delete_object(Bucket=bucket, Key=first, VersionId=VERSION))
tried('delete-many', lambda: s3.delete_objects(Bucket=bucket, Delete={'Objects': [{'Key': first}, {'Key': first, 'VersionId': VERSION}]}))
tried('copy-over', lambda: s3.copy_object(Bucket=bucket, Key=first, CopySource=bucket + '/' + first))
tried('read-by-copy', lambda: s3.copy_object(Bucket=bucket, Key=epoch + '-copy', CopySource=bucket + '/' + first))
tried('put-if-absent', lambda: s3.put_object(Bucket=bucket, Key=first, Body=b'rubbish', IfNoneMatch='*'))
tried('epoch-if-absent', lambda: s3.put_object(Bucket=bucket, Key=epoch, Body=b'rubbish', IfNoneMatch='*'))
tried('vault-object', lambda: s3.put_object(Bucket=bucket, Key=VAULT, Body=b'{}'))
tried('other-group', lambda: s3.put_object(Bucket=bucket, Key=other, Body=b'rubbish', IfNoneMatch='*'))
tried('get-other-group', lambda: s3.get_object(Bucket=bucket, Key=other))
tried('request', lambda: s3.put_object(Bucket=bucket, Key=REQUEST, Body=b'{}'))
tried('versioning-off', lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={'Status': 'Suspended'}))
tried('expire', lambda: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={'Rules': [
    {'ID': 'x', 'Status': 'Enabled', 'Filter': {'Prefix': ''}, 'Expiration': {'Days': 1}}]}))
tried('policy', lambda: s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({'Version': '2012-10-17', 'Statement': [
    {'Effect': 'Allow', 'Principal': '*', 'Action': 's3:*', 'Resource': 'arn:aws:s3:::' + bucket + '/*'}]})))
tried('bucket', lambda: s3.delete_bucket(Bucket=bucket))
"#;

fn key(rest: &str) -> String {
    format!("{PREFIX}/groups/{GROUP}/{rest}")
}

fn first_segment() -> String {
    key("log/0000000001/00000000000000000001")
}

/// The versions of an object, newest first, and their content's length, as the administrator sees them.
fn versions(server: &StoreServer, key: &str) -> Vec<(String, u64)> {
    let script = format!(
        "for v in s3.list_object_versions(Bucket=bucket,Prefix='{key}').get('Versions',[]): print(v['VersionId'], v['Size'])"
    );
    let said = server.script(None, &script).good();
    let line = |line: &str| {
        let (id, size) = line.split_once(' ').expect("two words");
        (id.to_owned(), size.parse().expect("a number"))
    };
    said.out.lines().map(line).collect()
}

/// A source that has the least rights, and a target that has all.
fn site_of(server: &StoreServer) -> Site {
    let store = Some((server.url(PREFIX), server.environment()));
    let process = ["--retention", "1s", "--point-interval", "1s"].map(str::to_owned).to_vec();
    Site::new(SiteSpec { disks: vec![DISK_BYTES], store, process, ..SiteSpec::default() })
}

fn start_source(site: &mut Site, server: &StoreServer) {
    let mut command = site.agent_command();
    command.envs(server.environment_of(USER));
    site.start_agent_as(command);
}

/// Another processor, after what is in the vault has become older than is kept.
fn restart_processor(site: &mut Site, environment: &[(String, String)]) {
    assert!(site.stop_processor().success());
    clock::sleep(Duration::from_secs(3));
    site.start_processor_as(environment);
}

/// The source has a key of its own too, with which it can read nothing back.
fn give_source_its_key(site: &mut Site) {
    let path = site.path("source.key").display().to_string();
    let _ = site.verb(["key", "source", GROUP, "--vault", &site.vault_url(), "--out", &path]).good();
    site.reconfigure(&format!("key_file = \"{path}\"\n"));
}

#[test]
fn a_source_with_least_rights_cannot_read_alter_or_delete_history() {
    let users = vec![(USER.to_owned(), least())];
    let server = StoreServer::seaweed(Extra { users, locked: true, ..Extra::default() });
    let mut site = site_of(&server);
    give_source_its_key(&mut site);

    // First start, a crash of the host (an epoch that the source opens by itself), and an orderly end: all of it with these rights.
    start_source(&mut site, &server);
    site.wait_protected();
    write_random(&site, 1, 40, 50_000);
    let newest = site.newest();
    site.wait_shipped(newest);
    site.lose_source();
    std::fs::remove_file(&site.ring).unwrap();
    start_source(&mut site, &server);
    site.start_processor();
    site.wait_protected();
    write_random(&site, 2, 40, 50_000);
    let mark = site.mark("before the theft");
    site.assert_catches_up();
    assert_eq!(mark.epoch.0, 2, "the source has opened an epoch");

    let before = versions(&server, &key("log/"));
    let [(version, size)] = &versions(&server, &first_segment())[..] else { panic!("one version is expected") };
    let names = [
        ("FIRST", first_segment()),
        ("VERSION", version.clone()),
        ("OTHER", format!("{PREFIX}/groups/db01/log/0000000001/00000000000000000001")),
        ("EPOCH", key("to-source/epochs/0000000001.json")),
        ("REQUEST", key("to-source/requests/00000000000000000001.json")),
        ("VAULT", format!("{PREFIX}/farshore-vault.json")),
    ];
    let names: String = names.iter().map(|(name, value)| format!("{name}={value:?}\n")).collect();
    let said = server.script(Some(USER), &format!("{names}{ATTACK}")).good();
    println!("{}", said.out);
    assert_eq!(said.out.lines().count(), 20, "{}", said.out);
    for line in said.out.lines() {
        let (what, how) = line.split_once(' ').unwrap();
        let wanted = match what {
            // Put-if-absent itself may be tried.
            "put-if-absent" | "epoch-if-absent" => "PreconditionFailed",
            // The answer to `head` has no body to say it in.
            "head" => "403",
            _ => "AccessDenied",
        };
        assert_eq!(how, wanted, "{what}");
    }
    // Heartbeats came meanwhile.
    let after = versions(&server, &key("log/"));
    assert!(before.iter().all(|version| after.contains(version)), "of {before:?} something is not in {after:?}");
    assert_eq!(versions(&server, &first_segment()), [(version.clone(), *size)]);

    // A put without a condition is what its policies cannot refuse. It lands beside what was there, which stays.
    let overwrite = format!("s3.put_object(Bucket=bucket, Key='{}', Body=b'rubbish')", first_segment());
    let _ = server.script(Some(USER), &overwrite).good();
    let now = versions(&server, &first_segment());
    assert!(now.len() == 2 && now.contains(&(version.clone(), *size)), "{now:?} lacks {version}");

    // What was applied is as it was, and goes on.
    write_random(&site, 3, 10, 50_000);
    site.assert_catches_up();
    assert!(site.points().iter().any(|p| p.position == mark), "the mark is gone");
    site.stop_agent();
    assert!(site.stop_processor().success());
}

#[test]
fn object_lock_and_a_target_that_may_not_delete_stop_nothing() {
    let users = vec![(USER.to_owned(), least()), ("target".to_owned(), no_delete())];
    let server = StoreServer::seaweed(Extra { users, locked: true, ..Extra::default() });
    let mut site = site_of(&server);
    start_source(&mut site, &server);
    let target = server.environment_of("target");
    site.start_processor_as(&target);
    site.wait_protected();
    write_random(&site, 1, 40, 50_000);
    site.assert_catches_up();

    // Points are let go after a second, and what only they needed is then to be deleted: when a processor starts, and later every ten
    // minutes.
    restart_processor(&mut site, &target);
    let said = site.processor().expect_line("segments are not pruned", VERB_MAX);
    assert!(said.contains("cannot delete") && said.contains("AccessDenied") && said.contains("rights"), "{said}");
    write_random(&site, 2, 40, 50_000);
    site.assert_catches_up();
    assert!(!versions(&server, &first_segment()).is_empty(), "it was deleted");

    // With the right to delete, its deletes leave the locked versions; replay from the beginning then says what is missing, and an
    // administrator has all of it.
    restart_processor(&mut site, &[]);
    let _ = site.processor().expect_line("segments pruned from the vault", VERB_MAX);
    write_random(&site, 3, 40, 50_000);
    site.assert_catches_up();
    let kept = versions(&server, &first_segment());
    assert_eq!(kept.len(), 1, "a locked version is gone");
    let id = &kept[0].0;
    let attempt = format!("s3.delete_object(Bucket=bucket, Key='{}', VersionId='{id}')", first_segment());
    let refused = server.script(None, &attempt);
    assert!(!refused.status.success() && refused.err.contains("AccessDenied"), "{refused:?}");
    site.end_and_verify();
}
