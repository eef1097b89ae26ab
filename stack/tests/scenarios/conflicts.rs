//! Who has an IPv4 address (RFC 5227).

use core::net::Ipv4Addr;
use core::time::Duration;

use netd_stack::{AddressState, AddressStatus, ConflictDetection, Ipv6Addressing, Options};
use smoltcp::wire::ArpOperation;

use crate::support::*;

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn claiming(conflicts: ConflictDetection) -> Scripted {
    let options = Options { ipv6: Ipv6Addressing::Off, conflicts, ..Options::default() };
    Scripted::with_options(config(MAC_A, A), options)
}

/// The senders of requests for our own address: nobody for a probe, ourselves for an announcement.
fn claims(peer: &mut Scripted) -> Vec<Ipv4Addr> {
    let parsed = peer.queue.take().iter().filter_map(|frame| parse_arp(frame)).collect::<Vec<_>>();
    let ours = |&(operation, _, target): &(ArpOperation, Ipv4Addr, Ipv4Addr)| {
        operation == ArpOperation::Request && target == A
    };
    parsed.into_iter().filter(ours).map(|(_, sender, _)| sender).collect()
}

fn somebody_has_it() -> Vec<u8> {
    arp(ArpOperation::Reply, (MAC_B, A), (MAC_A, NOBODY), MAC_A)
}

#[test]
fn optimistic_claim_is_used_at_once_probed_and_announced() {
    let mut peer = claiming(ConflictDetection::Optimistic);
    assert!(matches!(peer.stack.lease(), AddressState::Static(_)));
    peer.advance(Duration::from_secs(15));
    assert_eq!(claims(&mut peer), [NOBODY, NOBODY, NOBODY, A, A]);
}

#[test]
fn strict_claim_is_used_after_the_probes() {
    let mut peer = claiming(ConflictDetection::Strict);
    assert_eq!(peer.stack.lease(), AddressState::Searching);
    assert_eq!(peer.stack.addresses().next().unwrap().status, AddressStatus::Tentative);
    peer.advance(Duration::from_secs(8));
    assert!(matches!(peer.stack.lease(), AddressState::Static(_)));
    assert_eq!(peer.stack.addresses().next().unwrap().status, AddressStatus::Preferred);
    assert_eq!(claims(&mut peer)[..4], [NOBODY, NOBODY, NOBODY, A]);
}

#[test]
fn claim_contested_is_given_up_and_tried_again_after_a_minute() {
    for mode in [ConflictDetection::Optimistic, ConflictDetection::Strict] {
        let mut peer = claiming(mode);
        peer.advance(Duration::from_secs(2));
        peer.frame(&somebody_has_it());
        assert_eq!(peer.stack.lease(), AddressState::Searching);
        assert_eq!(peer.stack.addresses().next().unwrap().status, AddressStatus::Duplicated);
        claims(&mut peer);
        peer.advance(Duration::from_secs(59));
        assert!(claims(&mut peer).is_empty());
        peer.advance(Duration::from_secs(10));
        assert!(matches!(peer.stack.lease(), AddressState::Static(_)), "{mode:?}");
        assert_eq!(peer.stack.counters().arp_conflicts, 1);
    }
}

#[test]
fn claim_probed_by_another_at_the_same_time_is_given_up() {
    let mut peer = claiming(ConflictDetection::Strict);
    peer.frame(&arp(ArpOperation::Request, (MAC_B, NOBODY), ([0; 6], A), [0xff; 6]));
    peer.advance(Duration::from_secs(10));
    assert_eq!(peer.stack.lease(), AddressState::Searching);
}

#[test]
fn address_in_use_is_defended_once_and_given_up_at_the_second_attack() {
    let mut peer = claiming(ConflictDetection::Optimistic);
    peer.advance(Duration::from_secs(30));
    claims(&mut peer);
    peer.frame(&somebody_has_it());
    assert_eq!(claims(&mut peer), [A]);
    peer.advance(Duration::from_secs(11));
    peer.frame(&somebody_has_it());
    assert_eq!(claims(&mut peer), [A], "ten seconds later it is defended again");
    peer.frame(&somebody_has_it());
    assert_eq!((claims(&mut peer).len(), peer.stack.lease()), (0, AddressState::Searching));
}
