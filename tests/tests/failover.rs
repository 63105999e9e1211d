//! Failover from the command line: the source is fenced and goes on serving its disk, its late writes never reach the target,
//! the chosen point is served, what is written to it is kept, and the same command serves it again.

use std::ffi::OsString;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::bin;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::process::Process;
use farshore_tests::site::{Site, SiteSpec};
use nix::sys::signal::Signal;

const DISK_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: u32 = 4096;
/// How long a source may take to learn that it is fenced: a heartbeat and some.
const FENCED_MAX: Duration = Duration::from_secs(60);
const SERVED_MAX: Duration = Duration::from_secs(60);
const GROUP: &str = "web01";

fn block(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK_BYTES as usize]
}

fn fail_over(site: &Site, socket: &std::path::Path) -> (Process, serde_json::Value) {
    let mut args: Vec<OsString> = vec!["failover".into(), GROUP.into(), "--vault".into(), site.vault_url().into()];
    args.extend(["--target".into(), site.target.clone().into(), "--point".into(), "latest".into()]);
    args.extend(["--listen".into(), format!("unix:{}", socket.display()).into(), "--json".into()]);
    let server = Process::start("farshore failover", bin::farshore(args));
    let said = server.expect_line("{", SERVED_MAX);
    let served = serde_json::from_str(&said).unwrap_or_else(|e| panic!("not JSON ({e}): {said}"));
    (server, served)
}

fn loss_receipt(site: &Site) -> serde_json::Value {
    let args: [OsString; 4] = ["inspect".into(), "--loss".into(), site.config.clone().into(), "--json".into()];
    let output = bin::farshore(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_failed_over_group_is_served_and_its_old_source_is_fenced() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    let mut source = Client::open(&site.disks[0].socket, "vda").unwrap();
    source.write(0, &block(1)).unwrap();
    source.flush().unwrap();
    let kept = site.newest();
    site.wait_replayed(kept);

    // Its shipper learns of it later, so that it logs for a while what nobody will take.
    site.signal_shipper(Signal::SIGSTOP);
    let socket = site.path("failover.sock");
    let (mut server, served) = fail_over(&site, &socket);
    assert_eq!(served["epoch"], 2, "{served}");
    let mut vm = Client::open(&socket, "vda").unwrap();
    assert_eq!(vm.read(0, BLOCK_BYTES).unwrap(), block(1));
    vm.write(1 << 20, &block(9)).unwrap();
    vm.flush().unwrap();

    // The old source lives on: it serves its disk, and learns that the group is not its own any more.
    source.write(0, &block(2)).unwrap();
    source.flush().unwrap();
    site.signal_shipper(Signal::SIGCONT);
    let deadline = clock::mono() + FENCED_MAX;
    while site.agent_status()["state"] != "fenced" {
        assert!(clock::mono() < deadline, "the source was not fenced: {}", site.agent_status());
        clock::sleep(Duration::from_millis(200));
    }
    source.write(4096, &block(3)).unwrap();
    source.flush().unwrap();
    assert_eq!(source.read(0, BLOCK_BYTES).unwrap(), block(2));
    site.stop_agent();
    let receipt = loss_receipt(&site);
    assert_eq!(receipt["fenced"]["by_epoch"], 2, "{receipt}");
    let lost = receipt["segments"].as_array().unwrap().iter().flat_map(|s| s["disks"].as_array().unwrap());
    let lost: Vec<_> = lost.map(|d| (d["disk"].as_str().unwrap(), d["ranges"][0][0].as_u64().unwrap())).collect();
    assert!(lost.contains(&("vda", 0)), "the late write is not on the loss receipt: {receipt}");
    let image = std::fs::read(site.image(0)).unwrap();
    assert_eq!(image[..BLOCK_BYTES as usize], block(1), "a late write reached the image");
    assert_eq!(image[1 << 20], 0, "what the failed-over machine wrote reached the image");
    assert_eq!(vm.read(0, BLOCK_BYTES).unwrap(), block(1));

    // Done again it serves the same point, with what was written to it.
    let (point, digest) = (served["point"].clone(), durable::digest(&site.image(0)));
    drop(vm);
    assert!(server.terminate(SERVED_MAX).success());
    let (mut server, again) = fail_over(&site, &socket);
    assert_eq!(again["point"]["seq"], point["seq"]);
    assert_eq!(again["epoch"], 2);
    let mut vm = Client::open(&socket, "vda").unwrap();
    assert_eq!(vm.read(1 << 20, BLOCK_BYTES).unwrap(), block(9));
    assert_eq!(vm.read(0, BLOCK_BYTES).unwrap(), block(1));
    assert_eq!(durable::digest(&site.image(0)), digest);
    drop(vm);
    assert!(server.terminate(SERVED_MAX).success());
    assert!(site.stop_processor().success());
}
