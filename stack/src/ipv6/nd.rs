//! Neighbour discovery on the wire: what is answered, learned, probed and asked.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use smoltcp::wire::{EthernetProtocol, IpProtocol};

use super::addresses::{
    ADDRESSES_MAX, Check, InterfaceId, PROBE_INTERVAL, PROBES, is_assignable, solicited_node,
};
use super::message::{Message, RouterAdvertisement};
use super::{
    ATTEMPTS_MAX, Cidr6, Ipv6, Lifetime, SOLICIT_INTERVAL, SOLICIT_INTERVAL_MAX, START_DELAY_MILLIS,
};
use crate::config::Ipv6Addressing;
use crate::egress::Egress;
use crate::events::Ready;
use crate::icmp::fill_checksum;
use crate::info::AddressOrigin;
use crate::ip::{self, Header, Packet};
use crate::neighbor::{Claim, Mac};
use crate::network::Network;
use crate::time::Instant;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// RFC 4861, 7.1: proves that the message comes from the link.
const HOP_LIMIT: u8 = 255;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Options that carry a hardware address.
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

impl Network {
    /// Begins to use IPv6: groups are joined, and the first probe is due soon.
    pub(crate) fn start_ipv6(&mut self, now: Instant) {
        let groups: Vec<IpAddr> = self.ipv6.solicited_groups().collect();
        for group in groups {
            self.join_group(now, group);
        }
        self.ipv6.arm(&mut self.timers);
    }

    /// Takes another way to IPv6 addresses into use. Addresses that both ways have stay in use.
    pub(crate) fn reconfigure_ipv6(
        &mut self,
        now: Instant,
        addressing: &Ipv6Addressing,
        secret: Option<[u8; 16]>,
    ) {
        let device = (self.mac, self.ipv6.device_mtu);
        let mut fresh = Ipv6::new(addressing, secret, device, now, &mut self.random);
        fresh.inherit(&self.ipv6);
        let former: Vec<IpAddr> = self.ipv6.solicited_groups().collect();
        self.ipv6 = fresh;
        self.start_ipv6(now);
        for group in former {
            self.leave_group(now, group);
        }
        self.ask_routers_again(now);
        self.events.push(Ready::Addresses);
    }

    /// Asks for routers, as at the start: they may be others.
    pub(crate) fn ask_routers_again(&mut self, now: Instant) {
        // Before there is a link-local address, having one begins this.
        if self.ipv6.link_local().is_some() {
            let delay = self.random.below(START_DELAY_MILLIS);
            self.ipv6.solicit_from(now + Duration::from_millis(delay.into()));
            self.ipv6.arm(&mut self.timers);
        }
    }

    /// Handles a message of neighbour discovery whose checksum is right; true if one of our addresses is gone.
    pub(crate) fn handle_nd<E: Egress>(&mut self, now: Instant, packet: &Packet<'_>, egress: &mut E) -> bool {
        let (IpAddr::V6(source), Some(message)) = (packet.source, Message::parse(packet)) else {
            self.counters.drop_nd_malformed += 1;
            return false;
        };
        match message {
            Message::Solicitation { target, source_mac } => {
                self.handle_solicitation(now, (source, source_mac), target, egress)
            }
            Message::Advertisement { target, target_mac, router, solicited, overrides } => {
                let claim = Claim { mac: target_mac, solicited, overrides };
                self.handle_advertisement(now, target, claim, router, egress)
            }
            Message::Router(advertisement) => {
                self.handle_router(now, source, &advertisement, egress);
                false
            }
            Message::Other => {
                self.counters.drop_nd_unsolicited += 1;
                false
            }
        }
    }

    fn handle_solicitation<E: Egress>(
        &mut self,
        now: Instant,
        (source, source_mac): (Ipv6Addr, Option<Mac>),
        target: Ipv6Addr,
        egress: &mut E,
    ) -> bool {
        let Some(own) = self.ipv6.addresses.iter().find(|own| own.address == target) else {
            self.counters.drop_nd_unsolicited += 1;
            return false;
        };
        match own.check {
            // RFC 4862, 5.4.3: whoever probes the same address wants it too; whoever only asks for it is not answered yet.
            Check::Tentative { .. } if source.is_unspecified() => self.duplicated(now, target),
            Check::Tentative { .. } | Check::Duplicated => false,
            Check::Passed if source.is_unspecified() => {
                self.advertise(egress, target, ALL_NODES, None);
                false
            }
            Check::Passed => {
                if let Some(mac) = source_mac {
                    let claim = Claim { mac: Some(mac), solicited: false, overrides: true };
                    self.learn_v6(now, source, claim, egress);
                }
                self.advertise(egress, target, source, source_mac);
                false
            }
        }
    }

    fn handle_advertisement<E: Egress>(
        &mut self,
        now: Instant,
        target: Ipv6Addr,
        claim: Claim,
        router: bool,
        egress: &mut E,
    ) -> bool {
        if let Some(own) = self.ipv6.addresses.iter().find(|own| own.address == target) {
            return match own.check {
                Check::Tentative { .. } => self.duplicated(now, target),
                // RFC 4862, 5.4.4: out of its scope, and we had it first. The counter tells the operator.
                Check::Passed | Check::Duplicated => {
                    self.counters.nd_duplicates += 1;
                    false
                }
            };
        }
        if !self.learn_v6(now, target, claim, egress) {
            self.counters.drop_nd_unsolicited += 1;
        } else if !router && self.ipv6.routers.forget_router(target) {
            // RFC 4861, 7.2.5: it was a router and says that it is none any more.
            self.router_lost(now);
        }
        false
    }

    /// Takes what a neighbour says about itself, if we ever asked; false if not.
    fn learn_v6<E: Egress>(&mut self, now: Instant, address: Ipv6Addr, claim: Claim, egress: &mut E) -> bool {
        let Some((mac, waiting)) = self.neighbors.learn_claim(now, address.into(), claim) else {
            return false;
        };
        if let Some(mac) = mac {
            self.release_waiting(egress, mac, EthernetProtocol::Ipv6, waiting);
        }
        true
    }

    fn handle_router<E: Egress>(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        advertisement: &RouterAdvertisement,
        egress: &mut E,
    ) {
        if !self.ipv6.automatic || !self.ipv6.enabled {
            self.counters.drop_nd_unsolicited += 1;
            return;
        }
        self.counters.nd_router_advertisements += 1;
        if let Some(mac) = advertisement.source_mac {
            let claim = Claim { mac: Some(mac), solicited: false, overrides: true };
            self.learn_v6(now, source, claim, egress);
        }
        let had_default = self.ipv6.routers.has_default();
        let mut changed = self.ipv6.routers.learn(now, source, advertisement, self.ipv6.device_mtu);
        for prefix in advertisement.prefixes.iter().filter(|prefix| prefix.autonomous) {
            // RFC 4862, 5.5.3; an interface identifier has 64 bits, so only a /64 makes an address.
            if prefix.cidr.prefix_len() == 64 && is_assignable(prefix.cidr) {
                changed |= self.configure(now, prefix.cidr, prefix.preferred, prefix.valid);
            }
        }
        if self.ipv6.routers.has_default() {
            self.ipv6.solicit_at = None;
        } else if had_default {
            self.router_lost(now);
        }
        if changed {
            self.events.push(Ready::Addresses);
        }
        self.ipv6.arm(&mut self.timers);
    }

    /// Makes an address in `prefix`, or refreshes the one that is there; true if it was made.
    fn configure(&mut self, now: Instant, prefix: Cidr6, preferred: Lifetime, valid: Lifetime) -> bool {
        let ours =
            |own: &&mut super::Address| own.origin == AddressOrigin::Slaac && prefix.contains(own.address);
        if let Some(own) = self.ipv6.addresses.iter_mut().find(ours) {
            own.refresh(now, preferred, valid);
            return false;
        }
        if valid.is_zero() || self.ipv6.addresses.len() >= ADDRESSES_MAX {
            return false;
        }
        let address = self.ipv6.id.address(prefix.address(), self.mac, 0);
        let cidr = Cidr6::new(address, 64).ok();
        self.ipv6.add(now, cidr, AddressOrigin::Slaac, &mut self.random);
        if let Some(own) = self.ipv6.addresses.last_mut() {
            own.preferred_until = preferred.end(now);
            own.valid_until = valid.end(now);
        }
        self.join_group(now, solicited_node(address).into());
        true
    }

    /// Takes an address that a DHCPv6 server granted. It says nothing about what is on the link (RFC 8415, 18.2.10.1), hence 128 bits.
    pub(crate) fn adopt_dhcp(
        &mut self,
        now: Instant,
        address: Ipv6Addr,
        preferred: Lifetime,
        valid: Lifetime,
    ) {
        let known = self.ipv6.addresses.iter().any(|own| own.address == address);
        if !known {
            let cidr = Cidr6::new(address, 128).ok();
            if !self.ipv6.add(now, cidr, AddressOrigin::Dhcp, &mut self.random) {
                return;
            }
            self.join_group(now, solicited_node(address).into());
            self.events.push(Ready::Addresses);
        }
        if let Some(own) = self.ipv6.addresses.iter_mut().find(|own| own.address == address) {
            own.preferred_until = preferred.end(now);
            own.valid_until = valid.end(now);
        }
        self.ipv6.arm(&mut self.timers);
    }

    /// Takes resolvers and domains from a DHCPv6 server.
    pub(crate) fn learn_resolvers(
        &mut self,
        now: Instant,
        dns: &[Ipv6Addr],
        search: &[String],
        lifetime: Lifetime,
    ) {
        let mut changed = false;
        for server in dns {
            changed |= self.ipv6.routers.learn_resolver(now, *server, lifetime);
        }
        for name in search {
            changed |= self.ipv6.routers.learn_domain(now, name, lifetime);
        }
        if changed {
            self.events.push(Ready::Addresses);
        }
        self.ipv6.arm(&mut self.timers);
    }

    /// An address that we were about to use belongs to somebody else. An opaque identifier is made anew (RFC 7217, 6); without a
    /// link-local address there is no IPv6. Returns true if addresses in use went with it.
    fn duplicated(&mut self, now: Instant, address: Ipv6Addr) -> bool {
        self.counters.nd_duplicates += 1;
        let (id, mac) = (self.ipv6.id, self.mac);
        let Some(own) = self.ipv6.addresses.iter_mut().find(|own| own.address == address) else {
            return false;
        };
        let again = matches!(id, InterfaceId::Opaque { .. })
            && matches!(own.origin, AddressOrigin::LinkLocal | AddressOrigin::Slaac)
            && own.attempt + 1 < ATTEMPTS_MAX;
        let mut gone = false;
        if again {
            own.attempt += 1;
            own.address = id.address(address, mac, own.attempt);
            own.check = Check::Tentative { sent: 0, next: now };
            let replacement = solicited_node(own.address);
            self.join_group(now, replacement.into());
        } else {
            own.check = Check::Duplicated;
            if own.origin == AddressOrigin::LinkLocal {
                self.ipv6.disable();
                gone = true;
            }
        }
        self.leave_group(now, solicited_node(address).into());
        self.events.push(Ready::Addresses);
        self.ipv6.arm(&mut self.timers);
        gone
    }

    fn router_lost(&mut self, now: Instant) {
        if !self.ipv6.routers.has_default() {
            let delay = self.random.below(START_DELAY_MILLIS);
            self.ipv6.solicit_from(now + Duration::from_millis(delay.into()));
        }
        self.events.push(Ready::Addresses);
        self.ipv6.arm(&mut self.timers);
    }

    /// Does what is due; true if one of our addresses is gone.
    pub(crate) fn ipv6_timer<E: Egress>(&mut self, now: Instant, deadline: Instant, egress: &mut E) -> bool {
        if !self.ipv6.armed.fires(deadline) || !self.ipv6.enabled {
            return false;
        }
        let probes = self.advance_checks(now);
        for target in probes {
            self.solicit(egress, target, None);
        }
        let gone = self.expire_addresses(now);
        if self.ipv6.routers.expire(now) {
            self.router_lost(now);
        }
        if self.ipv6.solicit_at.is_some_and(|at| now >= at) {
            self.solicit_routers(now, egress);
        }
        self.ipv6.arm(&mut self.timers);
        gone
    }

    /// Moves duplicate address detection on; returns the addresses whose probe is due.
    fn advance_checks(&mut self, now: Instant) -> Vec<Ipv6Addr> {
        let mut probes = Vec::new();
        let mut passed = false;
        let mut link_local = false;
        for own in &mut self.ipv6.addresses {
            match &mut own.check {
                Check::Tentative { sent, next } if now >= *next && *sent < PROBES => {
                    *sent += 1;
                    *next = now + PROBE_INTERVAL;
                    probes.push(own.address);
                }
                Check::Tentative { next, .. } if now >= *next => {
                    own.check = Check::Passed;
                    passed = true;
                    link_local |= own.origin == AddressOrigin::LinkLocal;
                }
                Check::Tentative { .. } | Check::Passed | Check::Duplicated => {}
            }
        }
        if link_local {
            self.ipv6.solicit_from(now);
        }
        if passed {
            self.events.push(Ready::Addresses);
        }
        probes
    }

    fn expire_addresses(&mut self, now: Instant) -> bool {
        let expired = |own: &super::Address| own.valid_until.is_some_and(|until| now >= until);
        let gone: Vec<Ipv6Addr> =
            self.ipv6.addresses.iter().filter(|own| expired(own)).map(|own| own.address).collect();
        self.ipv6.addresses.retain(|own| !expired(own));
        for address in &gone {
            self.leave_group(now, solicited_node(*address).into());
            self.events.push(Ready::Addresses);
        }
        !gone.is_empty()
    }

    /// RFC 4861, 6.3.7, and RFC 7559 for how often.
    fn solicit_routers<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        let doubled = SOLICIT_INTERVAL * (1 << self.ipv6.solicited.min(10));
        let interval = doubled.min(SOLICIT_INTERVAL_MAX);
        let jitter = interval / 100 * self.random.below(10);
        self.ipv6.solicited += 1;
        self.ipv6.solicit_at = Some(now + interval + jitter);
        let Some(source) = self.ipv6.link_local() else { return };
        self.counters.nd_router_solicitations_sent += 1;
        let header = nd_header(source, ALL_ROUTERS);
        let mac = self.mac;
        self.send_nd(egress, header, None, 8 + 8, |message| {
            message[0] = ROUTER_SOLICITATION;
            put_mac(&mut message[8..], SOURCE_MAC, mac);
        });
    }

    /// Asks who has `target`: everybody in its group, or the one who is believed to have it. For an address of our own that is not in
    /// use yet this is the probe (RFC 4862, 5.4.2).
    pub(crate) fn solicit<E: Egress>(&mut self, egress: &mut E, target: Ipv6Addr, to: Option<Mac>) {
        let tentative = self.ipv6.addresses.iter().any(|own| own.address == target && !own.is_usable());
        let source = if tentative { Some(Ipv6Addr::UNSPECIFIED) } else { self.ipv6.source_for(target) };
        let Some(source) = source else { return };
        self.counters.nd_solicitations_sent += 1;
        let destination = if to.is_some() { target } else { solicited_node(target) };
        let mac = self.mac;
        let len = if tentative { 24 } else { 24 + 8 };
        self.send_nd(egress, nd_header(source, destination), to, len, |message| {
            message[0] = NEIGHBOR_SOLICITATION;
            message[8..24].copy_from_slice(&target.octets());
            if !tentative {
                put_mac(&mut message[24..], SOURCE_MAC, mac);
            }
        });
    }

    /// Says that `target` is ours: to the one who asked, or to everybody.
    fn advertise<E: Egress>(&mut self, egress: &mut E, target: Ipv6Addr, to: Ipv6Addr, mac: Option<Mac>) {
        self.counters.nd_advertisements_sent += 1;
        let flags = if to.is_multicast() { OVERRIDE } else { SOLICITED | OVERRIDE };
        let own_mac = self.mac;
        self.send_nd(egress, nd_header(target, to), mac, 24 + 8, |message| {
            message[0] = NEIGHBOR_ADVERTISEMENT;
            message[4] = flags;
            message[8..24].copy_from_slice(&target.octets());
            put_mac(&mut message[24..], TARGET_MAC, own_mac);
        });
    }

    /// Sends a message to `mac` or, where nobody's is given, by way of the groups and neighbours.
    fn send_nd<E: Egress>(
        &mut self,
        egress: &mut E,
        header: Header,
        mac: Option<Mac>,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let write = |packet: &mut [u8]| {
            packet.fill(0);
            ip::emit_header(packet, &header);
            let message = &mut packet[ip::IPV6_HEADER_LEN..];
            fill(message);
            fill_checksum(message, &header);
            true
        };
        let len = ip::IPV6_HEADER_LEN + len;
        match mac {
            Some(mac) => self.transmit(egress, mac, EthernetProtocol::Ipv6, len, write),
            None => self.send_packet(self.ipv6.clock, egress, header.destination, len, write),
        };
    }
}

fn nd_header(source: Ipv6Addr, destination: Ipv6Addr) -> Header {
    let header = Header::new(source.into(), destination.into(), IpProtocol::Icmpv6);
    Header { ttl: HOP_LIMIT, ..header }
}

/// An option with a hardware address: one unit of eight bytes.
fn put_mac(option: &mut [u8], kind: u8, mac: Mac) {
    option[0] = kind;
    option[1] = 1;
    option[2..8].copy_from_slice(&mac);
}
