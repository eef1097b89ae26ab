//! What a packet costs the stack, by the number of established connections - beside smoltcp with all of them in one socket set.
//!
//! Both get the same frames: one-byte segments, in order on each connection, connections in random order, and both send their
//! acknowledgements. Checksums are verified and made. The frames are built before the clock starts.
#![expect(
    clippy::expect_used,
    reason = "a benchmark whose steps fail has measured nothing; each says what it relies on"
)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant as Clock;

use netd_stack::{Addressing, Cidr, Config, Egress, FlowId, Instant, Limits, Stack, Static};
use serde::Serialize;
use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, HardwareAddress,
    IpAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PORT: u16 = 80;
const ETHERNET: usize = 14;
/// Segments that are measured, at most; fewer where each is slow.
const SEGMENTS: usize = 200_000;
/// Nobody reads, so one connection takes no more than its receive buffer holds.
const SEGMENTS_PER_FLOW: usize = 60_000;
/// Connections that one big socket set is measured with: beyond, setting it up takes minutes.
const ONE_SET_MAX: usize = 10_000;

/// The cost at one number of connections, in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Row {
    /// Established connections.
    pub flows: usize,
    /// Our stack: one segment in, its acknowledgement out.
    pub packet: f64,
    /// Our stack: one pass over the timers with nothing due, and asking for the next.
    pub timers: f64,
    /// One smoltcp socket set: one segment in, its acknowledgement out.
    pub one_set_packet: Option<f64>,
    /// One smoltcp socket set: `poll_at`.
    pub one_set_timers: Option<f64>,
}

/// Measures both at each number of connections.
pub fn run(counts: &[usize], mut progress: impl FnMut(&Row)) -> Vec<Row> {
    let measure = |&flows: &usize| {
        let (packet, timers) = measure_stack(flows);
        let one_set = (flows <= ONE_SET_MAX).then(|| measure_one_set(flows));
        let row = Row {
            flows,
            packet,
            timers,
            one_set_packet: one_set.map(|(packet, _)| packet),
            one_set_timers: one_set.map(|(_, timers)| timers),
        };
        progress(&row);
        row
    };
    counts.iter().map(measure).collect()
}

/// A peer behind the gateway, one for each connection.
#[derive(Debug, Clone, Copy)]
struct Peer {
    address: Ipv4Addr,
    port: u16,
    /// What it sends next.
    sequence: u32,
    /// What it expects next.
    acknowledged: u32,
}

impl Peer {
    fn new(index: usize) -> Peer {
        let index = index as u32;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + index / 50_000);
        Peer { address, port: 1024 + (index % 50_000) as u16, sequence: index, acknowledged: 0 }
    }

    /// An Ethernet frame with a segment of this peer.
    fn frame(&self, control: TcpControl, payload: &[u8]) -> Vec<u8> {
        let acknowledgement = (control != TcpControl::Syn).then_some(TcpSeqNumber(self.acknowledged as i32));
        let segment = TcpRepr {
            src_port: self.port,
            dst_port: PORT,
            control,
            seq_number: TcpSeqNumber(self.sequence as i32),
            ack_number: acknowledgement,
            window_len: 65_535,
            window_scale: None,
            max_seg_size: (control == TcpControl::Syn).then_some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let header = Ipv4Repr {
            src_addr: self.address,
            dst_addr: OURS,
            next_header: IpProtocol::Tcp,
            payload_len: segment.buffer_len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; ETHERNET + header.buffer_len() + segment.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
        ethernet.set_src_addr(EthernetAddress(GATEWAY_MAC));
        ethernet.set_dst_addr(EthernetAddress(OUR_MAC));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let checksums = ChecksumCapabilities::default();
        header.emit(&mut Ipv4Packet::new_unchecked(ethernet.payload_mut()), &checksums);
        let packet = &mut ethernet.payload_mut()[header.buffer_len()..];
        let (source, destination) = (IpAddress::Ipv4(self.address), IpAddress::Ipv4(OURS));
        segment.emit(&mut TcpPacket::new_unchecked(packet), &source, &destination, &checksums);
        frame
    }
}

/// What to send after the handshakes: for each step the connection and its frame.
fn traffic(peers: &mut [Peer], steps: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(1);
    let next = |_| {
        let peer = &mut peers[random.usize(..peers.len())];
        let frame = peer.frame(TcpControl::Psh, b"x");
        peer.sequence = peer.sequence.wrapping_add(1);
        frame
    };
    (0..steps).map(next).collect()
}

/// Takes a SYN-ACK apart: the peer's port, address, and the number to acknowledge.
fn syn_ack(packet: &[u8]) -> Option<(Ipv4Addr, u16, u32)> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let segment = TcpPacket::new_checked(ip.payload()).ok()?;
    let acknowledge = (segment.seq_number().0 as u32).wrapping_add(1);
    (segment.syn() && segment.ack()).then(|| (ip.dst_addr(), segment.dst_port(), acknowledge))
}

fn nanoseconds(start: Clock, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

// ---- our stack -----------------------------------------------------------------------------------------------------

/// Frames that leave: the last one is kept during set-up, later ones are only written.
struct Out {
    buffer: Vec<u8>,
    kept: VecDeque<Vec<u8>>,
    keep: bool,
    sent: usize,
}

impl Egress for Out {
    fn ready(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let sent = fill(&mut self.buffer[..len]);
        if sent {
            self.sent += 1;
            if self.keep {
                self.kept.push_back(self.buffer[..len].to_vec());
            }
        }
        sent
    }
}

fn measure_stack(flows: usize) -> (f64, f64) {
    let (mut stack, mut out, mut peers) = established(flows);
    let frames = traffic(&mut peers, SEGMENTS.min(flows * SEGMENTS_PER_FLOW));
    out.keep = false;
    // What the stack sends by itself when an address is new is over after these.
    let now = Instant::from_micros(60_000_000);
    for second in 1..=60 {
        stack.poll(Instant::from_micros(second * 1_000_000), &mut out);
    }
    let before = out.sent;
    let start = Clock::now();
    for frame in &frames {
        stack.handle_frame(now, black_box(frame), &mut out);
        stack.poll(now, &mut out);
        while let Some(ready) = stack.next_ready() {
            black_box(ready);
        }
    }
    let packet = nanoseconds(start, frames.len());
    assert_eq!(out.sent - before, frames.len(), "every segment is acknowledged");
    let start = Clock::now();
    for _ in 0..SEGMENTS {
        black_box(stack.poll(now, &mut out));
        black_box(stack.poll_timeout());
    }
    (packet, nanoseconds(start, SEGMENTS))
}

/// A stack with `flows` accepted connections.
fn established(flows: usize) -> (Stack, Out, Vec<Peer>) {
    let addressing = Addressing::Static(Static {
        cidr: Cidr::new(OURS, 24).unwrap_or(Cidr::host(OURS)),
        gateway: Some(GATEWAY),
        mtu: None,
        dns: Vec::new(),
    });
    let limits = Limits { flows: flows + 16, ..Limits::default() };
    let config = Config { mac: OUR_MAC, mtu: 1500, addressing, hostname: None, seed: [1; 32], limits };
    let now = Instant::ZERO;
    let mut stack = Stack::new(config, now).expect("the configuration above is a valid one");
    let mut out = Out { buffer: vec![0; 2048], kept: VecDeque::new(), keep: true, sent: 0 };
    let (listener, _) = stack.tcp_listen(Some(PORT), 128).expect("nobody else listens");
    let mut peers: Vec<Peer> = (0..flows).map(Peer::new).collect();
    for peer in &mut peers {
        stack.handle_frame(now, &peer.frame(TcpControl::Syn, &[]), &mut out);
        stack.poll(now, &mut out);
        answer_arp(&mut stack, &mut out);
        let answer = out.kept.drain(..).find_map(|frame| syn_ack(&frame[ETHERNET..]));
        let (_, _, acknowledge) = answer.expect("a SYN is answered");
        peer.sequence = peer.sequence.wrapping_add(1);
        peer.acknowledged = acknowledge;
        stack.handle_frame(now, &peer.frame(TcpControl::None, &[]), &mut out);
        stack.poll(now, &mut out);
        let accepted: Option<FlowId> = stack.tcp_accept(listener).expect("the listener is there");
        accepted.expect("the handshake is complete");
        while stack.next_ready().is_some() {}
        out.kept.clear();
    }
    (stack, out, peers)
}

/// The gateway answers when it is asked for, which is once.
fn answer_arp(stack: &mut Stack, out: &mut Out) {
    let asked = |frame: &Vec<u8>| EthernetFrame::new_unchecked(frame).ethertype() == EthernetProtocol::Arp;
    if !out.kept.iter().any(asked) {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(GATEWAY_MAC),
        source_protocol_addr: GATEWAY,
        target_hardware_addr: EthernetAddress(OUR_MAC),
        target_protocol_addr: OURS,
    };
    let mut frame = vec![0; ETHERNET + reply.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    ethernet.set_src_addr(EthernetAddress(GATEWAY_MAC));
    ethernet.set_dst_addr(EthernetAddress(OUR_MAC));
    ethernet.set_ethertype(EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    stack.handle_frame(Instant::ZERO, &frame, out);
    stack.poll(Instant::ZERO, out);
}

// ---- one socket set ------------------------------------------------------------------------------------------------

/// A device of one frame each way.
#[derive(Default)]
struct Slot {
    incoming: Option<Vec<u8>>,
    outgoing: Option<Vec<u8>>,
    sent: usize,
}

struct Incoming(Vec<u8>);

struct Outgoing<'a>(&'a mut Slot);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.outgoing = Some(packet);
        self.0.sent += 1;
        result
    }
}

impl Device for Slot {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        self.incoming.take().map(|packet| (Incoming(packet), Outgoing(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

fn measure_one_set(flows: usize) -> (f64, f64) {
    let now = smoltcp::time::Instant::from_micros(0);
    let mut slot = Slot::default();
    let mut interface = Interface::new(smoltcp::iface::Config::new(HardwareAddress::Ip), &mut slot, now);
    interface.update_ip_addrs(|addresses| {
        // One address fits: the list has room for several.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(OURS), 24));
    });
    // The table is fresh, so there is room for a default route.
    let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
    let mut sockets = SocketSet::new(Vec::new());
    let mut peers: Vec<Peer> = (0..flows).map(Peer::new).collect();
    for peer in &mut peers {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.listen(PORT).expect("the port is not 0");
        sockets.add(socket);
        slot.incoming = Some(peer.frame(TcpControl::Syn, &[])[ETHERNET..].to_vec());
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
        interface.poll_egress(now, &mut slot, &mut sockets);
        let answer = slot.outgoing.take().and_then(|packet| syn_ack(&packet));
        let (_, _, acknowledge) = answer.expect("a SYN is answered");
        peer.sequence = peer.sequence.wrapping_add(1);
        peer.acknowledged = acknowledge;
        slot.incoming = Some(peer.frame(TcpControl::None, &[])[ETHERNET..].to_vec());
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
    }
    let steps = (SEGMENTS / flows.max(1)).clamp(2_000, SEGMENTS_PER_FLOW);
    let mut frames = traffic(&mut peers, steps);
    let before = slot.sent;
    let start = Clock::now();
    for frame in &mut frames {
        frame.drain(..ETHERNET);
        slot.incoming = Some(std::mem::take(frame));
        interface.poll_ingress_single(now, &mut slot, &mut sockets);
        interface.poll_egress(now, &mut slot, &mut sockets);
    }
    let packet = nanoseconds(start, steps);
    assert_eq!(slot.sent - before, steps, "every segment is acknowledged");
    let start = Clock::now();
    for _ in 0..steps {
        black_box(interface.poll_at(now, &sockets));
    }
    (packet, nanoseconds(start, steps))
}
