use super::*;

fn read(text: &str) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web01.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path)
}

const GOOD: &str = r#"
    group = "web01"
    vault = "file:///var/lib/farshore/vault"
    [[disk]]
    name = "vda"
    source = "/var/lib/vms/web01-vda.raw"
    listen = "unix:/run/farshore/web01-vda.sock"
"#;

#[test]
fn the_form_of_the_design_is_read() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.group.as_str(), "web01");
    assert_eq!(config.disks[0].source, Path::new("/var/lib/vms/web01-vda.raw"));
    assert_eq!(config.heartbeat, HEARTBEAT);
}

#[test]
fn a_limit_of_the_uploads_is_read_as_a_table_or_in_line() {
    let table =
        read(&format!("bandwidth = \"200 Mbit/s\"\n{GOOD}\n[bandwidth_schedule]\n\"08:00-18:00\" = \"50 Mbit/s\""));
    let inline =
        format!("bandwidth = \"200Mbit/s\"\nbandwidth_schedule = {{ \"08:00-18:00\" = \"50 Mbit/s\" }}\n{GOOD}");
    let (table, inline) = (table.unwrap(), read(&inline).unwrap());
    assert_eq!(table.bandwidth, inline.bandwidth);
    assert!(!table.shipper().bandwidth.is_unlimited() && read(GOOD).unwrap().bandwidth.is_unlimited());
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (GOOD.replace("vault =", "vualt ="), "vualt"),
        (format!("ring_size = \"1MiB\"\n{GOOD}"), "ring_size"),
        (format!("max_delay = \"soon\"\n{GOOD}"), "soon"),
        (format!("{GOOD}\n{}", &GOOD[GOOD.find("[[disk]]").unwrap()..]), "named twice"),
        (GOOD.replace("unix:/run", "http:/run"), "http:/run"),
        (format!("uploads = 17\n{GOOD}"), "uploads"),
        (format!("bandwidth = \"200 MB/s\"\n{GOOD}"), "200 MB/s"),
        (format!("bandwidth_schedule = {{ \"08:00-08:00\" = \"1 Mbit/s\" }}\n{GOOD}"), "08:00-08:00"),
        (GOOD.replace("\"web01\"", "\"../web01\""), "../web01"),
    ];
    for (text, word) in cases {
        let error = format!("{:#}", read(&text).unwrap_err());
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn plain_tcp_beyond_this_host_has_to_be_allowed() {
    let beyond = GOOD.replace("unix:/run/farshore/web01-vda.sock", "tcp:0.0.0.0:10809");
    let listens = |config: &Config| config.disks.iter().map(|d| d.listen.clone()).collect::<Vec<_>>();
    let refused = read(&beyond).unwrap();
    let error = format!("{:#}", refused.listen_access.open(&listens(&refused)).unwrap_err());
    assert!(error.contains("tcp:0.0.0.0:10809") && error.contains("plain text"), "{error}");
    let allowed = read(&format!("allow_plain_tcp = true\nlisten_uids = [64055]\n{beyond}")).unwrap();
    let access = allowed.listen_access.open(&listens(&allowed)).unwrap();
    assert!(access.plain_tcp);
    assert_eq!(access.users, [nix::unistd::Uid::from_raw(64_055)]);
}

#[test]
fn a_list_of_clients_needs_tls() {
    let list = "tls_clients = [\"CN=host7\"]";
    let over_tcp = GOOD.replace("unix:/run/farshore/web01-vda.sock", "tcp:0.0.0.0:10809");
    let good = read(&format!("{over_tcp}\n{list}\n[tls]\ndir = \"pki\"")).unwrap();
    assert_eq!(good.disks[0].clients.as_ref().map(|c| c.0.len()), Some(1));
    assert!(good.listen_access.tls.as_ref().is_some_and(|dir| dir.ends_with("pki") && dir.is_absolute()));
    for (text, word) in [
        (format!("{over_tcp}\n{list}"), "[tls]"),
        (format!("{GOOD}\n{list}\n[tls]\ndir = \"pki\""), "unix:"),
        (format!("{over_tcp}\ntls_clients = [\"host7\"]\n[tls]\ndir = \"pki\""), "CN=host7"),
        (format!("{over_tcp}\n[tls]\ndir = \"pki\"\ncrl = \"x\""), "crl"),
    ] {
        let error = format!("{:#}", read(&text).unwrap_err());
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}
