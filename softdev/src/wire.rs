//! A wire in memory between two devices, in virtual time: seeded loss, delay, reordering and duplication.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use netd_virtqueue::{OFFLOAD_BYTES, Offload};

use crate::Link;

/// Frames in flight in one direction at most; more are lost, as in a queue that is full.
const IN_FLIGHT_MAX: usize = 4096;

/// What the wire does to frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Impairment {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame arrives twice.
    pub duplication: f64,
    /// Probability that a frame is held back by `reordering_delay`, so that later ones overtake it.
    pub reordering: f64,
    /// How long a frame that is to be overtaken is held back.
    pub reordering_delay: Duration,
    /// How long every frame takes.
    pub delay: Duration,
}

/// Both directions of a wire, and its clock.
#[derive(Debug, Clone)]
pub struct Wire {
    state: Arc<Mutex<State>>,
}

/// When a frame arrives, its place in the order of sending, and its bytes behind what they lack.
type Arrival = (Duration, u64, Vec<u8>);

#[derive(Debug)]
struct State {
    now: Duration,
    random: Rng,
    impairment: Impairment,
    sent: u64,
    /// By the end that receives, the earliest first.
    in_flight: [BinaryHeap<Reverse<Arrival>>; 2],
}

impl Wire {
    /// A wire and its two ends. The same seed and the same traffic give the same fate to every frame.
    pub fn new(impairment: Impairment, seed: u64) -> (Self, WireEnd, WireEnd) {
        let state = State {
            now: Duration::ZERO,
            random: Rng::with_seed(seed),
            impairment,
            sent: 0,
            in_flight: Default::default(),
        };
        let wire = Self { state: Arc::new(Mutex::new(state)) };
        let end = |side| WireEnd { wire: wire.clone(), side };
        let (a, b) = (end(0), end(1));
        (wire, a, b)
    }

    /// Sets the wire's clock, which only goes forward.
    pub fn advance_to(&self, now: Duration) {
        let mut state = self.lock();
        state.now = state.now.max(now);
    }

    /// When the next frame arrives at either end.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.lock().in_flight.iter().filter_map(|queue| queue.peek().map(|Reverse((at, ..))| *at)).min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a wire.
#[derive(Debug)]
pub struct WireEnd {
    wire: Wire,
    side: usize,
}

impl Link for WireEnd {
    fn carries_offloads(&self) -> bool {
        true
    }

    fn send(&mut self, frame: &[u8], offload: &Offload) -> bool {
        let mut guard = self.wire.lock();
        let state = &mut *guard;
        let Impairment { loss, duplication, reordering, reordering_delay, delay } = state.impairment;
        let copies = match state.random.f64() {
            roll if roll < loss => 0,
            roll if roll < loss + duplication => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let held_back = if state.random.f64() < reordering { reordering_delay } else { Duration::ZERO };
            let queue = &mut state.in_flight[1 - self.side];
            if queue.len() < IN_FLIGHT_MAX {
                state.sent += 1;
                let bytes = [&offload.encode(), frame].concat();
                queue.push(Reverse((state.now + delay + held_back, state.sent, bytes)));
            }
        }
        true
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)> {
        let mut guard = self.wire.lock();
        let state = &mut *guard;
        let queue = &mut state.in_flight[self.side];
        if queue.peek().is_none_or(|Reverse((at, ..))| *at > state.now) {
            return None;
        }
        let Reverse((_, _, bytes)) = queue.pop()?;
        let (header, frame) = bytes.split_first_chunk::<OFFLOAD_BYTES>()?;
        buffer.get_mut(..frame.len())?.copy_from_slice(frame);
        Some((frame.len(), Offload::decode(header, frame.len()).ok()?))
    }

    fn is_up(&self) -> bool {
        true
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(impairment: Impairment, seed: u64) -> Vec<Vec<u8>> {
        let (wire, mut a, mut b) = Wire::new(impairment, seed);
        for number in 0..=255 {
            assert!(a.send(&[number], &Offload::NONE));
        }
        wire.advance_to(Duration::from_secs(1));
        let mut buffer = [0; 4];
        std::iter::from_fn(|| b.receive(&mut buffer).map(|(len, _)| buffer[..len].to_vec())).collect()
    }

    #[test]
    fn perfect_wire_keeps_order_and_delay() {
        let (wire, mut a, mut b) =
            Wire::new(Impairment { delay: Duration::from_millis(5), ..Default::default() }, 1);
        a.send(&[1], &Offload::NONE);
        a.send(&[2], &Offload::NONE);
        let mut buffer = [0; 4];
        assert_eq!(b.receive(&mut buffer), None);
        assert_eq!(wire.next_arrival(), Some(Duration::from_millis(5)));
        wire.advance_to(Duration::from_millis(5));
        assert_eq!((b.receive(&mut buffer), buffer[0]), (Some((1, Offload::NONE)), 1));
        assert_eq!((b.receive(&mut buffer), buffer[0]), (Some((1, Offload::NONE)), 2));
    }

    #[test]
    fn same_seed_gives_same_fate() {
        let rough = Impairment {
            loss: 0.1,
            duplication: 0.1,
            reordering: 0.1,
            reordering_delay: Duration::from_millis(3),
            delay: Duration::from_millis(1),
        };
        assert_eq!(fates(rough, 7), fates(rough, 7));
        assert_ne!(fates(rough, 7), fates(rough, 8));
        let arrived = fates(rough, 7);
        let mut sorted = arrived.clone();
        sorted.sort();
        assert_ne!(arrived, sorted, "nothing was overtaken");
        sorted.dedup();
        assert!(sorted.len() < 256, "nothing was lost");
        assert!(sorted.len() < arrived.len(), "nothing came twice");
    }
}
