//! What both versions of IP have in common for the protocols above: a packet that passed every check, and the header of one that
//! goes out.

use core::net::IpAddr;
use std::borrow::Cow;

use smoltcp::wire::{IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr};

use crate::egress::Integrity;
use crate::fragment::Fragment;
use crate::ipv4;

/// Bytes of an IPv6 header.
pub(crate) const IPV6_HEADER_LEN: usize = 40;
/// The hop limit of what is sent unless told otherwise (RFC 1700, and what every other host uses).
pub(crate) const TTL: u8 = 64;

/// A packet that passed every check; all slices lie within what was received.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// What the payload is, behind all extension headers.
    pub(crate) protocol: IpProtocol,
    pub(crate) ttl: u8,
    pub(crate) ecn: u8,
    /// Header and payload, without the padding of a short Ethernet frame.
    pub(crate) whole: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// Where in `whole` the protocol is named.
    pub(crate) protocol_at: usize,
    /// Whether the destination is a group or everybody.
    pub(crate) to_many: bool,
    /// Its transport checksum was verified already, or never had to be computed.
    pub(crate) verified: bool,
}

/// What arrived: a packet, or a piece of one.
pub(crate) enum Parsed<'a> {
    Whole(Packet<'a>),
    Fragment(Fragment<'a>),
}

impl Parsed<'_> {
    /// With what the device says about its checksum. Nothing is believed of a fragment, which has none of its own.
    pub(crate) fn believing(mut self, integrity: Integrity) -> Self {
        if let Parsed::Whole(packet) = &mut self {
            packet.verified = integrity.covers(packet);
        }
        self
    }

    /// Source, destination and protocol.
    pub(crate) fn ends(&self) -> (IpAddr, IpAddr, IpProtocol) {
        match self {
            Parsed::Whole(packet) => (packet.source, packet.destination, packet.protocol),
            Parsed::Fragment(Fragment { key, .. }) => (key.source, key.destination, key.protocol.into()),
        }
    }
}

impl<'a> Packet<'a> {
    /// The packet without IPv6 extension headers, which the TCP engine does not read.
    pub(crate) fn plain(&self) -> Cow<'a, [u8]> {
        let IpAddr::V6(_) = self.source else { return Cow::Borrowed(self.whole) };
        if self.whole.len() == IPV6_HEADER_LEN + self.payload.len() {
            return Cow::Borrowed(self.whole);
        }
        let mut plain = vec![0; IPV6_HEADER_LEN];
        plain.extend_from_slice(self.payload);
        emit_header(&mut plain, &Header::new(self.source, self.destination, self.protocol));
        Cow::Owned(plain)
    }
}

/// What the header of a packet to be sent says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) ttl: u8,
    pub(crate) ecn: u8,
}

impl Header {
    /// With the usual hop limit, and not ECN-capable.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, protocol: IpProtocol) -> Header {
        Header { source, destination, protocol, ttl: TTL, ecn: 0 }
    }
}

/// Bytes of the header that is sent to `address`: never with options.
pub(crate) fn header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => ipv4::HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    }
}

/// Bytes of the header of a packet that we wrote ourselves.
pub(crate) fn own_header_len(packet: &[u8]) -> usize {
    if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6_HEADER_LEN } else { ipv4::HEADER_LEN }
}

/// Writes the header of a packet whose payload begins at [`header_len`] and fills the rest of `buffer`.
pub(crate) fn emit_header(buffer: &mut [u8], header: &Header) {
    match (header.source, header.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let repr = Ipv6Repr {
                src_addr: source,
                dst_addr: destination,
                next_header: header.protocol,
                payload_len: buffer.len().saturating_sub(IPV6_HEADER_LEN),
                hop_limit: header.ttl,
            };
            let mut packet = Ipv6Packet::new_unchecked(buffer);
            repr.emit(&mut packet);
            packet.set_traffic_class(header.ecn & 3);
        }
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4::emit_header(buffer, source, destination, header.protocol, header.ttl);
            if header.ecn != 0 {
                let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(buffer);
                packet.set_ecn(header.ecn & 3);
                packet.fill_checksum();
            }
        }
        // Source selection never mixes families.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}

/// As smoltcp writes an address.
pub(crate) fn wire(address: IpAddr) -> IpAddress {
    match address {
        IpAddr::V4(address) => IpAddress::Ipv4(address),
        IpAddr::V6(address) => IpAddress::Ipv6(address),
    }
}

/// Whether a host can have this address and be spoken to under it.
pub(crate) fn is_usable_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => ipv4::is_usable_host(address),
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}
