//! Several IPv4 addresses, sockets on one of them, and what changes while the stack runs.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{
    AddressOrigin, AddressState, AddressStatus, Addressing, Cidr, Config, ConflictDetection, Error,
    Ipv6Addressing, Limits, Options, Outcome, Route, Static,
};
use smoltcp::wire::{ArpOperation, IpProtocol, TcpControl};

use crate::support::*;

const SECOND_IN_PREFIX: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const NEIGHBOR_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);

fn cidr(address: Ipv4Addr) -> Cidr {
    Cidr::new(address, 24).unwrap()
}

fn several(conflicts: ConflictDetection) -> Options {
    Options { secondary: vec![cidr(SECOND_IN_PREFIX), cidr(ELSEWHERE)], conflicts, ..quiet() }
}

fn scripted() -> Scripted {
    Scripted::with_options(config(MAC_A, A), several(ConflictDetection::Off))
}

fn arp_frames(peer: &mut Scripted) -> Vec<(ArpOperation, Ipv4Addr, Ipv4Addr)> {
    peer.queue.take().iter().filter_map(|frame| parse_arp(frame)).collect()
}

fn static_at(address: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Addressing {
    Addressing::Static(Static { cidr: cidr(address), gateway, mtu: None, dns: Vec::new() })
}

fn statuses(peer: &Scripted) -> Vec<(IpAddr, AddressStatus)> {
    peer.stack.addresses().map(|info| (info.address, info.status)).collect()
}

#[test]
fn each_address_answers_arp_with_itself() {
    let mut peer = scripted();
    for own in [A, SECOND_IN_PREFIX, ELSEWHERE] {
        peer.frame(&arp(ArpOperation::Request, (MAC_B, B), ([0; 6], own), [0xff; 6]));
        assert_eq!(arp_frames(&mut peer), [(ArpOperation::Reply, own, B)]);
    }
    let all: Vec<_> = peer.stack.addresses().map(|info| (info.address, info.origin)).collect();
    let expected = [A, SECOND_IN_PREFIX, ELSEWHERE].map(|own| (IpAddr::V4(own), AddressOrigin::Static));
    assert_eq!(all, expected);
}

#[test]
fn packets_come_from_the_address_beside_the_neighbor() {
    let mut peer = scripted();
    let (socket, _) = peer.stack.udp_bind(Some(7)).unwrap();
    for (to, from) in [(B, A), (NEIGHBOR_ELSEWHERE, ELSEWHERE)] {
        peer.stack.udp_send(peer.now, socket, (to, 9).into(), None, b"x", &mut peer.queue).unwrap();
        assert_eq!(arp_frames(&mut peer), [(ArpOperation::Request, from, to)]);
        peer.frame(&arp(ArpOperation::Reply, (MAC_B, to), (MAC_A, from), MAC_A));
        let packets = ip_packets(&peer.queue.take(), IpProtocol::Udp);
        assert_eq!(packets[0].1[12..20], [from.octets(), to.octets()].concat());
    }
}

#[test]
fn own_addresses_reach_each_other_without_a_frame() {
    let mut peer = scripted();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let client = peer.stack.tcp_connect(peer.now, (ELSEWHERE, 80).into()).unwrap();
    peer.poll();
    let server = peer.stack.tcp_accept(listener).unwrap().unwrap();
    let status = peer.stack.tcp_status(server).unwrap();
    assert_eq!((status.local.ip(), status.remote.ip()), (IpAddr::V4(ELSEWHERE), IpAddr::V4(ELSEWHERE)));
    assert!(peer.stack.tcp_status(client).unwrap().established);
    assert!(peer.queue.take().is_empty());
}

#[test]
fn secondary_address_that_somebody_has_is_given_up_alone_and_tried_again() {
    for mode in [ConflictDetection::Optimistic, ConflictDetection::Strict] {
        let mut peer = Scripted::with_options(config(MAC_A, A), several(mode));
        peer.advance(Duration::from_secs(2));
        peer.frame(&arp(ArpOperation::Reply, (MAC_B, ELSEWHERE), (MAC_A, A), MAC_A));
        peer.advance(Duration::from_secs(10));
        let expected = [
            (IpAddr::V4(A), AddressStatus::Preferred),
            (IpAddr::V4(SECOND_IN_PREFIX), AddressStatus::Preferred),
            (IpAddr::V4(ELSEWHERE), AddressStatus::Duplicated),
        ];
        assert_eq!(statuses(&peer), expected, "{mode:?}");
        assert!(matches!(
            peer.stack.tcp_listen_on(Some(ELSEWHERE.into()), Some(1), 1),
            Err(Error::AddrNotAvailable { .. })
        ));
        peer.advance(Duration::from_secs(70));
        assert_eq!(statuses(&peer)[2].1, AddressStatus::Preferred, "{mode:?}");
    }
}

#[test]
fn strict_claims_probe_every_address_before_it_is_used() {
    let mut peer = Scripted::with_options(config(MAC_A, A), several(ConflictDetection::Strict));
    assert!(statuses(&peer).iter().all(|(_, status)| *status == AddressStatus::Tentative));
    peer.advance(Duration::from_secs(8));
    assert!(statuses(&peer).iter().all(|(_, status)| *status == AddressStatus::Preferred));
    let frames = arp_frames(&mut peer);
    for own in [A, SECOND_IN_PREFIX, ELSEWHERE] {
        let probes = frames.iter().filter(|(_, sender, target)| sender.is_unspecified() && *target == own);
        assert_eq!(probes.count(), 3);
    }
}

#[test]
fn listeners_on_different_addresses_share_a_port_and_get_their_own_connections() {
    let mut peer = scripted();
    let on = |address: Ipv4Addr| Some(IpAddr::V4(address));
    let (first, local) = peer.stack.tcp_listen_on(on(A), Some(80), 4).unwrap();
    assert_eq!(local, SocketAddr::from((A, 80)));
    let (second, _) = peer.stack.tcp_listen_on(on(ELSEWHERE), Some(80), 4).unwrap();
    assert_eq!(peer.stack.tcp_listen(Some(80), 4), Err(Error::AddrInUse { port: 80 }));
    assert_eq!(peer.stack.tcp_listen_on(on(A), Some(80), 4), Err(Error::AddrInUse { port: 80 }));
    let (any, local) = peer.stack.tcp_listen(Some(81), 4).unwrap();
    assert_eq!(local.to_string(), "0.0.0.0:81", "without IPv6 there is one family");
    assert_eq!(peer.stack.tcp_listen_on(on(A), Some(81), 4), Err(Error::AddrInUse { port: 81 }));
    for (to, listener) in [((A, 80), first), ((ELSEWHERE, 80), second), ((SECOND_IN_PREFIX, 81), any)] {
        peer.stack.tcp_connect(peer.now, to.into()).unwrap();
        peer.poll();
        let flow = peer.stack.tcp_accept(listener).unwrap().unwrap();
        assert_eq!(peer.stack.tcp_status(flow).unwrap().local, SocketAddr::from(to));
    }
    // Nobody listens there.
    let refused = peer.stack.tcp_connect(peer.now, (SECOND_IN_PREFIX, 80).into()).unwrap();
    peer.poll();
    assert_eq!(peer.stack.tcp_status(refused).unwrap().closed, Some(Outcome::ConnectionRefused));
    peer.stack.tcp_close_listener(peer.now, first);
    peer.stack.tcp_listen_on(on(A), Some(80), 4).unwrap();
}

#[test]
fn datagrams_reach_the_socket_on_their_address_and_leave_from_it() {
    let mut peer = scripted();
    let (first, _) = peer.stack.udp_bind_on(Some(A.into()), Some(53)).unwrap();
    let (second, local) = peer.stack.udp_bind_on(Some(ELSEWHERE.into()), Some(53)).unwrap();
    assert_eq!(local, SocketAddr::from((ELSEWHERE, 53)));
    assert_eq!(peer.stack.udp_bind(Some(53)), Err(Error::AddrInUse { port: 53 }));
    peer.frame(&udp_between((B, 9), (ELSEWHERE, 53), b"x"));
    assert_eq!(peer.stack.udp_receive(first, |_, _| true), Ok(false));
    assert_eq!(peer.stack.udp_receive(second, |_, _| true), Ok(true));
    peer.stack.udp_send(peer.now, second, (B, 9).into(), None, b"y", &mut peer.queue).unwrap();
    peer.arp_reply();
    let packets = ip_packets(&peer.queue.take(), IpProtocol::Udp);
    assert_eq!(packets[0].1[12..16], ELSEWHERE.octets());
    let v6 = "2001:db8::1".parse::<IpAddr>().unwrap();
    let sent = peer.stack.udp_send(peer.now, second, (v6, 9).into(), None, b"y", &mut peer.queue);
    assert!(matches!(sent, Err(Error::Unreachable { .. })));
}

#[test]
fn dual_stack_socket_is_written_with_both_families_in_mind() {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    assert_eq!(peer.stack.tcp_listen(Some(80), 1).unwrap().1.to_string(), "[::]:80");
    assert_eq!(peer.stack.udp_bind(Some(80)).unwrap().1.to_string(), "[::]:80");
}

#[test]
fn reconfigured_gateway_and_routes_count_at_once_and_connections_stay() {
    let mut peer = scripted();
    let (flow, ..) = peer.accepted();
    let far = SocketAddr::from((Ipv4Addr::new(172, 16, 0, 1), 80));
    assert!(matches!(peer.stack.tcp_connect(peer.now, far), Err(Error::Unreachable { .. })));
    let via = Ipv4Addr::new(192, 168, 7, 254);
    let route = Route { destination: "172.16.0.0/12".parse().unwrap(), via: Some(via) };
    let options = Options { routes: vec![route], ..several(ConflictDetection::Off) };
    peer.stack.reconfigure(peer.now, static_at(A, Some(B)), None, options).unwrap();
    let routed = peer.stack.tcp_connect(peer.now, far).unwrap();
    assert_eq!(peer.stack.tcp_status(routed).unwrap().local.ip(), IpAddr::V4(ELSEWHERE));
    let default = peer.stack.tcp_connect(peer.now, (Ipv4Addr::new(8, 8, 8, 8), 80).into()).unwrap();
    assert_eq!(peer.stack.tcp_status(default).unwrap().local.ip(), IpAddr::V4(A));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
}

#[test]
fn reconfigured_address_ends_only_connections_that_had_it() {
    let mut peer = scripted();
    let (stays, ..) = peer.accepted();
    let goes = peer.stack.tcp_connect(peer.now, (NEIGHBOR_ELSEWHERE, 80).into()).unwrap();
    let options = Options { secondary: vec![cidr(SECOND_IN_PREFIX)], ..quiet() };
    peer.stack.reconfigure(peer.now, static_at(A, None), None, options).unwrap();
    assert_eq!(peer.stack.tcp_status(stays).unwrap().closed, None);
    assert_eq!(peer.stack.tcp_status(goes).unwrap().closed, Some(Outcome::Unreachable));
    // To another first address, and to DHCP.
    peer.stack.reconfigure(peer.now, static_at(ELSEWHERE, None), None, quiet()).unwrap();
    assert_eq!(peer.stack.tcp_status(stays).unwrap().closed, Some(Outcome::Unreachable));
    let dhcp = Addressing::Dhcp { fallback: None, timeout: Duration::from_secs(10) };
    peer.stack.reconfigure(peer.now, dhcp, None, quiet()).unwrap();
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    peer.queue.take();
    peer.poll();
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Udp).len(), 1, "no DISCOVER");
}

#[test]
fn reconfiguration_that_makes_no_sense_changes_nothing() {
    let mut peer = scripted();
    let options = Options { secondary: vec!["224.0.0.1/24".parse().unwrap()], ..quiet() };
    let refused = peer.stack.reconfigure(peer.now, static_at(B, None), None, options);
    assert!(matches!(refused, Err(Error::InvalidAddress { .. })));
    assert_eq!(statuses(&peer).len(), 3);
    let many = vec![cidr(A); netd_stack::SECONDARY_MAX + 1];
    let refused =
        peer.stack.reconfigure(peer.now, static_at(A, None), None, Options { secondary: many, ..quiet() });
    assert!(matches!(refused, Err(Error::QuotaExceeded { .. })));
}

#[test]
fn ipv6_mode_changes_while_running() {
    let options = |ipv6| Options { ipv6, ..quiet() };
    let mut peer = Scripted::with_options(config(MAC_A, A), options(Ipv6Addressing::Off));
    let has_v6 = |peer: &Scripted| peer.stack.addresses().any(|info| info.address.is_ipv6());
    assert!(!has_v6(&peer));
    let set = |peer: &mut Scripted, ipv6| {
        peer.stack.reconfigure(peer.now, static_at(A, None), None, options(ipv6)).unwrap();
        peer.advance(Duration::from_secs(5));
    };
    set(&mut peer, Ipv6Addressing::LinkLocal);
    assert!(has_v6(&peer));
    assert_eq!(peer.stack.counters().nd_router_solicitations_sent, 0, "nobody asked for routers");
    set(&mut peer, Ipv6Addressing::Auto);
    assert!(peer.stack.counters().nd_router_solicitations_sent > 0);
    let in_use =
        |info: netd_stack::AddressInfo| info.address.is_ipv4() || info.status == AddressStatus::Preferred;
    assert!(peer.stack.addresses().all(in_use), "an address that both modes have was checked again");
    set(&mut peer, Ipv6Addressing::Off);
    assert!(!has_v6(&peer));
}

#[test]
fn link_restored_claims_addresses_again_and_forgets_neighbors() {
    let mut peer = Scripted::with_options(config(MAC_A, A), several(ConflictDetection::Optimistic));
    peer.advance(Duration::from_secs(20));
    let (flow, ..) = peer.accepted();
    assert_eq!(peer.stack.neighbors().count(), 1);
    peer.queue.take();
    peer.stack.link_restored(peer.now);
    assert_eq!(peer.stack.neighbors().count(), 0);
    peer.advance(Duration::from_secs(10));
    let probes = arp_frames(&mut peer).into_iter().filter(|(_, sender, _)| sender.is_unspecified()).count();
    assert_eq!(probes, 9);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
}

#[test]
fn closing_connections_of_one_owner_are_bounded_and_cost_others_nothing() {
    let limits = Limits { closing: 8, closing_per_owner: 2, ..Limits::default() };
    let mut wire =
        Wire::with(Config { limits, ..config(MAC_A, A) }, config(MAC_B, B), Impairment::default(), 1);
    let (listener, _) = wire.stacks[1].tcp_listen(Some(80), 64).unwrap();
    let open = |wire: &mut Wire, owner| {
        let flow = wire.stacks[0].tcp_connect(wire.now, (B, 80).into()).unwrap();
        wire.stacks[0].tcp_set_owner(flow, owner).unwrap();
        wire.run_until(Duration::from_secs(10), |wire| wire.stacks[0].tcp_status(flow).unwrap().established);
        wire.stacks[1].tcp_accept(listener).unwrap();
        flow
    };
    let other = open(&mut wire, 2);
    let flows: Vec<_> = (0..5).map(|_| open(&mut wire, 1)).collect();
    // The peer does not close its side, so they stay in FIN-WAIT-2.
    for flow in [other].into_iter().chain(flows) {
        let now = wire.now;
        wire.stacks[0].tcp_release(now, flow);
        wire.run_for(Duration::from_millis(10));
    }
    assert_eq!(wire.stacks[0].tcp_closing_by_owner().into_iter().collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    assert_eq!(wire.counters(0).tcp_closing_cut, 3);
    let closing = wire.stacks[0].tables().into_iter().find(|table| table.name == "closing").unwrap();
    assert_eq!((closing.used, closing.limit, closing.refused), (3, 8, 3));
}

#[test]
fn connect_refused_by_a_router_says_which() {
    let mut peer = Scripted::new();
    let (flow, port, seq) = peer.connecting(80);
    let mut quoted = ip(A, B, IpProtocol::Tcp, &[0; 8])[14..].to_vec();
    quoted[20..22].copy_from_slice(&port.to_be_bytes());
    quoted[22..24].copy_from_slice(&80u16.to_be_bytes());
    quoted[24..28].copy_from_slice(&seq.to_be_bytes());
    peer.frame(&icmp(3, 13, [0; 4], &quoted));
    let status = peer.stack.tcp_status(flow).unwrap();
    assert_eq!(status.error, Some((netd_stack::IcmpError::Prohibited, IpAddr::V4(B))));
    assert_eq!(status.closed, Some(Outcome::Unreachable));
}

#[test]
fn hop_limit_of_a_connection_is_on_its_packets() {
    let mut peer = Scripted::new();
    let (flow, ..) = peer.accepted();
    peer.stack.tcp_set_hop_limit(flow, 3).unwrap();
    assert!(matches!(peer.stack.tcp_set_hop_limit(flow, 0), Err(Error::InvalidInput { .. })));
    write(&mut peer.stack, flow, b"x");
    peer.poll();
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Tcp)[0].1[8], 3);
    peer.segment((4001, 81), TcpControl::Syn, 1, None, &[]);
    assert_eq!(ip_packets(&peer.queue.take(), IpProtocol::Tcp)[0].1[8], 64, "a reset of nobody's");
}
