//! The messages of neighbour discovery (RFC 4861, 4), read and checked.

use core::net::Ipv6Addr;

use super::addresses::Lifetime;
use super::cidr::Cidr6;
use crate::ip::Packet;
use crate::neighbor::Mac;

/// RFC 4861, 7.1: a message with another hop limit came through a router, so its sender is not a neighbour.
const HOP_LIMIT: u8 = 255;
/// Entries kept of one list in an advertisement; nobody has more prefixes, routes or resolvers.
const LIST_MAX: usize = 16;
/// The longest name in text form (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

mod option {
    pub(super) const SOURCE_MAC: u8 = 1;
    pub(super) const TARGET_MAC: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const ROUTE: u8 = 24;
    pub(super) const RDNSS: u8 = 25;
    pub(super) const DNSSL: u8 = 31;
}

/// A message that passed the checks of RFC 4861, 6.1 and 7.1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Solicitation {
        target: Ipv6Addr,
        source_mac: Option<Mac>,
    },
    Advertisement {
        target: Ipv6Addr,
        target_mac: Option<Mac>,
        router: bool,
        solicited: bool,
        overrides: bool,
    },
    Router(Box<RouterAdvertisement>),
    /// Meant for routers, or a redirect, which we do not follow: with one router there is nothing to gain, and the rest is risk.
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RouterAdvertisement {
    /// Addresses by DHCPv6.
    pub(crate) managed: bool,
    /// The rest by DHCPv6.
    pub(crate) other: bool,
    /// RFC 4191, 2.1: -1 low, 0 medium, 1 high.
    pub(crate) preference: i8,
    /// As a default router, in seconds; zero: it is none.
    pub(crate) lifetime_seconds: u16,
    pub(crate) source_mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) routes: Vec<MoreSpecific>,
    pub(crate) dns: Vec<(Ipv6Addr, Lifetime)>,
    pub(crate) search: Vec<(String, Lifetime)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) cidr: Cidr6,
    pub(crate) on_link: bool,
    pub(crate) autonomous: bool,
    pub(crate) valid: Lifetime,
    pub(crate) preferred: Lifetime,
}

/// A route information option (RFC 4191, 2.3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MoreSpecific {
    pub(crate) destination: Cidr6,
    pub(crate) preference: i8,
    pub(crate) lifetime: Lifetime,
}

impl Message {
    /// Reads an ICMPv6 packet of types 133 to 137 whose checksum is right.
    pub(crate) fn parse(packet: &Packet<'_>) -> Option<Message> {
        let body = packet.payload;
        if packet.ttl != HOP_LIMIT || *body.get(1)? != 0 {
            return None;
        }
        match body[0] {
            134 => parse_router(packet, body).map(|router| Message::Router(Box::new(router))),
            135 => parse_solicitation(packet, body),
            136 => parse_advertisement(packet, body),
            _ => Some(Message::Other),
        }
    }
}

fn parse_solicitation(packet: &Packet<'_>, body: &[u8]) -> Option<Message> {
    let target = target(body)?;
    let source_mac = mac_option(body.get(24..)?, option::SOURCE_MAC)?;
    // RFC 4861, 7.1.1: a probe goes to the solicited-node group and tells no hardware address.
    let probe = packet.source.is_unspecified();
    if probe && (source_mac.is_some() || !packet.to_many) {
        return None;
    }
    Some(Message::Solicitation { target, source_mac })
}

fn parse_advertisement(packet: &Packet<'_>, body: &[u8]) -> Option<Message> {
    let target = target(body)?;
    let target_mac = mac_option(body.get(24..)?, option::TARGET_MAC)?;
    let flags = body[4];
    let (router, solicited, overrides) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0);
    // RFC 4861, 7.1.2.
    if packet.source.is_unspecified() || (packet.to_many && solicited) {
        return None;
    }
    Some(Message::Advertisement { target, target_mac, router, solicited, overrides })
}

fn target(body: &[u8]) -> Option<Ipv6Addr> {
    let target = Ipv6Addr::from(*body.get(8..)?.first_chunk::<16>()?);
    (!target.is_multicast() && !target.is_unspecified() && !target.is_loopback()).then_some(target)
}

fn parse_router(packet: &Packet<'_>, body: &[u8]) -> Option<RouterAdvertisement> {
    let core::net::IpAddr::V6(source) = packet.source else { return None };
    // RFC 4861, 6.1.2: from the router's own link-local address.
    if !source.is_unicast_link_local() || body.len() < 16 {
        return None;
    }
    let mut router = RouterAdvertisement {
        managed: body[5] & 0x80 != 0,
        other: body[5] & 0x40 != 0,
        preference: preference(body[5]).unwrap_or(0),
        lifetime_seconds: u16::from_be_bytes([body[6], body[7]]),
        ..RouterAdvertisement::default()
    };
    for parsed in Options(&body[16..]) {
        let (kind, data) = parsed?;
        read_router_option(&mut router, kind, data);
    }
    Some(router)
}

/// `data` is the option behind its type and length.
fn read_router_option(router: &mut RouterAdvertisement, kind: u8, data: &[u8]) {
    match kind {
        option::SOURCE_MAC => router.source_mac = unicast_mac(data),
        option::MTU => router.mtu = word(data, 2),
        option::PREFIX if router.prefixes.len() < LIST_MAX => router.prefixes.extend(parse_prefix(data)),
        option::ROUTE if router.routes.len() < LIST_MAX => router.routes.extend(parse_route(data)),
        option::RDNSS => {
            let Some(lifetime) = word(data, 2).map(Lifetime::from_seconds) else { return };
            let (addresses, _) = data[6..].as_chunks::<16>();
            let room = LIST_MAX.saturating_sub(router.dns.len());
            router.dns.extend(addresses.iter().take(room).map(|octets| (Ipv6Addr::from(*octets), lifetime)));
        }
        option::DNSSL => {
            let Some(lifetime) = word(data, 2).map(Lifetime::from_seconds) else { return };
            let room = LIST_MAX.saturating_sub(router.search.len());
            router.search.extend(parse_names(&data[6..]).take(room).map(|name| (name, lifetime)));
        }
        _ => {}
    }
}

/// RFC 4191, 2.1: the reserved value means that the option is to be ignored.
fn preference(flags: u8) -> Option<i8> {
    match flags >> 3 & 3 {
        0b00 => Some(0),
        0b01 => Some(1),
        0b11 => Some(-1),
        _ => None,
    }
}

/// RFC 4861, 4.6.2. A prefix longer than an address, which smoltcp panics at, is ignored.
fn parse_prefix(data: &[u8]) -> Option<Prefix> {
    let address = Ipv6Addr::from(*data.get(14..)?.first_chunk::<16>()?);
    let (valid, preferred) = (Lifetime::from_seconds(word(data, 2)?), Lifetime::from_seconds(word(data, 6)?));
    // RFC 4862, 5.5.3 c: preferred beyond valid is ignored. `None` is for ever, and more than anything.
    let sensible = match (preferred.0, valid.0) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(preferred), Some(valid)) => preferred <= valid,
    };
    let cidr = Cidr6::new(address, data[0]).ok()?.network();
    sensible.then_some(Prefix {
        cidr,
        on_link: data[1] & 0x80 != 0,
        autonomous: data[1] & 0x40 != 0,
        valid,
        preferred,
    })
}

/// RFC 4191, 2.3: the prefix is 0, 8 or 16 bytes long.
fn parse_route(data: &[u8]) -> Option<MoreSpecific> {
    let lifetime = Lifetime::from_seconds(word(data, 2)?);
    let mut octets = [0; 16];
    let significant = usize::from(data[0]).div_ceil(8);
    octets.get_mut(..significant)?.copy_from_slice(data.get(6..6 + significant)?);
    let destination = Cidr6::new(octets.into(), data[0]).ok()?.network();
    Some(MoreSpecific { destination, preference: preference(data[1])?, lifetime })
}

/// RFC 8106, 5.2: names in DNS encoding without compression, padded with zeros.
pub(crate) fn parse_names(mut bytes: &[u8]) -> impl Iterator<Item = String> {
    core::iter::from_fn(move || {
        let mut name = String::new();
        loop {
            let (&len, rest) = bytes.split_first()?;
            if len == 0 {
                bytes = rest;
                return (!name.is_empty()).then_some(name);
            }
            let label = rest.get(..usize::from(len))?;
            // It ends up in files and logs.
            let plain = label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
            if len > 63 || !plain || name.len() + label.len() >= NAME_MAX {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().copied().map(char::from));
            bytes = &rest[usize::from(len)..];
        }
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn unicast_mac(data: &[u8]) -> Option<Mac> {
    data.first_chunk::<6>().copied().filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
}

/// The hardware address of an option of this kind. `None` if the options are malformed, `Some(None)` if there is none.
fn mac_option(options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    for parsed in Options(options) {
        let (kind, data) = parsed?;
        if kind == wanted {
            found = unicast_mac(data);
        }
    }
    Some(found)
}

/// The options of a message: type and what is behind the length. RFC 4861, 4.6: a length of zero, or beyond the end, condemns the
/// whole message.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u8, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let len = self.0.get(1).map_or(0, |len| usize::from(*len) * 8);
        if len == 0 || len > self.0.len() {
            self.0 = &[];
            return Some(None);
        }
        let (option, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(Some((option[0], &option[2..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_until_the_padding_and_nonsense_ends_them() {
        let read = |bytes: &'static [u8]| parse_names(bytes).collect::<Vec<_>>();
        assert_eq!(read(b"\x03eng\x07example\x03com\x00\x03lab\x00\x00\x00\x00"), ["eng.example.com", "lab"]);
        assert_eq!(read(b"\x03e\ng\x00"), Vec::<String>::new());
        assert_eq!(read(b"\x09cut"), Vec::<String>::new());
        assert_eq!(read(b"\xc0\x00"), Vec::<String>::new());
    }

    #[test]
    fn options_malformed_condemn_the_message() {
        assert_eq!(mac_option(&[1, 1, 2, 0, 0, 0, 0, 9], 1), Some(Some([2, 0, 0, 0, 0, 9])));
        assert_eq!(mac_option(&[], 1), Some(None));
        assert_eq!(mac_option(&[1, 0, 2, 0, 0, 0, 0, 9], 1), None);
        assert_eq!(mac_option(&[1, 2, 2, 0, 0, 0, 0, 9], 1), None);
        // A group's hardware address is nobody's.
        assert_eq!(mac_option(&[1, 1, 0x33, 0x33, 0, 0, 0, 9], 1), Some(None));
    }

    #[test]
    fn prefix_too_long_or_preferred_beyond_valid_is_ignored() {
        let mut data = [0; 30];
        data[0] = 64;
        data[2..6].copy_from_slice(&100u32.to_be_bytes());
        data[6..10].copy_from_slice(&50u32.to_be_bytes());
        assert!(parse_prefix(&data).is_some());
        data[0] = 129;
        assert!(parse_prefix(&data).is_none());
        data[0] = 64;
        data[6..10].copy_from_slice(&101u32.to_be_bytes());
        assert!(parse_prefix(&data).is_none());
    }
}
