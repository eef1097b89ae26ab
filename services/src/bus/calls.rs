//! The calls of clients: understood, decided by netd, answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use netd_ipc::server::Peer as ClientPeer;
use netd_ipc::services::{BusOffers, BusPeer, BusStatus, BusStreamInfo, Call, ErrorKind};
use netd_policy::LOOPBACK_DEVICE;
use netd_softbus::mux::PRIORITIES;
use netd_softbus::remote::gateway::Offers;
use netd_softbus::{DeviceId, ServiceName};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Bus;
use super::events::of;
use super::link::{Command, Owner};
use super::local::join;
use super::registry::{Offer, Origin, Registration};
use super::remote::{self, Named};
use super::streams::{Claim, Made};
use super::trust::SESSION;
use crate::Failure;
use crate::rights::Ask;
use crate::server::{Connection, Gone};

/// What looking at others takes.
pub(super) const DISCOVER: &str = "dsoftbus.discover";
/// What opening a stream takes.
const STREAM: &str = "dsoftbus.stream.open";
/// What offering a service takes.
const SHARE: &str = "dsoftbus.share.service";
/// For session and stream, unless the client says otherwise.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection offers to the bus.
pub(crate) type Registrations = HashMap<String, Registration>;

/// Answers a call about the bus.
pub(crate) async fn answer(
    connection: &mut Connection,
    bus: &Arc<Bus>,
    offered: &mut Registrations,
    call: Call,
    more: bool,
) -> Result<(), Gone> {
    let client = connection.peer().clone();
    let result = match call {
        Call::GetBus => Ok(json!({ "bus": bus.status() })),
        Call::ListBusPeers => bus.peers(&client).await.map(|peers| json!({ "peers": peers })),
        Call::WatchBus if !more => return connection.expected_more().await,
        Call::WatchBus => return watch(connection, bus, &client).await,
        Call::ShowBusPin => bus.show_pin(&client).await.map(|pin| json!(pin)),
        Call::PairBus { device, pin } => match name(&device) {
            Ok(device) => bus.pair(&client, &device, &pin).await.map(|paired| json!(paired)),
            Err(failure) => Err(failure),
        },
        Call::PinBus { device, key } => match name(&device) {
            Ok(device) => bus.pin(&client, &device, &key).await.map(|pinned| json!(pinned)),
            Err(failure) => Err(failure),
        },
        Call::RevokeBus { device } => match name(&device) {
            Ok(device) => bus.revoke(&client, &device).await.map(|revoked| json!(revoked)),
            Err(failure) => Err(failure),
        },
        Call::ServeBus { service, offers } => {
            serve(bus, offered, &client, &service, offers).await.map(|()| json!({}))
        }
        Call::AcceptBus { service } => return accept(connection, bus, offered, &client, &service).await,
        Call::OpenBus { device, service, priority, timeout: limit } => {
            let limit = limit.unwrap_or(OPEN_TIMEOUT);
            let opening = timeout(limit, open(bus, &client, &device, &service, priority));
            let opened = tokio::select! {
                opened = opening => opened,
                () = connection.gone() => return Err(Gone::Closed),
            };
            let late = || {
                let message = format!("'{device}' did not take the stream within {} ms", limit.as_millis());
                Err(Failure::new(ErrorKind::TimedOut, message))
            };
            return hand_over(connection, opened.unwrap_or_else(|_| late())).await;
        }
        Call::GetBusOutcome { id } => outcome(bus, &client, id),
        call @ (Call::ListBusFiles { .. }
        | Call::StatBusFile { .. }
        | Call::ReadBusFile { .. }
        | Call::GetBusState { .. }
        | Call::PutBusState { .. }
        | Call::DeleteBusState { .. }
        | Call::ListBusState { .. }
        | Call::SyncBusState { .. }) => return remote::answer_shared(connection, bus, call).await,
        call => return remote::answer(connection, bus, offered, call, more).await,
    };
    connection.answer(result).await
}

/// A device that rules can name; others are nobody's to ask for.
fn name(device: &str) -> Result<DeviceId, Failure> {
    let wrong = |message: String| Failure::new(ErrorKind::InvalidInput, message);
    let named: netd_policy::BusDevice =
        device.parse().map_err(|error: netd_policy::Error| wrong(error.to_string()))?;
    named.as_str().parse().map_err(|error: netd_softbus::Error| wrong(error.to_string()))
}

pub(super) fn service_name(service: &str) -> Result<ServiceName, Failure> {
    let wrong = |message: String| Failure::new(ErrorKind::InvalidInput, message);
    let named: netd_policy::BusService =
        service.parse().map_err(|error: netd_policy::Error| wrong(error.to_string()))?;
    named.as_str().parse().map_err(|error: netd_softbus::Error| wrong(error.to_string()))
}

impl Bus {
    /// The device that a client means: this machine by either of its names, or another.
    pub(super) fn named(&self, device: &str) -> Result<Named, Failure> {
        let id = name(device)?;
        let is_own = device == LOOPBACK_DEVICE || id == self.config.device;
        Ok(if is_own { Named::Own } else { Named::Peer(id) })
    }

    /// Whether a rule of ours allows a service of another device: asked before anything is sent there.
    pub(super) fn may_ask_for(&self, peer: &DeviceId, service: &ServiceName) -> Result<(), Failure> {
        let core = self.core();
        let may = core.discovery.acl().service(peer, netd_softbus::discovery::Transport::Tcp, service);
        may.map(drop).map_err(|error| Failure::new(ErrorKind::PolicyDenied, format!("{error} ([[bus.acl]])")))
    }

    pub(super) fn status(&self) -> BusStatus {
        let state = self.state();
        let now = self.clock.now();
        let core = self.core();
        let counters = core.discovery.counters();
        BusStatus {
            mode: state.mode,
            configured: self.config.mode,
            problem: state.problem,
            device: self.config.device.to_string(),
            key: self.store.is_ok().then(|| core.identity.current().public().to_string()),
            port: self.config.port,
            peers: core.discovery.peers().count(),
            pinned: core.trust.pins().count(),
            revoked: core.trust.revoked().count(),
            sessions: core.ready(),
            streams: core.outcomes.open(),
            services: core.registry.names().iter().map(ToString::to_string).collect(),
            pin_tries: core.trust.tries_left(now),
            announcements: [
                ("taken", counters.taken),
                ("malformed", counters.malformed),
                ("own", counters.own),
                ("keyless", counters.keyless),
                ("strangers_limited", counters.strangers_limited),
                ("pinned_limited", counters.pinned_limited),
                ("mismatched", counters.mismatched),
                ("displaced", counters.displaced),
                ("sent", counters.sent),
            ]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
        }
    }

    async fn peers(&self, client: &ClientPeer) -> Result<Vec<BusPeer>, Failure> {
        self.netd.permit(client, DISCOVER, None).await?;
        let now = self.clock.now();
        let core = self.core();
        let heard = core.discovery.peers().map(|peer| BusPeer {
            device: peer.device.to_string(),
            key: peer.key.to_string(),
            pinned: peer.pinned,
            present: true,
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            port: peer.port,
            services: peer.services.iter().map(ToString::to_string).collect(),
            sessions: peer.sessions,
            heard_ms: u64::try_from(now.saturating_duration_since(peer.heard).as_millis()).ok(),
        });
        let mut peers: Vec<BusPeer> = heard.collect();
        let absent = core.trust.pins().filter(|(_, key, successor)| {
            let here = |key| core.discovery.peer(key).is_some();
            !here(key) && !successor.as_ref().is_some_and(here)
        });
        peers.extend(absent.map(|(device, key, _)| BusPeer {
            device: device.to_string(),
            key: key.to_string(),
            pinned: true,
            present: false,
            addresses: Vec::new(),
            port: 0,
            services: Vec::new(),
            sessions: 0,
            heard_ms: None,
        }));
        peers.sort_by(|one, other| one.device.cmp(&other.device));
        Ok(peers)
    }
}

/// Sends what happens until the client is gone.
async fn watch(connection: &mut Connection, bus: &Arc<Bus>, client: &ClientPeer) -> Result<(), Gone> {
    let mut events = bus.events.subscribe();
    let mut right = match bus.rights.hold(client, vec![(DISCOVER, None)]).await {
        Ok(right) => right,
        Err(failure) => return connection.fail(&failure).await,
    };
    // That the watch has begun: what happens from here on is told.
    connection.reply(json!({}), true, &[]).await?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            failure = right.lost() => return connection.fail(&failure).await,
            () = connection.gone() => return Err(Gone::Closed),
        };
        let event = match event {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => of("lagged", None, None),
            Err(RecvError::Closed) => return connection.reply(json!({}), false, &[]).await,
        };
        connection.reply(json!({ "event": event }), true, &[]).await?;
    }
}

async fn serve(
    bus: &Arc<Bus>,
    offered: &mut Registrations,
    client: &ClientPeer,
    service: &str,
    offers: BusOffers,
) -> Result<(), Failure> {
    let named = service_name(service)?;
    let right = bus.rights.hold(client, vec![(SHARE, Some(service.to_owned()))]).await?;
    let quota = |message| Failure::new(ErrorKind::QuotaExceeded, message);
    let share = bus.services.take(client.uid).map_err(quota)?;
    let BusOffers { streams, calls, topics } = offers;
    let registration = Registration::new(bus, named, Offers { streams, calls, topics }, share, right)?;
    offered.insert(service.to_owned(), registration);
    Ok(())
}

/// Waits for a stream, and takes it; whose opener is gone by then is passed over.
async fn accept(
    connection: &mut Connection,
    bus: &Arc<Bus>,
    offered: &mut Registrations,
    client: &ClientPeer,
    service: &str,
) -> Result<(), Gone> {
    let Some(registration) = offered.get_mut(service) else {
        let message = format!("this connection does not offer '{service}': call ServeBus first");
        return connection.fail(&Failure::new(ErrorKind::NotFound, message)).await;
    };
    if !registration.takes_streams() {
        let message = format!("'{service}' was not offered for streams: call ServeBus with \"streams\"");
        return connection.fail(&Failure::new(ErrorKind::InvalidInput, message)).await;
    }
    loop {
        let taking = async {
            match registration.next().await {
                Ok(offer) => take(bus, client, service, offer).await.transpose(),
                Err(failure) => Some(Err(failure)),
            }
        };
        let taken = tokio::select! {
            taken = taking => taken,
            () = connection.gone() => return Err(Gone::Closed),
        };
        if let Some(taken) = taken {
            return hand_over(connection, taken).await;
        }
    }
}

/// Takes a stream; none if its opener is gone.
async fn take(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    service: &str,
    mut offer: Offer,
) -> Result<Option<Taken>, Failure> {
    let claim = claim(bus, client, vec![(SHARE, Some(service.to_owned()))]).await?;
    let (device, priority) = (offer.device.clone(), offer.priority);
    let made = match offer.origin.take() {
        Some(Origin::Peer { session, stream }) => {
            let (reply, made) = oneshot::channel();
            let owner = Owner { claim, reply };
            if session.send(Command::Accept { stream, owner }).await.is_err() {
                return Ok(None);
            }
            match made.await {
                Ok(Ok(made)) => made,
                _ => return Ok(None),
            }
        }
        Some(Origin::Client { claim: others, reply }) => {
            let [ours, theirs] = join(bus, claim, others)?;
            if reply.send(theirs).is_err() {
                return Ok(None);
            }
            ours
        }
        None => return Ok(None),
    };
    Ok(Some(Taken { made, device, service: service.to_owned(), priority }))
}

/// What a client has a stream by.
async fn claim(bus: &Bus, client: &ClientPeer, asks: Vec<Ask>) -> Result<Claim, Failure> {
    let right = bus.rights.hold(client, asks).await?;
    let quota = |message| Failure::new(ErrorKind::QuotaExceeded, message);
    let share = bus.streams.take(client.uid).map_err(quota)?;
    Ok(Claim { uid: client.uid, right, _share: share })
}

/// A stream for a client.
struct Taken {
    made: Made,
    device: String,
    service: String,
    priority: u8,
}

async fn open(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    device: &str,
    service: &str,
    priority: u8,
) -> Result<Taken, Failure> {
    let device = bus.named(device)?;
    let named = service_name(service)?;
    if priority >= PRIORITIES {
        let message = format!("priority is {priority}: 0 to {} are there", PRIORITIES - 1);
        return Err(Failure::new(ErrorKind::InvalidInput, message));
    }
    let asks = vec![
        (SESSION, Some(device.as_str().to_owned())),
        (STREAM, Some(format!("{}/{service}", device.as_str()))),
    ];
    let claim = claim(bus, client, asks).await?;
    let made = match &device {
        Named::Own => {
            let (reply, made) = oneshot::channel();
            let origin = Some(Origin::Client { claim, reply });
            let offer = Offer { device: LOOPBACK_DEVICE.to_owned(), priority, origin };
            let refused = |why: &str| Failure::new(ErrorKind::StreamRefused, why.to_owned());
            bus.core().registry.offer(named.as_str(), offer).map_err(refused)?;
            made.await.map_err(|_| refused("the service's client went away"))?
        }
        Named::Peer(peer) => {
            bus.may_ask_for(peer, &named)?;
            let (reply, made) = oneshot::channel();
            let owner = Owner { claim, reply };
            bus.ask(peer, Command::Open { service: service.to_owned(), priority, owner }).await?;
            let ended = |_| Failure::new(ErrorKind::Unreachable, "the session ended without a word");
            made.await.map_err(ended)??
        }
    };
    Ok(Taken { made, device: device.as_str().to_owned(), service: service.to_owned(), priority })
}

async fn hand_over(connection: &mut Connection, taken: Result<Taken, Failure>) -> Result<(), Gone> {
    match taken {
        Ok(Taken { made: Made { id, socket }, device, service, priority }) => {
            let stream = BusStreamInfo { id, device, service, priority, descriptor: 0 };
            connection.reply(json!({ "stream": stream }), false, &[socket]).await
        }
        Err(failure) => connection.fail(&failure).await,
    }
}

fn outcome(bus: &Bus, client: &ClientPeer, id: u64) -> Result<Value, Failure> {
    let found = bus.core().outcomes.of(client.uid, id);
    let unknown = || {
        let message = format!("stream {id} is none of yours, or ended so long ago that it is forgotten");
        Failure::new(ErrorKind::NotFound, message)
    };
    found.map(|outcome| json!({ "outcome": outcome })).ok_or_else(unknown)
}
