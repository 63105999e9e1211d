//! The units of `packaging/systemd`: what they start is in the command line, and each stands in its sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farshore_tests::bin;
use farshore_tests::deps::repository;
use farshore_tests::process::run;
use farshore_tests::site::VERB_MAX;

/// The program, as the units start it.
const PROGRAM: &str = "/usr/bin/farshore";
/// What every unit says, so that a broken or broken-into process reaches no more than its work needs.
const SANDBOX: [(&str, &str); 17] = [
    ("DevicePolicy", "closed"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("NoNewPrivileges", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHome", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectSystem", "strict"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
];

/// The unit that has the disks.
const AGENT: &str = "farshore-agent@.service";
/// The unit that has the network.
const SHIPPER: &str = "farshore-shipper@.service";
/// The target's.
const PROCESSOR: &str = "farshore-processor.service";

/// Settings by section and name, in their order.
type Unit = BTreeMap<(String, String), Vec<String>>;

fn parse(text: &str) -> Unit {
    let (mut unit, mut section) = (Unit::new(), None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no setting"));
        assert!(!value.ends_with('\\'), "{line:?}: one line each, as this test reads them");
        let section = section.clone().unwrap_or_else(|| panic!("{line:?} stands before every section"));
        unit.entry((section, key.to_owned())).or_default().push(value.to_owned());
    }
    unit
}

fn units() -> BTreeMap<String, Unit> {
    let folder: PathBuf = repository().join("packaging/systemd");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let units: BTreeMap<String, Unit> = files
        .map(|file| (file.file_name().into_string().unwrap(), parse(&std::fs::read_to_string(file.path()).unwrap())))
        .collect();
    let names: Vec<&str> = units.keys().map(String::as_str).collect();
    assert_eq!(names, [AGENT, PROCESSOR, SHIPPER]);
    units
}

/// The settings of that name in `[Service]`.
fn service<'a>(unit: &'a Unit, key: &str) -> &'a [String] {
    setting(unit, "Service", key)
}

fn setting<'a>(unit: &'a Unit, section: &str, key: &str) -> &'a [String] {
    unit.get(&(section.to_owned(), key.to_owned())).map_or(&[], Vec::as_slice)
}

fn help(words: &[&str]) -> String {
    run("farshore --help", bin::farshore(words.iter().chain(&["--help"])), VERB_MAX).good().out
}

#[test]
fn what_is_started_is_in_the_command_line() {
    let mut verbs = Vec::new();
    for (name, unit) in units() {
        let [line] = service(&unit, "ExecStart") else { panic!("{name} starts one program") };
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], PROGRAM, "{name}");
        let verb = words[1];
        let listed = help(&[]);
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(verb)), "{name}: no verb {verb}");
        let options = help(&[verb]);
        for option in words[2..].iter().filter(|word| word.starts_with('-')) {
            assert!(
                options.split_whitespace().any(|word| word == *option),
                "{name}: {verb} has no option {option}:\n{options}"
            );
        }
        verbs.push(verb.to_owned());
    }
    assert_eq!(verbs, ["run", "process", "ship"]);
}

#[test]
fn each_stands_in_its_sandbox() {
    for (name, unit) in units() {
        for (key, value) in SANDBOX {
            assert_eq!(service(&unit, key), [value], "{name}: {key}");
        }
        assert_eq!(service(&unit, "SystemCallFilter")[0], "@system-service", "{name}");
    }
    let units = units();
    let processor = &units[PROCESSOR];
    assert_eq!(service(processor, "CapabilityBoundingSet"), [""]);
    assert_eq!(service(processor, "PrivateDevices"), ["yes"]);
    let user = service(processor, "User").concat();
    let users = std::fs::read_to_string(repository().join("packaging/sysusers.d/farshore.conf")).unwrap();
    assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{user} is made by nobody");
}

#[test]
fn whoever_goes_to_the_vault_has_the_key_and_listens_nowhere() {
    let units = units();
    for name in [SHIPPER, PROCESSOR] {
        let unit = &units[name];
        assert_eq!(service(unit, "RestrictAddressFamilies"), ["AF_UNIX AF_INET AF_INET6"], "{name}");
        assert_eq!(service(unit, "SocketBindDeny"), ["any"], "{name}");
        let credentials = service(unit, "LoadCredential");
        assert!(
            credentials.len() == 1 && credentials[0].starts_with("vault-key:/etc/farshore/keys/"),
            "{name}: the key is a credential: {credentials:?}"
        );
    }
}

#[test]
fn the_capture_has_disks_and_no_network_and_no_key() {
    let units = units();
    let agent = &units[AGENT];
    assert!(service(agent, "ExecStart")[0].starts_with("/usr/bin/farshore run --no-shipper "), "it ships itself");
    assert_eq!(service(agent, "PrivateNetwork"), ["yes"]);
    assert_eq!(service(agent, "RestrictAddressFamilies"), ["AF_UNIX"]);
    for key in ["LoadCredential", "EnvironmentFile", "Environment", "PassEnvironment"] {
        assert_eq!(service(agent, key), [""; 0], "{key}");
    }
    assert_eq!(service(agent, "InaccessiblePaths"), ["-/etc/farshore/keys -/etc/farshore/%i.env"]);
    assert_eq!(service(agent, "CapabilityBoundingSet"), ["CAP_DAC_OVERRIDE"]);
    assert_eq!(service(agent, "DeviceAllow"), ["block-* rw"]);
    for target in setting(agent, "Unit", "After").iter().chain(setting(agent, "Unit", "Wants")) {
        assert!(!target.contains("network"), "a disk waits for no network: {target}");
    }
}

#[test]
fn the_shipper_has_the_network_and_no_disks() {
    let units = units();
    let (agent, shipper) = (&units[AGENT], &units[SHIPPER]);
    for (key, value) in [("PrivateDevices", "yes"), ("PrivateUsers", "yes"), ("CapabilityBoundingSet", "")] {
        assert_eq!(service(shipper, key), [value], "{key}");
    }
    assert_eq!(service(shipper, "DeviceAllow"), [""; 0]);
    assert_eq!(
        service(shipper, "ReadWritePaths"),
        [""; 0],
        "the folders that it writes are its state's and the sockets'"
    );
    assert_eq!(
        service(shipper, "InaccessiblePaths"),
        service(agent, "ReadWritePaths"),
        "the disks that are files are the agent's alone"
    );
    assert_eq!(service(shipper, "PrivateNetwork"), [""; 0]);
    assert_eq!(service(shipper, "ProcSubset"), [""; 0], "a ring is believed by the boot that /proc/sys names");
    assert_eq!(service(shipper, "KillMode"), ["mixed"], "it ends the process that ships itself");
    for key in ["StateDirectory", "RuntimeDirectoryPreserve"] {
        assert_eq!(service(shipper, key), service(agent, key), "they meet there: {key}");
    }
    assert_eq!(service(agent, "RuntimeDirectory"), ["farshore"]);
    assert_eq!(service(shipper, "RuntimeDirectory"), ["farshore/shipper"]);
    assert_eq!(service(shipper, "TemporaryFileSystem"), ["/run/farshore:ro"], "the exports' sockets are hidden");
    assert_eq!(service(shipper, "BindPaths"), ["/run/farshore/shipper"]);
}

#[test]
fn the_shipper_lives_with_its_agent_and_is_stopped_after_it() {
    let units = units();
    let (agent, shipper) = (&units[AGENT], &units[SHIPPER]);
    assert_eq!(setting(agent, "Unit", "Wants"), ["farshore-shipper@%i.service"]);
    let after = setting(agent, "Unit", "After").concat();
    assert!(after.split(' ').any(|unit| unit == "farshore-shipper@%i.service"), "{after}");
    assert_eq!(setting(shipper, "Unit", "PartOf"), ["farshore-agent@%i.service"]);
    let after = setting(shipper, "Unit", "After").concat();
    assert!(after.split(' ').any(|unit| unit == "network.target"), "it is stopped while there is a network: {after}");
    assert!(!after.contains("online"), "the disks would wait for it: {after}");
}
