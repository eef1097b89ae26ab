//! The header in front of every datagram on the descriptor of a UDP socket: 32 bytes, the same both ways.
//!
//! The descriptor is one end of a SOCK_SEQPACKET socketpair, so one message is one datagram: header, then payload.
//! Numbers are in the machine's own byte order, since the message never leaves it.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | kind u8 | 0 data, 1 error |
//! | 1 | family u8 | 4 or 6 |
//! | 2 | ecn u8 | the two ECN bits of RFC 3168, 5 |
//! | 3 | ttl u8 | received: as it came; sent: 0 leaves it to netd |
//! | 4 | port u16 | of the peer |
//! | 6 | mtu u16 | with error code 3, the largest packet that the path carries, 0 if nobody said; else 0 |
//! | 8 | scope id u32 | of a link-local IPv6 peer, else 0 |
//! | 12 | error code u32 | with kind 1, see [`code`] |
//! | 16 | address | of the peer; an IPv4 address takes the first 4 bytes, the rest is 0 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Length of the header.
pub const HEADER_BYTES: usize = 32;

/// Largest payload of a UDP datagram over IPv4: 65535 less the IP (20) and UDP (8) headers. IPv6 allows 20 more, which
/// nothing uses; see also RFC 768.
pub const PAYLOAD_BYTES_MAX: usize = 65_507;

/// Values of the field "error code".
pub mod code {
    /// ICMP port unreachable: nobody listens there.
    pub const PORT_UNREACHABLE: u32 = 1;
    /// Another ICMP unreachable: network, host or protocol.
    pub const UNREACHABLE: u32 = 2;
    /// Too big for the path.
    pub const TOO_BIG: u32 = 3;
    /// Policy denies datagrams to this peer.
    pub const POLICY_DENIED: u32 = 4;
    /// The devnet switch is off.
    pub const DEVNET_DISABLED: u32 = 5;
    /// The device is gone.
    pub const DEVICE_UNAVAILABLE: u32 = 6;
    /// Nothing answered for the next hop, or there is no address yet.
    pub const NO_ROUTE: u32 = 7;
    /// ICMP time exceeded: the time to live ran out on the way.
    pub const TIME_EXCEEDED: u32 = 8;
    /// ICMP administratively prohibited: a filter on the way refused it (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
    pub const PROHIBITED: u32 = 9;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A datagram follows the header.
    Data,
    /// A datagram to this peer failed, for this reason (see [`code`]).
    Error(u32),
}

/// The header, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Data or error.
    pub kind: Kind,
    /// Where the datagram came from or goes to.
    pub peer: SocketAddr,
    /// The two ECN bits.
    pub ecn: u8,
    /// Time to live; to netd, 0 leaves it to netd.
    pub ttl: u8,
    /// Of an error that says so, the largest packet that the path carries, its IP header included; else 0.
    pub mtu: u16,
}

/// A message that is not a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Shorter than a header.
    #[error("a datagram message of {0} bytes: its header alone has {HEADER_BYTES}")]
    Short(usize),
    /// Unknown kind.
    #[error("a datagram message of kind {0}: known are 0 (data) and 1 (error)")]
    Kind(u8),
    /// Unknown address family.
    #[error("a datagram message of family {0}: known are 4 and 6")]
    Family(u8),
    /// ECN bits above 3.
    #[error("a datagram message with ecn {0}: the field has two bits")]
    Ecn(u8),
    /// An MTU where there can be none.
    #[error("a datagram with an mtu of {0}: only errors have one")]
    Mtu(u16),
}

impl Header {
    /// A header for data.
    pub fn data(peer: SocketAddr) -> Header {
        Header { kind: Kind::Data, peer, ecn: 0, ttl: 0, mtu: 0 }
    }

    /// A header that tells of an error.
    pub fn error(peer: SocketAddr, code: u32) -> Header {
        Header { kind: Kind::Error(code), peer, ecn: 0, ttl: 0, mtu: 0 }
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let (kind, error) = match self.kind {
            Kind::Data => (0, 0),
            Kind::Error(code) => (1, code),
        };
        let (family, scope) = match self.peer {
            SocketAddr::V4(v4) => {
                out[16..20].copy_from_slice(&v4.ip().octets());
                (4, 0)
            }
            SocketAddr::V6(v6) => {
                out[16..32].copy_from_slice(&v6.ip().octets());
                (6, v6.scope_id())
            }
        };
        out[0] = kind;
        out[1] = family;
        out[2] = self.ecn;
        out[3] = self.ttl;
        out[4..6].copy_from_slice(&self.peer.port().to_ne_bytes());
        out[6..8].copy_from_slice(&self.mtu.to_ne_bytes());
        out[8..12].copy_from_slice(&scope.to_ne_bytes());
        out[12..16].copy_from_slice(&error.to_ne_bytes());
        out
    }

    /// Takes a message apart into header and payload.
    ///
    /// # Errors
    /// The message is too short, or a field has a value that is not defined.
    pub fn decode(message: &[u8]) -> Result<(Header, &[u8]), BadHeader> {
        let (header, payload) =
            message.split_first_chunk::<HEADER_BYTES>().ok_or(BadHeader::Short(message.len()))?;
        let [kind, family, ecn, ttl, p0, p1, m0, m1, s0, s1, s2, s3, e0, e1, e2, e3, address @ ..] = *header;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Error(u32::from_ne_bytes([e0, e1, e2, e3])),
            other => return Err(BadHeader::Kind(other)),
        };
        if ecn > 3 {
            return Err(BadHeader::Ecn(ecn));
        }
        let mtu = u16::from_ne_bytes([m0, m1]);
        if kind == Kind::Data && mtu != 0 {
            return Err(BadHeader::Mtu(mtu));
        }
        let port = u16::from_ne_bytes([p0, p1]);
        let peer = match decode_address(family, address).ok_or(BadHeader::Family(family))? {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, u32::from_ne_bytes([s0, s1, s2, s3])).into(),
        };
        Ok((Header { kind, peer, ecn, ttl, mtu }, payload))
    }
}

/// The address of a 16-byte field; none for an unknown family.
pub(crate) fn decode_address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encode_places_every_field_at_its_offset() {
        let peer = "[fe80::1%9]:53".parse().unwrap();
        let bytes = Header { kind: Kind::Error(7), peer, ecn: 2, ttl: 64, mtu: 1300 }.encode();
        assert_eq!(bytes[..4], [1, 6, 2, 64]);
        assert_eq!(bytes[4..6], 53u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 1300u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 9u32.to_ne_bytes());
        assert_eq!(bytes[12..16], 7u32.to_ne_bytes());
        assert_eq!(bytes[16..32], [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn decode_of_undefined_values_is_refused_by_name() {
        let good = Header::data("192.0.2.1:53".parse().unwrap()).encode();
        let with = |offset: usize, value: u8| {
            let mut bytes = good;
            bytes[offset] = value;
            Header::decode(&bytes).unwrap_err()
        };
        assert_eq!(Header::decode(&good[..31]), Err(BadHeader::Short(31)));
        assert_eq!(with(0, 2), BadHeader::Kind(2));
        assert_eq!(with(1, 5), BadHeader::Family(5));
        assert_eq!(with(2, 4), BadHeader::Ecn(4));
        assert!(matches!(with(6, 1), BadHeader::Mtu(_)));
    }

    proptest! {
        #[test]
        fn decode_gives_back_what_encode_took(
            error in prop::option::of(any::<u32>()), ip in any::<IpAddr>(), port: u16, scope: u32,
            ecn in 0u8..4, ttl: u8, mtu: u16, payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let peer = match ip {
                IpAddr::V4(_) => SocketAddr::new(ip, port),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
            };
            let mtu = error.map_or(0, |_| mtu);
            let header = Header { kind: error.map_or(Kind::Data, Kind::Error), peer, ecn, ttl, mtu };
            let message = [&header.encode()[..], &payload].concat();
            prop_assert_eq!(Header::decode(&message), Ok((header, &payload[..])));
        }

        #[test]
        fn decode_of_anything_does_not_panic(message in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Header::decode(&message);
        }
    }
}
