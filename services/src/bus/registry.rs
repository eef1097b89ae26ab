//! What this machine's clients offer, and the streams that wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use netd_ipc::services::ErrorKind;
use netd_softbus::ServiceName;
use netd_softbus::discovery::SERVICES_MAX;
use netd_softbus::mux::StreamId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Bus;
use super::link::Command;
use super::streams::{Claim, Made};
use crate::Failure;
use crate::rights::Right;
use crate::server::Share;

/// Streams that wait for a service's client; more are refused. As many as a listener of netd has undelivered.
const BACKLOG: usize = 8;

/// A stream that somebody opened to a service. If it is dropped, it is refused.
#[derive(Debug)]
pub(super) struct Offer {
    /// Who opened it.
    pub(super) device: String,
    pub(super) priority: u8,
    pub(super) origin: Option<Origin>,
}

/// Where it comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A peer's, over a session.
    Peer { session: mpsc::Sender<Command>, stream: StreamId },
    /// Another client's of this machine: it waits for its end.
    Client { claim: Claim, reply: oneshot::Sender<Made> },
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(Origin::Peer { session, stream }) = self.origin.take() {
            // A session that does not take it is over, or resets the stream when its peer gives up.
            let _ = session.try_send(Command::Refuse { stream });
        }
    }
}

/// The services by name.
#[derive(Debug, Default)]
pub(super) struct Registry {
    services: BTreeMap<ServiceName, mpsc::Sender<Offer>>,
}

impl Registry {
    pub(super) fn names(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// Adds a service, if it is not offered and there is room.
    fn add(&mut self, service: &ServiceName) -> Result<mpsc::Receiver<Offer>, Failure> {
        if self.services.contains_key(service) {
            let message = format!("another client offers '{service}' already");
            return Err(Failure::new(ErrorKind::AlreadyOffered, message));
        }
        if self.services.len() >= SERVICES_MAX {
            let message = format!("a device offers at most {SERVICES_MAX} services, and as many are offered");
            return Err(Failure::new(ErrorKind::QuotaExceeded, message));
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.services.insert(service.clone(), sender);
        Ok(receiver)
    }

    fn remove(&mut self, service: &ServiceName) {
        self.services.remove(service);
    }

    /// Hands a stream to the service's client, or says why not.
    pub(super) fn offer(&self, service: &str, offer: Offer) -> Result<(), &'static str> {
        let Some(queue) = self.services.get(service) else { return Err("nobody offers this service") };
        queue.try_send(offer).map_err(|_| "too many streams wait for the service's client")
    }
}

/// A service that a client offers; withdrawn when dropped, or when the right to offer it is lost.
#[derive(Debug)]
pub(crate) struct Registration {
    bus: Arc<Bus>,
    service: ServiceName,
    offers: mpsc::Receiver<Offer>,
    /// Why it was withdrawn; set with the registry locked.
    withdrawn: Arc<OnceLock<Failure>>,
    watched: AbortHandle,
    _share: Share,
}

impl Registration {
    pub(super) fn new(
        bus: &Arc<Bus>,
        service: ServiceName,
        share: Share,
        mut right: Right,
    ) -> Result<Registration, Failure> {
        let offers = bus.core().registry.add(&service)?;
        bus.announce();
        let withdrawn = Arc::new(OnceLock::new());
        let watching = {
            let (bus, service, withdrawn) = (Arc::clone(bus), service.clone(), Arc::clone(&withdrawn));
            async move {
                let why = right.lost().await;
                let mut core = bus.core();
                core.registry.remove(&service);
                // Nobody else sets it.
                let _ = withdrawn.set(why);
                drop(core);
                bus.announce();
            }
        };
        let watched = tokio::spawn(watching).abort_handle();
        Ok(Registration { bus: Arc::clone(bus), service, offers, withdrawn, watched, _share: share })
    }

    /// Waits for the next stream.
    ///
    /// # Errors
    /// The service was withdrawn.
    pub(super) async fn next(&mut self) -> Result<Offer, Failure> {
        let gone = || Failure::new(ErrorKind::Internal, "the service was withdrawn");
        match self.offers.recv().await {
            Some(offer) => Ok(offer),
            None => Err(self.withdrawn.get().cloned().unwrap_or_else(gone)),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.watched.abort();
        let mut core = self.bus.core();
        // By then another client may offer one of the name.
        if self.withdrawn.get().is_none() {
            core.registry.remove(&self.service);
        }
        drop(core);
        self.bus.announce();
    }
}
