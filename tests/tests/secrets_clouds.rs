//! What must stay secret does: credentials in the environment and the private key of TLS are looked for in all that is said at the
//! most talkative, in the arguments that every user can read, and in every file that is left.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::bin::farshore;
use farshore_tests::certificates;
use farshore_tests::process::{Stream, run};
use farshore_tests::site::{Site, SiteSpec};

const VERB_MAX: Duration = Duration::from_secs(120);
/// A part of every secret that is planted in the environment.
const PLANTED: &str = "PlantedSecret7Qx";
/// The variables that hold one, and what else the value must have to be taken.
const VARIABLES: [(&str, &str, &str); 6] = [
    ("AWS_SECRET_ACCESS_KEY", "aws", ""),
    ("AWS_SESSION_TOKEN", "token", ""),
    // Base64.
    ("AZURE_STORAGE_ACCOUNT_KEY", "azur", "azure+key/AAAA=="),
    ("AZURE_STORAGE_SAS_TOKEN", "sv=2024-01-01&se=2099-01-01&sr=c&sp=rwl&sig=", "%3D"),
    ("AZURE_CLIENT_SECRET", "client", ""),
    ("GOOGLE_SERVICE_ACCOUNT_KEY", "{\"private_key\":\"", "\"}"),
];

/// A command that has all the secrets and says all that it can.
fn tempted(mut command: Command) -> Command {
    command.envs(VARIABLES.map(|(name, before, after)| (name, format!("{before}{PLANTED}{after}"))));
    command.env("FARSHORE_LOG", "trace");
    command
}

/// The files below a folder that have one of `secrets` in them.
fn files_with(dir: &Path, secrets: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, secrets));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let has = |secret: &&str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            if secrets.iter().any(has) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// A store that refuses whatever it is asked, and gives the path and query of each request.
fn refusing_store() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream): Result<TcpStream, _> = stream else { return };
            let mut request = [0; 8192];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = tell.send(request);
        }
    });
    (address, told)
}

#[test]
fn verbs_that_a_store_refuses_say_no_credential() {
    let (address, requests) = refusing_store();
    // Nobody listens at the second.
    for endpoint in [address.as_str(), "127.0.0.1:9"] {
        for url in ["s3://bucket/prefix", "az://container/prefix"] {
            for verb in [&["init", "--no-encryption", "--vault", url][..], &["status", "--vault", url]] {
                let mut command = tempted(farshore(verb));
                command.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_REGION", "us-east-1");
                command.env("AWS_ENDPOINT_URL", format!("http://{endpoint}")).env("AWS_ALLOW_HTTP", "true");
                command.env("AZURE_STORAGE_ACCOUNT_NAME", "account").env("AZURE_ALLOW_HTTP", "true");
                command.env("AZURE_STORAGE_ENDPOINT", format!("http://{endpoint}/account"));
                if url.starts_with("az:") {
                    // It goes before the token, which is the one that stands in a URL.
                    command.env_remove("AZURE_STORAGE_ACCOUNT_KEY").env_remove("AZURE_CLIENT_SECRET");
                }
                let said = run(&format!("farshore {verb:?}"), command, VERB_MAX).bad();
                assert!(said.err.lines().count() > 3, "it says a lot at trace: {}", said.err);
                for text in [&said.out, &said.err] {
                    let line = text.lines().find(|line| line.contains(PLANTED));
                    assert_eq!(line, None, "{verb:?} at {endpoint}");
                }
            }
        }
    }
    // The credentials were at hand: the token has gone to the store.
    assert!(requests.try_iter().any(|request| request.contains(PLANTED)), "no request used a planted credential");
}

#[test]
fn a_source_and_its_clients_say_no_key() {
    let certificates = tempfile::tempdir().unwrap();
    certificates::make(certificates.path());
    let key = std::fs::read_to_string(certificates.path().join("server-key.pem")).unwrap();
    let mut secrets: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!secrets.is_empty());
    secrets.push(PLANTED);

    let config = format!("tls = {{ dir = \"{}\" }}", certificates.path().display());
    let mut site = Site::new(SiteSpec { disks: vec![8 << 20], tcp: true, config, ..SiteSpec::default() });
    let command = tempted(site.agent_command());
    site.start_agent_as(command);
    site.wait_protected();
    // Somebody who is no client at all, so that TLS has something to say.
    let address = site.disks[0].listen.strip_prefix("tcp:").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    let starttls = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 5, 0, 0, 0, 0]].concat();
    stream.write_all(&starttls).unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    stream.write_all(&[0; 64]).unwrap();
    drop(stream);
    clock::sleep(Duration::from_millis(200));

    let config = site.config.to_str().unwrap().to_owned();
    let verb = |words: &[&str]| run(&format!("farshore {words:?}"), tempted(farshore(words)), VERB_MAX).good();
    let shown = verb(&["status", "--json", &config]);
    let asked = verb(&["mark", &config, "--name", "here"]);
    // What every user of the host can read.
    let mut ps = Command::new("ps");
    ps.args(["-e", "-ww", "-o", "args"]);
    let arguments = run("ps", ps, VERB_MAX).good();
    assert!(arguments.out.contains("ship --child"), "the shipper is among them");
    let pid = site.agent().pid();
    let own = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(own.contains("run"));
    for (what, text) in [
        ("status", format!("{}{}", shown.out, shown.err)),
        ("mark", format!("{}{}", asked.out, asked.err)),
        ("ps", arguments.out.clone()),
        ("the agent's arguments", own),
        ("the agent's output", site.agent().output(Stream::Out).join("\n")),
        ("the agent's log", site.agent().output(Stream::Err).join("\n")),
    ] {
        let line = text.lines().find(|line| secrets.iter().any(|secret| line.contains(secret)));
        assert_eq!(line, None, "{what} has a secret");
    }
    let log = site.agent().output(Stream::Err).join("\n");
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "it was to say all that it can: {log}");
    site.stop_agent();
    let folder = site.config.parent().unwrap().to_owned();
    assert_eq!(files_with(&folder, &secrets), Vec::<String>::new(), "files with a secret");
    // The search does find what is there.
    assert_eq!(files_with(certificates.path(), &secrets).len(), 1, "the key's own file");
}
