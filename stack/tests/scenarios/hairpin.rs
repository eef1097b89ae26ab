//! From us to us: no frame leaves, and everything works as if one had.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use netd_stack::{Error, IcmpError, Outcome};

use crate::support::*;

#[test]
fn connect_to_own_listener_carries_data_both_ways_without_a_frame() {
    let mut peer = Scripted::new();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let client = peer.stack.tcp_connect(peer.now, SocketAddr::from((A, 80))).unwrap();
    peer.poll();
    let server = peer.stack.tcp_accept(listener).unwrap().unwrap();
    let text: Vec<u8> = (0..200_000u32).map(|index| (index >> 3) as u8).collect();
    let (mut written, mut received) = (0, Vec::new());
    while received.len() < text.len() {
        written += write(&mut peer.stack, client, &text[written..]);
        peer.advance(Duration::from_millis(1));
        while read(&mut peer.stack, server, &mut received) > 0 {}
    }
    assert_eq!(received, text);
    for flow in [client, server] {
        peer.stack.tcp_finish(flow).unwrap();
    }
    peer.advance(Duration::from_secs(1));
    for flow in [client, server] {
        assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::Finished));
    }
    assert_eq!((peer.queue.take().len(), peer.stack.counters().frames_sent), (0, 0));
}

#[test]
fn connect_to_own_closed_port_is_refused() {
    let mut peer = Scripted::new();
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((A, 81))).unwrap();
    peer.poll();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::ConnectionRefused));
}

#[test]
fn datagram_to_own_socket_arrives_and_to_own_closed_port_is_an_error() {
    let mut peer = Scripted::new();
    let (from, _) = peer.stack.udp_bind(Some(7)).unwrap();
    let (to, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.stack.udp_send(peer.now, from, (A, 9).into(), None, b"me", &mut peer.queue).unwrap();
    peer.stack.udp_send(peer.now, from, (A, 10).into(), None, b"nobody", &mut peer.queue).unwrap();
    assert!(peer.stack.poll_timeout().is_some_and(|at| at <= peer.now));
    peer.poll();
    let mut received = Vec::new();
    let take = |meta: netd_stack::UdpMeta, payload: &[u8]| {
        received.push((meta.from, payload.to_vec()));
        true
    };
    peer.stack.udp_receive(to, take).unwrap();
    assert_eq!(received, [(SocketAddr::from((A, 7)), b"me".to_vec())]);
    let error = peer.stack.udp_error(from);
    assert_eq!(error, Some((SocketAddr::from((A, 10)), IcmpError::PortUnreachable)));
    assert!(peer.queue.take().is_empty());
}

#[test]
fn ping_to_own_address_is_answered() {
    let mut peer = Scripted::new();
    let ping = peer.stack.ping(peer.now, A.into(), 56, Duration::from_secs(1), &mut peer.queue).unwrap();
    peer.poll();
    assert_eq!(peer.stack.ping_result(ping).unwrap().unwrap().from, IpAddr::V4(A));
}

#[test]
fn queue_to_ourselves_is_bounded() {
    let mut peer = Scripted::new();
    let (from, _) = peer.stack.udp_bind(None).unwrap();
    for _ in 0..1000 {
        peer.stack.udp_send(peer.now, from, (A, 9).into(), None, &[0; 1000], &mut peer.queue).unwrap();
    }
    let kept = 256 * 1024 / 1028;
    assert_eq!(peer.stack.counters().drop_looped_full, 1000 - kept);
}

#[test]
fn loopback_addresses_are_refused_by_name() {
    let mut peer = Scripted::new();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    for address in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80"] {
        let to: SocketAddr = address.parse().unwrap();
        assert!(matches!(peer.stack.tcp_connect(peer.now, to), Err(Error::Unsupported { .. })));
        let sent = peer.stack.udp_send(peer.now, socket, to, None, b"", &mut peer.queue);
        assert!(matches!(sent, Err(Error::Unsupported { .. })));
        let ping = peer.stack.ping(peer.now, to.ip(), 8, Duration::from_secs(1), &mut peer.queue);
        assert!(matches!(ping, Err(Error::Unsupported { .. })));
    }
}
