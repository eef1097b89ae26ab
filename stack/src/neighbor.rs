//! The neighbour cache: which hardware address an IP address on the link has (RFC 826 with the unreachability detection that
//! RFC 1122, 2.3.2.1 asks for, and RFC 4861, 7).
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
//! An IPv6 neighbour whose word is all there is - it was not asked, or its time is up - is Stale, and waits in Delay for 5 s after the
//! next packet to it before it is probed (RFC 4861, 7.3.3).
//!
//! Each entry has its own request clock, so that a dead neighbour delays nobody else. Packets to an incomplete neighbour wait
//! in its own bounded queue.

use core::net::IpAddr;
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
/// Between the first packet to a stale neighbour and the first probe (RFC 4861, 10: DELAY_FIRST_PROBE_TIME).
const DELAY_TIME: Duration = Duration::from_secs(5);
/// Packets that wait for one neighbour: the largest datagram in fragments of 1500 bytes is 45. Linux keeps 101 by bytes.
const PENDING_MAX: usize = 64;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// One line of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NeighborInfo {
    /// The neighbour.
    pub address: IpAddr,
    /// Its hardware address, once known.
    pub mac: Option<[u8; 6]>,
    /// `incomplete`, `reachable`, `stale`, `delay`, `probing` or `failed`.
    pub state: &'static str,
}

enum State {
    Incomplete { pending: VecDeque<Vec<u8>>, requests: u8 },
    Reachable { mac: Mac, until: Instant },
    Stale { mac: Mac },
    Delay { mac: Mac },
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
    pub(crate) target: IpAddr,
    pub(crate) to: Option<Mac>,
}

/// What to do with a packet for a neighbour.
pub(crate) enum Resolution {
    /// Send it there; and the request too, if there is one.
    Known(Mac, Option<Request>),
    /// Give it to [`Neighbors::enqueue`]; and send the request, if there is one.
    Wait(Option<Request>),
    /// Drop it: the neighbour does not answer.
    Refused,
}

/// What an IPv6 neighbour says about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) mac: Option<Mac>,
    /// It answers a question of ours, so it hears us.
    pub(crate) solicited: bool,
    /// What we knew before is wrong.
    pub(crate) overrides: bool,
}

/// What an expired timer asks for.
pub(crate) enum Expiry {
    Nothing,
    Request(Request),
    /// Nobody answered: these packets will never leave.
    Failed(VecDeque<Vec<u8>>),
}

pub(crate) struct Neighbors {
    entries: KeyedMap<IpAddr, Neighbor>,
    limit: usize,
}

impl Neighbors {
    pub(crate) fn new(limit: usize, hasher: KeyedState) -> Neighbors {
        Neighbors { entries: KeyedMap::with_hasher(hasher), limit: limit.max(1) }
    }

    /// Looks up where a packet to `target` goes, and starts asking when that is not known or no longer certain.
    pub(crate) fn resolve(
        &mut self,
        now: Instant,
        target: IpAddr,
        timers: &mut Timers,
        counters: &mut Counters,
    ) -> Resolution {
        let timer = Timer::Neighbor(target);
        if let Some(neighbor) = self.entries.get_mut(&target) {
            neighbor.last_used = now;
            return match &neighbor.state {
                State::Reachable { mac, until } if now < *until => Resolution::Known(*mac, None),
                State::Reachable { mac, .. } | State::Stale { mac } if target.is_ipv6() => {
                    let mac = *mac;
                    neighbor.state = State::Delay { mac };
                    timers.arm(&mut neighbor.armed, timer, now + DELAY_TIME);
                    Resolution::Known(mac, None)
                }
                State::Delay { mac } => Resolution::Known(*mac, None),
                State::Reachable { mac, .. } | State::Stale { mac } => {
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
        if self.entries.len() >= self.limit {
            self.evict(counters);
        }
        let state = State::Incomplete { pending: VecDeque::new(), requests: 1 };
        let mut neighbor = Neighbor { state, last_used: now, armed: Armed::default() };
        timers.arm(&mut neighbor.armed, timer, now + REQUEST_INTERVAL);
        self.entries.insert(target, neighbor);
        Resolution::Wait(Some(Request { target, to: None }))
    }

    /// Whether a packet to `target` could leave at once.
    pub(crate) fn is_known(&self, target: IpAddr) -> bool {
        let state = self.entries.get(&target).map(|neighbor| &neighbor.state);
        state.is_some_and(|state| !matches!(state, State::Incomplete { .. } | State::Failed))
    }

    /// Makes room: the least recently used entry goes, one that never answered before one that did. Linear, but only when
    /// the table is full, and the table is small.
    fn evict(&mut self, counters: &mut Counters) {
        let victim = self
            .entries
            .iter()
            .min_by_key(|(_, neighbor)| {
                let known = !matches!(neighbor.state, State::Incomplete { .. } | State::Failed);
                (known, neighbor.last_used)
            })
            .map(|(address, _)| *address);
        let Some(gone) = victim.and_then(|address| self.entries.remove(&address)) else { return };
        counters.neighbors_evicted += 1;
        if let State::Incomplete { pending, .. } = gone.state {
            counters.drop_neighbor_table_full += pending.len() as u64;
        }
    }

    /// Keeps a packet until `target` answers. The oldest gives way: of a burst the last packets are worth most.
    pub(crate) fn enqueue(&mut self, target: IpAddr, packet: Vec<u8>, counters: &mut Counters) {
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
    pub(crate) fn learn(&mut self, now: Instant, address: IpAddr, mac: Mac) -> Option<VecDeque<Vec<u8>>> {
        let neighbor = self.entries.get_mut(&address)?;
        let reachable = State::Reachable { mac, until: now + REACHABLE_TIME };
        match core::mem::replace(&mut neighbor.state, reachable) {
            State::Incomplete { pending, .. } => Some(pending),
            State::Reachable { .. }
            | State::Stale { .. }
            | State::Delay { .. }
            | State::Probing { .. }
            | State::Failed => Some(VecDeque::new()),
        }
    }

    /// Takes what an IPv6 neighbour says about itself (RFC 4861, 7.2.3 and 7.2.5). Returns its hardware address and the packets that
    /// were waiting for it; `None` if nobody had asked.
    pub(crate) fn learn_claim(
        &mut self,
        now: Instant,
        address: IpAddr,
        claim: Claim,
    ) -> Option<(Option<Mac>, VecDeque<Vec<u8>>)> {
        let neighbor = self.entries.get_mut(&address)?;
        let until = now + REACHABLE_TIME;
        let known = match &neighbor.state {
            State::Incomplete { .. } | State::Failed => None,
            State::Reachable { mac, .. }
            | State::Stale { mac }
            | State::Delay { mac }
            | State::Probing { mac, .. } => Some(*mac),
        };
        let differs = known.is_some() && claim.mac.is_some() && claim.mac != known;
        let Some(mac) = (if differs && !claim.overrides { known } else { claim.mac.or(known) }) else {
            return Some((None, VecDeque::new()));
        };
        let reachable = matches!(neighbor.state, State::Reachable { .. });
        let state = if differs && !claim.overrides {
            // Somebody else answers for it too: doubt what we have, but keep it.
            reachable.then_some(State::Stale { mac })
        } else if claim.solicited {
            Some(State::Reachable { mac, until })
        } else {
            (differs || known.is_none()).then_some(State::Stale { mac })
        };
        let Some(state) = state else { return Some((Some(mac), VecDeque::new())) };
        let waiting = match core::mem::replace(&mut neighbor.state, state) {
            State::Incomplete { pending, .. } => pending,
            _ => VecDeque::new(),
        };
        Some((Some(mac), waiting))
    }

    /// Whether a neighbour has been asked and has not answered.
    pub(crate) fn is_silent(&self, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(|neighbor| match &neighbor.state {
            State::Incomplete { requests, .. } | State::Probing { requests, .. } => *requests > 1,
            State::Failed => true,
            State::Reachable { .. } | State::Stale { .. } | State::Delay { .. } => false,
        })
    }

    /// Handles the timer of `target`.
    pub(crate) fn expired(
        &mut self,
        now: Instant,
        target: IpAddr,
        deadline: Instant,
        timers: &mut Timers,
    ) -> Expiry {
        let Some(neighbor) = self.entries.get_mut(&target) else { return Expiry::Nothing };
        if !neighbor.armed.fires(deadline) {
            return Expiry::Nothing;
        }
        let timer = Timer::Neighbor(target);
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
            State::Delay { mac } => {
                let to = Some(*mac);
                neighbor.state = State::Probing { mac: *mac, requests: 1 };
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
            State::Reachable { .. } | State::Stale { .. } => Expiry::Nothing,
        }
    }

    /// Forgets every IPv4 neighbour: our address or the link changed.
    pub(crate) fn clear_v4(&mut self) {
        self.entries.retain(|address, _| address.is_ipv6());
    }

    /// What is known may be wrong: the link was away. IPv4 neighbours are asked for again, IPv6 ones probed with the next packet.
    pub(crate) fn doubt(&mut self) {
        self.clear_v4();
        for neighbor in self.entries.values_mut() {
            if let State::Reachable { mac, .. } = neighbor.state {
                neighbor.state = State::Stale { mac };
            }
        }
    }

    /// Neighbours known or being resolved, and how many there may be.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.entries.len(), self.limit)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = NeighborInfo> {
        self.entries.iter().map(|(address, neighbor)| {
            let (mac, state) = match &neighbor.state {
                State::Incomplete { .. } => (None, "incomplete"),
                State::Reachable { mac, .. } => (Some(*mac), "reachable"),
                State::Stale { mac } => (Some(*mac), "stale"),
                State::Delay { mac } => (Some(*mac), "delay"),
                State::Probing { mac, .. } => (Some(*mac), "probing"),
                State::Failed => (None, "failed"),
            };
            NeighborInfo { address: *address, mac, state }
        })
    }
}
