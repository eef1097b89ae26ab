//! What the wire brings: which flow a segment is for, and what follows when there is none or it must not have it.

use core::net::IpAddr;

use smoltcp::socket::tcp::State;

use super::engine::Fault;
use super::flow::{Outcome, Stage};
use super::guard::Verdict;
use super::segment::{Bare, Segment, Tuple};
use super::{FlowSink, Tcp};
use crate::config::{MTU_MIN, MTU_MIN_V6};
use crate::egress::Egress;
use crate::icmp::IcmpError;
use crate::ip;
use crate::network::Network;
use crate::time::Instant;

impl Tcp {
    /// Handles a TCP packet for our address.
    pub(crate) fn handle_packet<E: Egress>(
        &mut self,
        now: Instant,
        packet: &ip::Packet<'_>,
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
        let opens = segment.syn && segment.ack.is_none();
        let listener = if opens { self.listener_on(tuple.local) } else { None };
        if let Some(&id) = self.by_tuple.get(&tuple) {
            if listener.is_none() || !self.gives_way_to(id, &segment) {
                return self.deliver(now, id, packet, &segment, network, egress);
            }
            self.give_way(id, network);
        }
        if let Some(listener) = listener {
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

    /// Whether a flow in TIME-WAIT may be replaced by the connection that `segment`, a SYN, opens (RFC 9293, 3.10.7.4; RFC 6191, 2
    /// without timestamps: the sequence number lies beyond the old connection's, so no old duplicate can be taken for new).
    fn gives_way_to(&self, id: u64, segment: &Segment) -> bool {
        let Some(flow) = self.flows.get(id) else { return false };
        let Some(connection) = &flow.connection else { return false };
        let newer =
            connection.sequence().is_some_and(|(_, next, _)| segment.seq.wrapping_sub(next) as i32 > 0);
        newer && connection.state() == State::TimeWait
    }

    /// Takes a flow in TIME-WAIT out of the way. Its owner, if it still has one, keeps what it has not read.
    fn give_way(&mut self, id: u64, network: &mut Network) {
        network.counters.tcp_time_wait_reused += 1;
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.stage == Stage::Released {
            return self.forget(id);
        }
        flow.linked = false;
        self.by_tuple.remove(&flow.tuple);
    }

    fn deliver<E: Egress>(
        &mut self,
        now: Instant,
        id: u64,
        packet: &ip::Packet<'_>,
        segment: &Segment,
        network: &mut Network,
        egress: &mut E,
    ) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(connection) = &mut flow.connection else { return };
        network.counters.tcp_engine_calls += 1;
        let before = connection.state();
        let mut sink = FlowSink { now, destination: flow.tuple.remote.0, network, egress };
        let result = self.engine.ingress(now, connection, (&packet.plain(), segment), &mut sink);
        let sequence = connection.sequence();
        let counters = &mut network.counters;
        match result {
            Err(Fault) => return self.fault(now, id, sequence, network, egress),
            Ok(Verdict::Pass) => {}
            Ok(Verdict::WithoutFin { .. }) => counters.tcp_fin_beyond_window += 1,
            Ok(Verdict::WithAcknowledgement { .. }) => counters.tcp_old_acknowledgements += 1,
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
        (error, offender): (IcmpError, IpAddr),
        network: &mut Network,
    ) {
        let Some(&id) = self.by_tuple.get(tuple) else { return };
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(connection) = &flow.connection else { return };
        // RFC 5461: only a connection that is being opened gives up; a synchronized one treats the error as transient. The
        // quoted sequence number must be our SYN's, so that nobody off the path can do this.
        let in_flight = connection.send_highest().is_some_and(|highest| {
            let behind = highest.wrapping_sub(seq);
            (1..=connection.unacknowledged() as u32).contains(&behind)
        });
        if let (IcmpError::FragmentationNeeded { mtu }, true) = (error, in_flight) {
            // RFC 1191, 6.3; RFC 8201, 4: below the version's smallest MTU it is a mistake or an attack (RFC 5927, 7.2).
            let smallest = if tuple.remote.0.is_ipv4() { MTU_MIN } else { MTU_MIN_V6 };
            if mtu >= smallest {
                network.counters.tcp_path_mtu_lowered += 1;
                self.lower_mtu(id, usize::from(mtu));
                network.path_is_narrow(tuple.remote.0, mtu);
            }
            return;
        }
        let quotes_our_syn = connection.send_highest().is_some_and(|highest| seq.wrapping_add(1) == highest);
        if in_flight || quotes_our_syn {
            flow.error = Some((error, offender));
        }
        if error.is_hard() && connection.state() == State::SynSent && quotes_our_syn {
            flow.kill(Outcome::Unreachable);
            self.settle(id, network);
        }
    }

    fn lower_mtu(&mut self, id: u64, mtu: usize) {
        if let Some(connection) = self.flows.get_mut(id).and_then(|flow| flow.connection.as_mut()) {
            connection.lower_mtu(mtu);
        }
        self.mark_dirty(id);
    }
}
