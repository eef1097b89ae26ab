//! One script for each rule of RFC 1122 (sections 3 and 4.1) that is ours; `docs/rfc.md` maps every MUST to its test or its gap.
//! Those that another scenario shows already are named there and not repeated here.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{Error, SendOptions, UdpId, UdpMeta};
use smoltcp::wire::{Icmpv4Packet, IpProtocol, Ipv4Packet, TcpControl};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

/// A stack that knows B's hardware address, so that nothing it has to say to B is held back, and a socket on port 9.
fn bound() -> (Scripted, UdpId) {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.stack.udp_send(peer.now, socket, (B, 7).into(), None, b"hello", &mut peer.queue).unwrap();
    peer.arp_reply();
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Udp).len(), 1);
    (peer, socket)
}

fn received(peer: &mut Scripted, socket: UdpId) -> Vec<(UdpMeta, Vec<u8>)> {
    let mut all = Vec::new();
    let take = |all: &mut Vec<_>, meta: UdpMeta, payload: &[u8]| {
        all.push((meta, payload.to_vec()));
        true
    };
    while peer.stack.udp_receive(socket, |meta, payload| take(&mut all, meta, payload)).unwrap() {}
    all
}

/// Changes the IPv4 header of a frame and makes its checksum right again.
fn with_header(mut frame: Vec<u8>, change: impl FnOnce(&mut Ipv4Packet<&mut [u8]>)) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    change(&mut packet);
    packet.fill_checksum();
    frame
}

/// The ICMP messages that were sent.
fn icmp_sent(peer: &mut Scripted) -> Vec<Vec<u8>> {
    peer.poll();
    ip_packets(&peer.queue.take(), IpProtocol::Icmp)
        .into_iter()
        .map(|(_, packet)| packet[20..].to_vec())
        .collect()
}

/// One piece of a frame's IP payload, as a fragment.
fn piece(frame: &[u8], from: usize, to: usize, more: bool) -> Vec<u8> {
    let mut piece = frame[..34].to_vec();
    piece.extend_from_slice(&frame[34..][from..to]);
    with_header(piece, |packet| {
        packet.set_total_len((20 + to - from) as u16);
        packet.set_ident(7);
        packet.set_dont_frag(false);
        packet.set_more_frags(more);
        packet.set_frag_offset(from as u16);
    })
}

#[test]
fn s3_1_packets_are_never_forwarded() {
    let (mut peer, _) = bound();
    peer.frame(&udp_between((B, 7), (Ipv4Addr::new(10, 9, 9, 9), 9), b"onwards"));
    peer.advance(SECOND);
    assert!(peer.queue.take().is_empty());
}

#[test]
fn s3_2_1_1_other_versions_are_dropped_in_silence() {
    let (mut peer, socket) = bound();
    for version in [0, 3, 5, 6, 15] {
        peer.frame(&with_header(udp((7, 9), b"x"), |packet| packet.set_version(version)));
    }
    assert_eq!((received(&mut peer, socket).len(), icmp_sent(&mut peer).len()), (0, 0));
}

#[test]
fn s3_2_1_2_wrong_header_checksum_is_dropped_in_silence() {
    let (mut peer, socket) = bound();
    let mut frame = udp((7, 9), b"x");
    frame[24] ^= 0x40;
    peer.frame(&frame);
    assert_eq!((received(&mut peer, socket).len(), icmp_sent(&mut peer).len()), (0, 0));
    assert_eq!(peer.stack.counters().drop_ip_checksum, 1);
}

#[test]
fn s3_2_1_3_sources_and_destinations_that_cannot_be_are_dropped_in_silence() {
    let (mut peer, socket) = bound();
    let sources =
        [[255; 4], [10, 0, 0, 255], [224, 0, 0, 1], [127, 0, 0, 1], [0; 4], [240, 0, 0, 1], A.octets()];
    for source in sources {
        peer.frame(&udp_between((source.into(), 7), (A, 9), b"x"));
        peer.frame(&udp_between((source.into(), 7), (A, 10), b"x"));
    }
    for destination in [[10, 0, 0, 77], [127, 0, 0, 1], [0; 4]] {
        peer.frame(&udp_between((B, 7), (destination.into(), 9), b"x"));
    }
    assert_eq!((received(&mut peer, socket).len(), icmp_sent(&mut peer).len()), (0, 0));
}

#[test]
fn s3_2_1_7_a_hop_limit_of_zero_or_one_is_received_and_zero_is_never_sent() {
    let (mut peer, socket) = bound();
    for ttl in [0, 1] {
        peer.frame(&with_header(udp((7, 9), b"x"), |packet| packet.set_hop_limit(ttl)));
    }
    let ttls: Vec<u8> = received(&mut peer, socket).iter().map(|(meta, _)| meta.ttl).collect();
    assert_eq!(ttls, [0, 1]);
    let options = SendOptions { ttl: Some(0), ecn: 0 };
    let sent = peer.stack.udp_send_with(peer.now, (socket, (B, 7).into()), options, b"x", &mut peer.queue);
    assert!(matches!(sent, Err(Error::InvalidInput { .. })));
    assert!(matches!(peer.stack.udp_set_ttl(socket, 0), Err(Error::InvalidInput { .. })));
}

#[test]
fn s3_2_1_8_unknown_ip_options_and_stream_ids_are_ignored() {
    let (mut peer, socket) = bound();
    let plain = udp((7, 9), b"optional");
    for options in [[0x5e, 4, 1, 2], [136, 4, 0, 1], [1, 1, 1, 0], [0x5e, 0, 0, 0], [7, 200, 4, 0]] {
        let mut frame = plain[..34].to_vec();
        frame.extend(options);
        frame.extend_from_slice(&plain[34..]);
        peer.frame(&with_header(frame, |packet| {
            packet.set_header_len(24);
            packet.set_total_len((plain.len() - 14 + 4) as u16);
        }));
        let taken = received(&mut peer, socket);
        assert_eq!(taken.len(), 1, "{options:?}");
        assert_eq!(taken[0].1, b"optional", "{options:?}");
    }
}

#[test]
fn s3_2_2_unknown_icmp_types_are_dropped_in_silence() {
    let (mut peer, _) = bound();
    for message_type in [1, 2, 6, 7, 10, 15, 17, 30, 41, 255] {
        peer.frame(&icmp(message_type, 0, [0; 4], &[0; 28]));
    }
    assert_eq!(icmp_sent(&mut peer).len(), 0);
    assert_eq!(peer.stack.counters().drop_icmp_unexpected, 10);
}

#[test]
fn s3_2_2_errors_quote_the_header_and_eight_octets_as_they_came() {
    let (mut peer, _) = bound();
    let frame = udp((7, 10), b"to nobody");
    peer.frame(&frame);
    let error = icmp_sent(&mut peer).pop().unwrap();
    assert_eq!((error[0], error[1], &error[8..36]), (3, 3, &frame[14..42]));
    // A protocol that nobody speaks (3.2.2.1).
    let frame = ip(B, A, IpProtocol::Unknown(200), &[5; 16]);
    peer.frame(&frame);
    let error = icmp_sent(&mut peer).pop().unwrap();
    assert_eq!((error[0], error[1], &error[8..36]), (3, 2, &frame[14..42]));
}

#[test]
fn s3_2_2_no_error_about_an_error_a_group_a_broadcast_or_a_later_fragment() {
    let (mut peer, _) = bound();
    // An error whose quote makes no sense, and one about a socket that is not there.
    peer.frame(&icmp(3, 3, [0; 4], &[0; 28]));
    peer.frame(&icmp(3, 3, [0; 4], &udp_between((A, 1234), (B, 7), b"x")[14..]));
    for destination in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(224, 0, 0, 1)] {
        let mut frame = udp_between((B, 7), (destination, 10), b"x");
        frame[..6].fill(0xff);
        peer.frame(&frame);
        let mut frame = ip(B, destination, IpProtocol::Unknown(200), &[5; 16]);
        frame[..6].fill(0xff);
        peer.frame(&frame);
    }
    // To us, but in a frame to everybody (3.2.2, 3.3.6).
    let mut frame = udp((7, 10), b"x");
    frame[..6].fill(0xff);
    peer.frame(&frame);
    // Only the second piece of a datagram, whose time runs out.
    peer.frame(&piece(&udp((7, 10), &[1; 100]), 56, 108, false));
    peer.advance_reachable(Duration::from_secs(120));
    assert_eq!(icmp_sent(&mut peer).len(), 0);
}

#[test]
fn s3_2_2_no_error_about_an_error_that_came_in_pieces() {
    let (mut peer, _) = bound();
    peer.frame(&piece(&icmp(3, 1, [0; 4], &[0; 100]), 0, 56, true));
    peer.advance_reachable(Duration::from_secs(40));
    assert_eq!(icmp_sent(&mut peer), [] as [Vec<u8>; 0]);
    // But about an echo request there is one.
    peer.frame(&piece(&icmp(8, 0, [0; 4], &[0; 100]), 0, 56, true));
    peer.advance_reachable(Duration::from_secs(40));
    assert_eq!(icmp_sent(&mut peer).iter().filter(|message| message[..2] == [11, 1]).count(), 1);
}

#[test]
fn s3_2_2_3_and_5_source_quench_and_parameter_problems_do_no_harm() {
    let (mut peer, socket) = bound();
    let now = peer.now;
    peer.stack.udp_send(now, socket, SocketAddr::from((B, 7)), None, b"x", &mut peer.queue).unwrap();
    let quoted = udp_between((A, 9), (B, 7), b"x")[14..].to_vec();
    for message_type in [4, 12] {
        peer.frame(&icmp(message_type, 0, [0; 4], &quoted));
    }
    assert_eq!(peer.stack.udp_error(socket), None);
    peer.stack.udp_send(now, socket, SocketAddr::from((B, 7)), None, b"x", &mut peer.queue).unwrap();
}

#[test]
fn s3_2_2_6_echo_is_answered_from_the_address_asked_with_the_same_data() {
    let (mut peer, _) = bound();
    let data: Vec<u8> = (0..1400).map(|index| index as u8).collect();
    peer.frame(&icmp(8, 0, [1, 2, 3, 4], &data));
    peer.poll();
    let (_, reply) = ip_packets(&peer.queue.take(), IpProtocol::Icmp).pop().unwrap();
    assert_eq!((&reply[12..16], &reply[16..20]), (&A.octets()[..], &B.octets()[..]));
    assert_eq!((reply[20], &reply[24..28], &reply[28..]), (0, &[1, 2, 3, 4][..], &data[..]));
    assert!(Icmpv4Packet::new_checked(&reply[20..]).unwrap().verify_checksum());
}

#[test]
fn s3_2_2_7_and_9_information_timestamp_and_mask_requests_are_not_answered() {
    let (mut peer, _) = bound();
    for message_type in [13, 15, 17] {
        peer.frame(&icmp(message_type, 0, [1, 2, 3, 4], &[0; 12]));
    }
    assert_eq!(icmp_sent(&mut peer).len(), 0);
}

#[test]
fn s3_3_1_1_hosts_on_the_link_are_reached_directly_and_others_by_the_gateway() {
    let mut config = config(MAC_A, A);
    if let netd_stack::Addressing::Static(address) = &mut config.addressing {
        address.gateway = Some(GATEWAY);
    }
    let mut peer = Scripted::with(config);
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    let asked = |peer: &mut Scripted, to: Ipv4Addr| {
        let now = peer.now;
        peer.stack.udp_send(now, socket, (to, 7).into(), None, b"x", &mut peer.queue).unwrap();
        peer.queue.take().iter().find_map(|frame| parse_arp(frame)).map(|(.., target)| target)
    };
    assert_eq!(asked(&mut peer, Ipv4Addr::new(10, 0, 0, 77)), Some(Ipv4Addr::new(10, 0, 0, 77)));
    assert_eq!(asked(&mut peer, Ipv4Addr::new(8, 8, 8, 8)), Some(GATEWAY));
}

#[test]
fn s3_3_1_1_without_a_gateway_the_link_works_and_the_rest_is_refused() {
    let (mut peer, socket) = bound();
    let now = peer.now;
    assert!(peer.stack.udp_send(now, socket, (B, 7).into(), None, b"x", &mut peer.queue).is_ok());
    let far = SocketAddr::from((Ipv4Addr::new(8, 8, 8, 8), 7));
    let sent = peer.stack.udp_send(now, socket, far, None, b"x", &mut peer.queue);
    assert_eq!(sent, Err(Error::Unreachable { to: far }));
}

#[test]
fn s3_3_2_datagrams_in_pieces_of_any_size_are_put_together() {
    let (mut peer, socket) = bound();
    let text: Vec<u8> = (0..20_000).map(|index| (index >> 3) as u8).collect();
    let whole = udp((7, 9), &text);
    let len = whole.len() - 34;
    for from in (0..len).step_by(1480) {
        peer.frame(&piece(&whole, from, (from + 1480).min(len), from + 1480 < len));
    }
    assert_eq!(received(&mut peer, socket).pop().map(|(_, payload)| payload), Some(text));
}

#[test]
fn s3_3_2_time_exceeded_is_sent_when_pieces_stay_away() {
    let (mut peer, _) = bound();
    peer.frame(&piece(&udp((7, 9), &[1; 100]), 0, 56, true));
    peer.advance_reachable(Duration::from_secs(31));
    let sent = icmp_sent(&mut peer);
    assert_eq!(sent.iter().filter(|message| message[..2] == [11, 1]).count(), 1, "{sent:?}");
}

#[test]
fn s3_3_6_broadcast_is_never_a_source_and_goes_to_everybody_on_the_link() {
    let (mut peer, socket) = bound();
    peer.stack.udp_set_broadcast(socket, true).unwrap();
    peer.queue.take();
    for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255)] {
        let now = peer.now;
        peer.stack.udp_send(now, socket, (to, 7).into(), None, b"x", &mut peer.queue).unwrap();
        let (mac, packet) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
        assert_eq!((mac, &packet[12..16]), ([0xff; 6], &A.octets()[..]));
    }
    // And received in both forms.
    for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255)] {
        let mut frame = udp_between((B, 7), (to, 9), b"all");
        frame[..6].fill(0xff);
        peer.frame(&frame);
    }
    assert_eq!(received(&mut peer, socket).len(), 2);
}

#[test]
fn s3_4_errors_reach_the_transport_that_caused_them() {
    let (mut peer, socket) = bound();
    let now = peer.now;
    peer.stack.udp_send(now, socket, SocketAddr::from((B, 7)), None, b"x", &mut peer.queue).unwrap();
    let quoted = udp_between((A, 9), (B, 7), b"x")[14..].to_vec();
    for (message_type, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (11, 0), (11, 1)] {
        peer.frame(&icmp(message_type, code, [0; 4], &quoted));
        let (to, _) = peer.stack.udp_error(socket).unwrap_or_else(|| panic!("{message_type}, {code}"));
        assert_eq!(to, SocketAddr::from((B, 7)));
    }
}

#[test]
fn s4_1_3_4_checksums_are_made_and_checked_by_default() {
    let (mut peer, socket) = bound();
    let now = peer.now;
    peer.stack.udp_send(now, socket, (B, 7).into(), None, b"x", &mut peer.queue).unwrap();
    peer.arp_reply();
    let (_, packet) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
    let datagram = smoltcp::wire::UdpPacket::new_checked(&packet[20..]).unwrap();
    assert!(datagram.checksum() != 0 && datagram.verify_checksum(&A.into(), &B.into()));
    let mut frame = udp((7, 9), b"flipped");
    *frame.last_mut().unwrap() ^= 1;
    peer.frame(&frame);
    assert_eq!((received(&mut peer, socket).len(), icmp_sent(&mut peer).len()), (0, 0));
}

#[test]
fn s4_1_3_6_datagrams_carry_our_address_and_a_valid_source_is_required() {
    let (mut peer, socket) = bound();
    let now = peer.now;
    peer.stack.udp_send(now, socket, (B, 7).into(), None, b"x", &mut peer.queue).unwrap();
    peer.arp_reply();
    let (_, packet) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
    assert_eq!(packet[12..16], A.octets());
    peer.frame(&udp_between((Ipv4Addr::new(224, 0, 0, 9), 7), (A, 9), b"x"));
    assert!(received(&mut peer, socket).is_empty());
}

#[test]
fn s4_2_is_replaced_by_rfc_9293_and_a_reset_never_answers_a_reset() {
    let (mut peer, _) = bound();
    peer.segment((4000, 81), TcpControl::Rst, 1, None, &[]);
    peer.segment((4000, 81), TcpControl::Rst, 1, Some(1), &[]);
    peer.poll();
    assert!(peer.queue.take().is_empty());
}
