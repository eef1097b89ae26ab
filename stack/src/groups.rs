//! Multicast groups: which ones we are in, and telling the routers on the link (IGMPv3, RFC 3376, or version 2 where a router speaks
//! only that; MLDv2, RFC 3810, or version 1).
//!
//! A group is joined by one or more users (UDP sockets, our own IPv6 addresses) and reported when the first comes, when the last goes,
//! each time twice, and when a router asks, after a random part of the time that it gives. Sources are never filtered.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use smoltcp::wire::{EthernetProtocol, IpProtocol, Ipv4Packet};

use crate::egress::Egress;
use crate::icmp::fill_checksum;
use crate::ip::{self, Header, Packet};
use crate::ipv4;
use crate::neighbor::Mac;
use crate::network::Network;
use crate::time::Instant;
use crate::timers::{Armed, Timer};

/// Groups at once: our addresses' own, and a few for each of some clients. Linux's `igmp_max_memberships` is 20 for one socket.
const GROUPS_MAX: usize = 256;
/// How often a change is reported, in case a report is lost (RFC 3376, 8.1: the robustness variable), and the longest time between.
const ROBUSTNESS: u8 = 2;
const CHANGE_INTERVAL_MILLIS: u32 = 1000;
/// How long a router that speaks only the older version is remembered (RFC 3376, 8.12 with its defaults).
const OLDER_ROUTER: Duration = Duration::from_secs(260);

const ALL_ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_REPORTS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_REPORTS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// What a record of a report says (RFC 3376, 4.2.12; RFC 3810, 5.2.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Record {
    IsMember = 2,
    Leaves = 3,
    Joins = 4,
}

struct Group {
    users: usize,
    /// Reports of `record` that are still due, the next one at `next`.
    left: u8,
    next: Instant,
    record: Record,
}

#[derive(Default)]
pub(crate) struct Groups {
    groups: BTreeMap<IpAddr, Group>,
    armed: Armed,
    /// Until when an IPv4 or IPv6 router of the older version is believed to be there.
    older_until: [Instant; 2],
}

/// Whether routers have to know about the members of `group`: those of the link's own all-hosts groups and of groups that never leave
/// the host are not reported (RFC 3376, 6; RFC 3810, 6).
fn is_reported(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group != Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => {
            let scope = group.octets()[1] & 0x0f;
            scope > 1 && group != Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
        }
    }
}

/// The hardware address of a group (RFC 1112, 6.4; RFC 2464, 7).
pub(crate) fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

impl Network {
    /// Whether packets for `group` are for us.
    pub(crate) fn is_member(&self, group: IpAddr) -> bool {
        let always = match group {
            IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
            IpAddr::V6(group) => group.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1],
        };
        always || self.groups.groups.get(&group).is_some_and(|group| group.users > 0)
    }

    /// Adds a user of `group`; false if there is no room.
    pub(crate) fn join_group(&mut self, now: Instant, group: IpAddr) -> bool {
        if !self.groups.groups.contains_key(&group) && self.groups.groups.len() >= GROUPS_MAX {
            return false;
        }
        let entry = self.groups.groups.entry(group).or_insert(Group {
            users: 0,
            left: 0,
            next: now,
            record: Record::Joins,
        });
        entry.users += 1;
        if entry.users == 1 && is_reported(group) {
            entry.record = Record::Joins;
            entry.left = ROBUSTNESS;
            entry.next = now;
            self.arm_groups();
        }
        true
    }

    /// Removes a user of `group`.
    pub(crate) fn leave_group(&mut self, now: Instant, group: IpAddr) {
        let Some(entry) = self.groups.groups.get_mut(&group) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        if is_reported(group) {
            entry.record = Record::Leaves;
            entry.left = ROBUSTNESS;
            entry.next = now;
            self.arm_groups();
        } else {
            self.groups.groups.remove(&group);
        }
    }

    /// Reports every group once more: the link was away, and whoever forwards to us may have forgotten.
    pub(crate) fn report_groups_again(&mut self, now: Instant) {
        for (address, group) in &mut self.groups.groups {
            if group.users > 0 && is_reported(*address) {
                (group.record, group.left, group.next) = (Record::Joins, ROBUSTNESS, now);
            }
        }
        self.arm_groups();
    }

    fn arm_groups(&mut self) {
        let next = self.groups.groups.values().filter(|group| group.left > 0).map(|group| group.next).min();
        if let Some(next) = next {
            self.timers.arm(&mut self.groups.armed, Timer::Groups, next);
        }
    }

    /// Sends the reports that are due.
    pub(crate) fn groups_timer<E: Egress>(&mut self, now: Instant, deadline: Instant, egress: &mut E) {
        if !self.groups.armed.fires(deadline) {
            return;
        }
        let mut due = Vec::new();
        for (address, group) in &mut self.groups.groups {
            if group.left > 0 && now >= group.next {
                group.left -= 1;
                let jitter = self.random.below(CHANGE_INTERVAL_MILLIS).into();
                group.next = now + Duration::from_millis(jitter);
                due.push((*address, group.record));
            }
        }
        self.groups.groups.retain(|_, group| group.users > 0 || group.left > 0);
        for (group, record) in due {
            self.report_group(now, group, record, egress);
        }
        self.arm_groups();
    }

    fn report_group<E: Egress>(&mut self, now: Instant, group: IpAddr, record: Record, egress: &mut E) {
        match group {
            IpAddr::V4(group) if self.address().is_some() => self.report_v4(now, group, record, egress),
            IpAddr::V6(group) => self.report_v6(now, group, record, egress),
            IpAddr::V4(_) => {}
        }
    }

    fn report_v4<E: Egress>(&mut self, now: Instant, group: Ipv4Addr, record: Record, egress: &mut E) {
        let Some(source) = self.address() else { return };
        let older = now < self.groups.older_until[0];
        let (destination, message) = match (older, record) {
            (false, _) => {
                let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, 1, record as u8, 0, 0, 0];
                message.extend(group.octets());
                (ALL_REPORTS_V4, message)
            }
            // RFC 2236, 2.
            (true, Record::Leaves) => (ALL_ROUTERS_V4, [&[0x17, 0, 0, 0][..], &group.octets()].concat()),
            (true, _) => (group, [&[0x16, 0, 0, 0][..], &group.octets()].concat()),
        };
        // RFC 3376, 4: hop limit 1 and the router alert option (RFC 2113), so that the header has 24 bytes.
        let len = ipv4::HEADER_LEN + 4 + message.len();
        let sent_to = group_mac(destination.into());
        self.counters.group_reports_sent += 1;
        self.transmit(egress, sent_to, EthernetProtocol::Ipv4, len, |buffer| {
            ipv4::emit_header(buffer, source, destination, IpProtocol::Igmp, 1);
            buffer[24..].copy_from_slice(&message);
            let checksum = internet_checksum(&buffer[24..]);
            buffer[26..28].copy_from_slice(&checksum.to_be_bytes());
            buffer[20..24].copy_from_slice(&[0x94, 4, 0, 0]);
            let mut packet = Ipv4Packet::new_unchecked(buffer);
            packet.set_header_len(24);
            packet.fill_checksum();
            true
        });
    }

    fn report_v6<E: Egress>(&mut self, now: Instant, group: Ipv6Addr, record: Record, egress: &mut E) {
        if !self.ipv6.is_enabled() {
            return;
        }
        let older = now < self.groups.older_until[1];
        let (destination, message) = match (older, record) {
            (false, _) => {
                let head = [143, 0, 0, 0, 0, 0, 0, 1, record as u8, 0, 0, 0];
                (ALL_REPORTS_V6, [&head[..], &group.octets()].concat())
            }
            // RFC 2710, 3.
            (true, Record::Leaves) => {
                (ALL_ROUTERS_V6, [&[132, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat())
            }
            (true, _) => (group, [&[131, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat()),
        };
        // RFC 3810, 5.2.13: from the unspecified address as long as the link-local one is being probed.
        let source = self.ipv6.link_local().unwrap_or(Ipv6Addr::UNSPECIFIED);
        let outer = Header { ttl: 1, ..Header::new(source.into(), destination.into(), IpProtocol::HopByHop) };
        let inner = Header { protocol: IpProtocol::Icmpv6, ..outer };
        let len = ip::IPV6_HEADER_LEN + 8 + message.len();
        self.counters.group_reports_sent += 1;
        self.transmit(egress, group_mac(destination.into()), EthernetProtocol::Ipv6, len, |buffer| {
            ip::emit_header(buffer, &outer);
            // The router alert option (RFC 2711) and padding.
            buffer[40..48].copy_from_slice(&[58, 0, 5, 2, 0, 0, 1, 0]);
            buffer[48..].copy_from_slice(&message);
            fill_checksum(&mut buffer[48..], &inner);
            true
        });
    }

    /// Handles an IGMP packet.
    pub(crate) fn handle_igmp(&mut self, now: Instant, packet: &Packet<'_>) {
        let body = packet.payload;
        if body.len() < 8 || internet_checksum(body) != 0 {
            self.counters.drop_group_malformed += 1;
            return;
        }
        // Reports of other hosts would only save us ours.
        if body[0] != 0x11 {
            return;
        }
        let group = Ipv4Addr::new(body[4], body[5], body[6], body[7]);
        let group = (!group.is_unspecified()).then_some(IpAddr::V4(group));
        let tenths = match body.len() {
            // RFC 2236, 4: version 1 has a zero here and means 10 s.
            8 => {
                self.groups.older_until[0] = now + OLDER_ROUTER;
                if body[1] == 0 { 100 } else { u32::from(body[1]) }
            }
            _ => mantissa(body[1].into(), 4, 3),
        };
        self.answer_query(now, group, true, tenths * 100);
    }

    /// Handles an MLD message whose checksum is right.
    pub(crate) fn handle_mld(&mut self, now: Instant, packet: &Packet<'_>) {
        let body = packet.payload;
        let local = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
        // RFC 3810, 6.2: from a link-local address with hop limit 1.
        if body.len() < 24 || packet.ttl != 1 || !local {
            self.counters.drop_group_malformed += 1;
            return;
        }
        if body[0] != 130 {
            return;
        }
        let group = body[8..].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
        let group = group.filter(|group| !group.is_unspecified()).map(IpAddr::V6);
        let delay = u16::from_be_bytes([body[4], body[5]]);
        let millis = if body.len() < 28 {
            self.groups.older_until[1] = now + OLDER_ROUTER;
            delay.into()
        } else {
            mantissa(delay.into(), 12, 3)
        };
        self.answer_query(now, group, false, millis);
    }

    fn answer_query(&mut self, now: Instant, asked: Option<IpAddr>, v4: bool, within_millis: u32) {
        for (address, group) in &mut self.groups.groups {
            let concerned = asked.is_none_or(|asked| asked == *address) && address.is_ipv4() == v4;
            if !concerned || !is_reported(*address) || group.users == 0 {
                continue;
            }
            let at = now + Duration::from_millis(self.random.below(within_millis.max(1)).into());
            // A report that is due earlier answers as well.
            if group.left == 0 {
                group.record = Record::IsMember;
                group.left = 1;
                group.next = at;
            }
        }
        self.arm_groups();
    }
}

/// The floating point of RFC 3376, 4.1.1 and RFC 3810, 5.1.3: below the top bit plain, above it a mantissa of `bits` bits and an
/// exponent of `exponent_bits`.
fn mantissa(code: u32, bits: u32, exponent_bits: u32) -> u32 {
    if code >> (bits + exponent_bits) == 0 {
        return code;
    }
    let exponent = code >> bits & ((1 << exponent_bits) - 1);
    (code & ((1 << bits) - 1) | 1 << bits) << (exponent + 3)
}

/// RFC 1071; zero over a message with its checksum in place.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_times_are_plain_or_floating() {
        assert_eq!(mantissa(100, 4, 3), 100);
        assert_eq!(mantissa(0x80, 4, 3), 16 << 3);
        assert_eq!(mantissa(0xff, 4, 3), 31 << 10);
        assert_eq!(mantissa(10_000, 12, 3), 10_000);
        assert_eq!(mantissa(0x8000, 12, 3), 4096 << 3);
    }

    #[test]
    fn group_hardware_addresses() {
        let mac = |text: &str| group_mac(text.parse().unwrap());
        assert_eq!(mac("224.0.0.251"), [0x01, 0x00, 0x5e, 0, 0, 251]);
        assert_eq!(mac("239.129.1.2"), [0x01, 0x00, 0x5e, 1, 1, 2]);
        assert_eq!(mac("ff02::fb"), [0x33, 0x33, 0, 0, 0, 0xfb]);
    }
}
