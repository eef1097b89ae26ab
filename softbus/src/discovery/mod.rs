//! Discovery: who is there, what they offer, and where to knock.
//!
//! [`Discovery`] takes announcements, from its own packets ([`Discovery::handle_packet`]) or from whatever else knows of peers
//! (mDNS, DNS-SD, a list: [`Discovery::handle_announcement`]), keeps the table, and announces ourselves. Order of calls: `handle_*`
//! whenever something arrives; then [`Discovery::poll`] once, [`Discovery::poll_transmit`] and [`Discovery::poll_event`] until they
//! give nothing, and sleep until [`Discovery::poll_timeout`].
//!
//! ```text
//!  packet -> parse in place -> our own? -> pinned: its own bucket  -> table -> events
//!                                       -> stranger: one window for all
//! ```
//!
//! Nothing here is authenticated, so nothing here is believed: an announcement is a hint where to knock, and the session machine
//! decides who answered. What spoofed announcements can do is bounded: strangers share a window and a part of the table; pinned
//! peers have a bucket each and a part of their own; a live session keeps its peer, and the address where it was proven.

mod acl;
mod announcer;
mod config;
mod dns_sd;
mod event;
mod packet;
mod table;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use core::net::{Ipv4Addr, SocketAddr};

pub use acl::{Acl, Devices, RULES_MAX, Rule, Services, Shared, Transport};
pub use announcer::Destination;
pub use config::{Config, UNICAST_MAX};
pub use dns_sd::SERVICE_TYPE;
pub use event::Event;
pub use packet::{Announcement, MAGIC, PACKET_BYTES_MAX, SERVICES_MAX, VERSION};
pub use table::{ADDRESSES_MAX, Peer};

use netd_time::Bucket;

use crate::config::Checked;
use crate::error::Error;
use crate::key::PublicKey;
use crate::name::DeviceId;
use crate::random::Random;
use crate::rate::Window;
use crate::time::{Instant, micros};
use announcer::Announcer;
use event::Events;
use packet::View;
use table::{Entry, Table};

/// The UDP port of announcements. Fixed.
pub const PORT: u16 = 37020;
/// The multicast group of announcements. Fixed.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 42, 0, 1);

/// One counter for each fate of an announcement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken into the table.
    pub taken: u64,
    /// Not understood.
    pub malformed: u64,
    /// Our own.
    pub own: u64,
    /// Without a key, so that nobody could be recognised.
    pub keyless: u64,
    /// Of strangers, beyond what they may send together.
    pub strangers_limited: u64,
    /// Of a pinned peer, beyond what it may send.
    pub pinned_limited: u64,
    /// Of a device that is known by another key.
    pub mismatched: u64,
    /// Strangers who had to make room.
    pub displaced: u64,
    /// Announcements that we sent.
    pub sent: u64,
}

/// A key that was confirmed to be a device's.
#[derive(Debug)]
struct Pin {
    device: DeviceId,
    /// How much it may announce, also while it is not in the table: as much as we may ourselves.
    bucket: Bucket,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Discovery {
    config: Checked<Config>,
    own: Announcement,
    acl: Acl,
    announcer: Announcer,
    table: Table,
    /// Who is behind which key, as trust has it.
    pins: BTreeMap<PublicKey, Pin>,
    strangers: Window,
    events: Events,
    counters: Counters,
}

impl Discovery {
    /// Begins to announce `own` at once.
    #[must_use]
    pub fn new(config: Checked<Config>, own: Announcement, acl: Acl, now: Instant) -> Discovery {
        Discovery {
            announcer: Announcer::new(&config, now),
            strangers: Window::new(config.strangers_packets, config.strangers_period),
            events: Events::new(config.events_max),
            table: Table::default(),
            pins: BTreeMap::new(),
            counters: Counters::default(),
            config,
            own,
            acl,
        }
    }

    /// What we say of ourselves from now on: other services, another port, another key.
    pub fn announce(&mut self, now: Instant, own: Announcement) {
        if own != self.own {
            self.own = own;
            self.announcer.changed(now);
        }
    }

    /// Announces ourselves soon, as after a change: somebody may have forgotten us.
    pub fn announce_again(&mut self, now: Instant) {
        self.announcer.changed(now);
    }

    /// Puts other rules in force. Sessions that they forbid are the caller's to end.
    pub fn set_acl(&mut self, acl: Acl) {
        self.acl = acl;
    }

    /// Who may have a session.
    #[must_use]
    pub fn acl(&self) -> &Acl {
        &self.acl
    }

    /// A packet arrived on our port.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &[u8],
        random: &mut dyn Random,
    ) -> Result<(), Error> {
        let view = View::parse(packet).inspect_err(|_| self.counters.malformed += 1)?;
        let key = self.admit(now, view.device, view.key)?;
        let announcement = view.announcement()?;
        self.take(now, from, key, &announcement, random)
    }

    /// The same from another source of announcements.
    pub fn handle_announcement(
        &mut self,
        now: Instant,
        from: SocketAddr,
        announcement: &Announcement,
        random: &mut dyn Random,
    ) -> Result<(), Error> {
        let key = self.admit(now, announcement.device().as_str(), announcement.key())?;
        self.take(now, from, key, announcement, random)
    }

    /// Whether the announcement is looked at. Costs no memory, whoever it is from.
    fn admit(&mut self, now: Instant, device: &str, key: Option<PublicKey>) -> Result<PublicKey, Error> {
        if key.is_some() && key == self.own.key() {
            self.counters.own += 1;
            return Err(Error::OwnKey);
        }
        let Some(key) = key else {
            self.counters.keyless += 1;
            return Err(Error::InvalidKey);
        };
        // Whoever claims a pinned key for another device is a stranger: only copies of the peer's own announcement come out of its
        // bucket, and those refresh it as well as the original.
        if let Some(pin) = self.pins.get_mut(&key).filter(|pin| pin.device.as_str() == device) {
            if pin.bucket.take(now) {
                return Ok(key);
            }
            self.counters.pinned_limited += 1;
            return Err(Error::RateLimited { what: "announcements of a pinned peer" });
        }
        if self.strangers.admit(now) {
            return Ok(key);
        }
        self.counters.strangers_limited += 1;
        Err(Error::RateLimited { what: "announcements of strangers" })
    }

    fn take(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key: PublicKey,
        announcement: &Announcement,
        random: &mut dyn Random,
    ) -> Result<(), Error> {
        self.check_identity(from, key, announcement)?;
        self.expire(now);
        self.counters.taken += 1;
        if self.table.get(&key).is_some_and(|entry| entry.peer.device == *announcement.device()) {
            self.update(now, from, key, announcement);
        } else {
            self.insert(now, from, key, announcement, random);
        }
        Ok(())
    }

    /// A pinned device has its pinned keys only; any other has, while it is there, the key that it came with.
    fn check_identity(
        &mut self,
        from: SocketAddr,
        key: PublicKey,
        announcement: &Announcement,
    ) -> Result<(), Error> {
        let device = announcement.device();
        let pinned_elsewhere = || self.pins.values().any(|pin| pin.device == *device);
        let (right, about_a_pin) = match self.pins.get(&key) {
            Some(pin) => (pin.device == *device, true),
            None if pinned_elsewhere() => (false, true),
            None => (self.table.by_device(device).is_none_or(|known| known == key), false),
        };
        if right {
            return Ok(());
        }
        self.counters.mismatched += 1;
        if about_a_pin {
            self.events.push(Event::IdentityMismatch { device: device.clone(), key, from });
        }
        Err(Error::IdentityMismatch { device: device.clone(), key })
    }

    fn update(&mut self, now: Instant, from: SocketAddr, key: PublicKey, announcement: &Announcement) {
        self.table.touch(&key, now);
        self.table.name(announcement.device(), key);
        let Some(entry) = self.table.get_mut(&key) else { return };
        let mut changes = entry.update(announcement);
        changes.reached_otherwise |= entry.heard_at(from);
        if changes.reached_otherwise {
            self.events.push(Event::PeerChanged { key });
            let stayed = entry.peer.services.iter().filter(|service| !changes.appeared.contains(service));
            for service in stayed {
                self.events.push(Event::ServiceChanged { key, service: service.clone() });
            }
        }
        for service in changes.gone {
            self.events.push(Event::ServiceGone { key, service });
        }
        for service in changes.appeared {
            self.events.push(Event::ServiceAppeared { key, service });
        }
    }

    fn insert(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key: PublicKey,
        announcement: &Announcement,
        random: &mut dyn Random,
    ) {
        // The same key under another name is another peer.
        self.remove(&key, false);
        let pinned = self.pins.contains_key(&key);
        if pinned {
            self.announcer.answer(from);
        } else {
            self.make_room();
        }
        self.announcer.soon(now, random);
        let entry = self.table.insert(now, key, pinned, announcement, &self.config);
        entry.heard_at(from);
        let device = announcement.device().clone();
        self.events.push(Event::PeerAppeared { key, device, from });
        for service in &entry.peer.services {
            self.events.push(Event::ServiceAppeared { key, service: service.clone() });
        }
    }

    fn make_room(&mut self) {
        while self.table.strangers_len() >= self.config.strangers_max {
            let Some(oldest) = self.table.least_recently_heard() else { return };
            self.counters.displaced += 1;
            self.remove(&oldest, true);
        }
    }

    fn remove(&mut self, key: &PublicKey, displaced: bool) {
        let Some(peer) = self.table.remove(key) else { return };
        for service in peer.services {
            self.events.push(Event::ServiceGone { key: *key, service });
        }
        self.events.push(Event::PeerGone { key: *key, device: peer.device, displaced });
    }

    fn expire(&mut self, now: Instant) {
        while let Some(key) = self.table.expired(now, self.config.ttl) {
            self.remove(&key, false);
        }
    }

    /// Removes who was not heard for the TTL.
    pub fn poll(&mut self, now: Instant) {
        self.expire(now);
    }

    /// The next announcement to send, and to whom.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
    ) -> Option<(Destination, alloc::vec::Vec<u8>)> {
        let destination = self.announcer.poll(now, &self.config, random)?;
        self.counters.sent += 1;
        Some((destination, self.own.to_bytes()))
    }

    /// When to call [`Discovery::poll`] and [`Discovery::poll_transmit`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let announce = self.announcer.poll_timeout();
        self.table.expires(self.config.ttl).map_or(announce, |expires| expires.min(announce))
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// The key belongs to the device, as trust has it. A device may have two while it changes from one to the other.
    pub fn pin(&mut self, now: Instant, device: DeviceId, key: PublicKey) -> Result<(), Error> {
        if self.pins.len() >= self.config.pinned_max && !self.pins.contains_key(&key) {
            let count = self.pins.len() + 1;
            return Err(Error::TooMany { what: "pinned peers", count, max: self.config.pinned_max });
        }
        // Who was heard with a part of the pin only was somebody else.
        let same = self.table.get(&key).is_some_and(|entry| entry.peer.device == device);
        if !same {
            self.remove(&key, false);
        }
        let namesake = self.table.by_device(&device);
        if let Some(namesake) =
            namesake.filter(|namesake| !self.pins.contains_key(namesake) && *namesake != key)
        {
            self.remove(&namesake, false);
        }
        let bucket = Bucket::new(self.config.announce_per_second, self.config.announce_burst);
        self.pins.insert(key, Pin { device, bucket });
        self.set_pinned(&key, true, now);
        Ok(())
    }

    /// The key belongs to nobody any more.
    pub fn unpin(&mut self, now: Instant, key: &PublicKey) {
        self.pins.remove(key);
        self.set_pinned(key, false, now);
        // It may be one stranger too many.
        if self.table.strangers_len() > self.config.strangers_max {
            self.make_room();
        }
    }

    fn set_pinned(&mut self, key: &PublicKey, pinned: bool, now: Instant) {
        if let Some(entry) = self.table.get_mut(key) {
            entry.peer.pinned = pinned;
            let heard = entry.peer.heard;
            self.table.touch(key, heard.min(now));
        }
    }

    /// The key that the device announces: what the session machine compares with the one that it met.
    #[must_use]
    pub fn announced(&self, device: &DeviceId) -> Option<PublicKey> {
        self.table.by_device(device)
    }

    /// The peer with this key, if it is there.
    #[must_use]
    pub fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.table.get(key).map(|entry| &entry.peer)
    }

    /// Everybody who is there.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.table.iter().map(|entry| &entry.peer)
    }

    /// What became of announcements.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Peers in the table: without a pin or a session, and with.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize) {
        (self.table.strangers_len(), self.table.kept_len())
    }

    fn known(&mut self, key: &PublicKey) -> Result<&mut Entry, Error> {
        self.table.get_mut(key).ok_or(Error::UnknownPeer { key: *key })
    }

    /// Whether the peer may be dialled now. If so, this counts as the attempt.
    pub fn dial(&mut self, now: Instant, key: &PublicKey, transport: Transport) -> Result<SocketAddr, Error> {
        let entry = self.table.get_mut(key).ok_or(Error::UnknownPeer { key: *key })?;
        self.acl.session(&entry.peer.device, transport)?;
        if entry.peer.port == 0 {
            return Err(Error::NoPort { device: entry.peer.device.clone() });
        }
        let until = entry.backoff.until();
        if until > now {
            let left = micros(until.saturating_duration_since(now));
            return Err(Error::BackingOff { milliseconds: left.div_ceil(1000) });
        }
        if !entry.handshakes.admit(now) {
            return Err(Error::RateLimited { what: "handshakes with this peer" });
        }
        let host = entry.peer.addresses.first().ok_or(Error::UnknownPeer { key: *key })?.ip();
        Ok(SocketAddr::new(host, entry.peer.port))
    }

    /// An attempt failed: the next one is a while later, and goes to the next address.
    pub fn dial_failed(
        &mut self,
        now: Instant,
        key: &PublicKey,
        random: &mut dyn Random,
    ) -> Result<(), Error> {
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        let entry = self.known(key)?;
        entry.backoff.failed(now, min, max, random);
        let addresses = &mut entry.peer.addresses;
        if !addresses.is_empty() {
            addresses.rotate_left(1);
        }
        Ok(())
    }

    /// The peer dialled us and proved who it is: whether it may go on.
    pub fn accept(&mut self, now: Instant, key: &PublicKey, transport: Transport) -> Result<(), Error> {
        let entry = self.table.get_mut(key).ok_or(Error::UnknownPeer { key: *key })?;
        self.acl.session(&entry.peer.device, transport)?;
        if entry.handshakes.admit(now) {
            return Ok(());
        }
        Err(Error::RateLimited { what: "handshakes with this peer" })
    }

    /// A session with the peer is ready; `address` is where its announcements come from, if that is known to be so.
    pub fn session_opened(
        &mut self,
        now: Instant,
        key: &PublicKey,
        address: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let entry = self.known(key)?;
        entry.backoff.succeeded();
        entry.peer.sessions = entry.peer.sessions.saturating_add(1);
        if let Some(address) = address {
            entry.proven = Some(address);
            entry.heard_at(address);
        }
        self.table.touch(key, now);
        Ok(())
    }

    /// A session with the peer ended. Its TTL begins now.
    pub fn session_closed(&mut self, now: Instant, key: &PublicKey) -> Result<(), Error> {
        let entry = self.known(key)?;
        entry.peer.sessions = entry.peer.sessions.saturating_sub(1);
        if entry.peer.sessions == 0 {
            entry.proven = None;
        }
        self.table.touch(key, now);
        if self.table.strangers_len() > self.config.strangers_max {
            self.make_room();
        }
        Ok(())
    }
}
