//! What a DHCP server granted: the options of its ACK, checked and turned into types.

use core::net::Ipv4Addr;
use core::time::Duration;

use serde::Serialize;
use smoltcp::wire::DhcpPacket;

use crate::config::MTU_MIN;
use crate::ipv4::{Cidr, is_usable_host};
use crate::route::{ROUTES_MAX, Route, Routing};
use crate::time::Instant;

/// Option numbers (RFC 2132, RFC 3397, RFC 3442).
pub(crate) mod option {
    pub(crate) const SUBNET_MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const MTU: u8 = 26;
    pub(crate) const NTP: u8 = 42;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER_ID: u8 = 54;
    pub(crate) const RENEWAL_TIME: u8 = 58;
    pub(crate) const REBINDING_TIME: u8 = 59;
    pub(crate) const DOMAIN_SEARCH: u8 = 119;
    pub(crate) const CLASSLESS_ROUTES: u8 = 121;
}

/// Addresses kept from one list option; nobody uses more resolvers or time servers.
const ADDRESSES_MAX: usize = 8;
/// The longest name in text form (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;
/// Shorter leases are stretched to this: renewing every few seconds is an attack on the server, or by it.
const LEASE_SECONDS_MIN: u32 = 60;
/// "Infinity" (RFC 2131, 3.3).
const LEASE_SECONDS_INFINITE: u32 = u32::MAX;

/// What a DHCP server granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Our address and the on-link prefix; /32 on clouds.
    pub cidr: Cidr,
    /// The default gateway, from option 121 if it is there, else from option 3.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the gateway lies outside the prefix and is reached on the link all the same.
    pub on_link_gateway: bool,
    /// Option 121.
    pub routes: Vec<Route>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 26.
    pub mtu: Option<u16>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 119.
    pub search: Vec<String>,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// How long it is good for, in seconds; 4294967295 is for ever.
    pub lease_seconds: u32,
    /// T1: when the server is asked to prolong it.
    pub renew_at: Instant,
    /// T2: when any server is asked.
    pub rebind_at: Instant,
    /// When the address is given up.
    pub expires_at: Instant,
}

impl Lease {
    /// Reads an ACK that arrived at `now`; `None` if what it grants cannot be used.
    pub(crate) fn parse(packet: &DhcpPacket<&[u8]>, now: Instant) -> Option<Lease> {
        let options = Options(packet);
        let address = packet.your_ip();
        let server = options.address(option::SERVER_ID)?;
        if !is_usable_host(address) {
            return None;
        }
        let prefix_len = match options.address(option::SUBNET_MASK) {
            // Without a mask only the gateway is known to be on the link.
            None => 32,
            Some(mask) if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() >= 32 => {
                mask.to_bits().leading_ones() as u8
            }
            Some(_) => return None,
        };
        let cidr = Cidr::new(address, prefix_len).ok()?;
        let routes = parse_routes(&options.bytes(option::CLASSLESS_ROUTES));
        // RFC 3442: a client that gets option 121 must ignore option 3.
        let gateway = if routes.is_empty() {
            options.addresses(option::ROUTER).into_iter().find(|&router| is_usable_host(router))
        } else {
            routes.iter().find(|route| route.destination.prefix_len() == 0).and_then(|route| route.via)
        };
        // RFC 2131, table 3: an ACK to a REQUEST must have it.
        let lease_seconds = options.seconds(option::LEASE_TIME)?.max(LEASE_SECONDS_MIN);
        let (renew, rebind) = renewal_seconds(&options, lease_seconds);
        Some(Lease {
            cidr,
            gateway,
            on_link_gateway: gateway.is_some_and(|gateway| !cidr.contains(gateway)),
            routes,
            dns: options.addresses(option::DNS),
            ntp: options.addresses(option::NTP),
            mtu: options.mtu(),
            hostname: options.text(option::HOST_NAME),
            domain: options.text(option::DOMAIN),
            search: parse_search(&options.bytes(option::DOMAIN_SEARCH)),
            server,
            lease_seconds,
            renew_at: now + Duration::from_secs(renew.into()),
            rebind_at: now + Duration::from_secs(rebind.into()),
            expires_at: now + Duration::from_secs(lease_seconds.into()),
        })
    }

    pub(crate) fn is_infinite(&self) -> bool {
        self.lease_seconds == LEASE_SECONDS_INFINITE
    }

    pub(crate) fn routing(&self) -> Routing {
        // With option 121 its own default route is in `routes`; the gateway is named again so that it is made on-link where
        // the server forgot to say so.
        Routing::new(self.cidr, self.gateway, &self.routes)
    }
}

/// T1 and T2 (RFC 2131, 4.4.5): half and seven eighths of the lease unless the server says otherwise and makes sense.
fn renewal_seconds(options: &Options<'_>, lease: u32) -> (u32, u32) {
    let rebind =
        options.seconds(option::REBINDING_TIME).filter(|&t2| t2 < lease).unwrap_or(lease - lease / 8);
    let renew =
        options.seconds(option::RENEWAL_TIME).filter(|&t1| t1 < rebind).unwrap_or((lease / 2).min(rebind));
    (renew, rebind)
}

pub(crate) struct Options<'a>(pub(crate) &'a DhcpPacket<&'a [u8]>);

impl Options<'_> {
    /// The option's bytes; parts are joined (RFC 3396), an absent option is empty.
    pub(crate) fn bytes(&self, code: u8) -> Vec<u8> {
        let parts = self.0.options().filter(|option| option.kind == code);
        parts.flat_map(|option| option.data.iter().copied()).collect()
    }

    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let bytes = self.bytes(code);
        let (addresses, _) = bytes.as_chunks::<4>();
        addresses.iter().take(ADDRESSES_MAX).map(|octets| Ipv4Addr::from(*octets)).collect()
    }

    pub(crate) fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.addresses(code).first().copied()
    }

    fn seconds(&self, code: u8) -> Option<u32> {
        self.address(code).map(Ipv4Addr::to_bits)
    }

    fn mtu(&self) -> Option<u16> {
        let bytes: [u8; 2] = self.bytes(option::MTU).try_into().ok()?;
        Some(u16::from_be_bytes(bytes)).filter(|&mtu| mtu >= MTU_MIN)
    }

    /// A name; anything that is not one is ignored, because it ends up in files and logs.
    fn text(&self, code: u8) -> Option<String> {
        let bytes = self.bytes(code);
        let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        is_name(text).then(|| text.iter().copied().map(char::from).collect())
    }
}

fn is_name(text: &[u8]) -> bool {
    let plain = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
    plain && !text.is_empty() && text.len() <= NAME_MAX
}

/// Option 121 (RFC 3442): width, the significant octets of the destination, the router; a router of 0.0.0.0 means on-link. What
/// follows a malformed entry is ignored.
fn parse_routes(mut bytes: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    while let Some((&width, rest)) = bytes.split_first() {
        let significant = usize::from(width).div_ceil(8);
        if width > 32 || rest.len() < significant + 4 || routes.len() >= ROUTES_MAX {
            break;
        }
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(&rest[..significant]);
        let router = Ipv4Addr::new(
            rest[significant],
            rest[significant + 1],
            rest[significant + 2],
            rest[significant + 3],
        );
        bytes = &rest[significant + 4..];
        if let Ok(destination) = Cidr::new(octets.into(), width) {
            let via = (!router.is_unspecified()).then_some(router);
            routes.push(Route { destination: destination.network(), via });
        }
    }
    routes
}

/// Option 119 (RFC 3397): names in DNS encoding, compressed within the option. A pointer must point backwards, so reading ends.
fn parse_search(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() && names.len() < ADDRESSES_MAX {
        let Some((name, next)) = parse_name(bytes, at) else { break };
        if is_name(name.as_bytes()) {
            names.push(name);
        }
        at = next;
    }
    names
}

/// The name at `at`, and where the next one begins.
fn parse_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut resume = None;
    let mut lowest = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((name, resume.unwrap_or(at + 1))),
            1..64 => {
                let label = core::str::from_utf8(bytes.get(at + 1..at + 1 + length)?).ok()?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                if name.len() > NAME_MAX {
                    return None;
                }
                at += 1 + length;
            }
            192.. => {
                let target = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                if target >= lowest {
                    return None;
                }
                resume.get_or_insert(at + 2);
                lowest = target;
                at = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classless_routes_of_gce_are_read() {
        // 10.128.0.1/32 via 0.0.0.0, then 0/0 via 10.128.0.1.
        let bytes = [32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1];
        let gateway = Ipv4Addr::new(10, 128, 0, 1);
        let routes = parse_routes(&bytes);
        assert_eq!(
            routes,
            [
                Route { destination: Cidr::host(gateway), via: None },
                Route { destination: "0.0.0.0/0".parse().unwrap(), via: Some(gateway) },
            ]
        );
    }

    #[test]
    fn classless_routes_cut_short_keep_what_is_whole() {
        assert_eq!(parse_routes(&[24, 10, 0, 0, 10, 0, 0, 1, 16, 172]).len(), 1);
        assert_eq!(parse_routes(&[33, 1, 2, 3, 4, 5, 6, 7, 8]), []);
    }

    #[test]
    fn search_list_with_pointer_is_read_and_loop_is_refused() {
        let mut bytes = b"\x03eng\x07example\x03com\x00".to_vec();
        bytes.extend(b"\x03lab\xc0\x04");
        assert_eq!(parse_search(&bytes), ["eng.example.com", "lab.example.com"]);
        assert_eq!(parse_search(b"\xc0\x00"), Vec::<String>::new());
        assert_eq!(parse_search(b"\x01a\xc0\x00"), Vec::<String>::new());
    }
}
