//! Who may connect to what is served: what a configuration and a command line say of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use farshore_capture::access::Access;
use farshore_capture::server::{Listen, ListenError};
use farshore_capture::tls::files::TlsServer;
use farshore_capture::tls::identity::{ClientName, Clients};
use nix::unistd::Uid;
use serde::Deserialize;

use crate::failure::{Next, fail};

/// Where the certificates are explained.
const TLS_DOC: &str = "docs/nbd-tls.md shows how to make the certificates";

/// Arguments of the verbs that serve.
#[derive(Debug, clap::Args)]
pub struct AccessArgs {
    /// Serve TCP over TLS alone, with the certificates of this folder: ca-cert.pem, server-cert.pem, server-key.pem.
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// A certificate that may open what is served, such as CN=host7, once for each; without it any of the authority may.
    #[arg(long = "tls-client", value_name = "NAME", requires = "tls")]
    tls_clients: Vec<ClientName>,
    /// Users that a unix socket lets in, beside root and the one this runs as; its file keeps mode 0600.
    #[arg(long = "listen-uid", value_name = "UID")]
    listen_uids: Vec<u32>,
    /// Serve TCP in plain text to other hosts too: whoever reaches the address can read and write what is served.
    #[arg(long)]
    allow_plain_tcp: bool,
}

impl AccessArgs {
    /// What they say of the server.
    #[must_use]
    pub fn plan(&self) -> AccessPlan {
        let (users, plain_tcp) = (self.listen_uids.clone(), self.allow_plain_tcp);
        AccessPlan { users, plain_tcp, tls: self.tls.clone() }
    }

    /// Whom the exports are for, over TLS.
    #[must_use]
    pub fn clients(&self) -> Option<Clients> {
        (!self.tls_clients.is_empty()).then(|| Clients(self.tls_clients.clone()))
    }
}

/// `[tls]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTls {
    dir: PathBuf,
}

impl FileTls {
    /// The folder; a relative one is relative to `base`.
    #[must_use]
    pub fn dir(&self, base: &Path) -> PathBuf {
        base.join(&self.dir)
    }
}

/// Proves `tls_clients` of a disk that listens at `listen`.
///
/// # Errors
/// When an entry names nobody, or the list would protect nothing.
pub fn clients(entries: Option<Vec<String>>, tls: bool, listen: &Listen) -> Result<Option<Clients>> {
    let Some(entries) = entries else { return Ok(None) };
    ensure!(
        tls && matches!(listen, Listen::Tcp(_)),
        "tls_clients is for a disk that is served over TLS, and {listen} is not: give it listen = \"tcp:…\" and the file a [tls] dir"
    );
    let entries = entries.iter().map(|entry| Ok(entry.parse::<ClientName>()?));
    Ok(Some(Clients(entries.collect::<Result<_>>()?)))
}

/// Who may connect, as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct AccessPlan {
    /// Users that unix sockets let in, beside root and this process's own.
    pub users: Vec<u32>,
    /// TCP may be served beyond this host in plain text.
    pub plain_tcp: bool,
    /// The folder with the certificates of TLS.
    pub tls: Option<PathBuf>,
}

impl AccessPlan {
    /// Prepares it for a server that listens at these addresses.
    ///
    /// # Errors
    /// When one of them may not be listened at, or the certificates cannot be used.
    pub fn open<'a>(&self, listens: impl IntoIterator<Item = &'a Listen>) -> Result<Access> {
        let users = self.users.iter().copied().map(Uid::from_raw).collect();
        let tls = self.tls.as_deref().map(TlsServer::open).transpose().what("cannot serve over TLS", TLS_DOC)?;
        let access = Access { users, tls: tls.map(Arc::new), plain_tcp: self.plain_tcp };
        for listen in listens {
            listen.check(&access).map_err(|e| {
                let next = match e {
                    ListenError::PlainTcp { .. } => {
                        "set up TLS (docs/nbd-tls.md), or listen on 127.0.0.1 or a unix socket; where only friends can reach the address, say allow_plain_tcp = true (--allow-plain-tcp)"
                    }
                    _ => "write an address of this machine, such as tcp:127.0.0.1:10809",
                };
                anyhow::Error::from(fail(format!("cannot serve on {listen}")).because(e).next(next))
            })?;
        }
        Ok(access)
    }
}
