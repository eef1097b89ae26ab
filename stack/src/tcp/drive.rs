//! When which flow is driven: dirty flows with each poll, and what their timers ask for.

use core::time::Duration;

use super::engine::Fault;
use super::flow::{Outcome, Stage};
use super::segment::Bare;
use super::{FlowSink, Tcp};
use crate::egress::Egress;
use crate::network::Network;
use crate::time::Instant;
use crate::timers::Timer;

/// Packets that one flow sends before the others have their turn: one engine window of full segments is 45.
const DRIVE_BURST: usize = 64;
/// When to look again at a flow that the engine calls due although it has nothing to send. An acknowledgement or its owner will
/// normally wake it long before.
const BLOCKED_RETRY: Duration = Duration::from_millis(200);

impl Tcp {
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
        if flow.outcome.is_none() && (flow.is_given_up(now) || flow.is_keepalive_exhausted(now)) {
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
        let mut sent_any = self.keep_alive(now, id, network, egress);
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

    /// Asks an idle peer whether it is still there: the octet before the next one, without data, which it must acknowledge
    /// (RFC 9293, 3.8.4).
    fn keep_alive<E: Egress>(
        &mut self,
        now: Instant,
        id: u64,
        network: &mut Network,
        egress: &mut E,
    ) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return false };
        if flow.keepalive_due().is_none_or(|due| now < due) || flow.is_keepalive_exhausted(now) {
            return false;
        }
        let sequence = flow.connection.as_ref().and_then(super::engine::Connection::sequence);
        let (Some((seq, ack, window)), true) = (sequence, egress.ready()) else { return false };
        flow.keepalive_sent(now);
        let tuple = flow.tuple;
        network.counters.tcp_keepalives_sent += 1;
        Bare::Keepalive { seq: seq.wrapping_sub(1), ack, window }.send(now, network, egress, &tuple);
        true
    }

    fn arm<E: Egress>(&mut self, now: Instant, id: u64, network: &mut Network, egress: &mut E) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let timer = Timer::Flow(id);
        if let Some(expires) = flow.expires {
            network.timers.arm(&mut flow.armed, timer, expires);
        }
        if let Some(due) = flow.keepalive_due() {
            network.timers.arm(&mut flow.armed, timer, due);
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
    pub(super) fn fault<E: Egress>(
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
}
