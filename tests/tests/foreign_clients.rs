//! Everybody else's NBD clients, on the export of a running agent and on an attached point: nbdinfo, nbdcopy, nbdsh, qemu-img,
//! qemu-io and fio. (The kernel's driver is in `guest.rs`.)

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use farshore_tests::durable;
use farshore_tests::fio::Job;
use farshore_tests::nbdsh;
use farshore_tests::pattern::Rng;
use farshore_tests::process::{Finished, run};
use farshore_tests::site::{Site, SiteSpec, uri};

const DISK_BYTES: u64 = 24 << 20;
const TOOL_MAX: Duration = Duration::from_secs(120);

/// Runs a program with words and paths as arguments; it must succeed.
#[track_caller]
fn tool(words: &[&str]) -> Finished {
    farshore_tests::deps::ensure();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(words[0], command, TOOL_MAX).good()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn started(disks: usize) -> Site {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES; disks], ..SiteSpec::default() });
    site.start_agent();
    site
}

/// A file of data with a hole in its middle.
fn sample(path: &Path, seed: u64) {
    let mut bytes = Rng::new(seed).bytes(DISK_BYTES as usize);
    bytes[8 << 20..16 << 20].fill(0);
    std::fs::write(path, bytes).unwrap();
}

/// The same tools on any export of `DISK_BYTES`: `socket` serves `export`.
fn read_and_write_with_every_tool(site: &Site, socket: &Path, export: &str) {
    let to = uri(socket, export);
    let [sample_file, copy, qcow] = ["sample", "copy", "qcow2"].map(|n| site.path(&format!("{export}-{n}")));
    sample(&sample_file, 5);

    tool(&["nbdcopy", "--connections=4", "--flush", text(&sample_file), &to]);
    tool(&["nbdcopy", &to, text(&copy)]);
    assert_eq!(durable::first_difference(&sample_file, &copy), None, "nbdcopy there and back");

    let info = tool(&["nbdinfo", "--json", &to]).json();
    let shown = &info["exports"][0];
    assert_eq!(shown["export-size"].as_u64(), Some(DISK_BYTES), "{info}");
    assert_eq!(info["structured"], true, "{info}");
    for can in
        ["can_cache", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_df", "can_fast_zero"]
    {
        assert_eq!(shown[can], true, "{can} in {info}");
    }
    assert_eq!(shown["is_read_only"], false);
    let map = tool(&["nbdinfo", "--map", "--json", &to]).json();
    let mapped: u64 = map.as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(mapped, DISK_BYTES, "the map covers the disk: {map}");
    assert!(tool(&["nbdinfo", "--list", &format!("nbd+unix:///?socket={}", socket.display())]).out.contains(export));

    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", text(&sample_file), &to]);
    tool(&["qemu-img", "convert", "-f", "raw", "-O", "qcow2", &to, text(&qcow)]);
    tool(&["qemu-img", "compare", "-F", "raw", text(&qcow), &to]);
    let map = tool(&["qemu-img", "map", "-f", "raw", "--output=json", &to]).json();
    let zero: u64 =
        map.as_array().unwrap().iter().filter(|e| e["zero"] == true).map(|e| e["length"].as_u64().unwrap()).sum();
    assert!(zero >= 7 << 20, "the hole is seen: {map}");

    sample(&sample_file, 6);
    tool(&["qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", text(&sample_file), &to]);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", text(&sample_file), &to]);

    let io = [
        "write -P 7 4k 64k",
        "write -f -P 8 513 1025",
        "writev -P 9 200k 4k 8k 512",
        "write -z -u 1M 1M",
        "discard 2M 1M",
        "aio_write -P 10 3M 300k",
        "aio_flush",
        "flush",
        "read -P 7 4k 64k",
        "read -P 9 200k 12800",
        "read -P 0 1M 1M",
        "read -P 0 2M 1M",
        "read -P 10 3M 300k",
    ];
    let mut qemu_io = vec!["qemu-io", "-f", "raw", "-d", "unmap"];
    io.iter().for_each(|c| qemu_io.extend(["-c", c]));
    qemu_io.push(&to);
    let said = tool(&qemu_io).out;
    assert!(!said.to_lowercase().contains("fail"), "{said}");

    Job::on(socket, export)
        .with("rw=randwrite")
        .with("bsrange=512-32k")
        .with("blockalign=512")
        .with("size=8m")
        .with("iodepth=16")
        .with("verify=crc32c")
        .run(TOOL_MAX);
}

#[test]
fn every_tool_reads_and_writes_a_running_agents_export() {
    let mut site = started(1);
    read_and_write_with_every_tool(&site, &site.disks[0].socket.clone(), "vda");
    let newest = site.newest();
    site.wait_shipped(newest);
    let _ = site.process_once().good();
    site.assert_equal();
}

#[test]
fn every_tool_reads_and_writes_an_attached_point_which_stays_as_it_was() {
    let mut site = started(2);
    for disk in &site.disks {
        sample(&site.path("filling"), 9);
        tool(&["nbdcopy", "--flush", text(&site.path("filling")), &disk.uri()]);
    }
    let position = site.mark("filled");
    site.wait_shipped(position);
    let _ = site.process_once().good();
    let point = site.points().into_iter().find(|p| p.name.as_deref() == Some("filled")).expect("the mark is a point");
    assert_eq!(point.position, position);

    let attached = site.attach(&point.id);
    for export in ["vda", "vdb"] {
        tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", text(&site.path("filling")), &attached.uri(export)]);
        read_and_write_with_every_tool(&site, &attached.socket, export);
    }
    // What was written went into a private overlay.
    site.assert_equal();
    let again = site.attach(&point.id);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", text(&site.path("filling")), &again.uri("vdb")]);

    // Export writes the same into files.
    for format in ["raw", "qcow2"] {
        let dir = site.path(&format!("exported-{format}"));
        let target = site.target.display().to_string();
        let args =
            ["export", "web01", "--target", &target, "--point", &point.id, "--format", format, "--output", text(&dir)];
        let _ = site.verb(args).good();
        for disk in ["vda", "vdb"] {
            let file = dir.join(format!("{disk}.{format}"));
            tool(&["qemu-img", "compare", "-f", format, "-F", "raw", text(&file), text(&site.path("filling"))]);
        }
    }
}

#[test]
fn nbdsh_finds_every_command_flag_and_error_as_the_protocol_has_them() {
    let mut site = started(2);
    let script = include_str!("nbd_commands.py");
    let said = nbdsh::connected(&site.disks[0].uri(), script).good().out;
    assert!(said.contains("all commands done"), "{said}");
    let script = format!("socket = {:?}\n{}", site.disks[0].socket, include_str!("nbd_handshake.py"));
    let said = nbdsh::unconnected(&script).good().out;
    assert!(said.contains("all handshakes done"), "{said}");

    let newest = site.newest();
    site.wait_shipped(newest);
    let _ = site.process_once().good();
    let attached = site.attach("latest");
    let said = nbdsh::connected(&attached.uri("vda"), include_str!("nbd_commands.py")).good().out;
    assert!(said.contains("all commands done"), "{said}");
    site.assert_equal();
}

#[test]
fn a_write_answered_on_one_connection_is_seen_and_made_durable_by_another() {
    let mut site = started(1);
    // CAN_MULTI_CONN: a flush on one connection covers what was answered on all others.
    let script = format!(
        r#"
other = nbd.NBD()
other.connect_uri("{}")
for n in range(50):
    data = bytes([n]) * 8192
    h.pwrite(data, n * 8192)
    assert other.pread(8192, n * 8192) == data
    other.flush()
print("seen")
"#,
        site.disks[0].uri()
    );
    assert!(nbdsh::connected(&site.disks[0].uri(), &script).good().out.contains("seen"));
    site.agent().kill_all();
    site.start_agent();
    let check = "for n in range(50):\n    assert h.pread(8192, n * 8192) == bytes([n]) * 8192\nprint('kept')";
    assert!(nbdsh::connected(&site.disks[0].uri(), check).good().out.contains("kept"));
}
