//! Options of sockets, through the client library and a whole daemon.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netd_ipc::datagram::code;
use netd_ipc::{ErrorKind, Event};

use crate::lab::{Lab, OURS, PATIENCE, PEER, kind};

#[test]
fn options_of_a_stream_are_taken_and_a_stream_that_is_over_has_none() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (mut ours, mut theirs) = lab.stream(&client);
    ours.set_nodelay(false).unwrap();
    ours.set_keepalive(Some(Duration::from_secs(5))).unwrap();
    let clone = ours.try_clone().unwrap();
    ours.write_all(b"over a clone").unwrap();
    clone.shutdown_write().unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over a clone");
    theirs.shutdown_write().unwrap();
    assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0);
    crate::lab::wait("the end", || ours.set_nodelay(true).err()).kind().unwrap();
}

#[test]
fn linger_of_zero_makes_closing_a_reset() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (ours, mut theirs) = lab.stream(&client);
    ours.set_linger(Duration::ZERO).unwrap();
    drop(ours);
    assert!(theirs.read(&mut [0; 1]).is_err());
}

#[test]
fn connected_socket_hears_its_peer_alone() {
    let lab = Lab::start();
    let ours = lab.ours.client().udp_bind(None).unwrap();
    let peer = lab.theirs.client();
    let (one, two) = (peer.udp_bind(None).unwrap(), peer.udp_bind(None).unwrap());
    let at = |port| SocketAddr::new(PEER.parse().unwrap(), port);
    assert_eq!(kind(ours.send(b"x")), ErrorKind::NotConnected);
    ours.connect(at(one.local_addr().port())).unwrap();
    ours.set_read_deadline(Some(Instant::now() + PATIENCE));
    // Its own address towards the peer, and no longer that of all of them.
    let local = ours.local_addr();
    assert_eq!(local.ip(), OURS.parse::<std::net::IpAddr>().unwrap());
    two.send_to(b"stranger", local).unwrap();
    one.send_to(b"friend", local).unwrap();
    let mut bytes = [0; 100];
    assert_eq!(ours.recv(&mut bytes).unwrap(), 6);
    ours.send(b"back").unwrap();
    assert_eq!(one.recv_from(&mut bytes).unwrap().0, 4);
}

#[test]
fn failed_datagram_comes_back_with_who_reported_it() {
    let lab = Lab::start();
    let ours = lab.ours.client().udp_bind(None).unwrap();
    ours.set_read_deadline(Some(Instant::now() + PATIENCE));
    ours.set_ttl(1);
    let to = format!("{PEER}:9").parse().unwrap();
    ours.send_to(b"nobody", to).unwrap();
    let failed = Event::Failed { to, code: code::PORT_UNREACHABLE, reporter: PEER.parse().ok(), mtu: None };
    assert_eq!(ours.recv_event(&mut []).unwrap(), failed);
}

#[test]
fn datagram_that_must_not_be_cut_comes_back_with_the_mtu() {
    let lab = Lab::start();
    let ours = lab.ours.client().udp_bind(None).unwrap();
    ours.set_read_deadline(Some(Instant::now() + PATIENCE));
    ours.set_dont_fragment(true).unwrap();
    let to = format!("{PEER}:9").parse().unwrap();
    ours.send_to(&[7; 1473], to).unwrap();
    let failed = Event::Failed { to, code: code::TOO_BIG, reporter: None, mtu: Some(1500) };
    assert_eq!(ours.recv_event(&mut []).unwrap(), failed);
    // In pieces it arrives, where nobody listens.
    ours.set_dont_fragment(false).unwrap();
    ours.send_to(&[7; 1473], to).unwrap();
    let failed = ours.recv_event(&mut []).unwrap();
    assert!(matches!(failed, Event::Failed { code: code::PORT_UNREACHABLE, mtu: None, .. }), "{failed:?}");
}

#[test]
fn sockets_on_one_address_have_it_and_on_a_strangers_are_refused() {
    let lab = Lab::start();
    let client = lab.ours.client();
    let (own, stranger) = (OURS.parse().ok(), PEER.parse().ok());
    assert_eq!(Some(client.udp_bind_on(own, None).unwrap().local_addr().ip()), own);
    assert_eq!(Some(client.tcp_listen_on(own, None, None).unwrap().local_addr().ip()), own);
    assert_eq!(kind(client.udp_bind_on(stranger, None)), ErrorKind::InvalidInput);
    assert_eq!(kind(client.tcp_listen_on(stranger, None, None)), ErrorKind::InvalidInput);
}

#[test]
fn multicast_group_is_joined_and_left() {
    let lab = Lab::start();
    let group = "239.1.2.3".parse().unwrap();
    let ours = lab.ours.client().udp_bind(Some(5000)).unwrap();
    ours.join_multicast(group).unwrap();
    let theirs = lab.theirs.client().udp_bind(None).unwrap();
    theirs.send_to(b"to all", "239.1.2.3:5000".parse().unwrap()).unwrap();
    ours.set_read_deadline(Some(Instant::now() + PATIENCE));
    assert_eq!(ours.recv_from(&mut [0; 100]).unwrap().0, 6);
    ours.leave_multicast(group).unwrap();
    assert_eq!(kind(ours.join_multicast("10.9.0.2".parse().unwrap())), ErrorKind::InvalidInput);
}
