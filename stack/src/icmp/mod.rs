//! ICMP for both versions of IP (RFC 792, RFC 4443): echo both ways, and the errors that concern our sockets.

mod echo;
mod quote;

use core::fmt;
use core::net::IpAddr;

use netd_time::Bucket;
use serde::Serialize;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpProtocol};

pub use self::echo::PingReply;
use self::echo::Pings;
pub(crate) use self::quote::Quote;
use crate::egress::Egress;
use crate::ip::{self, Header, Packet};
use crate::network::{Network, Sent};
use crate::time::Instant;

/// Bytes of an echo header and of an error's header.
pub(crate) const HEADER_LEN: usize = 8;
/// Errors per second and at once: Linux's `icmp_msgs_per_sec` and `icmp_msgs_burst`.
const ERRORS_PER_SECOND: u32 = 1000;
const ERRORS_BURST: u32 = 50;
/// Echo replies per second: a whole link's worth of pings must not crowd out everything else.
const ECHO_PER_SECOND: u32 = 10_000;
const ECHO_BURST: u32 = 1000;
/// Bytes of the offending packet's payload that an IPv4 error quotes: what RFC 792 asks for, enough for the ports.
const QUOTE_LEN: usize = 8;
/// The largest IPv6 error (RFC 4443, 2.4 c): as much of the offending packet as fits the smallest MTU.
const ERROR_V6_MAX: usize = 1280 - ip::IPV6_HEADER_LEN;

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
    /// Not all fragments arrived in time.
    ReassemblyTimeExceeded,
}

impl IcmpError {
    /// Whether a connection that is being opened should give up.
    pub(crate) fn is_hard(self) -> bool {
        !matches!(
            self,
            IcmpError::FragmentationNeeded { .. }
                | IcmpError::TimeExceeded
                | IcmpError::ReassemblyTimeExceeded
        )
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
            IcmpError::ReassemblyTimeExceeded => 0x0b01,
        }
    }

    /// Of an IPv4 message (RFC 792, RFC 1812, 5.2.7.1).
    fn from_v4(message_type: u8, code: u8, mtu: u16) -> Option<IcmpError> {
        Some(match (message_type, code) {
            (3, 0 | 6 | 8 | 11) => IcmpError::NetworkUnreachable,
            (3, 1 | 5 | 7 | 12) => IcmpError::HostUnreachable,
            (3, 2) => IcmpError::ProtocolUnreachable,
            (3, 3) => IcmpError::PortUnreachable,
            (3, 4) => IcmpError::FragmentationNeeded { mtu },
            (3, 9 | 10 | 13..=15) => IcmpError::Prohibited,
            (11, 0) => IcmpError::TimeExceeded,
            (11, _) => IcmpError::ReassemblyTimeExceeded,
            _ => return None,
        })
    }

    /// Of an IPv6 message (RFC 4443, 3), in the words of IPv4's.
    fn from_v6(message_type: u8, code: u8, mtu: u32) -> Option<IcmpError> {
        Some(match (message_type, code) {
            (1, 0 | 2) => IcmpError::NetworkUnreachable,
            (1, 3) => IcmpError::HostUnreachable,
            (1, 4) => IcmpError::PortUnreachable,
            (1, 1 | 5 | 6) => IcmpError::Prohibited,
            (2, _) => IcmpError::FragmentationNeeded { mtu: u16::try_from(mtu).unwrap_or(u16::MAX) },
            (3, 0) => IcmpError::TimeExceeded,
            (3, _) => IcmpError::ReassemblyTimeExceeded,
            (4, 1) => IcmpError::ProtocolUnreachable,
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
            IcmpError::ReassemblyTimeExceeded => "fragments lost on the way",
        })
    }
}

/// Why a packet that we received is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    ClosedPort,
    UnknownProtocol,
    /// Its other fragments did not arrive.
    ReassemblyTime,
}

impl Refusal {
    /// Type, code, and the second word of the header. `protocol_at` is where an IPv6 packet names its protocol.
    fn to_wire(self, v4: bool, protocol_at: u32) -> (u8, u8, u32) {
        match (self, v4) {
            (Refusal::ClosedPort, true) => (3, 3, 0),
            (Refusal::UnknownProtocol, true) => (3, 2, 0),
            (Refusal::ReassemblyTime, true) => (11, 1, 0),
            (Refusal::ClosedPort, false) => (1, 4, 0),
            (Refusal::UnknownProtocol, false) => (4, 1, protocol_at),
            (Refusal::ReassemblyTime, false) => (3, 1, 0),
        }
    }
}

/// An error that came back for a packet of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) quote: Quote,
    pub(crate) error: IcmpError,
    /// Who says so.
    pub(crate) offender: IpAddr,
}

pub(crate) struct Icmp {
    pub(crate) pings: Pings,
    errors: Bucket,
    echoes: Bucket,
}

impl Icmp {
    pub(crate) fn new(limit: usize, network: &mut Network) -> Icmp {
        Icmp {
            pings: Pings::new(limit, network),
            errors: Bucket::new(ERRORS_PER_SECOND, ERRORS_BURST),
            echoes: Bucket::new(ECHO_PER_SECOND, ECHO_BURST),
        }
    }

    /// Handles an ICMP packet for us. An error is returned for the socket that it concerns.
    pub(crate) fn handle_v4<E: Egress>(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) -> Option<Report> {
        let icmp = match Icmpv4Packet::new_checked(packet.payload) {
            Ok(icmp) if packet.payload.len() >= HEADER_LEN && icmp.verify_checksum() => icmp,
            _ => {
                network.counters.drop_icmp_malformed += 1;
                return None;
            }
        };
        match (u8::from(icmp.msg_type()), icmp.msg_code()) {
            (8, 0) => self.answer_echo(now, packet, network, egress),
            (0, 0) => self.pings.handle_reply(now, packet, network),
            (message_type @ (3 | 11), code) => {
                // RFC 1191, 4: the MTU of the next hop is in the last two bytes of the header.
                let mtu = u16::from_be_bytes([packet.payload[6], packet.payload[7]]);
                return report(packet, IcmpError::from_v4(message_type, code, mtu), network);
            }
            _ => network.counters.drop_icmp_unexpected += 1,
        }
        None
    }

    /// Handles an ICMPv6 packet for us whose checksum is right and which is not neighbour discovery's or multicast's.
    pub(crate) fn handle_v6<E: Egress>(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) -> Option<Report> {
        let [message_type, code, _, _, word @ ..] = packet.payload else { return None };
        let Some(word) = word.first_chunk::<4>() else {
            network.counters.drop_icmp_malformed += 1;
            return None;
        };
        match (*message_type, *code) {
            (128, 0) => self.answer_echo(now, packet, network, egress),
            (129, 0) => self.pings.handle_reply(now, packet, network),
            (1..=4, code) => {
                let error = IcmpError::from_v6(*message_type, code, u32::from_be_bytes(*word));
                return report(packet, error, network);
            }
            _ => network.counters.drop_icmp_unexpected += 1,
        }
        None
    }

    fn answer_echo<E: Egress>(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        network: &mut Network,
        egress: &mut E,
    ) {
        // RFC 1122, 3.2.2.6 lets a host ignore echo requests to many; answering them amplifies.
        if packet.to_many || network.is_broadcast(packet.destination) {
            network.counters.drop_icmp_unexpected += 1;
            return;
        }
        if !self.echoes.take(now) {
            network.counters.icmp_rate_limited += 1;
            return;
        }
        let request = packet.payload;
        let header = Header::new(packet.destination, packet.source, packet.protocol);
        let sent = network.send_ip(now, egress, header, request.len(), |reply| {
            reply.copy_from_slice(request);
            reply[0] = if packet.source.is_ipv4() { 0 } else { 129 };
            fill_checksum(reply, &header);
        });
        if matches!(sent, Sent::Wire | Sent::Queued) {
            network.counters.icmp_echo_answered += 1;
        }
    }

    /// Tells the sender of `packet` why nobody took it, unless RFC 1122, 3.2.2 or RFC 4443, 2.4 forbids it.
    pub(crate) fn refuse<E: Egress>(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        refusal: Refusal,
        network: &mut Network,
        egress: &mut E,
    ) {
        let many = packet.to_many || network.is_broadcast(packet.destination);
        if many || is_error(packet) || (packet.source.is_ipv4() && packet.payload.len() < QUOTE_LEN) {
            return;
        }
        if !self.errors.take(now) {
            network.counters.icmp_rate_limited += 1;
            return;
        }
        let v4 = packet.source.is_ipv4();
        let header_len = packet.whole.len() - packet.payload.len();
        let quoted =
            if v4 { header_len + QUOTE_LEN } else { packet.whole.len().min(ERROR_V6_MAX - HEADER_LEN) };
        let (message_type, code, word) = refusal.to_wire(v4, packet.protocol_at as u32);
        let protocol = if v4 { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
        let header = Header::new(packet.destination, packet.source, protocol);
        network.send_ip(now, egress, header, HEADER_LEN + quoted, |buffer| {
            buffer[0] = message_type;
            buffer[1] = code;
            buffer[4..8].copy_from_slice(&word.to_be_bytes());
            buffer[HEADER_LEN..].copy_from_slice(&packet.whole[..quoted]);
            fill_checksum(buffer, &header);
        });
        network.counters.icmp_errors_sent += 1;
    }
}

/// Whether a packet is an ICMP error itself, or a redirect: nothing may be said about those, also not that pieces of them are
/// missing (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)).
fn is_error(packet: &Packet<'_>) -> bool {
    match (packet.protocol, packet.payload.first()) {
        (IpProtocol::Icmp, Some(message_type)) => matches!(message_type, 3..=5 | 11 | 12),
        (IpProtocol::Icmpv6, Some(message_type)) => matches!(message_type, ..128 | 137),
        _ => false,
    }
}

/// Reads what an error message is about; only what quotes a packet of ours counts.
fn report(packet: &Packet<'_>, error: Option<IcmpError>, network: &mut Network) -> Option<Report> {
    let quote = Quote::parse(&packet.payload[HEADER_LEN..]).filter(|quote| network.is_own(quote.source));
    let Some((quote, error)) = quote.zip(error) else {
        network.counters.drop_icmp_malformed += 1;
        return None;
    };
    network.counters.icmp_errors_received += 1;
    Some(Report { quote, error, offender: packet.source })
}

/// Writes the checksum of a message whose IP header is `header`.
pub(crate) fn fill_checksum(message: &mut [u8], header: &Header) {
    match (header.source, header.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Icmpv6Packet::new_unchecked(message).fill_checksum(&source, &destination);
        }
        _ => Icmpv4Packet::new_unchecked(message).fill_checksum(),
    }
}

/// Whether the checksum of an ICMPv6 message is right.
pub(crate) fn verify_v6(packet: &Packet<'_>) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return false;
    };
    Icmpv6Packet::new_checked(packet.payload)
        .is_ok_and(|message| packet.payload.len() >= 4 && message.verify_checksum(&source, &destination))
}
