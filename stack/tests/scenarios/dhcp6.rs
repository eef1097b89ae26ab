//! The DHCPv6 client against a scripted server.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use netd_stack::{AddressInfo, AddressOrigin, AddressStatus};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv6Packet, UdpPacket, UdpRepr};

use crate::support::*;

const A6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const GRANTED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 7);
const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x53);
const CLIENT_ID: [u8; 14] = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const SERVER_ID: [u8; 8] = [0, 2, 0, 4, 0, 2, 9, 9];

/// Managed addresses or other information, as a router says.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

fn told(flags: u8) -> Scripted {
    let mut peer = Scripted::with_options(config(MAC_A, A), with_ipv6());
    peer.advance(Duration::from_secs(3));
    let body = [&[64, flags, 7, 8][..], &[0; 8]].concat();
    peer.frame(&icmp6((B6, ALL_NODES), 255, (134, 0), &body));
    peer.advance(Duration::from_millis(1001));
    peer
}

/// The DHCPv6 messages that were sent: type, transaction, and options.
fn said(peer: &mut Scripted) -> Vec<(u8, [u8; 3], Vec<u8>)> {
    let mut messages = Vec::new();
    for (mac, bytes) in ip6_packets(&peer.queue.take()) {
        let packet = Ipv6Packet::new_checked(&bytes[..]).unwrap();
        if packet.next_header() != IpProtocol::Udp {
            continue;
        }
        let udp = UdpPacket::new_checked(packet.payload()).unwrap();
        assert!(udp.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
        assert_eq!((udp.src_port(), udp.dst_port(), packet.src_addr()), (546, 547, A6));
        assert_eq!((packet.dst_addr().to_string().as_str(), mac), ("ff02::1:2", [0x33, 0x33, 0, 1, 0, 2]));
        let message = udp.payload();
        assert!(contains(message, &CLIENT_ID), "no client identifier");
        messages.push((message[0], [message[1], message[2], message[3]], message[4..].to_vec()));
    }
    messages
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn reply(kind: u8, transaction: [u8; 3], options: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(transaction);
    message.extend(CLIENT_ID);
    message.extend(SERVER_ID);
    message.extend(options.concat());
    let mut bytes = vec![0; 8 + message.len()];
    UdpRepr { src_port: 547, dst_port: 546 }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &B6.into(),
        &A6.into(),
        message.len(),
        |space| space.copy_from_slice(&message),
        &ChecksumCapabilities::default(),
    );
    ip6((B6, A6), (IpProtocol::Udp, 64), &bytes)
}

fn resolvers() -> Vec<u8> {
    let names = b"\x03lab\x07example\0";
    [&[0, 23, 0, 16][..], &DNS.octets(), &[0, 24, 0, names.len() as u8], names].concat()
}

/// An identity association with T1 1000 s, T2 1600 s, preferred 2000 s, valid 3000 s.
fn association() -> Vec<u8> {
    let mut option = vec![0, 3, 0, 40, 0, 0, 0, 1];
    option.extend(1000u32.to_be_bytes());
    option.extend(1600u32.to_be_bytes());
    option.extend([0, 5, 0, 24]);
    option.extend(GRANTED.octets());
    option.extend(2000u32.to_be_bytes());
    option.extend(3000u32.to_be_bytes());
    option
}

fn granted(peer: &Scripted) -> Option<AddressInfo> {
    peer.stack.addresses().find(|info| info.address == IpAddr::V6(GRANTED))
}

fn bound() -> Scripted {
    let mut peer = told(MANAGED);
    let (_, transaction, _) = said(&mut peer).pop().unwrap();
    peer.frame(&reply(2, transaction, &[&association(), &resolvers()]));
    let (_, transaction, _) = said(&mut peer).pop().unwrap();
    peer.frame(&reply(7, transaction, &[&association(), &resolvers()]));
    peer
}

#[test]
fn no_flags_no_message() {
    let mut peer = told(0);
    peer.advance(Duration::from_secs(100));
    assert!(said(&mut peer).is_empty());
}

#[test]
fn other_information_is_asked_for_and_refreshed() {
    let mut peer = told(OTHER);
    let (kind, transaction, options) = said(&mut peer).pop().unwrap();
    assert_eq!(kind, 11);
    assert!(contains(&options, &[0, 6, 0, 6, 0, 23, 0, 24, 0, 32]));
    // Somebody who does not know our transaction is not heard.
    peer.frame(&reply(7, [9, 9, 9], &[&resolvers()]));
    assert!(peer.stack.name_servers().is_empty());
    peer.frame(&reply(7, transaction, &[&resolvers()]));
    assert_eq!(peer.stack.name_servers(), [IpAddr::V6(DNS)]);
    assert_eq!(peer.stack.search_domains(), ["lab.example"]);
    peer.advance(Duration::from_secs(86_300));
    assert!(said(&mut peer).is_empty());
    peer.advance(Duration::from_secs(200));
    assert_eq!(said(&mut peer).first().map(|said| said.0), Some(11));
}

#[test]
fn silence_is_asked_into_with_back_off() {
    let mut peer = told(OTHER);
    peer.advance(Duration::from_secs(600));
    assert!((8..=11).contains(&said(&mut peer).len()));
}

#[test]
fn managed_address_is_requested_checked_and_used() {
    let mut peer = told(MANAGED);
    let (kind, transaction, _) = said(&mut peer).pop().unwrap();
    assert_eq!(kind, 1);
    peer.frame(&reply(2, transaction, &[&association()]));
    let (kind, next, options) = said(&mut peer).pop().unwrap();
    assert_eq!(
        (kind, contains(&options, &SERVER_ID), contains(&options, &GRANTED.octets())),
        (3, true, true)
    );
    assert_ne!(next, transaction);
    peer.frame(&reply(7, next, &[&association(), &resolvers()]));
    assert_eq!(granted(&peer).unwrap().status, AddressStatus::Tentative);
    peer.advance(Duration::from_secs(3));
    let info = granted(&peer).unwrap();
    assert_eq!(
        (info.status, info.origin, info.prefix_len),
        (AddressStatus::Preferred, AddressOrigin::Dhcp, 128)
    );
    assert_eq!(peer.stack.name_servers(), [IpAddr::V6(DNS)]);
}

#[test]
fn lease_is_renewed_then_rebound_then_lost() {
    let mut peer = bound();
    let before = granted(&peer).unwrap().valid_until;
    peer.advance(Duration::from_secs(1001));
    let (kind, transaction, options) = said(&mut peer).pop().unwrap();
    assert_eq!((kind, contains(&options, &SERVER_ID)), (5, true));
    peer.frame(&reply(7, transaction, &[&association()]));
    assert!(granted(&peer).unwrap().valid_until > before);
    peer.advance(Duration::from_secs(1650));
    let (kind, _, options) = said(&mut peer).pop().unwrap();
    assert_eq!((kind, contains(&options, &SERVER_ID)), (6, false));
    peer.advance(Duration::from_secs(1400));
    assert_eq!(granted(&peer), None);
    assert_eq!(said(&mut peer).last().map(|said| said.0), Some(1));
}

#[test]
fn address_that_somebody_has_is_declined() {
    let mut peer = bound();
    peer.queue.take();
    let mut body = vec![0x20, 0, 0, 0];
    body.extend(GRANTED.octets());
    body.extend([2, 1, 2, 0, 0, 0, 0, 2]);
    peer.frame(&icmp6((B6, ALL_NODES), 255, (136, 0), &body));
    let (kind, _, options) = said(&mut peer).pop().unwrap();
    assert_eq!((kind, contains(&options, &GRANTED.octets()), granted(&peer)), (9, true, None));
    peer.advance(Duration::from_secs(2));
    assert_eq!(said(&mut peer).pop().unwrap().0, 1);
}

#[test]
fn refusals_and_nonsense_are_not_grants() {
    for broken in [
        // NoAddrsAvail, a preferred lifetime beyond the valid one, an option beyond the end.
        [&association()[..], &[0, 13, 0, 2, 0, 2]].concat(),
        {
            let mut option = association();
            option[36..40].copy_from_slice(&9000u32.to_be_bytes());
            option
        },
        vec![0, 3, 0, 200, 0, 0, 0, 1],
    ] {
        let mut peer = told(MANAGED);
        let (_, transaction, _) = said(&mut peer).pop().unwrap();
        peer.frame(&reply(2, transaction, &[&broken]));
        assert!(said(&mut peer).is_empty());
        let counters = peer.stack.counters();
        assert_eq!(counters.drop_dhcp_unexpected + counters.drop_dhcp_malformed, 1);
    }
}
