//! ICMP for IPv4 (RFC 792): echo both ways, and the errors that concern our sockets.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use serde::Serialize;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr};

use crate::bucket::Bucket;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{PingId, Ready};
use crate::ipv4;
use crate::network::{Network, Sent};
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;
use crate::timers::{Armed, Timer};

/// Bytes of an echo header and of an error's header.
pub(crate) const HEADER_LEN: usize = 8;
/// Errors per second and at once: Linux's `icmp_msgs_per_sec` and `icmp_msgs_burst`.
const ERRORS_PER_SECOND: u32 = 1000;
const ERRORS_BURST: u32 = 50;
/// Echo replies per second: a whole link's worth of pings must not crowd out everything else.
const ECHO_PER_SECOND: u32 = 10_000;
const ECHO_BURST: u32 = 1000;
/// Bytes of the offending packet's payload that an error quotes: what RFC 792 asks for, enough for the ports.
const QUOTE_LEN: usize = 8;

/// What the network said about a packet of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum IcmpError {
    /// No route to the network.
    NetworkUnreachable,
    /// The last router has no answer from the host, or we have none from the neighbour.
    HostUnreachable,
    /// The host does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// The packet does not fit a link on the way; the link's MTU if the router told it, else 0.
    FragmentationNeeded {
        /// In bytes.
        mtu: u16,
    },
    /// Somebody forbids it.
    Prohibited,
    /// The hop limit ran out on the way.
    TimeExceeded,
}

impl IcmpError {
    /// Whether a connection that is being opened should give up.
    pub(crate) fn is_hard(self) -> bool {
        !matches!(self, IcmpError::FragmentationNeeded { .. } | IcmpError::TimeExceeded)
    }

    /// A number for interfaces that carry one: the ICMP type in the upper byte, the code in the lower.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            IcmpError::NetworkUnreachable => 0x0300,
            IcmpError::HostUnreachable => 0x0301,
            IcmpError::ProtocolUnreachable => 0x0302,
            IcmpError::PortUnreachable => 0x0303,
            IcmpError::FragmentationNeeded { .. } => 0x0304,
            IcmpError::Prohibited => 0x030d,
            IcmpError::TimeExceeded => 0x0b00,
        }
    }

    fn from_wire(message_type: u8, code: u8, mtu: u16) -> Option<IcmpError> {
        Some(match (message_type, code) {
            (3, 0 | 6 | 8 | 11) => IcmpError::NetworkUnreachable,
            (3, 1 | 5 | 7 | 12) => IcmpError::HostUnreachable,
            (3, 2) => IcmpError::ProtocolUnreachable,
            (3, 3) => IcmpError::PortUnreachable,
            (3, 4) => IcmpError::FragmentationNeeded { mtu },
            (3, 9 | 10 | 13..=15) => IcmpError::Prohibited,
            (11, _) => IcmpError::TimeExceeded,
            _ => return None,
        })
    }
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IcmpError::NetworkUnreachable => "network unreachable",
            IcmpError::HostUnreachable => "host unreachable",
            IcmpError::ProtocolUnreachable => "protocol unreachable",
            IcmpError::PortUnreachable => "port unreachable",
            IcmpError::FragmentationNeeded { mtu } => return write!(f, "packet too big (link MTU {mtu})"),
            IcmpError::Prohibited => "administratively prohibited",
            IcmpError::TimeExceeded => "hop limit exceeded on the way",
        })
    }
}

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

/// The packet of ours that an error is about: the header and first bytes that it quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: IpProtocol,
    /// The first eight bytes behind the IP header: ports and sequence number, or the echo header.
    pub(crate) start: [u8; QUOTE_LEN],
}

impl Quote {
    /// Reads the beginning of an IPv4 packet, which may be cut off.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Quote> {
        if bytes.len() < ipv4::HEADER_LEN {
            return None;
        }
        let packet = Ipv4Packet::new_unchecked(bytes);
        let header_len = usize::from(packet.header_len());
        let start = bytes.get(header_len..header_len + QUOTE_LEN)?;
        if packet.version() != 4 || header_len < ipv4::HEADER_LEN || packet.frag_offset() != 0 {
            return None;
        }
        let mut quote = Quote {
            source: packet.src_addr(),
            destination: packet.dst_addr(),
            protocol: packet.next_header(),
            start: [0; QUOTE_LEN],
        };
        quote.start.copy_from_slice(start);
        Some(quote)
    }

    /// The first two big-endian words: source and destination port of UDP and TCP.
    pub(crate) fn ports(&self) -> (u16, u16) {
        (self.word(0), self.word(2))
    }

    pub(crate) fn word(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.start[offset], self.start[offset + 1]])
    }

    /// TCP's sequence number.
    pub(crate) fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.start[4], self.start[5], self.start[6], self.start[7]])
    }
}

struct Ping {
    to: Ipv4Addr,
    sequence: u16,
    sent: Instant,
    armed: Armed,
    result: Option<Result<PingReply, Error>>,
}

pub(crate) struct Icmp {
    pings: Slab<Ping>,
    by_sequence: KeyedMap<u16, u64>,
    /// Distinguishes our requests from those of whoever had this address before.
    ident: u16,
    next_sequence: u16,
    limit: usize,
    errors: Bucket,
    echoes: Bucket,
}

impl Icmp {
    pub(crate) fn new(limit: usize, network: &mut Network) -> Icmp {
        Icmp {
            pings: Slab::new(limit),
            by_sequence: KeyedMap::with_hasher(network.random.keyed_state()),
            ident: network.random.next_u16(),
            next_sequence: network.random.next_u16(),
            limit,
            errors: Bucket::new(ERRORS_PER_SECOND, ERRORS_BURST),
            echoes: Bucket::new(ECHO_PER_SECOND, ECHO_BURST),
        }
    }

    /// Handles an ICMP packet for us. An error is returned for the socket that it concerns.
    pub(crate) fn handle_packet<E: Egress>(
        &mut self,
        now: Instant,
        packet: &ipv4::Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) -> Option<(Quote, IcmpError)> {
        let icmp = match Icmpv4Packet::new_checked(packet.payload) {
            Ok(icmp) if packet.payload.len() >= HEADER_LEN && icmp.verify_checksum() => icmp,
            _ => {
                network.counters.drop_icmp_malformed += 1;
                return None;
            }
        };
        let body = &packet.payload[HEADER_LEN..];
        match (u8::from(icmp.msg_type()), icmp.msg_code()) {
            (8, 0) => self.answer_echo(now, packet, network, egress),
            (0, 0) => self.handle_reply(now, packet, (icmp.echo_ident(), icmp.echo_seq_no()), body, network),
            (message_type @ (3 | 11), code) => {
                // RFC 1191, 4: the MTU of the next hop is in the last two bytes of the header.
                let mtu = u16::from_be_bytes([packet.payload[6], packet.payload[7]]);
                let error = IcmpError::from_wire(message_type, code, mtu);
                let quote = Quote::parse(body).filter(|quote| Some(quote.source) == network.address());
                if let Some(found) = quote.zip(error) {
                    network.counters.icmp_errors_received += 1;
                    return Some(found);
                }
                network.counters.drop_icmp_malformed += 1;
            }
            _ => network.counters.drop_icmp_unexpected += 1,
        }
        None
    }

    fn answer_echo<E: Egress>(
        &mut self,
        now: Instant,
        packet: &ipv4::Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) {
        // RFC 1122, 3.2.2.6 lets a host ignore echo requests to a broadcast address; answering them amplifies.
        if network.is_broadcast(packet.destination) || packet.payload.len() > network.mtu - ipv4::HEADER_LEN {
            network.counters.drop_icmp_unexpected += 1;
            return;
        }
        if !self.echoes.take(now) {
            network.counters.icmp_rate_limited += 1;
            return;
        }
        let request = packet.payload;
        let to = (packet.source, IpProtocol::Icmp, ipv4::TTL);
        let sent = network.send_ipv4(now, egress, to, request.len(), |reply, _| {
            reply.copy_from_slice(request);
            reply[0] = 0;
            Icmpv4Packet::new_unchecked(reply).fill_checksum();
        });
        if matches!(sent, Sent::Wire | Sent::Queued) {
            network.counters.icmp_echo_answered += 1;
        }
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        packet: &ipv4::Packet<'_>,
        (ident, sequence): (u16, u16),
        body: &[u8],
        network: &mut Network,
    ) {
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
            from: packet.source.into(),
        }));
        self.by_sequence.remove(&sequence);
        network.events.push(Ready::Ping(PingId(id)));
    }

    /// An error came back for one of our echo requests.
    pub(crate) fn handle_unreachable(&mut self, quote: &Quote, error: IcmpError, network: &mut Network) {
        if quote.start[0] != 8 || quote.word(4) != self.ident {
            return;
        }
        let Some(id) = self.by_sequence.get(&quote.word(6)).copied() else { return };
        if self.pings.get(id).is_some_and(|ping| ping.to == quote.destination) {
            let reason = Error::HostUnreachable { to: quote.destination.into(), reason: error };
            self.conclude(id, Err(reason), network);
        }
    }

    fn conclude(&mut self, id: u64, result: Result<PingReply, Error>, network: &mut Network) {
        let Some(ping) = self.pings.get_mut(id).filter(|ping| ping.result.is_none()) else { return };
        ping.result = Some(result);
        self.by_sequence.remove(&ping.sequence);
        network.events.push(Ready::Ping(PingId(id)));
    }

    /// Sends an echo request; the result can be fetched within `timeout`.
    pub(crate) fn ping<E: Egress>(
        &mut self,
        now: Instant,
        to: Ipv4Addr,
        payload_len: usize,
        timeout: Duration,
        network: &mut Network,
        egress: &mut E,
    ) -> Result<PingId, Error> {
        let max = network.mtu - ipv4::HEADER_LEN - HEADER_LEN;
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
        let ping = Ping { to, sequence, sent: now, armed: Armed::default(), result: None };
        let limit = self.limit;
        let id =
            self.pings.insert_with(|_| ping).ok_or(Error::QuotaExceeded { what: "echo requests", limit })?;
        let sent =
            network.send_ipv4(now, egress, (to, IpProtocol::Icmp, ipv4::TTL), HEADER_LEN + payload_len, {
                let ident = self.ident;
                move |buffer, _| emit_echo(buffer, ident, sequence)
            });
        if sent == Sent::NoRoute {
            self.pings.remove(id);
            return Err(Error::Unreachable { to: (to, 0).into() });
        }
        self.next_sequence = sequence.wrapping_add(1);
        self.by_sequence.insert(sequence, id);
        if let Some(ping) = self.pings.get_mut(id) {
            network.timers.arm(&mut ping.armed, Timer::Ping(id), now + timeout);
        }
        Ok(PingId(id))
    }

    pub(crate) fn timer_expired(&mut self, id: u64, deadline: Instant, network: &mut Network) {
        if self.pings.get_mut(id).is_some_and(|ping| ping.armed.fires(deadline)) {
            self.conclude(id, Err(Error::TimedOut), network);
        }
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

    /// Tells the sender of `packet` why nobody took it, unless RFC 1122, 3.2.2 forbids it.
    pub(crate) fn send_unreachable<E: Egress>(
        &mut self,
        now: Instant,
        packet: &ipv4::Packet<'_>,
        reason: Icmpv4DstUnreachable,
        network: &mut Network,
        egress: &mut E,
    ) {
        if network.is_broadcast(packet.destination) || packet.payload.len() < QUOTE_LEN {
            return;
        }
        if !self.errors.take(now) {
            network.counters.icmp_rate_limited += 1;
            return;
        }
        let repr = Icmpv4Repr::DstUnreachable {
            reason,
            header: Ipv4Repr {
                src_addr: packet.source,
                dst_addr: packet.destination,
                next_header: packet.protocol,
                payload_len: packet.payload.len(),
                hop_limit: packet.ttl,
            },
            data: &packet.payload[..QUOTE_LEN],
        };
        let to = (packet.source, IpProtocol::Icmp, ipv4::TTL);
        network.send_ipv4(now, egress, to, repr.buffer_len(), |buffer, _| {
            repr.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
        });
        network.counters.icmp_errors_sent += 1;
    }
}

fn emit_echo(buffer: &mut [u8], ident: u16, sequence: u16) {
    for (index, byte) in buffer[HEADER_LEN..].iter_mut().enumerate() {
        *byte = index as u8;
    }
    let mut packet = Icmpv4Packet::new_unchecked(buffer);
    packet.set_msg_type(smoltcp::wire::Icmpv4Message::EchoRequest);
    packet.set_msg_code(0);
    packet.set_echo_ident(ident);
    packet.set_echo_seq_no(sequence);
    packet.fill_checksum();
}
