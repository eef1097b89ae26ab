//! Raw frames: whose they are, which are delivered, and what of a client's goes out.

use netd_policy::EtherType;
use netd_vfio::Mac;

use super::*;
use crate::capture::Filter;

const TYPE: u16 = 0x88b5;
const PEERS: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn open(lab: &mut Lab, number: u16) -> Reply {
    lab.call(Command::OpenFrames { ether_type: EtherType::new(number).unwrap() })
}

/// Their id, the address that they come from, and the descriptor.
fn opened(lab: &mut Lab, number: u16) -> (u64, [u8; 6], OwnedFd) {
    match open(lab, number) {
        Reply::Frames { id, mac, mtu: 1500, descriptor } => (id, mac, descriptor),
        other => panic!("no frames: {other:?}"),
    }
}

fn frame(to: [u8; 6], from: [u8; 6], number: u16, payload: &[u8]) -> Vec<u8> {
    let header = netd_ipc::frames::Header { to, from, ether_type: number }.encode();
    [&header, payload].concat()
}

fn put_on_the_wire(lab: &Lab, frame: &[u8]) {
    assert!(lab.peer.wire().transmit(frame.len(), |buffer| {
        buffer.copy_from_slice(frame);
        true
    }));
}

fn next(descriptor: &OwnedFd) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let (_, len) = recv(descriptor, &mut buffer[..], RecvFlags::empty()).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn frames_of_a_type_are_one_clients_alone_until_it_closes_them() {
    let mut lab = Lab::new();
    let (id, _, first) = opened(&mut lab, TYPE);
    assert!(matches!(open(&mut lab, TYPE), Reply::Failed(ErrorKind::AddrInUse, _)));
    let (_, _, _second) = opened(&mut lab, TYPE + 1);
    let listed = lab.sockets();
    let own = listed.iter().find(|socket| socket.id == id).unwrap();
    assert_eq!((own.kind, own.ether_type, own.uid), (netd_ipc::SocketKind::Frames, Some(TYPE), OWNER.uid));
    drop(first);
    wait("the type to be free", || match open(&mut lab, TYPE) {
        Reply::Frames { .. } => Some(()),
        _ => None,
    });
}

#[test]
fn frames_for_us_and_for_many_are_delivered_and_others_are_not() {
    let mut lab = Lab::new();
    let (_, ours, descriptor) = opened(&mut lab, TYPE);
    for (to, number, text) in [
        ([2, 0, 0, 0, 0, 9], TYPE, "for another machine"),
        (ours, TYPE + 1, "of another type"),
        (ours, TYPE, "for us"),
        ([0xff; 6], TYPE, "for all"),
        ([1, 0, 0x5e, 0, 0, 1], TYPE, "for a group"),
    ] {
        put_on_the_wire(&lab, &frame(to, PEERS, number, text.as_bytes()));
    }
    // In the order of the wire, so that those which are missing did not come.
    for (to, text) in [(ours, "for us"), ([0xff; 6], "for all"), ([1, 0, 0x5e, 0, 0, 1], "for a group")] {
        assert_eq!(next(&descriptor), frame(to, PEERS, TYPE, text.as_bytes()));
    }
}

#[test]
fn only_frames_of_the_type_from_this_machine_and_no_longer_than_the_link_takes_go_out() {
    let mut lab = Lab::new();
    let (id, ours, descriptor) = opened(&mut lab, TYPE);
    // What goes out is seen by a capture.
    let filter = Filter::parse(&format!("ether src host {} and not arp and not ip6", Mac(ours))).unwrap();
    let Reply::Capture(capture) = lab.call(Command::Capture { filter, snap_bytes: 2000 }) else { panic!() };
    let long = vec![7; 1501];
    let whole = vec![8; 1500];
    for frame in [
        b"short".to_vec(),
        frame(PEERS, PEERS, TYPE, b"from another"),
        frame(PEERS, ours, TYPE + 1, b"another type"),
        frame(PEERS, ours, 0x0800, b"an IP packet"),
        frame(PEERS, ours, TYPE, &long),
        frame(PEERS, ours, TYPE, &whole),
        frame(PEERS, ours, TYPE, b"hello"),
    ] {
        rustix::net::send(&descriptor, &frame, SendFlags::empty()).unwrap();
    }
    let mut stream = std::fs::File::from(capture);
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !seen.windows(5).any(|window| window == b"hello") {
        let count = stream.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    let has = |part: &[u8]| seen.windows(part.len()).any(|window| window == part);
    assert!(has(&frame(PEERS, ours, TYPE, &whole)) && has(&frame(PEERS, ours, TYPE, b"hello")));
    assert!(!has(&long) && !has(b"from another") && !has(b"another type") && !has(b"an IP packet"));
    let own = lab.sockets().into_iter().find(|socket| socket.id == id).unwrap();
    assert_eq!(own.sent_bytes, 1500 + 5);
}
