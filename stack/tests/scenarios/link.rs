//! ARP, ICMP and UDP.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{Error, IcmpError, Ready, Stack, UdpId, UdpMeta};
use smoltcp::wire::{ArpOperation, IpProtocol};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const MAC_OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

fn requests_for(frames: &[Vec<u8>], target: Ipv4Addr) -> usize {
    frames.iter().filter(|frame| parse_arp(frame) == Some((ArpOperation::Request, A, target))).count()
}

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
fn arp_request_for_us_is_answered_and_for_others_not() {
    let mut peer = Scripted::new();
    peer.frame(&arp(ArpOperation::Request, (MAC_B, B), ([0; 6], OTHER), [0xff; 6]));
    assert!(peer.queue.take().is_empty());
    peer.frame(&arp(ArpOperation::Request, (MAC_B, B), ([0; 6], A), [0xff; 6]));
    let replies = peer.queue.take();
    assert_eq!(parse_arp(&replies[0]), Some((ArpOperation::Reply, A, B)));
    assert_eq!((replies.len(), &replies[0][..6]), (1, &MAC_B[..]));
    assert_eq!(peer.stack.neighbors().count(), 0, "a request made an entry");
}

#[test]
fn arp_reply_unsolicited_makes_no_entry_and_updates_one() {
    let mut peer = Scripted::new();
    peer.arp_reply();
    assert_eq!((peer.stack.neighbors().count(), peer.stack.counters().drop_arp_unsolicited), (0, 1));
    let (_, _, _) = peer.connecting(80);
    assert_eq!(peer.stack.neighbors().next().unwrap().mac, Some(MAC_B));
    peer.frame(&arp(ArpOperation::Reply, (MAC_OTHER, B), (MAC_OTHER, B), [0xff; 6]));
    assert_eq!(peer.stack.neighbors().next().unwrap().mac, Some(MAC_OTHER));
}

#[test]
fn arp_sender_with_our_address_is_ignored() {
    let mut peer = Scripted::new();
    peer.frame(&arp(ArpOperation::Request, (MAC_B, A), ([0; 6], A), [0xff; 6]));
    assert_eq!((peer.queue.take().len(), peer.stack.counters().drop_arp_malformed), (0, 1));
}

#[test]
fn neighbor_dead_is_asked_once_a_second_and_delays_nobody() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    let mut to_dead = 0;
    for _ in 0..20 {
        peer.stack.udp_send(peer.now, socket, (OTHER, 9).into(), None, b"x", &mut peer.queue).unwrap();
        peer.advance(Duration::from_millis(100));
        to_dead += requests_for(&peer.queue.take(), OTHER);
    }
    assert!((2..=3).contains(&to_dead), "{to_dead} requests in two seconds");
    peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, b"x", &mut peer.queue).unwrap();
    assert_eq!(requests_for(&peer.queue.take(), B), 1);
    peer.arp_reply();
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Udp).len(), 1);
}

#[test]
fn neighbor_dead_tells_the_udp_socket() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    peer.stack.udp_send(peer.now, socket, (OTHER, 9).into(), None, b"x", &mut peer.queue).unwrap();
    peer.advance(Duration::from_secs(4));
    assert_eq!(peer.stack.udp_error(socket), Some(((OTHER, 9).into(), IcmpError::HostUnreachable)));
    assert!(peer.ready().contains(&Ready::Udp(socket)));
}

#[test]
fn neighbor_pending_queue_keeps_the_newest() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    for index in 0..100 {
        peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, &[index], &mut peer.queue).unwrap();
    }
    assert_eq!(peer.stack.counters().drop_neighbor_queue_full, 36);
    peer.queue.take();
    peer.arp_reply();
    let sent = ip_packets(&peer.queue.take(), IpProtocol::Udp);
    let payloads: Vec<u8> = sent.iter().map(|(_, packet)| packet[28]).collect();
    assert_eq!(payloads, (36..100).collect::<Vec<u8>>());
}

#[test]
fn neighbor_old_is_probed_by_unicast_and_forgotten_if_silent() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, b"x", &mut peer.queue).unwrap();
    peer.arp_reply();
    peer.advance(Duration::from_secs(31));
    peer.queue.take();
    peer.stack.udp_send(peer.now, socket, (B, 9).into(), None, b"x", &mut peer.queue).unwrap();
    let frames = peer.queue.take();
    assert_eq!(ip_packets(&frames, IpProtocol::Udp).len(), 1, "traffic stopped for a probe");
    assert!(frames.iter().any(|frame| parse_arp(frame).is_some() && frame[..6] == MAC_B));
    peer.advance(Duration::from_secs(4));
    assert_eq!(peer.stack.neighbors().count(), 0);
}

#[test]
fn neighbor_table_full_evicts_the_unanswered_first() {
    let mut config = config(MAC_A, A);
    config.limits.neighbors = 2;
    let mut peer = Scripted::with(config);
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    let send = |peer: &mut Scripted, host: u8| {
        let to = (Ipv4Addr::new(10, 0, 0, host), 9).into();
        peer.stack.udp_send(peer.now, socket, to, None, b"x", &mut peer.queue).unwrap();
    };
    send(&mut peer, 2);
    peer.arp_reply();
    for host in 100..120 {
        send(&mut peer, host);
    }
    let known: Vec<_> = peer.stack.neighbors().filter(|neighbor| neighbor.mac.is_some()).collect();
    assert_eq!((peer.stack.neighbors().count(), known.len(), known[0].address), (2, 1, IpAddr::V4(B)));
}

#[test]
fn ping_both_ways_is_answered() {
    let mut wire = Wire::new();
    for (side, to) in [(0, B), (1, A)] {
        let now = wire.now;
        let id = wire.stacks[side].ping(now, to.into(), 56, SECOND, &mut wire.queues[side]).unwrap();
        let mut result = None;
        wire.run_until(SECOND, |wire| {
            result = wire.stacks[side].ping_result(id);
            result.is_some()
        });
        let reply = result.unwrap().unwrap();
        assert_eq!((reply.bytes, reply.ttl, reply.from), (56, 64, IpAddr::V4(to)));
        assert!(reply.rtt >= Duration::from_micros(200));
        assert_eq!(wire.stacks[side].ping_result(id), Some(Err(Error::InvalidSocket)));
    }
}

#[test]
fn ping_unanswered_times_out_and_unreachable_says_so() {
    let mut peer = Scripted::new();
    let id = peer.stack.ping(peer.now, B.into(), 8, SECOND, &mut peer.queue).unwrap();
    peer.arp_reply();
    let sent = ip_packets(&peer.queue.take(), IpProtocol::Icmp);
    peer.advance(Duration::from_millis(999));
    assert_eq!(peer.stack.ping_result(id), None);
    peer.advance(Duration::from_millis(2));
    assert_eq!(peer.stack.ping_result(id), Some(Err(Error::TimedOut)));
    // The answer of a router to an earlier request concerns nobody now.
    peer.frame(&icmp(3, 1, [0; 4], &sent[0].1));
    let id = peer.stack.ping(peer.now, B.into(), 8, SECOND, &mut peer.queue).unwrap();
    let sent = ip_packets(&peer.queue.take(), IpProtocol::Icmp);
    peer.frame(&icmp(3, 1, [0; 4], &sent[0].1));
    let reason = IcmpError::HostUnreachable;
    assert_eq!(peer.stack.ping_result(id), Some(Err(Error::HostUnreachable { to: B.into(), reason })));
}

#[test]
fn echo_request_to_everybody_is_ignored() {
    let mut peer = Scripted::new();
    let mut bytes = vec![8, 0, 0, 0, 1, 2, 3, 4];
    smoltcp::wire::Icmpv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
    let mut frame = ip(B, Ipv4Addr::new(10, 0, 0, 255), IpProtocol::Icmp, &bytes);
    frame[..6].fill(0xff);
    peer.frame(&frame);
    assert_eq!((peer.queue.take().len(), peer.stack.counters().icmp_echo_answered), (0, 0));
}

#[test]
fn udp_datagrams_travel_both_ways() {
    let mut wire = Wire::new();
    let (client, _) = wire.stacks[0].udp_bind(None).unwrap();
    let (server, _) = wire.stacks[1].udp_bind(Some(53)).unwrap();
    let now = wire.now;
    wire.stacks[0].udp_send(now, client, (B, 53).into(), Some(9), b"question", &mut wire.queues[0]).unwrap();
    wire.run_for(Duration::from_millis(10));
    assert!(wire.ready[1].contains(&Ready::Udp(server)));
    let (meta, payload) = receive(&mut wire.stacks[1], server).unwrap();
    assert_eq!((payload.as_slice(), meta.ttl, meta.from.ip()), (&b"question"[..], 9, IpAddr::V4(A)));
    let now = wire.now;
    wire.stacks[1].udp_send(now, server, meta.from, None, b"", &mut wire.queues[1]).unwrap();
    wire.run_for(Duration::from_millis(10));
    let (meta, payload) = receive(&mut wire.stacks[0], client).unwrap();
    assert_eq!((payload.as_slice(), meta.from), (&b""[..], SocketAddr::from((B, 53))));
}

#[test]
fn udp_closed_port_error_reaches_the_socket_that_sent() {
    let mut wire = Wire::new();
    let (client, _) = wire.stacks[0].udp_bind(None).unwrap();
    let now = wire.now;
    wire.stacks[0].udp_send(now, client, (B, 9).into(), None, b"anyone?", &mut wire.queues[0]).unwrap();
    wire.run_for(Duration::from_millis(10));
    let error = wire.stacks[0].udp_error(client);
    assert_eq!(error, Some((SocketAddr::from((B, 9)), IcmpError::PortUnreachable)));
    assert_eq!(wire.stacks[0].udp_error(client), None);
}

#[test]
fn udp_closed_port_errors_are_rate_limited() {
    let mut peer = Scripted::new();
    for _ in 0..200 {
        peer.frame(&udp((7, 9), b"x"));
    }
    assert_eq!((peer.stack.counters().icmp_errors_sent, peer.stack.counters().icmp_rate_limited), (50, 150));
}

#[test]
fn udp_queue_full_drops_and_counts() {
    let mut config = config(MAC_A, A);
    config.limits.udp_queue_bytes = 1000;
    config.limits.udp_queue_datagrams = 5;
    let mut peer = Scripted::with(config);
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    for _ in 0..3 {
        peer.frame(&udp((7, 9), &[0; 400]));
    }
    assert_eq!(peer.stack.counters().drop_udp_queue_full, 1);
    while receive(&mut peer.stack, socket).is_some() {}
    for _ in 0..7 {
        peer.frame(&udp((7, 9), b"x"));
    }
    assert_eq!(peer.stack.counters().drop_udp_queue_full, 3);
}

#[test]
fn udp_bad_checksum_is_dropped_and_absent_one_accepted() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    let mut frame = udp((7, 9), b"x");
    *frame.last_mut().unwrap() ^= 1;
    peer.frame(&frame);
    assert_eq!((peer.stack.counters().drop_udp_malformed, receive(&mut peer.stack, socket)), (1, None));
    frame[40..42].fill(0);
    peer.frame(&frame);
    assert!(receive(&mut peer.stack, socket).is_some());
}

#[test]
fn udp_misuse_is_refused_by_name() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    assert_eq!(peer.stack.udp_bind(Some(9)), Err(Error::AddrInUse { port: 9 }));
    let too_long = peer.stack.udp_send(peer.now, socket, (B, 1).into(), None, &[0; 65_508], &mut peer.queue);
    assert_eq!(too_long, Err(Error::MessageTooLong { len: 65_508, max: 65_507 }));
    let nowhere = SocketAddr::from((Ipv4Addr::new(8, 8, 8, 8), 1));
    let unreachable = peer.stack.udp_send(peer.now, socket, nowhere, None, b"", &mut peer.queue);
    assert_eq!(unreachable, Err(Error::Unreachable { to: nowhere }));
    peer.queue.room = 0;
    let full = peer.stack.udp_send(peer.now, socket, (B, 1).into(), None, b"", &mut peer.queue);
    assert_eq!(full, Err(Error::NoBuffers));
    peer.stack.udp_close(socket);
    assert_eq!(peer.stack.udp_receive(socket, |_, _| true), Err(Error::InvalidSocket));
}

#[test]
fn packet_for_another_host_is_dropped() {
    let mut peer = Scripted::new();
    peer.frame(&udp_between((B, 7), (OTHER, 9), b"x"));
    assert_eq!(peer.stack.counters().drop_ip_not_for_us, 1);
    let mut frame = udp((7, 9), b"x");
    frame[..6].fill(0xff);
    peer.frame(&frame);
    assert_eq!(
        peer.stack.counters().drop_ip_not_for_us,
        2,
        "a unicast packet in a broadcast frame was taken"
    );
    peer.frame(&udp_between((A, 7), (A, 9), b"x"));
    assert_eq!(peer.stack.counters().drop_ip_source, 1);
    assert!(peer.queue.take().is_empty());
}
