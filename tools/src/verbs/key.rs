//! `farshore key`: the keys of an encrypted vault.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_vault::{KeyRing, Vault, VaultKey};
use serde::Serialize;

use crate::failure::{Next, fail};
use crate::keys;
use crate::output::Output;
use crate::verbs::block_on;

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the vault's keys as a page to keep on paper, or in a safe: the recovery copy.
    Print {
        /// The vault.
        #[arg(long, value_name = "URL")]
        vault: String,
    },
    /// Make the key of a group's source: it can write that group's log, and open nothing of it again.
    Source {
        /// The group.
        group: GroupName,
        /// The vault.
        #[arg(long, value_name = "URL")]
        vault: String,
        /// Where it is written; on the source it belongs to ~/.config/farshore/keys/VAULT-ID.key, or to what key_file names.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
    /// Put a new vault key first in the vault's key file. Epochs that begin with it are sealed to it; the old key stays, for what is there.
    Rotate {
        /// The vault.
        #[arg(long, value_name = "URL")]
        vault: String,
    },
}

#[derive(Serialize)]
struct Said {
    vault: String,
    id: String,
    /// Fingerprints, the newest first.
    keys: Vec<String>,
    place: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<String>,
}

/// Does it.
///
/// # Errors
/// When the vault cannot be opened, or its own key is not at hand.
pub fn run(args: &Args, out: Output) -> Result<()> {
    match &args.what {
        What::Print { vault } => {
            let (vault, ring, place) = opened(vault)?;
            let lines = ring.vault.iter().map(|key| key.to_line().to_string()).collect();
            out.print(&said(&vault, &ring, place, lines), page)
        }
        What::Source { group, vault, out: path } => {
            let (vault, ring, _) = opened(vault)?;
            ensure!(
                path.symlink_metadata().is_err(),
                "{} is there already; give another path, or move it away",
                path.display()
            );
            let key = vault.source_key(group).ok_or_else(|| no_key(&vault))?;
            let told = format!("the key of the source of group {group} in vault {} ({})", vault.id(), vault.url());
            keys::write(path, &told, &KeyRing::of_source(key))
                .what(format!("the key of {group} was not written"), "see the cause")?;
            let place = path.display().to_string();
            out.print(&said(&vault, &ring, place, Vec::new()), |said| {
                format!(
                    "key of {group} written to {}\nnext: bring it to the source over a way that nobody reads, as ~/.config/farshore/keys/{}.key \
                     (mode 0600), or name it there with key_file",
                    said.place, said.id
                )
            })
        }
        What::Rotate { vault } => {
            let (vault, mut ring, place) = opened(vault)?;
            let path = Path::new(&place);
            if !path.is_absolute() || path.symlink_metadata().is_err() {
                return Err(fail(format!("the keys of {} come from {place}, which cannot be written", vault.url()))
                    .next("put a new key before the others where they are kept; `farshore init` of another vault makes one")
                    .into());
            }
            ring.vault.insert(0, VaultKey::generate());
            let told =
                format!("the keys of vault {} ({}), renewed {}", vault.id(), vault.url(), clock::wall().timestamp());
            keys::write(path, &told, &ring)
                .what("no new key was made", "see the cause; the old ones are as they were")?;
            out.print(&said(&vault, &ring, place, Vec::new()), |said| {
                format!(
                    "new key {} written first to {}\nnext: print the recovery copy again (farshore key print --vault {}), bring the file to every target \
                     before any source, then give each source a key made from it (farshore key source); an epoch that begins with it is sealed to it \
                     (at a source that was stopped in order and whose host was started again, or by farshore resync GROUP --full)",
                    said.keys[0], said.place, said.vault
                )
            })
        }
    }
}

fn opened(url: &str) -> Result<(Vault, KeyRing, String)> {
    let vault = block_on(Vault::open(url))?.what(format!("the vault {url} cannot be opened"), "see the cause")?;
    let Some((vault_keys, place)) = vault.vault_keys() else { return Err(no_key(&vault).into()) };
    let (ring, place) = (KeyRing { vault: vault_keys.to_vec(), source: Vec::new() }, place.to_owned());
    Ok((vault, ring, place))
}

fn no_key(vault: &Vault) -> crate::failure::Failure {
    let what = if vault.is_encrypted() {
        "is encrypted, and its own key is not here: only a source's"
    } else {
        "is not encrypted, it has no key"
    };
    fail(format!("the vault {} {what}", vault.url()))
        .next("do this where the vault was made, or where its key was brought")
}

fn said(vault: &Vault, ring: &KeyRing, place: String, lines: Vec<String>) -> Said {
    let keys = ring.vault.iter().map(|key| key.fingerprint().to_string()).collect();
    Said { vault: vault.url().to_owned(), id: vault.id().to_owned(), keys, place, lines }
}

/// The recovery copy: what somebody needs who has nothing else.
fn page(said: &Said) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "FARSHORE RECOVERY COPY                                     printed {}",
        clock::wall().timestamp()
    );
    let _ = writeln!(page, "\nvault   {}\nat      {}", said.id, said.vault);
    for (n, (print, line)) in said.keys.iter().zip(&said.lines).enumerate() {
        let _ = writeln!(page, "\nkey {} of {} ({print})", n + 1, said.keys.len());
        // The words of a key that are the same in all of them, then what is its own, in groups that an eye can hold.
        let (head, own) = line.split_at(line.rfind('1').map_or(0, |at| at + 1));
        let _ = writeln!(page, "    {head}");
        let groups: Vec<&[u8]> = own.as_bytes().chunks(4).collect();
        for row in groups.chunks(8) {
            let row: Vec<&str> = row.iter().filter_map(|group| std::str::from_utf8(group).ok()).collect();
            let _ = writeln!(page, "    {}", row.join(" "));
        }
    }
    let _ = writeln!(
        page,
        "\nWhoever has this page can read every disk in the vault; without it, and without the key file, nobody can.\n\
         To use it: write each key without its spaces and line ends on a line of its own, in this order, to a file with\n\
         mode 0600, and set FARSHORE_VAULT_KEY_FILE to its path. A mistyped key is noticed and is no other key."
    );
    page
}
