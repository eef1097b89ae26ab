//! TCP: the table of flows, who listens, and when which flow is driven.
//!
//! A segment finds its flow by a keyed hash of the 5-tuple and touches nothing else. A flow is driven ([`Tcp::drive`]) when it is
//! *dirty* - a segment came, or its owner did something - or when its timer fires; so the work is proportional to what
//! happens and not to how many connections there are. The protocol itself is the engine's ([`engine`]), behind a guard
//! ([`guard`]) that stops what the engine handles wrongly.

mod calls;
mod closing;
mod drive;
mod engine;
mod flow;
mod guard;
mod ingress;
mod listener;
mod segment;
mod sequence;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::VecDeque;

use smoltcp::socket::tcp::State;

use netd_time::Bucket;

use self::closing::Closing;
use self::engine::{Engine, PacketSink};
use self::flow::{Flow, Stage};
pub use self::flow::{FlowState, FlowStatus, Outcome};
use self::listener::{Listener, Source};
use self::segment::Bare;
pub(crate) use self::segment::Tuple;
use self::sequence::SequenceNumbers;
use crate::checksum::Rest;
use crate::config::Limits;
use crate::egress::Egress;
use crate::events::{FlowId, ListenerId, Ready};
use crate::network::Network;
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;

/// Resets and challenges per second, and at once: enough for every honest peer after a restart, too little for an
/// amplifier.
const REPLIES_PER_SECOND: u32 = 1000;
const REPLIES_BURST: u32 = 200;

pub(crate) struct Tcp {
    engine: Engine,
    sequence: SequenceNumbers,
    flows: Slab<Flow>,
    by_tuple: KeyedMap<Tuple, u64>,
    listeners: Slab<Listener>,
    /// More than one on a port have different addresses.
    by_port: KeyedMap<u16, Vec<u64>>,
    /// Flows to drive with the next poll, each at most once.
    dirty: VecDeque<u64>,
    /// Flows in SYN-RECEIVED, over all listeners.
    pending: usize,
    /// Flows in SYN-RECEIVED by where their SYN came from.
    pending_by_source: KeyedMap<Source, usize>,
    closing: Closing,
    /// Released flows in TIME-WAIT, oldest first: they give way when the table is full. May name flows that are gone.
    time_waits: VecDeque<u64>,
    limits: Limits,
    replies: Bucket,
}

/// The engine's way out for one flow.
struct FlowSink<'a, E> {
    network: &'a mut Network,
    egress: &'a mut E,
    now: Instant,
    destination: IpAddr,
}

impl<E: Egress> PacketSink for FlowSink<'_, E> {
    fn ready(&self) -> bool {
        self.egress.ready()
    }

    fn long_packet_len(&self) -> Option<usize> {
        self.network.long_packet_len(self.egress, self.destination)
    }

    fn send(&mut self, len: usize, segment_len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let to = (self.destination, Rest::Segments { segment_len });
        self.network.send_unfinished(self.now, self.egress, to, len, fill);
    }
}

impl Tcp {
    pub(crate) fn new(limits: &Limits, network: &mut Network) -> Tcp {
        let random = &mut network.random;
        Tcp {
            engine: Engine::new(random.fork()),
            sequence: SequenceNumbers::new(random),
            flows: Slab::new(limits.flows),
            by_tuple: KeyedMap::with_hasher(random.keyed_state()),
            listeners: Slab::new(limits.listeners),
            by_port: KeyedMap::with_hasher(random.keyed_state()),
            dirty: VecDeque::new(),
            pending: 0,
            pending_by_source: KeyedMap::with_hasher(random.keyed_state()),
            closing: Closing::new(limits),
            time_waits: VecDeque::new(),
            limits: limits.clone(),
            replies: Bucket::new(REPLIES_PER_SECOND, REPLIES_BURST),
        }
    }

    /// Tells the owner what changed, and forgets a flow whose time is over.
    fn settle(&mut self, id: u64, network: &mut Network) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.stage == Stage::Owned && flow.has_news() {
            network.events.push(Ready::Flow(FlowId(id)));
        }
        if flow.stage == Stage::Released && flow.state() == State::TimeWait && !flow.queued_time_wait {
            flow.queued_time_wait = true;
            self.time_waits.push_back(id);
            // They leave in about the order they came, so this keeps the queue as short as it has to be.
            while self.time_waits.front().is_some_and(|&oldest| self.flows.get(oldest).is_none()) {
                self.time_waits.pop_front();
            }
            return;
        }
        let listening_again = flow.state() == State::Listen;
        if flow.state() != State::Closed && !listening_again {
            return;
        }
        if flow.outcome.is_none() && listening_again {
            flow.kill(Outcome::ConnectionRefused);
        }
        if flow.owes_reset && flow.connection.is_some() {
            return;
        }
        if core::mem::replace(&mut flow.linked, false) {
            let tuple = flow.tuple;
            self.by_tuple.remove(&tuple);
        }
        match self.flows.get(id).map(|flow| flow.stage) {
            Some(Stage::Handshake { .. } | Stage::Released) => self.forget(id),
            Some(Stage::Backlog { .. } | Stage::Owned) | None => {}
        }
    }

    /// From now on there are at most `flows` connections; more that are there already stay.
    pub(crate) fn set_flows_max(&mut self, flows: usize) {
        self.limits.flows = flows;
        self.flows.set_limit(flows);
    }

    /// Whether one more flow fits. A full table gives up its oldest TIME-WAIT, as Linux does beyond `tcp_max_tw_buckets`.
    fn has_room(&mut self) -> bool {
        while self.flows.is_full() {
            let Some(oldest) = self.time_waits.pop_front() else { return false };
            self.forget(oldest);
        }
        true
    }

    fn forget(&mut self, id: u64) {
        let Some(flow) = self.flows.remove(id) else { return };
        if flow.linked {
            self.by_tuple.remove(&flow.tuple);
        }
        if let Stage::Handshake { listener } = flow.stage {
            self.pending_over(listener, &flow.tuple);
        }
        if let Some(connection) = flow.connection {
            self.engine.retire(connection);
        }
    }

    fn mark_dirty(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !core::mem::replace(&mut flow.dirty, true) {
            self.dirty.push_back(id);
        }
    }

    fn reply<E: Egress>(
        &mut self,
        now: Instant,
        bare: Bare,
        tuple: &Tuple,
        network: &mut Network,
        egress: &mut E,
    ) {
        if !self.replies.take(now) {
            network.counters.tcp_resets_rate_limited += 1;
            return;
        }
        if matches!(bare, Bare::Reset { .. }) {
            network.counters.tcp_resets_sent += 1;
        }
        bare.send(now, network, egress, tuple);
    }

    /// Ends flows whose local address is no longer ours. While an IPv4 address is sought they wait: the same one may come back.
    pub(crate) fn address_changed(&mut self, network: &mut Network) {
        let v4_is_gone = network.searching;
        let gone: Vec<IpAddr> = self
            .flows
            .iter()
            .map(|(_, flow)| flow.tuple.local.0)
            .filter(|address| !(network.is_own(*address) || (v4_is_gone && address.is_ipv4())))
            .collect();
        if !gone.is_empty() {
            self.end_all(network, Outcome::Unreachable, |flow| gone.contains(&flow.tuple.local.0));
        }
    }

    /// The device is gone.
    pub(crate) fn fail_all(&mut self, network: &mut Network) {
        self.end_all(network, Outcome::DeviceUnavailable, |_| true);
    }

    fn end_all(&mut self, network: &mut Network, outcome: Outcome, concerned: impl Fn(&Flow) -> bool) {
        let ids: Vec<u64> = self.flows.iter().filter(|(_, flow)| concerned(flow)).map(|(id, _)| id).collect();
        for id in ids {
            if let Some(flow) = self.flows.get_mut(id) {
                flow.kill(outcome);
            }
            self.settle(id, network);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &'static str, FlowStatus)> {
        self.flows.iter().map(|(id, flow)| {
            let stage = match flow.stage {
                Stage::Handshake { .. } => "handshake",
                Stage::Backlog { .. } => "backlog",
                Stage::Owned => "owned",
                Stage::Released => "closing",
            };
            (FlowId(id), stage, flow.status())
        })
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, Option<IpAddr>, u16)> {
        self.listeners.iter().map(|(id, listener)| (ListenerId(id), listener.address, listener.port))
    }

    /// Flows in any state, how many there may be, and those in SYN-RECEIVED.
    pub(crate) fn usage(&self) -> (usize, usize, usize) {
        (self.flows.len(), self.limits.flows, self.pending)
    }
}
