//! The folder with the server's certificate, in the names that QEMU, libnbd and libvirt use: `ca-cert.pem`, `server-cert.pem`,
//! `server-key.pem`, and `ca-crl.pem` if there is one. It is looked at for every connection and read again when it has changed,
//! so that a certificate can be renewed, and one be revoked, while disks are served.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_changelog::clock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};

/// The authority whose certificates clients must have.
pub const CA_CERT: &str = "ca-cert.pem";
/// Certificates of the authority that count no more.
pub const CA_CRL: &str = "ca-crl.pem";
/// The server's certificate, and those between it and the authority.
pub const SERVER_CERT: &str = "server-cert.pem";
/// Its private key.
pub const SERVER_KEY: &str = "server-key.pem";
/// All of them.
const FILES: [&str; 4] = [CA_CERT, CA_CRL, SERVER_CERT, SERVER_KEY];
/// Longest file that is read.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// The permission bits that a private key must not have.
const OTHERS: u32 = 0o007;

/// Why TLS cannot be served from a folder.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what its name says. Never with anything of its content: it may be the key.
    #[error("{} holds no {what} in PEM form", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Everybody on the host can read the private key.
    #[error("{} can be read or written by everybody (mode {mode:o}): take that away with chmod o-rwx", path.display())]
    KeyForAll {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The authority cannot be used.
    #[error("the authority of {} cannot be used", dir.display())]
    Authority {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
    /// Certificate and key do not go together, or are of a kind that cannot be used.
    #[error("certificate and key of {} cannot be used", dir.display())]
    Pair {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Tells a file from what it was: device, inode, size, and time of the last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

struct Loaded {
    stamps: [Stamp; FILES.len()],
    config: Arc<ServerConfig>,
}

/// What TLS is served with.
pub struct TlsServer {
    dir: PathBuf,
    loaded: Mutex<Loaded>,
}

impl fmt::Debug for TlsServer {
    /// The folder, and nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(dir: &Path) -> Result<Self, TlsError> {
        Ok(Self { dir: dir.to_owned(), loaded: Mutex::new(load(dir)?) })
    }

    /// What the next connection is served with: of the folder as it is now, or as it was when it could last be used.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.dir);
        if stamps != loaded.stamps {
            match load(&self.dir) {
                Ok(new) => {
                    tracing::info!(dir = %self.dir.display(), "the certificates have changed and are in use");
                    *loaded = new;
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the certificates have changed and cannot be used; those of before serve on"
                    );
                    // Said once for each state of the folder.
                    loaded.stamps = stamps;
                }
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn stamps(dir: &Path) -> [Stamp; FILES.len()] {
    let stamp = |m: Metadata| (m.dev(), m.ino(), m.size(), m.ctime(), m.ctime_nsec());
    FILES.map(|name| fs::metadata(dir.join(name)).ok().map(stamp))
}

fn load(dir: &Path) -> Result<Loaded, TlsError> {
    // Before the files, so that a change between the two is found at the next look.
    let stamps = stamps(dir);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(dir, &provider)?;
    let chain = certificates(&dir.join(SERVER_CERT))?;
    let key = private_key(&dir.join(SERVER_KEY))?;
    let pair = |source| TlsError::Pair { dir: dir.to_owned(), source };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(pair)?;
    // A disk is opened once in months: nothing is gained by a session that is resumed, and it would not be asked whether its
    // certificate has expired or was revoked meanwhile.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { stamps, config: Arc::new(config) })
}

fn verifier(dir: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let path = dir.join(CA_CERT);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        roots.add(certificate).map_err(|_| TlsError::Content { path: path.clone(), what: "certificate" })?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let path = dir.join(CA_CRL);
    if fs::symlink_metadata(&path).is_ok() {
        let lists = CertificateRevocationListDer::pem_slice_iter(&read(&path)?).collect::<Result<Vec<_>, _>>();
        let lists = lists.ok().filter(|lists| !lists.is_empty());
        let lists = lists.ok_or(TlsError::Content { path, what: "list of revoked certificates" })?;
        // Of the authority itself there is a list; authorities in between may have none.
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    builder.build().map_err(|source| TlsError::Authority { dir: dir.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| TlsError::Content { path: path.to_owned(), what: "certificate" })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(TlsError::KeyForAll { path: path.to_owned(), mode });
    }
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|_| TlsError::Content { path: path.to_owned(), what: "private key" })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(failed)
}

/// The wall clock of this program, by which certificates expire.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(clock::wall().0)))
    }
}
