//! Peers that mean harm: whatever arrives, nothing panics, and no stream ends where it should not.

use core::net::SocketAddr;
use core::time::Duration;

use netd_stack::{Addressing, Stack};
use proptest::prelude::*;
use smoltcp::wire::{ArpOperation, DhcpPacket, IpProtocol, Ipv4Packet, TcpControl};

use crate::support::*;

/// A frame of every kind that the stack looks into.
fn template(kind: usize) -> Vec<u8> {
    let quoted = ip(A, B, IpProtocol::Tcp, &[0, 80, 0x0f, 0xa0, 0, 0, 0, 1])[14..].to_vec();
    let mut dhcp = vec![0; 300];
    DhcpPacket::new_unchecked(&mut dhcp[..]).set_magic_number(0x6382_5363);
    match kind {
        0 => arp(ArpOperation::Request, (MAC_B, B), ([0; 6], A), [0xff; 6]),
        1 => arp(ArpOperation::Reply, (MAC_B, B), (MAC_A, A), MAC_A),
        2 => tcp((4000, 80), TcpControl::Syn, 1000, None, &[]),
        3 => tcp((4000, 80), TcpControl::Psh, 1001, Some(1), b"data"),
        4 => tcp((4000, 80), TcpControl::Fin, 1001, Some(1), b"last"),
        5 => tcp((4000, 80), TcpControl::Rst, 1001, None, &[]),
        6 => icmp(8, 0, [0; 4], b"ping"),
        7 => icmp(3, 1, [0; 4], &quoted),
        8 => icmp(11, 0, [0; 4], &quoted),
        9 => udp((7, 9), b"datagram"),
        10 => udp((67, 68), &dhcp),
        _ => udp((7, 10), b"nobody"),
    }
}

/// Makes the outer checksums right again, so that a mutation gets past them.
fn mend(frame: &mut [u8]) {
    let Ok(mut packet) = Ipv4Packet::new_checked(frame.get_mut(14..).unwrap_or_default()) else { return };
    packet.fill_checksum();
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let protocol = packet.next_header();
    let payload = packet.payload_mut();
    match protocol {
        IpProtocol::Tcp if smoltcp::wire::TcpPacket::new_checked(&payload[..]).is_ok() => {
            smoltcp::wire::TcpPacket::new_unchecked(payload).fill_checksum(&source, &destination);
        }
        IpProtocol::Udp if smoltcp::wire::UdpPacket::new_checked(&payload[..]).is_ok() => {
            smoltcp::wire::UdpPacket::new_unchecked(payload).fill_checksum(&source, &destination);
        }
        IpProtocol::Icmp if payload.len() >= 8 => {
            smoltcp::wire::Icmpv4Packet::new_unchecked(payload).fill_checksum();
        }
        _ => {}
    }
}

fn busy(dhcp: bool) -> Scripted {
    let mut config = config(MAC_A, A);
    if dhcp {
        config.addressing = Addressing::Dhcp { fallback: None, timeout: Duration::from_secs(1) };
    }
    let mut peer = Scripted::with(config);
    peer.stack.tcp_listen(Some(80), 8).unwrap();
    peer.stack.udp_bind(Some(9)).unwrap();
    if !dhcp {
        peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 4000))).unwrap();
        peer.stack.ping(peer.now, B.into(), 8, Duration::from_secs(1), &mut peer.queue).unwrap();
    }
    peer.poll();
    peer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_are_survived(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..128), 1..32)) {
        let mut peer = busy(false);
        for mut frame in frames {
            peer.frame(&frame);
            // And once more as if it had been meant for us.
            if frame.len() >= 14 {
                frame[..14].copy_from_slice(&template(9)[..14]);
                peer.frame(&frame);
            }
            peer.poll();
        }
    }

    #[test]
    fn mutated_frames_are_survived(
        dhcp in any::<bool>(),
        frames in prop::collection::vec(
            (0..12usize, prop::collection::vec((0..80usize, any::<u8>()), 0..4), 0..100usize, any::<bool>()),
            1..64,
        ),
    ) {
        let mut peer = busy(dhcp);
        for (kind, mutations, cut, mended) in frames {
            let mut frame = template(kind);
            for (at, value) in mutations {
                // Below 14 lie the addresses; a frame for somebody else proves nothing.
                if let Some(byte) = frame.get_mut(at + 14) {
                    *byte = value;
                }
            }
            if cut < 10 {
                frame.truncate(frame.len().saturating_sub(cut));
            }
            if mended {
                mend(&mut frame);
            }
            peer.frame(&frame);
            peer.advance(Duration::from_millis(20));
        }
        prop_assert_eq!(peer.stack.counters().tcp_engine_faults, 0);
    }
}

fn octet(offset: u32) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8
}

/// Octets `from..to` of the stream that the peer would send.
fn text(from: u32, to: u32) -> Vec<u8> {
    (from..to).map(octet).collect()
}

fn drain(stack: &mut Stack, flow: netd_stack::FlowId, dice: &mut Dice, received: &mut Vec<u8>) {
    let most = (dice.roll() % 30_000) as usize;
    let take = |octets: &[u8]| {
        let len = octets.len().min(most);
        received.extend_from_slice(&octets[..len]);
        len
    };
    stack.tcp_receive(flow, take).unwrap();
}

/// A peer whose data is true but whose segments come in any order, overlap, exceed the window, and carry a FIN wherever they
/// reach the end of the stream.
#[test]
fn unruly_peer_never_makes_a_stream_end_early() {
    const END: u32 = 150_000;
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut peer = Scripted::new();
        let (flow, base, ours) = peer.accepted();
        let mut received = Vec::new();
        for _ in 0..3000 {
            let near = received.len() as u32;
            let from = (near + (dice.roll() % 90_000) as u32).saturating_sub(20_000).min(END);
            let from = if dice.percent(50) { near + peer_queued(&peer, flow) } else { from }.min(END);
            let to = (from + (dice.roll() % 1461) as u32).min(END);
            let control = if to == END { TcpControl::Fin } else { TcpControl::None };
            peer.segment((4000, 80), control, base.wrapping_add(from), Some(ours), &text(from, to));
            if dice.percent(60) {
                peer.poll();
            }
            if dice.percent(40) {
                drain(&mut peer.stack, flow, &mut dice, &mut received);
            }
            let status = peer.stack.tcp_status(flow).unwrap();
            assert_eq!(status.closed, None, "seed {seed}");
            assert!(
                !status.receive_finished || received.len() == END as usize,
                "seed {seed}: end on short data"
            );
            peer.queue.take();
        }
        assert_eq!(received, text(0, received.len() as u32), "seed {seed}");
        assert!(peer.stack.tcp_status(flow).unwrap().receive_finished, "seed {seed}: the stream never ended");
        assert_eq!(peer.stack.counters().tcp_engine_faults, 0, "seed {seed}");
    }
}

fn peer_queued(peer: &Scripted, flow: netd_stack::FlowId) -> u32 {
    peer.stack.tcp_status(flow).unwrap().readable as u32
}

/// A peer that sends any flags, any numbers near the edges of the windows and of the sequence space, while its connection is
/// used, finished and aborted.
#[test]
fn lying_peer_never_reaches_a_defect_of_the_engine() {
    let edges =
        [0, 1, 2, 535, 1460, 65_534, 65_535, 65_536, 0x3fff_ffff, 0x4000_0000, 0x7fff_fffe, 0x7fff_ffff];
    for seed in 0..400 {
        let mut dice = Dice(seed ^ 0xbad);
        let mut peer = Scripted::new();
        let (flow, local_port, base, ours) = if dice.percent(50) {
            let (flow, base, ours) = peer.accepted();
            (flow, 80, base, ours)
        } else {
            let (flow, port, seq) = peer.connecting(4000);
            (flow, port, 1001, seq.wrapping_add(1))
        };
        for _ in 0..150 {
            let mut around = |centre: u32| {
                let edge = edges[(dice.roll() % edges.len() as u64) as usize];
                if dice.percent(50) { centre.wrapping_add(edge) } else { centre.wrapping_sub(edge) }
            };
            let (seq, ack) = (around(base), around(ours));
            let control = match dice.roll() % 10 {
                0 => TcpControl::Syn,
                1 | 2 => TcpControl::Fin,
                3 if dice.percent(10) => TcpControl::Rst,
                _ => TcpControl::None,
            };
            let len = [0, 0, 1, 535, 1460][(dice.roll() % 5) as usize];
            let ack = dice.percent(90).then_some(if dice.percent(50) { ours } else { ack });
            peer.segment((4000, local_port), control, seq, ack, &vec![1; len]);
            match dice.roll() % 20 {
                0..8 => peer.poll(),
                8 => peer.advance(Duration::from_millis(dice.roll() % 3000)),
                9..12 => drain(&mut peer.stack, flow, &mut dice, &mut Vec::new()),
                12 | 13 => drop(write(&mut peer.stack, flow, &[7; 3000])),
                14 if dice.percent(20) => drop(peer.stack.tcp_finish(flow)),
                15 => peer.queue.room = (dice.roll() % 3) as usize,
                16 => peer.queue.room = usize::MAX,
                _ => drop(peer.queue.take()),
            }
            assert_eq!(peer.stack.counters().tcp_engine_faults, 0, "seed {seed}");
        }
    }
}

/// An accepted connection from `port` of B to `service`; returns it and our next sequence number. The peer's is 1001.
fn accept(peer: &mut Scripted, port: u16, service: u16) -> (netd_stack::FlowId, u32) {
    let (listener, _) = peer.stack.tcp_listen(Some(service), 8).unwrap();
    peer.segment((port, service), TcpControl::Syn, 1000, None, &[]);
    peer.poll();
    peer.arp_reply();
    let syn_ack = peer.segments().into_iter().find(|seen| seen.control == TcpControl::Syn).unwrap();
    let ours = syn_ack.seq.wrapping_add(1);
    peer.segment((port, service), TcpControl::None, 1001, Some(ours), &[]);
    peer.poll();
    let flow = peer.stack.tcp_accept(listener).unwrap().unwrap();
    peer.stack.tcp_close_listener(peer.now, listener);
    (flow, ours)
}

/// Lies to several connections, and a word to one whose SYN has not left, while another connection carries data both ways:
/// every octet of it, in the turn in which it was sent. Every guard has work, and in the end nothing is left.
#[test]
fn lies_beside_a_transfer_slow_nobody_and_leave_nothing() {
    const TURNS: usize = 200;
    const SEGMENT: usize = 1000;
    let mut guarded = [0; 6];
    for seed in 0..20 {
        let mut dice = Dice(seed ^ 0x5eed);
        let mut peer = Scripted::new();
        let (honest, mut ours) = accept(&mut peer, 5000, 81);
        let victims: Vec<_> =
            (0..4).map(|index| (4000 + index, accept(&mut peer, 4000 + index, 80))).collect();
        // A word to a connection before its SYN has left.
        let early = peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 4444))).unwrap();
        let early_port = peer.stack.tcp_status(early).unwrap().local.port();
        peer.segment((4444, early_port), TcpControl::Syn, 1, None, &[]);
        peer.poll();
        for turn in 0..TURNS {
            for _ in 0..8 {
                let (port, (_, theirs)) = victims[(dice.roll() % 4) as usize];
                let near = [0, 1, 100, 65_000, 65_535, 70_000, 0x4000_0001, 0x8000_0000];
                let mut pick = |centre: u32| centre.wrapping_add(near[(dice.roll() % 8) as usize]);
                let (seq, ack) = (pick(1001), pick(theirs));
                let control = [TcpControl::None, TcpControl::Fin, TcpControl::Syn, TcpControl::None];
                let control = control[(dice.roll() % 4) as usize];
                let control = if dice.percent(2) { TcpControl::Rst } else { control };
                let ack = Some(if dice.percent(70) { theirs } else { ack });
                let len = [0, 1, 1460, 900][(dice.roll() % 4) as usize];
                peer.segment((port, 80), control, seq, ack, &vec![1; len]);
            }
            let from = (turn * SEGMENT) as u32;
            let sent = text(from, from + SEGMENT as u32);
            let seq = 1001u32.wrapping_add(from);
            peer.segment((5000, 81), TcpControl::Psh, seq, Some(ours), &sent);
            let mut received = Vec::new();
            // Where a buffer begins anew, both take two pieces.
            while read(&mut peer.stack, honest, &mut received) > 0 {}
            assert!(received == sent, "seed {seed}, turn {turn}: {} octets", received.len());
            let mut written = write(&mut peer.stack, honest, &received);
            written += write(&mut peer.stack, honest, &received[written..]);
            assert_eq!(written, SEGMENT, "seed {seed}, turn {turn}");
            peer.poll();
            let frames = peer.queue.take();
            let to_honest = |frame: &&Vec<u8>| frame.get(34..38) == Some(&[0, 81, 0x13, 0x88]);
            let echoed: usize = frames.iter().filter(to_honest).map(|frame| frame.len() - 54).sum();
            assert_eq!(echoed, SEGMENT, "seed {seed}, turn {turn}");
            ours = ours.wrapping_add(SEGMENT as u32);
            peer.now = peer.now + Duration::from_millis(1);
        }
        let counters = peer.stack.counters();
        assert_eq!(counters.tcp_engine_faults, 0, "seed {seed}");
        let seen = [
            counters.drop_tcp_sequence,
            counters.drop_tcp_acknowledgement,
            counters.drop_tcp_after_fin,
            counters.drop_tcp_early,
            counters.tcp_challenges_sent,
            counters.tcp_fin_beyond_window,
        ];
        guarded.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += seen);
        for flow in victims.iter().map(|(_, (flow, _))| *flow).chain([honest, early]) {
            peer.stack.tcp_release(peer.now, flow);
        }
        peer.advance(Duration::from_secs(200));
        assert_eq!(peer.stack.sockets().count(), 0, "seed {seed}");
    }
    assert!(guarded.iter().all(|seen| *seen > 0), "a guard had nothing to do: {guarded:?}");
}
