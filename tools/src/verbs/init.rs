//! `farshore init`: makes a vault.

use std::path::PathBuf;

use anyhow::Result;
use farshore_vault::{Access, Vault};
use serde::Serialize;

use crate::failure::Next;
use crate::keys;
use crate::output::Output;
use crate::verbs::block_on;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the vault is to be: file:///var/lib/farshore/vault, or in a bucket that is there, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or
    /// gs://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    vault: String,

    /// Where the vault's key is written; a key that is there already is used. Without it, the key that `FARSHORE_VAULT_KEY`, `_FILE` or
    /// `_COMMAND` gives, else a new one in ~/.config/farshore/keys.
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,

    /// Do not encrypt: whoever can read the store can read the disks, and whoever can write to it can change them. Sources need
    /// encryption = "off" then.
    #[arg(long, conflicts_with = "key_file")]
    no_encryption: bool,
}

#[derive(Serialize)]
struct Made {
    vault: String,
    id: String,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_place: Option<String>,
}

/// Makes the vault.
///
/// # Errors
/// When the store cannot be reached or written, or a vault is there already.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let what = || format!("no vault was made at {}", args.vault);
    let next = "see the cause; `farshore status --vault URL` shows a vault that exists";
    let (vault, key) = if args.no_encryption {
        (block_on(Vault::init(&args.vault))?.what(what(), next)?, None)
    } else {
        let access = Access::of_process();
        let chosen = keys::choose(&access, args.key_file.as_deref()).what(what(), "give another key, or none")?;
        let made = block_on(Vault::init_encrypted(&args.vault, &access.variables, &chosen.key, |id| chosen.keep(id)))?;
        if made.is_err() {
            chosen.take_back();
        }
        (made.what(what(), next)?, Some(chosen))
    };
    let made = Made {
        vault: vault.url().to_owned(),
        id: vault.id().to_owned(),
        encrypted: vault.is_encrypted(),
        key: key.as_ref().map(|chosen| chosen.key.fingerprint().to_string()),
        key_place: key.as_ref().map(|chosen| chosen.place()),
    };
    out.print(&made, |m| {
        let Made { vault, id, key, key_place, .. } = m;
        let sealed = match (key, key_place) {
            (Some(key), Some(place)) => format!(
                "everything in it is encrypted; its key {key} is in {place}.\n\
                 WITHOUT THAT KEY NOBODY CAN READ THE VAULT: keep a copy where a fire here does not reach it (farshore key print --vault {vault})\n\
                 a source on another host gets a key of its own: farshore key source GROUP --vault {vault}\n"
            ),
            _ => "it is NOT encrypted: whoever can read the store can read the disks; sources need encryption = \"off\"\n".to_owned(),
        };
        format!(
            "vault {id} made at {vault}\n{sealed}next: farshore run CONFIG at the source, farshore process --vault {vault} --target DIR at the target"
        )
    })
}
