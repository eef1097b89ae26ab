//! Connections between two stacks, and against a scripted peer.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use netd_stack::{Error, FlowState, Limits, Outcome, Ready};
use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Sends `len` octets each way, closes both sides, and checks every octet and how it ended.
fn transfer(impairment: Impairment, seed: u64, len: usize) {
    let mut wire = Wire::with(config(MAC_A, A), config(MAC_B, B), impairment, seed);
    let (client, server) = wire.connected();
    let mut dice = Dice(seed ^ 0xfeed);
    let sent: [Vec<u8>; 2] = [0, 1].map(|_| (0..len).map(|_| dice.roll() as u8).collect());
    let flows = [client, server];
    let (mut written, mut received, mut finished) = ([0; 2], [Vec::new(), Vec::new()], [false; 2]);
    wire.run_until(Duration::from_secs(3600), |wire| {
        for side in 0..2 {
            let stack = &mut wire.stacks[side];
            written[side] += write(stack, flows[side], &sent[side][written[side]..]);
            if written[side] == len && !finished[side] {
                stack.tcp_finish(flows[side]).unwrap();
                finished[side] = true;
            }
            read(stack, flows[side], &mut received[side]);
            let status = stack.tcp_status(flows[side]).unwrap();
            if status.receive_finished {
                assert_eq!(received[side].len(), len, "seed {seed}: end of file on short data");
            }
        }
        let done = |side: usize| {
            let status = wire.stacks[side].tcp_status(flows[side]).unwrap();
            assert!(matches!(status.closed, None | Some(Outcome::Finished)), "seed {seed}: {status:?}");
            status.receive_finished && status.closed == Some(Outcome::Finished)
        };
        done(0) && done(1)
    });
    assert!(received[0] == sent[1] && received[1] == sent[0], "seed {seed}: octets differ");
}

#[test]
fn transfer_clean_wire_arrives_whole() {
    transfer(Impairment::default(), 1, 1_000_000);
}

#[test]
fn transfer_bad_wire_arrives_whole() {
    let impairment = Impairment { loss: 3, duplicate: 2, reorder: 10 };
    // Seed 23 once stood still for ever: both sides had gone back to retransmit, and dropped each other's ACKs.
    for seed in 0..64 {
        transfer(impairment, seed, 60_000);
    }
}

/// The sockets of connections that are over serve later ones.
#[test]
fn connection_after_many_others_carries_only_its_own_octets() {
    let mut wire = Wire::new();
    for round in 0..200_u32 {
        let (client, server) = wire.connected();
        let words = [round.to_le_bytes(), (!round).to_le_bytes()].concat();
        write(&mut wire.stacks[0], client, &words);
        write(&mut wire.stacks[1], server, &words[4..]);
        // Every third ends with octets unread, which resets it; the others end in order.
        if round % 3 != 0 {
            let mut heard = [Vec::new(), Vec::new()];
            wire.run_until(SECOND, |wire| {
                read(&mut wire.stacks[0], client, &mut heard[0]);
                read(&mut wire.stacks[1], server, &mut heard[1]);
                (heard[0].len(), heard[1].len()) == (4, 8)
            });
            assert_eq!((&heard[0][..], &heard[1][..]), (&words[4..], &words[..]));
        } else {
            wire.run_for(Duration::from_millis(10));
        }
        let now = wire.now;
        wire.stacks[0].tcp_release(now, client);
        wire.stacks[1].tcp_release(now, server);
        wire.run_for(Duration::from_millis(10));
    }
}

#[test]
fn connect_closed_port_is_refused() {
    let mut wire = Wire::new();
    let flow = wire.stacks[0].tcp_connect(wire.now, SocketAddr::from((B, 81))).unwrap();
    wire.run_until(SECOND, |wire| wire.stacks[0].tcp_status(flow).unwrap().closed.is_some());
    let status = wire.stacks[0].tcp_status(flow).unwrap();
    assert_eq!((status.closed, status.established), (Some(Outcome::ConnectionRefused), false));
    assert!(wire.ready[0].contains(&Ready::Flow(flow)));
}

#[test]
fn connect_dead_neighbor_is_unreachable_after_three_requests() {
    let mut wire = Wire::new();
    wire.cut = true;
    let flow = wire.stacks[0].tcp_connect(wire.now, SocketAddr::from((B, 80))).unwrap();
    wire.run_for(Duration::from_secs(4));
    assert_eq!(wire.stacks[0].tcp_status(flow).unwrap().closed, Some(Outcome::Unreachable));
    assert!((3..=4).contains(&wire.counters(0).arp_requests_sent));
}

#[test]
fn established_peer_silent_is_timed_out() {
    let mut wire = Wire::new();
    let (client, _) = wire.connected();
    wire.cut = true;
    write(&mut wire.stacks[0], client, b"anybody there?");
    wire.run_for(Duration::from_secs(100));
    assert_eq!(wire.stacks[0].tcp_status(client).unwrap().closed, None);
    wire.run_for(Duration::from_secs(100));
    assert_eq!(wire.stacks[0].tcp_status(client).unwrap().closed, Some(Outcome::TimedOut));
}

#[test]
fn reset_midstream_is_never_end_of_file() {
    let mut wire = Wire::new();
    let (client, server) = wire.connected();
    write(&mut wire.stacks[1], server, &[7; 5000]);
    wire.run_for(SECOND);
    wire.stacks[1].tcp_abort(server);
    wire.run_for(SECOND);
    let status = wire.stacks[0].tcp_status(client).unwrap();
    assert_eq!(status.closed, Some(Outcome::ConnectionReset));
    assert_eq!(status.readable, 5000);
    let mut data = Vec::new();
    read(&mut wire.stacks[0], client, &mut data);
    assert_eq!(data, [7; 5000]);
    assert!(!wire.stacks[0].tcp_status(client).unwrap().receive_finished);
    assert_eq!(wire.stacks[1].tcp_status(server).unwrap().closed, Some(Outcome::Aborted));
}

#[test]
fn half_close_by_either_side_keeps_the_other_direction() {
    for closer in [0, 1] {
        let mut wire = Wire::new();
        let (client, server) = wire.connected();
        let flows = [client, server];
        let other = 1 - closer;
        write(&mut wire.stacks[closer], flows[closer], b"question");
        wire.stacks[closer].tcp_finish(flows[closer]).unwrap();
        wire.run_for(SECOND);
        let mut question = Vec::new();
        read(&mut wire.stacks[other], flows[other], &mut question);
        let status = wire.stacks[other].tcp_status(flows[other]).unwrap();
        assert_eq!(
            (question.as_slice(), status.receive_finished, status.closed),
            (&b"question"[..], true, None)
        );
        write(&mut wire.stacks[other], flows[other], b"answer");
        wire.stacks[other].tcp_finish(flows[other]).unwrap();
        wire.run_for(SECOND);
        let mut answer = Vec::new();
        read(&mut wire.stacks[closer], flows[closer], &mut answer);
        let status = wire.stacks[closer].tcp_status(flows[closer]).unwrap();
        assert_eq!((answer.as_slice(), status.receive_finished), (&b"answer"[..], true));
        for side in [0, 1] {
            assert_eq!(wire.stacks[side].tcp_status(flows[side]).unwrap().closed, Some(Outcome::Finished));
        }
    }
}

#[test]
fn finish_before_handshake_is_remembered() {
    let mut wire = Wire::new();
    let (listener, _) = wire.stacks[1].tcp_listen(Some(80), 8).unwrap();
    let client = wire.stacks[0].tcp_connect(wire.now, SocketAddr::from((B, 80))).unwrap();
    wire.stacks[0].tcp_finish(client).unwrap();
    wire.run_for(SECOND);
    let server = wire.stacks[1].tcp_accept(listener).unwrap().unwrap();
    assert!(wire.stacks[1].tcp_status(server).unwrap().receive_finished);
}

#[test]
fn send_after_finish_is_refused() {
    let mut wire = Wire::new();
    let (client, _) = wire.connected();
    wire.stacks[0].tcp_finish(client).unwrap();
    assert_eq!(wire.stacks[0].tcp_send(client, |_| 1), Err(Error::NotConnected { outcome: None }));
}

#[test]
fn released_flow_delivers_then_vanishes() {
    let mut wire = Wire::new();
    let (client, server) = wire.connected();
    write(&mut wire.stacks[0], client, b"last words");
    let now = wire.now;
    wire.stacks[0].tcp_release(now, client);
    assert_eq!(wire.stacks[0].tcp_status(client), Err(Error::InvalidSocket));
    wire.run_for(SECOND);
    let mut data = Vec::new();
    read(&mut wire.stacks[1], server, &mut data);
    assert_eq!(data, b"last words");
    assert!(wire.stacks[1].tcp_status(server).unwrap().receive_finished);
    let now = wire.now;
    wire.stacks[1].tcp_release(now, server);
    wire.run_for(Duration::from_secs(12));
    assert_eq!(wire.stacks.each_ref().map(|stack| stack.sockets().count()), [0, 0]);
}

#[test]
fn released_flow_peer_never_closes_is_gone_after_a_minute() {
    let mut wire = Wire::new();
    let (client, _server) = wire.connected();
    let now = wire.now;
    wire.stacks[0].tcp_release(now, client);
    wire.run_for(Duration::from_secs(50));
    assert_eq!(wire.stacks[0].sockets().count(), 1);
    wire.run_for(Duration::from_secs(15));
    assert_eq!(wire.stacks[0].sockets().count(), 0);
}

#[test]
fn released_flow_with_unread_data_resets_the_peer() {
    let mut wire = Wire::new();
    let (client, server) = wire.connected();
    write(&mut wire.stacks[1], server, b"unread");
    wire.run_for(SECOND);
    let now = wire.now;
    wire.stacks[0].tcp_release(now, client);
    wire.run_for(SECOND);
    assert_eq!(wire.stacks[1].tcp_status(server).unwrap().closed, Some(Outcome::ConnectionReset));
    assert_eq!(wire.stacks[0].sockets().count(), 0);
}

#[test]
fn stale_ids_are_refused() {
    let mut wire = Wire::new();
    let (client, _) = wire.connected();
    let now = wire.now;
    wire.stacks[0].tcp_abort(client);
    wire.stacks[0].tcp_release(now, client);
    wire.run_for(SECOND);
    let again = wire.stacks[0].tcp_connect(wire.now, SocketAddr::from((B, 80))).unwrap();
    assert_ne!(again, client);
    assert_eq!(wire.stacks[0].tcp_status(client), Err(Error::InvalidSocket));
    assert_eq!(wire.stacks[0].tcp_send(client, |_| 1), Err(Error::InvalidSocket));
    let (listener, _) = wire.stacks[0].tcp_listen(Some(9), 1).unwrap();
    wire.stacks[0].tcp_close_listener(now, listener);
    assert_eq!(wire.stacks[0].tcp_accept(listener), Err(Error::InvalidListener));
}

#[test]
fn listener_backlog_full_drops_syns_in_silence_and_serves_later() {
    let mut wire = Wire::new();
    let (listener, _) = wire.stacks[1].tcp_listen(Some(80), 1).unwrap();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let now = wire.now;
            let flow = wire.stacks[0].tcp_connect(now, SocketAddr::from((B, 80))).unwrap();
            wire.run_for(Duration::from_millis(100));
            flow
        })
        .collect();
    assert_eq!(wire.counters(1).tcp_resets_sent, 0);
    assert!(wire.counters(1).drop_tcp_backlog_full >= 2);
    let mut accepted = 0;
    wire.run_until(Duration::from_secs(60), |wire| {
        accepted += usize::from(wire.stacks[1].tcp_accept(listener).unwrap().is_some());
        accepted == 3
    });
    for client in clients {
        assert!(wire.stacks[0].tcp_status(client).unwrap().established);
    }
}

#[test]
fn listener_syn_flood_is_bounded_and_expires() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 100).unwrap();
    for port in 2000..3000 {
        peer.segment((port, 80), TcpControl::Syn, 5, None, &[]);
    }
    // All from one source: its own bound is met first.
    assert_eq!(peer.stack.sockets().count(), 1 + Limits::default().pending_per_source);
    assert!(peer.stack.counters().drop_tcp_pending_source > 900);
    assert_eq!(peer.stack.counters().tcp_resets_sent, 0);
    peer.advance(Duration::from_secs(30));
    assert_eq!(peer.stack.sockets().count(), 1, "half-open connections outlive their time");
}

#[test]
fn fin_beyond_window_is_not_end_of_file() {
    let mut peer = Scripted::new();
    let (flow, mut seq, ours) = peer.accepted();
    for _ in 0..65 {
        peer.segment((4000, 80), TcpControl::None, seq, Some(ours), &[1; 1000]);
        seq = seq.wrapping_add(1000);
        peer.poll();
    }
    // 535 octets of window are left; the last segment carries 1000 and a FIN.
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours), &[2; 1000]);
    peer.poll();
    let mut data = Vec::new();
    while read(&mut peer.stack, flow, &mut data) > 0 {}
    assert_eq!(data.len(), 65_535);
    assert_eq!(peer.stack.counters().tcp_fin_beyond_window, 1);
    let status = peer.stack.tcp_status(flow).unwrap();
    assert_eq!((status.receive_finished, status.state), (false, FlowState::Established));
    peer.poll();
    peer.segment((4000, 80), TcpControl::Fin, seq.wrapping_add(535), Some(ours), &[2; 465]);
    peer.poll();
    while read(&mut peer.stack, flow, &mut data) > 0 {}
    assert_eq!(data.len(), 66_000);
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
}

#[test]
fn data_after_fin_is_dropped() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours), b"end");
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(4), Some(ours), b"and more");
    peer.poll();
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"end");
    assert_eq!(peer.stack.counters().drop_tcp_after_fin, 1);
}

#[test]
fn fin_before_data_already_received_is_dropped() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(3), Some(ours), b"defgh");
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours), b"abc");
    peer.poll();
    assert!(!peer.stack.tcp_status(flow).unwrap().receive_finished);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours), b"abc");
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"abcdefgh");
}

#[test]
fn data_behind_an_old_acknowledgement_is_taken() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    write(&mut peer.stack, flow, b"question");
    peer.poll();
    // The peer's acknowledgement of ours overtakes the data that it sent before: then a reset follows, as exact as can be.
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(6), Some(ours.wrapping_add(8)), &[]);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours), b"answer");
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"answer");
    assert_eq!(peer.stack.counters().tcp_old_acknowledgements, 1);
    peer.segment((4000, 80), TcpControl::Rst, seq.wrapping_add(6), None, &[]);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::ConnectionReset));
}

#[test]
fn data_behind_an_old_acknowledgement_leaves_window_and_send_buffer_alone() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    write(&mut peer.stack, flow, &[1; 1000]);
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(3), Some(ours.wrapping_add(600)), &[]);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(200)), b"old");
    assert_eq!(peer.stack.tcp_status(flow).unwrap().unacknowledged, 400);
    // RFC 5961, 5.2: from before any window of ours it is challenged, and its data is not believed.
    let challenges = peer.stack.counters().tcp_challenges_sent;
    peer.segment(
        (4000, 80),
        TcpControl::None,
        seq.wrapping_add(3),
        Some(ours.wrapping_sub(70_000)),
        b"forged",
    );
    assert_eq!(peer.stack.counters().tcp_challenges_sent, challenges + 1);
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"old");
}

#[test]
fn data_behind_an_acknowledgement_older_than_our_fin_is_taken() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    write(&mut peer.stack, flow, b"all");
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(6), Some(ours.wrapping_add(4)), &[]);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours), b"answer");
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"answer");
}

#[test]
fn reset_inexact_is_challenged_and_exact_is_believed() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.segment((4000, 80), TcpControl::Rst, seq.wrapping_add(100), None, &[]);
    let challenge = peer.segments().pop().unwrap();
    assert_eq!((challenge.control, challenge.seq, challenge.ack), (TcpControl::None, ours, Some(seq)));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    peer.segment((4000, 80), TcpControl::Rst, seq.wrapping_sub(1), None, &[]);
    peer.segment((4000, 80), TcpControl::Rst, seq.wrapping_add(70_000), None, &[]);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    peer.segment((4000, 80), TcpControl::Rst, seq, None, &[]);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::ConnectionReset));
}

#[test]
fn acknowledgement_of_unsent_data_is_dropped() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    write(&mut peer.stack, flow, &[1; 1000]);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(1000)), &[]);
    assert_eq!(peer.stack.counters().drop_tcp_acknowledgement, 1);
    peer.poll();
    let octets: usize = peer.segments().iter().map(|seen| seen.payload.len()).sum();
    assert_eq!(octets, 1000);
}

#[test]
fn time_wait_over_unread_data_is_kept() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(1)), &[]);
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours.wrapping_add(1)), b"slow reader");
    peer.poll();
    assert_eq!(peer.stack.tcp_status(flow).unwrap().state, FlowState::TimeWait);
    peer.advance(Duration::from_secs(100));
    let status = peer.stack.tcp_status(flow).unwrap();
    assert_eq!(
        (status.readable, status.receive_finished, status.closed),
        (11, false, Some(Outcome::Finished))
    );
    let mut data = Vec::new();
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"slow reader");
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
    peer.advance(SECOND);
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
    let now = peer.now;
    peer.stack.tcp_release(now, flow);
    peer.advance(SECOND);
    assert_eq!(peer.stack.sockets().count(), 0);
}

#[test]
fn transmit_queue_full_resumes_when_there_is_room() {
    let mut peer = Scripted::new();
    let (flow, _, ours) = peer.accepted();
    peer.queue.room = 0;
    write(&mut peer.stack, flow, &[3; 500]);
    assert!(!peer.stack.poll(peer.now, &mut peer.queue));
    assert!(peer.stack.poll_timeout().is_some_and(|at| at <= peer.now));
    peer.queue.room = usize::MAX;
    peer.poll();
    let sent = peer.segments();
    assert_eq!((sent.len(), sent[0].seq, sent[0].payload.len()), (1, ours, 500));
}

#[test]
fn idle_connections_cost_nothing() {
    let mut wire = Wire::new();
    let (listener, _) = wire.stacks[1].tcp_listen(Some(80), 128).unwrap();
    let mut engine_calls = Vec::new();
    let mut flows = Vec::new();
    for count in [10, 200] {
        while flows.len() < count {
            let now = wire.now;
            let client = wire.stacks[0].tcp_connect(now, SocketAddr::from((B, 80))).unwrap();
            let mut server = None;
            wire.run_until(SECOND, |wire| {
                server = wire.stacks[1].tcp_accept(listener).unwrap();
                server.is_some()
            });
            flows.push((client, server.unwrap()));
        }
        wire.run_for(Duration::from_secs(5));
        let before = wire.counters(0).tcp_engine_calls + wire.counters(1).tcp_engine_calls;
        for turn in 0..100 {
            let (client, server) = flows[turn % 10];
            write(&mut wire.stacks[0], client, b"x");
            wire.run_until(SECOND, |wire| read(&mut wire.stacks[1], server, &mut Vec::new()) == 1);
        }
        wire.run_for(Duration::from_secs(5));
        engine_calls.push(wire.counters(0).tcp_engine_calls + wire.counters(1).tcp_engine_calls - before);
    }
    assert!(
        engine_calls[0].abs_diff(engine_calls[1]) <= engine_calls[0] / 20,
        "calls grow: {engine_calls:?}"
    );
}

/// An ICMP error from a router about the SYN or segment that we sent with `seq`.
fn icmp_error(code: u8, local_port: u16, port: u16, seq: u32) -> Vec<u8> {
    let mut quoted = ip(A, B, smoltcp::wire::IpProtocol::Tcp, &[0; 8])[14..].to_vec();
    quoted[20..22].copy_from_slice(&local_port.to_be_bytes());
    quoted[22..24].copy_from_slice(&port.to_be_bytes());
    quoted[24..28].copy_from_slice(&seq.to_be_bytes());
    icmp(3, code, [0; 4], &quoted)
}

#[test]
fn connecting_icmp_unreachable_ends_it_only_if_it_quotes_our_syn() {
    let mut peer = Scripted::new();
    let (flow, local_port, seq) = peer.connecting(80);
    peer.frame(&icmp_error(1, local_port, 80, seq.wrapping_add(1)));
    peer.frame(&icmp_error(4, local_port, 80, seq));
    peer.frame(&icmp_error(1, local_port, 81, seq));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    peer.frame(&icmp_error(1, local_port, 80, seq));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::Unreachable));
}

#[test]
fn established_icmp_unreachable_is_transient() {
    let mut peer = Scripted::new();
    let (flow, _, ours) = peer.accepted();
    peer.frame(&icmp_error(1, 80, 4000, ours.wrapping_sub(1)));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
}

#[test]
fn established_packet_too_big_lowers_the_segment_size() {
    let mut peer = Scripted::new();
    let (flow, _, ours) = peer.accepted();
    write(&mut peer.stack, flow, &[1; 4000]);
    peer.poll();
    assert_eq!(peer.segments()[0].payload.len(), 1460);
    let needs = |mtu: u16, seq: u32| {
        let mut frame = icmp_error(4, 80, 4000, seq);
        frame[40..42].copy_from_slice(&mtu.to_be_bytes());
        let mut packet = smoltcp::wire::Icmpv4Packet::new_unchecked(&mut frame[34..]);
        packet.fill_checksum();
        frame
    };
    // Not about anything in flight; smaller than any link.
    peer.frame(&needs(1000, ours.wrapping_sub(5000)));
    peer.frame(&needs(100, ours));
    assert_eq!(peer.stack.counters().tcp_path_mtu_lowered, 0);
    peer.frame(&needs(1000, ours));
    peer.advance(Duration::from_secs(2));
    assert_eq!(peer.segments()[0].payload.len(), 960);
}

#[test]
fn closed_port_resets_are_rate_limited() {
    let mut peer = Scripted::new();
    for port in 1000..2000 {
        peer.segment((port, 81), TcpControl::Syn, 5, None, &[]);
    }
    assert_eq!(peer.stack.counters().tcp_resets_sent, 200);
    assert_eq!(peer.stack.counters().tcp_resets_rate_limited, 800);
    peer.segment((7, 81), TcpControl::Rst, 5, None, &[]);
    assert_eq!(peer.stack.counters().tcp_resets_rate_limited, 800, "a reset was answered");
}

#[test]
fn time_wait_of_released_flow_gives_way_to_a_new_connection() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    let now = peer.now;
    peer.stack.tcp_release(now, flow);
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(1)), &[]);
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours.wrapping_add(1)), &[]);
    peer.poll();
    peer.queue.take();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    peer.segment((4000, 80), TcpControl::Syn, seq.wrapping_add(100_000), None, &[]);
    peer.poll();
    let answer = peer.segments().pop().unwrap();
    assert_eq!((answer.control, answer.ack), (TcpControl::Syn, Some(seq.wrapping_add(100_001))));
}

#[test]
fn flow_table_full_refuses_by_name() {
    let mut config = config(MAC_A, A);
    config.limits.flows = 2;
    let mut peer = Scripted::with(config);
    for port in [1, 2] {
        peer.stack.tcp_connect(peer.now, SocketAddr::from((B, port))).unwrap();
    }
    let third = peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 3)));
    assert_eq!(third, Err(Error::QuotaExceeded { what: "connections", limit: 2 }));
}

#[test]
fn flow_table_full_gives_up_its_oldest_time_wait() {
    let mut config = config(MAC_A, A);
    config.limits.flows = 1;
    let mut wire = Wire::with(config, crate::support::config(MAC_B, B), Impairment::default(), 1);
    let (client, server) = wire.connected();
    let now = wire.now;
    wire.stacks[0].tcp_release(now, client);
    wire.run_for(Duration::from_millis(10));
    wire.stacks[1].tcp_release(now, server);
    let now = wire.now;
    let full = wire.stacks[0].tcp_connect(now, SocketAddr::from((B, 80)));
    assert_eq!(full, Err(Error::QuotaExceeded { what: "connections", limit: 1 }));
    wire.run_for(Duration::from_millis(10));
    let now = wire.now;
    assert!(wire.stacks[0].tcp_connect(now, SocketAddr::from((B, 80))).is_ok());
}

#[test]
fn connect_nonsense_is_refused_by_name() {
    let mut peer = Scripted::new();
    let mut connect = |text: &str| peer.stack.tcp_connect(peer.now, text.parse().unwrap());
    assert!(matches!(connect("10.0.0.2:0"), Err(Error::InvalidInput { .. })));
    assert!(matches!(connect("10.0.0.255:80"), Err(Error::InvalidInput { .. })));
    assert!(matches!(connect("224.0.0.1:80"), Err(Error::InvalidInput { .. })));
    assert!(matches!(connect("127.0.0.1:80"), Err(Error::Unsupported { .. })));
    assert!(matches!(connect("[::1]:80"), Err(Error::Unsupported { .. })));
    assert!(matches!(connect("[2001:db8::1]:80"), Err(Error::Unreachable { .. })));
    assert!(matches!(connect("8.8.8.8:80"), Err(Error::Unreachable { .. })));
}

#[test]
fn ephemeral_ports_and_sequence_numbers_are_not_sequential() {
    let mut peer = Scripted::new();
    peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 1))).unwrap();
    peer.poll();
    peer.arp_reply();
    let mut ports = Vec::new();
    for port in 2..12 {
        let flow = peer.stack.tcp_connect(peer.now, SocketAddr::from((B, port))).unwrap();
        ports.push(peer.stack.tcp_status(flow).unwrap().local.port());
    }
    let steps = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 2).count();
    assert!(steps <= 1, "{ports:?}");
    peer.poll();
    let sequence: Vec<u32> = peer.segments().iter().map(|seen| seen.seq).collect();
    let near = sequence.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 1 << 20).count();
    assert!(near <= 1, "{sequence:?}");
}

#[test]
fn device_gone_ends_everything() {
    let mut wire = Wire::new();
    let (client, _) = wire.connected();
    wire.stacks[0].fail_all();
    assert_eq!(wire.stacks[0].tcp_status(client).unwrap().closed, Some(Outcome::DeviceUnavailable));
    let now = wire.now;
    assert_eq!(wire.stacks[0].tcp_connect(now, SocketAddr::from((B, 80))), Err(Error::DeviceUnavailable));
    assert_eq!(wire.stacks[0].udp_bind(None), Err(Error::DeviceUnavailable));
    assert!(std::iter::from_fn(|| wire.stacks[0].next_ready()).any(|ready| ready == Ready::Flow(client)));
}

/// A SYN from another host, by way of B.
fn syn_from(host: u8, port: u16) -> Vec<u8> {
    let source = Ipv4Addr::new(10, 0, 0, host);
    let mut packet = tcp((port, 80), TcpControl::Syn, 5, None, &[])[34..].to_vec();
    let (source_wire, destination) = (source.into(), A.into());
    TcpPacket::new_unchecked(&mut packet[..]).fill_checksum(&source_wire, &destination);
    ip(source, A, IpProtocol::Tcp, &packet)
}

#[test]
fn listener_syn_flood_from_many_sources_is_bounded_per_listener() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 100).unwrap();
    for host in 10..30 {
        for port in 2000..2010 {
            peer.frame(&syn_from(host, port));
        }
    }
    assert_eq!(peer.stack.sockets().count(), 1 + Limits::default().pending_per_listener);
    assert!(peer.stack.counters().drop_tcp_pending_full > 0);
}

#[test]
fn listener_source_over_its_bound_does_not_keep_another_out() {
    let mut peer = Scripted::new();
    let (_listener, _) = peer.stack.tcp_listen(Some(80), 100).unwrap();
    for port in 2000..2100 {
        peer.segment((port, 80), TcpControl::Syn, 5, None, &[]);
    }
    let before = peer.stack.sockets().count();
    peer.frame(&syn_from(9, 2000));
    assert_eq!(peer.stack.sockets().count(), before + 1);
    // What has expired counts no longer.
    peer.advance(Duration::from_secs(30));
    peer.segment((2500, 80), TcpControl::Syn, 5, None, &[]);
    assert_eq!(peer.stack.sockets().count(), 2);
}

#[test]
fn established_bare_syn_is_challenged() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    for at in [seq, seq.wrapping_add(10), seq.wrapping_sub(1_000_000)] {
        peer.segment((4000, 80), TcpControl::Syn, at, None, &[]);
        let challenge = peer.segments().pop().unwrap();
        assert_eq!((challenge.control, challenge.seq, challenge.ack), (TcpControl::None, ours, Some(seq)));
    }
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
    assert_eq!(peer.stack.counters().tcp_challenges_sent, 3);
    // The peer that restarted says so with a reset that hits exactly.
    peer.segment((4000, 80), TcpControl::Rst, seq, None, &[]);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::ConnectionReset));
}

#[test]
fn time_wait_of_owned_flow_gives_way_and_keeps_what_is_unread() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.stack.tcp_finish(flow).unwrap();
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(1)), &[]);
    peer.segment((4000, 80), TcpControl::Fin, seq, Some(ours.wrapping_add(1)), b"unread");
    peer.poll();
    let (listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
    // An old duplicate does not open anything.
    peer.queue.take();
    peer.segment((4000, 80), TcpControl::Syn, seq, None, &[]);
    assert!(peer.segments().iter().all(|seen| seen.control == TcpControl::None));
    peer.segment((4000, 80), TcpControl::Syn, seq.wrapping_add(100_000), None, &[]);
    peer.poll();
    let answer = peer.segments().pop().unwrap();
    assert_eq!((answer.control, answer.ack), (TcpControl::Syn, Some(seq.wrapping_add(100_001))));
    let next = Some(answer.seq.wrapping_add(1));
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(100_001), next, b"new");
    let newer = peer.stack.tcp_accept(listener).unwrap().unwrap();
    let mut data = Vec::new();
    read(&mut peer.stack, newer, &mut data);
    read(&mut peer.stack, flow, &mut data);
    assert_eq!(data, b"newunread");
    assert_eq!(peer.stack.counters().tcp_time_wait_reused, 1);
}

#[test]
fn idle_peer_is_asked_and_a_dead_one_timed_out() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.advance(Duration::from_secs(59));
    assert_eq!(peer.segments(), []);
    peer.advance(Duration::from_secs(2));
    let probe = peer.segments().pop().unwrap();
    assert_eq!((probe.seq, probe.ack, probe.payload.len()), (ours.wrapping_sub(1), Some(seq), 0));
    // An answer starts the count anew.
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours), &[]);
    peer.advance(Duration::from_secs(59));
    assert_eq!(peer.segments(), []);
    peer.advance(Duration::from_secs(95));
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, Some(Outcome::TimedOut));
    assert_eq!(peer.stack.counters().tcp_keepalives_sent, 1 + 9);
}

#[test]
fn keepalive_of_one_flow_can_be_changed_and_switched_off() {
    let mut peer = Scripted::new();
    let (flow, _, _) = peer.accepted();
    peer.stack.tcp_set_keepalive(flow, Some(Duration::from_secs(5))).unwrap();
    peer.advance(Duration::from_secs(6));
    assert_eq!(peer.segments().len(), 1);
    peer.stack.tcp_set_keepalive(flow, None).unwrap();
    peer.advance(Duration::from_secs(3600));
    assert_eq!(peer.segments(), []);
    assert_eq!(peer.stack.tcp_status(flow).unwrap().closed, None);
}

#[test]
fn keepalive_between_two_stacks_is_answered() {
    let mut wire = Wire::new();
    let (client, server) = wire.connected();
    wire.run_for(Duration::from_secs(600));
    for (side, flow) in [(0, client), (1, server)] {
        assert_eq!(wire.stacks[side].tcp_status(flow).unwrap().closed, None);
    }
    let sent = wire.counters(0).tcp_keepalives_sent + wire.counters(1).tcp_keepalives_sent;
    assert!((9..=21).contains(&sent), "{sent} in ten minutes");
}

#[test]
fn nodelay_off_small_segments_wait_for_the_acknowledgement() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.stack.tcp_set_nodelay(flow, false).unwrap();
    for _ in 0..3 {
        write(&mut peer.stack, flow, b"x");
        peer.poll();
    }
    assert_eq!(peer.segments().len(), 1);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours.wrapping_add(1)), &[]);
    peer.poll();
    assert_eq!(peer.segments().pop().unwrap().payload, b"xx");
}

#[test]
fn release_with_no_linger_is_a_reset() {
    let mut peer = Scripted::new();
    let (flow, _, _) = peer.accepted();
    write(&mut peer.stack, flow, b"never mind");
    peer.stack.tcp_set_linger(flow, Some(Duration::ZERO)).unwrap();
    peer.stack.tcp_release(peer.now, flow);
    peer.poll();
    assert_eq!(peer.segments().pop().unwrap().control, TcpControl::Rst);
    assert_eq!(peer.stack.sockets().count(), 0);
}

#[test]
fn release_lingers_as_long_as_it_was_told() {
    let mut peer = Scripted::new();
    let (flow, _, _) = peer.accepted();
    write(&mut peer.stack, flow, b"unacknowledged");
    peer.stack.tcp_set_linger(flow, Some(Duration::from_secs(5))).unwrap();
    peer.stack.tcp_release(peer.now, flow);
    peer.advance(Duration::from_secs(4));
    assert_eq!(peer.stack.sockets().count(), 1);
    peer.advance(Duration::from_secs(2));
    assert_eq!(peer.stack.sockets().count(), 0);
    assert_eq!(peer.segments().pop().unwrap().control, TcpControl::Rst);
}

#[test]
fn connect_same_tuple_later_gets_a_later_sequence_number() {
    let mut peer = Scripted::new();
    let syn_ack = |peer: &mut Scripted| {
        let (_listener, _) = peer.stack.tcp_listen(Some(80), 8).unwrap();
        peer.segment((4000, 80), TcpControl::Syn, 1000, None, &[]);
        peer.poll();
        peer.arp_reply();
        let answer = peer.segments().into_iter().find(|seen| seen.control == TcpControl::Syn).unwrap();
        peer.stack.tcp_close_listener(peer.now, _listener);
        peer.poll();
        peer.queue.take();
        answer.seq
    };
    let first = syn_ack(&mut peer);
    peer.advance(Duration::from_millis(400));
    let second = syn_ack(&mut peer);
    // 4 us a tick (RFC 9293, 3.4.1): the engine has drawn exactly what was chosen for it.
    assert_eq!(second.wrapping_sub(first), 100_000);
}
