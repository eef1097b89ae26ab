//! Bounds on how often: a sliding window and a back-off, beside the token bucket of `netd-time`.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::random::{Random, jittered};
use crate::time::Instant;

/// At most `limit` in any period: exact, where a bucket would admit up to twice as many.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    limit: u32,
    period: Duration,
    /// When the last `limit` were admitted, the oldest first.
    admitted: VecDeque<Instant>,
}

impl Window {
    pub(crate) fn new(limit: u32, period: Duration) -> Window {
        Window { limit, period, admitted: VecDeque::new() }
    }

    /// Admits one more, unless the period already has as many as it may.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        while self.admitted.front().is_some_and(|oldest| *oldest + self.period <= now) {
            self.admitted.pop_front();
        }
        if self.admitted.len() >= usize::try_from(self.limit).unwrap_or(usize::MAX) {
            return false;
        }
        self.admitted.push_back(now);
        true
    }
}

/// Doubling pauses between attempts that fail.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Instant,
}

impl Backoff {
    /// An attempt failed: the pause begins, twice as long as the last one and at most `max`.
    pub(crate) fn failed(&mut self, now: Instant, min: Duration, max: Duration, random: &mut dyn Random) {
        let doubled = min.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        self.until = now + jittered(random, doubled.min(max)).max(min);
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// Until when nothing is to be tried; in the past when something may be.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_full_admits_exactly_its_limit_in_any_period() {
        let mut window = Window::new(3, Duration::from_secs(30));
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        assert!(window.admit(at(0)) && window.admit(at(20)) && window.admit(at(29)));
        assert!(!window.admit(at(29)));
        assert!(window.admit(at(30)));
        assert!(!window.admit(at(49)), "two of 20..50 and the one of 30 are still in the period");
    }

    #[test]
    fn backoff_after_failures_doubles_to_its_bound_and_starts_anew_after_success() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut seeded = fastrand::Rng::with_seed(7);
        let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
        let mut backoff = Backoff::default();
        let mut pauses = alloc::vec::Vec::new();
        for _ in 0..40 {
            backoff.failed(Instant::ZERO, min, max, &mut random);
            pauses.push(Duration::from_micros(backoff.until().as_micros()));
        }
        assert!(pauses.iter().all(|pause| (min..=max).contains(pause)), "{pauses:?}");
        assert!(pauses[39] >= max * 3 / 4 && pauses[3] < Duration::from_secs(9));
        backoff.succeeded();
        assert_eq!(backoff.until(), Instant::ZERO);
    }
}
