//! IPv6: our addresses and routers, and how they are found (RFC 4861, RFC 4862).
//!
//! At the start the link-local address is probed and then used; routers are asked for, with back-off (RFC 7559), until one that leads
//! everywhere has answered. What they advertise - prefixes to make addresses from, what is on the link, further routes, an MTU,
//! resolvers - is believed as long as they say, within bounds. Everything that happens by itself hangs on one timer.

mod addresses;
mod cidr;
mod message;
mod nd;
mod packet;
mod routers;

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

pub(crate) use self::addresses::Lifetime;
use self::addresses::solicited_node;
use self::addresses::{ADDRESSES_MAX, Address, Check, InterfaceId};
pub use self::cidr::Cidr6;
pub(crate) use self::message::parse_names;
pub(crate) use self::packet::parse;
use self::routers::{Routers, Until};
use crate::config::{Ipv6Addressing, MTU_MIN_V6};
use crate::groups::group_mac;
use crate::info::{AddressInfo, AddressOrigin, RouteInfo};
use crate::neighbor::{Mac, Neighbors};
use crate::random::Random;
use crate::route::NextHop;
use crate::time::Instant;
use crate::timers::{Armed, Timer, Timers};

/// The longest random wait before the first probe or solicitation (RFC 4861, 10: MAX_RTR_SOLICITATION_DELAY), so that hosts that
/// start together do not speak together.
const START_DELAY_MILLIS: u32 = 1000;
/// Between solicitations at first and at most (RFC 7559, 2).
const SOLICIT_INTERVAL: Duration = Duration::from_secs(4);
const SOLICIT_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Attempts to make an address that nobody has (RFC 7217, 7: IDGEN_RETRIES).
const ATTEMPTS_MAX: u8 = 3;

pub(crate) struct Ipv6 {
    enabled: bool,
    /// Whether router advertisements are listened to.
    automatic: bool,
    id: InterfaceId,
    device_mtu: usize,
    /// As of the last frame or poll: what deprecated means.
    pub(crate) clock: Instant,
    addresses: Vec<Address>,
    routers: Routers,
    /// Router solicitations sent since a router was last known, and when the next is due.
    solicited: u32,
    solicit_at: Option<Instant>,
    armed: Armed,
}

impl Ipv6 {
    /// With its link-local and static addresses about to be probed.
    pub(crate) fn new(
        addressing: &Ipv6Addressing,
        secret: Option<[u8; 16]>,
        (mac, device_mtu): (Mac, usize),
        now: Instant,
        random: &mut Random,
    ) -> Ipv6 {
        let mut ipv6 = Ipv6 {
            enabled: *addressing != Ipv6Addressing::Off && device_mtu >= usize::from(MTU_MIN_V6),
            automatic: *addressing == Ipv6Addressing::Auto,
            id: secret.map_or(InterfaceId::Eui64, |secret| {
                let word = u128::from_le_bytes(secret);
                InterfaceId::Opaque { secret: (word as u64, (word >> 64) as u64) }
            }),
            device_mtu,
            clock: now,
            addresses: Vec::new(),
            routers: Routers::default(),
            solicited: 0,
            solicit_at: None,
            armed: Armed::default(),
        };
        if !ipv6.enabled {
            return ipv6;
        }
        let link_local = addresses::link_local(ipv6.id, mac, 0);
        ipv6.add(now, Cidr6::new(link_local, 64).ok(), AddressOrigin::LinkLocal, random);
        if let Ipv6Addressing::Static(fixed) = addressing {
            for cidr in &fixed.addresses {
                ipv6.add(now, Some(*cidr), AddressOrigin::Static, random);
                ipv6.routers.on_link.push(Until { value: cidr.network(), until: None });
            }
            if let (Some(router), Ok(destination)) = (fixed.gateway, Cidr6::new(Ipv6Addr::UNSPECIFIED, 0)) {
                ipv6.routers.add_fixed(router, destination);
            }
            ipv6.routers.dns = fixed.dns.iter().map(|&value| Until { value, until: None }).collect();
        }
        ipv6
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Adds an address to be probed; false if there is no room.
    fn add(&mut self, now: Instant, cidr: Option<Cidr6>, origin: AddressOrigin, random: &mut Random) -> bool {
        let Some(cidr) = cidr.filter(|_| self.addresses.len() < ADDRESSES_MAX) else { return false };
        let delay = Duration::from_millis(random.below(START_DELAY_MILLIS).into());
        self.addresses.push(Address {
            address: cidr.address(),
            prefix_len: cidr.prefix_len(),
            origin,
            attempt: 0,
            check: Check::Tentative { sent: 0, next: now + delay },
            preferred_until: None,
            valid_until: None,
        });
        true
    }

    /// Whether `address` is ours and in use.
    pub(crate) fn is_own(&self, address: Ipv6Addr) -> bool {
        self.addresses.iter().any(|own| own.address == address && own.is_usable())
    }

    /// The groups that come with our addresses.
    pub(crate) fn solicited_groups(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|own| IpAddr::V6(solicited_node(own.address)))
    }

    /// Which of our addresses a packet to `destination` comes from.
    pub(crate) fn source_for(&self, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        addresses::select_source(&self.addresses, destination, self.clock)
    }

    /// Whether somebody else turned out to have `address`.
    pub(crate) fn is_duplicated(&self, address: Ipv6Addr) -> bool {
        self.addresses.iter().any(|own| own.address == address && own.check == Check::Duplicated)
    }

    /// Forgets an address that was granted and never used.
    pub(crate) fn remove_dhcp(&mut self, address: Ipv6Addr) {
        self.addresses.retain(|own| own.address != address || own.origin != AddressOrigin::Dhcp);
    }

    /// The link-local address, once it is in use.
    pub(crate) fn link_local(&self) -> Option<Ipv6Addr> {
        let own = self.addresses.iter().find(|own| own.origin == AddressOrigin::LinkLocal)?;
        own.is_usable().then_some(own.address)
    }

    pub(crate) fn next_hop(&self, destination: Ipv6Addr, neighbors: &Neighbors) -> Option<NextHop> {
        if !self.enabled {
            return None;
        }
        if destination.is_multicast() {
            return Some(NextHop::Everybody(group_mac(destination.into())));
        }
        if self.routers.is_on_link(destination) {
            return Some(NextHop::Unicast(destination.into()));
        }
        let router = self.routers.towards(destination, |router| !neighbors.is_silent(router.into()))?;
        Some(NextHop::Unicast(router.into()))
    }

    /// The MTU, given the one of the link: a router may lower it.
    pub(crate) fn mtu(&self, link_mtu: usize) -> usize {
        let mtu = self.routers.mtu.unwrap_or(link_mtu).min(link_mtu);
        mtu.max(usize::from(MTU_MIN_V6)).min(self.device_mtu)
    }

    fn arm(&mut self, timers: &mut Timers) {
        let checks = self.addresses.iter().filter_map(|own| match own.check {
            Check::Tentative { next, .. } => Some(next),
            Check::Passed | Check::Duplicated => own.valid_until,
        });
        let next = checks.chain(self.solicit_at).chain(self.routers.next_expiry()).min();
        if let Some(next) = next {
            timers.arm(&mut self.armed, Timer::Ipv6, next);
        }
    }

    /// Begins asking for routers again.
    fn solicit_from(&mut self, at: Instant) {
        if self.automatic && self.enabled {
            self.solicited = 0;
            self.solicit_at = Some(at);
        }
    }

    /// Takes the checks of addresses over that `former` has as well, so that they stay in use.
    fn inherit(&mut self, former: &Ipv6) {
        for own in &mut self.addresses {
            if let Some(known) = former.addresses.iter().find(|known| known.address == own.address) {
                own.check = known.check;
            }
        }
    }

    /// Stops everything: our link-local address belongs to somebody else (RFC 4862, 5.4.5), or the device is gone.
    pub(crate) fn disable(&mut self) {
        self.enabled = false;
        self.addresses.retain(|own| own.check == Check::Duplicated);
        self.routers = Routers::default();
        self.solicit_at = None;
    }

    /// Whether DHCPv6 has addresses, and whether it has anything at all (RFC 4861, 4.2: M and O).
    pub(crate) fn dhcp_flags(&self) -> (bool, bool) {
        (self.routers.managed, self.routers.managed || self.routers.other)
    }

    /// Resolvers, best known first.
    pub(crate) fn dns(&self) -> impl Iterator<Item = IpAddr> {
        self.routers.dns.iter().map(|server| IpAddr::V6(server.value))
    }

    pub(crate) fn search(&self) -> impl Iterator<Item = &str> {
        self.routers.search.iter().map(|name| name.value.as_str())
    }

    pub(crate) fn address_infos(&self) -> impl Iterator<Item = AddressInfo> {
        self.addresses.iter().map(|own| AddressInfo {
            address: own.address.into(),
            prefix_len: own.prefix_len,
            status: own.status(self.clock),
            origin: own.origin,
            preferred_until: own.preferred_until,
            valid_until: own.valid_until,
        })
    }

    pub(crate) fn route_infos(&self) -> impl Iterator<Item = RouteInfo> {
        let link_local = self.enabled.then_some(RouteInfo {
            destination: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
            prefix_len: 64,
            via: None,
            expires_at: None,
        });
        let on_link = self.routers.on_link.iter().map(|prefix| RouteInfo {
            destination: prefix.value.address().into(),
            prefix_len: prefix.value.prefix_len(),
            via: None,
            expires_at: prefix.until,
        });
        let ways = self.routers.ways.iter().map(|way| RouteInfo {
            destination: way.value.destination.address().into(),
            prefix_len: way.value.destination.prefix_len(),
            via: Some(way.value.router.into()),
            expires_at: way.until,
        });
        link_local.into_iter().chain(on_link).chain(ways)
    }
}
