//! What every protocol above shares: our addresses, routes and neighbours, the timers, the events, the counters - and the one
//! way out for a packet.

use core::net::Ipv4Addr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
};

use crate::counters::Counters;
use crate::egress::Egress;
use crate::events::{Events, Ready};
use crate::ipv4;
use crate::neighbor::{Expiry, Mac, Neighbors, Request, Resolution};
use crate::random::Random;
use crate::route::{NextHop, Routing};
use crate::time::Instant;
use crate::timers::Timers;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER_LEN: usize = 14;
/// Bytes of an ARP packet for Ethernet and IPv4.
const ARP_LEN: usize = 28;
pub(crate) const BROADCAST: Mac = [0xff; 6];

pub(crate) struct Network {
    pub(crate) mac: Mac,
    /// The IP MTU in force.
    pub(crate) mtu: usize,
    /// `None` until an address is known.
    pub(crate) routing: Option<Routing>,
    pub(crate) neighbors: Neighbors,
    pub(crate) timers: Timers,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
    pub(crate) random: Random,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is with the device.
    Wire,
    /// It waits for the neighbour's address.
    Queued,
    /// It was dropped and counted.
    Dropped,
    /// There is no address or no route.
    NoRoute,
}

impl Network {
    /// Our own address.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.routing.as_ref().map(Routing::address)
    }

    /// Whether packets to `address` have a way.
    pub(crate) fn has_route(&self, address: Ipv4Addr) -> bool {
        self.routing.as_ref().is_some_and(|routing| routing.next_hop(address).is_some())
    }

    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.routing.as_ref().is_some_and(|routing| routing.is_broadcast(address))
    }

    /// Sends a whole IPv4 packet of `len` bytes that `fill` writes; `fill` returns false to take it back. Known neighbours get
    /// it written straight into the device's buffer.
    pub(crate) fn send_packet<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        destination: Ipv4Addr,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Sent {
        let Some(hop) = self.routing.as_ref().and_then(|routing| routing.next_hop(destination)) else {
            self.counters.drop_no_route += 1;
            return Sent::NoRoute;
        };
        let target = match hop {
            NextHop::Broadcast => return self.transmit(egress, BROADCAST, EthernetProtocol::Ipv4, len, fill),
            NextHop::Unicast(target) => target,
        };
        match self.neighbors.resolve(now, target, &mut self.timers) {
            Resolution::Known(mac, probe) => {
                let sent = self.transmit(egress, mac, EthernetProtocol::Ipv4, len, fill);
                if let Some(request) = probe {
                    self.send_arp_request(egress, request);
                }
                sent
            }
            Resolution::Wait(request) => {
                let mut packet = vec![0; len];
                if fill(&mut packet) {
                    self.neighbors.enqueue(target, packet, &mut self.counters);
                }
                if let Some(request) = request {
                    self.send_arp_request(egress, request);
                }
                Sent::Queued
            }
            Resolution::Refused => {
                self.counters.drop_neighbor_unresolved += 1;
                Sent::Dropped
            }
        }
    }

    /// Sends an IPv4 packet from our own address: header by us, payload of `payload_len` bytes by `fill`.
    pub(crate) fn send_ipv4<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        (destination, protocol, ttl): (Ipv4Addr, IpProtocol, u8),
        payload_len: usize,
        fill: impl FnOnce(&mut [u8], Ipv4Addr),
    ) -> Sent {
        let Some(source) = self.address() else {
            self.counters.drop_no_route += 1;
            return Sent::NoRoute;
        };
        self.send_packet(now, egress, destination, ipv4::HEADER_LEN + payload_len, |packet| {
            ipv4::emit_header(packet, source, destination, protocol, ttl);
            fill(&mut packet[ipv4::HEADER_LEN..], source);
            true
        })
    }

    /// Writes a frame into one of the device's buffers.
    pub(crate) fn transmit<E: Egress>(
        &mut self,
        egress: &mut E,
        destination: Mac,
        protocol: EthernetProtocol,
        payload_len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Sent {
        let source = self.mac;
        let len = ETHERNET_HEADER_LEN + payload_len;
        let sent = egress.transmit(len, |buffer| {
            let mut frame = EthernetFrame::new_unchecked(&mut *buffer);
            frame.set_src_addr(EthernetAddress(source));
            frame.set_dst_addr(EthernetAddress(destination));
            frame.set_ethertype(protocol);
            fill(&mut buffer[ETHERNET_HEADER_LEN..])
        });
        if !sent {
            self.counters.drop_transmit_full += 1;
            return Sent::Dropped;
        }
        self.counters.frames_sent += 1;
        self.counters.bytes_sent += len as u64;
        Sent::Wire
    }

    /// Handles the payload of an ARP frame (RFC 826).
    pub(crate) fn handle_arp<E: Egress>(&mut self, now: Instant, payload: &[u8], egress: &mut E) {
        let parsed = ArpPacket::new_checked(payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        }) = parsed
        else {
            self.counters.drop_arp_malformed += 1;
            return;
        };
        let Some(own) = self.address() else { return };
        // A sender that claims our own addresses or a group's is mistaken or lying. RFC 5227 probes come from 0.0.0.0.
        let plausible = ipv4::is_usable_host(sender) || sender.is_unspecified();
        if !source_hardware_addr.is_unicast()
            || source_hardware_addr.0 == self.mac
            || sender == own
            || !plausible
        {
            self.counters.drop_arp_malformed += 1;
            return;
        }
        let waiting = self.neighbors.learn(now, sender, source_hardware_addr.0);
        let known = waiting.is_some();
        for packet in waiting.into_iter().flatten() {
            self.transmit(egress, source_hardware_addr.0, EthernetProtocol::Ipv4, packet.len(), |buffer| {
                buffer.copy_from_slice(&packet);
                true
            });
        }
        match operation {
            ArpOperation::Request if target == own => {
                self.counters.arp_replies_sent += 1;
                self.send_arp(
                    egress,
                    ArpOperation::Reply,
                    (source_hardware_addr.0, sender),
                    source_hardware_addr.0,
                );
            }
            ArpOperation::Reply if !known => self.counters.drop_arp_unsolicited += 1,
            ArpOperation::Request | ArpOperation::Reply | ArpOperation::Unknown(_) => {}
        }
    }

    /// Handles the timer of a neighbour; returns packets that can no longer be delivered.
    pub(crate) fn neighbor_expired<E: Egress>(
        &mut self,
        now: Instant,
        target: Ipv4Addr,
        deadline: Instant,
        egress: &mut E,
    ) -> impl Iterator<Item = Vec<u8>> + use<E> {
        let undeliverable = match self.neighbors.expired(now, target, deadline, &mut self.timers) {
            Expiry::Nothing => Default::default(),
            Expiry::Request(request) => {
                self.send_arp_request(egress, request);
                Default::default()
            }
            Expiry::Failed(packets) => packets,
        };
        self.counters.drop_neighbor_unresolved += undeliverable.len() as u64;
        undeliverable.into_iter()
    }

    fn send_arp_request<E: Egress>(&mut self, egress: &mut E, request: Request) {
        self.counters.arp_requests_sent += 1;
        let to = request.to.unwrap_or(BROADCAST);
        self.send_arp(egress, ArpOperation::Request, (request.to.unwrap_or_default(), request.target), to);
    }

    fn send_arp<E: Egress>(
        &mut self,
        egress: &mut E,
        operation: ArpOperation,
        target: (Mac, Ipv4Addr),
        to: Mac,
    ) {
        let Some(own) = self.address() else { return };
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac),
            source_protocol_addr: own,
            target_hardware_addr: EthernetAddress(target.0),
            target_protocol_addr: target.1,
        };
        self.transmit(egress, to, EthernetProtocol::Arp, ARP_LEN, |buffer| {
            repr.emit(&mut ArpPacket::new_unchecked(buffer));
            true
        });
    }

    /// Takes an address into use, or out of use.
    pub(crate) fn set_routing(&mut self, routing: Option<Routing>) {
        if self.address() != routing.as_ref().map(Routing::address) {
            self.neighbors.clear();
        }
        self.routing = routing;
        self.events.push(Ready::Lease);
    }
}
