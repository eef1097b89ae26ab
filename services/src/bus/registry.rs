//! What this machine's clients offer, and the streams and calls that wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use netd_ipc::services::ErrorKind;
use netd_softbus::ServiceName;
use netd_softbus::discovery::SERVICES_MAX;
use netd_softbus::mux::StreamId;
use netd_softbus::remote::gateway::Offers;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Bus;
use super::link::Command;
use super::remote::{self, Given, Hub, Pending, Wanted};
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
    services: BTreeMap<ServiceName, Entry>,
}

/// What a service can be used for, and where that waits for its client.
#[derive(Debug)]
struct Entry {
    streams: Option<mpsc::Sender<Offer>>,
    wanted: Wanted,
}

impl Registry {
    pub(super) fn names(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// Adds a service, if it is not offered and there is room.
    fn add(&mut self, service: &ServiceName, entry: Entry) -> Result<(), Failure> {
        if self.services.contains_key(service) {
            let message = format!("another client offers '{service}' already");
            return Err(Failure::new(ErrorKind::AlreadyOffered, message));
        }
        if self.services.len() >= SERVICES_MAX {
            let message = format!("a device offers at most {SERVICES_MAX} services, and as many are offered");
            return Err(Failure::new(ErrorKind::QuotaExceeded, message));
        }
        self.services.insert(service.clone(), entry);
        Ok(())
    }

    fn remove(&mut self, service: &ServiceName) {
        if let Some(Entry { streams: _, wanted }) = self.services.remove(service)
            && let Some(hub) = wanted.topics
        {
            hub.close();
        }
    }

    /// What each service can be used for.
    pub(super) fn offers(&self) -> impl Iterator<Item = (&ServiceName, Offers)> {
        self.services.iter().map(|(service, Entry { streams, wanted: Wanted { calls, topics } })| {
            let offers =
                Offers { streams: streams.is_some(), calls: calls.is_some(), topics: topics.is_some() };
            (service, offers)
        })
    }

    /// Where calls of a service wait for its client, if it answers any.
    pub(super) fn calls(&self, service: &ServiceName) -> Option<mpsc::Sender<Pending>> {
        self.services.get(service)?.wanted.calls.clone()
    }

    /// Who subscribed to a service, if it publishes.
    pub(super) fn topics(&self, service: &ServiceName) -> Option<Arc<Hub>> {
        self.services.get(service)?.wanted.topics.clone()
    }

    /// Hands a stream to the service's client, or says why not.
    pub(super) fn offer(&self, service: &str, offer: Offer) -> Result<(), &'static str> {
        let Some(entry) = self.services.get(service) else { return Err("nobody offers this service") };
        let Some(queue) = &entry.streams else { return Err("the service takes no streams") };
        queue.try_send(offer).map_err(|_| "too many streams wait for the service's client")
    }
}

/// A service that a client offers; withdrawn when dropped, or when the right to offer it is lost.
#[derive(Debug)]
pub(crate) struct Registration {
    bus: Arc<Bus>,
    service: ServiceName,
    streams: Option<mpsc::Receiver<Offer>>,
    /// Its calls and topics.
    pub(super) given: Given,
    /// Why it was withdrawn; set with the registry locked.
    withdrawn: Arc<OnceLock<Failure>>,
    watched: AbortHandle,
    _share: Share,
}

impl Registration {
    pub(super) fn new(
        bus: &Arc<Bus>,
        service: ServiceName,
        offers: Offers,
        share: Share,
        mut right: Right,
    ) -> Result<Registration, Failure> {
        let (waiting, streams) = offers
            .streams
            .then(|| mpsc::channel(BACKLOG))
            .map_or((None, None), |(tx, rx)| (Some(tx), Some(rx)));
        let (wanted, given) = remote::pair(offers);
        bus.core().registry.add(&service, Entry { streams: waiting, wanted })?;
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
        Ok(Registration { bus: Arc::clone(bus), service, streams, given, withdrawn, watched, _share: share })
    }

    /// Waits for the next stream.
    ///
    /// # Errors
    /// The service was withdrawn.
    pub(super) async fn next(&mut self) -> Result<Offer, Failure> {
        let offer = match &mut self.streams {
            Some(streams) => streams.recv().await,
            None => None,
        };
        offer.ok_or_else(|| self.withdrawn())
    }

    /// Whether streams can be opened to it.
    pub(super) fn takes_streams(&self) -> bool {
        self.streams.is_some()
    }

    /// Whether it is offered still.
    ///
    /// # Errors
    /// It was withdrawn.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.withdrawn.get().is_some() { Err(self.withdrawn()) } else { Ok(()) }
    }

    /// Why it is not offered any more.
    pub(super) fn withdrawn(&self) -> Failure {
        let gone = || Failure::new(ErrorKind::Internal, "the service was withdrawn");
        self.withdrawn.get().cloned().unwrap_or_else(gone)
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
        core.taken.abandon(&self.given.taken);
        drop(core);
        self.bus.announce();
    }
}
