//! One suite that every store of a vault passes: a folder, and real servers of S3 and Azure Blob. And the one store that must be refused.

use std::future::Future;

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_tests::stores::{Kind, StoreServer};
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{Access, Put, Request, Variables, Vault, VaultError};

/// Racing writers of one object, and how often they race.
const WRITERS: u8 = 16;
const RACES: u64 = 8;
/// Bytes of what each writes: more than fits a packet.
const RACED_BYTES: usize = 100_000;
/// The largest segment there can be.
const LARGEST_BYTES: usize = 64 << 20;

fn group() -> GroupName {
    // What a name may hold that some store or its signing might trip over.
    GroupName::new("We_b.01-x").unwrap()
}

/// What the environment of its users says.
fn variables(server: &StoreServer) -> Variables {
    server.environment().into_iter().collect()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// What every store does.
async fn conforms(url: &str, variables: &Variables) {
    assert!(matches!(open(url, variables).await, Err(VaultError::NotAVault { .. })), "it is empty");
    let vault = Vault::init_in_environment(url, variables).await.unwrap();
    let again = Vault::init_in_environment(url, variables).await.unwrap_err();
    assert!(matches!(again, VaultError::AlreadyAVault { .. }), "{again}");
    let vault = {
        let opened = open(url, variables).await.unwrap();
        assert_eq!(opened.id(), vault.id());
        opened
    };
    of_sixteen_writers_one_wins(&vault).await;
    what_is_written_is_read_and_listed_in_order(&vault).await;
    the_largest_segment_goes_in_and_out(&vault).await;
    what_is_not_there_is_no_error(&vault).await;
}

async fn open(url: &str, variables: &Variables) -> Result<Vault, VaultError> {
    Vault::open_with(url, &Access::of(variables.clone()), RetryPolicy::PATIENT).await
}

async fn of_sixteen_writers_one_wins(vault: &Vault) {
    for number in (1..=RACES).map(SegmentNo) {
        let writers = (0..WRITERS).map(|me| {
            let group = vault.group(&group());
            let bytes = Bytes::from(vec![me; RACED_BYTES]);
            tokio::spawn(async move { (me, group.put_segment(Epoch(1), number, bytes).await.unwrap()) })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            let (me, put) = writer.await.unwrap();
            winners.extend((put == Put::Created).then_some(me));
        }
        let stored = vault.group(&group()).get_segment(Epoch(1), number).await.unwrap().unwrap();
        assert_eq!(winners.len(), 1, "winners of {number}: {winners:?}");
        assert!(stored == vec![winners[0]; RACED_BYTES], "what lies there is not the winner's");
    }
}

async fn what_is_written_is_read_and_listed_in_order(vault: &Vault) {
    let group = vault.group(&group());
    for n in [1200, 3, 1, u64::MAX - 1, 2] {
        let bytes = Bytes::from(format!("segment {n}"));
        assert_eq!(group.put_segment(Epoch(2), SegmentNo(n), bytes.clone()).await.unwrap(), Put::Created);
        assert_eq!(group.get_segment(Epoch(2), SegmentNo(n)).await.unwrap(), Some(bytes.clone()));
        assert_eq!(group.put_segment(Epoch(2), SegmentNo(n), bytes).await.unwrap(), Put::Exists);
    }
    let listed = |from| {
        let group = group.clone();
        async move {
            let all = group.list_segments(Epoch(2), SegmentNo(from)).await.unwrap();
            all.into_iter().map(|(number, bytes)| (number.0, bytes)).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed(1).await, [(1, 9), (2, 9), (3, 9), (1200, 12), (u64::MAX - 1, 28)]);
    assert_eq!(listed(3).await, [(3, 9), (1200, 12), (u64::MAX - 1, 28)]);
    assert_eq!(vault.groups().await.unwrap(), [self::group()]);
    group.delete_segment(Epoch(2), SegmentNo(3)).await.unwrap();
    group.delete_segment(Epoch(2), SegmentNo(3)).await.unwrap();
    assert_eq!(listed(3).await, [(1200, 12), (u64::MAX - 1, 28)]);
    assert_eq!(group.put_request(&Request::Drain).await.unwrap(), 1);
    assert_eq!(group.put_request(&Request::Digests).await.unwrap(), 2);
    assert_eq!(group.get_request(1).await.unwrap(), Some(Request::Drain));
}

async fn the_largest_segment_goes_in_and_out(vault: &Vault) {
    let group = vault.group(&group());
    let mut bytes = vec![0; LARGEST_BYTES];
    for (n, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let bytes = Bytes::from(bytes);
    assert_eq!(group.put_segment(Epoch(3), SegmentNo(1), bytes.clone()).await.unwrap(), Put::Created);
    assert!(group.get_segment(Epoch(3), SegmentNo(1)).await.unwrap() == Some(bytes));
}

async fn what_is_not_there_is_no_error(vault: &Vault) {
    let group = vault.group(&GroupName::new("nobody").unwrap());
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap(), None);
    assert_eq!(group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap(), []);
    assert!(group.get_epoch(Epoch(1)).await.unwrap().is_none());
    assert_eq!(group.get_request(1).await.unwrap(), None);
}

fn server_conforms(kind: Kind) {
    let server = StoreServer::start(kind);
    // At the root of the bucket, and below a prefix.
    run(conforms(&server.url(""), &variables(&server)));
    run(conforms(&server.url("a b/c%2Fd"), &variables(&server)));
}

#[test]
fn a_folder_conforms() {
    let dir = tempfile::tempdir().unwrap();
    run(conforms(&format!("file://{}", dir.path().join("deep/vault").display()), &Variables::default()));
}

#[test]
fn seaweedfs_conforms() {
    server_conforms(Kind::Seaweed);
}

#[test]
fn azurite_conforms() {
    server_conforms(Kind::Azurite);
}

#[test]
fn moto_conforms() {
    server_conforms(Kind::Moto);
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let server = StoreServer::start(Kind::Rclone);
    let (url, variables) = (server.url("x"), variables(&server));
    let refused = run(Vault::init_in_environment(&url, &variables)).unwrap_err();
    assert!(matches!(refused, VaultError::Unconditional { .. }), "{refused}");
    assert!(refused.to_string().contains("If-None-Match"), "{refused}");
    assert!(matches!(run(open(&url, &variables)), Err(VaultError::NotAVault { .. })), "it was left without a vault");
}

#[test]
fn a_bucket_that_is_not_there_and_wrong_keys_are_told_apart() {
    let server = StoreServer::start(Kind::Seaweed);
    let wrong = |name: &str, value: &str| -> Variables {
        let change = |(n, v): (String, String)| if n == name { (n, value.to_owned()) } else { (n, v) };
        server.environment().into_iter().map(change).collect()
    };
    // SeaweedFS makes a bucket for whoever may.
    let moto = StoreServer::start(Kind::Moto);
    let gone = run(Vault::init_in_environment("s3://no-such-bucket/x", &variables(&moto))).unwrap_err();
    assert!(matches!(gone, VaultError::Gone { .. }), "{gone}");
    let refused = run(Vault::init_in_environment(&server.url("x"), &wrong("AWS_SECRET_ACCESS_KEY", "planted-wrong")))
        .unwrap_err();
    assert!(matches!(refused, VaultError::Refused { .. }), "{refused}");
    let said = format!("{refused} {refused:?}");
    assert!(!said.contains("planted-wrong") && !said.contains("farshore-test-secret"), "{said}");
    let away = wrong("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let away = run(Vault::init_in_environment(&server.url("x"), &away)).unwrap_err();
    assert!(matches!(away, VaultError::Unreachable { .. }), "{away}");
}
