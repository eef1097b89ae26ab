//! The TCP engine: smoltcp's socket, driven one connection at a time, behind a type of our own so that it can be exchanged.
//!
//! smoltcp keeps its sockets in a set and searches it for every packet. Here each [`Connection`] owns a set of one, and the
//! caller, who has found the connection by its 5-tuple, passes exactly that set: the cost of a packet does not grow with the
//! number of connections. An `Interface` holds nothing that belongs to a connection but the MTU, so there is one for each MTU in use.
//!
//! Every entry is contained: a panic below costs one connection (the caller drops it on [`Fault`]) and the `Interface`, which is
//! made anew.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{
    HardwareAddress, IpEndpoint, IpListenEndpoint, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

use super::guard::{Guard, Standing, Verdict};
use super::segment::{Segment, Tuple};
use super::sequence::engine_seed_for;
use crate::ip;
use crate::random::Random;
use crate::time::{EngineInstant as _, Instant};

/// Octets that a connection holds for its owner. One short of 64 KiB: from there on the engine scales the window, rounds it
/// up, and panics on the segment that believes it.
pub(crate) const RECEIVE_BUFFER: usize = 65_535;
/// Octets that a connection holds for its peer: one full window of a peer that does not scale.
pub(crate) const SEND_BUFFER: usize = 65_536;

/// The longest IPv4 packet, and the MTU of the interface for segments that the device cuts.
const LONG_MTU: usize = 65_535;
/// Octets of a TCP header without options.
const TCP_HEADER_LEN: usize = 20;
/// The MSS of a peer that tells none (RFC 9293, 3.7.1), and the least that the engine believes.
const PEER_MSS_DEFAULT: u16 = 536;
const PEER_MSS_MIN: u16 = 48;

/// Interfaces kept, each 2.6 KiB: both families, a few path MTUs and the one for long packets. One more replaces the oldest, and may be made again.
const INTERFACES_MAX: usize = 8;
/// Sockets kept for later connections, each with up to 128 KiB of touched buffers: as many as one listener may have handshakes.
const SPARES_MAX: usize = 64;

/// The engine panicked. The connection is in an unknown state and must be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault;

/// Where the engine's packets go.
pub(crate) trait PacketSink {
    /// Whether a packet can go now.
    fn ready(&self) -> bool;
    /// The longest packet that can go now if the device cuts it.
    fn long_packet_len(&self) -> Option<usize>;
    /// Lends a buffer of `len` bytes. `fill` may stay uncalled, when there is none. It leaves the checksum, and what carries more than
    /// `segment_len` octets is to be cut.
    fn send(&mut self, len: usize, segment_len: usize, fill: impl FnOnce(&mut [u8]) -> bool);
}

/// One TCP connection.
pub(crate) struct Connection {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    guard: Guard,
    tuple: Tuple,
    /// The largest packet towards the peer.
    mtu: usize,
    /// The largest segment that the peer takes.
    peer_mss: usize,
}

pub(crate) struct Engine {
    interfaces: Vec<(usize, Interface)>,
    /// Closed sockets of connections that are over.
    spares: Vec<Spare>,
    random: Random,
    #[cfg(test)]
    pub(crate) guarded: bool,
}

impl Engine {
    pub(crate) fn new(random: Random) -> Engine {
        Engine {
            interfaces: Vec::new(),
            spares: Vec::new(),
            random,
            #[cfg(test)]
            guarded: true,
        }
    }

    /// Opens towards `tuple.remote`, with packets of at most `mtu` bytes; the SYN leaves with the first [`Engine::egress`] and has
    /// the sequence number `initial`.
    pub(crate) fn connect(&mut self, tuple: Tuple, mtu: usize, initial: u32) -> Result<Connection, Fault> {
        self.replace_interface(mtu, engine_seed_for(initial));
        let mut connection = self.connection(tuple, mtu);
        let (remote, local) = (endpoint(tuple.remote), endpoint(tuple.local));
        let Connection { sockets, handle, .. } = &mut connection;
        let (sockets, handle) = (sockets, *handle);
        let opened = self.contain(mtu, |interface| {
            sockets.get_mut::<Socket<'_>>(handle).connect(interface.context(), remote, local)
        })?;
        opened.map_err(|_| Fault)?;
        Ok(connection)
    }

    /// Waits for the SYN from `tuple.remote`, which the caller holds in its hand and gives to [`Engine::ingress`] next: the answer
    /// has the sequence number `initial`.
    pub(crate) fn listen(&mut self, tuple: Tuple, mtu: usize, initial: u32) -> Result<Connection, Fault> {
        self.replace_interface(mtu, engine_seed_for(initial));
        let mut connection = self.connection(tuple, mtu);
        let local = endpoint(tuple.local);
        let endpoint = IpListenEndpoint { addr: Some(local.addr), port: local.port };
        connection.socket_mut().listen(endpoint).map_err(|_| Fault)?;
        Ok(connection)
    }

    fn connection(&mut self, tuple: Tuple, mtu: usize) -> Connection {
        let spare = self.spares.pop().unwrap_or_else(Spare::new);
        Connection::new(tuple, mtu, spare)
    }

    /// Takes back a connection that nobody needs any more. Its socket serves a later one: making and clearing 128 KiB of buffers
    /// costs more than everything else that a short connection needs.
    pub(crate) fn retire(&mut self, connection: Connection) {
        let Connection { mut sockets, handle, guard: _, tuple: _, mtu: _, peer_mss: _ } = connection;
        if self.spares.len() < SPARES_MAX {
            // Closes it without a reset, which would need to be driven once more.
            sockets.get_mut::<Socket<'_>>(handle).abort();
            self.spares.push(Spare { sockets, handle });
        }
    }

    /// Hands a segment to its connection. `packet` is the IP packet without extension headers, whose checksums the caller has verified.
    pub(crate) fn ingress<S: PacketSink>(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        (packet, segment): (&[u8], &Segment),
        sink: &mut S,
    ) -> Result<Verdict, Fault> {
        let before = connection.state();
        let verdict = if before == State::Listen { Verdict::Pass } else { self.judge(connection, segment) };
        let rewritten;
        let packet = match verdict {
            Verdict::Pass => packet,
            Verdict::WithoutFin { keep } => {
                rewritten = without_fin(packet, keep as usize);
                &rewritten
            }
            Verdict::WithAcknowledgement { ack, window } => {
                rewritten = with_acknowledgement(packet, ack, window);
                &rewritten
            }
            Verdict::Challenge
            | Verdict::DropEarly
            | Verdict::DropSequence
            | Verdict::DropAcknowledgement
            | Verdict::DropAfterFin => return Ok(verdict),
        };
        let segment_len = connection.segment_len();
        let Connection { sockets, guard, mtu, .. } = &mut *connection;
        self.contain(*mtu, |interface| {
            let mut port = Port { received: Some(packet), sink, guard, sent: false, segment_len, mtu: 0 };
            interface.poll_ingress_single(now.to_engine(), &mut port, sockets);
        })?;
        connection.after_ingress(before, segment);
        Ok(verdict)
    }

    fn judge(&self, connection: &mut Connection, segment: &Segment) -> Verdict {
        #[cfg(test)]
        if !self.guarded {
            return Verdict::Pass;
        }
        let state = connection.state();
        let standing = Standing {
            readable: connection.readable(),
            unacknowledged: connection.unacknowledged(),
            established: !matches!(
                state,
                State::Closed | State::Listen | State::SynSent | State::SynReceived
            ),
            fin_acknowledged: matches!(state, State::FinWait2 | State::TimeWait),
        };
        connection.guard.judge(segment, &standing)
    }

    /// Lets the connection send at most one packet; true if it did.
    ///
    /// Where the device cuts segments, the packet is as long as what may be sent. smoltcp's own segmentation offload knows IPv4 only: it
    /// drops an IPv6 packet beyond the interface's MTU. So a connection that has data to send is driven through another interface, with
    /// the MTU of the longest packet there is ([`LONG_MTU`]); a handshake never is, since its MSS comes from that MTU. What the pieces
    /// may hold we remember ourselves. The alternatives are worse: to join the engine's packets again below it would copy them, and to
    /// cut in software what the engine wrote too long is what a device without this offload is spared by its ordinary interface.
    pub(crate) fn egress<S: PacketSink>(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        sink: &mut S,
    ) -> Result<bool, Fault> {
        let segment_len = connection.segment_len();
        let long = connection.has_text() && sink.long_packet_len().is_some_and(|len| len >= LONG_MTU);
        let Connection { sockets, guard, mtu, .. } = connection;
        let mtu = if long { LONG_MTU } else { *mtu };
        self.contain(mtu, |interface| {
            let mut port = Port { received: None, sink, guard, sent: false, segment_len, mtu: 0 };
            interface.poll_egress(now.to_engine(), &mut port, sockets);
            port.sent
        })
    }

    /// When the connection wants [`Engine::egress`] next. A time that has passed although it had nothing to send means that it is
    /// blocked, not that it is due.
    pub(crate) fn deadline(
        &mut self,
        now: Instant,
        connection: &Connection,
    ) -> Result<Option<Instant>, Fault> {
        self.contain(connection.mtu, |interface| interface.poll_at(now.to_engine(), &connection.sockets))
            .map(|deadline| deadline.map(Instant::from_engine))
    }

    /// Makes the interface for `mtu` anew. The engine draws initial sequence numbers from a weak generator in it; a seed chosen for
    /// each connection makes it draw the one that we want.
    fn replace_interface(&mut self, mtu: usize, seed: u64) {
        self.interfaces.retain(|(of, _)| *of != mtu);
        if self.interfaces.len() >= INTERFACES_MAX {
            self.interfaces.remove(0);
        }
        self.interfaces.push((mtu, fresh_interface(mtu, seed)));
    }

    fn contain<R>(&mut self, mtu: usize, enter: impl FnOnce(&mut Interface) -> R) -> Result<R, Fault> {
        let known = self.interfaces.iter().position(|(of, _)| *of == mtu);
        let index = known.unwrap_or_else(|| {
            let seed = self.random.next_u64();
            self.replace_interface(mtu, seed);
            self.interfaces.len() - 1
        });
        let interface = &mut self.interfaces[index].1;
        // Unwind safety: after a panic neither the interface (made anew here) nor the connection (dropped by the
        // caller) is looked at again, and `Transmit::consume` lets no panic cross the device.
        let result = catch_unwind(AssertUnwindSafe(|| enter(interface)));
        result.map_err(|_| {
            let seed = self.random.next_u64();
            self.replace_interface(mtu, seed);
            Fault
        })
    }
}

/// A closed socket.
struct Spare {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Spare {
    fn new() -> Spare {
        let socket =
            Socket::new(SocketBuffer::new(vec![0; RECEIVE_BUFFER]), SocketBuffer::new(vec![0; SEND_BUFFER]));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Spare { sockets, handle }
    }
}

impl Connection {
    /// On a socket that may have had a connection before. Opening it again makes smoltcp forget that one, but for its congestion
    /// control, which is made anew here, and for fields that tell nothing any more: whether the peer does SACK (written by its SYN,
    /// before it is read), the last segment received (likewise, by the segment that SACK speaks of), a fast retransmission not
    /// done (which would begin where the first data begins anyway), and the last acknowledgement with how often it came (which the
    /// first other acknowledgement clears).
    fn new(tuple: Tuple, mtu: usize, spare: Spare) -> Connection {
        let Spare { mut sockets, handle } = spare;
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        socket.set_congestion_control(CongestionControl::Cubic);
        // One ACK per batch is what the caller's polling amounts to; a delay would hold back the ACK of a merged frame.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_hop_limit(Some(ip::TTL));
        let peer_mss = PEER_MSS_DEFAULT.into();
        Connection { sockets, handle, guard: Guard::default(), tuple, mtu, peer_mss }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn tuple(&self) -> Tuple {
        self.tuple
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }

    /// Octets that wait for the owner.
    pub(crate) fn readable(&self) -> usize {
        self.socket().recv_queue()
    }

    /// Octets that the owner may add.
    pub(crate) fn writable(&self) -> usize {
        let socket = self.socket();
        if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    /// Octets that the peer has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.socket().send_queue()
    }

    /// Whether the peer's FIN was received, and all data before it.
    pub(crate) fn fin_received(&self) -> bool {
        self.guard.fin_received()
    }

    /// The sequence numbers of a segment of ours: SND.MAX, RCV.NXT and the window.
    pub(crate) fn sequence(&self) -> Option<(u32, u32, u16)> {
        let next = self.guard.receive_next(self.readable())?;
        Some((self.guard.send_highest()?, next, self.guard.window_from(next)))
    }

    /// One past the highest octet sent; `None` until the SYN left.
    pub(crate) fn send_highest(&self) -> Option<u32> {
        self.guard.send_highest()
    }

    /// Lends contiguous free space of the send buffer; `fill` says how much it wrote.
    pub(crate) fn send(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let filled = self.socket_mut().send(|space| {
            let most = space.len();
            let filled = fill(space).min(most);
            (filled, filled)
        });
        let filled = filled.unwrap_or(0);
        self.guard.gave(filled);
        filled
    }

    /// Lends contiguous received octets; `take` says how many it took.
    pub(crate) fn receive(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let taken = self.socket_mut().recv(|octets| {
            let most = octets.len();
            let taken = take(octets).min(most);
            (taken, taken)
        });
        let taken = taken.unwrap_or(0);
        self.guard.took(taken);
        taken
    }

    /// Octets of data in a packet towards the peer, without options of TCP.
    fn segment_len(&self) -> usize {
        let headers = ip::header_len(self.tuple.remote.0) + TCP_HEADER_LEN;
        self.mtu.saturating_sub(headers).min(self.peer_mss)
    }

    /// Whether there may be data to send or to send again: the handshake is over, and not everything is acknowledged.
    fn has_text(&self) -> bool {
        use State::{CloseWait, Closing, Established, FinWait1, LastAck};
        self.unacknowledged() > 0
            && matches!(self.state(), Established | FinWait1 | Closing | CloseWait | LastAck)
    }

    /// Lowers the size of packets towards the peer; what is retransmitted is cut anew.
    pub(crate) fn lower_mtu(&mut self, mtu: usize) {
        self.mtu = self.mtu.min(mtu);
    }

    /// Whether small segments wait for nothing.
    /// The hop limit of its packets.
    pub(crate) fn set_hop_limit(&mut self, hop_limit: u8) {
        self.socket_mut().set_hop_limit(Some(hop_limit));
    }

    pub(crate) fn set_nodelay(&mut self, nodelay: bool) {
        self.socket_mut().set_nagle_enabled(!nodelay);
    }

    /// FIN after what is buffered.
    pub(crate) fn finish(&mut self) {
        self.socket_mut().close();
    }

    /// RST with the next egress.
    pub(crate) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn after_ingress(&mut self, before: State, segment: &Segment) {
        let state = self.state();
        let synchronized = matches!(state, State::SynReceived | State::Established);
        if !self.guard.is_synchronized() && segment.syn && before != state && synchronized {
            self.guard.synchronize(segment.seq);
            self.peer_mss = segment.mss.unwrap_or(PEER_MSS_DEFAULT).max(PEER_MSS_MIN).into();
        }
        if matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) {
            self.guard.set_fin_received();
        }
    }
}

fn endpoint((address, port): (core::net::IpAddr, u16)) -> IpEndpoint {
    IpEndpoint::new(ip::wire(address), port)
}

fn fresh_interface(mtu: usize, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut guard = Guard::default();
    let mut port =
        Port { received: None, sink: &mut Nowhere, guard: &mut guard, sent: false, segment_len: 0, mtu };
    let mut interface = Interface::new(config, &mut port, smoltcp::time::Instant::ZERO);
    // Addresses are checked before a packet comes here, and a lease that goes must not take connections with it.
    interface.set_any_ip(true);
    interface
}

/// Copies `packet` with only `keep` octets of payload and without its FIN. Checksums are left alone: the engine does not look.
fn without_fin(packet: &[u8], keep: usize) -> Vec<u8> {
    let mut copy = packet.to_vec();
    let header_len = header_len(packet);
    let mut tcp = TcpPacket::new_unchecked(&mut copy[header_len..]);
    tcp.set_fin(false);
    let tcp_header_len = usize::from(tcp.header_len());
    copy.truncate(header_len + tcp_header_len + keep);
    let total_len = copy.len() as u16;
    if is_v6(packet) {
        Ipv6Packet::new_unchecked(&mut copy[..]).set_payload_len(total_len - ip::IPV6_HEADER_LEN as u16);
    } else {
        Ipv4Packet::new_unchecked(&mut copy[..]).set_total_len(total_len);
    }
    copy
}

/// Copies `packet` with another acknowledgement and window, for the engine's eyes as well.
fn with_acknowledgement(packet: &[u8], ack: u32, window: u16) -> Vec<u8> {
    let mut copy = packet.to_vec();
    let mut tcp = TcpPacket::new_unchecked(&mut copy[header_len(packet)..]);
    tcp.set_ack_number(TcpSeqNumber(ack as i32));
    tcp.set_window_len(window);
    copy
}

fn is_v6(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6
}

/// Where the segment begins in a packet without extension headers.
fn header_len(packet: &[u8]) -> usize {
    if is_v6(packet) {
        ip::IPV6_HEADER_LEN
    } else {
        usize::from(Ipv4Packet::new_unchecked(packet).header_len())
    }
}

/// The engine's device for the length of one call.
struct Port<'a, S> {
    received: Option<&'a [u8]>,
    sink: &'a mut S,
    guard: &'a mut Guard,
    sent: bool,
    segment_len: usize,
    /// Only read when an interface is made.
    mtu: usize,
}

struct Received<'a>(&'a [u8]);

struct Transmit<'a, S> {
    sink: &'a mut S,
    guard: &'a mut Guard,
    sent: &'a mut bool,
    segment_len: usize,
}

struct Nowhere;

impl PacketSink for Nowhere {
    fn ready(&self) -> bool {
        false
    }

    fn long_packet_len(&self) -> Option<usize> {
        None
    }

    fn send(&mut self, _len: usize, _segment_len: usize, _fill: impl FnOnce(&mut [u8]) -> bool) {}
}

impl<S: PacketSink> Device for Port<'_, S> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Transmit<'t, S>
    where
        Self: 't;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received<'_>, Transmit<'_, S>)> {
        let received = Received(self.received.take()?);
        let Port { sink, guard, sent, segment_len, .. } = self;
        Some((received, Transmit { sink, guard, sent, segment_len: *segment_len }))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Transmit<'_, S>> {
        let Port { sink, guard, sent, segment_len, .. } = self;
        sink.ready().then_some(Transmit { sink, guard, sent, segment_len: *segment_len })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Verified before the flow was looked up; that of a segment is filled where it leaves.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        if self.mtu == LONG_MTU {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONG_MTU);
            capabilities.segmentation.tcpv6 = NonZeroUsize::new(LONG_MTU);
        }
        capabilities
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<S: PacketSink> TxToken for Transmit<'_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut emit = Some(f);
        let mut emitted = None;
        let guard = &mut *self.guard;
        self.sink.send(len, self.segment_len, |buffer| {
            let Some(emit) = emit.take() else { return false };
            // The buffer belongs to a driver: give it back in order before a panic goes on.
            let result = catch_unwind(AssertUnwindSafe(|| emit(buffer)));
            let intact = result.is_ok();
            if intact {
                guard.sent(buffer);
            }
            emitted = Some(result);
            intact
        });
        *self.sent = true;
        match (emitted, emit) {
            (Some(Ok(value)), _) => value,
            (Some(Err(panic)), _) => resume_unwind(panic),
            (None, Some(emit)) => {
                // No buffer: for the engine the packet is lost on the wire, and its timers will see to it.
                let mut lost = vec![0; len];
                let value = emit(&mut lost);
                self.guard.sent(&mut lost);
                value
            }
            (None, None) => unreachable!("`emit` is taken only where `emitted` is set"),
        }
    }
}
