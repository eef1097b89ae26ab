//! What UDP sockets can be told: peers, broadcasts, groups, hop limits; and who reports their errors.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{Error, IcmpError, SendOptions, Stack, UdpId, UdpMeta};
use smoltcp::wire::{IpProtocol, Ipv4Packet};

use crate::support::*;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_MAC: [u8; 6] = [1, 0, 0x5e, 0, 0, 251];
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

fn receive(stack: &mut Stack, socket: UdpId) -> Option<(UdpMeta, Vec<u8>)> {
    let mut received = None;
    let take = |meta: UdpMeta, payload: &[u8]| {
        received = Some((meta, payload.to_vec()));
        true
    };
    stack.udp_receive(socket, take).unwrap();
    received
}

#[test]
fn connected_socket_hears_its_peer_only() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.frame(&udp((8, 9), b"before"));
    let local = peer.stack.udp_connect(socket, Some((B, 7).into())).unwrap();
    assert_eq!((local, peer.stack.udp_peer(socket)), (Some((A, 9).into()), Ok(Some((B, 7).into()))));
    assert_eq!(receive(&mut peer.stack, socket), None, "what others sent before was kept");
    peer.frame(&udp((8, 9), b"stranger"));
    peer.frame(&udp((7, 9), b"peer"));
    assert_eq!(receive(&mut peer.stack, socket).unwrap().1, b"peer");
    assert_eq!(receive(&mut peer.stack, socket), None);
    assert_eq!(peer.stack.sockets().next().unwrap().remote, Some((B, 7).into()));
    peer.stack.udp_connect(socket, None).unwrap();
    peer.frame(&udp((8, 9), b"anybody"));
    assert_eq!(receive(&mut peer.stack, socket).unwrap().1, b"anybody");
    let nowhere = SocketAddr::from((Ipv4Addr::new(8, 8, 8, 8), 1));
    assert_eq!(peer.stack.udp_connect(socket, Some(nowhere)), Err(Error::Unreachable { to: nowhere }));
}

#[test]
fn broadcast_needs_permission() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255)] {
        peer.stack.udp_set_broadcast(socket, false).unwrap();
        let to = SocketAddr::from((address, 7));
        let sent = peer.stack.udp_send(peer.now, socket, to, None, b"all", &mut peer.queue);
        assert!(matches!(sent, Err(Error::InvalidInput { .. })));
        peer.stack.udp_set_broadcast(socket, true).unwrap();
        peer.stack.udp_send(peer.now, socket, to, None, b"all", &mut peer.queue).unwrap();
        let (mac, _) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
        assert_eq!(mac, [0xff; 6]);
    }
}

#[test]
fn hop_limits_and_congestion_bits_are_as_told() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    let sent = |peer: &mut Scripted, to: Ipv4Addr, options: SendOptions| {
        let to = SocketAddr::from((to, 7));
        peer.stack.udp_send_with(peer.now, (socket, to), options, b"x", &mut peer.queue).unwrap();
        peer.arp_reply();
        let (_, bytes) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
        let packet = Ipv4Packet::new_checked(&bytes[..]).unwrap();
        assert!(packet.verify_checksum());
        (packet.hop_limit(), packet.ecn())
    };
    assert_eq!(sent(&mut peer, B, SendOptions::default()), (64, 0));
    assert_eq!(sent(&mut peer, GROUP, SendOptions::default()), (1, 0));
    assert_eq!(sent(&mut peer, B, SendOptions { ttl: Some(3), ecn: 2 }), (3, 2));
    peer.stack.udp_set_ttl(socket, 33).unwrap();
    peer.stack.udp_set_multicast_ttl(socket, 5).unwrap();
    assert_eq!(sent(&mut peer, B, SendOptions::default()), (33, 0));
    assert_eq!(sent(&mut peer, GROUP, SendOptions::default()), (5, 0));
    assert!(peer.stack.udp_set_ttl(socket, 0).is_err());
}

#[test]
fn time_exceeded_names_the_router_and_the_next_answer_the_host() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.stack.udp_send(peer.now, socket, (B, 33434).into(), Some(1), b"probe", &mut peer.queue).unwrap();
    peer.arp_reply();
    let (_, probe) = ip_packets(&peer.queue.take(), IpProtocol::Udp).pop().unwrap();
    for (source, kind) in [(ROUTER, (11, 0)), (B, (3, 3))] {
        let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 0, 0];
        message.extend(&probe[..28]);
        smoltcp::wire::Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
        peer.frame(&ip(source, A, IpProtocol::Icmp, &message));
    }
    let mut next =
        || peer.stack.udp_error_detail(socket).map(|error| (error.to, error.error, error.offender));
    let to = SocketAddr::from((B, 33434));
    assert_eq!(next(), Some((to, IcmpError::TimeExceeded, IpAddr::V4(ROUTER))));
    assert_eq!(next(), Some((to, IcmpError::PortUnreachable, IpAddr::V4(B))));
    assert_eq!(next(), None);
}

#[test]
fn ping_with_a_short_hop_limit_names_the_router() {
    let mut peer = Scripted::new();
    let second = Duration::from_secs(1);
    let ping = peer.stack.ping_with_ttl(peer.now, B.into(), 1, 8, second, &mut peer.queue).unwrap();
    peer.arp_reply();
    let (_, request) = ip_packets(&peer.queue.take(), IpProtocol::Icmp).pop().unwrap();
    assert_eq!(request[8], 1);
    let mut message = vec![11, 0, 0, 0, 0, 0, 0, 0];
    message.extend(&request[..28]);
    smoltcp::wire::Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    peer.frame(&ip(ROUTER, A, IpProtocol::Icmp, &message));
    assert_eq!(peer.stack.ping_offender(ping), Some(IpAddr::V4(ROUTER)));
    let reason = IcmpError::TimeExceeded;
    assert_eq!(peer.stack.ping_result(ping), Some(Err(Error::HostUnreachable { to: B.into(), reason })));
    let nowhere = peer.stack.ping_with_ttl(peer.now, B.into(), 0, 8, second, &mut peer.queue);
    assert!(matches!(nowhere, Err(Error::InvalidInput { .. })));
}

/// A datagram to the group, from B.
fn to_group(payload: &[u8]) -> Vec<u8> {
    let mut frame = udp_between((B, 5353), (GROUP, 5353), payload);
    frame[..6].copy_from_slice(&GROUP_MAC);
    frame
}

#[test]
fn group_is_heard_from_joining_to_leaving() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(5353)).unwrap();
    peer.frame(&to_group(b"before"));
    peer.stack.udp_join(peer.now, socket, GROUP.into()).unwrap();
    peer.frame(&to_group(b"member"));
    assert_eq!(receive(&mut peer.stack, socket).unwrap().1, b"member");
    // Members on this host hear what this host sends.
    let to = SocketAddr::from((GROUP, 5353));
    peer.stack.udp_send(peer.now, socket, to, None, b"own", &mut peer.queue).unwrap();
    assert_eq!(receive(&mut peer.stack, socket).unwrap().1, b"own");
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Udp)[0].0, GROUP_MAC);
    peer.stack.udp_leave(peer.now, socket, GROUP.into()).unwrap();
    peer.frame(&to_group(b"after"));
    assert_eq!(receive(&mut peer.stack, socket), None);
    assert!(peer.stack.udp_leave(peer.now, socket, GROUP.into()).is_err());
    assert!(peer.stack.udp_join(peer.now, socket, B.into()).is_err());
}

fn reports(peer: &mut Scripted) -> Vec<Vec<u8>> {
    let frames = peer.queue.take();
    let packets = ip_packets(&frames, IpProtocol::Igmp);
    let read = |(mac, bytes): ([u8; 6], Vec<u8>)| {
        let packet = Ipv4Packet::new_checked(&bytes[..]).unwrap();
        assert!(packet.verify_checksum() && packet.hop_limit() == 1 && packet.header_len() == 24);
        let [_, b, c, d] = packet.dst_addr().octets();
        assert_eq!(mac, [1, 0, 0x5e, b, c, d]);
        bytes[24..].to_vec()
    };
    packets.into_iter().map(read).collect()
}

fn query(code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![0x11, code, 0, 0, 0, 0, 0, 0];
    message.extend(rest);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = ip(ROUTER, Ipv4Addr::new(224, 0, 0, 1), IpProtocol::Igmp, &message);
    frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
    frame
}

#[test]
fn membership_is_reported_on_change_and_on_query_in_the_version_of_the_router() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(5353)).unwrap();
    let (other, _) = peer.stack.udp_bind(Some(5354)).unwrap();
    peer.stack.udp_join(peer.now, socket, GROUP.into()).unwrap();
    peer.stack.udp_join(peer.now, other, GROUP.into()).unwrap();
    peer.advance(Duration::from_secs(5));
    let joins = reports(&mut peer);
    assert_eq!(joins.len(), 2, "a second member is no change");
    assert_eq!(joins[0][..2], [0x22, 0]);
    assert_eq!(joins[0][8..16], [4, 0, 0, 0, 224, 0, 0, 251]);
    peer.frame(&query(100, &[2, 125, 0, 0]));
    peer.advance(Duration::from_secs(11));
    let answers = reports(&mut peer);
    assert_eq!((answers.len(), answers[0][8]), (1, 2));
    // A router of version 2.
    peer.frame(&query(100, &[]));
    peer.advance(Duration::from_secs(11));
    assert_eq!(reports(&mut peer)[0][0], 0x16);
    peer.stack.udp_close(socket);
    peer.advance(Duration::from_secs(5));
    assert!(reports(&mut peer).is_empty(), "left while another socket is in");
    peer.stack.udp_close(other);
    peer.advance(Duration::from_secs(5));
    assert_eq!(reports(&mut peer)[0][0], 0x17);
}

/// What a router says of the packet `sent`: too long for a link of `mtu` bytes.
fn too_long(sent: &[u8], mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    icmp(3, 4, [0, 0, high, low], &sent[..28])
}

/// Lets the stack find out where B is.
fn reachable(peer: &mut Scripted, socket: UdpId) {
    sizes(peer, socket, 1);
    peer.arp_reply();
    peer.queue.take();
}

/// Sends `len` bytes, and says how long the packets were and whether they may be cut on the way.
fn sizes(peer: &mut Scripted, socket: UdpId, len: usize) -> (Vec<(u16, bool)>, Vec<Vec<u8>>) {
    let now = peer.now;
    peer.stack.udp_send(now, socket, (B, 9).into(), None, &vec![7; len], &mut peer.queue).unwrap();
    let packets: Vec<Vec<u8>> =
        ip_packets(&peer.queue.take(), IpProtocol::Udp).into_iter().map(|(_, packet)| packet).collect();
    let read = |bytes: &Vec<u8>| {
        let packet = Ipv4Packet::new_checked(&bytes[..]).unwrap();
        (packet.total_len(), packet.dont_frag())
    };
    (packets.iter().map(read).collect(), packets)
}

#[test]
fn datagram_too_long_for_the_path_is_told_with_the_mtu_and_the_next_is_cut_to_it() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(7)).unwrap();
    reachable(&mut peer, socket);
    let (whole, packets) = sizes(&mut peer, socket, 1400);
    assert_eq!(whole, [(1428, true)]);
    peer.frame(&too_long(&packets[0], 1300));
    assert_eq!(
        peer.stack.udp_error(socket),
        Some(((B, 9).into(), IcmpError::FragmentationNeeded { mtu: 1300 }))
    );
    assert_eq!((peer.stack.path_mtu(B.into()), peer.stack.counters().path_mtu_lowered), (1300, 1));
    assert_eq!(sizes(&mut peer, socket, 1400).0, [(1300, false), (148, false)]);
    assert_eq!(sizes(&mut peer, socket, 1272).0, [(1300, true)]);
    // Nothing so small is believed, and nothing larger is news.
    peer.frame(&too_long(&packets[0], 100));
    peer.frame(&too_long(&packets[0], 1400));
    assert_eq!(peer.stack.path_mtu(B.into()), 1300);
    // Whoever asked for it is refused what would have to be cut.
    peer.stack.udp_set_dont_fragment(socket, true).unwrap();
    let refused = peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, &[7; 1400], &mut peer.queue);
    assert_eq!(refused, Err(Error::MessageTooLong { len: 1400, max: 1272 }));
    assert_eq!(sizes(&mut peer, socket, 1272).0, [(1300, true)]);
    // After ten minutes the larger size is tried again.
    peer.advance(Duration::from_secs(601));
    assert_eq!(peer.stack.path_mtu(B.into()), 1500);
}

#[test]
fn path_mtu_of_a_packet_that_nobody_sent_is_not_believed() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(7)).unwrap();
    reachable(&mut peer, socket);
    let (_, packets) = sizes(&mut peer, socket, 1400);
    peer.stack.udp_close(socket);
    peer.frame(&too_long(&packets[0], 1300));
    assert_eq!(peer.stack.path_mtu(B.into()), 1500);
}
