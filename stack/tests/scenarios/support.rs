//! What the scenarios share: two stacks on a wire in virtual time, and a peer made of hand-written frames.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use netd_stack::{Addressing, Config, Counters, Egress, FlowId, Instant, Limits, Ready, Stack, Static};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

pub const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A transmit queue of a given size.
pub struct Queue {
    pub frames: Vec<Vec<u8>>,
    pub room: usize,
}

impl Queue {
    pub fn new() -> Queue {
        Queue { frames: Vec::new(), room: usize::MAX }
    }

    pub fn take(&mut self) -> Vec<Vec<u8>> {
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

pub fn config(mac: [u8; 6], address: Ipv4Addr) -> Config {
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

/// A small generator for the tests' own dice (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// What the wire does to frames, in percent.
#[derive(Clone, Copy, Default)]
pub struct Impairment {
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
}

/// Two stacks and what is between them.
pub struct Wire {
    pub now: Instant,
    pub stacks: [Stack; 2],
    pub queues: [Queue; 2],
    in_flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    order: u64,
    pub impairment: Impairment,
    pub cut: bool,
    dice: Dice,
    pub ready: [Vec<Ready>; 2],
}

const DELAY: Duration = Duration::from_micros(100);

impl Wire {
    pub fn new() -> Wire {
        Wire::with(config(MAC_A, A), config(MAC_B, B), Impairment::default(), 1)
    }

    pub fn with(a: Config, b: Config, impairment: Impairment, seed: u64) -> Wire {
        let now = Instant::from_micros(1_000_000);
        Wire {
            now,
            stacks: [Stack::new(a, now).unwrap(), Stack::new(b, now).unwrap()],
            queues: [Queue::new(), Queue::new()],
            in_flight: BTreeMap::new(),
            order: 0,
            impairment,
            cut: false,
            dice: Dice(seed),
            ready: [Vec::new(), Vec::new()],
        }
    }

    fn launch(&mut self, to: usize, frame: Vec<u8>) {
        if self.cut || self.dice.percent(self.impairment.loss) {
            return;
        }
        let copies = 1 + usize::from(self.dice.percent(self.impairment.duplicate));
        for _ in 0..copies {
            let late = u32::from(self.dice.percent(self.impairment.reorder)) * 7;
            self.order += 1;
            self.in_flight.insert((self.now + DELAY * (1 + late), self.order), (to, frame.clone()));
        }
    }

    /// Lets both stacks do what they can, then moves time to the next thing that happens.
    pub fn step(&mut self) {
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
                self.launch(1 - side, frame);
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
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Wire) -> bool) {
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

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
        }
    }

    /// An established connection from side 0 to port 80 of side 1.
    pub fn connected(&mut self) -> (FlowId, FlowId) {
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

    pub fn counters(&self, side: usize) -> &Counters {
        self.stacks[side].counters()
    }
}

/// Writes as much of `data` as fits; returns how much.
pub fn write(stack: &mut Stack, flow: FlowId, data: &[u8]) -> usize {
    let fill = |space: &mut [u8]| {
        let len = space.len().min(data.len());
        space[..len].copy_from_slice(&data[..len]);
        len
    };
    stack.tcp_send(flow, fill).unwrap_or(0)
}

/// Appends what can be read to `data`.
pub fn read(stack: &mut Stack, flow: FlowId, data: &mut Vec<u8>) -> usize {
    let take = |octets: &[u8]| {
        data.extend_from_slice(octets);
        octets.len()
    };
    stack.tcp_receive(flow, take).unwrap_or(0)
}

/// One stack (side A) and a peer at B that says exactly what a test writes.
pub struct Scripted {
    pub now: Instant,
    pub stack: Stack,
    pub queue: Queue,
}

/// A TCP segment as the test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub control: TcpControl,
    pub seq: u32,
    pub ack: Option<u32>,
    pub window: u16,
    pub payload: Vec<u8>,
}

impl Scripted {
    pub fn new() -> Scripted {
        let now = Instant::from_micros(1_000_000);
        Scripted { now, stack: Stack::new(config(MAC_A, A), now).unwrap(), queue: Queue::new() }
    }

    pub fn poll(&mut self) {
        self.stack.poll(self.now, &mut self.queue);
    }

    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        // Timers fire in their order, as a worker would see them.
        while let Some(at) = self.stack.poll_timeout().filter(|&at| at < end) {
            self.now = self.now.max(at) + Duration::from_micros(1);
            self.poll();
        }
        self.now = end;
        self.poll();
    }

    pub fn frame(&mut self, frame: &[u8]) {
        self.stack.handle_frame(self.now, frame, &mut self.queue);
    }

    /// B tells its hardware address.
    pub fn arp_reply(&mut self) {
        let frame = arp(ArpOperation::Reply, (MAC_B, B), (MAC_A, A), MAC_A);
        self.frame(&frame);
    }

    pub fn segment(&mut self, ports: (u16, u16), control: TcpControl, seq: u32, ack: Option<u32>, payload: &[u8]) {
        let frame = tcp(ports, control, seq, ack, payload);
        self.frame(&frame);
    }

    /// The TCP segments that were sent since the last look; other frames are dropped.
    pub fn segments(&mut self) -> Vec<Seen> {
        self.queue.take().iter().filter_map(|frame| parse_tcp(frame)).collect()
    }

    /// A connection from B's port 4000 to our port 80, accepted; returns it, B's next sequence number, and ours.
    pub fn accepted(&mut self) -> (FlowId, u32, u32) {
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

pub fn arp(
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
pub fn parse_arp(frame: &[u8]) -> Option<(ArpOperation, Ipv4Addr, Ipv4Addr)> {
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

pub fn ethernet(source: [u8; 6], to: [u8; 6], protocol: EthernetProtocol, payload_len: usize) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_src_addr(EthernetAddress(source));
    ethernet.set_dst_addr(EthernetAddress(to));
    ethernet.set_ethertype(protocol);
    frame
}

/// An IPv4 packet in a frame, from `source` at B's hardware address to A.
pub fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
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

pub fn tcp(
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

pub fn parse_tcp(frame: &[u8]) -> Option<Seen> {
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
