//! What filters look at: the addresses, the protocol and the ports of a frame, as far as they are there.

use std::net::IpAddr;

/// A frame, taken apart as far as it makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) len: usize,
    pub(super) destination: [u8; 6],
    pub(super) source: [u8; 6],
    pub(super) ether_type: u16,
    /// Source and destination: of IP, and of the addresses that ARP is about.
    pub(super) addresses: Option<(IpAddr, IpAddr)>,
    pub(super) protocol: Option<u8>,
    /// Of TCP and UDP, in the first fragment.
    pub(super) ports: Option<(u16, u16)>,
}

/// IPv6 extension headers that are stepped over at most: as many kinds as there are (RFC 8200, 4.1).
const EXTENSIONS_MAX: usize = 6;

impl View {
    pub(super) fn of(frame: &[u8]) -> View {
        let mut view = View {
            len: frame.len(),
            destination: array(frame, 0).unwrap_or_default(),
            source: array(frame, 6).unwrap_or_default(),
            ether_type: number(frame, 12).unwrap_or_default(),
            addresses: None,
            protocol: None,
            ports: None,
        };
        let payload = frame.get(14..).unwrap_or_default();
        match view.ether_type {
            0x0800 => view.look_at_ipv4(payload),
            0x86dd => view.look_at_ipv6(payload),
            // Sender's and target's protocol address (RFC 826).
            0x0806 => view.addresses = v4(payload, 14).zip(v4(payload, 24)),
            _ => {}
        }
        view
    }

    fn look_at_ipv4(&mut self, packet: &[u8]) {
        self.addresses = v4(packet, 12).zip(v4(packet, 16));
        self.protocol = packet.get(9).copied();
        let header_len = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
        let fragment_offset = number(packet, 6).unwrap_or_default() & 0x1fff;
        if fragment_offset == 0 {
            self.look_at_ports(packet.get(header_len..).unwrap_or_default());
        }
    }

    fn look_at_ipv6(&mut self, packet: &[u8]) {
        self.addresses = v6(packet, 8).zip(v6(packet, 24));
        let (mut next, mut rest) = (packet.get(6).copied(), packet.get(40..).unwrap_or_default());
        for _ in 0..EXTENSIONS_MAX {
            let len = match next {
                // Hop-by-hop, routing, destination options.
                Some(0 | 43 | 60) => 8 + usize::from(rest.get(1).copied().unwrap_or_default()) * 8,
                Some(44) if number(rest, 2).is_some_and(|offset| offset & 0xfff8 == 0) => 8,
                _ => break,
            };
            (next, rest) = (rest.first().copied(), rest.get(len..).unwrap_or_default());
        }
        self.protocol = next;
        self.look_at_ports(rest);
    }

    fn look_at_ports(&mut self, segment: &[u8]) {
        if matches!(self.protocol, Some(6 | 17)) {
            self.ports = number(segment, 0).zip(number(segment, 2));
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    array::<4>(bytes, at).map(IpAddr::from)
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    array::<16>(bytes, at).map(IpAddr::from)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 10.0.0.1:53 -> 10.0.0.2:40000
    pub(in crate::capture) const UDP_V4: [u8; 42] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0, 53, 0x9c, 0x40, 0, 8, 0, 0, // UDP
    ];
    /// Who has 10.0.0.2? Tell 10.0.0.1.
    pub(in crate::capture) const ARP: [u8; 42] = [
        255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];

    /// 2001:db8::1 -> 2001:db8::2 port 443, behind an empty hop-by-hop header.
    pub(in crate::capture) fn tcp_v6() -> Vec<u8> {
        let mut frame = vec![0; 14 + 40 + 8 + 20];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[22..30].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0]);
        frame[37] = 1;
        frame[38..46].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0]);
        frame[53] = 2;
        frame[54] = 6;
        frame[62..66].copy_from_slice(&[0xc3, 0x50, 1, 0xbb]);
        frame
    }

    #[test]
    fn of_frames_finds_addresses_and_ports() {
        let view = View::of(&UDP_V4);
        assert_eq!((view.protocol, view.ports), (Some(17), Some((53, 40_000))));
        let view = View::of(&tcp_v6());
        assert_eq!((view.protocol, view.ports), (Some(6), Some((50_000, 443))));
        let view = View::of(&ARP);
        assert_eq!(view.addresses, Some(("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())));
    }

    #[test]
    fn of_a_later_fragment_has_no_ports() {
        let mut fragment = UDP_V4;
        fragment[21] = 1;
        assert_eq!(View::of(&fragment).ports, None);
    }

    #[test]
    fn of_anything_cut_short_is_no_harm() {
        for frame in [&UDP_V4[..], &ARP[..], &tcp_v6()[..]] {
            (0..frame.len()).for_each(|len| assert_eq!(View::of(&frame[..len]).len, len));
        }
    }
}
