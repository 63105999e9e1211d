//! Certificates for NBD over TLS: made by the commands of `docs/nbd-tls.md`, so that those are tried too, and some that must be
//! refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::deps::{self, repository};
use crate::process::run;

/// The longest that making some may take.
const MAKE_MAX: Duration = Duration::from_secs(60);

/// Runs a script in a folder.
fn script(dir: &Path, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    let _ = run("openssl", command, MAKE_MAX).good();
}

/// A folder with an authority, and the certificates of a server on this host and a client `CN=host7,O=Example`.
///
/// # Panics
/// When they cannot be made.
pub fn make(dir: &Path) {
    deps::ensure();
    std::fs::create_dir_all(dir).expect("room for certificates");
    let text = std::fs::read_to_string(repository().join("docs/nbd-tls.md")).expect("the documentation");
    let (_, from) = text.split_once("```sh\n").expect("its commands");
    let (commands, _) = from.split_once("```").expect("their end");
    script(dir, commands);
}

/// A client's folder beside `authority`: its authority's certificate, and one of the client's own, of the subject `/O=Example/CN=name`
/// and so many days of life from now.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn client(authority: &Path, name: &str, days: i32) -> PathBuf {
    let dir = authority.with_file_name(format!("client-{name}"));
    std::fs::create_dir_all(&dir).expect("room for certificates");
    let ca = authority.display();
    script(
        &dir,
        &format!(
            "cp {ca}/ca-cert.pem .
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout client-key.pem -out request.pem -subj '/O=Example/CN={name}'
            printf 'basicConstraints=critical,CA:FALSE\\nextendedKeyUsage=clientAuth\\n' >extensions
            openssl x509 -req -in request.pem -CA {ca}/ca-cert.pem -CAkey {ca}/ca-key.pem -CAcreateserial -days {days} \
                -extfile extensions -out client-cert.pem"
        ),
    );
    dir
}

/// A client's folder beside `authority` without a certificate of its own.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn nobody(authority: &Path) -> PathBuf {
    let dir = authority.with_file_name("client-nobody");
    std::fs::create_dir_all(&dir).expect("room for certificates");
    std::fs::copy(authority.join("ca-cert.pem"), dir.join("ca-cert.pem")).expect("the authority's certificate");
    dir
}
