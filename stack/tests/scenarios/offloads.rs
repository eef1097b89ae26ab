//! Devices that complete checksums and cut long segments, or join them; and those that say so and lie.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use netd_stack::{Egress, FlowId, Instant, Integrity, Left, Stack};
use smoltcp::wire::{
    EthernetFrame, Icmpv4Message, Icmpv4Packet, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::support::*;

const HEADERS: usize = 14 + 20 + 20;

/// A transmit queue in front of a device with offloads.
struct Device {
    frames: Vec<(Vec<u8>, Left)>,
    completes: bool,
    /// Buffers for long frames that are free.
    long: usize,
}

impl Device {
    fn new() -> Device {
        Device { frames: Vec::new(), completes: true, long: 16 }
    }

    fn take(&mut self) -> Vec<(Vec<u8>, Left)> {
        self.long = self.long.max(16);
        core::mem::take(&mut self.frames)
    }
}

impl Egress for Device {
    fn ready(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        self.transmit_leaving(len, |buffer| fill(buffer).then_some(Left::Nothing))
    }

    fn completes_checksums(&self) -> bool {
        self.completes
    }

    fn long_frame_len(&self, _: bool) -> Option<usize> {
        (self.completes && self.long > 0).then_some(14 + 65_535)
    }

    fn transmit_leaving(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Option<Left>) -> bool {
        let mut frame = vec![0xa5; len];
        let Some(left) = fill(&mut frame) else { return false };
        if len > 14 + 1500 {
            assert!(self.long > 0, "a long frame without a buffer for it");
            assert!(matches!(left, Left::Segments { .. }), "{len} bytes are not to be cut: {left:?}");
            self.long -= 1;
        }
        self.frames.push((frame, left));
        true
    }
}

/// What a device that does not join or cut anything says of a frame on its way within the host.
fn integrity(left: Left) -> Integrity {
    match left {
        Left::Nothing => Integrity::Unknown,
        Left::Checksum { start, offset } | Left::Segments { start, offset, .. } => {
            Integrity::Partial { start, offset }
        }
    }
}

/// Two stacks with such devices on one host.
struct Host {
    now: Instant,
    stacks: [Stack; 2],
    devices: [Device; 2],
    /// Every frame that passed, with what its sender left.
    passed: Vec<(usize, usize, Left)>,
}

impl Host {
    fn new() -> Host {
        let now = Instant::from_micros(1_000_000);
        let stack = |mac, address| Stack::with_options(config(mac, address), with_ipv6(), now).unwrap();
        let mut host = Host {
            now,
            stacks: [stack(MAC_A, A), stack(MAC_B, B)],
            devices: [Device::new(), Device::new()],
            passed: Vec::new(),
        };
        // Until the link-local addresses were found to be nobody else's.
        host.steps(3000);
        host
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.now = self.now + Duration::from_millis(1);
            for side in 0..2 {
                self.stacks[side].poll(self.now, &mut self.devices[side]);
                while self.stacks[side].next_ready().is_some() {}
                for (frame, left) in self.devices[side].take() {
                    self.passed.push((side, frame.len(), left));
                    let to = 1 - side;
                    let received = (&frame[..], integrity(left));
                    self.stacks[to].handle_received(self.now, received, &mut self.devices[to]);
                }
            }
        }
    }

    fn address(&self, side: usize, v6: bool) -> IpAddr {
        let addresses = self.stacks[side].addresses();
        addresses.map(|info| info.address).find(|address| address.is_ipv6() == v6).unwrap()
    }

    fn connected(&mut self, v6: bool) -> (FlowId, FlowId) {
        let (listener, _) = self.stacks[1].tcp_listen(Some(80), 8).unwrap();
        let to = SocketAddr::from((self.address(1, v6), 80));
        let client = self.stacks[0].tcp_connect(self.now, to).unwrap();
        self.steps(50);
        let server = self.stacks[1].tcp_accept(listener).unwrap().unwrap();
        (client, server)
    }

    /// Carries a text from side 0 to side 1, which must be whole.
    fn carry(&mut self, (client, server): (FlowId, FlowId), bytes: usize) {
        let text: Vec<u8> = (0..bytes as u32).map(|index| (index >> 5) as u8).collect();
        let (mut written, mut received) = (0, Vec::new());
        for _ in 0..10_000 {
            written += write(&mut self.stacks[0], client, &text[written..]);
            self.steps(1);
            while read(&mut self.stacks[1], server, &mut received) > 0 {}
            if received.len() == bytes {
                break;
            }
        }
        assert!(received == text, "{} of {bytes} octets arrived", received.len());
    }
}

#[test]
fn bulk_over_a_device_that_cuts_leaves_in_long_segments_of_the_peers_mss() {
    for (v6, mss) in [(false, 1460), (true, 1440)] {
        let mut host = Host::new();
        let flows = host.connected(v6);
        host.passed.clear();
        host.carry(flows, 1_000_000);
        let from_us: Vec<_> = host.passed.iter().filter(|(side, ..)| *side == 0).collect();
        let longest = from_us.iter().map(|(_, len, _)| *len).max().unwrap();
        assert!(longest > 30_000 && from_us.len() < 100, "{} frames of at most {longest}", from_us.len());
        for (_, len, left) in from_us {
            match left {
                Left::Segments { start, offset, header_len, segment_len, v6: says_v6 } => {
                    let ip_len = if v6 { 40 } else { 20 };
                    assert_eq!((usize::from(*start), *offset), (14 + ip_len, 16));
                    assert_eq!((usize::from(*header_len), *says_v6), (14 + ip_len + 20, v6));
                    assert_eq!(segment_len.get(), mss);
                    assert!(*len > 14 + 1500);
                }
                // Acknowledgements, and an end that fits one segment.
                Left::Checksum { .. } => assert!(*len <= 14 + 1500),
                Left::Nothing => assert!(*len < 100, "a segment of {len} bytes with a checksum of ours"),
            }
        }
    }
}

#[test]
fn bulk_without_free_long_buffers_or_switched_off_leaves_in_ordinary_segments() {
    let mut host = Host::new();
    let flows = host.connected(false);
    host.carry(flows, 100_000);
    host.devices[0].completes = false;
    host.passed.clear();
    host.carry(flows, 200_000);
    assert!(
        host.passed
            .iter()
            .all(|(side, len, left)| { *side == 1 || (*len <= 14 + 1500 && *left == Left::Nothing) })
    );
    host.devices[0].completes = true;
    host.passed.clear();
    host.carry(flows, 200_000);
    assert!(host.passed.iter().any(|(_, len, _)| *len > 14 + 1500), "it was not taken up again");
}

/// The sum of a pseudo-header by smoltcp: what is left of a checksum when everything else is zero.
fn seed_of(frame: &[u8], v6: bool) -> u16 {
    let (source, destination, protocol, transport): (IpAddress, IpAddress, _, &[u8]) = if v6 {
        let ip = Ipv6Packet::new_unchecked(&frame[14..]);
        (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), &frame[54..])
    } else {
        let ip = Ipv4Packet::new_unchecked(&frame[14..]);
        (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), &frame[34..])
    };
    let mut empty = vec![0; transport.len()];
    match protocol {
        smoltcp::wire::IpProtocol::Tcp => {
            // The data offset counts words of the header, and is part of the sum: it is taken out again below.
            let mut tcp = TcpPacket::new_unchecked(&mut empty[..]);
            tcp.set_header_len(20);
            tcp.fill_checksum(&source, &destination);
            let sum = u32::from(!tcp.checksum()) + u32::from(!0x5000u16);
            (sum % 0xffff) as u16
        }
        _ => {
            let mut udp = UdpPacket::new_unchecked(&mut empty[..]);
            udp.set_len(transport.len() as u16);
            udp.fill_checksum(&source, &destination);
            ((u32::from(!udp.checksum()) + u32::from(!(transport.len() as u16))) % 0xffff) as u16
        }
    }
}

#[test]
fn checksum_left_to_the_device_is_the_sum_of_the_pseudo_header() {
    for v6 in [false, true] {
        let mut host = Host::new();
        let (from, _) = host.stacks[0].udp_bind(Some(7)).unwrap();
        let (to, _) = host.stacks[1].udp_bind(Some(9)).unwrap();
        let destination = SocketAddr::from((host.address(1, v6), 9));
        host.stacks[0].udp_send(host.now, from, destination, None, b"ping", &mut host.devices[0]).unwrap();
        host.steps(20);
        host.stacks[0].udp_send(host.now, from, destination, None, b"again", &mut host.devices[0]).unwrap();
        let (frame, left) = host.devices[0].frames[0].clone();
        let start = if v6 { 54 } else { 34 };
        assert_eq!(left, Left::Checksum { start, offset: 6 });
        let at = usize::from(start) + 6;
        assert_eq!(u16::from_be_bytes([frame[at], frame[at + 1]]) % 0xffff, seed_of(&frame, v6));
        host.steps(5);
        let mut heard = Vec::new();
        for _ in 0..2 {
            let _ = host.stacks[1].udp_receive(to, |_, payload| {
                heard.push(payload.to_vec());
                true
            });
        }
        assert_eq!(heard, [b"ping".to_vec(), b"again".to_vec()]);

        let (client, _) = host.connected(v6);
        write(&mut host.stacks[0], client, b"text");
        host.stacks[0].poll(host.now, &mut host.devices[0]);
        let (frame, left) = host.devices[0].frames[0].clone();
        assert_eq!(left, Left::Checksum { start, offset: 16 });
        let at = usize::from(start) + 16;
        assert_eq!(u16::from_be_bytes([frame[at], frame[at + 1]]) % 0xffff, seed_of(&frame, v6));
    }
}

#[test]
fn datagram_in_fragments_has_its_checksum_before_it_leaves() {
    let mut host = Host::new();
    let (from, _) = host.stacks[0].udp_bind(Some(7)).unwrap();
    let (to, _) = host.stacks[1].udp_bind(Some(9)).unwrap();
    let payload = vec![7; 4000];
    for _ in 0..2 {
        let (now, device) = (host.now, &mut host.devices[0]);
        host.stacks[0].udp_send(now, from, (B, 9).into(), None, &payload, device).unwrap();
        host.steps(20);
    }
    assert!(host.passed.iter().all(|(_, len, left)| *len < 1000 || *left == Left::Nothing));
    let mut heard = 0;
    while host.stacks[1].udp_receive(to, |_, bytes| bytes == payload).unwrap() {
        heard += 1;
    }
    assert!(heard >= 1, "{:#?}", host.stacks[1].counters());
}

#[test]
fn checksum_that_the_device_did_not_vouch_for_is_verified() {
    let mut host = Host::new();
    let (client, server) = host.connected(false);
    write(&mut host.stacks[0], client, b"text");
    host.stacks[0].poll(host.now, &mut host.devices[0]);
    let (frame, left) = host.devices[0].frames.pop().unwrap();
    let Left::Checksum { start, offset } = left else { panic!("{left:?}") };
    let lies = [
        Integrity::Unknown,
        // Of another header, another field, or one beyond the frame: the stack has no use for them.
        Integrity::Partial { start: start + 2, offset },
        Integrity::Partial { start, offset: 6 },
        Integrity::Partial { start: 14, offset: 10 },
        Integrity::Partial { start: u16::MAX, offset: u16::MAX },
    ];
    for (dropped, lie) in lies.into_iter().enumerate() {
        host.stacks[1].handle_received(host.now, (&frame, lie), &mut host.devices[1]);
        assert_eq!(host.stacks[1].counters().drop_tcp_malformed, dropped as u64 + 1, "{lie:?}");
    }
    for truth in [Integrity::Partial { start, offset }, Integrity::Verified] {
        host.stacks[1].handle_received(host.now, (&frame, truth), &mut host.devices[1]);
    }
    let mut received = Vec::new();
    read(&mut host.stacks[1], server, &mut received);
    assert_eq!(
        (&received[..], host.stacks[1].counters().drop_tcp_malformed),
        (&b"text"[..], lies.len() as u64)
    );
}

#[test]
fn path_mtu_that_shrinks_makes_the_pieces_smaller() {
    let mut host = Host::new();
    let flows = host.connected(false);
    host.carry(flows, 50_000);
    // A router cannot forward the first packet that is under way.
    write(&mut host.stacks[0], flows.0, &[1; 8000]);
    host.stacks[0].poll(host.now, &mut host.devices[0]);
    let (frame, _) = host.devices[0].frames.pop().unwrap();
    assert!(frame.len() > HEADERS + 1460);
    let error = fragmentation_needed(&frame, 1300);
    host.stacks[0].handle_frame(host.now, &error, &mut host.devices[0]);
    assert_eq!(host.stacks[0].counters().tcp_path_mtu_lowered, 1);
    host.passed.clear();
    // What was lost comes again after its time-out.
    host.steps(2000);
    let sizes: Vec<u16> = host
        .passed
        .iter()
        .filter_map(|(_, _, left)| match left {
            Left::Segments { segment_len, .. } => Some(segment_len.get()),
            Left::Nothing | Left::Checksum { .. } => None,
        })
        .collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size == 1260), "{sizes:?}");
}

/// B's router says that what A sent is too large (RFC 1191, 4).
fn fragmentation_needed(sent: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &sent[14..14 + 28];
    let mut frame = vec![0; 14 + 20 + 8 + quoted.len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(smoltcp::wire::EthernetAddress(MAC_A));
    ethernet.set_src_addr(smoltcp::wire::EthernetAddress(MAC_B));
    ethernet.set_ethertype(smoltcp::wire::EthernetProtocol::Ipv4);
    let len = (frame.len() - 14) as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(smoltcp::wire::IpProtocol::Icmp);
    ip.set_src_addr(B);
    ip.set_dst_addr(A);
    ip.fill_checksum();
    frame[42..].copy_from_slice(quoted);
    frame[40..42].copy_from_slice(&mtu.to_be_bytes());
    let mut icmp = Icmpv4Packet::new_unchecked(&mut frame[34..]);
    icmp.set_msg_type(Icmpv4Message::DstUnreachable);
    icmp.set_msg_code(4);
    icmp.fill_checksum();
    frame
}
