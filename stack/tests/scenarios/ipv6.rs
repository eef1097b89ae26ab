//! IPv6: addresses by themselves, routers, neighbours, and the sockets over it.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{
    AddressOrigin, AddressStatus, Error, IcmpError, Ipv6Addressing, Options, Outcome, Ready, Static6,
};
use proptest::prelude::*;
use smoltcp::wire::{IpProtocol, Ipv6Packet, TcpPacket};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);
/// Made from the hardware addresses.
const A6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0xff, 0xfe00, 1);
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITED_A: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

/// A stack whose link-local address is in use.
fn ready() -> Scripted {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_secs(3));
    peer.queue.take();
    peer.ready();
    peer
}

fn wire() -> Wire {
    let side = |mac, address| (config(mac, address), with_ipv6());
    let mut wire = Wire::with_options(side(MAC_A, A), side(MAC_B, B), Impairment::default(), 1);
    wire.run_for(Duration::from_secs(3));
    wire
}

/// What a router says: flags with preference, lifetime, and options.
fn advertisement(source: Ipv6Addr, flags: u8, lifetime: u16, options: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![64, flags];
    body.extend(lifetime.to_be_bytes());
    body.extend([0; 8]);
    body.extend(options.concat());
    icmp6((source, ALL_NODES), 255, (134, 0), &body)
}

fn prefix(prefix: Ipv6Addr, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let mut option = vec![3, 4, 64, flags];
    option.extend(valid.to_be_bytes());
    option.extend(preferred.to_be_bytes());
    option.extend([0; 4]);
    option.extend(prefix.octets());
    option
}

const NET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0);
const MTU_1400: &[u8] = &[5, 1, 0, 0, 0, 0, 5, 0x78];

/// A neighbour's answer to our solicitation.
fn neighbor_advertisement(source: Ipv6Addr, target: Ipv6Addr, flags: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut body = vec![flags, 0, 0, 0];
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(mac);
    icmp6((source, if flags & 0x40 == 0 { ALL_NODES } else { A6 }), 255, (136, 0), &body)
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr, with_mac: bool) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(target.octets());
    if with_mac {
        body.extend([1, 1]);
        body.extend(MAC_B);
    }
    icmp6((source, SOLICITED_A), 255, (135, 0), &body)
}

/// A stack with a global address and a default router, both in use.
fn routed() -> Scripted {
    let mut peer = ready();
    let option = prefix(NET, 0xc0, 86_400, 14_400);
    peer.frame(&advertisement(B6, 0, 1800, &[&option]));
    peer.advance(Duration::from_secs(3));
    peer.queue.take();
    peer.ready();
    peer
}

fn address(peer: &Scripted, wanted: Ipv6Addr) -> Option<netd_stack::AddressInfo> {
    peer.stack.addresses().find(|info| info.address == IpAddr::V6(wanted))
}

#[test]
fn start_probes_the_link_local_address_and_then_asks_for_routers() {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_millis(1001));
    assert_eq!(address(&peer, A6).unwrap().status, AddressStatus::Tentative);
    let frames = peer.queue.take();
    let (to, probe) = icmp6_messages(&frames, 135).pop().unwrap();
    assert_eq!((to, &probe[8..24], probe.len()), (SOLICITED_A, &A6.octets()[..], 24));
    let reports = icmp6_messages(&frames, 143);
    assert!(reports.iter().all(|(_, report)| report[12..28] == SOLICITED_A.octets()) && !reports.is_empty());
    peer.advance(Duration::from_secs(2));
    let info = address(&peer, A6).unwrap();
    assert_eq!((info.status, info.origin), (AddressStatus::Preferred, AddressOrigin::LinkLocal));
    assert_eq!(icmp6_messages(&peer.queue.take(), 133).len(), 1);
    assert!(peer.ready().contains(&Ready::Addresses));
    // Nobody answers: ever more seldom.
    peer.advance(Duration::from_secs(600));
    assert!((5..=9).contains(&icmp6_messages(&peer.queue.take(), 133).len()));
}

#[test]
fn address_that_somebody_has_is_not_used() {
    for frame in [neighbor_advertisement(B6, A6, 0x20, MAC_B), solicitation(Ipv6Addr::UNSPECIFIED, A6, false)]
    {
        let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
        peer.frame(&frame);
        peer.advance(Duration::from_secs(10));
        assert_eq!(address(&peer, A6).unwrap().status, AddressStatus::Duplicated);
        assert_eq!(icmp6_messages(&peer.queue.take(), 133).len(), 0, "IPv6 goes on without an address");
        assert_eq!(peer.stack.counters().nd_duplicates, 1);
    }
}

#[test]
fn address_made_with_a_secret_is_replaced_when_somebody_has_it() {
    let options = Options { address_secret: Some([7; 16]), ..with_ipv6() };
    let mut peer = Scripted::with_options(config(MAC_A, A), options);
    let link_local = |peer: &Scripted| {
        let mut all = peer.stack.addresses().filter(|info| info.origin == AddressOrigin::LinkLocal);
        all.next().unwrap()
    };
    let IpAddr::V6(first) = link_local(&peer).address else { panic!("not IPv6") };
    assert_ne!(first, A6);
    peer.frame(&neighbor_advertisement(B6, first, 0x20, MAC_B));
    peer.advance(Duration::from_secs(3));
    let info = link_local(&peer);
    assert_eq!(info.status, AddressStatus::Preferred);
    assert_ne!(info.address, IpAddr::V6(first));
}

#[test]
fn solicitation_is_answered_with_the_right_flags_and_only_from_the_link() {
    let mut peer = ready();
    peer.frame(&solicitation(B6, A6, true));
    let frames = peer.queue.take();
    let (to, answer) = icmp6_messages(&frames, 136).pop().unwrap();
    assert_eq!((to, answer[4], &answer[8..24]), (B6, 0x60, &A6.octets()[..]));
    assert_eq!((&answer[24..], &frames[0][..6]), (&[2, 1, 2, 0, 0, 0, 0, 1][..], &MAC_B[..]));
    // Somebody probes our address.
    peer.frame(&solicitation(Ipv6Addr::UNSPECIFIED, A6, false));
    let (to, answer) = icmp6_messages(&peer.queue.take(), 136).pop().unwrap();
    assert_eq!((to, answer[4]), (ALL_NODES, 0x20));
    let mut routed = solicitation(B6, A6, true);
    routed[14 + 7] = 254;
    peer.frame(&routed);
    assert_eq!((peer.queue.take().len(), peer.stack.counters().drop_nd_malformed), (0, 1));
}

#[test]
fn advertisement_configures_address_routes_mtu_and_resolvers() {
    let mut peer = ready();
    let option = prefix(NET, 0xc0, 86_400, 14_400);
    let rdnss = [&[25, 3, 0, 0, 0, 0, 3, 0][..], &FAR.octets()].concat();
    let dnssl = [&[31, 3, 0, 0, 0, 0, 3, 0][..], b"\x03lab\x07example\0\0\0\0"].concat();
    let route = [&[24, 2, 48, 0, 0, 0, 3, 0][..], &[0x20, 1, 0x0d, 0xb8, 0, 7, 0, 0]].concat();
    peer.frame(&advertisement(B6, 0x40, 1800, &[&option, MTU_1400, &rdnss, &dnssl, &route]));
    assert_eq!(address(&peer, GLOBAL).unwrap().status, AddressStatus::Tentative);
    assert!(peer.ready().contains(&Ready::Addresses));
    peer.advance(Duration::from_secs(3));
    let info = address(&peer, GLOBAL).unwrap();
    assert_eq!(
        (info.status, info.origin, info.prefix_len),
        (AddressStatus::Preferred, AddressOrigin::Slaac, 64)
    );
    assert!(info.valid_until > info.preferred_until);
    let routes: Vec<String> = peer
        .stack
        .routes()
        .filter(|route| route.destination.is_ipv6())
        .map(|route| format!("{}/{} {:?}", route.destination, route.prefix_len, route.via))
        .collect();
    let via = format!("Some({B6})");
    for wanted in [
        "fe80::/64 None".to_owned(),
        "2001:db8:1::/64 None".to_owned(),
        format!("2001:db8:7::/48 {via}"),
        format!("::/0 {via}"),
    ] {
        assert!(routes.contains(&wanted), "{wanted} is not among {routes:?}");
    }
    assert_eq!(peer.stack.name_servers(), [IpAddr::V6(FAR)]);
    assert_eq!(peer.stack.search_domains(), ["lab.example"]);
    assert_eq!(peer.stack.dhcpv6_flags(), (false, true));
    // Everything has its time.
    peer.advance(Duration::from_secs(800));
    assert!(peer.stack.name_servers().is_empty() && peer.stack.search_domains().is_empty());
    peer.advance(Duration::from_secs(14_000));
    assert_eq!(address(&peer, GLOBAL).unwrap().status, AddressStatus::Deprecated);
    peer.advance(Duration::from_secs(80_000));
    assert_eq!(address(&peer, GLOBAL), None);
}

#[test]
fn advertisement_mtu_bounds_the_segment_size_and_the_router_gets_the_packet() {
    let mut peer = ready();
    let option = prefix(NET, 0xc0, 86_400, 14_400);
    peer.frame(&advertisement(B6, 0, 1800, &[&option, MTU_1400]));
    peer.advance(Duration::from_secs(3));
    peer.queue.take();
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((FAR, 80))).unwrap();
    peer.poll();
    let (_, asked) = icmp6_messages(&peer.queue.take(), 135).pop().unwrap();
    assert_eq!(asked[8..24], B6.octets());
    peer.frame(&neighbor_advertisement(B6, B6, 0xe0, MAC_B));
    let (mac, packet) = ip6_packets(&peer.queue.take()).pop().unwrap();
    let header = Ipv6Packet::new_checked(&packet[..]).unwrap();
    assert_eq!((mac, header.src_addr(), header.dst_addr()), (MAC_B, GLOBAL, FAR));
    let tcp = TcpPacket::new_checked(header.payload()).unwrap();
    assert!(tcp.verify_checksum(&GLOBAL.into(), &FAR.into()));
    let mss = tcp.options().windows(4).find(|option| option[..2] == [2, 4]).unwrap();
    assert_eq!(u16::from_be_bytes([mss[2], mss[3]]), 1340);
    assert!(!peer.stack.tcp_status(flow).unwrap().established);
}

#[test]
fn advertisement_forged_or_from_afar_is_ignored() {
    let mut peer = ready();
    let option = prefix(NET, 0xc0, 86_400, 14_400);
    let mut routed = advertisement(B6, 0, 1800, &[&option]);
    routed[14 + 7] = 64;
    peer.frame(&routed);
    peer.frame(&advertisement(FAR, 0, 1800, &[&option]));
    let mut corrupt = advertisement(B6, 0, 1800, &[&option]);
    *corrupt.last_mut().unwrap() ^= 1;
    peer.frame(&corrupt);
    // A prefix length beyond an address, for which smoltcp panics.
    let mut long = option.clone();
    long[2] = 200;
    peer.frame(&advertisement(B6, 0, 0, &[&long]));
    assert_eq!(peer.stack.addresses().filter(|info| info.address.is_ipv6()).count(), 1);
    let counters = peer.stack.counters();
    assert_eq!((counters.drop_nd_malformed, counters.drop_icmp_malformed), (2, 1));
}

#[test]
fn router_preferred_is_taken_and_a_dead_one_left() {
    let mut peer = routed();
    let better = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
    peer.frame(&advertisement(better, 0x08, 1800, &[]));
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    let ask = |peer: &mut Scripted| {
        peer.stack.udp_send(peer.now, socket, (FAR, 9).into(), None, b"x", &mut peer.queue).unwrap();
        icmp6_messages(&peer.queue.take(), 135).pop().map(|(_, message)| message[8..24].to_vec())
    };
    assert_eq!(ask(&mut peer), Some(better.octets().to_vec()));
    peer.advance(Duration::from_millis(1500));
    peer.queue.take();
    assert_eq!(ask(&mut peer), Some(B6.octets().to_vec()));
    // The preferred one says that it is leaving.
    peer.frame(&advertisement(better, 0, 0, &[]));
    assert_eq!(peer.stack.routes().filter(|route| route.via == Some(better.into())).count(), 0);
}

#[test]
fn neighbor_is_probed_after_a_delay_and_forgotten_if_silent() {
    let mut peer = ready();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    let send = |peer: &mut Scripted| {
        peer.stack.udp_send(peer.now, socket, (B6, 9).into(), None, b"x", &mut peer.queue).unwrap();
        peer.queue.take()
    };
    let asked = icmp6_messages(&send(&mut peer), 135);
    assert_eq!(asked[0].0, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2));
    peer.frame(&neighbor_advertisement(B6, B6, 0x60, MAC_B));
    assert_eq!(ip6_packets(&peer.queue.take()).len(), 1, "what waited did not leave");
    let state = |peer: &Scripted| peer.stack.neighbors().next().map(|neighbor| neighbor.state);
    assert_eq!(state(&peer), Some("reachable"));
    peer.advance(Duration::from_secs(31));
    assert!(icmp6_messages(&send(&mut peer), 135).is_empty());
    assert_eq!(state(&peer), Some("delay"));
    peer.advance(Duration::from_millis(5500));
    let probe = icmp6_messages(&peer.queue.take(), 135);
    assert_eq!((probe.len(), probe[0].0, state(&peer)), (1, B6, Some("probing")));
    peer.advance(Duration::from_secs(4));
    assert_eq!(state(&peer), None);
}

#[test]
fn neighbor_claims_obey_the_override_and_solicited_flags() {
    let mut peer = ready();
    let (socket, _) = peer.stack.udp_bind(None).unwrap();
    let other = [2, 0, 0, 0, 0, 9];
    peer.frame(&neighbor_advertisement(B6, B6, 0x60, MAC_B));
    assert_eq!(peer.stack.neighbors().count(), 0, "an advertisement made an entry");
    peer.stack.udp_send(peer.now, socket, (B6, 9).into(), None, b"x", &mut peer.queue).unwrap();
    peer.frame(&neighbor_advertisement(B6, B6, 0x60, MAC_B));
    let known =
        |peer: &Scripted| peer.stack.neighbors().next().map(|entry| (entry.mac.unwrap(), entry.state));
    peer.frame(&neighbor_advertisement(B6, B6, 0x00, other));
    assert_eq!(known(&peer), Some((MAC_B, "stale")), "no override: what is known stays, in doubt");
    peer.frame(&neighbor_advertisement(B6, B6, 0x20, other));
    assert_eq!(known(&peer), Some((other, "stale")));
    peer.frame(&neighbor_advertisement(B6, B6, 0x60, MAC_B));
    assert_eq!(known(&peer), Some((MAC_B, "reachable")));
}

#[test]
fn ping_datagrams_and_errors_travel_over_ipv6() {
    let mut wire = wire();
    let now = wire.now;
    let ping = wire.stacks[0].ping(now, B6.into(), 2000, SECOND, &mut wire.queues[0]).unwrap();
    let (client, _) = wire.stacks[0].udp_bind(None).unwrap();
    let (server, _) = wire.stacks[1].udp_bind(Some(53)).unwrap();
    wire.stacks[0].udp_send(now, client, (B6, 53).into(), Some(9), b"question", &mut wire.queues[0]).unwrap();
    wire.stacks[0].udp_send(now, client, (B6, 54).into(), None, b"nobody", &mut wire.queues[0]).unwrap();
    wire.run_for(Duration::from_millis(10));
    let reply = wire.stacks[0].ping_result(ping).unwrap().unwrap();
    assert_eq!((reply.bytes, reply.from), (2000, IpAddr::V6(B6)));
    let mut received = Vec::new();
    let take = |meta: netd_stack::UdpMeta, payload: &[u8]| {
        received.push((meta.from.ip(), meta.ttl, payload.to_vec()));
        true
    };
    wire.stacks[1].udp_receive(server, take).unwrap();
    assert_eq!(received, [(IpAddr::V6(A6), 9, b"question".to_vec())]);
    let error = wire.stacks[0].udp_error_detail(client).unwrap();
    assert_eq!((error.to, error.error), ((B6, 54).into(), IcmpError::PortUnreachable));
    assert_eq!(error.offender, IpAddr::V6(B6));
}

#[test]
fn tcp_over_ipv6_carries_a_stream_both_ways_over_a_bad_wire() {
    for seed in 0..8 {
        let mut wire = wire();
        wire.impairment = Impairment { loss: 3, duplicate: 2, reorder: 10 };
        let (listener, _) = wire.stacks[1].tcp_listen(Some(80), 8).unwrap();
        let now = wire.now;
        let client = wire.stacks[0].tcp_connect(now, SocketAddr::from((B6, 80))).unwrap();
        let mut server = None;
        wire.run_until(Duration::from_secs(100), |wire| {
            server = server.or(wire.stacks[1].tcp_accept(listener).unwrap());
            server.is_some()
        });
        let flows = [client, server.unwrap()];
        let text: Vec<u8> = (0..40_000u32).map(|index| (index.wrapping_mul(31 + seed) >> 3) as u8).collect();
        let (mut written, mut received) = ([0; 2], [Vec::new(), Vec::new()]);
        wire.run_until(Duration::from_secs(3600), |wire| {
            for side in 0..2 {
                let stack = &mut wire.stacks[side];
                written[side] += write(stack, flows[side], &text[written[side]..]);
                if written[side] == text.len() {
                    stack.tcp_finish(flows[side]).unwrap();
                }
                read(stack, flows[side], &mut received[side]);
            }
            (0..2).all(|side| {
                let status = wire.stacks[side].tcp_status(flows[side]).unwrap();
                status.receive_finished && status.closed == Some(Outcome::Finished)
            })
        });
        assert!(received.iter().all(|received| *received == text), "seed {seed}: octets differ");
        assert!(wire.stacks[0].tcp_status(client).unwrap().local.is_ipv6());
    }
}

#[test]
fn connect_to_own_ipv6_listener_works_without_a_frame() {
    let mut peer = routed();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    let client = peer.stack.tcp_connect(peer.now, SocketAddr::from((GLOBAL, 80))).unwrap();
    peer.poll();
    assert!(peer.stack.tcp_accept(listener).unwrap().is_some());
    assert!(peer.stack.tcp_status(client).unwrap().established);
    assert!(peer.queue.take().is_empty());
}

#[test]
fn address_expired_ends_its_flows() {
    let mut peer = ready();
    let option = prefix(NET, 0xc0, 10_000, 10_000);
    peer.frame(&advertisement(B6, 0, 9000, &[&option]));
    peer.advance(Duration::from_secs(3));
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((FAR, 80))).unwrap();
    peer.stack.tcp_set_keepalive(flow, None).unwrap();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().local.ip(), IpAddr::V6(GLOBAL));
    peer.queue.room = 0;
    peer.advance(Duration::from_secs(10_001));
    assert!(peer.stack.tcp_status(flow).unwrap().closed.is_some());
    assert_eq!(address(&peer, GLOBAL), None);
}

#[test]
fn static_addresses_are_used_and_routers_not_listened_to() {
    let fixed =
        Static6 { addresses: vec!["2001:db8:5::7/64".parse().unwrap()], gateway: Some(B6), dns: vec![FAR] };
    let options = Options { ipv6: Ipv6Addressing::Static(fixed), ..with_ipv6() };
    let mut peer = Scripted::with_options(config(MAC_A, A), options);
    peer.frame(&advertisement(B6, 0, 1800, &[&prefix(NET, 0xc0, 86_400, 14_400)]));
    peer.advance(Duration::from_secs(3));
    let frames = peer.queue.take();
    assert_eq!(icmp6_messages(&frames, 133).len(), 0);
    assert_eq!((icmp6_messages(&frames, 135).len(), address(&peer, GLOBAL)), (2, None));
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((FAR, 80))).unwrap();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().local.ip().to_string(), "2001:db8:5::7");
    assert_eq!(peer.stack.name_servers(), [IpAddr::V6(FAR)]);
}

#[test]
fn off_means_silence_and_a_refusal_by_name() {
    let mut peer = Scripted::new();
    peer.advance(Duration::from_secs(10));
    peer.frame(&solicitation(B6, A6, true));
    assert!(peer.queue.take().is_empty());
    let to = SocketAddr::from((FAR, 80));
    assert_eq!(peer.stack.tcp_connect(peer.now, to), Err(Error::Unreachable { to }));
}

#[test]
fn query_is_answered_for_every_group() {
    let mut peer = ready();
    let (socket, _) = peer.stack.udp_bind(Some(5353)).unwrap();
    let mdns = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    peer.stack.udp_join(peer.now, socket, mdns.into()).unwrap();
    peer.advance(Duration::from_secs(5));
    let joins = icmp6_messages(&peer.queue.take(), 143);
    assert_eq!(joins.len(), 2);
    assert!(joins.iter().all(|(_, report)| report[8] == 4 && report[12..28] == mdns.octets()));
    let mut query = vec![0x03, 0xe8, 0, 0];
    query.extend([0; 20]);
    peer.frame(&icmp6((B6, ALL_NODES), 1, (130, 0), &query));
    peer.advance(Duration::from_secs(2));
    let mut groups: Vec<u8> =
        icmp6_messages(&peer.queue.take(), 143).iter().map(|(_, report)| report[27]).collect();
    groups.sort_unstable();
    assert_eq!(groups, [0x01, 0xfb]);
    peer.stack.udp_close(socket);
    peer.advance(Duration::from_secs(5));
    let leaves = icmp6_messages(&peer.queue.take(), 143);
    assert!(leaves.len() == 2 && leaves.iter().all(|(_, report)| report[8] == 3));
}

fn template(kind: usize) -> Vec<u8> {
    let option = prefix(NET, 0xc0, 86_400, 14_400);
    let mut query = vec![0x03, 0xe8, 0, 0];
    query.extend([0; 24]);
    let quoted = ip6((A6, B6), (IpProtocol::Udp, 64), &[0, 9, 0, 7, 0, 8, 0, 0])[14..].to_vec();
    match kind {
        0 => solicitation(B6, A6, true),
        1 => neighbor_advertisement(B6, B6, 0x60, MAC_B),
        2 => advertisement(B6, 0, 1800, &[&option, MTU_1400]),
        3 => icmp6((B6, ALL_NODES), 1, (130, 0), &query),
        4 => icmp6((B6, A6), 64, (128, 0), b"\x01\x02\x03\x04ping"),
        5 => icmp6((B6, A6), 64, (1, 4), &[&[0; 4][..], &quoted].concat()),
        6 => icmp6((B6, A6), 64, (2, 0), &[&[0, 0, 5, 0][..], &quoted].concat()),
        7 => ip6((B6, A6), (IpProtocol::Ipv6Frag, 64), b"\x11\x00\x00\x01\x01\x02\x03\x0412345678"),
        8 => ip6(
            (B6, A6),
            (IpProtocol::HopByHop, 64),
            b"\x3c\x00\x05\x02\x00\x00\x01\x00\x11\x00\x01\x04\x00\x00\x00\x00datagram",
        ),
        _ => ip6((B6, A6), (IpProtocol::Udp, 64), &[0, 7, 0, 9, 0, 8, 0, 0]),
    }
}

fn mend(frame: &mut [u8]) {
    let Ok(mut packet) = Ipv6Packet::new_checked(frame.get_mut(14..).unwrap_or_default()) else { return };
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if packet.next_header() == IpProtocol::Icmpv6 && packet.payload_mut().len() >= 4 {
        let mut message = smoltcp::wire::Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.fill_checksum(&source, &destination);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_ipv6_frames_are_survived(
        frames in prop::collection::vec(
            (0..10usize, prop::collection::vec((0..110usize, any::<u8>()), 0..4), 0..100usize),
            1..64,
        ),
    ) {
        let mut peer = ready();
        peer.stack.udp_bind(Some(9)).unwrap();
        peer.stack.tcp_listen(Some(80), 8).unwrap();
        for (kind, mutations, cut) in frames {
            let mut frame = template(kind);
            for (at, value) in mutations {
                if let Some(byte) = frame.get_mut(at + 14) {
                    *byte = value;
                }
            }
            if cut < 10 {
                frame.truncate(frame.len().saturating_sub(cut));
            }
            mend(&mut frame);
            peer.frame(&frame);
            peer.advance(Duration::from_millis(200));
        }
        prop_assert!(peer.stack.addresses().count() < 20);
    }
}
