//! One-shot multicast DNS queries (RFC 6762, 5.1): a question to the link, and what several hosts answer within a time.
//!
//! The query leaves from a port other than 5353, which by itself asks for answers by unicast in the form of plain DNS (RFC
//! 6762, 6.7): with our id, with the question, without the bits that only full implementations know. There is no mixed
//! case and no server; whoever is on the link may answer, and the driver lets nobody else (RFC 6762, 11).
//!
//! ```text
//!   query --1 s--> query again --2 s--> nobody has that name
//!     |  an answer          |
//!     +--> gather 250 ms <--+ --> all answers together
//! ```

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use super::finding::{FAILURE_SECONDS, Finding, Outcome, Question, conclude};
use super::shared::Shared;
use super::statistics::Reason;
use super::types::{Mdns, SocketKey, Transmit};
use super::wire::{self, Envelope, Record};
use crate::time::Instant;

/// Where multicast DNS lives (RFC 6762, 3).
pub const MDNS_PORT: u16 = 5353;
/// Its IPv4 group.
pub const MDNS_GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// Its IPv6 group on the link.
pub const MDNS_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Waits after each transmission (RFC 6762, 5.2: a second at least, then twice as long). A name that nobody has costs the sum.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// How long others may answer after the first: responders with shared records wait up to 120 ms (RFC 6762, 6), packets are
/// late by as much on a busy radio link.
const GATHER: Duration = Duration::from_millis(250);
/// Records gathered from all hosts.
const RECORDS_MAX: usize = 256;

pub(super) struct Exchange {
    question: Question,
    /// One socket each; the index is the key's serial.
    sockets: Vec<(SocketKey, SocketAddr)>,
    id: u16,
    transmissions: usize,
    records: Vec<Record>,
    deadline: Instant,
    gathering: bool,
}

impl Exchange {
    /// Sends the question to the groups of `mdns`, of which one at least is on.
    pub(super) fn start(
        now: Instant,
        shared: &mut Shared,
        exchange: u64,
        question: Question,
        mdns: Mdns,
    ) -> Exchange {
        let v4 = mdns.ipv4.then_some(SocketAddr::from((MDNS_GROUP_V4, MDNS_PORT)));
        let v6 = mdns.ipv6.then_some(SocketAddr::from((MDNS_GROUP_V6, MDNS_PORT)));
        let groups = [v4, v6].into_iter().flatten().zip(0..);
        let mut started = Exchange {
            question,
            sockets: groups.map(|(group, serial)| (SocketKey { exchange, serial }, group)).collect(),
            id: shared.random.next_u16(),
            transmissions: 0,
            records: Vec::new(),
            deadline: now,
            gathering: false,
        };
        started.transmit(now, shared);
        started
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn transmit(&mut self, now: Instant, shared: &mut Shared) {
        let payload = wire::query(self.id, &self.question.name, self.question.kind, false, false);
        for &(socket, group) in &self.sockets {
            shared.statistics.multicast_sent += 1;
            shared.transmits.push_back(Transmit::Multicast { socket, group, payload: payload.clone() });
        }
        self.deadline = now + WAITS[self.transmissions];
        self.transmissions += 1;
    }

    pub(super) fn close(&mut self, shared: &mut Shared) {
        for (socket, _) in self.sockets.drain(..) {
            shared.close(socket);
        }
    }

    /// `Some` ends the exchange.
    pub(super) fn expire(&mut self, now: Instant, shared: &mut Shared) -> Option<Finding> {
        if !self.gathering && self.transmissions < WAITS.len() {
            self.transmit(now, shared);
            return None;
        }
        self.close(shared);
        let finding = self.conclude();
        Some(if is_useful(&finding) {
            finding
        } else {
            // Silence is no proof; it is believed as long as a failure is.
            Finding { aliases: Vec::new(), outcome: Outcome::NoSuchName, ttl: FAILURE_SECONDS }
        })
    }

    pub(super) fn handle_udp(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: SocketKey,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        let envelope = match self.screen(key, from, bytes) {
            Ok(envelope) => envelope,
            Err(reason) => {
                *reason(&mut shared.statistics) += 1;
                return;
            }
        };
        // RFC 6762, 18.11: the response code means nothing.
        let Ok(body) = envelope.body() else {
            shared.statistics.drop_malformed += 1;
            return;
        };
        shared.statistics.responses_accepted += 1;
        let room = RECORDS_MAX - self.records.len();
        self.records.extend(body.answers.into_iter().chain(body.additionals).take(room));
        if !self.gathering && is_useful(&self.conclude()) {
            self.gathering = true;
            self.deadline = now + GATHER;
        }
    }

    /// Reads a datagram, unless it answers something else.
    fn screen<'a>(&self, key: SocketKey, from: SocketAddr, bytes: &'a [u8]) -> Result<Envelope<'a>, Reason> {
        let Some((_, group)) = self.sockets.iter().find(|(socket, _)| *socket == key) else {
            return Err(|statistics| &mut statistics.drop_socket);
        };
        // RFC 6762, 6: a response from another port must be ignored in silence.
        if from.port() != MDNS_PORT || from.is_ipv4() != group.is_ipv4() {
            return Err(|statistics| &mut statistics.drop_source);
        }
        let Ok(envelope) = Envelope::read(bytes) else {
            return Err(|statistics| &mut statistics.drop_malformed);
        };
        if !envelope.is_response() {
            return Err(|statistics| &mut statistics.drop_not_response);
        }
        // RFC 6762, 6.7: the id must be repeated, and the question.
        if envelope.id() != self.id {
            return Err(|statistics| &mut statistics.drop_id);
        }
        if envelope.question.as_ref().is_some_and(|(name, _)| *name != self.question.name) {
            return Err(|statistics| &mut statistics.drop_question);
        }
        Ok(envelope)
    }

    fn conclude(&self) -> Finding {
        conclude(&self.question, true, &self.records, None)
    }
}

fn is_useful(finding: &Finding) -> bool {
    matches!(finding.outcome, Outcome::Records(_) | Outcome::Alias)
}
