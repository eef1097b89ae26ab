//! Datagrams in pieces, both ways.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{Stack, UdpId};
use proptest::prelude::*;
use smoltcp::wire::{IpProtocol, Ipv4Packet};

use crate::support::*;

const A6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);

fn receive(stack: &mut Stack, socket: UdpId) -> Option<Vec<u8>> {
    let mut received = None;
    let take = |_: netd_stack::UdpMeta, payload: &[u8]| {
        received = Some(payload.to_vec());
        true
    };
    stack.udp_receive(socket, take).unwrap();
    received
}

/// Bytes `from..to` of the IP payload of `frame` as a fragment, which is the last one or not.
fn piece(frame: &[u8], id: u16, from: usize, to: usize, last: bool) -> Vec<u8> {
    let payload = &frame[34..];
    let mut piece = frame[..34].to_vec();
    piece.extend_from_slice(&payload[from..to]);
    let mut packet = Ipv4Packet::new_unchecked(&mut piece[14..]);
    packet.set_total_len((20 + to - from) as u16);
    packet.set_ident(id);
    packet.set_dont_frag(false);
    packet.set_more_frags(!last);
    packet.set_frag_offset(from as u16);
    packet.fill_checksum();
    piece
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|index| ((index * 7) >> 2) as u8).collect()
}

/// A peer with a socket on port 9.
fn bound() -> (Scripted, UdpId) {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    (peer, socket)
}

#[test]
fn datagram_larger_than_the_mtu_travels_both_ways_over_both_versions() {
    for v6 in [false, true] {
        let side = |mac, address| (config(mac, address), with_ipv6());
        let mut wire = Wire::with_options(side(MAC_A, A), side(MAC_B, B), Impairment::default(), 1);
        wire.run_for(Duration::from_secs(3));
        let to: SocketAddr = if v6 { (B6, 9).into() } else { (B, 9).into() };
        let (client, _) = wire.stacks[0].udp_bind(Some(7)).unwrap();
        let (server, _) = wire.stacks[1].udp_bind(Some(9)).unwrap();
        let most = if v6 { 65_527 } else { 65_507 };
        // The first waits for the neighbour, in all its pieces.
        for len in [most, 1, 1453, 1473, 3000, 9000] {
            let now = wire.now;
            wire.stacks[0].udp_send(now, client, to, None, &text(len), &mut wire.queues[0]).unwrap();
            wire.run_for(Duration::from_millis(10));
            assert_eq!(receive(&mut wire.stacks[1], server), Some(text(len)), "{len} bytes, IPv6 {v6}");
        }
        assert!(wire.counters(0).fragments_sent > 50);
        assert_eq!(wire.counters(1).datagrams_reassembled, if v6 { 5 } else { 4 });
    }
}

#[test]
fn fragments_are_no_larger_than_the_mtu_and_share_an_identification() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(7)).unwrap();
    peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, &text(4000), &mut peer.queue).unwrap();
    peer.queue.take();
    peer.arp_reply();
    let sent = ip_packets(&peer.queue.take(), IpProtocol::Udp);
    let read: Vec<_> = sent
        .iter()
        .map(|(_, bytes)| {
            let packet = Ipv4Packet::new_checked(&bytes[..]).unwrap();
            assert!(packet.verify_checksum() && !packet.dont_frag());
            (packet.ident(), packet.frag_offset(), packet.more_frags(), packet.total_len())
        })
        .collect();
    let id = read[0].0;
    assert_eq!(read, [(id, 0, true, 1500), (id, 1480, true, 1500), (id, 2960, false, 1068)]);
}

#[test]
fn pieces_in_any_order_and_twice_make_the_datagram_once() {
    let (mut peer, socket) = bound();
    let whole = udp((7, 9), &text(3000));
    for (from, to) in [(1480, 2960), (2960, 3008), (1480, 2960), (0, 1480)] {
        assert_eq!(receive(&mut peer.stack, socket), None);
        peer.frame(&piece(&whole, 1, from, to, to == 3008));
    }
    assert_eq!(receive(&mut peer.stack, socket), Some(text(3000)));
    assert_eq!(receive(&mut peer.stack, socket), None);
}

#[test]
fn two_datagrams_back_to_back_are_not_mixed() {
    let (mut peer, socket) = bound();
    let (first, second) = (udp((7, 9), &text(2000)), udp((7, 9), &text(2001)));
    peer.frame(&piece(&first, 1, 0, 1480, false));
    peer.frame(&piece(&second, 2, 0, 1480, false));
    peer.frame(&piece(&second, 2, 1480, 2009, true));
    peer.frame(&piece(&first, 1, 1480, 2008, true));
    assert_eq!(receive(&mut peer.stack, socket), Some(text(2001)));
    assert_eq!(receive(&mut peer.stack, socket), Some(text(2000)));
}

#[test]
fn pieces_that_overlap_condemn_the_datagram() {
    let (mut peer, socket) = bound();
    let whole = udp((7, 9), &text(3000));
    peer.frame(&piece(&whole, 1, 0, 1480, false));
    peer.frame(&piece(&whole, 1, 1472, 2960, false));
    // Now everything, in order: too late.
    for (from, to) in [(0, 1480), (1480, 2960), (2960, 3008)] {
        peer.frame(&piece(&whole, 1, from, to, to == 3008));
    }
    assert_eq!(receive(&mut peer.stack, socket), None);
    assert_eq!(peer.stack.counters().drop_fragment_overlap, 4);
    // The identification can be used again when the time is over.
    peer.advance(Duration::from_secs(31));
    for (from, to) in [(0, 1480), (1480, 2960), (2960, 3008)] {
        peer.frame(&piece(&whole, 1, from, to, to == 3008));
    }
    assert_eq!(receive(&mut peer.stack, socket), Some(text(3000)));
}

#[test]
fn pieces_missing_are_reported_only_if_the_first_came() {
    let (mut peer, _) = bound();
    let whole = udp((7, 9), &text(3000));
    peer.frame(&piece(&whole, 1, 0, 1480, false));
    peer.frame(&piece(&whole, 2, 1480, 2960, false));
    peer.advance(Duration::from_secs(31));
    peer.arp_reply();
    let errors = ip_packets(&peer.queue.take(), IpProtocol::Icmp);
    assert_eq!(errors.len(), 1);
    let (_, error) = &errors[0];
    assert_eq!((error[20], error[21]), (11, 1), "time exceeded in reassembly");
    assert_eq!(error[28 + 20..28 + 24], [0, 7, 0, 9], "the ports are quoted");
    assert_eq!(peer.stack.counters().drop_fragment_timeout, 2);
}

#[test]
fn table_is_bounded_for_one_source_and_for_all() {
    let (mut peer, socket) = bound();
    let whole = udp((7, 9), &text(3000));
    for id in 0..100 {
        peer.frame(&piece(&whole, id, 0, 1480, false));
    }
    assert_eq!(peer.stack.counters().drop_fragment_table_full, 84);
    for host in 10..20 {
        let source = Ipv4Addr::new(10, 0, 0, host);
        let other = udp_between((source, 7), (A, 9), &text(3000));
        for id in 0..16 {
            peer.frame(&piece(&other, id, 0, 1480, false));
        }
    }
    assert_eq!(peer.stack.counters().drop_fragment_table_full, 84 + 160 - 48);
    // Whole datagrams are none of its business.
    peer.frame(&udp((7, 9), b"whole"));
    assert_eq!(receive(&mut peer.stack, socket), Some(b"whole".to_vec()));
}

#[test]
fn nonsense_is_refused() {
    let (mut peer, _) = bound();
    let whole = udp((7, 9), &text(3000));
    // Not a multiple of eight; a first piece without ports; beyond the largest datagram.
    peer.frame(&piece(&whole, 1, 0, 1479, false));
    let mut tiny = piece(&whole, 2, 0, 8, false);
    tiny[16..18].copy_from_slice(&24u16.to_be_bytes());
    Ipv4Packet::new_unchecked(&mut tiny[14..]).fill_checksum();
    peer.frame(&tiny);
    let mut beyond = piece(&whole, 3, 0, 1480, true);
    let mut packet = Ipv4Packet::new_unchecked(&mut beyond[14..]);
    packet.set_frag_offset(65_528);
    packet.fill_checksum();
    peer.frame(&beyond);
    assert_eq!(peer.stack.counters().drop_fragment_malformed, 3);
}

#[test]
fn syn_in_pieces_opens_a_connection() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let syn = tcp((4000, 80), smoltcp::wire::TcpControl::Syn, 5, None, &[]);
    let len = syn.len() - 34;
    peer.frame(&piece(&syn, 1, 8, len, true));
    peer.frame(&piece(&syn, 1, 0, 8, false));
    peer.poll();
    peer.arp_reply();
    assert_eq!(peer.segments().len(), 1);
}

#[test]
fn ipv6_pieces_missing_are_reported_after_a_minute() {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_secs(3));
    let mut payload = vec![17, 0, 0, 1, 0, 0, 0, 7];
    payload.extend([0, 7, 0, 9, 4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    peer.frame(&ip6((B6, A6), (IpProtocol::Ipv6Frag, 64), &payload));
    peer.queue.take();
    peer.advance(Duration::from_secs(61));
    // The neighbour is asked before it can be told.
    assert!(icmp6_messages(&peer.queue.take(), 135).iter().any(|(_, message)| message[8..24] == B6.octets()));
    assert_eq!(peer.stack.counters().drop_fragment_timeout, 1);
    assert_eq!(peer.stack.counters().icmp_errors_sent, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a datagram is cut and mixed with lies: it arrives as it was sent, or not at all.
    #[test]
    fn reassembly_gives_the_datagram_or_nothing(
        len in 100usize..4000,
        pieces in prop::collection::vec((0usize..500, 1usize..200, any::<bool>()), 1..60),
    ) {
        let (mut peer, socket) = bound();
        let whole = udp((7, 9), &text(len));
        let end = whole.len() - 34;
        for (at, count, last) in pieces {
            let (from, to) = (at * 8, ((at + count) * 8).min(end));
            if from < to {
                peer.frame(&piece(&whole, 1, from, to, to == end || last));
            }
        }
        if let Some(received) = receive(&mut peer.stack, socket) {
            prop_assert_eq!(received, text(len));
        }
    }
}

#[test]
fn ipv6_error_whose_pieces_are_missing_is_not_answered_with_an_error() {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_secs(3));
    let mut reported = |message_type: u8| {
        // The first piece of an ICMPv6 message, 16 bytes of it.
        let mut payload = vec![58, 0, 0, 1, 0, 0, 0, message_type];
        payload.extend([message_type, 0, 0, 0]);
        payload.extend([0; 12]);
        peer.frame(&ip6((B6, A6), (IpProtocol::Ipv6Frag, 64), &payload));
        let mut known = vec![0x60, 0, 0, 0];
        known.extend(B6.octets());
        known.extend([2, 1]);
        known.extend(MAC_B);
        peer.queue.take();
        for _ in 0..70 {
            peer.advance(Duration::from_secs(1));
            peer.frame(&icmp6((B6, A6), 255, (136, 0), &known));
        }
        !icmp6_messages(&peer.queue.take(), 3).is_empty()
    };
    assert!(reported(128), "an echo request in pieces is reported");
    assert!(!reported(1) && !reported(2) && !reported(127) && !reported(137));
}
