//! The neighbour cache: which hardware address an IPv4 address on the link has (RFC 826, with the unreachability detection that
//! RFC 1122, 2.3.2.1 asks for).
//!
//! An entry is made only because we have something to send; what others say may update an entry and never makes one. Its life:
//!
//! ```text
//!             send             reply                30 s pass, then a send
//!   (none) ---------> Incomplete -----> Reachable -------------------------> Probing --reply--> Reachable
//!                      | 3 requests,       ^                                    | 3 requests,
//!                      v none answered     | reply                              v none answered
//!                    Failed --1 s--> (none)                                  (none)
//! ```
//!
//! Each entry has its own request clock, so that a dead neighbour delays nobody else. Packets to an incomplete neighbour wait
//! in its own bounded queue.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::collections::VecDeque;

use crate::counters::Counters;
use crate::random::{KeyedMap, KeyedState};
use crate::time::Instant;
use crate::timers::{Armed, Timer, Timers};

/// Between two requests to one neighbour (RFC 1122, 2.3.2.1: at most one per second per destination).
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// Requests before giving up: Linux's `mcast_solicit` and `ucast_solicit`.
const REQUESTS_MAX: u8 = 3;
/// How long a confirmed address is used without asking again: the base reachable time of RFC 4861 and Linux.
const REACHABLE_TIME: Duration = Duration::from_secs(30);
/// Packets that wait for one neighbour. Linux keeps 101 by bytes; a connect and a few datagrams fit 16.
const PENDING_MAX: usize = 16;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// One line of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NeighborInfo {
    /// The neighbour.
    pub address: Ipv4Addr,
    /// Its hardware address, once known.
    pub mac: Option<[u8; 6]>,
    /// `incomplete`, `reachable`, `probing` or `failed`.
    pub state: &'static str,
}

enum State {
    Incomplete { pending: VecDeque<Vec<u8>>, requests: u8 },
    Reachable { mac: Mac, until: Instant },
    Probing { mac: Mac, requests: u8 },
    Failed,
}

struct Neighbor {
    state: State,
    last_used: Instant,
    armed: Armed,
}

/// A request to send: to everybody, or to the one that is being probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) target: Ipv4Addr,
    pub(crate) to: Option<Mac>,
}

/// What to do with a packet for a neighbour.
pub(crate) enum Resolution {
    /// Send it there; and the request too, if there is one.
    Known(Mac, Option<Request>),
    /// Give it to [`Neighbors::enqueue`]; and send the request, if there is one.
    Wait(Option<Request>),
    /// Drop it: the neighbour does not answer, or the table is full of neighbours that are being asked.
    Refused,
}

/// What an expired timer asks for.
pub(crate) enum Expiry {
    Nothing,
    Request(Request),
    /// Nobody answered: these packets will never leave.
    Failed(VecDeque<Vec<u8>>),
}

pub(crate) struct Neighbors {
    entries: KeyedMap<Ipv4Addr, Neighbor>,
    limit: usize,
}

impl Neighbors {
    pub(crate) fn new(limit: usize, hasher: KeyedState) -> Neighbors {
        Neighbors { entries: KeyedMap::with_hasher(hasher), limit: limit.max(1) }
    }

    /// Looks up where a packet to `target` goes, and starts asking when that is not known or no longer certain.
    pub(crate) fn resolve(&mut self, now: Instant, target: Ipv4Addr, timers: &mut Timers) -> Resolution {
        let timer = Timer::Neighbor(target.octets());
        if let Some(neighbor) = self.entries.get_mut(&target) {
            neighbor.last_used = now;
            return match &neighbor.state {
                State::Reachable { mac, until } if now < *until => Resolution::Known(*mac, None),
                State::Reachable { mac, .. } => {
                    let mac = *mac;
                    neighbor.state = State::Probing { mac, requests: 1 };
                    timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
                    Resolution::Known(mac, Some(Request { target, to: Some(mac) }))
                }
                State::Probing { mac, .. } => Resolution::Known(*mac, None),
                State::Incomplete { .. } => Resolution::Wait(None),
                State::Failed => Resolution::Refused,
            };
        }
        if self.entries.len() >= self.limit && !self.evict() {
            return Resolution::Refused;
        }
        let state = State::Incomplete { pending: VecDeque::new(), requests: 1 };
        let mut neighbor = Neighbor { state, last_used: now, armed: Armed::default() };
        timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
        self.entries.insert(target, neighbor);
        Resolution::Wait(Some(Request { target, to: None }))
    }

    /// Makes room: the least recently used entry goes, one that never answered before one that did. Linear, but only when
    /// the table is full, and the table is small.
    fn evict(&mut self) -> bool {
        let victim = self
            .entries
            .iter()
            .min_by_key(|(_, neighbor)| {
                let known = matches!(neighbor.state, State::Reachable { .. } | State::Probing { .. });
                (known, neighbor.last_used)
            })
            .map(|(address, _)| *address);
        victim.is_some_and(|address| self.entries.remove(&address).is_some())
    }

    /// Keeps a packet until `target` answers. The oldest gives way: of a burst the last packets are worth most.
    pub(crate) fn enqueue(&mut self, target: Ipv4Addr, packet: Vec<u8>, counters: &mut Counters) {
        let Some(Neighbor { state: State::Incomplete { pending, .. }, .. }) = self.entries.get_mut(&target)
        else {
            counters.drop_neighbor_unresolved += 1;
            return;
        };
        if pending.len() >= PENDING_MAX {
            pending.pop_front();
            counters.drop_neighbor_queue_full += 1;
        }
        pending.push_back(packet);
    }

    /// Takes what an ARP packet says about its sender. Returns the packets that were waiting for it; `None` if nobody had asked.
    pub(crate) fn learn(&mut self, now: Instant, address: Ipv4Addr, mac: Mac) -> Option<VecDeque<Vec<u8>>> {
        let neighbor = self.entries.get_mut(&address)?;
        let reachable = State::Reachable { mac, until: now + REACHABLE_TIME };
        match core::mem::replace(&mut neighbor.state, reachable) {
            State::Incomplete { pending, .. } => Some(pending),
            State::Reachable { .. } | State::Probing { .. } | State::Failed => Some(VecDeque::new()),
        }
    }

    /// Handles the timer of `target`.
    pub(crate) fn expired(
        &mut self,
        now: Instant,
        target: Ipv4Addr,
        deadline: Instant,
        timers: &mut Timers,
    ) -> Expiry {
        let Some(neighbor) = self.entries.get_mut(&target) else { return Expiry::Nothing };
        if !neighbor.armed.fires(deadline) {
            return Expiry::Nothing;
        }
        let timer = Timer::Neighbor(target.octets());
        match &mut neighbor.state {
            State::Incomplete { requests, .. } if *requests < REQUESTS_MAX => {
                *requests += 1;
                timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
                Expiry::Request(Request { target, to: None })
            }
            State::Probing { mac, requests } if *requests < REQUESTS_MAX => {
                *requests += 1;
                let to = Some(*mac);
                timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
                Expiry::Request(Request { target, to })
            }
            State::Incomplete { pending, .. } => {
                let pending = core::mem::take(pending);
                neighbor.state = State::Failed;
                timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
                Expiry::Failed(pending)
            }
            State::Probing { .. } | State::Failed => {
                self.entries.remove(&target);
                Expiry::Nothing
            }
            State::Reachable { .. } => Expiry::Nothing,
        }
    }

    /// Forgets everybody: the address or the link changed.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = NeighborInfo> {
        self.entries.iter().map(|(address, neighbor)| {
            let (mac, state) = match &neighbor.state {
                State::Incomplete { .. } => (None, "incomplete"),
                State::Reachable { mac, .. } => (Some(*mac), "reachable"),
                State::Probing { mac, .. } => (Some(*mac), "probing"),
                State::Failed => (None, "failed"),
            };
            NeighborInfo { address: *address, mac, state }
        })
    }
}
