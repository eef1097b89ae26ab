//! One script for each rule of RFC 9293 that is ours or that we can see kept; `docs/rfc.md` maps every MUST to its test or its gap.
//! Those that another scenario shows already are named there and not repeated here.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{FlowId, FlowState, Outcome};
use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, TcpControl, TcpPacket, TcpSeqNumber};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);
const PORTS: (u16, u16) = (4000, 80);

/// A segment whose every field is the script's; its checksum is right.
#[derive(Clone)]
struct Raw {
    ports: (u16, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

impl Raw {
    fn new(flags: u8, seq: u32, ack: u32) -> Raw {
        let (options, payload) = (Vec::new(), Vec::new());
        Raw { ports: PORTS, flags, seq, ack, window: 65_535, options, payload }
    }

    fn options(self, options: &[u8]) -> Raw {
        assert_eq!(options.len() % 4, 0);
        Raw { options: options.to_vec(), ..self }
    }

    fn window(self, window: u16) -> Raw {
        Raw { window, ..self }
    }

    fn payload(self, payload: &[u8]) -> Raw {
        Raw { payload: payload.to_vec(), ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0; header_len];
        bytes[20..].copy_from_slice(&self.options);
        bytes.extend_from_slice(&self.payload);
        let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
        segment.set_src_port(self.ports.0);
        segment.set_dst_port(self.ports.1);
        segment.set_seq_number(TcpSeqNumber(self.seq as i32));
        segment.set_ack_number(TcpSeqNumber(self.ack as i32));
        segment.set_header_len(header_len as u8);
        segment.set_window_len(self.window);
        bytes[13] = self.flags;
        TcpPacket::new_unchecked(&mut bytes[..]).fill_checksum(&B.into(), &A.into());
        bytes
    }

    fn frame(&self) -> Vec<u8> {
        ip(B, A, IpProtocol::Tcp, &self.bytes())
    }
}

/// Our TCP segments as they stood on the wire.
fn sent(peer: &mut Scripted) -> Vec<Vec<u8>> {
    ip_packets(&peer.queue.take(), IpProtocol::Tcp)
        .into_iter()
        .map(|(_, packet)| packet[20..].to_vec())
        .collect()
}

/// The options of a segment on the wire.
fn options(segment: &[u8]) -> &[u8] {
    &segment[20..usize::from(segment[12] >> 4) * 4]
}

/// A connection whose SYN carried these options and this window; our port 80 is listened on and B is known.
fn accepted_with(syn_options: &[u8], window: u16) -> (Scripted, FlowId, u32, u32) {
    let mut peer = Scripted::new();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    peer.frame(&Raw::new(SYN, 1000, 0).options(syn_options).window(window).frame());
    peer.poll();
    peer.arp_reply();
    let ours =
        peer.segments().into_iter().find(|seen| seen.control == TcpControl::Syn).unwrap().seq.wrapping_add(1);
    peer.frame(&Raw::new(ACK, 1001, ours).window(window).frame());
    peer.poll();
    let flow = peer.stack.tcp_accept(listener).unwrap().unwrap();
    peer.stack.tcp_close_listener(peer.now, listener);
    peer.queue.take();
    (peer, flow, 1001, ours)
}

fn largest(peer: &mut Scripted, flow: FlowId) -> usize {
    write(&mut peer.stack, flow, &[1; 4000]);
    peer.poll();
    peer.segments().iter().map(|seen| seen.payload.len()).max().unwrap()
}

#[test]
fn must_1_window_above_32767_is_not_negative() {
    let (mut peer, flow, ..) = accepted_with(&[2, 4, 5, 180], 40_000);
    assert_eq!(largest(&mut peer, flow), 1460);
}

#[test]
fn must_2_every_segment_sent_has_a_right_checksum() {
    let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
    write(&mut peer.stack, flow, b"an odd length");
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    peer.frame(&Raw::new(ACK, seq, ours.wrapping_add(14)).payload(b"x").frame());
    peer.poll();
    let segments = sent(&mut peer);
    assert!(segments.len() >= 2);
    let right = |segment: &Vec<u8>| {
        TcpPacket::new_checked(&segment[..]).unwrap().verify_checksum(&A.into(), &B.into())
    };
    assert!(segments.iter().all(right));
}

#[test]
fn must_3_segment_with_a_wrong_checksum_is_dropped() {
    let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
    let mut segment = Raw::new(ACK, seq, ours).payload(b"flipped").bytes();
    *segment.last_mut().unwrap() ^= 1;
    peer.frame(&ip(B, A, IpProtocol::Tcp, &segment));
    peer.poll();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().readable, 0);
    assert_eq!((peer.stack.counters().drop_tcp_malformed, peer.segments().len()), (1, 0));
}

#[test]
fn must_4_and_64_options_are_read_at_any_alignment() {
    // NOP, MSS 600 at an odd offset, end of list.
    let (mut peer, flow, ..) = accepted_with(&[1, 2, 4, 2, 88, 0, 0, 0], 65_535);
    assert_eq!(largest(&mut peer, flow), 600);
}

#[test]
fn must_5_and_6_unknown_options_in_any_segment_are_ignored() {
    let (mut peer, flow, seq, ours) = accepted_with(&[253, 4, 1, 2, 2, 4, 5, 180], 65_535);
    let data = Raw::new(ACK, seq, ours).payload(b"data");
    peer.frame(&data.options(&[254, 6, 0, 0, 0, 0, 1, 0]).frame());
    peer.frame(&Raw::new(FIN | ACK, seq.wrapping_add(4), ours).options(&[253, 2, 1, 1]).frame());
    peer.poll();
    let mut received = Vec::new();
    read(&mut peer.stack, flow, &mut received);
    assert_eq!(received, b"data");
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
}

#[test]
fn must_7_options_with_illegal_lengths_do_no_harm() {
    for illegal in
        [[254, 0, 0, 0], [254, 1, 0, 0], [254, 40, 0, 0], [1, 1, 1, 254], [2, 3, 5, 0], [8, 2, 0, 0]]
    {
        let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
        peer.frame(&Raw::new(ACK, seq, ours).payload(b"data").options(&illegal).frame());
        peer.poll();
        assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None, "{illegal:?}");
        // Whether that segment was taken or not, an honest one is.
        peer.frame(&Raw::new(ACK, seq, ours).payload(b"data").frame());
        let mut received = Vec::new();
        read(&mut peer.stack, flow, &mut received);
        assert_eq!(received, b"data", "{illegal:?}");
        assert_eq!(peer.stack.counters().tcp_engine_faults, 0, "{illegal:?}");
    }
}

#[test]
fn must_9_sequence_numbers_depend_on_the_secret() {
    let syn = |seed: u8| {
        let mut config = config(MAC_A, A);
        config.seed = [seed; 32];
        let mut peer = Scripted::with(config);
        let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
        peer.frame(&Raw::new(SYN, 1000, 0).frame());
        peer.poll();
        peer.arp_reply();
        peer.segments().pop().unwrap().seq
    };
    assert_ne!(syn(1), syn(2), "the same connection at the same time, another secret");
    assert_eq!(syn(1), syn(1));
}

#[test]
fn must_10_simultaneous_open_makes_one_connection() {
    let mut peer = Scripted::new();
    let (flow, port, seq) = peer.connecting(4000);
    let ports = (4000, port);
    peer.frame(&Raw { ports, ..Raw::new(SYN, 1000, 0) }.frame());
    peer.poll();
    let answer = peer.segments().pop().unwrap();
    assert_eq!((answer.control, answer.seq, answer.ack), (TcpControl::Syn, seq, Some(1001)));
    peer.frame(&Raw { ports, ..Raw::new(SYN | ACK, 1000, seq.wrapping_add(1)) }.frame());
    peer.frame(&Raw { ports, ..Raw::new(ACK, 1001, seq.wrapping_add(1)) }.frame());
    peer.poll();
    assert!(peer.stack.tcp_status(flow).unwrap().established);
}

#[test]
fn must_11_reset_in_syn_received_ends_a_passive_open_only_and_an_active_one_by_name() {
    let mut peer = Scripted::new();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    peer.frame(&Raw::new(SYN, 1000, 0).frame());
    peer.poll();
    peer.arp_reply();
    peer.frame(&Raw::new(RST, 1001, 0).frame());
    peer.poll();
    assert_eq!(peer.stack.sockets().count(), 1, "the half-open connection is still there");
    peer.frame(&Raw { ports: (4001, 80), ..Raw::new(SYN, 1000, 0) }.frame());
    peer.poll();
    assert!(peer.segments().iter().any(|seen| seen.control == TcpControl::Syn), "the listener is gone");
    peer.stack.tcp_close_listener(peer.now, listener);

    let (flow, port, _) = peer.connecting(4000);
    let ports = (4000, port);
    peer.frame(&Raw { ports, ..Raw::new(SYN, 1000, 0) }.frame());
    peer.poll();
    peer.frame(&Raw { ports, ..Raw::new(RST, 1001, 0) }.frame());
    peer.poll();
    let closed = peer.stack.tcp_status(flow).unwrap().closed;
    assert!(matches!(closed, Some(Outcome::ConnectionRefused | Outcome::ConnectionReset)), "{closed:?}");
}

#[test]
fn must_14_65_and_67_mss_is_the_mtu_less_headers_and_on_syns_only() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    peer.frame(&Raw::new(SYN, 1000, 0).frame());
    peer.poll();
    peer.arp_reply();
    let syn_ack = sent(&mut peer).pop().unwrap();
    assert_eq!(options(&syn_ack)[..4], [2, 4, 0x05, 0xb4], "1500 - 40");
    let (mut peer, flow, ..) = accepted_with(&[2, 4, 5, 180], 65_535);
    write(&mut peer.stack, flow, &[1; 3000]);
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    let segments = sent(&mut peer);
    assert!(!segments.is_empty() && segments.iter().all(|segment| !options(segment).contains(&2)));
}

#[test]
fn must_15_without_an_mss_option_segments_are_small() {
    let (mut peer, flow, ..) = accepted_with(&[], 65_535);
    assert_eq!(largest(&mut peer, flow), 536);
}

#[test]
fn must_16_segments_are_bounded_by_the_peer_and_by_our_link() {
    for (mss, expected) in [([2, 4, 0x23, 0x28], 1460), ([2, 4, 0x02, 0x58], 600)] {
        let (mut peer, flow, ..) = accepted_with(&mss, 65_535);
        assert_eq!(largest(&mut peer, flow), expected);
    }
}

#[test]
fn must_19_and_22_retransmissions_back_off_also_of_a_syn() {
    for established in [true, false] {
        let mut peer = Scripted::new();
        if established {
            let (flow, ..) = peer.accepted();
            write(&mut peer.stack, flow, b"anybody?");
            peer.poll();
        } else {
            peer.connecting(4000);
        }
        let start = peer.now;
        let mut times = Vec::new();
        while times.len() < 4 && peer.now < start + Duration::from_secs(60) {
            peer.advance(Duration::from_millis(100));
            if !peer.segments().is_empty() {
                times.push(peer.now.saturating_duration_since(start));
            }
        }
        let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert!(gaps.len() == 3 && gaps.windows(2).all(|pair| pair[1] * 10 >= pair[0] * 18), "{gaps:?}");
    }
}

#[test]
fn must_19_a_new_connection_starts_slowly() {
    let (mut peer, flow, seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    let mut written = 0;
    while written < 60_000 {
        let more = write(&mut peer.stack, flow, &[1; 60_000]);
        written += more;
        if more == 0 {
            break;
        }
    }
    peer.advance(Duration::from_millis(1));
    let first: usize = peer.segments().iter().map(|seen| seen.payload.len()).sum();
    // RFC 6928: ten segments at most.
    assert!((1..=14_600).contains(&first), "{first} octets at once");
    peer.frame(&Raw::new(ACK, seq, ours.wrapping_add(first as u32)).frame());
    peer.advance(Duration::from_millis(1));
    let second: usize = peer.segments().iter().map(|seen| seen.payload.len()).sum();
    assert!(second > first && second <= 2 * first + 1460, "{first}, then {second}");
}

#[test]
fn must_23_a_syn_is_retransmitted_for_three_minutes() {
    let mut peer = Scripted::new();
    let (flow, ..) = peer.connecting(4000);
    peer.advance_reachable(Duration::from_secs(179));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    assert!(peer.segments().iter().filter(|seen| seen.control == TcpControl::Syn).count() >= 5);
    peer.advance_reachable(Duration::from_secs(70));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::TimedOut));
}

#[test]
fn must_31_urgent_data_is_delivered_in_its_place() {
    let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
    let mut segment = Raw::new(ACK | URG, seq, ours).payload(b"urgent").bytes();
    segment[18..20].copy_from_slice(&[0, 6]);
    TcpPacket::new_unchecked(&mut segment[..]).fill_checksum(&B.into(), &A.into());
    peer.frame(&ip(B, A, IpProtocol::Tcp, &segment));
    let mut received = Vec::new();
    read(&mut peer.stack, flow, &mut received);
    assert_eq!(received, b"urgent");
}

#[test]
fn must_34_window_that_shrinks_is_survived() {
    let (mut peer, flow, seq, ours) = accepted_with(&[2, 4, 5, 180], 8000);
    write(&mut peer.stack, flow, &[1; 6000]);
    peer.poll();
    let octets: usize = peer.segments().iter().map(|seen| seen.payload.len()).sum();
    // Below what is in flight already, then open again.
    peer.frame(&Raw::new(ACK, seq, ours.wrapping_add(10)).window(100).frame());
    peer.advance(Duration::from_secs(5));
    peer.queue.take();
    let mut acknowledged = ours.wrapping_add(octets as u32);
    for _ in 0..20 {
        peer.frame(&Raw::new(ACK, seq, acknowledged).frame());
        peer.advance(SECOND);
        let ends = peer.segments().into_iter().map(|seen| seen.seq.wrapping_add(seen.payload.len() as u32));
        acknowledged = ends.max_by_key(|end| end.wrapping_sub(ours)).unwrap_or(acknowledged);
    }
    assert_eq!(acknowledged.wrapping_sub(ours), 6000);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
}

#[test]
fn must_35_36_and_37_closed_window_is_probed_for_as_long_as_it_is_answered() {
    let (mut peer, flow, seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    peer.frame(&Raw::new(ACK, seq, ours).window(0).frame());
    write(&mut peer.stack, flow, b"waiting");
    let mut probes = 0;
    for _ in 0..1200 {
        peer.advance_reachable(SECOND);
        if !peer.segments().is_empty() {
            probes += 1;
            peer.frame(&Raw::new(ACK, seq, ours).window(0).frame());
        }
    }
    assert!(probes >= 5, "{probes} probes in 20 minutes");
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    peer.frame(&Raw::new(ACK, seq, ours).window(1000).frame());
    peer.advance_reachable(SECOND);
    assert!(peer.segments().iter().any(|seen| seen.payload == b"waiting"));
}

#[test]
fn must_38_small_segments_are_not_sent_into_a_small_window() {
    let (mut peer, flow, seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    peer.stack.tcp_set_nodelay(flow, false).unwrap();
    write(&mut peer.stack, flow, &[1; 1460]);
    peer.poll();
    assert_eq!(peer.segments().len(), 1);
    write(&mut peer.stack, flow, &[2; 3000]);
    // The window opens by a few octets, with data still unacknowledged.
    peer.frame(&Raw::new(ACK, seq, ours).window(1470).frame());
    peer.poll();
    assert!(peer.segments().iter().all(|seen| seen.payload.len() >= 1460), "a silly segment");
}

#[test]
fn must_39_window_that_opens_again_at_least_doubles_with_each_update() {
    let (mut peer, flow, mut seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    for len in [vec![1000; 65], vec![535]].concat() {
        peer.frame(&Raw::new(ACK, seq, ours).payload(&vec![1; len]).frame());
        seq = seq.wrapping_add(len as u32);
        peer.poll();
    }
    assert_eq!(peer.segments().pop().unwrap().window, 0);
    // The owner takes one octet at a time.
    for _ in 0..2000 {
        peer.stack.tcp_receive(flow, |_| 1).unwrap();
        peer.poll();
    }
    let windows: Vec<u16> = peer.segments().iter().map(|seen| seen.window).collect();
    assert!(windows.windows(2).all(|pair| pair[1] >= 2 * pair[0]), "{windows:?}");
}

#[test]
fn must_40_58_and_59_one_acknowledgement_at_once_for_all_that_came() {
    let (mut peer, _flow, seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    for number in 0..10 {
        peer.frame(&Raw::new(ACK, seq.wrapping_add(number * 1000), ours).payload(&[1; 1000]).frame());
    }
    peer.poll();
    let answers = peer.segments();
    assert_eq!((answers.len(), answers[0].ack), (1, Some(seq.wrapping_add(10_000))));
}

#[test]
fn must_41_and_42_listening_leaves_connections_on_its_port_alone() {
    let mut peer = Scripted::new();
    let (flow, port, seq) = peer.connecting(4000);
    // Our SYN is out: the same port can be listened on, and the connection goes on.
    let (listener, _) = peer.stack.tcp_listen(Some(port), 8).unwrap();
    let ports = (4000, port);
    peer.frame(&Raw { ports, ..Raw::new(SYN | ACK, 1000, seq.wrapping_add(1)) }.frame());
    peer.poll();
    assert!(peer.stack.tcp_status(flow).unwrap().established);
    assert_eq!(peer.stack.tcp_accept(listener).unwrap(), None);
    peer.frame(&Raw { ports: (4001, port), ..Raw::new(SYN, 5000, 0) }.frame());
    peer.poll();
    let answers = peer.segments();
    assert!(answers.iter().any(|seen| seen.control == TcpControl::Syn && seen.ack == Some(5001)));
}

#[test]
fn must_44_and_45_connection_has_one_local_address() {
    let mut peer = Scripted::new();
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 80))).unwrap();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().local.ip(), A);
    peer.poll();
    peer.arp_reply();
    peer.advance(Duration::from_secs(10));
    let packets = ip_packets(&peer.queue.take(), IpProtocol::Tcp);
    assert!(packets.len() >= 3 && packets.iter().all(|(_, packet)| packet[12..16] == A.octets()));
}

#[test]
fn must_50_ip_options_are_ignored() {
    let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
    let plain = Raw::new(ACK, seq, ours).payload(b"optional").frame();
    // Record route with one empty slot, and the end of the list (RFC 791, 3.1).
    let mut frame = plain[..34].to_vec();
    frame.extend([7, 7, 4, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&plain[34..]);
    frame[14] = 0x47;
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_total_len((plain.len() - 14 + 8) as u16);
    packet.fill_checksum();
    peer.frame(&frame);
    let mut received = Vec::new();
    read(&mut peer.stack, flow, &mut received);
    assert_eq!(received, b"optional");
}

/// An ICMP message about a segment of the connection that begins at `seq`.
fn about(message_type: u8, code: u8, seq: u32) -> Vec<u8> {
    let mut quoted = ip(A, B, IpProtocol::Tcp, &[0, 80, 0x0f, 0xa0, 0, 0, 0, 0])[14..].to_vec();
    quoted[24..28].copy_from_slice(&seq.to_be_bytes());
    let mut frame = icmp(message_type, code, [0; 4], &quoted);
    Icmpv4Packet::new_unchecked(&mut frame[34..]).fill_checksum();
    frame
}

#[test]
fn must_54_55_and_56_soft_errors_and_source_quench_abort_nothing() {
    let (mut peer, flow, _, ours) = accepted_with(&[], 65_535);
    write(&mut peer.stack, flow, b"in flight");
    peer.poll();
    peer.queue.take();
    for (message_type, code) in [(3, 0), (3, 1), (3, 5), (4, 0), (11, 0), (11, 1), (12, 0), (12, 1)] {
        peer.frame(&about(message_type, code, ours));
        peer.poll();
        assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None, "type {message_type}, code {code}");
        assert_eq!(peer.segments(), [], "type {message_type}, code {code} made us send");
    }
}

#[test]
fn must_57_segments_to_broadcast_and_multicast_are_dropped_in_silence() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    for destination in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(224, 0, 0, 1)] {
        for (flags, port) in [(SYN, 80), (SYN, 81), (ACK, 81)] {
            let mut segment = Raw { ports: (4000, port), ..Raw::new(flags, 1, 1) }.bytes();
            TcpPacket::new_unchecked(&mut segment[..]).fill_checksum(&B.into(), &destination.into());
            let mut frame = ip(B, destination, IpProtocol::Tcp, &segment);
            // As the link carries it, and as a unicast frame.
            peer.frame(&frame);
            frame[..6].copy_from_slice(&[0xff; 6]);
            peer.frame(&frame);
        }
    }
    peer.poll();
    assert_eq!((peer.stack.sockets().count(), peer.queue.take().len()), (1, 0));
}

#[test]
fn must_60_and_61_last_segment_is_pushed_and_nothing_is_held_back() {
    let (mut peer, flow, ..) = accepted_with(&[2, 4, 5, 180], 65_535);
    write(&mut peer.stack, flow, &[1; 2000]);
    peer.poll();
    let segments = sent(&mut peer);
    let pushed: Vec<bool> = segments.iter().map(|segment| segment[13] & 0x08 != 0).collect();
    let octets: usize = segments.iter().map(|segment| segment.len() - 20).sum();
    assert_eq!((octets, pushed.last()), (2000, Some(&true)), "{pushed:?}");
}

#[test]
fn must_63_syn_from_an_address_that_no_host_has_is_dropped() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let sources = [[255; 4], [10, 0, 0, 255], [224, 0, 0, 1], [127, 0, 0, 1], [0; 4], A.octets()];
    for source in sources.map(Ipv4Addr::from) {
        let mut segment = Raw::new(SYN, 1000, 0).bytes();
        TcpPacket::new_unchecked(&mut segment[..]).fill_checksum(&source.into(), &A.into());
        peer.frame(&ip(source, A, IpProtocol::Tcp, &segment));
    }
    peer.poll();
    assert_eq!((peer.stack.sockets().count(), peer.queue.take().len()), (1, 0));
    assert_eq!(peer.stack.counters().drop_ip_source, sources.len() as u64);
}

#[test]
fn must_66_reset_is_heard_although_our_window_is_closed() {
    let (mut peer, flow, mut seq, ours) = accepted_with(&[2, 4, 5, 180], 65_535);
    for len in [vec![1000; 65], vec![535]].concat() {
        peer.frame(&Raw::new(ACK, seq, ours).payload(&vec![1; len]).frame());
        seq = seq.wrapping_add(len as u32);
        peer.poll();
    }
    assert_eq!(peer.segments().pop().unwrap().window, 0);
    peer.frame(&Raw::new(RST, seq, 0).frame());
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::ConnectionReset));
}

#[test]
fn must_68_and_69_our_options_have_lengths_and_are_padded_with_zeros() {
    let mut peer = Scripted::new();
    peer.connecting(4000);
    peer.advance(Duration::from_secs(2));
    for segment in sent(&mut peer) {
        let mut rest = options(&segment);
        while let [kind, tail @ ..] = rest {
            match (kind, tail) {
                (0, padding) => {
                    assert!(padding.iter().all(|octet| *octet == 0));
                    break;
                }
                (1, tail) => rest = tail,
                (_, [len, ..]) if *len >= 2 => rest = &rest[usize::from(*len)..],
                _ => panic!("an option without a length: {rest:?}"),
            }
        }
    }
}

#[test]
fn must_13_time_wait_acknowledges_a_fin_again() {
    let (mut peer, flow, seq, ours) = accepted_with(&[], 65_535);
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    let fin = Raw::new(FIN | ACK, seq, ours.wrapping_add(1)).frame();
    peer.frame(&fin);
    peer.poll();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().state, FlowState::TimeWait);
    peer.queue.take();
    peer.frame(&fin);
    peer.poll();
    let again = peer.segments().pop().unwrap();
    assert_eq!((again.control, again.ack), (TcpControl::None, Some(seq.wrapping_add(1))));
}

/// The engine takes IPv4's default for both versions: never too large, smaller than it need be.
#[test]
fn must_15_without_an_mss_option_segments_over_ipv6_are_small() {
    let b6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);
    let a6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_secs(3));
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let frame = |raw: &Raw| {
        let mut segment = raw.bytes();
        TcpPacket::new_unchecked(&mut segment[..]).fill_checksum(&b6.into(), &a6.into());
        ip6((b6, a6), (IpProtocol::Tcp, 64), &segment)
    };
    let segments = |peer: &mut Scripted| -> Vec<Vec<u8>> {
        let packets = ip6_packets(&peer.queue.take());
        packets
            .into_iter()
            .filter(|(_, packet)| packet[6] == 6)
            .map(|(_, packet)| packet[40..].to_vec())
            .collect()
    };
    peer.frame(&frame(&Raw::new(SYN, 1000, 0)));
    peer.poll();
    let mut known = vec![0x60, 0, 0, 0];
    known.extend(b6.octets());
    known.extend([2, 1]);
    known.extend(MAC_B);
    peer.frame(&icmp6((b6, a6), 255, (136, 0), &known));
    peer.poll();
    let syn_ack = segments(&mut peer).pop().unwrap();
    let ours = u32::from_be_bytes(syn_ack[4..8].try_into().unwrap()).wrapping_add(1);
    peer.frame(&frame(&Raw::new(ACK, 1001, ours)));
    peer.poll();
    let flow = peer.stack.tcp_accept(listener).unwrap().unwrap();
    write(&mut peer.stack, flow, &[1; 4000]);
    peer.poll();
    let largest = segments(&mut peer).iter().map(|segment| segment.len() - 20).max().unwrap();
    assert!((536..=1220).contains(&largest), "{largest}");
}
