//! The packet of ours that an error message is about.

use core::net::IpAddr;

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::ip::IPV6_HEADER_LEN;
use crate::ipv4;

/// Bytes behind the IP header that are looked at.
const START_LEN: usize = 8;

/// The header and first bytes of a packet of ours, as an error message quotes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: IpProtocol,
    /// The first eight bytes behind the IP header: ports and sequence number, or the echo header.
    pub(crate) start: [u8; START_LEN],
}

impl Quote {
    /// Reads the beginning of an IP packet, which may be cut off.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Quote> {
        match bytes.first()? >> 4 {
            4 => Quote::parse_v4(bytes),
            6 => Quote::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &[u8]) -> Option<Quote> {
        if bytes.len() < ipv4::HEADER_LEN {
            return None;
        }
        let packet = Ipv4Packet::new_unchecked(bytes);
        let header_len = usize::from(packet.header_len());
        let start = bytes.get(header_len..)?.first_chunk()?;
        if header_len < ipv4::HEADER_LEN || packet.frag_offset() != 0 {
            return None;
        }
        Some(Quote {
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
            protocol: packet.next_header(),
            start: *start,
        })
    }

    fn parse_v6(bytes: &[u8]) -> Option<Quote> {
        if bytes.len() < IPV6_HEADER_LEN {
            return None;
        }
        let packet = Ipv6Packet::new_unchecked(bytes);
        let (mut protocol, mut behind) = (packet.next_header(), &bytes[IPV6_HEADER_LEN..]);
        // The only extension header that we send; eight bytes, and only the first fragment names the socket.
        if protocol == IpProtocol::Ipv6Frag {
            let (fragment, rest) = behind.split_first_chunk::<8>()?;
            if u16::from_be_bytes([fragment[2], fragment[3]]) >> 3 != 0 {
                return None;
            }
            (protocol, behind) = (IpProtocol::from(fragment[0]), rest);
        }
        Some(Quote {
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
            protocol,
            start: *behind.first_chunk()?,
        })
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
