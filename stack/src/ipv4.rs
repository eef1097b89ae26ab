//! IPv4: addresses with prefixes, the checks on what comes in, and the header of what goes out.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use serde::{Serialize, Serializer};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr};

use crate::counters::Counters;
use crate::error::Error;
use crate::fragment::{Fragment, Key};
use crate::ip::{Packet, Parsed};

/// Bytes of a header without options, the only kind that is sent.
pub(crate) const HEADER_LEN: usize = 20;

/// An address and the length of its on-link prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix_len: u8,
}

impl Cidr {
    /// `address`/`prefix_len`; at most 32.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Result<Cidr, Error> {
        if prefix_len > 32 {
            return Err(Error::InvalidPrefix { prefix_len });
        }
        Ok(Cidr { address, prefix_len })
    }

    /// `address`/32.
    #[must_use]
    pub const fn host(address: Ipv4Addr) -> Cidr {
        Cidr { address, prefix_len: 32 }
    }

    /// The address, host bits included.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Bits of the prefix.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0)
    }

    /// Whether `other` lies in the prefix.
    #[must_use]
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ other.to_bits()) & self.mask() == 0
    }

    /// The prefix's broadcast address; /31 (RFC 3021) and /32 have none.
    #[must_use]
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.prefix_len < 31).then(|| Ipv4Addr::from_bits(self.address.to_bits() | !self.mask()))
    }

    /// The prefix with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Cidr {
        Cidr {
            address: Ipv4Addr::from_bits(self.address.to_bits() & self.mask()),
            prefix_len: self.prefix_len,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cidr, Error> {
        let invalid = Error::InvalidInput { what: "an IPv4 address with prefix looks like 10.0.0.2/24" };
        let (address, prefix_len) = text.split_once('/').ok_or_else(|| invalid.clone())?;
        Cidr::new(address.parse().map_err(|_| invalid.clone())?, prefix_len.parse().map_err(|_| invalid)?)
    }
}

/// Whether a host can have this address: not unspecified, loopback, multicast, reserved or broadcast.
pub(crate) fn is_usable_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// Checks everything about a packet that does not depend on our address (RFC 1122, 3.2.1).
pub(crate) fn parse<'a>(bytes: &'a [u8], counters: &mut Counters) -> Option<Parsed<'a>> {
    let Ok(packet) = Ipv4Packet::new_checked(bytes) else {
        counters.drop_ip_malformed += 1;
        return None;
    };
    let (header_len, total_len) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
    if packet.version() != 4 || header_len < HEADER_LEN || total_len < header_len || total_len > bytes.len() {
        counters.drop_ip_malformed += 1;
        return None;
    }
    if !packet.verify_checksum() {
        counters.drop_ip_checksum += 1;
        return None;
    }
    // RFC 1122, 3.2.1.3: none of these may be the source of a packet from the wire. The unspecified address is one of them: only
    // a DHCP client uses it, and we are not a server.
    if !is_usable_host(packet.src_addr()) {
        counters.drop_ip_source += 1;
        return None;
    }
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let (whole, payload) = (&bytes[..total_len], &bytes[header_len..total_len]);
    let (ttl, ecn, protocol) = (packet.hop_limit(), packet.ecn(), packet.next_header());
    if packet.more_frags() || packet.frag_offset() != 0 {
        let key = Key { source, destination, id: packet.ident().into(), protocol: protocol.into() };
        let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
        return Some(Parsed::Fragment(Fragment { key, offset, more, ttl, ecn, whole, payload }));
    }
    Some(Parsed::Whole(Packet {
        source,
        destination,
        protocol,
        ttl,
        ecn,
        whole,
        payload,
        protocol_at: 9,
        to_many: packet.dst_addr().is_multicast() || packet.dst_addr().is_broadcast(),
        verified: false,
    }))
}

/// Writes the header of a packet whose payload begins at [`HEADER_LEN`] and fills the rest of `buffer`.
pub(crate) fn emit_header(
    buffer: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpProtocol,
    ttl: u8,
) {
    let repr = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: buffer.len().saturating_sub(HEADER_LEN),
        hop_limit: ttl,
    };
    repr.emit(&mut Ipv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        emit_header(&mut bytes, source, destination, IpProtocol::Udp, 64);
        bytes
    }

    #[test]
    fn packet_valid_is_accepted_without_padding() {
        let mut bytes = sample();
        bytes.extend([0xee; 6]);
        let mut counters = Counters::default();
        let Some(Parsed::Whole(packet)) = parse(&bytes, &mut counters) else { panic!("not a packet") };
        assert_eq!((packet.whole.len(), packet.payload.len()), (40, 20));
        assert_eq!(counters, Counters::default());
    }

    #[test]
    fn packet_broken_is_dropped_by_reason() {
        let mut counters = Counters::default();
        let mut flipped = sample();
        flipped[8] ^= 1;
        assert!(parse(&flipped, &mut counters).is_none());
        assert_eq!(counters.drop_ip_checksum, 1);
        assert!(parse(&sample()[..30], &mut counters).is_none());
        assert_eq!(counters.drop_ip_malformed, 1);
        let mut loopback = sample();
        let source = Ipv4Addr::LOCALHOST;
        emit_header(&mut loopback, source, Ipv4Addr::new(10, 0, 0, 2), IpProtocol::Udp, 64);
        assert!(parse(&loopback, &mut counters).is_none());
        assert_eq!(counters.drop_ip_source, 1);
    }

    #[test]
    fn cidr_prefix_edges() {
        let cidr: Cidr = "10.1.2.3/24".parse().unwrap();
        assert!(cidr.contains(Ipv4Addr::new(10, 1, 2, 255)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 1, 3, 0)));
        assert_eq!(cidr.broadcast(), Some(Ipv4Addr::new(10, 1, 2, 255)));
        let any: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(any.contains(Ipv4Addr::BROADCAST));
        let host: Cidr = "10.0.0.1/32".parse().unwrap();
        assert_eq!(host.broadcast(), None);
        assert!(!host.contains(Ipv4Addr::new(10, 0, 0, 2)));
        assert!("10.0.0.1/33".parse::<Cidr>().is_err());
    }
}
