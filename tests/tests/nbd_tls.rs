//! Exports beyond this host: QEMU's and libnbd's clients over TLS, those that must be refused, and what is not served in plain text.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_tests::certificates;
use farshore_tests::pattern::Rng;
use farshore_tests::process::{Finished, Process, run};
use farshore_tests::root::as_root;
use farshore_tests::site::{GROUP, Site, SiteSpec};

const DISK_BYTES: u64 = 16 << 20;
const TOOL_MAX: Duration = Duration::from_secs(60);
/// Connections that say nothing, beside good ones.
const SILENT: usize = 60;
/// A user that is neither root nor this one.
const OTHER_USER: u32 = 65_534;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn tool(words: &[&str]) -> Finished {
    farshore_tests::deps::ensure();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(words[0], command, TOOL_MAX)
}

/// A client over TLS.
struct TlsClient {
    creds: String,
    image: String,
    uri: String,
}

impl TlsClient {
    /// With the certificates of `dir`. The client's own proof of them is left out: it is the server that must refuse.
    fn new(dir: &Path, port: &str, export: &str) -> Self {
        Self {
            creds: format!("tls-creds-x509,id=t,endpoint=client,sanity-check=off,dir={}", text(dir)),
            image: format!("driver=nbd,host=127.0.0.1,port={port},export={export},tls-creds=t"),
            uri: format!("nbds://127.0.0.1:{port}/{export}?tls-certificates={}", text(dir)),
        }
    }

    fn qemu_io(&self, commands: &[&str]) -> Finished {
        let mut words = vec!["qemu-io", "--object", &self.creds, "--image-opts", &self.image];
        commands.iter().for_each(|command| words.extend(["-c", command]));
        tool(&words)
    }

    fn qemu_img_info(&self) -> Finished {
        tool(&["qemu-img", "info", "--object", &self.creds, "--image-opts", &self.image])
    }
}

struct TlsSite {
    site: Site,
    pki: PathBuf,
    port: String,
}

/// An agent that serves over TLS on every address of this host, to `CN=host7` alone.
fn started() -> TlsSite {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], tcp: true, ..SiteSpec::default() });
    let pki = site.path("pki");
    certificates::make(&pki);
    site.disks[0].listen = site.disks[0].listen.replace("127.0.0.1", "0.0.0.0");
    site.reconfigure("tls = { dir = \"pki\" }");
    let mut config = std::fs::OpenOptions::new().append(true).open(&site.config).unwrap();
    writeln!(config, "tls_clients = [\"CN=host7\"]").unwrap();
    site.start_agent();
    let port = port(&site.disks[0].listen);
    TlsSite { site, pki, port }
}

fn port(listen: &str) -> String {
    listen.rsplit(':').next().expect("tcp:host:port").to_owned()
}

#[test]
fn qemu_and_libnbd_read_and_write_over_tls() {
    let TlsSite { mut site, pki, port } = started();
    assert_eq!(site.agent_status()["disks"][0]["uri"], format!("nbds://0.0.0.0:{port}/vda"));
    let good = TlsClient::new(&pki, &port, "vda");
    let said = good
        .qemu_io(&["write -P 7 4k 64k", "write -P 9 1M 3M", "flush", "read -P 7 4k 64k", "read -P 9 1M 3M"])
        .good()
        .out;
    assert!(!said.to_lowercase().contains("fail"), "{said}");
    assert!(good.qemu_img_info().good().out.contains("16 MiB"));

    let (sample, copy) = (site.path("sample"), site.path("copy"));
    std::fs::write(&sample, Rng::new(3).bytes(DISK_BYTES as usize)).unwrap();
    let _ = tool(&["nbdcopy", "--connections=4", "--flush", text(&sample), &good.uri]).good();
    let _ = tool(&["nbdcopy", &good.uri, text(&copy)]).good();
    assert!(std::fs::read(&sample).unwrap() == std::fs::read(&copy).unwrap(), "nbdcopy there and back");
    let convert =
        ["qemu-img", "convert", "--object", &good.creds, "--image-opts", "-O", "raw", &good.image, text(&copy)];
    let _ = tool(&convert).good();
    assert!(std::fs::read(&sample).unwrap() == std::fs::read(&copy).unwrap(), "qemu-img");

    let newest = site.newest();
    site.wait_shipped(newest);
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

#[test]
fn who_may_not_is_refused_and_the_others_are_served_on() {
    let TlsSite { mut site, pki, port } = started();
    let good = TlsClient::new(&pki, &port, "vda");
    let _ = good.qemu_io(&["write -P 7 0 1M"]).good();

    // A client of another authority, which takes the server's for its own.
    let others = site.path("other/pki");
    certificates::make(&others);
    std::fs::copy(pki.join("ca-cert.pem"), others.join("ca-cert.pem")).unwrap();
    for (who, dir) in [
        ("of another authority", others),
        ("expired", certificates::client(&pki, "host7", -1)),
        ("not on the export's list", certificates::client(&pki, "host8", 30)),
        ("without a certificate", certificates::nobody(&pki)),
    ] {
        let client = TlsClient::new(&dir, &port, "vda");
        let refused = client.qemu_io(&["read 0 4k"]);
        assert!(!refused.status.success(), "{who}: qemu-io was served: {}", refused.out);
        assert!(!client.qemu_img_info().status.success(), "{who}: qemu-img was served");
        assert!(!tool(&["nbdinfo", &client.uri]).status.success(), "{who}: nbdinfo was served");
        let _ = good.qemu_io(&["read -P 7 0 1M"]).good();
    }
    // The same client's certificate with a day to live is good, so it was the date that was refused.
    let _ = TlsClient::new(&certificates::client(&pki, "host7", 1), &port, "vda").qemu_io(&["read -P 7 0 1M"]).good();

    let plain = tool(&["qemu-img", "info", &format!("nbd://127.0.0.1:{port}/vda")]);
    assert!(!plain.status.success() && plain.err.to_lowercase().contains("tls"), "plain text: {}", plain.err);
    assert!(!tool(&["nbdinfo", &format!("nbd://127.0.0.1:{port}/vda")]).status.success(), "plain text");

    // Those that never say a word, or stop within the handshake.
    let mut silent: Vec<TcpStream> =
        (0..SILENT).map(|_| TcpStream::connect(format!("127.0.0.1:{port}")).unwrap()).collect();
    for stream in silent.iter_mut().step_by(2) {
        // The client's flags and STARTTLS, and nothing of TLS.
        stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
    }
    let _ = good.qemu_io(&["read -P 7 0 1M", "write -P 8 1M 1M", "read -P 8 1M 1M"]).good();
    site.stop_agent();
}

#[test]
fn an_attached_point_is_served_over_tls_and_not_in_plain_text_beyond_this_host() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let pki = site.path("pki");
    certificates::make(&pki);
    site.start_agent();
    let _ = tool(&["qemu-io", "-f", "raw", "-c", "write -P 5 0 1M", "-c", "flush", &site.disks[0].uri()]).good();
    let newest = site.newest();
    site.wait_shipped(newest);
    let _ = site.process_once().good();

    let target = site.target.clone();
    let attach = ["attach", GROUP, "--target", text(&target), "--listen", "tcp:0.0.0.0:0"];
    let refused = site.verb(attach);
    assert!(!refused.status.success());
    for word in ["tcp:0.0.0.0:0", "other hosts", "--allow-plain-tcp", "docs/nbd-tls.md"] {
        assert!(refused.err.contains(word), "{word} is not in: {}", refused.err);
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let listen = format!("tcp:0.0.0.0:{free}");
    let attach = ["attach", GROUP, "--target", text(&target), "--listen", &listen];
    for (more, client) in [
        (&["--tls", text(&pki), "--tls-client", "CN=host7,O=Example"][..], "tls"),
        (&["--tls", text(&pki), "--tls-client", "CN=host8"], "nobody"),
        (&["--allow-plain-tcp"], "plain"),
    ] {
        let mut server = Process::start("farshore attach", farshore_tests::bin::farshore(attach.iter().chain(more)));
        let _ = server.expect_line("forgotten", TOOL_MAX);
        let tls = TlsClient::new(&pki, &free, "vda").qemu_io(&["read -P 5 0 1M"]);
        let plain = tool(&["qemu-io", "-f", "raw", "-c", "read -P 5 0 1M", &format!("nbd://127.0.0.1:{free}/vda")]);
        assert_eq!(tls.status.success(), client == "tls", "{client}: {}", tls.err);
        assert_eq!(plain.status.success(), client == "plain", "{client}: {}", plain.err);
        assert!(server.terminate(TOOL_MAX).success(), "{}", server.tail());
    }
}

#[test]
fn plain_tcp_beyond_this_host_is_refused_before_anything_is_begun() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], tcp: true, ..SiteSpec::default() });
    site.disks[0].listen = site.disks[0].listen.replace("127.0.0.1", "0.0.0.0");
    site.write_config();
    let config = site.config.clone();
    for verb in ["enable", "run"] {
        let refused = site.verb([verb, text(&config)]);
        assert!(!refused.status.success());
        assert!(refused.err.contains("allow_plain_tcp = true"), "{}", refused.err);
    }
    assert!(!site.path("state").exists(), "nothing was begun");
    site.reconfigure("allow_plain_tcp = true");
    site.start_agent();
    let _ = tool(&["nbdinfo", &format!("nbd://127.0.0.1:{}/vda", port(&site.disks[0].listen))]).good();
    site.stop_agent();
}

#[test]
fn a_unix_socket_looks_at_who_connects() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let as_other = |site: &Site| {
        // The file's mode would keep it out by itself.
        let _ = as_root(&["chmod", "755", text(site.config.parent().unwrap())]).good();
        let _ = as_root(&["chmod", "666", text(&site.disks[0].socket)]).good();
        let user = OTHER_USER.to_string();
        as_root(&[
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "nbdinfo",
            "--size",
            &site.disks[0].uri(),
        ])
    };
    site.start_agent();
    assert!(!as_other(&site).status.success(), "another user was served");
    let _ = as_root(&["nbdinfo", "--size", &site.disks[0].uri()]).good();
    site.stop_agent();
    site.reconfigure(&format!("listen_uids = [{OTHER_USER}]"));
    site.start_agent();
    assert_eq!(as_other(&site).good().out.trim(), DISK_BYTES.to_string());
    site.stop_agent();
}
