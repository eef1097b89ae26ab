//! TCP: the table of flows, who listens, and when which flow is driven.
//!
//! A segment finds its flow by a keyed hash of the 5-tuple and touches nothing else. A flow is driven ([`Tcp::drive`]) when it is
//! *dirty* - a segment came, or its owner did something - or when its timer fires; so the work is proportional to what
//! happens and not to how many connections there are. The protocol itself is the engine's ([`engine`]), behind a guard
//! ([`guard`]) that stops what the engine handles wrongly.

mod engine;
mod flow;
mod guard;
mod listener;
mod segment;
#[cfg(test)]
mod tests;

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use core::time::Duration;
use std::collections::VecDeque;

use smoltcp::socket::tcp::State;

use self::engine::{Engine, Fault, PacketSink};
use self::flow::{Flow, LINGER, Stage};
pub use self::flow::{FlowState, FlowStatus, Outcome};
use self::guard::Verdict;
use self::listener::Listener;
pub(crate) use self::segment::Tuple;
use self::segment::{Bare, Segment};
use crate::bucket::Bucket;
use crate::config::Limits;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{FlowId, ListenerId, Ready};
use crate::icmp::IcmpError;
use crate::ipv4;
use crate::network::Network;
use crate::ports;
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;
use crate::timers::Timer;

/// Packets that one flow sends before the others have their turn: one engine window of full segments is 45.
const DRIVE_BURST: usize = 64;
/// When to look again at a flow that the engine calls due although it has nothing to send. An acknowledgement or its owner will
/// normally wake it long before.
const BLOCKED_RETRY: Duration = Duration::from_millis(200);
/// Resets and challenges per second, and at once: enough for every honest peer after a restart, too little for an
/// amplifier.
const REPLIES_PER_SECOND: u32 = 1000;
const REPLIES_BURST: u32 = 200;

pub(crate) struct Tcp {
    engine: Engine,
    flows: Slab<Flow>,
    by_tuple: KeyedMap<Tuple, u64>,
    listeners: Slab<Listener>,
    by_port: KeyedMap<u16, u64>,
    /// Flows to drive with the next poll, each at most once.
    dirty: VecDeque<u64>,
    /// Flows in SYN-RECEIVED, over all listeners.
    pending: usize,
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
    destination: Ipv4Addr,
}

impl<E: Egress> PacketSink for FlowSink<'_, E> {
    fn ready(&self) -> bool {
        self.egress.ready()
    }

    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        self.network.send_packet(self.now, self.egress, self.destination, len, fill);
    }
}

impl Tcp {
    pub(crate) fn new(limits: &Limits, network: &mut Network) -> Tcp {
        let random = &mut network.random;
        Tcp {
            engine: Engine::new(network.mtu, random.fork()),
            flows: Slab::new(limits.flows),
            by_tuple: KeyedMap::with_hasher(random.keyed_state()),
            listeners: Slab::new(limits.listeners),
            by_port: KeyedMap::with_hasher(random.keyed_state()),
            dirty: VecDeque::new(),
            pending: 0,
            time_waits: VecDeque::new(),
            limits: limits.clone(),
            replies: Bucket::new(REPLIES_PER_SECOND, REPLIES_BURST),
        }
    }

    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.engine.set_mtu(mtu);
    }

    // ---- what the owner asks for -------------------------------------------------------------------------------------

    pub(crate) fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddrV4,
        network: &mut Network,
    ) -> Result<FlowId, Error> {
        let unreachable = Error::Unreachable { to: SocketAddr::V4(remote) };
        let address = network.address().ok_or(unreachable.clone())?;
        let (host, port) = (*remote.ip(), remote.port());
        if port == 0 || !ipv4::is_usable_host(host) || network.is_broadcast(host) {
            return Err(Error::InvalidInput {
                what: "a connection needs a unicast address and a port other than 0",
            });
        }
        if host == address {
            return Err(Error::Unsupported { what: "a connection to our own address" });
        }
        if !network.has_route(host) {
            return Err(unreachable);
        }
        if !self.has_room() {
            return Err(Error::QuotaExceeded { what: "connections", limit: self.limits.flows });
        }
        let tuple_of = |port| Tuple { local: (address, port), remote: (host, remote.port()) };
        let port = ports::ephemeral(&mut network.random, |port| self.by_tuple.contains_key(&tuple_of(port)))?;
        let tuple = tuple_of(port);
        let connection = self.engine.connect(tuple);
        let connection = connection.map_err(|Fault| Error::Unreachable { to: SocketAddr::V4(remote) })?;
        let id = self.flows.insert_with(|_| Flow::new(connection, Stage::Owned, now));
        let id = id.ok_or(Error::QuotaExceeded { what: "connections", limit: self.limits.flows })?;
        self.by_tuple.insert(tuple, id);
        network.counters.tcp_opened += 1;
        self.mark_dirty(id);
        Ok(FlowId(id))
    }

    pub(crate) fn status(&self, id: FlowId) -> Result<FlowStatus, Error> {
        self.owned(id).map(Flow::status)
    }

    pub(crate) fn send(&mut self, id: FlowId, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Error> {
        let flow = self.owned_mut(id)?;
        if flow.finished || flow.finish_wanted || flow.outcome.is_some() {
            return Err(Error::NotConnected { outcome: flow.outcome });
        }
        let sent = flow.connection.as_mut().map_or(0, |connection| connection.send(fill));
        if sent > 0 {
            self.mark_dirty(id.0);
        }
        Ok(sent)
    }

    pub(crate) fn receive(&mut self, id: FlowId, take: impl FnOnce(&[u8]) -> usize) -> Result<usize, Error> {
        let flow = self.owned_mut(id)?;
        let taken = flow.connection.as_mut().map_or(0, |connection| connection.receive(take));
        if taken > 0 {
            self.mark_dirty(id.0);
        }
        Ok(taken)
    }

    pub(crate) fn finish(&mut self, id: FlowId) -> Result<(), Error> {
        let flow = self.owned_mut(id)?;
        if flow.finished || flow.outcome.is_some() {
            return Ok(());
        }
        match &mut flow.connection {
            // In SYN-SENT the engine would forget the connection: the FIN has to wait for the handshake.
            Some(_) if !flow.established => flow.finish_wanted = true,
            Some(connection) => connection.finish(),
            None => {}
        }
        flow.finished = true;
        self.mark_dirty(id.0);
        Ok(())
    }

    pub(crate) fn abort(&mut self, id: FlowId) {
        if self.owned(id).is_ok() {
            self.abort_as(id.0, Outcome::Aborted);
        }
    }

    /// The owner is gone. What it sent is still delivered, within [`LINGER`]; what it did not read is lost, and the peer is told so
    /// by a reset (RFC 1122, 4.2.2.13).
    pub(crate) fn release(&mut self, now: Instant, id: FlowId) {
        let Ok(flow) = self.owned_mut(id) else { return };
        flow.stage = Stage::Released;
        flow.expires = Some(now + LINGER);
        let unread = flow.connection.as_ref().is_some_and(|connection| connection.readable() > 0);
        match &mut flow.connection {
            None => {}
            Some(_) if flow.outcome.is_some() && unread => flow.connection = None,
            Some(_) if flow.outcome.is_some() => {}
            Some(_) if unread || !flow.established => flow.abort(Outcome::Aborted),
            Some(connection) => connection.finish(),
        }
        self.mark_dirty(id.0);
    }

    fn abort_as(&mut self, id: u64, outcome: Outcome) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.outcome.is_none() {
            flow.abort(outcome);
        }
        self.mark_dirty(id);
    }

    fn owned(&self, id: FlowId) -> Result<&Flow, Error> {
        self.flows.get(id.0).filter(|flow| flow.stage == Stage::Owned).ok_or(Error::InvalidSocket)
    }

    fn owned_mut(&mut self, id: FlowId) -> Result<&mut Flow, Error> {
        self.flows.get_mut(id.0).filter(|flow| flow.stage == Stage::Owned).ok_or(Error::InvalidSocket)
    }

    // ---- what the wire brings ----------------------------------------------------------------------------------------

    /// Handles a TCP packet for our address.
    pub(crate) fn handle_packet<E: Egress>(
        &mut self,
        now: Instant,
        packet: &ipv4::Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) {
        let Some(segment) = Segment::parse(packet) else {
            network.counters.drop_tcp_malformed += 1;
            return;
        };
        let tuple = Tuple {
            local: (packet.destination, segment.destination_port),
            remote: (packet.source, segment.source_port),
        };
        if let Some(&id) = self.by_tuple.get(&tuple) {
            if !self.gives_way_to(id, &segment) {
                return self.deliver(now, id, packet, &segment, network, egress);
            }
            self.forget(id);
        }
        let listener =
            self.by_port.get(&segment.destination_port).filter(|_| segment.syn && segment.ack.is_none());
        if let Some(&listener) = listener {
            if let Some(id) = self.open_passive(now, listener, tuple, network) {
                self.deliver(now, id, packet, &segment, network, egress);
            }
            return;
        }
        network.counters.drop_tcp_closed_port += 1;
        if !segment.rst {
            self.reply(now, Bare::reset_for(&segment), &tuple, network, egress);
        }
    }

    /// Whether a flow in TIME-WAIT may be replaced by the connection that `segment` opens (RFC 9293, 3.10.7.4: the sequence
    /// number lies beyond the old connection's, so no old duplicate can be taken for new).
    fn gives_way_to(&self, id: u64, segment: &Segment) -> bool {
        let Some(flow) = self.flows.get(id) else { return false };
        let Some(connection) = &flow.connection else { return false };
        let newer =
            connection.sequence().is_some_and(|(_, next, _)| segment.seq.wrapping_sub(next) as i32 > 0);
        let opens = segment.syn && segment.ack.is_none();
        opens && newer && flow.stage == Stage::Released && connection.state() == State::TimeWait
    }

    fn deliver<E: Egress>(
        &mut self,
        now: Instant,
        id: u64,
        packet: &ipv4::Packet<'_>,
        segment: &Segment,
        network: &mut Network,
        egress: &mut E,
    ) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(connection) = &mut flow.connection else { return };
        network.counters.tcp_engine_calls += 1;
        let before = connection.state();
        let mut sink = FlowSink { now, destination: flow.tuple.remote.0, network, egress };
        let result = self.engine.ingress(now, connection, (packet.whole, segment), &mut sink);
        let sequence = connection.sequence();
        let counters = &mut network.counters;
        match result {
            Err(Fault) => return self.fault(now, id, sequence, network, egress),
            Ok(Verdict::Pass) => {}
            Ok(Verdict::WithoutFin { .. }) => counters.tcp_fin_beyond_window += 1,
            Ok(Verdict::DropEarly) => return counters.drop_tcp_early += 1,
            Ok(Verdict::DropSequence) => return counters.drop_tcp_sequence += 1,
            Ok(Verdict::DropAcknowledgement) => return counters.drop_tcp_acknowledgement += 1,
            Ok(Verdict::DropAfterFin) => return counters.drop_tcp_after_fin += 1,
            Ok(Verdict::Challenge) => {
                if let Some((seq, ack, window)) = sequence {
                    let tuple = flow.tuple;
                    counters.tcp_challenges_sent += 1;
                    self.reply(now, Bare::Challenge { seq, ack, window }, &tuple, network, egress);
                }
                return;
            }
        }
        flow.heard(now);
        flow.observe(now, before, segment.rst);
        let unwanted = flow.stage == Stage::Released
            && flow.outcome.is_none()
            && flow.connection.as_ref().is_some_and(|connection| connection.readable() > 0);
        if unwanted {
            self.abort_as(id, Outcome::Aborted);
        }
        self.handshake_progress(id, network);
        self.settle(id, network);
        self.mark_dirty(id);
    }

    /// Handles an ICMP error, or a neighbour that does not answer, for a segment that we sent.
    pub(crate) fn handle_unreachable(
        &mut self,
        tuple: &Tuple,
        seq: u32,
        error: IcmpError,
        network: &mut Network,
    ) {
        let Some(&id) = self.by_tuple.get(tuple) else { return };
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(connection) = &flow.connection else { return };
        // RFC 5461: only a connection that is being opened gives up; a synchronized one treats the error as transient. The
        // quoted sequence number must be our SYN's, so that nobody off the path can do this.
        let quotes_our_syn = connection.send_highest().is_some_and(|highest| seq.wrapping_add(1) == highest);
        if error.is_hard() && connection.state() == State::SynSent && quotes_our_syn {
            flow.kill(Outcome::Unreachable);
            self.settle(id, network);
        }
    }

    // ---- driving -----------------------------------------------------------------------------------------------------

    /// Drives the flows that have something to do; true if a packet was sent. Stops when the device takes no more.
    pub(crate) fn poll<E: Egress>(&mut self, now: Instant, network: &mut Network, egress: &mut E) -> bool {
        let mut sent = false;
        // Flows that become dirty again on the way wait for the next round.
        for _ in 0..self.dirty.len() {
            if !egress.ready() {
                break;
            }
            let Some(id) = self.dirty.pop_front() else { break };
            if let Some(flow) = self.flows.get_mut(id) {
                flow.dirty = false;
                sent |= self.drive(now, id, network, egress);
            }
        }
        sent
    }

    /// Whether a flow waits to be driven.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Handles the timer of a flow.
    pub(crate) fn timer_expired(&mut self, now: Instant, id: u64, deadline: Instant, network: &mut Network) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !flow.armed.fires(deadline) {
            return;
        }
        if flow.outcome.is_none() && flow.is_given_up(now) {
            self.abort_as(id, Outcome::TimedOut);
        } else if flow.expires.is_some_and(|expires| now >= expires) {
            self.expire(id, network);
        }
        self.mark_dirty(id);
    }

    /// A handshake or a lingering close has taken too long.
    fn expire(&mut self, id: u64, network: &mut Network) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.expires = None;
        match flow.stage {
            // In silence: whoever sent the SYN is not there, or is not who it says.
            Stage::Handshake { .. } => {
                flow.kill(Outcome::TimedOut);
                self.settle(id, network);
            }
            Stage::Released => self.abort_as(id, Outcome::TimedOut),
            Stage::Backlog { .. } | Stage::Owned => {}
        }
    }

    /// Lets a flow send what it has and arms its timer.
    fn drive<E: Egress>(&mut self, now: Instant, id: u64, network: &mut Network, egress: &mut E) -> bool {
        let mut sent_any = false;
        let mut turns = 0;
        while let Some(flow) = self.flows.get_mut(id) {
            // See `is_time_wait_over`: driven any further, the engine would throw away what the owner has not read.
            let over = flow.is_time_wait_over(now);
            let Some(connection) = flow.connection.as_mut().filter(|_| !over) else { break };
            if turns == DRIVE_BURST || !egress.ready() {
                self.mark_dirty(id);
                break;
            }
            turns += 1;
            network.counters.tcp_engine_calls += 1;
            let before = connection.state();
            let mut sink = FlowSink { now, destination: flow.tuple.remote.0, network, egress };
            let result = self.engine.egress(now, connection, &mut sink);
            let sequence = connection.sequence();
            let Ok(sent) = result else {
                self.fault(now, id, sequence, network, egress);
                return true;
            };
            flow.observe(now, before, false);
            sent_any |= sent;
            if !sent {
                flow.owes_reset = false;
                break;
            }
        }
        self.arm(now, id, network, egress);
        self.settle(id, network);
        sent_any
    }

    fn arm<E: Egress>(&mut self, now: Instant, id: u64, network: &mut Network, egress: &mut E) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let timer = Timer::Flow(id);
        if let Some(expires) = flow.expires {
            network.timers.arm(&mut flow.armed, timer, expires);
        }
        let Some(connection) = &flow.connection else { return };
        match self.engine.deadline(now, connection) {
            Err(Fault) => {
                let sequence = connection.sequence();
                self.fault(now, id, sequence, network, egress);
            }
            Ok(None) => {}
            Ok(Some(_)) if flow.dirty || flow.is_time_wait_over(now) => {}
            Ok(Some(deadline)) => {
                let deadline = if deadline <= now { now + BLOCKED_RETRY } else { deadline };
                // Also starts the clock of what is unanswered.
                let _ = flow.is_given_up(now);
                network.timers.arm(&mut flow.armed, timer, deadline);
            }
        }
    }

    /// The engine panicked below this flow. It ends here, and the peer is told; everybody else goes on.
    fn fault<E: Egress>(
        &mut self,
        now: Instant,
        id: u64,
        sequence: Option<(u32, u32, u16)>,
        network: &mut Network,
        egress: &mut E,
    ) {
        network.counters.tcp_engine_faults += 1;
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.kill(Outcome::EngineFault);
        let tuple = flow.tuple;
        if let Some((seq, ack, _)) = sequence {
            self.reply(now, Bare::Reset { seq, ack: Some(ack) }, &tuple, network, egress);
        }
        self.settle(id, network);
    }

    // ---- bookkeeping -------------------------------------------------------------------------------------------------

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
            self.pending -= 1;
            if let Some(listener) = self.listeners.get_mut(listener) {
                listener.pending -= 1;
            }
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

    /// Ends flows whose local address is no longer ours.
    pub(crate) fn address_changed(&mut self, network: &mut Network) {
        let Some(address) = network.address() else { return };
        self.end_all(network, Outcome::Unreachable, |flow| flow.tuple.local.0 != address);
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

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, u16)> {
        self.listeners.iter().map(|(id, listener)| (ListenerId(id), listener.port))
    }
}
