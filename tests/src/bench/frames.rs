//! Frames of a TCP peer, made by hand: what the benchmarks of the stack alone feed it, without a second stack that costs time.

use netd_stack::{Addressing, Cidr, Config, Egress, Instant, Limits, Stack, Static};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress,
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::net::Ipv4Addr;

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The address of the stack that is measured.
pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Peers are behind it.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Where the stack listens, and where it connects to.
pub(super) const PORT: u16 = 80;
/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Of a frame without TCP data, options of a SYN included.
const FRAME_BYTES_MAX: usize = 2048;

/// One end of a connection behind the gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    /// The stack's port.
    pub(super) our_port: u16,
    /// What it sends next.
    pub(super) sequence: u32,
    /// What it expects next.
    pub(super) acknowledged: u32,
}

impl Peer {
    /// The client number `index` of many, each with an address and port of its own.
    pub(super) fn new(index: usize) -> Peer {
        let index = index as u32;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + index / 50_000);
        let port = 1024 + (index % 50_000) as u16;
        Peer { address, port, our_port: PORT, sequence: index, acknowledged: 0 }
    }

    /// An Ethernet frame with a segment of this peer.
    pub(super) fn frame(&self, control: TcpControl, payload: &[u8]) -> Vec<u8> {
        self.segment(control, control != TcpControl::Syn, payload)
    }

    /// The answer to a SYN of the stack.
    pub(super) fn syn_ack(&self) -> Vec<u8> {
        self.segment(TcpControl::Syn, true, &[])
    }

    fn segment(&self, control: TcpControl, acknowledges: bool, payload: &[u8]) -> Vec<u8> {
        let segment = TcpRepr {
            src_port: self.port,
            dst_port: self.our_port,
            control,
            seq_number: TcpSeqNumber(self.sequence as i32),
            ack_number: acknowledges.then_some(TcpSeqNumber(self.acknowledged as i32)),
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

    /// Takes note of a segment that the stack sent to this peer.
    pub(super) fn hear(&mut self, sent: &Sent) {
        self.acknowledged = sent.next;
    }
}

/// A segment that the stack sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// To whom.
    pub(super) to: (Ipv4Addr, u16),
    /// From which port of the stack.
    pub(super) from_port: u16,
    /// One past the last octet of sequence space that it covers.
    pub(super) next: u32,
    pub(super) syn: bool,
    pub(super) fin: bool,
}

/// Takes an IPv4 packet of the stack apart; `None` if it carries no TCP segment.
pub(super) fn sent(packet: &[u8]) -> Option<Sent> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.next_header() != IpProtocol::Tcp {
        return None;
    }
    let segment = TcpPacket::new_checked(ip.payload()).ok()?;
    let covers = segment.payload().len() as u32 + u32::from(segment.syn()) + u32::from(segment.fin());
    Some(Sent {
        to: (ip.dst_addr(), segment.dst_port()),
        from_port: segment.src_port(),
        next: (segment.seq_number().0 as u32).wrapping_add(covers),
        syn: segment.syn(),
        fin: segment.fin(),
    })
}

/// Where the stack's frames go: written to buffers made beforehand, and kept there while somebody wants to read them.
pub(super) struct Out {
    frames: Vec<Vec<u8>>,
    kept: usize,
    keep: bool,
    /// Frames sent so far.
    pub(super) sent: usize,
}

impl Out {
    /// Keeps up to `keep` frames; more are only counted.
    pub(super) fn new(keep: usize) -> Out {
        Out { frames: vec![vec![0; FRAME_BYTES_MAX]; keep + 1], kept: 0, keep: true, sent: 0 }
    }

    /// From now on frames are only counted.
    pub(super) fn keep_nothing(&mut self) {
        self.keep = false;
        self.kept = 0;
    }

    /// The frames kept since the last call.
    pub(super) fn take(&mut self) -> impl Iterator<Item = &[u8]> {
        let kept = std::mem::take(&mut self.kept);
        self.frames[..kept].iter().map(Vec::as_slice)
    }
}

impl Egress for Out {
    fn ready(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let last = self.frames.len() - 1;
        let sent = fill(&mut self.frames[self.kept.min(last)][..len]);
        if sent {
            self.sent += 1;
            self.kept += usize::from(self.keep && self.kept < last);
        }
        sent
    }
}

/// A stack with a fixed address, whose gateway has told its hardware address. `limits` are its bounds.
pub(super) fn stack(limits: Limits, out: &mut Out) -> Result<Stack, netd_stack::Error> {
    let addressing = Addressing::Static(Static {
        cidr: Cidr::new(OURS, 24).unwrap_or(Cidr::host(OURS)),
        gateway: Some(GATEWAY),
        mtu: None,
        dns: Vec::new(),
    });
    let config = Config { mac: OUR_MAC, mtu: 1500, addressing, hostname: None, seed: [1; 32], limits };
    let mut stack = Stack::new(config, Instant::ZERO)?;
    // The echo request makes the stack ask for the gateway, and the reply is what every later packet needs.
    stack.ping(Instant::ZERO, GATEWAY.into(), 8, std::time::Duration::from_secs(1), out)?;
    stack.handle_frame(Instant::ZERO, &arp_reply(), out);
    stack.poll(Instant::ZERO, out);
    // What the stack sends by itself when an address is new is over after these.
    for second in 1..=60 {
        stack.poll(Instant::from_micros(second * 1_000_000), out);
        stack.handle_frame(Instant::from_micros(second * 1_000_000), &arp_reply(), out);
    }
    while stack.next_ready().is_some() {}
    out.take().for_each(drop);
    Ok(stack)
}

/// When [`stack`] returns.
pub(super) const NOW: Instant = Instant::from_micros(60_000_000);

/// The gateway's hardware address, as it answers when it is asked.
fn arp_reply() -> Vec<u8> {
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
    frame
}
