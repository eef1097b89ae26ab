//! The stack: frames in, frames out, and the sockets between.

use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use core::time::Duration;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, IpProtocol};

use crate::config::{Addressing, Config, MTU_MIN, Static};
use crate::counters::Counters;
use crate::dhcp::{self, Change, Dhcp};
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{Events, FlowId, ListenerId, PingId, Ready, UdpId};
use crate::icmp::{Icmp, IcmpError, PingReply, Quote};
use crate::info::{AddressState, SocketInfo};
use crate::ipv4;
use crate::neighbor::{NeighborInfo, Neighbors};
use crate::network::{ETHERNET_HEADER_LEN, Network};
use crate::random::Random;
use crate::route::Routing;
use crate::tcp::{FlowStatus, Tcp, Tuple};
use crate::time::Instant;
use crate::timers::{Timer, Timers};
use crate::udp::{self, Udp, UdpMeta};

/// A TCP/IP stack for one device. It does no I/O and owns no clock.
///
/// The caller's loop is: [`handle_frame`](Stack::handle_frame) for each frame that arrived, [`poll`](Stack::poll) once per batch,
/// [`next_ready`](Stack::next_ready) until it is empty, then sleep until a frame arrives, a buffer is freed, its clients want
/// something, or [`poll_timeout`](Stack::poll_timeout). What socket calls make to be sent leaves with the next `poll`.
pub struct Stack {
    network: Network,
    tcp: Tcp,
    udp: Udp,
    icmp: Icmp,
    dhcp: Option<Dhcp>,
    address: AddressState,
    device_mtu: u16,
    failed: bool,
}

impl Stack {
    /// A stack that has not sent anything yet; DHCP starts with the first [`poll`](Stack::poll).
    pub fn new(config: Config, now: Instant) -> Result<Stack, Error> {
        config.check()?;
        let Config { mac, mtu, addressing, hostname, seed, limits } = config;
        let mut random = Random::new(&seed);
        let mut network = Network {
            mac,
            mtu: usize::from(mtu),
            routing: None,
            neighbors: Neighbors::new(limits.neighbors, random.keyed_state()),
            timers: Timers::default(),
            events: Events::new(random.keyed_state()),
            counters: Counters::default(),
            random,
        };
        let mut stack = Stack {
            tcp: Tcp::new(&limits, &mut network),
            udp: Udp::new(&limits, &mut network),
            icmp: Icmp::new(limits.pings, &mut network),
            dhcp: None,
            address: AddressState::Searching,
            device_mtu: mtu,
            failed: false,
            network,
        };
        match addressing {
            Addressing::Static(address) => stack.use_static(address, AddressState::Static),
            Addressing::Dhcp { fallback, timeout } => {
                let fallback = fallback.map(|address| (address, timeout));
                stack.dhcp = Some(Dhcp::new(now, hostname, fallback, &mut stack.network));
            }
        }
        Ok(stack)
    }

    // ---- frames and time ---------------------------------------------------------------------------------------------

    /// Handles a frame from the device; replies that cannot wait leave through `egress`.
    pub fn handle_frame<E: Egress>(&mut self, now: Instant, frame: &[u8], egress: &mut E) {
        if self.failed {
            return;
        }
        let counters = &mut self.network.counters;
        counters.frames_received += 1;
        counters.bytes_received += frame.len() as u64;
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
            counters.drop_frame_malformed += 1;
            return;
        };
        let destination = ethernet.dst_addr();
        let for_us = destination.0 == self.network.mac;
        if !(for_us || destination.is_broadcast()) || !ethernet.src_addr().is_unicast() {
            counters.drop_frame_not_for_us += 1;
            return;
        }
        let payload = &frame[ETHERNET_HEADER_LEN..];
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.network.handle_arp(now, payload, egress),
            EthernetProtocol::Ipv4 => self.handle_ipv4(now, payload, for_us, egress),
            EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => counters.drop_ethertype_unknown += 1,
        }
    }

    /// `for_us`: the frame was sent to our hardware address and not to everybody's.
    fn handle_ipv4<E: Egress>(&mut self, now: Instant, bytes: &[u8], for_us: bool, egress: &mut E) {
        let Some(packet) = ipv4::parse(bytes, &mut self.network.counters) else { return };
        if self.handle_dhcp(now, &packet, egress) {
            return;
        }
        let broadcast = self.network.is_broadcast(packet.destination);
        let ours = self.network.address() == Some(packet.destination);
        // RFC 1122, 3.3.6: a unicast packet in a broadcast frame is dropped; so is one that claims to come from us.
        let plausible = broadcast || (ours && for_us);
        if !plausible || self.network.address().is_none() {
            self.network.counters.drop_ip_not_for_us += 1;
            return;
        }
        if self.network.address() == Some(packet.source) || self.network.is_broadcast(packet.source) {
            self.network.counters.drop_ip_source += 1;
            return;
        }
        let Stack { network, tcp, udp, icmp, .. } = self;
        match packet.protocol {
            IpProtocol::Tcp if ours => tcp.handle_packet(now, &packet, network, egress),
            IpProtocol::Udp => {
                if !udp.handle_packet(&packet, network) {
                    icmp.send_unreachable(
                        now,
                        &packet,
                        Icmpv4DstUnreachable::PortUnreachable,
                        network,
                        egress,
                    );
                }
            }
            IpProtocol::Icmp => {
                if let Some((quote, error)) = icmp.handle_packet(now, &packet, network, egress) {
                    self.handle_unreachable(&quote, error);
                }
            }
            _ => {
                network.counters.drop_ip_protocol += 1;
                icmp.send_unreachable(now, &packet, Icmpv4DstUnreachable::ProtoUnreachable, network, egress);
            }
        }
    }

    /// A DHCP server answers to an address that is not ours yet.
    fn handle_dhcp<E: Egress>(&mut self, now: Instant, packet: &ipv4::Packet<'_>, egress: &mut E) -> bool {
        let Some(dhcp) = self.dhcp.as_mut().filter(|_| packet.protocol == IpProtocol::Udp) else {
            return false;
        };
        let Some((ports, payload)) = udp::parse(packet) else { return false };
        if (ports.src_port, ports.dst_port) != (dhcp::SERVER_PORT, dhcp::CLIENT_PORT) {
            return false;
        }
        let change = dhcp.handle(now, payload, &mut self.network, egress);
        self.apply(change);
        true
    }

    /// Runs due timers and sends what is pending; true when something was sent. The cost depends on what is due and on which flows
    /// have something to do, not on how many there are.
    pub fn poll<E: Egress>(&mut self, now: Instant, egress: &mut E) -> bool {
        if self.failed {
            return false;
        }
        let sent_before = self.network.counters.frames_sent;
        while let Some((deadline, timer)) = self.network.timers.expired(now) {
            self.handle_timer(now, deadline, timer, egress);
        }
        self.tcp.poll(now, &mut self.network, egress);
        self.network.counters.frames_sent != sent_before
    }

    fn handle_timer<E: Egress>(&mut self, now: Instant, deadline: Instant, timer: Timer, egress: &mut E) {
        let network = &mut self.network;
        match timer {
            Timer::Flow(id) => self.tcp.timer_expired(now, id, deadline, network),
            Timer::Ping(id) => self.icmp.timer_expired(id, deadline, network),
            Timer::Neighbor(target) => {
                for packet in network.neighbor_expired(now, target.into(), deadline, egress) {
                    if let Some(quote) = Quote::parse(&packet) {
                        self.handle_unreachable(&quote, IcmpError::HostUnreachable);
                    }
                }
            }
            Timer::Dhcp => {
                if let Some(dhcp) = &mut self.dhcp {
                    let change = dhcp.timer_expired(now, deadline, network, egress);
                    self.apply(change);
                }
            }
        }
    }

    /// When [`poll`](Stack::poll) should run next, if nothing else happens; a point that has passed means now. With a full transmit
    /// queue it stays "now": waiting for the device is then up to the caller.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.tcp.has_work() {
            return Some(Instant::ZERO);
        }
        self.network.timers.next_deadline()
    }

    /// The next thing that changed. Each is in the queue at most once until taken.
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.network.events.pop()
    }

    /// Hands an error about a packet of ours to the socket that sent it.
    fn handle_unreachable(&mut self, quote: &Quote, error: IcmpError) {
        let (local_port, remote_port) = quote.ports();
        let remote = (quote.destination, remote_port);
        let network = &mut self.network;
        match quote.protocol {
            IpProtocol::Tcp => {
                let tuple = Tuple { local: (quote.source, local_port), remote };
                self.tcp.handle_unreachable(&tuple, quote.sequence(), error, network);
            }
            IpProtocol::Udp => self.udp.handle_unreachable((local_port, remote), error, network),
            IpProtocol::Icmp => self.icmp.handle_unreachable(quote, error, network),
            _ => {}
        }
    }

    // ---- addresses ---------------------------------------------------------------------------------------------------

    fn apply(&mut self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Bound(lease) => {
                self.use_address(Some(lease.routing()), lease.mtu);
                self.address = AddressState::Bound(*lease);
            }
            Change::Fallback(address) => self.use_static(address, AddressState::Fallback),
            Change::Lost => {
                self.use_address(None, None);
                self.address = AddressState::Searching;
            }
        }
    }

    fn use_static(&mut self, address: Static, state: fn(Static) -> AddressState) {
        self.use_address(Some(Routing::new(address.cidr, address.gateway, &[])), address.mtu);
        self.address = state(address);
    }

    fn use_address(&mut self, routing: Option<Routing>, mtu: Option<u16>) {
        let mtu = usize::from(mtu.unwrap_or(self.device_mtu).clamp(MTU_MIN, self.device_mtu));
        if mtu != self.network.mtu {
            self.network.mtu = mtu;
            self.tcp.set_mtu(mtu);
        }
        self.network.set_routing(routing);
        self.tcp.address_changed(&mut self.network);
    }

    /// Which address is in use.
    #[must_use]
    pub fn lease(&self) -> AddressState {
        self.address.clone()
    }

    /// The IP MTU in force: the device's, or less if the network says so.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        u16::try_from(self.network.mtu).unwrap_or(u16::MAX)
    }

    // ---- TCP ---------------------------------------------------------------------------------------------------------

    /// Begins to connect. The connection is named at once; [`Ready::Flow`] says when it is established or has failed. How long to
    /// wait is up to the caller, who aborts; the stack gives up after two minutes.
    pub fn tcp_connect(&mut self, now: Instant, remote: SocketAddr) -> Result<FlowId, Error> {
        self.alive()?;
        self.tcp.connect(now, only_v4(remote)?, &mut self.network)
    }

    /// Listens on `port`, or on a free ephemeral one. `backlog` connections wait to be accepted; further SYNs are dropped.
    pub fn tcp_listen(
        &mut self,
        port: Option<u16>,
        backlog: usize,
    ) -> Result<(ListenerId, SocketAddr), Error> {
        self.alive()?;
        self.tcp.listen(port, backlog, &mut self.network)
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

    /// Ends the connection with a reset. The id stays until [`tcp_release`](Stack::tcp_release).
    pub fn tcp_abort(&mut self, flow: FlowId) {
        self.tcp.abort(flow);
    }

    /// The owner is gone and the id is stale from now on. The connection finishes closing by itself, within a minute; if data was left
    /// unread the peer gets a reset.
    pub fn tcp_release(&mut self, now: Instant, flow: FlowId) {
        self.tcp.release(now, flow);
    }

    // ---- UDP ---------------------------------------------------------------------------------------------------------

    /// Takes `port`, or a free ephemeral one.
    pub fn udp_bind(&mut self, port: Option<u16>) -> Result<(UdpId, SocketAddr), Error> {
        self.alive()?;
        self.udp.bind(port, &mut self.network)
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
        self.udp.send(now, socket, only_v4(to)?, ttl, payload, &mut self.network, egress)
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
        self.udp.error(socket)
    }

    /// Frees the port.
    pub fn udp_close(&mut self, socket: UdpId) {
        self.udp.close(socket);
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
        let to = *only_v4(SocketAddr::new(to, 0))?.ip();
        if !ipv4::is_usable_host(to) || self.network.is_broadcast(to) {
            return Err(Error::InvalidAddress { address: to.into() });
        }
        if self.network.address() == Some(to) {
            return Err(Error::Unsupported { what: "an echo request to our own address" });
        }
        self.icmp.ping(now, to, payload_len, timeout, &mut self.network, egress)
    }

    /// What became of an echo request: `None` while it is under way, then the result once.
    pub fn ping_result(&mut self, ping: PingId) -> Option<Result<PingReply, Error>> {
        self.icmp.result(ping)
    }

    /// Forgets an echo request.
    pub fn ping_cancel(&mut self, ping: PingId) {
        self.icmp.cancel(ping);
    }

    // ---- the whole ---------------------------------------------------------------------------------------------------

    /// Every socket: connections in any state, listeners, UDP.
    pub fn sockets(&self) -> impl Iterator<Item = SocketInfo> {
        let address = self.network.address().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let flows = self.tcp.iter().map(|(id, stage, status)| SocketInfo {
            id: id.as_u64(),
            kind: "tcp",
            local: status.local,
            remote: Some(status.remote),
            state: format!("{:?}", status.state),
            stage,
            readable: status.readable,
        });
        let bound = move |id, kind, port, state: &str, readable| SocketInfo {
            id,
            kind,
            local: (address, port).into(),
            remote: None,
            state: state.to_owned(),
            stage: "owned",
            readable,
        };
        let listeners = self
            .tcp
            .listeners()
            .map(move |(id, port)| bound(id.as_u64(), "tcp-listener", port, "listening", 0));
        let udp =
            self.udp.iter().map(move |(id, port, queued)| bound(id.as_u64(), "udp", port, "bound", queued));
        flows.chain(listeners).chain(udp)
    }

    /// The neighbour table.
    pub fn neighbors(&self) -> impl Iterator<Item = NeighborInfo> {
        self.network.neighbors.iter()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.network.counters
    }

    /// The device is gone: every connection ends with [`Outcome::DeviceUnavailable`](crate::Outcome::DeviceUnavailable), every
    /// call that needs a device fails from now on, and no frame is taken or sent any more.
    pub fn fail_all(&mut self) {
        self.failed = true;
        self.tcp.fail_all(&mut self.network);
        self.udp.fail_all(&mut self.network);
        self.icmp.fail_all(&mut self.network);
        self.network.set_routing(None);
        self.dhcp = None;
        self.address = AddressState::Searching;
    }

    fn alive(&self) -> Result<(), Error> {
        if self.failed { Err(Error::DeviceUnavailable) } else { Ok(()) }
    }

    #[cfg(test)]
    pub(crate) fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    #[cfg(test)]
    pub(crate) fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }
}

fn only_v4(address: SocketAddr) -> Result<SocketAddrV4, Error> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => match address.ip().to_ipv4_mapped() {
            Some(ip) => Ok(SocketAddrV4::new(ip, address.port())),
            None => Err(Error::Unsupported { what: "IPv6" }),
        },
    }
}
