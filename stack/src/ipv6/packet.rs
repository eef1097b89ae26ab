//! Reading an IPv6 packet: the header, and the extension headers in front of the payload (RFC 8200, 4).

use smoltcp::wire::{IpProtocol, Ipv6Packet};

use crate::counters::Counters;
use crate::fragment::{Fragment, Key};
use crate::ip::{IPV6_HEADER_LEN, Packet, Parsed};

/// Extension headers in one packet. Each kind but destination options may occur once (RFC 8200, 4.1); more is an attempt to make us
/// walk.
const EXTENSIONS_MAX: usize = 8;

/// Checks everything about a packet that does not depend on our addresses.
pub(crate) fn parse<'a>(bytes: &'a [u8], counters: &mut Counters) -> Option<Parsed<'a>> {
    let packet = match Ipv6Packet::new_checked(bytes) {
        Ok(packet) if packet.version() == 6 => packet,
        _ => {
            counters.drop_ip_malformed += 1;
            return None;
        }
    };
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let whole = &bytes[..IPV6_HEADER_LEN + usize::from(packet.payload_len())];
    // RFC 4291, 2.5.3 and 2.7: neither loopback nor a group sends. The unspecified address does, for DAD and MLD.
    if source.is_multicast() || source.is_loopback() || source.to_ipv4_mapped().is_some() {
        counters.drop_ip_source += 1;
        return None;
    }
    let Some(chain) = Chain::walk(whole, packet.next_header()) else {
        counters.drop_ip_malformed += 1;
        return None;
    };
    let behind = &whole[chain.at..];
    let Some((id, offset, more)) = chain.fragment else {
        return Some(Parsed::Whole(Packet {
            source: source.into(),
            destination: destination.into(),
            protocol: chain.protocol,
            ttl: packet.hop_limit(),
            ecn: packet.traffic_class() & 3,
            whole,
            payload: behind,
            protocol_at: chain.protocol_at,
            to_many: destination.is_multicast(),
            verified: false,
        }));
    };
    Some(Parsed::Fragment(Fragment {
        key: Key {
            source: source.into(),
            destination: destination.into(),
            id,
            protocol: chain.protocol.into(),
        },
        offset,
        more,
        ttl: packet.hop_limit(),
        ecn: packet.traffic_class() & 3,
        whole,
        payload: behind,
    }))
}

/// How far the extension headers reach.
struct Chain {
    /// What stands at `at`.
    protocol: IpProtocol,
    at: usize,
    /// Where `protocol` is named.
    protocol_at: usize,
    /// Identification, offset in bytes and whether more follow, of a real fragment.
    fragment: Option<(u32, usize, bool)>,
}

impl Chain {
    fn walk(whole: &[u8], first: IpProtocol) -> Option<Chain> {
        let mut chain = Chain { protocol: first, at: IPV6_HEADER_LEN, protocol_at: 6, fragment: None };
        for _ in 0..EXTENSIONS_MAX {
            let start = chain.at;
            let len = match chain.protocol {
                // RFC 8200, 4.3: only directly behind the header.
                IpProtocol::HopByHop if start != IPV6_HEADER_LEN => return None,
                IpProtocol::HopByHop | IpProtocol::Ipv6Opts => {
                    let len = extension_len(whole, start)?;
                    options_are_harmless(&whole[start + 2..start + len]).then_some(len)?
                }
                IpProtocol::Ipv6Route => {
                    let len = extension_len(whole, start)?;
                    // RFC 8200, 4.4: with no segments left it is ignored; RFC 5095: anything else is not for a host.
                    (whole[start + 3] == 0).then_some(len)?
                }
                IpProtocol::Ipv6Frag => {
                    let header = whole.get(start..start + 8)?;
                    let field = u16::from_be_bytes([header[2], header[3]]);
                    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
                    // RFC 6946: a fragment that is the whole is not mixed with others.
                    if offset != 0 || more {
                        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                        chain.fragment = Some((id, offset, more));
                    }
                    8
                }
                // RFC 8200, 4.7: nothing follows.
                IpProtocol::Ipv6NoNxt => return None,
                _ => return Some(chain),
            };
            chain.protocol = IpProtocol::from(whole[start]);
            chain.protocol_at = start;
            chain.at = start + len;
            if chain.fragment.is_some() {
                return Some(chain);
            }
        }
        None
    }
}

/// Bytes of the extension header at `at`, if it lies within the packet.
fn extension_len(whole: &[u8], at: usize) -> Option<usize> {
    let len = (usize::from(*whole.get(at + 1)?) + 1) * 8;
    (at + len <= whole.len()).then_some(len)
}

/// RFC 8200, 4.2: an option that we do not know says in its upper two bits whether the packet may be used all the same.
fn options_are_harmless(mut options: &[u8]) -> bool {
    /// Router alert (RFC 2711), which MLD messages carry.
    const ROUTER_ALERT: u8 = 5;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == 0 {
            options = rest;
            continue;
        }
        let Some((&len, rest)) = rest.split_first() else { return false };
        let unknown = !matches!(kind, 1 | ROUTER_ALERT);
        if (unknown && kind >> 6 != 0) || usize::from(len) > rest.len() {
            return false;
        }
        options = &rest[usize::from(len)..];
    }
    true
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;
    use crate::ip::{self, Header};

    fn packet(first: IpProtocol, behind: &[u8]) -> Vec<u8> {
        let (source, destination) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::LOCALHOST);
        let mut bytes = vec![0; IPV6_HEADER_LEN];
        bytes.extend(behind);
        ip::emit_header(&mut bytes, &Header::new(source.into(), destination.into(), first));
        bytes
    }

    fn payload(bytes: &[u8]) -> Option<(IpProtocol, Vec<u8>)> {
        match parse(bytes, &mut Counters::default())? {
            Parsed::Whole(packet) => Some((packet.protocol, packet.payload.to_vec())),
            Parsed::Fragment(_) => None,
        }
    }

    #[test]
    fn packet_without_extensions_is_read_without_padding() {
        let mut bytes = packet(IpProtocol::Udp, b"datagram");
        bytes.extend([0xee; 4]);
        assert_eq!(payload(&bytes), Some((IpProtocol::Udp, b"datagram".to_vec())));
    }

    #[test]
    fn extensions_known_are_skipped_and_suspicious_refused() {
        let hop = [60, 0, 5, 2, 0, 0, 1, 0];
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let both = [&hop[..], &options, b"x"].concat();
        assert_eq!(payload(&packet(IpProtocol::HopByHop, &both)), Some((IpProtocol::Udp, b"x".to_vec())));
        let late = [&[0, 0, 1, 4, 0, 0, 0, 0][..], &hop].concat();
        assert_eq!(payload(&packet(IpProtocol::Ipv6Opts, &late)), None);
        let discard = [17, 0, 0x80 | 9, 4, 0, 0, 0, 0];
        assert_eq!(payload(&packet(IpProtocol::Ipv6Opts, &discard)), None);
        let cut = [17, 9, 1, 4, 0, 0, 0, 0];
        assert_eq!(payload(&packet(IpProtocol::Ipv6Opts, &cut)), None);
        let source_route = [17, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(payload(&packet(IpProtocol::Ipv6Route, &source_route)), None);
        let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        assert_eq!(payload(&packet(IpProtocol::Ipv6Opts, &endless)), None);
    }

    #[test]
    fn fragment_that_is_the_whole_is_a_packet() {
        let atomic = [17, 0, 0, 0, 1, 2, 3, 4, b'x'];
        assert_eq!(payload(&packet(IpProtocol::Ipv6Frag, &atomic)), Some((IpProtocol::Udp, b"x".to_vec())));
        let first = [17, 0, 0, 1, 1, 2, 3, 4, b'x'];
        let bytes = packet(IpProtocol::Ipv6Frag, &first);
        let parsed = parse(&bytes, &mut Counters::default());
        assert!(
            matches!(parsed, Some(Parsed::Fragment(Fragment { offset: 0, more: true, .. }))),
            "not a fragment"
        );
    }
}
