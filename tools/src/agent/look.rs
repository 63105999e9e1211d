//! What the agent has to know of the vault. It asks the program that ships, in a process of its own, which it starts or finds running as
//! a service: the one that serves the disks opens no socket to a network, holds no key, and parses nothing that a store has sent.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_vault::{EpochObject, KeyError, VaultError};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::service::words::{Ask, Heard, Line};
use crate::stop::POLL;
use crate::verbs::block_on;

/// Longest answer that is read, in bytes: an epoch object and a few words.
const ANSWER_MAX_BYTES: usize = 256 << 10;
/// How long the shipper's service is waited for that has just been started beside the agent.
const SERVICE_MAX: Duration = Duration::from_secs(2);
/// How much longer than the vault the service may take: it has a process to start, and to end.
const SERVICE_GRACE: Duration = Duration::from_secs(2);

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Looker {
    /// A process of its own.
    #[default]
    Child,
    /// The shipper's service.
    Service,
    /// This one, where there is no other: in a simulation.
    Here,
}

/// What is asked, besides the vault's id.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The group's newest epoch.
    pub epoch: bool,
    /// The number of the newest request from this one on.
    pub requests_from: Option<u64>,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The vault's id.
    pub id: String,
    /// The newest epoch; `None` when there is none, or it was not asked for.
    pub epoch: Option<EpochObject>,
    /// The newest request.
    pub request: Option<u64>,
}

/// Why there is none.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{said}")]
#[serde(deny_unknown_fields)]
pub struct NotSeen {
    /// Somebody must do something; waiting does not help.
    pub for_good: bool,
    /// Why, with what to do.
    pub said: String,
}

/// What the looking process prints.
pub type Answer = Result<Seen, NotSeen>;

/// Asks the group's vault.
///
/// # Errors
/// [`NotSeen`], also when there was no answer within `limit`.
pub fn look(config: &Config, question: Question, limit: Duration) -> Answer {
    let failed = |e: anyhow::Error| NotSeen { for_good: false, said: format!("{e:#}") };
    match config.looker {
        Looker::Child => ask_child(config, question, limit).unwrap_or_else(|e| Err(failed(e))),
        Looker::Service => ask_service(config, question, limit).unwrap_or_else(|e| Err(failed(e))),
        Looker::Here => answer(config, question).unwrap_or_else(|e| Err(failed(e))),
    }
}

/// Looks: what the other process does.
///
/// # Errors
/// When no runtime can be made.
pub fn answer(config: &Config, question: Question) -> Result<Answer> {
    let seen = block_on(async {
        let vault = config.open_vault().await?;
        let group = vault.group(&config.group);
        let mut seen = Seen { id: vault.id().to_owned(), epoch: None, request: None };
        if question.epoch {
            seen.epoch = group.newest_epoch(Epoch(1)).await?.map(|(object, _)| object);
        }
        if let Some(from) = question.requests_from {
            seen.request = Some(group.newest_request(from).await?);
        }
        Ok::<_, VaultError>(seen)
    })?;
    Ok(seen.map_err(|e| {
        let for_good = match &e {
            VaultError::Version { .. } | VaultError::BadUrl { .. } | VaultError::Unconditional { .. } => true,
            // A key may lie on a mount that is not there yet, or with a server that starts: a VM does not wait for that.
            VaultError::Key(KeyError::Missing { .. } | KeyError::Unreadable { .. }) => false,
            VaultError::Key(KeyError::Wrong { .. } | KeyError::Plain { .. } | KeyError::NotAsAsked { .. }) => true,
            VaultError::Unreachable { .. }
            | VaultError::Refused { .. }
            | VaultError::Throttled { .. }
            | VaultError::Gone { .. }
            | VaultError::NotAVault { .. }
            | VaultError::OtherVault { .. }
            | VaultError::AlreadyAVault { .. }
            | VaultError::Damaged { .. } => false,
        };
        NotSeen { for_good, said: format!("{:#}", anyhow::Error::from(e)) }
    }))
}

fn ask_child(config: &Config, question: Question, limit: Duration) -> Result<Answer> {
    let program = std::env::current_exe().context("cannot find this program to look at the vault with")?;
    let mut child = Command::new(program)
        .arg("ship")
        .arg("--look")
        .arg(serde_json::to_string(&question)?)
        .arg(&config.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start what looks at the vault")?;
    let said = child.stdout.take().context("its answer cannot be read")?;
    let reader = std::thread::Builder::new().name("look".into()).spawn(move || {
        let mut text = String::new();
        said.take(ANSWER_MAX_BYTES as u64).read_to_string(&mut text).map(|_| text)
    })?;
    let ended = wait(&mut child, limit);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = reader.join().ok().context("its answer cannot be read")??;
    ended?;
    serde_json::from_str(&text).context("what looks at the vault ended without an answer; what it said is above")
}

fn wait(child: &mut Child, limit: Duration) -> Result<()> {
    let until = clock::mono() + limit;
    while child.try_wait()?.is_none() {
        if clock::mono() >= until {
            return Err(late(limit));
        }
        clock::sleep(POLL);
    }
    Ok(())
}

fn late(limit: Duration) -> anyhow::Error {
    anyhow!("the vault did not answer within {} s", limit.as_secs())
}

fn ask_service(config: &Config, question: Question, limit: Duration) -> Result<Answer> {
    let until = clock::mono() + limit.min(SERVICE_MAX);
    let mut line = loop {
        match Line::connect(config, ANSWER_MAX_BYTES) {
            Ok(line) => break line,
            Err(e) if clock::mono() >= until => return Err(e),
            Err(_) => clock::sleep(POLL),
        }
    };
    line.say(&Ask::Look { question, within_ms: u64::try_from(limit.as_millis())? })?;
    match line.hear(limit + SERVICE_GRACE)? {
        Heard::Said(text) => {
            serde_json::from_str(&text).context("what the shipper's service said of the vault is no answer")
        }
        Heard::Nothing => Err(late(limit)),
        Heard::End => bail!("the shipper's service ended without an answer; its log says why"),
    }
}
