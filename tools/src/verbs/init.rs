//! `farshore init`: makes a vault.

use anyhow::Result;
use farshore_vault::Vault;
use serde::Serialize;

use crate::failure::Next;
use crate::output::Output;
use crate::verbs::block_on;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the vault is to be: file:///var/lib/farshore/vault, or in a bucket that is there, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or
    /// gs://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    vault: String,
}

#[derive(Serialize)]
struct Made {
    vault: String,
    id: String,
}

/// Makes the vault.
///
/// # Errors
/// When the store cannot be reached or written, or a vault is there already.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let vault = block_on(Vault::init(&args.vault))?.what(
        format!("no vault was made at {}", args.vault),
        "see the cause; `farshore status --vault URL` shows a vault that exists",
    )?;
    let made = Made { vault: vault.url().to_owned(), id: vault.id().to_owned() };
    out.print(&made, |m| {
        format!("vault {} made at {}\nnext: farshore run CONFIG at the source, farshore process --vault {} --target DIR at the target", m.id, m.vault, m.vault)
    })
}
