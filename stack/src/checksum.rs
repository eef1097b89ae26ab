//! Checksums of TCP and UDP packets that we wrote: computed here, or left to the device with the sum of their pseudo-header.
//!
//! Whoever writes such a packet leaves the field alone; it is filled where the packet leaves, which is the one place that knows whether
//! the device does it.

use core::num::NonZeroU16;

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use crate::egress::{Integrity, Left};
use crate::ip::{self, Packet};
use crate::network::ETHERNET_HEADER_LEN;

/// Where the checksum is in either header.
const TCP_FIELD: usize = 16;
const UDP_FIELD: usize = 6;
/// Bytes of a TCP header without options.
const TCP_HEADER_LEN: usize = 20;

/// What whoever wrote a packet has not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    Nothing,
    /// The checksum of TCP or UDP.
    Checksum,
    /// The checksum of TCP and, if the packet carries more than `segment_len` octets (less its options), the cutting.
    Segments { segment_len: usize },
}

/// The ends and the protocol of a packet that we wrote: without extension headers, and without IPv4 options.
fn ends(packet: &[u8]) -> (IpAddress, IpAddress, IpProtocol) {
    if ip::own_header_len(packet) == ip::IPV6_HEADER_LEN {
        let header = Ipv6Packet::new_unchecked(packet);
        (header.src_addr().into(), header.dst_addr().into(), header.next_header())
    } else {
        let header = Ipv4Packet::new_unchecked(packet);
        (header.src_addr().into(), header.dst_addr().into(), header.next_header())
    }
}

/// Computes the checksum of a TCP or UDP packet that we wrote.
pub(crate) fn complete(packet: &mut [u8]) {
    let (source, destination, protocol) = ends(packet);
    let at = ip::own_header_len(packet);
    match protocol {
        IpProtocol::Tcp => {
            TcpPacket::new_unchecked(&mut packet[at..]).fill_checksum(&source, &destination);
        }
        IpProtocol::Udp => {
            UdpPacket::new_unchecked(&mut packet[at..]).fill_checksum(&source, &destination);
        }
        _ => {}
    }
}

/// Prepares a TCP or UDP packet that we wrote for a device that completes checksums, and says what is left to it.
pub(crate) fn leave(packet: &mut [u8], rest: Rest) -> Left {
    let (source, destination, protocol) = ends(packet);
    let ip_len = ip::own_header_len(packet);
    let transport = &mut packet[ip_len..];
    let field = match protocol {
        IpProtocol::Tcp => TCP_FIELD,
        IpProtocol::Udp => UDP_FIELD,
        _ => return Left::Nothing,
    };
    let seed = pseudo_header_sum(&source, &destination, protocol, transport.len());
    transport[field..field + 2].copy_from_slice(&seed.to_be_bytes());
    let (start, offset) = ((ETHERNET_HEADER_LEN + ip_len) as u16, field as u16);
    let Rest::Segments { segment_len } = rest else { return Left::Checksum { start, offset } };
    let header_len = usize::from(TcpPacket::new_unchecked(&*transport).header_len());
    // RFC 6691: the MSS counts a header without options, which each piece has.
    let segment_len = segment_len.saturating_sub(header_len.saturating_sub(TCP_HEADER_LEN));
    let whole = transport.len() - header_len <= segment_len;
    match NonZeroU16::new(u16::try_from(segment_len).unwrap_or(u16::MAX)).filter(|_| !whole) {
        None => Left::Checksum { start, offset },
        Some(segment_len) => {
            let header_len = start + header_len as u16;
            Left::Segments { start, offset, header_len, segment_len, v6: ip_len == ip::IPV6_HEADER_LEN }
        }
    }
}

/// RFC 9293, 3.1; RFC 768; RFC 8200, 8.1. Not complemented: the device goes on adding.
fn pseudo_header_sum(source: &IpAddress, destination: &IpAddress, protocol: IpProtocol, len: usize) -> u16 {
    let words = |address: &IpAddress| -> u32 {
        match address {
            IpAddress::Ipv4(address) => (address.to_bits() >> 16) + (address.to_bits() & 0xffff),
            IpAddress::Ipv6(address) => address.segments().into_iter().map(u32::from).sum(),
        }
    };
    // At most 18 words of 16 bits, and a length of 17.
    let mut sum = words(source) + words(destination) + u32::from(u8::from(protocol)) + len as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Integrity {
    /// Whether the transport checksum of a packet need not be verified. A field that a device says is not filled must be this packet's
    /// own: what it names otherwise is verified like everything else, and found wrong if it is.
    pub(crate) fn covers(self, packet: &Packet<'_>) -> bool {
        match self {
            Integrity::Unknown => false,
            Integrity::Verified => true,
            Integrity::Partial { start, offset } => {
                let field = match packet.protocol {
                    IpProtocol::Tcp => TCP_FIELD,
                    IpProtocol::Udp => UDP_FIELD,
                    _ => return false,
                };
                let at = ETHERNET_HEADER_LEN + packet.whole.len() - packet.payload.len();
                (usize::from(start), usize::from(offset)) == (at, field)
            }
        }
    }
}
