//! A server of disks: lanes with their devices, the sockets they are reached by, and an orderly stop.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::access::Access;
use crate::device::{Device, DeviceInfo};
use crate::engine::Engine;
use crate::lane::{Command, Lane, LaneError, LaneHandle, Listener, Offer, Route, Secure};
use crate::listen::{self, SocketFile};
pub use crate::listen::{Listen, ListenError};
use crate::nbd::export::Export;
use crate::tls::identity::Clients;
use crate::tls::relay::LAST_ANSWERS_MAX;

/// Any error of a device factory.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a lane's factory makes, on the lane's own thread.
pub struct LaneParts<D> {
    /// The engine, opened on this thread.
    pub engine: Box<dyn Engine>,
    /// The devices. The n-th must make its tokens with owner n ([`crate::device::DeviceTokens`]).
    pub devices: Vec<D>,
}

/// How a device is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPlan {
    /// Where. Devices with the same address share its listener, whatever their lanes.
    pub listen: Listen,
    /// Its place among all disks: of those that share a listener, the lowest is the default export.
    pub place: usize,
    /// Text for people; empty for none.
    pub description: String,
    /// Whom it is for, over TLS; `None`: whoever has a certificate of the authority.
    pub clients: Option<Clients>,
}

type Factory<D> = Box<dyn FnOnce() -> Result<LaneParts<D>, BoxError> + Send>;

/// Why a server could not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A lane's factory failed.
    #[error("I/O thread {lane} could not start")]
    Start {
        /// The lane's number.
        lane: usize,
        /// What its factory said.
        source: BoxError,
    },
    /// The system has no thread left.
    #[error("no thread could be started")]
    Thread(#[source] io::Error),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Two exports of one listener have one name.
    #[error("two exports on {listen} are named {name}: give one of them another name or address")]
    Duplicate {
        /// The name.
        name: String,
        /// The address.
        listen: Listen,
    },
    /// A lane ended with an error.
    #[error("I/O thread {lane} failed")]
    Lane {
        /// The lane's number.
        lane: usize,
        /// Why.
        source: LaneError,
    },
    /// A lane's thread panicked: a programming error.
    #[error("I/O thread {lane} panicked; its message stands above")]
    Panicked {
        /// The lane's number.
        lane: usize,
    },
}

/// Collects the lanes of a server.
pub struct ServerBuilder<D> {
    plans: Vec<(Vec<ExportPlan>, Factory<D>)>,
    access: Access,
}

impl<D: Device + 'static> Default for ServerBuilder<D> {
    fn default() -> Self {
        Self { plans: Vec::new(), access: Access::default() }
    }
}

impl<D: Device + 'static> ServerBuilder<D> {
    /// A server without lanes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says who may connect; unless it is called, that is this user and root, and over TCP this host.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Adds a lane. `make` runs on its thread and makes one device for each of `exports`, in their order.
    #[must_use]
    pub fn lane<F>(mut self, exports: Vec<ExportPlan>, make: F) -> Self
    where
        F: FnOnce() -> Result<LaneParts<D>, BoxError> + Send + 'static,
    {
        self.plans.push((exports, Box::new(make)));
        self
    }

    /// Starts the lanes, waits until all their devices are made, and listens.
    ///
    /// # Errors
    /// [`ServerError`]; then nothing is left running.
    ///
    /// # Panics
    /// When a factory made another number of devices than it has exports: a programming error.
    pub fn start(self) -> Result<Server<D>, ServerError> {
        let mut server = Server { lanes: Vec::new(), files: Vec::new(), listening: Vec::new(), relays: bounded(0).1 };
        let mut offers: Vec<Offered<D>> = Vec::new();
        for (number, (exports, make)) in self.plans.into_iter().enumerate() {
            let (lane, infos) = start_lane(number, make)?;
            assert_eq!(infos.len(), exports.len(), "lane {number}: one device for each export");
            for (device, (plan, info)) in exports.into_iter().zip(infos).enumerate() {
                let route = Route { lane: number, handle: lane.handle.clone(), device };
                let export = Export { info, description: plan.description, clients: plan.clients };
                offers.push(Offered { place: plan.place, listen: plan.listen, export, route });
            }
            server.lanes.push(lane);
        }
        offers.sort_by_key(|o| o.place);
        server.listen(offers, self.access)?;
        Ok(server)
    }
}

/// An export and where it is.
struct Offered<D> {
    place: usize,
    listen: Listen,
    export: Export,
    route: Route<D>,
}

struct RunningLane<D> {
    handle: LaneHandle<D>,
    thread: Option<JoinHandle<Result<(), LaneError>>>,
    engine: &'static str,
}

struct Ready<D> {
    handle: LaneHandle<D>,
    infos: Vec<DeviceInfo>,
    engine: &'static str,
}

/// Starts a lane's thread and waits until its devices are made.
fn start_lane<D: Device + 'static>(
    number: usize,
    make: Factory<D>,
) -> Result<(RunningLane<D>, Vec<DeviceInfo>), ServerError> {
    let (report, ready) = bounded(1);
    let thread = Builder::new()
        .name(format!("farshore-lane-{number}"))
        .spawn(move || lane_thread(number, make, &report))
        .map_err(ServerError::Thread)?;
    match ready.recv() {
        Ok(Ok(Ready { handle, infos, engine })) => Ok((RunningLane { handle, thread: Some(thread), engine }, infos)),
        Ok(Err(source)) => Err(ServerError::Start { lane: number, source }),
        Err(_) => Err(ServerError::Panicked { lane: number }),
    }
}

fn lane_thread<D: Device>(
    number: usize,
    make: Factory<D>,
    report: &Sender<Result<Ready<D>, BoxError>>,
) -> Result<(), LaneError> {
    let LaneParts { engine, devices } = match make() {
        Ok(parts) => parts,
        Err(e) => {
            // The starter waits; it cannot be gone.
            let _ = report.send(Err(e));
            return Ok(());
        }
    };
    let (handle, commands) = LaneHandle::new(engine.waker());
    let infos = devices.iter().map(|d| d.info().clone()).collect();
    let name = engine.name();
    let lane = Lane::new(number, engine, devices, commands);
    let _ = report.send(Ok(Ready { handle, infos, engine: name }));
    lane.run()
}

/// Lanes that run and sockets that listen. Dropping it stops them, without a word about errors.
pub struct Server<D> {
    lanes: Vec<RunningLane<D>>,
    files: Vec<SocketFile>,
    listening: Vec<Listen>,
    /// Ends when the last TLS relay has ended.
    relays: Receiver<Infallible>,
}

impl<D> Server<D> {
    /// Groups the exports by address and hands each listener to the lane of its first export.
    fn listen(&mut self, offers: Vec<Offered<D>>, access: Access) -> Result<(), ServerError> {
        let mut groups: Vec<(Listen, Vec<Export>, Vec<Route<D>>)> = Vec::new();
        for Offered { listen, export, route, .. } in offers {
            let at = groups.iter().position(|(at, ..)| *at == listen).unwrap_or_else(|| {
                groups.push((listen.clone(), Vec::new(), Vec::new()));
                groups.len() - 1
            });
            let (_, exports, routes) = &mut groups[at];
            if exports.iter().any(|e| e.info.name == export.info.name) {
                return Err(ServerError::Duplicate { name: export.info.name, listen });
            }
            exports.push(export);
            routes.push(route);
        }
        let access = Arc::new(access);
        let (running, relays) = bounded(0);
        self.relays = relays;
        for (at, exports, routes) in groups {
            let bound = listen::open(&at, &access)?;
            let first = routes[0].handle.clone();
            let tcp = matches!(at, Listen::Tcp(_));
            let tls = access.tls.clone().filter(|_| tcp).map(|server| Secure { server, _running: running.clone() });
            let offer = Offer { exports: exports.into(), routes: routes.into(), tls };
            let listener = Listener::new(bound.fd, tcp, offer, Arc::clone(&access));
            self.files.extend(bound.file);
            self.listening.push(bound.at);
            // A lane that is gone already reports its reason at the stop.
            let _ = first.send(Command::Listen(Box::new(listener)));
        }
        Ok(())
    }

    /// Where it listens, in the order of the exports' places; ports that the system chose are named.
    #[must_use]
    pub fn listening(&self) -> &[Listen] {
        &self.listening
    }

    /// How many lanes it has.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// A way to lane `number`.
    ///
    /// # Panics
    /// When there is no such lane.
    #[must_use]
    pub fn lane(&self, number: usize) -> LaneHandle<D> {
        self.lanes[number].handle.clone()
    }

    /// The engine of lane `number`, for the start-up line.
    ///
    /// # Panics
    /// When there is no such lane.
    #[must_use]
    pub fn engine(&self, number: usize) -> &'static str {
        self.lanes[number].engine
    }

    /// Whether every lane still runs. When one does not, [`Server::stop`] says why.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lanes.iter().all(|l| l.thread.as_ref().is_some_and(|t| !t.is_finished()))
    }

    /// Stops: accepts nothing more, answers what is in flight, closes, waits for the disks, ends the threads.
    ///
    /// # Errors
    /// The first lane's end that was not orderly, now or earlier.
    pub fn stop(mut self) -> Result<(), ServerError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), ServerError> {
        // The names first: who connects from now on is told at once that nobody listens.
        self.files.clear();
        for lane in &self.lanes {
            // A lane that is gone is joined below.
            let _ = lane.handle.send(Command::Stop);
        }
        let mut end = Ok(());
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let Some(thread) = lane.thread.take() else { continue };
            let joined = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(source)) => Err(ServerError::Lane { lane: number, source }),
                Err(_) => Err(ServerError::Panicked { lane: number }),
            };
            end = end.and(joined);
        }
        // The lanes have given their last answers to the relays; these to the clients.
        if let Err(RecvTimeoutError::Timeout) = self.relays.recv_timeout(LAST_ANSWERS_MAX) {
            tracing::warn!("a client over TLS did not take its last answers");
        }
        end
    }
}

impl<D> Drop for Server<D> {
    fn drop(&mut self) {
        if let Err(e) = self.shut_down() {
            tracing::error!(error = &e as &dyn Error, "a server that was dropped did not end well");
        }
    }
}
