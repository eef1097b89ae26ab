//! What every protocol above shares: our addresses, routes and neighbours, the timers, the events, the counters - and the one
//! way out for a packet.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::VecDeque;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use crate::acd::Tenure;
use crate::checksum::{self, Rest};
use crate::config::ConflictDetection;
use crate::counters::Counters;
use crate::egress::{Egress, Left};
use crate::error::Error;
use crate::events::Events;
use crate::fragment;
use crate::groups::Groups;
use crate::ip::{self, Header};
use crate::ipv4::{self, Cidr};
use crate::ipv6::Ipv6;
use crate::neighbor::{Expiry, Mac, Neighbors, Request, Resolution};
use crate::path_mtu::PathMtus;
use crate::random::Random;
use crate::route::{NextHop, Routing};
use crate::time::Instant;
use crate::timers::Timers;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER_LEN: usize = 14;
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// Bytes of packets on their way from us to us: two full windows each way, so that a connection to ourselves runs at full speed.
const LOOPED_BYTES_MAX: usize = 256 * 1024;
/// The largest IPv4 packet, and the largest IPv6 payload.
const IP_LENGTH_MAX: usize = 65_535;
/// Why 127.0.0.0/8 and ::1 are refused.
pub(crate) const LOOPBACK: &str = "loopback addresses: they belong to the kernel's network; a socket of this stack is reached at its own address";

pub(crate) struct Network {
    pub(crate) mac: Mac,
    /// The IP MTU in force.
    pub(crate) mtu: usize,
    /// `None` until an address is known.
    pub(crate) routing: Option<Routing>,
    /// The first IPv4 address is not known, or not any more, and is being sought: the one that was lost may come back.
    pub(crate) searching: bool,
    pub(crate) neighbors: Neighbors,
    pub(crate) timers: Timers,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
    pub(crate) random: Random,
    /// Packets from us to us.
    pub(crate) looped: Looped,
    pub(crate) ipv6: Ipv6,
    pub(crate) groups: Groups,
    pub(crate) conflicts: ConflictDetection,
    /// Our claims to IPv4 addresses, while they are watched: one for each address at most.
    pub(crate) tenures: Vec<Tenure>,
    pub(crate) path_mtus: PathMtus,
}

/// Packets that we sent to ourselves, until the next poll. They never see the device.
#[derive(Default)]
pub(crate) struct Looped {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Looped {
    /// False, and nothing is kept, when there is no room.
    fn push(&mut self, packet: Vec<u8>) -> bool {
        if self.bytes + packet.len() > LOOPED_BYTES_MAX {
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back(packet);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is with the device.
    Wire,
    /// It waits for the neighbour's address, or for the next poll to bring it back to us.
    Queued,
    /// It was dropped and counted.
    Dropped,
    /// There is no address or no route.
    NoRoute,
}

impl Network {
    /// Our first IPv4 address.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.routing.as_ref()?.addresses().first().map(Cidr::address)
    }

    /// Whether `address` is ours.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.routing.as_ref().is_some_and(|routing| routing.is_own(address)),
            IpAddr::V6(address) => self.ipv6.is_own(address),
        }
    }

    /// Which of our addresses a packet to `destination` comes from.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(destination) => self.routing.as_ref()?.source_for(destination).map(IpAddr::V4),
            IpAddr::V6(destination) => self.ipv6.source_for(destination).map(IpAddr::V6),
        }
    }

    /// Whether a socket may be bound to `address`; `None` is every address of ours.
    pub(crate) fn may_bind(&self, address: Option<IpAddr>) -> Result<(), Error> {
        match address {
            Some(address) if address.is_loopback() => Err(Error::Unsupported { what: LOOPBACK }),
            Some(address) if !self.is_own(address) => Err(Error::AddrNotAvailable { address }),
            Some(_) | None => Ok(()),
        }
    }

    /// How a socket that is bound to every address of ours is written: `::` stands for both families.
    pub(crate) fn any_address(&self) -> IpAddr {
        match self.ipv6.is_enabled() {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Whether packets to `address` have a way.
    pub(crate) fn has_route(&self, address: IpAddr) -> bool {
        self.is_own(address) || self.next_hop(address).is_some()
    }

    fn next_hop(&self, destination: IpAddr) -> Option<NextHop> {
        match destination {
            IpAddr::V4(destination) => self.routing.as_ref()?.next_hop(destination),
            IpAddr::V6(destination) => self.ipv6.next_hop(destination, &self.neighbors),
        }
    }

    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        address.is_broadcast() || self.routing.as_ref().is_some_and(|routing| routing.is_broadcast(address))
    }

    /// The largest packet towards `destination`.
    pub(crate) fn mtu_for(&self, destination: IpAddr) -> usize {
        match destination {
            IpAddr::V4(_) => self.mtu,
            IpAddr::V6(_) => self.ipv6.mtu(self.mtu),
        }
    }

    /// The largest packet that reaches `destination`, as far as is known.
    pub(crate) fn path_mtu(&self, now: Instant, destination: IpAddr) -> usize {
        let link = self.mtu_for(destination);
        self.path_mtus.get(now, destination).map_or(link, |path| path.min(link))
    }

    /// A router said that packets to `destination` are too large. Whoever calls knows that one of ours was meant.
    pub(crate) fn path_is_narrow(&mut self, destination: IpAddr, mtu: u16) {
        if self.path_mtus.learn(self.ipv6.clock, destination, mtu) {
            self.counters.path_mtu_lowered += 1;
        }
    }

    /// The most bytes behind the IP header of a packet to `destination`, in fragments if need be.
    pub(crate) fn payload_max(&self, destination: IpAddr) -> usize {
        match destination {
            IpAddr::V4(_) => IP_LENGTH_MAX - ipv4::HEADER_LEN,
            IpAddr::V6(_) => IP_LENGTH_MAX,
        }
    }

    /// Sends a whole IP packet of `len` bytes that `fill` writes; `fill` returns false to take it back. Known neighbours get
    /// it written straight into the device's buffer.
    pub(crate) fn send_packet<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        destination: IpAddr,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Sent {
        self.send_unfinished(now, egress, (destination, Rest::Nothing), len, fill)
    }

    /// The longest packet to `destination` that can leave now for the device to cut; `None` where its neighbour's address would have to be
    /// waited for, or no device is on the way.
    pub(crate) fn long_packet_len<E: Egress>(&self, egress: &E, destination: IpAddr) -> Option<usize> {
        let frame_len = egress.long_frame_len(destination.is_ipv6())?;
        if self.is_own(destination) {
            return None;
        }
        match self.next_hop(destination)? {
            NextHop::Everybody(_) => None,
            NextHop::Unicast(target) => {
                self.neighbors.is_known(target).then(|| frame_len - ETHERNET_HEADER_LEN)
            }
        }
    }

    /// Like [`send_packet`](Self::send_packet), for a packet of which `fill` leaves something to be done.
    pub(crate) fn send_unfinished<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        (destination, rest): (IpAddr, Rest),
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Sent {
        if self.is_own(destination) {
            return self.loop_back(len, fill);
        }
        let Some(hop) = self.next_hop(destination) else {
            self.counters.drop_no_route += 1;
            return Sent::NoRoute;
        };
        let protocol = if destination.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        let target = match hop {
            NextHop::Everybody(mac) => return self.emit(egress, (mac, protocol, rest), len, fill),
            NextHop::Unicast(target) => target,
        };
        match self.neighbors.resolve(now, target, &mut self.timers, &mut self.counters) {
            Resolution::Known(mac, probe) => {
                let sent = self.emit(egress, (mac, protocol, rest), len, fill);
                if let Some(request) = probe {
                    self.send_request(egress, request);
                }
                sent
            }
            Resolution::Wait(request) => {
                let mut packet = vec![0; len];
                if fill(&mut packet) {
                    if rest != Rest::Nothing {
                        checksum::complete(&mut packet);
                    }
                    self.neighbors.enqueue(target, packet, &mut self.counters);
                }
                if let Some(request) = request {
                    self.send_request(egress, request);
                }
                Sent::Queued
            }
            Resolution::Refused => {
                self.counters.drop_neighbor_unresolved += 1;
                Sent::Dropped
            }
        }
    }

    /// Keeps a packet that is for ourselves until the next poll. Nobody computes or verifies its checksum.
    fn loop_back(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> Sent {
        let mut packet = vec![0; len];
        if !fill(&mut packet) {
            return Sent::Dropped;
        }
        if !self.looped.push(packet) {
            self.counters.drop_looped_full += 1;
            return Sent::Dropped;
        }
        self.counters.packets_looped += 1;
        Sent::Queued
    }

    /// Whether a payload of so many bytes reaches `destination` in one packet.
    pub(crate) fn fits(&self, now: Instant, destination: IpAddr, payload_len: usize) -> bool {
        ip::header_len(destination) + payload_len <= self.path_mtu(now, destination)
            || self.is_own(destination)
    }

    /// Sends an IP packet: header by us, payload of `payload_len` bytes by `fill`. What is larger than the path's MTU leaves in
    /// fragments; the rest over IPv4 may not be cut on the way, so that a router that would have to says so.
    pub(crate) fn send_ip<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        header: Header,
        payload_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Sent {
        let destination = header.destination;
        let header_len = ip::header_len(destination);
        if self.fits(now, destination, payload_len) {
            return self.send_packet(now, egress, destination, header_len + payload_len, |packet| {
                ip::emit_header(packet, &header);
                fill(&mut packet[header_len..]);
                true
            });
        }
        let mut payload = vec![0; payload_len];
        fill(&mut payload);
        self.send_fragments(now, egress, header, &payload)
    }

    fn send_fragments<E: Egress>(
        &mut self,
        now: Instant,
        egress: &mut E,
        header: Header,
        payload: &[u8],
    ) -> Sent {
        // RFC 7739: an identification that nobody off the path can guess.
        let id = self.random.next_u32();
        let mtu = self.path_mtu(now, header.destination);
        let header_len = fragment::header_len(header.destination);
        let mut result = Sent::Dropped;
        for piece in fragment::cut(payload, header_len, mtu) {
            let len = header_len + piece.bytes.len();
            result = self.send_packet(now, egress, header.destination, len, |packet| {
                fragment::emit(packet, &header, id, &piece);
                true
            });
            // Without one piece the others are worth nothing.
            if matches!(result, Sent::Dropped | Sent::NoRoute) {
                break;
            }
            self.counters.fragments_sent += 1;
        }
        result
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
        self.emit(egress, (destination, protocol, Rest::Nothing), payload_len, fill)
    }

    /// Writes a frame into one of the device's buffers, and does the rest of it, or leaves that to the device.
    fn emit<E: Egress>(
        &mut self,
        egress: &mut E,
        (destination, protocol, rest): (Mac, EthernetProtocol, Rest),
        payload_len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> Sent {
        let source = self.mac;
        let len = ETHERNET_HEADER_LEN + payload_len;
        let device_completes = egress.completes_checksums();
        let sent = egress.transmit_leaving(len, |buffer| {
            let mut frame = EthernetFrame::new_unchecked(&mut *buffer);
            frame.set_src_addr(EthernetAddress(source));
            frame.set_dst_addr(EthernetAddress(destination));
            frame.set_ethertype(protocol);
            let packet = &mut buffer[ETHERNET_HEADER_LEN..];
            fill(packet).then(|| match rest {
                Rest::Nothing => Left::Nothing,
                Rest::Checksum | Rest::Segments { .. } if device_completes => checksum::leave(packet, rest),
                Rest::Checksum | Rest::Segments { .. } => {
                    checksum::complete(packet);
                    Left::Nothing
                }
            })
        });
        if !sent {
            self.counters.drop_transmit_full += 1;
            return Sent::Dropped;
        }
        self.counters.frames_sent += 1;
        self.counters.bytes_sent += len as u64;
        Sent::Wire
    }

    /// Sends packets that had waited for a neighbour whose hardware address is known now.
    pub(crate) fn release_waiting<E: Egress>(
        &mut self,
        egress: &mut E,
        mac: Mac,
        protocol: EthernetProtocol,
        waiting: VecDeque<Vec<u8>>,
    ) {
        for packet in waiting {
            self.transmit(egress, mac, protocol, packet.len(), |buffer| {
                buffer.copy_from_slice(&packet);
                true
            });
        }
    }

    /// Handles the timer of a neighbour; returns packets that can no longer be delivered.
    pub(crate) fn neighbor_expired<E: Egress>(
        &mut self,
        now: Instant,
        target: IpAddr,
        deadline: Instant,
        egress: &mut E,
    ) -> impl Iterator<Item = Vec<u8>> + use<E> {
        let undeliverable = match self.neighbors.expired(now, target, deadline, &mut self.timers) {
            Expiry::Nothing => Default::default(),
            Expiry::Request(request) => {
                self.send_request(egress, request);
                Default::default()
            }
            Expiry::Failed(packets) => packets,
        };
        self.counters.drop_neighbor_unresolved += undeliverable.len() as u64;
        undeliverable.into_iter()
    }

    /// Asks for a neighbour's hardware address: everybody, or the one who is believed to have it.
    fn send_request<E: Egress>(&mut self, egress: &mut E, request: Request) {
        match request.target {
            IpAddr::V4(target) => self.send_arp_request(egress, target, request.to),
            IpAddr::V6(target) => self.solicit(egress, target, request.to),
        }
    }

    /// Takes other addresses and routes into use. What was learned under an address that is gone is forgotten.
    pub(crate) fn set_routing(&mut self, routing: Option<Routing>) {
        let kept = |cidr: &Cidr| routing.as_ref().is_some_and(|routing| routing.addresses().contains(cidr));
        if !self.routing.as_ref().is_some_and(|current| current.addresses().iter().all(kept)) {
            self.neighbors.clear_v4();
        }
        self.routing = routing;
    }
}
