//! The peer table: who was heard of within the TTL.
//!
//! Strangers share a bounded part of it, in which the least recently heard makes room; pinned peers have a part of their own, from
//! which only the TTL removes them. A peer with a live session stays for as long as the session does. Keys are the strangers' choice,
//! so the maps are trees: no choice of keys makes them slow.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::config::Config;
use super::packet::Announcement;
use crate::key::PublicKey;
use crate::name::{DeviceId, ServiceName};
use crate::rate::{Backoff, Window};
use crate::time::Instant;

/// Where announcements of a peer came from are places to try; the latest few are enough, and spoofed ones cannot become many.
pub const ADDRESSES_MAX: usize = 4;

/// A peer that was heard of.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it says it is; who it is, if `pinned`.
    pub device: DeviceId,
    /// What must answer.
    pub key: PublicKey,
    /// Where it says it takes sessions; 0 if nowhere.
    pub port: u16,
    /// Where it was heard of, the latest first. The first one is proven if a session came from there.
    pub addresses: Vec<SocketAddr>,
    /// What it offers.
    pub services: BTreeSet<ServiceName>,
    /// Whether its key is pinned.
    pub pinned: bool,
    /// Sessions that are there.
    pub sessions: u32,
    /// When it was last heard.
    pub heard: Instant,
}

/// A place in the order of hearing: the time, and a number that makes it unique.
type Place = (Instant, u64);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    /// Where a session proved it to be: announcements do not push this address out.
    pub(super) proven: Option<SocketAddr>,
    pub(super) backoff: Backoff,
    pub(super) handshakes: Window,
    place: Place,
}

/// What an announcement changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) reached_otherwise: bool,
    pub(super) appeared: Vec<ServiceName>,
    pub(super) gone: Vec<ServiceName>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<PublicKey, Entry>,
    devices: BTreeMap<DeviceId, PublicKey>,
    /// Those that may have to make room, the least recently heard first.
    strangers: BTreeMap<Place, PublicKey>,
    /// Those that are kept for the TTL: pinned, or with a session.
    kept: BTreeMap<Place, PublicKey>,
    heard_count: u64,
}

impl Table {
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &PublicKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    pub(super) fn by_device(&self, device: &DeviceId) -> Option<PublicKey> {
        self.devices.get(device).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn strangers_len(&self) -> usize {
        self.strangers.len()
    }

    pub(super) fn kept_len(&self) -> usize {
        self.kept.len()
    }

    /// The stranger who makes room for another.
    pub(super) fn least_recently_heard(&self) -> Option<PublicKey> {
        self.strangers.values().next().copied()
    }

    /// The first deadline at which a peer may be gone.
    pub(super) fn expires(&self, ttl: Duration) -> Option<Instant> {
        let first = |order: &BTreeMap<Place, PublicKey>| order.keys().next().map(|(heard, _)| *heard + ttl);
        crate::time::earliest(first(&self.strangers), first(&self.kept))
    }

    /// A peer whose TTL is over and who has no session, if there is one. Peers with sessions are put at the end of the order.
    pub(super) fn expired(&mut self, now: Instant, ttl: Duration) -> Option<PublicKey> {
        loop {
            let first =
                |order: &BTreeMap<Place, PublicKey>| order.first_key_value().map(|(at, key)| (*at, *key));
            let ((heard, _), key) =
                [first(&self.strangers), first(&self.kept)].into_iter().flatten().min()?;
            if heard + ttl > now {
                return None;
            }
            if self.entries.get(&key).is_none_or(|entry| entry.peer.sessions == 0) {
                return Some(key);
            }
            self.touch(&key, now);
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        key: PublicKey,
        pinned: bool,
        announcement: &Announcement,
        config: &Config,
    ) -> &mut Entry {
        let peer = Peer {
            device: announcement.device().clone(),
            key,
            port: announcement.port(),
            addresses: Vec::new(),
            services: announcement.services().iter().cloned().collect(),
            pinned,
            sessions: 0,
            heard: now,
        };
        self.heard_count += 1;
        let place = (now, self.heard_count);
        self.devices.insert(peer.device.clone(), key);
        let order = if pinned { &mut self.kept } else { &mut self.strangers };
        order.insert(place, key);
        let handshakes = Window::new(config.handshakes, config.handshakes_period);
        let entry = Entry { peer, proven: None, backoff: Backoff::default(), handshakes, place };
        self.entries.entry(key).insert_entry(entry).into_mut()
    }

    pub(super) fn remove(&mut self, key: &PublicKey) -> Option<Peer> {
        let entry = self.entries.remove(key)?;
        self.strangers.remove(&entry.place);
        self.kept.remove(&entry.place);
        if self.devices.get(&entry.peer.device) == Some(key) {
            self.devices.remove(&entry.peer.device);
        }
        Some(entry.peer)
    }

    /// The peer was heard: it moves to the end of the order, in the part where it belongs by now.
    pub(super) fn touch(&mut self, key: &PublicKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.strangers.remove(&entry.place);
        self.kept.remove(&entry.place);
        self.heard_count += 1;
        entry.place = (now, self.heard_count);
        entry.peer.heard = now;
        let keep = entry.peer.pinned || entry.peer.sessions > 0;
        let order = if keep { &mut self.kept } else { &mut self.strangers };
        order.insert(entry.place, *key);
    }

    /// The device is announced with this key from now on.
    pub(super) fn name(&mut self, device: &DeviceId, key: PublicKey) {
        self.devices.insert(device.clone(), key);
    }
}

impl Entry {
    /// Takes over what is new in the announcement.
    pub(super) fn update(&mut self, announcement: &Announcement) -> Changes {
        let offered: BTreeSet<ServiceName> = announcement.services().iter().cloned().collect();
        let changes = Changes {
            reached_otherwise: self.peer.port != announcement.port(),
            appeared: offered.difference(&self.peer.services).cloned().collect(),
            gone: self.peer.services.difference(&offered).cloned().collect(),
        };
        self.peer.port = announcement.port();
        self.peer.services = offered;
        changes
    }

    /// Remembers where it was heard; says whether that is a new place. A proven address stays the first.
    pub(super) fn heard_at(&mut self, address: SocketAddr) -> bool {
        let addresses = &mut self.peer.addresses;
        let new = !addresses.contains(&address);
        addresses.retain(|known| *known != address);
        addresses.insert(0, address);
        if let Some(proven) = self.proven {
            addresses.retain(|known| *known != proven);
            addresses.insert(0, proven);
        }
        addresses.truncate(ADDRESSES_MAX);
        new
    }
}
