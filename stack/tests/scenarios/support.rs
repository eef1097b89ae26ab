//! What the scenarios share: two stacks on a wire in virtual time, and a peer made of hand-written frames.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use netd_stack::{
    Addressing, Config, ConflictDetection, Counters, Egress, FlowId, Instant, Ipv6Addressing, Limits,
    Options, Ready, Stack, Static,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet,
    Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A transmit queue of a given size.
pub(crate) struct Queue {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) room: usize,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue { frames: Vec::new(), room: usize::MAX }
    }

    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.frames)
    }
}

impl Egress for Queue {
    fn ready(&self) -> bool {
        self.frames.len() < self.room
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if !self.ready() {
            return false;
        }
        let mut frame = vec![0xa5; len];
        let keep = fill(&mut frame);
        if keep {
            self.frames.push(frame);
        }
        keep
    }
}

pub(crate) fn config(mac: [u8; 6], address: Ipv4Addr) -> Config {
    let address =
        Static { cidr: format!("{address}/24").parse().unwrap(), gateway: None, mtu: None, dns: Vec::new() };
    Config {
        mac,
        mtu: 1500,
        addressing: Addressing::Static(address),
        hostname: None,
        seed: [mac[5]; 32],
        limits: Limits::default(),
    }
}

/// Nothing that speaks by itself: most scenarios count frames.
pub(crate) fn quiet() -> Options {
    Options { ipv6: Ipv6Addressing::Off, conflicts: ConflictDetection::Off, ..Options::default() }
}

/// IPv6 by itself, but no probes for IPv4.
pub(crate) fn with_ipv6() -> Options {
    Options { conflicts: ConflictDetection::Off, ..Options::default() }
}

/// A small generator for the tests' own dice (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// What the wire does to frames, in percent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Impairment {
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    pub(crate) reorder: u64,
}

/// Two stacks and what is between them.
pub(crate) struct Wire {
    pub(crate) now: Instant,
    pub(crate) stacks: [Stack; 2],
    pub(crate) queues: [Queue; 2],
    in_flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    order: u64,
    pub(crate) impairment: Impairment,
    pub(crate) cut: bool,
    dice: Dice,
    pub(crate) ready: [Vec<Ready>; 2],
}

const DELAY: Duration = Duration::from_micros(100);

impl Wire {
    pub(crate) fn new() -> Wire {
        Wire::with(config(MAC_A, A), config(MAC_B, B), Impairment::default(), 1)
    }

    pub(crate) fn with(a: Config, b: Config, impairment: Impairment, seed: u64) -> Wire {
        Wire::with_options((a, quiet()), (b, quiet()), impairment, seed)
    }

    pub(crate) fn with_options(
        a: (Config, Options),
        b: (Config, Options),
        impairment: Impairment,
        seed: u64,
    ) -> Wire {
        let now = Instant::from_micros(1_000_000);
        Wire {
            now,
            stacks: [a, b].map(|(config, options)| Stack::with_options(config, options, now).unwrap()),
            queues: [Queue::new(), Queue::new()],
            in_flight: BTreeMap::new(),
            order: 0,
            impairment,
            cut: false,
            dice: Dice(seed),
            ready: [Vec::new(), Vec::new()],
        }
    }

    fn launch(&mut self, to: usize, frame: &[u8]) {
        if self.cut || self.dice.percent(self.impairment.loss) {
            return;
        }
        let copies = 1 + usize::from(self.dice.percent(self.impairment.duplicate));
        for _ in 0..copies {
            let late = u32::from(self.dice.percent(self.impairment.reorder)) * 7;
            self.order += 1;
            self.in_flight.insert((self.now + DELAY * (1 + late), self.order), (to, frame.to_vec()));
        }
    }

    /// Lets both stacks do what they can, then moves time to the next thing that happens.
    pub(crate) fn step(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, frame) = entry.remove();
            self.stacks[to].handle_frame(self.now, &frame, &mut self.queues[to]);
        }
        for side in 0..2 {
            self.stacks[side].poll(self.now, &mut self.queues[side]);
            for frame in self.queues[side].take() {
                self.launch(1 - side, &frame);
            }
            while let Some(ready) = self.stacks[side].next_ready() {
                self.ready[side].push(ready);
            }
        }
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let timers = [self.stacks[0].poll_timeout(), self.stacks[1].poll_timeout()];
        let next = timers.into_iter().flatten().chain(arrival).min();
        // Never stand still, and never rush past what a test does between steps.
        let earliest = self.now + Duration::from_micros(1);
        let latest = self.now + Duration::from_millis(500);
        self.now = next.unwrap_or(latest).clamp(earliest, latest);
    }

    /// Steps until `done`, at most `limit` of virtual time; panics with what the stacks counted otherwise.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Wire) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.now < end,
                "not done after {limit:?}: a {:#?}, b {:#?}",
                self.stacks[0].counters(),
                self.stacks[1].counters()
            );
            self.step();
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
        }
    }

    /// An established connection from side 0 to port 80 of side 1.
    pub(crate) fn connected(&mut self) -> (FlowId, FlowId) {
        let (listener, _) = self.stacks[1].tcp_listen(Some(80), 8).unwrap();
        let client = self.stacks[0].tcp_connect(self.now, SocketAddr::from((B, 80))).unwrap();
        let mut server = None;
        self.run_until(Duration::from_secs(100), |wire| {
            server = server.or(wire.stacks[1].tcp_accept(listener).unwrap());
            server.is_some() && wire.stacks[0].tcp_status(client).unwrap().established
        });
        let now = self.now;
        self.stacks[1].tcp_close_listener(now, listener);
        (client, server.unwrap())
    }

    pub(crate) fn counters(&self, side: usize) -> &Counters {
        self.stacks[side].counters()
    }
}

/// Writes as much of `data` as fits; returns how much.
pub(crate) fn write(stack: &mut Stack, flow: FlowId, data: &[u8]) -> usize {
    let fill = |space: &mut [u8]| {
        let len = space.len().min(data.len());
        space[..len].copy_from_slice(&data[..len]);
        len
    };
    stack.tcp_send(flow, fill).unwrap_or(0)
}

/// Appends what can be read to `data`.
pub(crate) fn read(stack: &mut Stack, flow: FlowId, data: &mut Vec<u8>) -> usize {
    let take = |octets: &[u8]| {
        data.extend_from_slice(octets);
        octets.len()
    };
    stack.tcp_receive(flow, take).unwrap_or(0)
}

/// One stack (side A) and a peer at B that says exactly what a test writes.
pub(crate) struct Scripted {
    pub(crate) now: Instant,
    pub(crate) stack: Stack,
    pub(crate) queue: Queue,
}

/// A TCP segment as the test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) control: TcpControl,
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
}

impl Scripted {
    pub(crate) fn new() -> Scripted {
        Scripted::with(config(MAC_A, A))
    }

    pub(crate) fn with(config: Config) -> Scripted {
        Scripted::with_options(config, quiet())
    }

    pub(crate) fn with_options(config: Config, options: Options) -> Scripted {
        let now = Instant::from_micros(1_000_000);
        Scripted { now, stack: Stack::with_options(config, options, now).unwrap(), queue: Queue::new() }
    }

    /// A connection that is being opened to a port of B; B's hardware address is known and the SYN has left. Returns it, our port
    /// and our sequence number.
    pub(crate) fn connecting(&mut self, port: u16) -> (FlowId, u16, u32) {
        let flow = self.stack.tcp_connect(self.now, SocketAddr::from((B, port))).unwrap();
        self.poll();
        self.arp_reply();
        let syn = self.segments().pop().unwrap();
        (flow, self.stack.tcp_status(flow).unwrap().local.port(), syn.seq)
    }

    pub(crate) fn ready(&mut self) -> Vec<Ready> {
        core::iter::from_fn(|| self.stack.next_ready()).collect()
    }

    pub(crate) fn poll(&mut self) {
        self.stack.poll(self.now, &mut self.queue);
    }

    pub(crate) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        // Timers fire in their order, as a worker would see them.
        while let Some(at) = self.stack.poll_timeout().filter(|&at| at < end && self.now < end) {
            // What is due and cannot be sent because the queue is full stays due: look again a little later.
            let step = Duration::from_micros(if at <= self.now { 10_000 } else { 1 });
            self.now = (self.now.max(at) + step).min(end);
            self.poll();
        }
        self.now = end;
        self.poll();
    }

    /// As [`advance`](Scripted::advance), with a peer that answers when it is asked for its hardware address.
    pub(crate) fn advance_reachable(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let asked = self.queue.frames.len();
            self.advance(Duration::from_secs(1).min(end.saturating_duration_since(self.now)));
            let asks = |frame: &Vec<u8>| parse_arp(frame).is_some_and(|(.., target)| target == B);
            if self.queue.frames.get(asked..).unwrap_or_default().iter().any(asks) {
                self.arp_reply();
            }
        }
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) {
        self.stack.handle_frame(self.now, frame, &mut self.queue);
    }

    /// B tells its hardware address.
    pub(crate) fn arp_reply(&mut self) {
        let frame = arp(ArpOperation::Reply, (MAC_B, B), (MAC_A, A), MAC_A);
        self.frame(&frame);
    }

    pub(crate) fn segment(
        &mut self,
        ports: (u16, u16),
        control: TcpControl,
        seq: u32,
        ack: Option<u32>,
        payload: &[u8],
    ) {
        let frame = tcp(ports, control, seq, ack, payload);
        self.frame(&frame);
    }

    /// The TCP segments that were sent since the last look; other frames are dropped.
    pub(crate) fn segments(&mut self) -> Vec<Seen> {
        self.queue.take().iter().filter_map(|frame| parse_tcp(frame)).collect()
    }

    /// A connection from B's port 4000 to our port 80, accepted; returns it, B's next sequence number, and ours.
    pub(crate) fn accepted(&mut self) -> (FlowId, u32, u32) {
        let (listener, _) = self.stack.tcp_listen(Some(80), 8).unwrap();
        self.segment((4000, 80), TcpControl::Syn, 1000, None, &[]);
        self.poll();
        self.arp_reply();
        let syn_ack = self.segments().into_iter().find(|seen| seen.control == TcpControl::Syn).unwrap();
        let ours = syn_ack.seq.wrapping_add(1);
        self.segment((4000, 80), TcpControl::None, 1001, Some(ours), &[]);
        self.poll();
        let flow = self.stack.tcp_accept(listener).unwrap().unwrap();
        let now = self.now;
        self.stack.tcp_close_listener(now, listener);
        self.queue.take();
        (flow, 1001, ours)
    }
}

pub(crate) fn arp(
    operation: ArpOperation,
    source: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
    to: [u8; 6],
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut frame = ethernet(source.0, to, EthernetProtocol::Arp, 28);
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

/// The addresses (operation, sender, target) of an ARP frame.
pub(crate) fn parse_arp(frame: &[u8]) -> Option<(ArpOperation, Ipv4Addr, Ipv4Addr)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    match ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).ok()?).ok()? {
        ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } => {
            Some((operation, source_protocol_addr, target_protocol_addr))
        }
        _ => None,
    }
}

pub(crate) fn ethernet(
    source: [u8; 6],
    to: [u8; 6],
    protocol: EthernetProtocol,
    payload_len: usize,
) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_src_addr(EthernetAddress(source));
    ethernet.set_dst_addr(EthernetAddress(to));
    ethernet.set_ethertype(protocol);
    frame
}

/// An IPv4 packet in a frame, from `source` at B's hardware address to A.
pub(crate) fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(MAC_B, MAC_A, EthernetProtocol::Ipv4, 20 + payload.len());
    let repr = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit: 60,
    };
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
    frame[34..].copy_from_slice(payload);
    frame
}

pub(crate) fn udp((source_port, port): (u16, u16), payload: &[u8]) -> Vec<u8> {
    udp_between((B, source_port), (A, port), payload)
}

pub(crate) fn udp_between(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + payload.len()];
    UdpRepr { src_port: source.1, dst_port: destination.1 }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &IpAddress::Ipv4(source.0),
        &IpAddress::Ipv4(destination.0),
        payload.len(),
        |space| space.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    ip(source.0, destination.0, IpProtocol::Udp, &bytes)
}

/// An ICMP packet with these first bytes (type, code, 0, 0, rest of header) and body.
pub(crate) fn icmp(message_type: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![message_type, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(body);
    Icmpv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
    ip(B, A, IpProtocol::Icmp, &bytes)
}

/// The IPv4 packets of this protocol among `frames`, each with its destination hardware address.
pub(crate) fn ip_packets(frames: &[Vec<u8>], protocol: IpProtocol) -> Vec<([u8; 6], Vec<u8>)> {
    let mut packets = Vec::new();
    for frame in frames {
        let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
        let of_protocol = ethernet.ethertype() == EthernetProtocol::Ipv4
            && Ipv4Packet::new_checked(ethernet.payload()).unwrap().next_header() == protocol;
        if of_protocol {
            packets.push((ethernet.dst_addr().0, ethernet.payload().to_vec()));
        }
    }
    packets
}

pub(crate) fn tcp(
    (source_port, port): (u16, u16),
    control: TcpControl,
    seq: u32,
    ack: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: source_port,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 65_535,
        window_scale: None,
        max_seg_size: (control == TcpControl::Syn).then_some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &IpAddress::Ipv4(B),
        &IpAddress::Ipv4(A),
        &ChecksumCapabilities::default(),
    );
    ip(B, A, IpProtocol::Tcp, &bytes)
}

pub(crate) fn parse_tcp(frame: &[u8]) -> Option<Seen> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    assert!(packet.verify_checksum(), "we sent a wrong IP checksum");
    let tcp = TcpPacket::new_checked(packet.payload()).unwrap();
    let (source, destination) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    let repr = TcpRepr::parse(&tcp, &source, &destination, &ChecksumCapabilities::default()).unwrap();
    Some(Seen {
        control: repr.control,
        seq: repr.seq_number.0 as u32,
        ack: repr.ack_number.map(|ack| ack.0 as u32),
        window: repr.window_len,
        payload: repr.payload.to_vec(),
    })
}

/// An IPv6 packet in a frame from B's hardware address, to A's or the group's.
pub(crate) fn ip6(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    (protocol, hop_limit): (IpProtocol, u8),
    payload: &[u8],
) -> Vec<u8> {
    let [.., a, b, c, d] = destination.octets();
    let to = if destination.is_multicast() { [0x33, 0x33, a, b, c, d] } else { MAC_A };
    let mut frame = ethernet(MAC_B, to, EthernetProtocol::Ipv6, 40 + payload.len());
    let repr = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit,
    };
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
    frame[54..].copy_from_slice(payload);
    frame
}

/// An ICMPv6 message: type, code, and everything behind the checksum.
pub(crate) fn icmp6(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    (message_type, code): (u8, u8),
    body: &[u8],
) -> Vec<u8> {
    let mut message = vec![message_type, code, 0, 0];
    message.extend(body);
    Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&source, &destination);
    ip6((source, destination), (IpProtocol::Icmpv6, hop_limit), &message)
}

/// The IPv6 packets among `frames`, each with its destination hardware address.
pub(crate) fn ip6_packets(frames: &[Vec<u8>]) -> Vec<([u8; 6], Vec<u8>)> {
    let ethernet = frames.iter().map(|frame| EthernetFrame::new_checked(&frame[..]).unwrap());
    let of_v6 = ethernet.filter(|ethernet| ethernet.ethertype() == EthernetProtocol::Ipv6);
    of_v6.map(|ethernet| (ethernet.dst_addr().0, ethernet.payload().to_vec())).collect()
}

/// The ICMPv6 messages of this type among `frames`, without extension headers in front: destination and message.
pub(crate) fn icmp6_messages(frames: &[Vec<u8>], message_type: u8) -> Vec<(Ipv6Addr, Vec<u8>)> {
    let mut messages = Vec::new();
    for (_, bytes) in ip6_packets(frames) {
        let packet = Ipv6Packet::new_checked(&bytes[..]).unwrap();
        let at = if packet.next_header() == IpProtocol::HopByHop { 48 } else { 40 };
        let icmp = packet.next_header() == IpProtocol::Icmpv6 || at == 48;
        if icmp && bytes[at] == message_type {
            let message = Icmpv6Packet::new_checked(&bytes[at..]).unwrap();
            assert!(
                message.verify_checksum(&packet.src_addr(), &packet.dst_addr()),
                "we sent a wrong checksum"
            );
            messages.push((packet.dst_addr(), bytes[at..].to_vec()));
        }
    }
    messages
}
