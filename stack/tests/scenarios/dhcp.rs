//! The DHCP client against a scripted server.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{
    AddressState, Addressing, Config, ConflictDetection, Error, Lease, LeaseHint, Options, Outcome, Ready,
    Route, Static,
};
use smoltcp::wire::{
    ArpOperation, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol, TcpControl,
};

use crate::support::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 7);
const EVERYWHERE: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const MINUTE: Duration = Duration::from_secs(60);

fn dhcp_config(fallback: Option<Static>) -> Config {
    let mut config = config(MAC_A, A);
    config.addressing = Addressing::Dhcp { fallback, timeout: Duration::from_secs(10) };
    config.hostname = Some("netd-test".to_owned());
    config
}

/// What the client said, as far as a server looks at it.
#[derive(Debug)]
struct Said {
    message_type: DhcpMessageType,
    transaction: u32,
    client: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    parameters: Vec<u8>,
    hostname: Vec<u8>,
    destination: Ipv4Addr,
    mac: [u8; 6],
}

fn said(peer: &mut Scripted) -> Vec<Said> {
    let packets = ip_packets(&peer.queue.take(), IpProtocol::Udp);
    let read = |(mac, packet): ([u8; 6], Vec<u8>)| {
        let message = DhcpPacket::new_checked(&packet[28..]).unwrap();
        let repr = DhcpRepr::parse(&message).unwrap();
        let hostname = message.options().find(|option| option.kind == 12);
        Said {
            message_type: repr.message_type,
            transaction: repr.transaction_id,
            client: repr.client_ip,
            requested: repr.requested_ip,
            server: repr.server_identifier,
            parameters: repr.parameter_request_list.unwrap_or_default().to_vec(),
            hostname: hostname.map(|option| option.data.to_vec()).unwrap_or_default(),
            destination: Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]),
            mac,
        }
    };
    packets.into_iter().map(read).collect()
}

/// A server's message; `lease` are options beyond type and server.
fn reply(message_type: DhcpMessageType, transaction: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
    let options: Vec<_> = options.iter().map(|&(kind, data)| DhcpOption { kind, data }).collect();
    let repr = DhcpRepr {
        message_type,
        transaction_id: transaction,
        secs: 0,
        client_hardware_address: EthernetAddress(MAC_A),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: ADDRESS,
        server_ip: SERVER,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    let mut message = vec![0; 576];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).unwrap();
    udp_between((SERVER, 67), (ADDRESS, 68), &message)
}

const LEASE_DAY: (u8, &[u8]) = (51, &[0, 1, 0x51, 0x80]);

/// The ACK that was captured on GCE.
fn gce() -> Vec<(u8, &'static [u8])> {
    vec![
        (1, &[255, 255, 255, 255]),
        (3, &[10, 128, 0, 1]),
        (6, &[169, 254, 169, 254]),
        (12, b"vm.c.project.internal"),
        (15, b"c.project.internal"),
        (26, &[0x05, 0xb4]),
        (42, &[169, 254, 169, 254]),
        LEASE_DAY,
        (119, b"\x01c\x07project\x08internal\x00"),
        (121, &[32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1]),
    ]
}

fn bind(peer: &mut Scripted, options: &[(u8, &[u8])]) {
    peer.poll();
    let discover = said(peer).pop().unwrap();
    assert_eq!((discover.message_type, discover.mac), (DhcpMessageType::Discover, [0xff; 6]));
    peer.frame(&reply(DhcpMessageType::Offer, discover.transaction, options));
    let request = said(peer).pop().unwrap();
    assert_eq!(request.message_type, DhcpMessageType::Request);
    assert_eq!((request.requested, request.server), (Some(ADDRESS), Some(SERVER)));
    peer.frame(&reply(DhcpMessageType::Ack, request.transaction, options));
}

fn lease(peer: &Scripted) -> Lease {
    match peer.stack.lease() {
        AddressState::Bound(lease) => lease,
        other => panic!("no lease: {other:?}"),
    }
}

/// A packet to far away leaves through the gateway, whose ARP reply is believed although it is outside the prefix.
fn assert_gateway_works(peer: &mut Scripted) {
    let ping = peer.stack.ping(peer.now, EVERYWHERE.into(), 8, MINUTE, &mut peer.queue).unwrap();
    let request = peer.queue.take();
    assert_eq!(parse_arp(&request[0]), Some((ArpOperation::Request, ADDRESS, GATEWAY)));
    peer.frame(&arp(ArpOperation::Reply, (MAC_B, GATEWAY), (MAC_A, ADDRESS), MAC_A));
    let sent = ip_packets(&peer.queue.take(), IpProtocol::Icmp);
    assert_eq!((sent.len(), sent[0].0, &sent[0].1[16..20]), (1, MAC_B, &[8, 8, 8, 8][..]));
    peer.stack.ping_cancel(ping);
}

#[test]
fn gce_lease_is_bound_and_its_on_link_gateway_is_used() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &gce());
    let lease = lease(&peer);
    assert_eq!(lease.cidr.to_string(), "10.128.0.7/32");
    assert_eq!((lease.gateway, lease.on_link_gateway, lease.mtu), (Some(GATEWAY), true, Some(1460)));
    assert_eq!((lease.dns.as_slice(), lease.ntp.as_slice()), (&[SERVER][..], &[SERVER][..]));
    assert_eq!(lease.domain.as_deref(), Some("c.project.internal"));
    assert_eq!(
        (lease.search.as_slice(), lease.lease_seconds),
        (&["c.project.internal".to_owned()][..], 86_400)
    );
    assert_eq!(lease.routes[0], Route { destination: "10.128.0.1/32".parse().unwrap(), via: None });
    assert_eq!(peer.stack.mtu(), 1460);
    assert!(peer.ready().contains(&Ready::Lease));
    assert_gateway_works(&mut peer);
}

#[test]
fn gce_lease_mtu_bounds_the_segment_size() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &gce());
    assert_gateway_works(&mut peer);
    let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((EVERYWHERE, 80))).unwrap();
    peer.poll();
    let (_, syn) = ip_packets(&peer.queue.take(), IpProtocol::Tcp).pop().unwrap();
    let mss = syn[40..].windows(4).find(|option| option[..2] == [2, 4]).unwrap();
    assert_eq!(u16::from_be_bytes([mss[2], mss[3]]), 1420);
    assert!(!peer.stack.tcp_status(flow).unwrap().established);
}

#[test]
fn host_lease_with_router_only_uses_it_on_link() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &[(1, &[255, 255, 255, 255]), (3, &[10, 128, 0, 1]), LEASE_DAY]);
    assert!(lease(&peer).on_link_gateway);
    assert_gateway_works(&mut peer);
}

#[test]
fn plain_lease_is_bound() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &[(1, &[255, 255, 255, 0]), (3, &[10, 128, 0, 1]), LEASE_DAY]);
    let lease = lease(&peer);
    assert_eq!((lease.cidr.to_string().as_str(), lease.on_link_gateway), ("10.128.0.7/24", false));
    assert_eq!(peer.stack.mtu(), 1500);
    assert_gateway_works(&mut peer);
}

#[test]
fn discover_asks_for_what_clouds_send() {
    let mut peer = Scripted::with(dhcp_config(None));
    peer.poll();
    let discover = said(&mut peer).pop().unwrap();
    for code in [1, 3, 6, 15, 26, 42, 51, 54, 58, 59, 119, 121] {
        assert!(discover.parameters.contains(&code), "option {code} is not asked for");
    }
    assert_eq!(discover.hostname, b"netd-test");
}

#[test]
fn server_silent_discover_backs_off() {
    let mut peer = Scripted::with(dhcp_config(None));
    peer.advance(Duration::from_secs(300));
    let discovers = said(&mut peer);
    assert!((6..=11).contains(&discovers.len()), "{} in five minutes", discovers.len());
}

#[test]
fn forged_messages_are_ignored() {
    let mut peer = Scripted::with(dhcp_config(None));
    peer.poll();
    let transaction = said(&mut peer).pop().unwrap().transaction;
    peer.frame(&reply(DhcpMessageType::Offer, transaction ^ 1, &gce()));
    peer.frame(&reply(DhcpMessageType::Ack, transaction, &gce()));
    assert!(said(&mut peer).is_empty());
    assert_eq!(peer.stack.counters().drop_dhcp_unexpected, 2);
    assert_eq!(peer.stack.lease(), AddressState::Searching);
}

#[test]
fn refused_request_starts_over() {
    let mut peer = Scripted::with(dhcp_config(None));
    peer.poll();
    let discover = said(&mut peer).pop().unwrap();
    peer.frame(&reply(DhcpMessageType::Offer, discover.transaction, &gce()));
    let request = said(&mut peer).pop().unwrap();
    peer.frame(&reply(DhcpMessageType::Nak, request.transaction, &[]));
    peer.advance(Duration::from_secs(5));
    let again = said(&mut peer).pop().unwrap();
    assert_eq!(again.message_type, DhcpMessageType::Discover);
    assert_ne!(again.transaction, discover.transaction);
}

#[test]
fn lease_is_renewed_at_half_time_by_unicast() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &gce());
    assert_gateway_works(&mut peer);
    let first = lease(&peer);
    peer.advance(Duration::from_secs(43_205));
    // The gateway is probed again after so long.
    peer.frame(&arp(ArpOperation::Reply, (MAC_B, GATEWAY), (MAC_A, ADDRESS), MAC_A));
    let renew = said(&mut peer).pop().unwrap();
    assert_eq!((renew.message_type, renew.client), (DhcpMessageType::Request, ADDRESS));
    assert_eq!((renew.destination, renew.requested, renew.server), (SERVER, None, None));
    peer.frame(&reply(DhcpMessageType::Ack, renew.transaction, &gce()));
    assert!(lease(&peer).expires_at > first.expires_at);
}

#[test]
fn lease_expired_takes_the_address_and_keeps_the_sockets() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &[(1, &[255, 255, 255, 0]), (51, &[0, 0, 0, 100])]);
    let (udp, _) = peer.stack.udp_bind(Some(9)).unwrap();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 1).unwrap();
    peer.ready();
    peer.advance(Duration::from_secs(99));
    assert!(matches!(peer.stack.lease(), AddressState::Bound(_)));
    let messages = said(&mut peer);
    assert!(messages.iter().any(|said| said.mac == [0xff; 6] && said.client == ADDRESS), "never rebinding");
    peer.advance(Duration::from_secs(2));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    assert!(peer.ready().contains(&Ready::Lease));
    let remote = SocketAddr::from((GATEWAY, 80));
    assert_eq!(peer.stack.tcp_connect(peer.now, remote), Err(Error::Unreachable { to: remote }));
    assert_eq!(peer.stack.udp_receive(udp, |_, _| true), Ok(false));
    assert_eq!(peer.stack.tcp_accept(listener), Ok(None));
    assert!(said(&mut peer).iter().any(|said| said.message_type == DhcpMessageType::Discover));
}

#[test]
fn address_changed_ends_the_flows_of_the_old_one() {
    let fallback = Static { cidr: "10.0.0.1/24".parse().unwrap(), gateway: None, mtu: None, dns: Vec::new() };
    let mut peer = Scripted::with(dhcp_config(Some(fallback.clone())));
    peer.advance(Duration::from_secs(9));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    peer.advance(Duration::from_secs(2));
    assert_eq!(peer.stack.lease(), AddressState::Fallback(fallback));
    peer.queue.take();
    let (flow, _, _) = peer.connecting(80);
    // The search goes on, and a server that turns up late wins.
    peer.advance(Duration::from_secs(30));
    let messages = ip_packets(&peer.queue.frames, IpProtocol::Udp);
    assert!(!messages.is_empty());
    let discover = said(&mut peer).into_iter().rfind(|said| said.message_type == DhcpMessageType::Discover);
    peer.frame(&reply(DhcpMessageType::Offer, discover.unwrap().transaction, &gce()));
    let request = said(&mut peer).pop().unwrap();
    peer.frame(&reply(DhcpMessageType::Ack, request.transaction, &gce()));
    assert!(matches!(peer.stack.lease(), AddressState::Bound(_)));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::Unreachable));
}

#[test]
fn no_address_no_answer() {
    let mut peer = Scripted::with(dhcp_config(None));
    peer.poll();
    peer.queue.take();
    let (_listener, local) = peer.stack.tcp_listen(Some(80), 1).unwrap();
    assert_eq!(local.to_string(), "0.0.0.0:80");
    peer.segment((4000, 80), TcpControl::Syn, 1, None, &[]);
    peer.frame(&arp(ArpOperation::Request, (MAC_B, B), ([0; 6], A), [0xff; 6]));
    assert!(peer.queue.take().is_empty());
}

#[test]
fn unusable_grants_are_refused() {
    for bad in [(1, &[255, 0, 255, 0][..]), (51, &[0, 1][..])] {
        let mut peer = Scripted::with(dhcp_config(None));
        let mut options = vec![(1, &[255, 255, 255, 0][..]), LEASE_DAY];
        options.retain(|option| option.0 != bad.0);
        options.push(bad);
        bind(&mut peer, &options);
        assert_eq!(
            (peer.stack.lease(), peer.stack.counters().drop_dhcp_malformed),
            (AddressState::Searching, 1)
        );
    }
}

/// A client that asks for the address of an earlier run.
fn rebooting() -> Scripted {
    let options = Options { lease: Some(LeaseHint { address: ADDRESS, lease: None }), ..quiet() };
    let mut peer = Scripted::with_options(dhcp_config(None), options);
    peer.poll();
    peer
}

#[test]
fn earlier_lease_is_asked_for_at_once_and_confirmed() {
    let mut peer = rebooting();
    let request = said(&mut peer).pop().unwrap();
    // RFC 2131, table 5, INIT-REBOOT: the address, and neither a server nor `ciaddr`.
    assert_eq!((request.message_type, request.requested), (DhcpMessageType::Request, Some(ADDRESS)));
    assert_eq!((request.server, request.client), (None, Ipv4Addr::UNSPECIFIED));
    peer.frame(&reply(DhcpMessageType::Ack, request.transaction, &gce()));
    assert_eq!(lease(&peer).cidr.address(), ADDRESS);
}

#[test]
fn earlier_lease_refused_starts_over_at_once() {
    let mut peer = rebooting();
    let request = said(&mut peer).pop().unwrap();
    peer.frame(&reply(DhcpMessageType::Nak, request.transaction, &[]));
    let discover = said(&mut peer).pop().unwrap();
    assert_eq!((discover.message_type, discover.requested), (DhcpMessageType::Discover, None));
}

#[test]
fn earlier_lease_nobody_answers_starts_over() {
    let mut peer = rebooting();
    peer.advance(Duration::from_secs(15));
    let types: Vec<_> = said(&mut peer).into_iter().map(|said| said.message_type).collect();
    assert_eq!(types[..2], [DhcpMessageType::Request; 2]);
    assert!(types[2..].iter().all(|&kind| kind == DhcpMessageType::Discover) && types.len() > 2, "{types:?}");
}

/// The lease of an earlier run, with what is left of it.
fn known_lease(seconds_left: u64) -> LeaseHint {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &gce());
    let mut lease = lease(&peer);
    let now = Scripted::with(dhcp_config(None)).now;
    lease.renew_at = now;
    lease.rebind_at = now + Duration::from_secs(seconds_left / 2);
    lease.expires_at = now + Duration::from_secs(seconds_left);
    LeaseHint { address: ADDRESS, lease: Some(Box::new(lease)) }
}

#[test]
fn earlier_lease_nobody_answers_is_used_until_it_runs_out() {
    let options = Options { lease: Some(known_lease(600)), ..quiet() };
    let mut peer = Scripted::with_options(dhcp_config(None), options);
    peer.poll();
    assert_eq!(peer.stack.lease(), AddressState::Searching, "used before a server had its say");
    peer.advance(Duration::from_secs(15));
    assert_eq!((lease(&peer).cidr.address(), lease(&peer).gateway), (ADDRESS, Some(GATEWAY)));
    peer.advance(Duration::from_secs(600));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    assert_eq!(said(&mut peer).pop().unwrap().message_type, DhcpMessageType::Discover);
}

#[test]
fn earlier_lease_that_ran_out_is_asked_for_and_not_used() {
    let options = Options { lease: Some(known_lease(1)), ..quiet() };
    let mut peer = Scripted::with_options(dhcp_config(None), options);
    peer.advance(Duration::from_secs(15));
    assert_eq!(said(&mut peer)[0].requested, Some(ADDRESS));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
}

#[test]
fn lease_is_confirmed_when_the_link_comes_back_and_given_up_if_it_is_refused() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &gce());
    said(&mut peer);
    for answer in [DhcpMessageType::Ack, DhcpMessageType::Nak] {
        peer.stack.link_restored(peer.now);
        peer.poll();
        let request = said(&mut peer).pop().unwrap();
        assert_eq!((request.message_type, request.requested), (DhcpMessageType::Request, Some(ADDRESS)));
        assert!(matches!(peer.stack.lease(), AddressState::Bound(_)), "not used meanwhile");
        peer.frame(&reply(answer, request.transaction, &gce()));
        let bound = matches!(peer.stack.lease(), AddressState::Bound(_));
        assert_eq!(bound, answer == DhcpMessageType::Ack);
    }
}

#[test]
fn address_that_somebody_has_is_declined_and_another_asked_for_later() {
    for conflicts in [ConflictDetection::Optimistic, ConflictDetection::Strict] {
        let mut peer = Scripted::with_options(dhcp_config(None), Options { conflicts, ..quiet() });
        bind(&mut peer, &[(1, &[255, 255, 255, 0]), LEASE_DAY]);
        let used = matches!(peer.stack.lease(), AddressState::Bound(_));
        assert_eq!(used, conflicts == ConflictDetection::Optimistic);
        peer.advance(Duration::from_millis(1500));
        peer.queue.take();
        peer.frame(&arp(ArpOperation::Reply, (MAC_B, ADDRESS), (MAC_A, Ipv4Addr::UNSPECIFIED), MAC_A));
        let decline = said(&mut peer).pop().unwrap();
        assert_eq!(decline.message_type, DhcpMessageType::Decline);
        assert_eq!((decline.requested, decline.server), (Some(ADDRESS), Some(SERVER)));
        assert_eq!((decline.client, decline.parameters.len()), (Ipv4Addr::UNSPECIFIED, 0));
        assert_eq!(peer.stack.lease(), AddressState::Searching);
        peer.advance(Duration::from_secs(9));
        assert!(said(&mut peer).is_empty(), "asked again at once");
        peer.advance(Duration::from_secs(2));
        assert_eq!(said(&mut peer).pop().unwrap().message_type, DhcpMessageType::Discover);
    }
}

#[test]
fn lease_of_a_link_nobody_shares_is_not_probed() {
    let options = Options { conflicts: ConflictDetection::Strict, ..quiet() };
    let mut peer = Scripted::with_options(dhcp_config(None), options);
    bind(&mut peer, &gce());
    assert!(matches!(peer.stack.lease(), AddressState::Bound(_)));
}

#[test]
fn lease_lost_falls_back_after_the_same_time() {
    let fallback = Static { cidr: "10.0.0.1/24".parse().unwrap(), gateway: None, mtu: None, dns: Vec::new() };
    let mut peer = Scripted::with(dhcp_config(Some(fallback.clone())));
    bind(&mut peer, &[(1, &[255, 255, 255, 0]), (51, &[0, 0, 0, 100])]);
    peer.advance(Duration::from_secs(105));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    peer.advance(Duration::from_secs(6));
    assert_eq!(peer.stack.lease(), AddressState::Fallback(fallback));
}

#[test]
fn lease_refused_while_rebinding_is_given_up() {
    let mut peer = Scripted::with(dhcp_config(None));
    bind(&mut peer, &[(1, &[255, 255, 255, 0]), (51, &[0, 0, 2, 0x58])]);
    peer.advance(Duration::from_secs(530));
    let request = said(&mut peer).pop().unwrap();
    assert_eq!((request.mac, request.client), ([0xff; 6], ADDRESS), "not rebinding");
    peer.frame(&reply(DhcpMessageType::Nak, request.transaction, &[]));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    assert_eq!(said(&mut peer).pop().unwrap().message_type, DhcpMessageType::Discover);
}
