//! The calls that sockets are made and used with.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use super::Stack;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{FlowId, ListenerId, PingId, UdpId};
use crate::icmp::{IcmpError, PingReply};
use crate::ip;
use crate::network::LOOPBACK;
use crate::tcp::FlowStatus;
use crate::time::Instant;
use crate::udp::{SendOptions, UdpError, UdpMeta};

impl Stack {
    // ---- TCP ---------------------------------------------------------------------------------------------------------

    /// Begins to connect. The connection is named at once; [`Ready::Flow`] says when it is established or has failed. How long to
    /// wait is up to the caller, who aborts; the stack gives up after three minutes.
    pub fn tcp_connect(&mut self, now: Instant, remote: SocketAddr) -> Result<FlowId, Error> {
        self.alive()?;
        let remote = canonical(remote);
        self.tcp.connect(now, (remote.ip(), remote.port()), &mut self.network)
    }

    /// Listens on `port` of all our addresses, or on a free ephemeral one. `backlog` connections wait to be accepted; further SYNs are
    /// dropped. The address that is returned is `::`, which stands for both families, or `0.0.0.0` without IPv6.
    pub fn tcp_listen(
        &mut self,
        port: Option<u16>,
        backlog: usize,
    ) -> Result<(ListenerId, SocketAddr), Error> {
        self.tcp_listen_on(None, port, backlog)
    }

    /// The same, on one of our addresses alone.
    pub fn tcp_listen_on(
        &mut self,
        address: Option<IpAddr>,
        port: Option<u16>,
        backlog: usize,
    ) -> Result<(ListenerId, SocketAddr), Error> {
        self.alive()?;
        self.tcp.listen(specific(address), port, backlog, &mut self.network)
    }

    /// How many established connections wait to be accepted.
    pub fn tcp_waiting(&self, listener: ListenerId) -> Result<usize, Error> {
        self.tcp.waiting(listener)
    }

    /// Takes an established connection, if one waits.
    pub fn tcp_accept(&mut self, listener: ListenerId) -> Result<Option<FlowId>, Error> {
        self.alive()?;
        self.tcp.accept(listener, &mut self.network)
    }

    /// Stops listening. Connections that nobody accepted are reset.
    pub fn tcp_close_listener(&mut self, _now: Instant, listener: ListenerId) {
        self.tcp.close_listener(listener, &mut self.network);
    }

    /// Everything about a connection at once.
    pub fn tcp_status(&self, flow: FlowId) -> Result<FlowStatus, Error> {
        self.tcp.status(flow)
    }

    /// Lends the send buffer's free contiguous space, possibly none; `fill` says how much it wrote.
    pub fn tcp_send(&mut self, flow: FlowId, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Error> {
        self.tcp.send(flow, fill)
    }

    /// Lends received octets, as many as are contiguous, possibly none; `take` says how many it took. What was received before a
    /// connection was reset can still be taken; whether it is everything, only the status tells.
    pub fn tcp_receive(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> Result<usize, Error> {
        self.tcp.receive(flow, take)
    }

    /// FIN after what is buffered. Receiving goes on.
    pub fn tcp_finish(&mut self, flow: FlowId) -> Result<(), Error> {
        self.tcp.finish(flow)
    }

    /// How long the connection is idle before the peer is asked whether it is there: [`Limits::keepalive`](crate::Limits::keepalive)
    /// unless set here, at least a second; `None` never asks. A peer that leaves nine of these, 10 seconds apart, unanswered has
    /// [timed out](crate::Outcome::TimedOut).
    pub fn tcp_set_keepalive(&mut self, flow: FlowId, idle: Option<Duration>) -> Result<(), Error> {
        self.tcp.set_keepalive(flow, idle)
    }

    /// Whether small segments leave at once (true, as every connection begins) or wait until earlier ones are acknowledged.
    pub fn tcp_set_nodelay(&mut self, flow: FlowId, nodelay: bool) -> Result<(), Error> {
        self.tcp.set_nodelay(flow, nodelay)
    }

    /// How long [`tcp_release`](Stack::tcp_release) lets the connection deliver what it has: a minute unless set here, at most an
    /// hour. Zero makes the release a reset.
    pub fn tcp_set_linger(&mut self, flow: FlowId, linger: Option<Duration>) -> Result<(), Error> {
        self.tcp.set_linger(flow, linger)
    }

    /// The hop limit of the connection's packets from now on; 64 at first.
    pub fn tcp_set_hop_limit(&mut self, flow: FlowId, hop_limit: u8) -> Result<(), Error> {
        self.tcp.set_hop_limit(flow, hop_limit)
    }

    /// Whose connection it is: a number of the caller's choosing, 0 at first. Connections that close without their owner are
    /// bounded for each ([`Limits::closing_per_owner`](crate::Limits::closing_per_owner)).
    pub fn tcp_set_owner(&mut self, flow: FlowId, owner: u32) -> Result<(), Error> {
        self.tcp.set_owner(flow, owner)
    }

    /// How many connections are closing without an owner, by the owner that they had.
    #[must_use]
    pub fn tcp_closing_by_owner(&self) -> BTreeMap<u32, usize> {
        self.tcp.closing_by_owner()
    }

    /// Ends the connection with a reset. The id stays until [`tcp_release`](Stack::tcp_release).
    pub fn tcp_abort(&mut self, flow: FlowId) {
        self.tcp.abort(flow);
    }

    /// The owner is gone and the id is stale from now on. The connection finishes closing by itself, within a minute; if data was left
    /// unread the peer gets a reset.
    pub fn tcp_release(&mut self, now: Instant, flow: FlowId) {
        self.tcp.release(now, flow, &mut self.network);
    }

    // ---- UDP ---------------------------------------------------------------------------------------------------------

    /// Takes `port` of all our addresses, or a free ephemeral one. The address that is returned is `::`, which stands for both
    /// families, or `0.0.0.0` without IPv6.
    pub fn udp_bind(&mut self, port: Option<u16>) -> Result<(UdpId, SocketAddr), Error> {
        self.udp_bind_on(None, port)
    }

    /// The same, on one of our addresses alone: it is what datagrams come from, and what is sent to groups and to everybody is not
    /// received.
    pub fn udp_bind_on(
        &mut self,
        address: Option<IpAddr>,
        port: Option<u16>,
    ) -> Result<(UdpId, SocketAddr), Error> {
        self.alive()?;
        self.udp.bind(specific(address), port, &mut self.network)
    }

    /// Sends a datagram, now or when the neighbour's address is known.
    pub fn udp_send<E: Egress>(
        &mut self,
        now: Instant,
        socket: UdpId,
        to: SocketAddr,
        ttl: Option<u8>,
        payload: &[u8],
        egress: &mut E,
    ) -> Result<(), Error> {
        self.alive()?;
        let options = SendOptions { ttl, ecn: 0 };
        self.udp.send(now, (socket, canonical(to)), options, payload, &mut self.network, egress)
    }

    /// Offers the oldest datagram to `take`, which says whether it took it. False if there was none, or it was not taken.
    pub fn udp_receive(
        &mut self,
        socket: UdpId,
        take: impl FnOnce(UdpMeta, &[u8]) -> bool,
    ) -> Result<bool, Error> {
        self.alive()?;
        self.udp.receive(socket, take)
    }

    /// The oldest error that came back for a datagram of this socket, and where that one was sent.
    pub fn udp_error(&mut self, socket: UdpId) -> Option<(SocketAddr, IcmpError)> {
        self.udp.error(socket).map(|UdpError { to, error, offender: _ }| (to, error))
    }

    /// The same, with who reported it: with a rising hop limit this is traceroute. Each error is returned once, here or by
    /// [`udp_error`](Stack::udp_error).
    pub fn udp_error_detail(&mut self, socket: UdpId) -> Option<UdpError> {
        self.udp.error(socket)
    }

    /// Sends a datagram with a hop limit or ECN bits of its own.
    pub fn udp_send_with<E: Egress>(
        &mut self,
        now: Instant,
        (socket, to): (UdpId, SocketAddr),
        options: SendOptions,
        payload: &[u8],
        egress: &mut E,
    ) -> Result<(), Error> {
        self.alive()?;
        self.udp.send(now, (socket, canonical(to)), options, payload, &mut self.network, egress)
    }

    /// Fixes the peer: only its datagrams, and errors about datagrams to it, reach the socket from now on, and what others sent before
    /// is forgotten. `None` lets the socket speak with everybody again. Returns our own address towards the peer. The peer of
    /// [`udp_send`](Stack::udp_send) is named all the same.
    pub fn udp_connect(
        &mut self,
        socket: UdpId,
        peer: Option<SocketAddr>,
    ) -> Result<Option<SocketAddr>, Error> {
        self.alive()?;
        self.udp.connect(socket, peer.map(canonical), &self.network)
    }

    /// The peer that was fixed.
    pub fn udp_peer(&self, socket: UdpId) -> Result<Option<SocketAddr>, Error> {
        self.udp.peer(socket)
    }

    /// Whether the socket may send to everybody on the link; at first it may not.
    pub fn udp_set_broadcast(&mut self, socket: UdpId, allowed: bool) -> Result<(), Error> {
        self.udp.set_broadcast(socket, allowed)
    }

    /// Whether a datagram that does not fit what is known of the path is refused with [`Error::MessageTooLong`] (Linux's
    /// `IP_PMTUDISC_DO`); at first it is sent in fragments. One that a router finds too large comes back as
    /// [`IcmpError::FragmentationNeeded`] either way, and what follows knows better.
    pub fn udp_set_dont_fragment(&mut self, socket: UdpId, refused: bool) -> Result<(), Error> {
        self.udp.set_dont_fragment(socket, refused)
    }

    /// The largest packet that reaches `destination`, as far as is known: the link's MTU until a router says less.
    #[must_use]
    pub fn path_mtu(&self, destination: IpAddr) -> usize {
        self.network.path_mtu(self.network.ipv6.clock, destination.to_canonical())
    }

    /// The hop limit of datagrams to hosts; 64 at first.
    pub fn udp_set_ttl(&mut self, socket: UdpId, ttl: u8) -> Result<(), Error> {
        self.udp.set_ttl(socket, ttl, false)
    }

    /// The hop limit of datagrams to groups; 1 at first, which is the link.
    pub fn udp_set_multicast_ttl(&mut self, socket: UdpId, ttl: u8) -> Result<(), Error> {
        self.udp.set_ttl(socket, ttl, true)
    }

    /// Joins a multicast group: datagrams to it and the socket's port are received from now on, our own included.
    pub fn udp_join(&mut self, now: Instant, socket: UdpId, group: IpAddr) -> Result<(), Error> {
        self.alive()?;
        self.udp.join(now, socket, group, &mut self.network)
    }

    /// Leaves a multicast group.
    pub fn udp_leave(&mut self, now: Instant, socket: UdpId, group: IpAddr) -> Result<(), Error> {
        self.udp.leave(now, socket, group, &mut self.network)
    }

    /// Frees the port, and leaves the socket's groups.
    pub fn udp_close(&mut self, socket: UdpId) {
        let now = self.network.ipv6.clock;
        self.udp.close(now, socket, &mut self.network);
    }

    // ---- ping --------------------------------------------------------------------------------------------------------

    /// Sends an echo request.
    pub fn ping<E: Egress>(
        &mut self,
        now: Instant,
        to: IpAddr,
        payload_len: usize,
        timeout: Duration,
        egress: &mut E,
    ) -> Result<PingId, Error> {
        self.alive()?;
        self.send_ping(now, (to, None), (payload_len, timeout), egress)
    }

    /// Sends an echo request with a hop limit of its own: with a rising one, and [`ping_offender`](Stack::ping_offender), this is
    /// traceroute.
    pub fn ping_with_ttl<E: Egress>(
        &mut self,
        now: Instant,
        to: IpAddr,
        ttl: u8,
        payload_len: usize,
        timeout: Duration,
        egress: &mut E,
    ) -> Result<PingId, Error> {
        self.alive()?;
        if ttl == 0 {
            return Err(Error::InvalidInput { what: "a hop limit of 0 goes nowhere" });
        }
        self.send_ping(now, (to, Some(ttl)), (payload_len, timeout), egress)
    }

    fn send_ping<E: Egress>(
        &mut self,
        now: Instant,
        (to, ttl): (IpAddr, Option<u8>),
        size_and_timeout: (usize, Duration),
        egress: &mut E,
    ) -> Result<PingId, Error> {
        let to = to.to_canonical();
        if to.is_loopback() {
            return Err(Error::Unsupported { what: LOOPBACK });
        }
        if !ip::is_usable_host(to) || self.network.is_broadcast(to) {
            return Err(Error::InvalidAddress { address: to });
        }
        self.icmp.pings.ping(now, (to, ttl), size_and_timeout, &mut self.network, egress)
    }

    /// What became of an echo request: `None` while it is under way, then the result once.
    pub fn ping_result(&mut self, ping: PingId) -> Option<Result<PingReply, Error>> {
        self.icmp.pings.result(ping)
    }

    /// Who reported the error that [`ping_result`](Stack::ping_result) is about to return: a router on the way, the destination, or
    /// ourselves. `None` for a reply and for silence.
    #[must_use]
    pub fn ping_offender(&self, ping: PingId) -> Option<IpAddr> {
        self.icmp.pings.offender(ping)
    }

    /// Forgets an echo request.
    pub fn ping_cancel(&mut self, ping: PingId) {
        self.icmp.pings.cancel(ping);
    }

    fn alive(&self) -> Result<(), Error> {
        if self.failed { Err(Error::DeviceUnavailable) } else { Ok(()) }
    }
}

/// An address to bind to: that of no host stands for all.
fn specific(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| address.to_canonical()).filter(|address| !address.is_unspecified())
}

/// An IPv4 address in IPv6 clothes is an IPv4 address; flow labels and scopes do not tell two peers apart on one link.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
