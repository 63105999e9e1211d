//! The connections of a lane: from the negotiation to the last answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::command::Arrival;
use super::listener::Permit;
use super::{Disk, FIRST_PEER, Lane, Offer, SWEEP};
use crate::device::{Device, Finished};
use crate::engine::{Completion, Engine};
use crate::nbd::conn::{Conn, Ctx, PAYLOAD_STALL_MAX};
use crate::nbd::greeting::Greeting;
use crate::nbd::handshake::Negotiated;
use crate::nbd::request::Agreed;
use crate::nbd::securing::Securing;
use crate::nbd::socket::{RECEIVE, Socket};
use crate::tls::relay;

/// One connection.
pub(super) struct Peer<D> {
    socket: Socket,
    permit: Permit,
    stage: Stage<D>,
}

enum Stage<D> {
    Greeting(Greeting, Offer<D>),
    Securing(Securing, Offer<D>),
    Serving(Conn),
}

impl<D> Peer<D> {
    /// A fresh connection of a listener, which is lane's `key`-th peer.
    pub(super) fn greet(fd: OwnedFd, permit: Permit, offer: Offer<D>, key: usize, now: Instant) -> Self {
        let mut socket = Socket::new(fd, FIRST_PEER + key as u32);
        let greeting = Greeting::new(offer.exports.clone(), offer.tls.is_some(), &mut socket, now);
        Self { socket, permit, stage: Stage::Greeting(greeting, offer) }
    }

    /// A connection that another lane has negotiated.
    pub(super) fn arrived(arrival: Arrival, key: usize) -> Self {
        let Arrival { fd, permit, device, agreed } = arrival;
        let socket = Socket::new(fd, FIRST_PEER + key as u32);
        Self { socket, permit, stage: Stage::Serving(Conn::new(key as u32, device, agreed)) }
    }

    /// Begins the end: a negotiation is cut, a serving connection answers what is in flight.
    pub(super) fn leave(&mut self) {
        match &mut self.stage {
            Stage::Greeting(..) | Stage::Securing(..) => self.socket.cut(),
            Stage::Serving(conn) => conn.leave(&mut self.socket),
        }
    }

    /// Ends it now.
    pub(super) fn cut(&mut self) {
        self.socket.cut();
    }
}

/// What a connection needs of its lane for one step.
fn ctx<'a, D: Device>(disk: &'a mut Disk<D>, engine: &'a mut dyn Engine, finished: &'a mut Vec<Finished>) -> Ctx<'a> {
    disk.used = true;
    Ctx { engine, device: &mut disk.device, finished, crowded: !disk.waiting.is_empty() }
}

impl<D: Device> Lane<D> {
    pub(super) fn peer_completed(&mut self, key: usize, own: u32, completion: Completion) {
        let Some(Peer { socket, stage, .. }) = self.peers.get_mut(key) else {
            tracing::error!(connection = key, "a completion of a connection that is gone");
            return;
        };
        match stage {
            Stage::Greeting(greeting, _) if own == RECEIVE => greeting.received(socket, completion),
            Stage::Greeting(greeting, _) => greeting.sent(socket, completion),
            Stage::Securing(securing, _) => securing.received(socket, completion),
            Stage::Serving(conn) if own == RECEIVE => {
                let mut ctx = ctx(&mut self.disks[conn.device], self.engine.as_mut(), &mut self.finished);
                conn.received(socket, &mut ctx, completion);
            }
            Stage::Serving(conn) => conn.sent(socket, &mut self.disks[conn.device].device, completion),
        }
        self.touched.push(key);
    }

    pub(super) fn hand_out_answers(&mut self) {
        for Finished { id, result } in self.finished.drain(..) {
            let (key, own) = Conn::split(id);
            let key = key as usize;
            if let Some(Peer { socket, stage: Stage::Serving(conn), .. }) = self.peers.get_mut(key) {
                conn.answer(socket, own, result);
                self.touched.push(key);
            } else {
                tracing::error!(connection = key, "an answer to a connection that is gone");
            }
        }
    }

    /// Whether a connection or a request of any disk waits for memory.
    fn crowded(&self) -> bool {
        self.disks.iter().any(|d| !d.waiting.is_empty() || d.device.waits_for_room())
    }

    /// Lets waiting connections ask their device for memory again, first come, first served.
    pub(super) fn hand_out_room(&mut self) {
        for disk in &mut self.disks {
            while let Some(key) = disk.waiting.front().copied() {
                if let Some(Peer { stage: Stage::Serving(conn), .. }) = self.peers.get_mut(key) {
                    let mut ctx = ctx(disk, self.engine.as_mut(), &mut self.finished);
                    ctx.crowded = false;
                    if !conn.retry_room(&mut ctx) {
                        break;
                    }
                    self.touched.push(key);
                }
                disk.waiting.pop_front();
            }
        }
    }

    /// Starts what a connection can start, moves it to its next stage, or closes it.
    pub(super) fn advance_peer(&mut self, key: usize, now: Instant) {
        let Some(Peer { socket, stage, .. }) = self.peers.get_mut(key) else { return };
        match stage {
            Stage::Greeting(greeting, _) => {
                greeting.advance(socket, self.engine.as_mut());
                if let Some(negotiated) = greeting.chosen(socket) {
                    self.serve(key, negotiated);
                } else if greeting.starts_tls(socket) {
                    self.secure(key);
                } else if socket.dead() && socket.idle() {
                    self.peers.remove(key);
                }
            }
            Stage::Securing(securing, _) => {
                securing.advance(socket, self.engine.as_mut());
                if securing.done(socket) {
                    self.secured(key);
                } else if socket.dead() && socket.idle() {
                    self.peers.remove(key);
                }
            }
            Stage::Serving(conn) => {
                let device = conn.device;
                let disk = &mut self.disks[device];
                conn.advance(socket, &mut ctx(disk, self.engine.as_mut(), &mut self.finished));
                if conn.wants_room() && !disk.waiting.contains(&key) {
                    disk.waiting.push_back(key);
                    self.sweep_at.get_or_insert(now + SWEEP);
                }
                if conn.over(socket) {
                    disk.waiting.retain(|waiting| *waiting != key);
                    self.peers.remove(key);
                }
            }
        }
    }

    /// Puts a relay between the client and this lane, which begins TLS; the lane goes on with the relay's other end.
    fn secure(&mut self, key: usize) {
        let Some(Peer { socket, permit, stage }) = self.peers.try_remove(key) else { return };
        let Stage::Greeting(greeting, offer) = stage else { return };
        let Some(secure) = offer.tls.clone() else { return };
        let (machine, since) = greeting.into_parts();
        match relay::start(socket.into_fd(), Arc::clone(&secure.server), (permit.clone(), secure)) {
            Ok(relayed) => {
                let stage = Stage::Securing(Securing::new(machine, since, relayed.client), offer);
                self.insert_peer(relayed.fd, permit, stage);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was closed: no thread or descriptor for TLS could be had")
            }
        }
    }

    /// The client is known: the negotiation goes on within TLS.
    fn secured(&mut self, key: usize) {
        let Some(Peer { socket, permit, stage }) = self.peers.try_remove(key) else { return };
        let Stage::Securing(securing, offer) = stage else { return };
        let Some((machine, since)) = securing.into_parts() else { return };
        self.insert_peer(socket.into_fd(), permit, Stage::Greeting(Greeting::resumed(machine, since), offer));
    }

    fn insert_peer(&mut self, fd: OwnedFd, permit: Permit, stage: Stage<D>) {
        let entry = self.peers.vacant_entry();
        let key = entry.key();
        entry.insert(Peer { socket: Socket::new(fd, FIRST_PEER + key as u32), permit, stage });
        self.touched.push(key);
    }

    /// Begins the transmission phase: here, or on the lane of the chosen disk.
    fn serve(&mut self, key: usize, negotiated: Negotiated) {
        let Some(peer) = self.peers.try_remove(key) else { return };
        let Peer { socket, permit, stage } = peer;
        let Stage::Greeting(_, offer) = stage else { return };
        let route = &offer.routes[negotiated.export];
        let agreed = Agreed { structured: negotiated.structured, allocation: negotiated.allocation };
        let arrival = Arrival { fd: socket.into_fd(), permit, device: route.device, agreed };
        tracing::debug!(export = offer.exports[negotiated.export].info.name, "a client begins");
        if route.lane == self.number { self.adopt(arrival) } else { route.handle.hand_over(arrival) }
    }

    /// Takes a negotiated connection.
    pub(super) fn adopt(&mut self, arrival: Arrival) {
        let entry = self.peers.vacant_entry();
        let key = entry.key();
        entry.insert(Peer::arrived(arrival, key));
        self.touched.push(key);
    }

    /// Ends negotiations that last too long, and incomplete payloads that keep memory from others.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_none() && self.crowded() {
            self.sweep_at = Some(now + SWEEP);
        }
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        // The devices of a lane may share their memory, as the taps of a ring's lane do.
        let crowded = self.crowded();
        let mut again = crowded;
        for (key, Peer { socket, stage, .. }) in &mut self.peers {
            let expired = match stage {
                Stage::Greeting(greeting, _) => {
                    again = true;
                    now >= greeting.deadline()
                }
                Stage::Securing(securing, _) => {
                    again = true;
                    now >= securing.deadline()
                }
                Stage::Serving(conn) => {
                    crowded && conn.incomplete_since().is_some_and(|since| now >= since + PAYLOAD_STALL_MAX)
                }
            };
            if expired {
                tracing::info!("a client that stopped in the middle was cut off");
                socket.cut();
                self.touched.push(key);
            }
        }
        self.sweep_at = again.then_some(now + SWEEP);
    }
}
