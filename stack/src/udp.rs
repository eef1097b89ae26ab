//! UDP (RFC 768): sockets by port, with bounded queues.

use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::collections::VecDeque;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, UdpPacket, UdpRepr};

use crate::config::Limits;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{Ready, UdpId};
use crate::icmp::IcmpError;
use crate::ipv4;
use crate::network::{Network, Sent};
use crate::ports;
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;

/// Bytes of a UDP header.
pub(crate) const HEADER_LEN: usize = 8;
/// Errors that wait for a socket's owner; what is not fetched by then is old news.
const ERRORS_MAX: usize = 16;

/// Where a datagram came from, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpMeta {
    /// Its sender.
    pub from: SocketAddr,
    /// Hop limit left.
    pub ttl: u8,
    /// The two ECN bits of its header.
    pub ecn: u8,
}

struct Socket {
    port: u16,
    queue: VecDeque<(UdpMeta, Vec<u8>)>,
    queued_bytes: usize,
    errors: VecDeque<(SocketAddr, IcmpError)>,
}

pub(crate) struct Udp {
    sockets: Slab<Socket>,
    by_port: KeyedMap<u16, u64>,
    limits: Limits,
}

impl Udp {
    pub(crate) fn new(limits: &Limits, network: &mut Network) -> Udp {
        Udp {
            sockets: Slab::new(limits.udp_sockets),
            by_port: KeyedMap::with_hasher(network.random.keyed_state()),
            limits: limits.clone(),
        }
    }

    pub(crate) fn bind(
        &mut self,
        port: Option<u16>,
        network: &mut Network,
    ) -> Result<(UdpId, SocketAddr), Error> {
        let port = match port {
            Some(0) => return Err(Error::InvalidInput { what: "port 0 cannot be bound" }),
            Some(port) if self.by_port.contains_key(&port) => return Err(Error::AddrInUse { port }),
            Some(port) => port,
            None => ports::ephemeral(&mut network.random, |port| self.by_port.contains_key(&port))?,
        };
        let socket = |_| Socket { port, queue: VecDeque::new(), queued_bytes: 0, errors: VecDeque::new() };
        let limit = self.limits.udp_sockets;
        let id =
            self.sockets.insert_with(socket).ok_or(Error::QuotaExceeded { what: "UDP sockets", limit })?;
        self.by_port.insert(port, id);
        let address = network.address().unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok((UdpId(id), (address, port).into()))
    }

    pub(crate) fn close(&mut self, id: UdpId) {
        if let Some(socket) = self.sockets.remove(id.0) {
            self.by_port.remove(&socket.port);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a datagram's own parts, and the three things every packet out needs"
    )]
    pub(crate) fn send<E: Egress>(
        &mut self,
        now: Instant,
        id: UdpId,
        to: SocketAddrV4,
        ttl: Option<u8>,
        payload: &[u8],
        network: &mut Network,
        egress: &mut E,
    ) -> Result<(), Error> {
        let source_port = self.sockets.get(id.0).ok_or(Error::InvalidSocket)?.port;
        let ttl = ttl.unwrap_or(ipv4::TTL);
        if to.port() == 0 || ttl == 0 {
            return Err(Error::InvalidInput { what: "a datagram needs a port and a hop limit other than 0" });
        }
        if to.ip().is_multicast() {
            return Err(Error::Unsupported { what: "multicast" });
        }
        if Some(*to.ip()) == network.address() {
            return Err(Error::Unsupported { what: "a datagram to our own address" });
        }
        let max = network.mtu - ipv4::HEADER_LEN - HEADER_LEN;
        if payload.len() > max {
            return Err(Error::MessageTooLong { len: payload.len(), max });
        }
        if !egress.ready() {
            return Err(Error::NoBuffers);
        }
        let ports = UdpRepr { src_port: source_port, dst_port: to.port() };
        let destination = (*to.ip(), IpProtocol::Udp, ttl);
        let sent =
            network.send_ipv4(now, egress, destination, HEADER_LEN + payload.len(), |buffer, source| {
                emit(buffer, ports, (source, *to.ip()), payload);
            });
        match sent {
            Sent::NoRoute => Err(Error::Unreachable { to: to.into() }),
            // As with every network, a datagram that was sent may still be lost.
            Sent::Wire | Sent::Queued | Sent::Dropped => Ok(()),
        }
    }

    /// Handles a UDP packet for us; false if nobody listens on its port.
    pub(crate) fn handle_packet(&mut self, packet: &ipv4::Packet<'_>, network: &mut Network) -> bool {
        let Some((ports, payload)) = parse(packet) else {
            network.counters.drop_udp_malformed += 1;
            return true;
        };
        let Some(&id) = self.by_port.get(&ports.dst_port) else {
            network.counters.drop_udp_closed_port += 1;
            return false;
        };
        let Some(socket) = self.sockets.get_mut(id) else { return false };
        let full = socket.queue.len() >= self.limits.udp_queue_datagrams
            || socket.queued_bytes + payload.len() > self.limits.udp_queue_bytes;
        if full {
            network.counters.drop_udp_queue_full += 1;
            return true;
        }
        let from = SocketAddr::from((packet.source, ports.src_port));
        socket.queued_bytes += payload.len();
        socket.queue.push_back((UdpMeta { from, ttl: packet.ttl, ecn: packet.ecn }, payload.to_vec()));
        network.events.push(Ready::Udp(UdpId(id)));
        true
    }

    /// Offers the oldest datagram; it stays if `take` returns false. False if there was none or it stayed.
    pub(crate) fn receive(
        &mut self,
        id: UdpId,
        take: impl FnOnce(UdpMeta, &[u8]) -> bool,
    ) -> Result<bool, Error> {
        let socket = self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?;
        let Some((meta, payload)) = socket.queue.front() else { return Ok(false) };
        if !take(*meta, payload) {
            return Ok(false);
        }
        socket.queued_bytes -= payload.len();
        socket.queue.pop_front();
        Ok(true)
    }

    /// An error came back for a datagram of ours.
    pub(crate) fn handle_unreachable(
        &mut self,
        (local_port, remote): (u16, (Ipv4Addr, u16)),
        error: IcmpError,
        network: &mut Network,
    ) {
        let Some(&id) = self.by_port.get(&local_port) else { return };
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.errors.len() >= ERRORS_MAX {
            socket.errors.pop_front();
        }
        socket.errors.push_back((SocketAddr::from((IpAddr::V4(remote.0), remote.1)), error));
        network.events.push(Ready::Udp(UdpId(id)));
    }

    pub(crate) fn error(&mut self, id: UdpId) -> Option<(SocketAddr, IcmpError)> {
        self.sockets.get_mut(id.0)?.errors.pop_front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (UdpId, u16, usize)> {
        self.sockets.iter().map(|(id, socket)| (UdpId(id), socket.port, socket.queued_bytes))
    }

    /// The device is gone: everybody looks, and finds the stack failed.
    pub(crate) fn fail_all(&mut self, network: &mut Network) {
        for (id, _) in self.sockets.iter() {
            network.events.push(Ready::Udp(UdpId(id)));
        }
    }
}

/// Reads and verifies a datagram.
pub(crate) fn parse<'a>(packet: &ipv4::Packet<'a>) -> Option<(UdpRepr, &'a [u8])> {
    let udp = UdpPacket::new_checked(packet.payload).ok()?;
    let (source, destination) = (IpAddress::Ipv4(packet.source), IpAddress::Ipv4(packet.destination));
    let ports = UdpRepr::parse(&udp, &source, &destination, &ChecksumCapabilities::default()).ok()?;
    Some((ports, udp.payload()))
}

/// Writes header and payload into a buffer of exactly their length.
pub(crate) fn emit(
    buffer: &mut [u8],
    ports: UdpRepr,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    payload: &[u8],
) {
    ports.emit(
        &mut UdpPacket::new_unchecked(buffer),
        &IpAddress::Ipv4(source),
        &IpAddress::Ipv4(destination),
        payload.len(),
        |space| space.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
}
