//! UDP (RFC 768): sockets by port, with bounded queues, for both versions of IP at once.

mod options;

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{IpProtocol, UdpPacket, UdpRepr};

use crate::checksum::Rest;
use crate::config::Limits;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{Ready, UdpId};
use crate::icmp::IcmpError;
use crate::ip::{self, Header};
use crate::network::{LOOPBACK, Network, Sent};
use crate::ports;
use crate::random::KeyedMap;
use crate::slab::Slab;
use crate::time::Instant;

/// Bytes of a UDP header.
pub(crate) const HEADER_LEN: usize = 8;
/// Errors that wait for a socket's owner; what is not fetched by then is old news.
const ERRORS_MAX: usize = 16;
/// The hop limit of what is sent to a group unless told otherwise (RFC 1112, 6.1): it stays on the link.
const GROUP_TTL: u8 = 1;

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

/// What came back for a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpError {
    /// Where the datagram was sent.
    pub to: SocketAddr,
    /// What became of it.
    pub error: IcmpError,
    /// Who says so: a router on the way, the destination, or - when a neighbour does not answer - ourselves.
    pub offender: IpAddr,
}

/// How one datagram is sent; the default is the socket's way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SendOptions {
    /// Hop limit.
    pub ttl: Option<u8>,
    /// The two ECN bits (RFC 3168, 5).
    pub ecn: u8,
}

struct Socket {
    /// The one address that it is bound to; `None` is every address of ours.
    address: Option<IpAddr>,
    port: u16,
    queue: VecDeque<(UdpMeta, Vec<u8>)>,
    queued_bytes: usize,
    errors: VecDeque<UdpError>,
    /// Set by connecting: datagrams and errors of others are not for this socket.
    peer: Option<SocketAddr>,
    broadcast: bool,
    /// What does not fit the path is refused instead of cut.
    dont_fragment: bool,
    ttl: u8,
    group_ttl: u8,
    groups: Vec<IpAddr>,
}

impl Socket {
    fn new(address: Option<IpAddr>, port: u16) -> Socket {
        Socket {
            address,
            port,
            queue: VecDeque::new(),
            queued_bytes: 0,
            errors: VecDeque::new(),
            peer: None,
            broadcast: false,
            dont_fragment: false,
            ttl: ip::TTL,
            group_ttl: GROUP_TTL,
            groups: Vec::new(),
        }
    }

    /// Which of our addresses its datagrams to `destination` come from: the one that it is bound to, as long as that is ours and of
    /// the family.
    fn source_for(&self, destination: IpAddr, network: &Network) -> Option<IpAddr> {
        match self.address {
            None => network.source_for(destination),
            Some(own) => {
                let fits = own.is_ipv4() == destination.is_ipv4() && network.is_own(own);
                fits.then_some(own)
            }
        }
    }
}

/// What can be seen of a socket.
pub(crate) struct SocketView {
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) queued_bytes: usize,
    pub(crate) peer: Option<SocketAddr>,
}

pub(crate) struct Udp {
    sockets: Slab<Socket>,
    /// More than one on a port have different addresses.
    by_port: KeyedMap<u16, Vec<u64>>,
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
        address: Option<IpAddr>,
        port: Option<u16>,
        network: &mut Network,
    ) -> Result<(UdpId, SocketAddr), Error> {
        network.may_bind(address)?;
        let taken = |port| self.bound(port).any(|(_, other)| ports::overlap(address, other.address));
        let port = match port {
            Some(0) => return Err(Error::InvalidInput { what: "port 0 cannot be bound" }),
            Some(port) if taken(port) => return Err(Error::AddrInUse { port }),
            Some(port) => port,
            None => ports::ephemeral(&mut network.random, taken)?,
        };
        let limit = self.limits.udp_sockets;
        let id = self.sockets.insert_with(|_| Socket::new(address, port));
        let id = id.ok_or(Error::QuotaExceeded { what: "UDP sockets", limit })?;
        self.by_port.entry(port).or_default().push(id);
        Ok((UdpId(id), (address.unwrap_or(network.any_address()), port).into()))
    }

    fn bound(&self, port: u16) -> impl Iterator<Item = (u64, &Socket)> {
        let ids = self.by_port.get(&port).into_iter().flatten();
        ids.filter_map(|id| self.sockets.get(*id).map(|socket| (*id, socket)))
    }

    /// The socket that has `local`. One that is bound to an address hears nothing that is sent to a group or to everybody.
    fn socket_on(&self, (address, port): (IpAddr, u16)) -> Option<u64> {
        let has = |(_, socket): &(u64, &Socket)| socket.address.is_none_or(|own| own == address);
        self.bound(port).find(has).map(|(id, _)| id)
    }

    /// Sockets, and how many there may be.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.sockets.len(), self.limits.udp_sockets)
    }

    pub(crate) fn close(&mut self, now: Instant, id: UdpId, network: &mut Network) {
        if let Some(socket) = self.sockets.remove(id.0) {
            if let Some(ids) = self.by_port.get_mut(&socket.port) {
                ids.retain(|other| *other != id.0);
                if ids.is_empty() {
                    self.by_port.remove(&socket.port);
                }
            }
            for group in socket.groups {
                network.leave_group(now, group);
            }
        }
    }

    pub(crate) fn send<E: Egress>(
        &mut self,
        now: Instant,
        (id, to): (UdpId, SocketAddr),
        options: SendOptions,
        payload: &[u8],
        network: &mut Network,
        egress: &mut E,
    ) -> Result<(), Error> {
        let socket = self.sockets.get(id.0).ok_or(Error::InvalidSocket)?;
        let many = to.ip().is_multicast();
        let ttl = options.ttl.unwrap_or(if many { socket.group_ttl } else { socket.ttl });
        if to.port() == 0 || ttl == 0 || to.ip().is_unspecified() {
            return Err(Error::InvalidInput {
                what: "a datagram needs an address, a port and a hop limit other than 0",
            });
        }
        if to.ip().is_loopback() {
            return Err(Error::Unsupported { what: LOOPBACK });
        }
        if network.is_broadcast(to.ip()) && !socket.broadcast {
            return Err(Error::InvalidInput {
                what: "a broadcast needs the socket's permission to broadcast",
            });
        }
        let source = socket.source_for(to.ip(), network).ok_or(Error::Unreachable { to })?;
        let most = match socket.dont_fragment {
            true => network.path_mtu(now, to.ip()) - ip::header_len(to.ip()),
            false => network.payload_max(to.ip()),
        };
        let max = most - HEADER_LEN;
        if payload.len() > max {
            return Err(Error::MessageTooLong { len: payload.len(), max });
        }
        if !egress.ready() {
            return Err(Error::NoBuffers);
        }
        let source_port = socket.port;
        let ports = UdpRepr { src_port: source_port, dst_port: to.port() };
        let header = Header { ttl, ecn: options.ecn & 3, ..Header::new(source, to.ip(), IpProtocol::Udp) };
        let ends = (source, to.ip());
        let datagram_len = HEADER_LEN + payload.len();
        let sent = if network.fits(now, to.ip(), datagram_len) {
            let header_len = ip::header_len(to.ip());
            let to = (to.ip(), Rest::Checksum);
            network.send_unfinished(now, egress, to, header_len + datagram_len, |packet| {
                ip::emit_header(packet, &header);
                emit_with(&mut packet[header_len..], ports, ends, payload, Checksum::None);
                true
            })
        } else {
            // Each fragment leaves alone: none of them could have a device complete the checksum of all.
            network.send_ip(now, egress, header, datagram_len, |buffer| emit(buffer, ports, ends, payload))
        };
        if many && sent != Sent::NoRoute {
            // RFC 1112, 7.1: members on this host hear it too.
            let meta = UdpMeta { from: (source, source_port).into(), ttl, ecn: options.ecn & 3 };
            self.deliver(to, meta, payload, network);
        }
        match sent {
            Sent::NoRoute => Err(Error::Unreachable { to }),
            // As with every network, a datagram that was sent may still be lost.
            Sent::Wire | Sent::Queued | Sent::Dropped => Ok(()),
        }
    }

    /// Handles a UDP packet for us; false if nobody listens on its port.
    pub(crate) fn handle_packet(&mut self, packet: &ip::Packet<'_>, network: &mut Network) -> bool {
        let Some((ports, payload)) = parse(packet) else {
            network.counters.drop_udp_malformed += 1;
            return true;
        };
        let from = SocketAddr::from((packet.source, ports.src_port));
        let meta = UdpMeta { from, ttl: packet.ttl, ecn: packet.ecn };
        let taken = self.deliver((packet.destination, ports.dst_port).into(), meta, payload, network);
        if !taken {
            network.counters.drop_udp_closed_port += 1;
        }
        taken
    }

    /// Queues a datagram at the socket that it is for; false if there is none.
    fn deliver(&mut self, to: SocketAddr, meta: UdpMeta, payload: &[u8], network: &mut Network) -> bool {
        let Some(id) = self.socket_on((to.ip(), to.port())) else { return false };
        let Some(socket) = self.sockets.get_mut(id) else { return false };
        let foreign = socket.peer.is_some_and(|peer| peer != meta.from);
        if foreign || (to.ip().is_multicast() && !socket.groups.contains(&to.ip())) {
            return false;
        }
        let full = socket.queue.len() >= self.limits.udp_queue_datagrams
            || socket.queued_bytes + payload.len() > self.limits.udp_queue_bytes;
        if full {
            network.counters.drop_udp_queue_full += 1;
            return true;
        }
        socket.queued_bytes += payload.len();
        socket.queue.push_back((meta, payload.to_vec()));
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
        (local, remote): ((IpAddr, u16), (IpAddr, u16)),
        (error, offender): (IcmpError, IpAddr),
        network: &mut Network,
    ) {
        let Some(id) = self.socket_on(local) else { return };
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let to = SocketAddr::from(remote);
        if socket.peer.is_some_and(|peer| peer != to) {
            return;
        }
        if let IcmpError::FragmentationNeeded { mtu } = error {
            network.path_is_narrow(remote.0, mtu);
        }
        if socket.errors.len() >= ERRORS_MAX {
            socket.errors.pop_front();
        }
        socket.errors.push_back(UdpError { to, error, offender });
        network.events.push(Ready::Udp(UdpId(id)));
    }

    pub(crate) fn error(&mut self, id: UdpId) -> Option<UdpError> {
        self.sockets.get_mut(id.0)?.errors.pop_front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (UdpId, SocketView)> {
        self.sockets.iter().map(|(id, socket)| {
            let Socket { address, port, queued_bytes, peer, .. } = socket;
            let view =
                SocketView { address: *address, port: *port, queued_bytes: *queued_bytes, peer: *peer };
            (UdpId(id), view)
        })
    }

    /// The device is gone: everybody looks, and finds the stack failed.
    pub(crate) fn fail_all(&mut self, network: &mut Network) {
        for (id, _) in self.sockets.iter() {
            network.events.push(Ready::Udp(UdpId(id)));
        }
    }
}

/// Reads and verifies a datagram.
pub(crate) fn parse<'a>(packet: &ip::Packet<'a>) -> Option<(UdpRepr, &'a [u8])> {
    let udp = UdpPacket::new_checked(packet.payload).ok()?;
    let (source, destination) = (ip::wire(packet.source), ip::wire(packet.destination));
    // RFC 8200, 8.1: over IPv6 the checksum is not optional.
    if packet.source.is_ipv6() && udp.checksum() == 0 && !packet.verified {
        return None;
    }
    let mut capabilities = ChecksumCapabilities::default();
    if packet.verified {
        capabilities.udp = Checksum::None;
    }
    let ports = UdpRepr::parse(&udp, &source, &destination, &capabilities).ok()?;
    Some((ports, udp.payload()))
}

/// Writes header and payload into a buffer of exactly their length.
pub(crate) fn emit(buffer: &mut [u8], ports: UdpRepr, ends: (IpAddr, IpAddr), payload: &[u8]) {
    emit_with(buffer, ports, ends, payload, Checksum::Both);
}

fn emit_with(
    buffer: &mut [u8],
    ports: UdpRepr,
    (source, destination): (IpAddr, IpAddr),
    payload: &[u8],
    checksum: Checksum,
) {
    let mut capabilities = ChecksumCapabilities::default();
    capabilities.udp = checksum;
    ports.emit(
        &mut UdpPacket::new_unchecked(buffer),
        &ip::wire(source),
        &ip::wire(destination),
        payload.len(),
        |space| space.copy_from_slice(payload),
        &capabilities,
    );
}
