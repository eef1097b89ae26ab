//! The header of the PROXY protocol, version 2: who the peer is, before its first byte.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2.

use std::net::{IpAddr, SocketAddr};

/// "\r\n\r\n\0\r\nQUIT\n": no other protocol begins so.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 in the upper half, the command PROXY in the lower.
const VERSION_AND_COMMAND: u8 = 0x21;
/// AF_INET or AF_INET6 in the upper half, STREAM in the lower.
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Lengths of the addresses: two of each, and two ports.
const IPV4_BYTES: u16 = 12;
const IPV6_BYTES: u16 = 36;

/// The header of a connection from `source` to `destination`.
pub(super) fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(VERSION_AND_COMMAND);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.push(TCP_OVER_IPV4);
            header.extend(IPV4_BYTES.to_be_bytes());
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.push(TCP_OVER_IPV6);
            header.extend(IPV6_BYTES.to_be_bytes());
            header.extend(as_ipv6(from));
            header.extend(as_ipv6(to));
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

fn as_ipv6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_of_each_version_is_as_the_specification_lays_it_out() {
        let four = header("192.0.2.7:40000".parse().unwrap(), "198.51.100.1:22".parse().unwrap());
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x00\x16";
        assert_eq!(four, expected);
        let six = header("[2001:db8::7]:1".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        assert_eq!(six[12..16], [0x21, 0x21, 0x00, 0x24]);
        assert_eq!(six.len(), 16 + 36);
        assert_eq!(six[16..20], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(six[48..], [0x00, 0x01, 0x01, 0xbb]);
    }
}
