//! The engine's defects, met on purpose: what the containment is for, and that the guard keeps them away.

use core::net::SocketAddr;
use std::vec::Vec;

use smoltcp::wire::TcpControl;

use super::engine::{Engine, Fault};
use super::segment::{Segment, Tuple};
use super::{FlowSink, Outcome};
use crate::counters::Counters;
use crate::ip::Parsed;
use crate::support::{A, B, Scripted, read, tcp, write};
use crate::{FlowId, ipv4};

/// Fills the window exactly, with a FIN on the last segment, then acknowledges from half the sequence space away, all
/// before our ACK leaves: smoltcp 0.14 underflows.
fn fill_window_then_acknowledge_from_afar(peer: &mut Scripted, seq: u32, ours: u32) {
    let mut next = seq;
    for _ in 0..65 {
        peer.segment((4000, 80), TcpControl::None, next, Some(ours), &[1; 1000]);
        next = next.wrapping_add(1000);
    }
    peer.segment((4000, 80), TcpControl::Fin, next, Some(ours), &[1; 535]);
    let receive_next = next.wrapping_add(536);
    peer.segment((4000, 80), TcpControl::None, receive_next.wrapping_add(0x7fff_ffff), Some(ours), &[]);
}

/// A second connection, opened by us to port 81, established.
fn neighbor_flow(peer: &mut Scripted) -> (FlowId, u16, u32) {
    let (flow, port, seq) = peer.connecting(81);
    peer.segment((81, port), TcpControl::Syn, 5000, Some(seq.wrapping_add(1)), &[]);
    peer.poll();
    assert!(peer.stack.tcp_status(flow).unwrap().established);
    (flow, port, seq.wrapping_add(1))
}

#[test]
fn engine_panics_flow_ends_and_others_go_on() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    let (other, other_port, other_seq) = neighbor_flow(&mut peer);
    peer.stack.tcp_mut().engine.guarded = false;
    peer.queue.take();
    fill_window_then_acknowledge_from_afar(&mut peer, seq, ours);
    let status = peer.stack.tcp_status(flow).unwrap();
    assert_eq!((status.closed, status.receive_finished), (Some(Outcome::EngineFault), false));
    assert_eq!(peer.stack.counters().tcp_engine_faults, 1);
    assert!(peer.segments().iter().any(|seen| seen.control == TcpControl::Rst), "the peer was not told");

    write(&mut peer.stack, other, b"still");
    peer.segment((81, other_port), TcpControl::None, 5001, Some(other_seq), b"here");
    peer.poll();
    let mut data = Vec::new();
    read(&mut peer.stack, other, &mut data);
    assert_eq!(data, b"here");
    assert!(peer.segments().iter().any(|seen| seen.payload == b"still"));
    // And new ones can be made, on the interface that was made anew.
    peer.stack.tcp_connect(peer.now, SocketAddr::from((B, 82))).unwrap();
    peer.poll();
    assert!(peer.segments().iter().any(|seen| seen.control == TcpControl::Syn));
}

#[test]
fn guard_stops_the_segment_that_makes_the_engine_panic() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    fill_window_then_acknowledge_from_afar(&mut peer, seq, ours);
    assert_eq!(peer.stack.counters().tcp_engine_faults, 0);
    assert_eq!(peer.stack.counters().drop_tcp_sequence, 1);
    let mut data = Vec::new();
    while read(&mut peer.stack, flow, &mut data) > 0 {}
    assert_eq!(data.len(), 65_535);
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
}

#[test]
fn engine_without_guard_takes_truncated_data_for_the_end() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.stack.tcp_mut().engine.guarded = false;
    let mut next = seq;
    for _ in 0..65 {
        peer.segment((4000, 80), TcpControl::None, next, Some(ours), &[1; 1000]);
        next = next.wrapping_add(1000);
        peer.poll();
    }
    peer.segment((4000, 80), TcpControl::Fin, next, Some(ours), &[1; 1000]);
    let mut data = Vec::new();
    while read(&mut peer.stack, flow, &mut data) > 0 {}
    // 66,000 octets were sent. If this fails, smoltcp has mended it, and the guard's trimming can go.
    assert_eq!(data.len(), 65_535);
    assert!(peer.stack.tcp_status(flow).unwrap().receive_finished);
}

#[test]
fn engine_without_guard_drops_data_behind_an_old_acknowledgement() {
    let mut peer = Scripted::new();
    let (flow, seq, ours) = peer.accepted();
    peer.stack.tcp_mut().engine.guarded = false;
    write(&mut peer.stack, flow, b"question");
    peer.poll();
    peer.segment((4000, 80), TcpControl::None, seq.wrapping_add(6), Some(ours.wrapping_add(8)), &[]);
    peer.segment((4000, 80), TcpControl::None, seq, Some(ours), b"answer");
    let mut data = Vec::new();
    // If this fails, smoltcp has mended it, and the guard's rewriting can go.
    assert_eq!(read(&mut peer.stack, flow, &mut data), 0);
}

#[test]
fn engine_syn_before_our_syn_left_panics_without_guard_and_is_dropped_with_it() {
    let tuple = Tuple { local: (A.into(), 5000), remote: (B.into(), 80) };
    let frame = tcp((80, 5000), TcpControl::Syn, 1, None, &[]);
    let parsed = ipv4::parse(&frame[14..], &mut Counters::default());
    let Some(Parsed::Whole(packet)) = parsed else { panic!("not a packet") };
    let segment = Segment::parse(&packet).unwrap();
    for guarded in [false, true] {
        let mut peer = Scripted::new();
        peer.queue.room = 0;
        let (now, mut engine) = (peer.now, Engine::new(crate::random::Random::new(&[1; 32])));
        engine.guarded = guarded;
        let mut connection = engine.connect(tuple, 1500, 7).unwrap();
        let network = peer.stack.network_mut();
        let mut sink = FlowSink { now, destination: B.into(), network, egress: &mut peer.queue };
        engine.ingress(now, &mut connection, (packet.whole, &segment), &mut sink).unwrap();
        // The first egress only starts the engine's clock.
        let sent = engine.egress(now, &mut connection, &mut sink);
        let deadline = engine.deadline(now, &connection);
        if guarded {
            assert!(sent.is_ok() && deadline.is_ok());
        } else {
            assert!(sent == Err(Fault) || deadline == Err(Fault), "{sent:?} {deadline:?}");
        }
    }
}
