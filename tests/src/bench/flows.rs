//! What a packet costs the stack, by the number of established connections - beside smoltcp with all of them in one socket set.
//!
//! Both get the same frames: one-byte segments, in order on each connection, connections in random order, and both send their
//! acknowledgements. Checksums are verified and made. The frames are built before the clock starts, and the clock is that of the
//! thread's processor time: what others do on the machine costs cache lines, but no time.
#![expect(
    clippy::expect_used,
    reason = "a benchmark whose steps fail has measured nothing; each says what it relies on"
)]

use std::hint::black_box;
use std::time::Duration;

use netd_stack::{FlowId, Limits, Stack};
use serde::Serialize;
use smoltcp::wire::TcpControl;

use super::account::thread_time;
use super::frames::{self, ETHERNET, NOW, Out, PORT, Peer, sent};
use super::one_set;
use super::report::{Console, Report, median};
use crate::error::Result;

/// Established connections.
const COUNTS: [usize; 5] = [1, 100, 1_000, 10_000, 100_000];
/// Segments that are measured, at most; fewer where each is slow.
pub(super) const SEGMENTS: usize = 200_000;
/// Nobody reads, so one connection takes no more than its receive buffer holds.
pub(super) const SEGMENTS_PER_FLOW: usize = 60_000;
/// The segments are measured in this many parts, of which the median counts.
const PARTS: usize = 5;
/// Connections that one big socket set is measured with: beyond, setting it up takes minutes.
const ONE_SET_MAX: usize = 10_000;

/// The cost at one number of connections, in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Row {
    /// Established connections.
    pub(super) flows: usize,
    /// Our stack: one segment in, its acknowledgement out.
    pub(super) packet: f64,
    /// Our stack: one pass over the timers with nothing due, and asking for the next.
    pub(super) timers: f64,
    /// One smoltcp socket set: one segment in, its acknowledgement out.
    pub(super) one_set_packet: Option<f64>,
    /// One smoltcp socket set: `poll_at`.
    pub(super) one_set_timers: Option<f64>,
}

/// Measures both at each number of connections, and prints each row as it is there.
pub(super) fn run(console: &Console) -> Result<()> {
    console
        .progress("nanoseconds per one-byte segment with its acknowledgement, and per pass over the timers");
    let header = ["connections", "packet", "timer pass", "one set: packet", "one set: timers", "ratio"];
    let table = console.table(&header);
    let measure = |&flows: &usize| {
        let (packet, timers) = measure_stack(flows);
        let one_set = (flows <= ONE_SET_MAX).then(|| one_set::measure(flows));
        let row = Row {
            flows,
            packet,
            timers,
            one_set_packet: one_set.map(|(packet, _)| packet),
            one_set_timers: one_set.map(|(_, timers)| timers),
        };
        let whole = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let ratio = row.one_set_packet.map(|other| format!("{:.1}", other / packet));
        table.row(&[
            flows.to_string(),
            whole(Some(packet)),
            format!("{timers:.1}"),
            whole(row.one_set_packet),
            whole(row.one_set_timers),
            ratio.unwrap_or_else(|| "-".to_owned()),
        ]);
        row
    };
    let rows: Vec<Row> = COUNTS.iter().map(measure).collect();
    console.finish(&Report::new("flows", rows))
}

/// What to send after the handshakes: for each step a frame of a random connection.
pub(super) fn traffic(peers: &mut [Peer], steps: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(1);
    let next = |_| {
        let peer = &mut peers[random.usize(..peers.len())];
        let frame = peer.frame(TcpControl::Psh, b"x");
        peer.sequence = peer.sequence.wrapping_add(1);
        frame
    };
    (0..steps).map(next).collect()
}

/// Since `start` on this thread's processor time.
pub(super) fn nanoseconds(start: Duration, count: usize) -> f64 {
    (thread_time() - start).as_nanos() as f64 / count as f64
}

fn measure_stack(flows: usize) -> (f64, f64) {
    let (mut stack, mut out, mut peers) = established(flows);
    let frames = traffic(&mut peers, SEGMENTS.min(flows * SEGMENTS_PER_FLOW));
    out.keep_nothing();
    let before = out.sent;
    let mut parts = Vec::new();
    for part in frames.chunks(frames.len().div_ceil(PARTS)) {
        let start = thread_time();
        for frame in part {
            stack.handle_frame(NOW, black_box(frame), &mut out);
            stack.poll(NOW, &mut out);
            while let Some(ready) = stack.next_ready() {
                black_box(ready);
            }
        }
        parts.push(nanoseconds(start, part.len()));
    }
    assert_eq!(out.sent - before, frames.len(), "every segment is acknowledged");
    let start = thread_time();
    for _ in 0..SEGMENTS {
        black_box(stack.poll(NOW, &mut out));
        black_box(stack.poll_timeout());
    }
    (median(&parts), nanoseconds(start, SEGMENTS))
}

/// A stack with `flows` accepted connections.
fn established(flows: usize) -> (Stack, Out, Vec<Peer>) {
    let mut out = Out::new(8);
    let limits = Limits { flows: flows + 16, ..Limits::default() };
    let mut stack = frames::stack(limits, &mut out).expect("the configuration is a valid one");
    let (listener, _) = stack.tcp_listen(Some(PORT), 128).expect("nobody else listens");
    let mut peers: Vec<Peer> = (0..flows).map(Peer::new).collect();
    for peer in &mut peers {
        stack.handle_frame(NOW, &peer.frame(TcpControl::Syn, &[]), &mut out);
        stack.poll(NOW, &mut out);
        let answer = out.take().find_map(|frame| sent(&frame[ETHERNET..]));
        peer.hear(&answer.expect("a SYN is answered"));
        peer.sequence = peer.sequence.wrapping_add(1);
        stack.handle_frame(NOW, &peer.frame(TcpControl::None, &[]), &mut out);
        stack.poll(NOW, &mut out);
        let accepted: Option<FlowId> = stack.tcp_accept(listener).expect("the listener is there");
        accepted.expect("the handshake is complete");
        while stack.next_ready().is_some() {}
        out.take().for_each(drop);
    }
    (stack, out, peers)
}
