//! The way of a frame through the stack.

use core::net::IpAddr;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol};

use super::Stack;
use crate::dhcp;
use crate::dhcp6;
use crate::egress::{Egress, Integrity};
use crate::fragment::Fragment;
use crate::icmp::{self, Refusal, Report};
use crate::ip::{Packet, Parsed};
use crate::network::ETHERNET_HEADER_LEN;
use crate::tcp::Tuple;
use crate::time::Instant;
use crate::{ipv4, ipv6, udp};

impl Stack {
    /// Handles a frame from a device that says nothing about it; replies that cannot wait leave through `egress`.
    pub fn handle_frame<E: Egress>(&mut self, now: Instant, frame: &[u8], egress: &mut E) {
        self.handle_received(now, (frame, Integrity::Unknown), egress);
    }

    /// Handles a frame with what the device says about its checksum. Joined segments of TCP are frames like others.
    pub fn handle_received<E: Egress>(
        &mut self,
        now: Instant,
        (frame, integrity): (&[u8], Integrity),
        egress: &mut E,
    ) {
        if self.failed {
            return;
        }
        self.network.ipv6.clock = now;
        let counters = &mut self.network.counters;
        counters.frames_received += 1;
        counters.bytes_received += frame.len() as u64;
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
            counters.drop_frame_malformed += 1;
            return;
        };
        let (source, destination) = (ethernet.src_addr(), ethernet.dst_addr());
        let for_us = destination.0 == self.network.mac;
        // What comes from our own hardware address is our own, sent back by a switch or by somebody who plays us.
        if !(for_us || destination.is_multicast()) || !source.is_unicast() || source.0 == self.network.mac {
            counters.drop_frame_not_for_us += 1;
            return;
        }
        let payload = &frame[ETHERNET_HEADER_LEN..];
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                if let Some(address) = self.network.handle_arp(now, payload, egress) {
                    self.address_taken(now, address, egress);
                }
            }
            EthernetProtocol::Ipv4 => self.handle_ipv4(now, (payload, integrity), for_us, egress),
            EthernetProtocol::Ipv6 if self.network.ipv6.is_enabled() => {
                self.handle_ipv6(now, (payload, integrity), for_us, egress);
            }
            EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => counters.drop_ethertype_unknown += 1,
        }
    }

    /// `for_us`: the frame was sent to our hardware address and not to a group's.
    fn handle_ipv4<E: Egress>(
        &mut self,
        now: Instant,
        (bytes, integrity): (&[u8], Integrity),
        for_us: bool,
        egress: &mut E,
    ) {
        let Some(parsed) = ipv4::parse(bytes, &mut self.network.counters) else { return };
        let parsed = parsed.believing(integrity);
        if let Parsed::Whole(packet) = &parsed
            && self.handle_dhcp(now, packet, egress)
        {
            return;
        }
        let (source, destination, _) = parsed.ends();
        if self.accepts_v4(source, destination, for_us) {
            self.accept(now, &parsed, egress);
        }
    }

    fn accept<E: Egress>(&mut self, now: Instant, parsed: &Parsed<'_>, egress: &mut E) {
        match parsed {
            Parsed::Whole(packet) => self.dispatch(now, packet, egress),
            Parsed::Fragment(fragment) => self.reassemble(now, fragment, egress),
        }
    }

    fn accepts_v4(&mut self, source: IpAddr, destination: IpAddr, for_us: bool) -> bool {
        let network = &mut self.network;
        let many = network.is_broadcast(destination)
            || (destination.is_multicast() && network.is_member(destination));
        // RFC 1122, 3.3.6: a unicast packet in a broadcast frame is dropped; so is one that claims to come from us.
        let plausible = many || (network.is_own(destination) && for_us);
        if !plausible || network.address().is_none() {
            network.counters.drop_ip_not_for_us += 1;
            return false;
        }
        if network.is_own(source) || network.is_broadcast(source) {
            network.counters.drop_ip_source += 1;
            return false;
        }
        true
    }

    fn handle_ipv6<E: Egress>(
        &mut self,
        now: Instant,
        (bytes, integrity): (&[u8], Integrity),
        for_us: bool,
        egress: &mut E,
    ) {
        let Some(parsed) = ipv6::parse(bytes, &mut self.network.counters) else { return };
        let parsed = parsed.believing(integrity);
        let (source, destination, protocol) = parsed.ends();
        if !self.accepts_v6(source, destination, for_us, protocol) {
            return;
        }
        match &parsed {
            Parsed::Whole(packet) if self.handle_dhcp6(now, packet, egress) => {}
            Parsed::Whole(_) | Parsed::Fragment(_) => self.accept(now, &parsed, egress),
        }
    }

    fn accepts_v6(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        for_us: bool,
        protocol: IpProtocol,
    ) -> bool {
        let network = &mut self.network;
        let plausible = if destination.is_multicast() {
            network.is_member(destination)
        } else {
            network.is_own(destination) && for_us
        };
        if !plausible {
            network.counters.drop_ip_not_for_us += 1;
            return false;
        }
        // Only neighbour discovery and MLD speak from no address.
        if network.is_own(source) || (source.is_unspecified() && protocol != IpProtocol::Icmpv6) {
            network.counters.drop_ip_source += 1;
            return false;
        }
        true
    }

    fn reassemble<E: Egress>(&mut self, now: Instant, fragment: &Fragment<'_>, egress: &mut E) {
        // RFC 6980, 5: neighbour discovery is never fragmented, and accepting it helps only attackers.
        if IpProtocol::from(fragment.key.protocol) == IpProtocol::Icmpv6
            && fragment.key.destination.is_multicast()
        {
            self.network.counters.drop_fragment_malformed += 1;
            return;
        }
        let network = &mut self.network;
        let whole = self.reassembly.add(now, fragment, &mut network.timers, &mut network.counters);
        if let Some(bytes) = whole {
            self.dispatch_whole(now, (&bytes, Integrity::Unknown), egress);
        }
    }

    /// Reads a packet that we put together or sent to ourselves, and hands it on.
    fn dispatch_whole<E: Egress>(
        &mut self,
        now: Instant,
        (bytes, integrity): (&[u8], Integrity),
        egress: &mut E,
    ) {
        let counters = &mut self.network.counters;
        let parsed = match bytes.first().map(|first| first >> 4) {
            Some(6) => ipv6::parse(bytes, counters),
            _ => ipv4::parse(bytes, counters),
        };
        // A fragment within fragments is nobody's honest packet.
        if let Some(Parsed::Whole(packet)) = parsed.map(|parsed| parsed.believing(integrity)) {
            self.dispatch(now, &packet, egress);
        }
    }

    /// Hands the packets that we sent to ourselves back to us; what they cause to be looped waits for the next round.
    pub(super) fn deliver_looped<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        for _ in 0..self.network.looped.len() {
            let Some(bytes) = self.network.looped.pop() else { break };
            // It never left us, and its checksum was never computed.
            self.dispatch_whole(now, (&bytes, Integrity::Verified), egress);
        }
    }

    /// Not all fragments of a datagram arrived in time; its sender is told if the first one did (RFC 1122, 3.3.2; RFC 8200, 4.5).
    pub(super) fn reassembly_expired<E: Egress>(&mut self, now: Instant, serial: u64, egress: &mut E) {
        let expired = self.reassembly.timer_expired(serial, &mut self.network.counters);
        let Some((key, first)) = expired else { return };
        let counters = &mut self.network.counters;
        let parsed =
            if key.source.is_ipv4() { ipv4::parse(&first, counters) } else { ipv6::parse(&first, counters) };
        // It was read when it came.
        let Some(Parsed::Fragment(Fragment { payload, .. })) = parsed else { return };
        let packet = Packet {
            source: key.source,
            destination: key.destination,
            protocol: key.protocol.into(),
            ttl: 0,
            ecn: 0,
            whole: &first,
            payload,
            protocol_at: 0,
            to_many: key.destination.is_multicast(),
            verified: false,
        };
        self.icmp.refuse(now, &packet, Refusal::ReassemblyTime, &mut self.network, egress);
    }

    /// Hands a packet that is for us to its protocol.
    fn dispatch<E: Egress>(&mut self, now: Instant, packet: &Packet<'_>, egress: &mut E) {
        let Stack { network, tcp, udp, icmp, .. } = self;
        let many = packet.to_many || network.is_broadcast(packet.destination);
        match packet.protocol {
            IpProtocol::Tcp if !many => tcp.handle_packet(now, packet, network, egress),
            IpProtocol::Udp => {
                if !udp.handle_packet(packet, network) {
                    icmp.refuse(now, packet, Refusal::ClosedPort, network, egress);
                }
            }
            IpProtocol::Icmp if packet.source.is_ipv4() => {
                if let Some(report) = icmp.handle_v4(now, packet, network, egress) {
                    self.handle_report(&report);
                }
            }
            IpProtocol::Icmpv6 if packet.source.is_ipv6() => self.handle_icmpv6(now, packet, egress),
            IpProtocol::Igmp if packet.source.is_ipv4() => network.handle_igmp(now, packet),
            _ => {
                network.counters.drop_ip_protocol += 1;
                icmp.refuse(now, packet, Refusal::UnknownProtocol, network, egress);
            }
        }
    }

    /// A DHCP server answers to an address that is not ours yet.
    fn handle_dhcp<E: Egress>(&mut self, now: Instant, packet: &Packet<'_>, egress: &mut E) -> bool {
        let Some(dhcp) = self.dhcp.as_mut().filter(|_| packet.protocol == IpProtocol::Udp) else {
            return false;
        };
        let Some((ports, payload)) = udp::parse(packet) else { return false };
        if (ports.src_port, ports.dst_port) != (dhcp::SERVER_PORT, dhcp::CLIENT_PORT) {
            return false;
        }
        let change = dhcp.handle(now, payload, &mut self.network, egress);
        self.apply(now, change);
        true
    }

    /// A DHCPv6 server or relay answers to our link-local address.
    fn handle_dhcp6<E: Egress>(&mut self, now: Instant, packet: &Packet<'_>, egress: &mut E) -> bool {
        if packet.protocol != IpProtocol::Udp || packet.to_many {
            return false;
        }
        let Some((ports, payload)) = udp::parse(packet) else { return false };
        if (ports.src_port, ports.dst_port) != (dhcp6::SERVER_PORT, dhcp6::CLIENT_PORT) {
            return false;
        }
        self.dhcp6.handle(now, payload, &mut self.network, egress);
        true
    }

    fn handle_icmpv6<E: Egress>(&mut self, now: Instant, packet: &Packet<'_>, egress: &mut E) {
        if !icmp::verify_v6(packet) {
            self.network.counters.drop_icmp_malformed += 1;
            return;
        }
        match packet.payload[0] {
            133..=137 => {
                if self.network.handle_nd(now, packet, egress) {
                    self.tcp.address_changed(&mut self.network);
                }
                self.dhcp6.follow(now, &mut self.network, egress);
            }
            130..=132 | 143 => self.network.handle_mld(now, packet),
            _ if packet.source.is_unspecified() => self.network.counters.drop_ip_source += 1,
            _ => {
                let report = self.icmp.handle_v6(now, packet, &mut self.network, egress);
                if let Some(report) = report {
                    self.handle_report(&report);
                }
            }
        }
    }

    /// Hands an error about a packet of ours to the socket that sent it.
    pub(super) fn handle_report(&mut self, report: &Report) {
        let Report { quote, error, offender } = *report;
        let (local_port, remote_port) = quote.ports();
        let remote = (quote.destination, remote_port);
        let network = &mut self.network;
        match quote.protocol {
            IpProtocol::Tcp => {
                let tuple = Tuple { local: (quote.source, local_port), remote };
                self.tcp.handle_unreachable(&tuple, quote.sequence(), (error, offender), network);
            }
            IpProtocol::Udp => {
                let local = (quote.source, local_port);
                self.udp.handle_unreachable((local, remote), (error, offender), network);
            }
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.icmp.pings.handle_unreachable(report, network),
            _ => {}
        }
    }
}
