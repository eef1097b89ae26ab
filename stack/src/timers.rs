//! Deadlines of everything in the stack: one binary heap, with lazy deletion.
//!
//! Whoever owns a deadline remembers it (`armed`) and ignores an expiry that does not match: re-arming is one push, and no
//! timer is ever searched for. The price is stale entries. They leave when their time comes, and [`Timers::arm`] pushes only
//! when the deadline moves *earlier* (a later one is found out when the earlier fires), which happens a few times in the
//! life of a flow instead of once per packet.

use core::cmp::Reverse;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BinaryHeap;

use crate::time::Instant;

/// Whose deadline it is. Owners check that they still exist and still mean this deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    Flow(u64),
    Neighbor(IpAddr),
    Ping(u64),
    Dhcp,
    /// Everything about our IPv6 addresses and routers.
    Ipv6,
    /// Group membership.
    Groups,
    /// The claim to one of our IPv4 addresses.
    Claim(Ipv4Addr),
    Dhcp6,
    /// Configured addresses that somebody else had.
    Retry,
    Reassembly(u64),
}

/// A deadline as its owner remembers it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Armed(Option<Instant>);

impl Armed {
    /// Called by the owner when its timer fires: true if this is the deadline it armed last.
    pub(crate) fn fires(&mut self, deadline: Instant) -> bool {
        if self.0 == Some(deadline) {
            self.0 = None;
            return true;
        }
        false
    }
}

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Makes `timer` fire at `deadline` or earlier.
    pub(crate) fn arm(&mut self, armed: &mut Armed, timer: Timer, deadline: Instant) {
        if armed.0.is_none_or(|current| deadline < current) {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, timer)));
        }
    }

    /// Makes a timer that is never moved fire at `deadline`.
    pub(crate) fn arm_once(&mut self, timer: Timer, deadline: Instant) {
        self.heap.push(Reverse((deadline, timer)));
    }

    /// The next timer that is due, taken off the heap.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let &Reverse((deadline, timer)) = self.heap.peek()?;
        if deadline > now {
            return None;
        }
        self.heap.pop();
        Some((deadline, timer))
    }

    /// The earliest deadline; possibly a stale one, which costs one idle wake-up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_moved_later_pushes_nothing_and_fires_once_early() {
        let mut timers = Timers::default();
        let mut armed = Armed::default();
        let at = Instant::from_micros;
        timers.arm(&mut armed, Timer::Flow(1), at(100));
        timers.arm(&mut armed, Timer::Flow(1), at(500));
        assert_eq!(timers.len(), 1);
        let (deadline, _) = timers.expired(at(100)).unwrap();
        assert!(armed.fires(deadline));
    }

    #[test]
    fn timer_moved_earlier_makes_old_deadline_stale() {
        let mut timers = Timers::default();
        let mut armed = Armed::default();
        let at = Instant::from_micros;
        timers.arm(&mut armed, Timer::Flow(1), at(500));
        timers.arm(&mut armed, Timer::Flow(1), at(100));
        let (deadline, _) = timers.expired(at(100)).unwrap();
        assert!(armed.fires(deadline));
        let (stale, _) = timers.expired(at(500)).unwrap();
        assert!(!armed.fires(stale));
    }
}
