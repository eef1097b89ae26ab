//! The record that a listener's descriptor delivers for each accepted connection: 48 bytes, with the stream's descriptor.
//!
//! The listener's descriptor is one end of a SOCK_SEQPACKET socketpair. One message is one record and carries exactly
//! one descriptor (SCM_RIGHTS): a stream as `Connect` returns it. Numbers are in the machine's own byte order.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | id u64 | of the stream, for `Outcome` |
//! | 8 | family u8 | 4 or 6 |
//! | 9 | padding, 3 bytes | 0 |
//! | 12 | remote port u16 | |
//! | 14 | local port u16 | |
//! | 16 | remote address | an IPv4 address takes the first 4 bytes, the rest is 0 |
//! | 32 | local address | of the same family |

use std::net::{IpAddr, SocketAddr};

use crate::datagram::decode_address;

/// Length of the record.
pub const RECORD_BYTES: usize = 48;

/// An accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Id of the stream.
    pub id: u64,
    /// Who connected.
    pub remote: SocketAddr,
    /// To which address and port of ours.
    pub local: SocketAddr,
}

/// A message that is not such a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Another length.
    #[error("an accepted-stream record of {0} bytes: it has {RECORD_BYTES}")]
    Length(usize),
    /// Unknown address family.
    #[error("an accepted-stream record of family {0}: known are 4 and 6")]
    Family(u8),
}

impl Accepted {
    /// The record as bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0..8].copy_from_slice(&self.id.to_ne_bytes());
        out[8] = if self.remote.is_ipv4() { 4 } else { 6 };
        for (at, address) in [(16, self.remote.ip()), (32, self.local.ip())] {
            match address {
                IpAddr::V4(v4) => out[at..at + 4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out[at..at + 16].copy_from_slice(&v6.octets()),
            }
        }
        out[12..14].copy_from_slice(&self.remote.port().to_ne_bytes());
        out[14..16].copy_from_slice(&self.local.port().to_ne_bytes());
        out
    }

    /// Takes a record apart.
    ///
    /// # Errors
    /// Another length, or an unknown family.
    pub fn decode(message: &[u8]) -> Result<Accepted, BadRecord> {
        let record: &[u8; RECORD_BYTES] = message.try_into().map_err(|_| BadRecord::Length(message.len()))?;
        let [i0, i1, i2, i3, i4, i5, i6, i7, family, _, _, _, r0, r1, l0, l1, addresses @ ..] = *record;
        let ([remote, local], _) = addresses.as_chunks::<16>() else {
            return Err(BadRecord::Length(message.len()));
        };
        let ip = |address: &[u8; 16]| decode_address(family, *address).ok_or(BadRecord::Family(family));
        Ok(Accepted {
            id: u64::from_ne_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            remote: SocketAddr::new(ip(remote)?, u16::from_ne_bytes([r0, r1])),
            local: SocketAddr::new(ip(local)?, u16::from_ne_bytes([l0, l1])),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decode_of_wrong_records_is_refused_by_name() {
        let good = Accepted {
            id: 1,
            remote: "192.0.2.1:9".parse().unwrap(),
            local: "192.0.2.2:80".parse().unwrap(),
        }
        .encode();
        assert_eq!(Accepted::decode(&good[..31]), Err(BadRecord::Length(31)));
        let mut bytes = good;
        bytes[8] = 0;
        assert_eq!(Accepted::decode(&bytes), Err(BadRecord::Family(0)));
    }

    /// Two addresses of one family.
    fn pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        let v4 = any::<(std::net::Ipv4Addr, std::net::Ipv4Addr)>();
        let v6 = any::<(std::net::Ipv6Addr, std::net::Ipv6Addr)>();
        prop_oneof![
            v4.prop_map(|(one, other)| (one.into(), other.into())),
            v6.prop_map(|(one, other)| (one.into(), other.into()))
        ]
    }

    proptest! {
        #[test]
        fn decode_gives_back_what_encode_took(id: u64, (ip, own) in pair(), port: u16, local_port: u16) {
            let (remote, local) = (SocketAddr::new(ip, port), SocketAddr::new(own, local_port));
            let accepted = Accepted { id, remote, local };
            prop_assert_eq!(Accepted::decode(&accepted.encode()), Ok(accepted));
        }
    }
}
