//! The shipper's service: `farshore ship`. It waits for the group's agent, keeps a shipper at work while the agent's connection
//! stands, and answers what the agent asks of the vault. The work is done by child processes, as it is for an agent that has no service.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farshore_changelog::{clock, crashsafe};

use super::words::{ASK_MAX_BYTES, Ask, Heard, Line, socket_path};
use crate::agent::child::ShipperChild;
use crate::agent::look::look;
use crate::config::Config;
use crate::door::Door;
use crate::failure::{Next, fail};
use crate::stop::{LONG_POLL, POLL};

/// Connections at once: an agent's own, that of its killed predecessor whose shipper drains, and looks.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may take to say what it wants.
const ASK_MAX: Duration = Duration::from_secs(10);
/// The longest look at the vault.
const LOOK_MAX: Duration = Duration::from_secs(120);
/// How long the shipper of a killed service is waited for: longer than it drains.
const PREDECESSOR_MAX: Duration = Duration::from_secs(30);

/// What the connections share.
struct Service {
    config: Config,
    stop: Arc<AtomicBool>,
    connections: AtomicUsize,
    /// Whose holder ships.
    turn: Mutex<()>,
}

/// Serves until told to stop, then lets the shipper drain.
///
/// # Errors
/// When another service or shipper of the group runs, or the socket cannot be made.
pub fn run(config: &Config, stop: &Arc<AtomicBool>) -> Result<()> {
    let _lock = lock(config)?;
    wait_for_others(config, stop)?;
    let door = Door::listen(socket_path(&config.run_dir, &config.group))
        .next("run_dir in the configuration must be a folder that can be written")?;
    tracing::info!("group {}: waits for the agent, farshore run --no-shipper {}", config.group, config.path.display());
    let service = Arc::new(Service {
        config: config.clone(),
        stop: Arc::clone(stop),
        connections: AtomicUsize::new(0),
        turn: Mutex::new(()),
    });
    while let Some(stream) = door.accept(stop) {
        if service.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            service.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("group {}: more than {CONNECTIONS_MAX} connections are refused", config.group);
            continue;
        }
        let its = Arc::clone(&service);
        let started = std::thread::Builder::new().name("agent".into()).spawn(move || {
            if let Err(error) = its.serve(stream) {
                tracing::warn!("group {}: an agent's connection was not served: {error:#}", its.config.group);
            }
            its.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = started {
            service.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("group {}: no thread for a connection: {error}", config.group);
        }
    }
    // Nobody new is let in; who ships drains. Looks end with this process.
    drop(door);
    let _last = service.turn.lock().unwrap_or_else(PoisonError::into_inner);
    tracing::info!("group {}: the shipper's service ends", config.group);
    Ok(())
}

/// One service a group.
fn lock(config: &Config) -> Result<File> {
    crashsafe::create_dir_all(&config.state_dir)
        .next("state_dir in the configuration must be a folder that can be written")?;
    crashsafe::lock_file(&config.state_dir.join("service.lock")).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => fail(format!("another shipper's service of group {} runs", config.group))
            .because(e)
            .next("stop it first: it is a `farshore ship` process")
            .into(),
        _ => e.into(),
    })
}

/// The shipper of a service that was killed drains before it ends. One that does not end is an agent's own.
fn wait_for_others(config: &Config, stop: &AtomicBool) -> Result<()> {
    let until = clock::mono() + PREDECESSOR_MAX;
    while farshore_shipper::is_running(&config.state_dir)? && !stop.load(Ordering::Acquire) {
        if clock::mono() >= until {
            bail!(
                fail(format!("another shipper of group {} runs", config.group))
                    .because(anyhow::anyhow!("it holds {}", config.state_dir.join("ship.lock").display()))
                    .next(format!(
                        "an agent that was started without --no-shipper ships by itself; `farshore status {}` shows it",
                        config.path.display()
                    ))
            );
        }
        clock::sleep(POLL);
    }
    Ok(())
}

impl Service {
    fn serve(&self, stream: UnixStream) -> Result<()> {
        let mut line = Line::new(stream, ASK_MAX_BYTES);
        match heard(&line.hear(ASK_MAX)?)? {
            None => Ok(()),
            Some(Ask::Look { question, within_ms }) => {
                let limit = Duration::from_millis(within_ms).min(LOOK_MAX);
                line.say(&look(&self.config, question, limit))
            }
            Some(Ask::Ship) => self.ship(line),
            Some(Ask::Discard) => bail!("it ships nothing that could be discarded"),
        }
    }

    /// Keeps a shipper at work while the connection stands.
    fn ship(&self, mut line: Line) -> Result<()> {
        let Some(_turn) = self.turn(&mut line)? else { return Ok(()) };
        tracing::info!("group {}: ships for the agent {}", self.config.group, line.peer());
        let (over, discard) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let ear = || self.listen(&mut line, &over, &discard);
            std::thread::Builder::new().name("ear".into()).spawn_scoped(scope, ear).context("no thread to listen")?;
            ShipperChild::default().supervise(&self.config.path, &over, &discard, |_| ());
            Ok(())
        })
    }

    /// Waits for the shipper of an agent before this one; `None` when the agent, or the service, ends meanwhile.
    fn turn(&self, line: &mut Line) -> Result<Option<MutexGuard<'_, ()>>> {
        while !self.stop.load(Ordering::Acquire) {
            match self.turn.try_lock() {
                Ok(turn) => return Ok(Some(turn)),
                Err(TryLockError::Poisoned(turn)) => return Ok(Some(turn.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
            match line.hear(POLL)? {
                Heard::Nothing => {}
                // It has nothing in hand yet, whether it is to be discarded or drained.
                Heard::Said(_) | Heard::End => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Hears how the connection ends.
    fn listen(&self, line: &mut Line, over: &AtomicBool, discard: &AtomicBool) {
        while !self.stop.load(Ordering::Acquire) {
            match line.hear(LONG_POLL) {
                Ok(Heard::Nothing) => continue,
                Ok(word) => match heard(&word) {
                    Ok(Some(Ask::Discard)) => discard.store(true, Ordering::Release),
                    Ok(None) => {}
                    Ok(Some(ask @ (Ask::Look { .. } | Ask::Ship))) => {
                        tracing::warn!("group {}: {ask:?} ends a connection that ships", self.config.group);
                    }
                    Err(error) => tracing::warn!("group {}: {error:#}", self.config.group),
                },
                Err(error) => tracing::warn!("group {}: {error:#}", self.config.group),
            }
            break;
        }
        over.store(true, Ordering::Release);
    }
}

/// What was asked; `None` at the end of the connection.
fn heard(word: &Heard) -> Result<Option<Ask>> {
    match word {
        Heard::Said(text) => serde_json::from_str(text).map(Some).context("what it says is not understood"),
        Heard::End => Ok(None),
        Heard::Nothing => bail!("it says nothing"),
    }
}
