//! Addresses that no public name has business answering with.
//!
//! Who serves a domain decides what its names answer. An answer that points into the asker's own network, or at the machine itself,
//! makes a program reach, on a stranger's behalf, what the stranger cannot (DNS rebinding). So a grant for a name does not hold for
//! such addresses: they need a grant of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(first: u16, second: u16, third: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), length))
}

/// From the registries of special-purpose addresses (RFC 6890; IANA), what is not reachable from everywhere and may well be from here.
/// Prefixes for documentation are left out: there is nobody.
const SPECIAL: [(IpNet, &str); 19] = [
    (v4(0, 0, 0, 0, 8), "an address of this host (RFC 791)"),
    (v4(10, 0, 0, 0, 8), "a private address (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "an address behind a carrier's NAT (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "a loopback address (RFC 1122)"),
    (v4(169, 254, 0, 0, 16), "a link-local address (RFC 3927), where clouds have their metadata"),
    (v4(172, 16, 0, 0, 12), "a private address (RFC 1918)"),
    (v4(192, 0, 0, 0, 24), "an address for protocols (RFC 6890)"),
    (v4(192, 168, 0, 0, 16), "a private address (RFC 1918)"),
    (v4(198, 18, 0, 0, 15), "an address for benchmarks (RFC 2544)"),
    (v4(224, 0, 0, 0, 4), "a multicast address (RFC 5771)"),
    (v4(240, 0, 0, 0, 4), "a reserved or broadcast address (RFC 1112)"),
    (v6(0, 0, 0, 96), "an unspecified, loopback or IPv4-compatible address (RFC 4291)"),
    (v6(0x64, 0xff9b, 1, 48), "an address of a local translator (RFC 8215)"),
    (v6(0x100, 0, 0, 64), "an address whose packets are discarded (RFC 6666)"),
    (v6(0x2001, 0, 0, 32), "a Teredo address (RFC 4380)"),
    (v6(0xfc00, 0, 0, 7), "a unique local address (RFC 4193)"),
    (v6(0xfe80, 0, 0, 10), "a link-local address (RFC 4291)"),
    (v6(0xfec0, 0, 0, 10), "a site-local address (RFC 3879)"),
    (v6(0xff00, 0, 0, 8), "a multicast address (RFC 4291)"),
];

/// What `address` is, if it is not one that a public name may answer with. IPv4 addresses inside of IPv6 ones are looked at as well: mapped
/// (RFC 4291, 2.5.5.2), translated (RFC 6052, 2.1) and 6to4 (RFC 3056, 2).
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    let inner = match address {
        IpAddr::V6(address) => match address.octets() {
            [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] | [0x20, 0x02, a, b, c, d, ..] => {
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            _ => None,
        },
        IpAddr::V4(_) => None,
    };
    let kind =
        |address: IpAddr| SPECIAL.iter().find(|(prefix, _)| prefix.contains(&address)).map(|(_, kind)| *kind);
    kind(address).or_else(|| inner.and_then(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_told_by_kind_and_public_ones_are_none() {
        for (address, wanted) in [
            ("10.1.2.3", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.0", None),
            ("192.168.0.1", Some("private")),
            ("100.64.0.1", Some("carrier")),
            ("100.128.0.1", None),
            ("127.0.0.53", Some("loopback")),
            ("0.0.0.0", Some("this host")),
            ("169.254.169.254", Some("metadata")),
            ("224.0.0.251", Some("multicast")),
            ("255.255.255.255", Some("broadcast")),
            ("93.184.216.34", None),
            ("::ffff:10.0.0.1", Some("private")),
            ("::ffff:93.184.216.34", None),
            ("::1", Some("loopback")),
            ("::7f00:1", Some("IPv4-compatible")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("site-local")),
            ("fd20:ce::254", Some("unique local")),
            ("ff02::fb", Some("multicast")),
            ("64:ff9b::10.0.0.1", Some("private")),
            ("64:ff9b::93.184.216.34", None),
            ("64:ff9b:1::1", Some("local translator")),
            ("2002:c0a8:1::1", Some("private")),
            ("2002:5db8:d822::1", None),
            ("2606:4700::1111", None),
        ] {
            let found = special(address.parse().unwrap());
            assert_eq!(found.is_some(), wanted.is_some(), "{address}: {found:?}");
            assert!(found.unwrap_or_default().contains(wanted.unwrap_or_default()), "{address}: {found:?}");
        }
    }
}
