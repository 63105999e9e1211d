//! Who may connect to what is served: what a configuration and a command line say of it.

use anyhow::Result;
use farshore_capture::access::Access;
use farshore_capture::server::{Listen, ListenError};
use nix::unistd::Uid;

use crate::failure::fail;

/// Arguments of the verbs that serve.
#[derive(Debug, clap::Args)]
pub struct AccessArgs {
    /// Users that a unix socket lets in, beside root and the one this runs as; its file keeps mode 0600.
    #[arg(long = "listen-uid", value_name = "UID")]
    listen_uids: Vec<u32>,
    /// Serve TCP in plain text to other hosts too: whoever reaches the address can read and write what is served.
    #[arg(long)]
    allow_plain_tcp: bool,
}

impl AccessArgs {
    /// What they say.
    #[must_use]
    pub fn plan(&self) -> AccessPlan {
        AccessPlan { users: self.listen_uids.clone(), plain_tcp: self.allow_plain_tcp }
    }
}

/// Who may connect, as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct AccessPlan {
    /// Users that unix sockets let in, beside root and this process's own.
    pub users: Vec<u32>,
    /// TCP may be served beyond this host in plain text.
    pub plain_tcp: bool,
}

impl AccessPlan {
    /// Prepares it for a server that listens at these addresses.
    ///
    /// # Errors
    /// When one of them may not be listened at.
    pub fn open<'a>(&self, listens: impl IntoIterator<Item = &'a Listen>) -> Result<Access> {
        let users = self.users.iter().copied().map(Uid::from_raw).collect();
        let access = Access { users, plain_tcp: self.plain_tcp };
        for listen in listens {
            listen.check(&access).map_err(|e| {
                let next = match e {
                    ListenError::PlainTcp { .. } => {
                        "listen on 127.0.0.1 or a unix socket; where only friends can reach the address, say allow_plain_tcp = true (--allow-plain-tcp)"
                    }
                    _ => "write an address of this machine, such as tcp:127.0.0.1:10809",
                };
                anyhow::Error::from(fail(format!("cannot serve on {listen}")).because(e).next(next))
            })?;
        }
        Ok(access)
    }
}
