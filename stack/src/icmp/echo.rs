//! Echo requests of ours, and their replies.

use core::net::IpAddr;
use core::time::Duration;

use smoltcp::wire::IpProtocol;

use super::{HEADER_LEN, IcmpError, Report, fill_checksum};
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{PingId, Ready};
use crate::ip::{self, Header, Packet};
use crate::network::{Network, Sent};
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;
use crate::timers::{Armed, Timer};

/// An echo reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PingReply {
    /// Between request and reply.
    pub rtt: Duration,
    /// Hop limit left in the reply.
    pub ttl: u8,
    /// Bytes of payload.
    pub bytes: usize,
    /// Who answered.
    pub from: IpAddr,
}

struct Ping {
    to: IpAddr,
    sequence: u16,
    sent: Instant,
    armed: Armed,
    result: Option<Result<PingReply, Error>>,
    /// Who sent the error in `result`, if somebody did.
    offender: Option<IpAddr>,
}

pub(crate) struct Pings {
    pings: Slab<Ping>,
    by_sequence: KeyedMap<u16, u64>,
    /// Distinguishes our requests from those of whoever had this address before.
    ident: u16,
    next_sequence: u16,
    limit: usize,
}

impl Pings {
    /// Requests under way, and those whose result was not fetched.
    pub(crate) fn len(&self) -> usize {
        self.pings.len()
    }

    pub(super) fn new(limit: usize, network: &mut Network) -> Pings {
        Pings {
            pings: Slab::new(limit),
            by_sequence: KeyedMap::with_hasher(network.random.keyed_state()),
            ident: network.random.next_u16(),
            next_sequence: network.random.next_u16(),
            limit,
        }
    }

    /// Sends an echo request; the result can be fetched within `timeout`.
    pub(crate) fn ping<E: Egress>(
        &mut self,
        now: Instant,
        (to, ttl): (IpAddr, Option<u8>),
        (payload_len, timeout): (usize, Duration),
        network: &mut Network,
        egress: &mut E,
    ) -> Result<PingId, Error> {
        let unreachable = Error::Unreachable { to: (to, 0).into() };
        let source = network.source_for(to).ok_or(unreachable.clone())?;
        let max = network.payload_max(to) - HEADER_LEN;
        if payload_len > max {
            return Err(Error::MessageTooLong { len: payload_len, max });
        }
        if !egress.ready() {
            return Err(Error::NoBuffers);
        }
        while self.by_sequence.contains_key(&self.next_sequence) {
            self.next_sequence = self.next_sequence.wrapping_add(1);
        }
        let sequence = self.next_sequence;
        let ping = Ping { to, sequence, sent: now, armed: Armed::default(), result: None, offender: None };
        let limit = self.limit;
        let id =
            self.pings.insert_with(|_| ping).ok_or(Error::QuotaExceeded { what: "echo requests", limit })?;
        let protocol = if to.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        let header = Header { ttl: ttl.unwrap_or(ip::TTL), ..Header::new(source, to, protocol) };
        let ident = self.ident;
        let sent = network.send_ip(now, egress, header, HEADER_LEN + payload_len, |buffer| {
            emit_request(buffer, &header, ident, sequence);
        });
        if sent == Sent::NoRoute {
            self.pings.remove(id);
            return Err(unreachable);
        }
        self.next_sequence = sequence.wrapping_add(1);
        self.by_sequence.insert(sequence, id);
        if let Some(ping) = self.pings.get_mut(id) {
            network.timers.arm(&mut ping.armed, Timer::Ping(id), now + timeout);
        }
        Ok(PingId(id))
    }

    pub(super) fn handle_reply(&mut self, now: Instant, packet: &Packet<'_>, network: &mut Network) {
        let Some((header, body)) = packet.payload.split_first_chunk::<HEADER_LEN>() else {
            network.counters.drop_icmp_malformed += 1;
            return;
        };
        let ident = u16::from_be_bytes([header[4], header[5]]);
        let sequence = u16::from_be_bytes([header[6], header[7]]);
        let id = self.by_sequence.get(&sequence).copied().filter(|_| ident == self.ident);
        let ping = id.and_then(|id| self.pings.get_mut(id)).filter(|ping| ping.to == packet.source);
        let (Some(id), Some(ping)) = (id, ping) else {
            network.counters.drop_icmp_unexpected += 1;
            return;
        };
        ping.result = Some(Ok(PingReply {
            rtt: now.saturating_duration_since(ping.sent),
            ttl: packet.ttl,
            bytes: body.len(),
            from: packet.source,
        }));
        self.by_sequence.remove(&sequence);
        network.events.push(Ready::Ping(PingId(id)));
    }

    /// An error came back for one of our echo requests.
    pub(crate) fn handle_unreachable(&mut self, report: &Report, network: &mut Network) {
        let quote = &report.quote;
        if !matches!(quote.start[0], 8 | 128) || quote.word(4) != self.ident {
            return;
        }
        let Some(id) = self.by_sequence.get(&quote.word(6)).copied() else { return };
        if let Some(ping) = self.pings.get_mut(id).filter(|ping| ping.to == quote.destination) {
            ping.offender = Some(report.offender);
            if let IcmpError::FragmentationNeeded { mtu } = report.error {
                network.path_is_narrow(quote.destination, mtu);
            }
            let reason = Error::HostUnreachable { to: quote.destination, reason: report.error };
            self.conclude(id, Err(reason), network);
        }
    }

    fn conclude(&mut self, id: u64, result: Result<PingReply, Error>, network: &mut Network) {
        let Some(ping) = self.pings.get_mut(id).filter(|ping| ping.result.is_none()) else { return };
        ping.result = Some(result);
        self.by_sequence.remove(&ping.sequence);
        network.events.push(Ready::Ping(PingId(id)));
    }

    pub(crate) fn timer_expired(&mut self, id: u64, deadline: Instant, network: &mut Network) {
        if self.pings.get_mut(id).is_some_and(|ping| ping.armed.fires(deadline)) {
            self.conclude(id, Err(Error::TimedOut), network);
        }
    }

    /// Who reported the error that is about to be fetched.
    pub(crate) fn offender(&self, id: PingId) -> Option<IpAddr> {
        self.pings.get(id.0)?.offender
    }

    /// The result, once; the id is stale from then on.
    pub(crate) fn result(&mut self, id: PingId) -> Option<Result<PingReply, Error>> {
        match self.pings.get_mut(id.0) {
            None => Some(Err(Error::InvalidSocket)),
            Some(ping) => {
                let result = ping.result.take()?;
                self.pings.remove(id.0);
                Some(result)
            }
        }
    }

    /// Forgets an echo request whose result nobody wants any more.
    pub(crate) fn cancel(&mut self, id: PingId) {
        if let Some(ping) = self.pings.remove(id.0) {
            self.by_sequence.remove(&ping.sequence);
        }
    }

    pub(crate) fn fail_all(&mut self, network: &mut Network) {
        let ids: Vec<u64> = self.pings.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.conclude(id, Err(Error::DeviceUnavailable), network);
        }
    }
}

fn emit_request(buffer: &mut [u8], header: &Header, ident: u16, sequence: u16) {
    buffer[0] = if header.destination.is_ipv4() { 8 } else { 128 };
    buffer[1] = 0;
    buffer[4..6].copy_from_slice(&ident.to_be_bytes());
    buffer[6..8].copy_from_slice(&sequence.to_be_bytes());
    for (index, byte) in buffer[HEADER_LEN..].iter_mut().enumerate() {
        *byte = index as u8;
    }
    fill_checksum(buffer, header);
}
