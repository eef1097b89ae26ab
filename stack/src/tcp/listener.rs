//! Listeners: a SYN makes a fresh connection in a bounded table; a completed handshake waits in the backlog to be accepted.
//!
//! A SYN that finds the table or the backlog full is dropped in silence: an honest peer sends it again, and an answer would help
//! only a flood.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;

use smoltcp::socket::tcp::State;

use super::Tcp;
use super::flow::{Flow, Keepalive, Outcome, Stage};
use super::segment::Tuple;
use crate::error::Error;
use crate::events::{FlowId, ListenerId, Ready};
use crate::network::Network;
use crate::ports;
use crate::time::Instant;

/// How long a handshake may take: four SYN-ACKs with the engine's initial timeout of one second, doubling.
const HANDSHAKE_MAX: Duration = Duration::from_secs(16);

/// Where a SYN came from, for the bound on each source: an IPv4 address, or the /64 that an IPv6 host can choose from at will.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Source(u64);

impl Source {
    fn of(address: IpAddr) -> Source {
        Source(match address {
            IpAddr::V4(address) => address.to_bits().into(),
            // Global prefixes never have zeros in front, so the two kinds cannot meet.
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        })
    }
}

pub(crate) struct Listener {
    /// Where connections may be addressed to; `None` is every address of ours.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    backlog: usize,
    /// Flows in SYN-RECEIVED.
    pub(crate) pending: usize,
    /// Established and not yet accepted. Longer than `backlog` by at most the handshakes that were under way.
    accepted: VecDeque<u64>,
}

impl Tcp {
    pub(crate) fn listen(
        &mut self,
        address: Option<IpAddr>,
        port: Option<u16>,
        backlog: usize,
        network: &mut Network,
    ) -> Result<(ListenerId, SocketAddr), Error> {
        network.may_bind(address)?;
        let taken = |port| self.bound(port).any(|other| ports::overlap(address, other.address));
        let port = match port {
            Some(0) => return Err(Error::InvalidInput { what: "port 0 cannot be listened on" }),
            Some(port) if taken(port) => return Err(Error::AddrInUse { port }),
            Some(port) => port,
            None => ports::ephemeral(&mut network.random, taken)?,
        };
        let backlog = backlog.clamp(1, self.limits.backlog.max(1));
        let listener = |_| Listener { address, port, backlog, pending: 0, accepted: VecDeque::new() };
        let limit = self.limits.listeners;
        let id =
            self.listeners.insert_with(listener).ok_or(Error::QuotaExceeded { what: "listeners", limit })?;
        self.by_port.entry(port).or_default().push(id);
        Ok((ListenerId(id), (address.unwrap_or(network.any_address()), port).into()))
    }

    fn bound(&self, port: u16) -> impl Iterator<Item = &Listener> {
        self.by_port.get(&port).into_iter().flatten().filter_map(|id| self.listeners.get(*id))
    }

    /// Who listens for connections to `local`. Two that listen on one port have different addresses.
    pub(super) fn listener_on(&self, (address, port): (IpAddr, u16)) -> Option<u64> {
        let ids = self.by_port.get(&port)?;
        let wants = |id: &&u64| {
            self.listeners.get(**id).is_some_and(|other| other.address.is_none_or(|own| own == address))
        };
        ids.iter().find(wants).copied()
    }

    /// Listeners, and how many there may be.
    pub(crate) fn listener_usage(&self) -> (usize, usize) {
        (self.listeners.len(), self.limits.listeners)
    }

    /// How many established connections wait to be accepted.
    pub(crate) fn waiting(&self, id: ListenerId) -> Result<usize, Error> {
        self.listeners.get(id.0).map(|listener| listener.accepted.len()).ok_or(Error::InvalidListener)
    }

    /// Takes the oldest established connection; the caller owns it from then on.
    pub(crate) fn accept(&mut self, id: ListenerId, network: &mut Network) -> Result<Option<FlowId>, Error> {
        let listener = self.listeners.get_mut(id.0).ok_or(Error::InvalidListener)?;
        let Some(flow_id) = listener.accepted.pop_front() else { return Ok(None) };
        if !listener.accepted.is_empty() {
            network.events.push(Ready::Listener(id));
        }
        if let Some(flow) = self.flows.get_mut(flow_id) {
            flow.stage = Stage::Owned;
            network.counters.tcp_accepted += 1;
            // Data may be waiting, and the owner has to see it.
            network.events.push(Ready::Flow(FlowId(flow_id)));
        }
        Ok(Some(FlowId(flow_id)))
    }

    /// Stops listening; what nobody accepted is reset.
    pub(crate) fn close_listener(&mut self, id: ListenerId, network: &mut Network) {
        let Some(listener) = self.listeners.remove(id.0) else { return };
        if let Some(ids) = self.by_port.get_mut(&listener.port) {
            ids.retain(|other| *other != id.0);
            if ids.is_empty() {
                self.by_port.remove(&listener.port);
            }
        }
        let concerned = |flow: &Flow| match flow.stage {
            Stage::Handshake { listener } | Stage::Backlog { listener } => listener == id.0,
            Stage::Owned | Stage::Released => false,
        };
        let ids: Vec<u64> = self.flows.iter().filter(|(_, flow)| concerned(flow)).map(|(id, _)| id).collect();
        for flow_id in ids {
            if let Some(flow) = self.flows.get_mut(flow_id) {
                let handshake = matches!(flow.stage, Stage::Handshake { .. });
                flow.stage = Stage::Released;
                let tuple = flow.tuple;
                if handshake {
                    self.pending_over(id.0, &tuple);
                }
            }
            self.abort_as(flow_id, Outcome::Aborted);
            self.settle(flow_id, network);
        }
    }

    /// Makes the connection that a SYN asks for, if there is room.
    pub(super) fn open_passive(
        &mut self,
        now: Instant,
        listener_id: u64,
        tuple: Tuple,
        network: &mut Network,
    ) -> Option<u64> {
        let listener = self.listeners.get_mut(listener_id)?;
        if listener.accepted.len() >= listener.backlog {
            network.counters.drop_tcp_backlog_full += 1;
            return None;
        }
        let source = Source::of(tuple.remote.0);
        let from_source = self.pending_by_source.get(&source).copied().unwrap_or(0);
        if listener.pending >= self.limits.pending_per_listener || self.pending >= self.limits.pending {
            network.counters.drop_tcp_pending_full += 1;
            return None;
        }
        if from_source >= self.limits.pending_per_source {
            network.counters.drop_tcp_pending_source += 1;
            return None;
        }
        if !self.has_room() {
            network.counters.drop_tcp_flows_full += 1;
            return None;
        }
        let listener = self.listeners.get_mut(listener_id)?;
        let (mtu, initial) = (network.mtu_for(tuple.remote.0), self.sequence.initial(now, &tuple));
        let Ok(connection) = self.engine.listen(tuple, mtu, initial) else {
            network.counters.tcp_engine_faults += 1;
            return None;
        };
        let keepalive = Keepalive::new(&self.limits, now);
        let stage = Stage::Handshake { listener: listener_id };
        let id = self.flows.insert_with(|_| {
            let mut flow = Flow::new(connection, stage, keepalive, now);
            flow.expires = Some(now + HANDSHAKE_MAX);
            flow
        })?;
        listener.pending += 1;
        self.pending += 1;
        self.pending_by_source.insert(source, from_source + 1);
        self.by_tuple.insert(tuple, id);
        Some(id)
    }

    /// Moves a flow whose handshake completed into the backlog, and drops one whose handshake failed.
    pub(super) fn handshake_progress(&mut self, id: u64, network: &mut Network) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Stage::Handshake { listener: listener_id } = flow.stage else { return };
        if matches!(flow.state(), State::Listen | State::Closed) && !flow.established {
            return self.forget(id);
        }
        if !flow.established {
            return;
        }
        flow.stage = Stage::Backlog { listener: listener_id };
        flow.expires = None;
        let tuple = flow.tuple;
        self.pending_over(listener_id, &tuple);
        if let Some(listener) = self.listeners.get_mut(listener_id) {
            listener.accepted.push_back(id);
            network.events.push(Ready::Listener(ListenerId(listener_id)));
        }
    }

    /// A handshake is over, one way or the other.
    pub(super) fn pending_over(&mut self, listener_id: u64, tuple: &Tuple) {
        self.pending -= 1;
        if let Some(listener) = self.listeners.get_mut(listener_id) {
            listener.pending -= 1;
        }
        let source = Source::of(tuple.remote.0);
        if let Some(count) = self.pending_by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.pending_by_source.remove(&source);
            }
        }
    }
}
