//! What all parts of the driver share, behind one lock that is held for a moment at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netd_softbus::discovery::{Announcement, Config, Discovery};
use netd_softbus::session::{Config as SessionConfig, Gate, Identity, Peer, Trust};
use netd_softbus::{Checked, DeviceId, Error, Instant, PublicKey};
use tokio::sync::mpsc;

use super::clock::random;
use super::config;
use super::link::Command;
use super::registry::Registry;
use super::remote::{Limiters, Taken};
use super::streams::Outcomes;

/// Sessions that are ready, or that we make: each holds a descriptor, and a mux with up to 128 streams.
const SESSIONS_MAX: usize = 64;
/// Sessions of peers who dialled, and have not proven who they are. They have room of their own, so that strangers take none from those
/// who are known.
const UNPROVEN_MAX: usize = 32;
/// The same from one address.
const UNPROVEN_OF_ONE_MAX: usize = 4;

/// The shortest time that discovery remembers anybody.
const TTL_MIN: Duration = Duration::from_secs(3);

/// See the module's documentation.
pub(super) struct Core {
    pub(super) identity: Identity,
    pub(super) trust: Trust,
    pub(super) discovery: Discovery,
    pub(super) gate: Gate,
    pub(super) registry: Registry,
    pub(super) outcomes: Outcomes,
    /// Calls that clients work on.
    pub(super) taken: Taken,
    /// How often each device asked.
    pub(super) limiters: Limiters,
    sessions: BTreeMap<u64, Held>,
    made: u64,
}

/// A session, or one that is being made.
struct Held {
    /// Where a peer dialled from.
    from: Option<IpAddr>,
    /// Whom we dialled.
    target: Option<Peer>,
    /// Who it is, once that is proven.
    peer: Option<Peer>,
    commands: mpsc::Sender<Command>,
}

/// How discovery is to go about, as configured.
fn discovery_config(config: &config::Bus) -> Result<Checked<Config>, Error> {
    Config {
        multicast: config.multicast,
        broadcast: config.broadcast,
        unicast: config.peers.clone(),
        handshakes: config.handshakes,
        announce_interval: config.announce,
        ttl: config.announce.saturating_mul(3).max(TTL_MIN),
        ..Config::default()
    }
    .check()
}

impl Core {
    pub(super) fn new(
        config: &config::Bus,
        identity: Identity,
        trust: Trust,
        session: Checked<SessionConfig>,
        now: Instant,
    ) -> Result<Core, Error> {
        let own = Announcement::new(config.device.clone(), config.port, None, Vec::new())?;
        let discovery = Discovery::new(discovery_config(config)?, own, config.acl.clone(), now);
        Ok(Core {
            identity,
            trust,
            discovery,
            gate: Gate::new(session, now, &mut random),
            registry: Registry::default(),
            outcomes: Outcomes::default(),
            taken: Taken::default(),
            limiters: Limiters::new(config.rates),
            sessions: BTreeMap::new(),
            made: 0,
        })
    }

    /// What we say of ourselves.
    fn announcement(&self, config: &config::Bus) -> Result<Announcement, Error> {
        let key = Some(self.identity.current().public());
        Announcement::new(config.device.clone(), config.port, key, self.registry.names())
    }

    /// Begins anew with nobody heard, and everybody pinned whom we trust.
    pub(super) fn restart_discovery(&mut self, config: &config::Bus, now: Instant) -> Result<(), Error> {
        let own = self.announcement(config)?;
        self.discovery = Discovery::new(discovery_config(config)?, own, config.acl.clone(), now);
        for (device, key, successor) in self.trust.pins() {
            for key in [Some(key), successor].into_iter().flatten() {
                self.discovery.pin(now, device.clone(), key)?;
            }
        }
        Ok(())
    }

    /// Announces what is offered by now.
    pub(super) fn announce(&mut self, config: &config::Bus, now: Instant) -> Result<(), Error> {
        let own = self.announcement(config)?;
        self.discovery.announce(now, own);
        Ok(())
    }

    /// A place for a session that we make, if there is one.
    pub(super) fn hold_dialled(
        &mut self,
        target: Peer,
        commands: mpsc::Sender<Command>,
    ) -> Result<u64, Error> {
        within("sessions", self.known(), SESSIONS_MAX)?;
        Ok(self.hold(Held { from: None, target: Some(target), peer: None, commands }))
    }

    /// A place for a session of a peer who dialled, if there is one.
    pub(super) fn hold_accepted(
        &mut self,
        from: IpAddr,
        commands: mpsc::Sender<Command>,
    ) -> Result<u64, Error> {
        let unproven = || self.sessions.values().filter(|held| !held.is_known());
        within("sessions that nobody has proven", unproven().count(), UNPROVEN_MAX)?;
        let of_one = unproven().filter(|held| held.from == Some(from)).count();
        within("sessions of one address that nobody has proven", of_one, UNPROVEN_OF_ONE_MAX)?;
        Ok(self.hold(Held { from: Some(from), target: None, peer: None, commands }))
    }

    fn hold(&mut self, held: Held) -> u64 {
        self.made += 1;
        self.sessions.insert(self.made, held);
        self.made
    }

    /// Sessions that are ready, or that we make.
    fn known(&self) -> usize {
        self.sessions.values().filter(|held| held.is_known()).count()
    }

    /// The session has proven who it is with, and may stay if there is room.
    pub(super) fn session_ready(&mut self, number: u64, peer: &Peer) -> Result<(), Error> {
        let known = self.known();
        let Some(held) = self.sessions.get_mut(&number) else { return Ok(()) };
        if !held.is_known() {
            within("sessions", known, SESSIONS_MAX)?;
        }
        held.peer = Some(peer.clone());
        Ok(())
    }

    /// A session that was ready is over: with whom.
    pub(super) fn session_over(&mut self, number: u64) -> Option<Peer> {
        self.sessions.get_mut(&number)?.peer.take()
    }

    /// Whom the session dialled.
    pub(super) fn dialled(&self, number: u64) -> Option<PublicKey> {
        Some(self.sessions.get(&number)?.target.as_ref()?.key)
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.sessions.remove(&number);
    }

    /// A session with the device: one that is ready, else one that we are making.
    pub(super) fn session_with(&self, device: &DeviceId) -> Option<mpsc::Sender<Command>> {
        let is = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.device == *device);
        let ready = self.sessions.values().find(|held| is(&held.peer));
        let found = ready.or_else(|| self.sessions.values().find(|held| is(&held.target)));
        found.map(|held| held.commands.clone()).filter(|commands| !commands.is_closed())
    }

    /// Sessions that are ready.
    pub(super) fn ready(&self) -> usize {
        self.sessions.values().filter(|held| held.peer.is_some()).count()
    }

    /// Everybody's ear.
    pub(super) fn all_sessions(&self) -> Vec<mpsc::Sender<Command>> {
        self.sessions.values().map(|held| held.commands.clone()).collect()
    }
}

impl Held {
    fn is_known(&self) -> bool {
        self.peer.is_some() || self.target.is_some()
    }
}

/// Fails unless there is room for one more.
fn within(what: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count < max { Ok(()) } else { Err(Error::TooMany { what, count: count + 1, max }) }
}

#[cfg(test)]
mod tests {
    use netd_softbus::session::StaticKey;

    use super::*;
    use crate::bus::clock::Clock;

    fn core() -> Core {
        let text = "[bus]\nmode = \"network\"\ndevice = \"hub\"\n";
        let config = crate::config::Config::parse(std::path::Path::new("services.toml"), text).unwrap();
        let key = StaticKey::generate(&mut random).unwrap();
        let identity = Identity::new(config.bus.device.clone(), key);
        let session = SessionConfig::default().check().unwrap();
        Core::new(&config.bus, identity, Trust::new(), session, Clock::start().now()).unwrap()
    }

    fn peer(name: &str) -> Peer {
        Peer { device: name.parse().unwrap(), key: StaticKey::generate(&mut random).unwrap().public() }
    }

    #[test]
    fn strangers_fill_their_own_room_and_none_of_those_who_are_known() {
        let mut core = core();
        let (commands, _kept) = mpsc::channel(1);
        let mut last = 0;
        for stranger in 0..UNPROVEN_MAX / UNPROVEN_OF_ONE_MAX {
            let from = IpAddr::from([10, 0, 0, u8::try_from(stranger).unwrap()]);
            for _ in 0..UNPROVEN_OF_ONE_MAX {
                last = core.hold_accepted(from, commands.clone()).unwrap();
            }
            assert!(core.hold_accepted(from, commands.clone()).is_err(), "one more of {from}");
        }
        assert!(core.hold_accepted(IpAddr::from([10, 0, 1, 1]), commands.clone()).is_err());
        for _ in 0..SESSIONS_MAX {
            core.hold_dialled(peer("camera"), commands.clone()).unwrap();
        }
        assert!(core.hold_dialled(peer("camera"), commands.clone()).is_err());
        assert!(core.session_ready(last, &peer("late")).is_err(), "a stranger took a known peer's room");
    }

    #[test]
    fn session_with_a_device_is_the_one_that_is_ready_and_none_once_it_is_over() {
        let mut core = core();
        let (commands, _kept) = mpsc::channel(1);
        let hub = peer("hub-2");
        let number = core.hold_accepted(IpAddr::from([10, 0, 0, 1]), commands).unwrap();
        assert!(core.session_with(&hub.device).is_none());
        core.session_ready(number, &hub).unwrap();
        assert!(core.session_with(&hub.device).is_some());
        assert_eq!((core.ready(), core.session_over(number)), (1, Some(hub.clone())));
        core.forget(number);
        assert!(core.session_with(&hub.device).is_none());
    }
}
