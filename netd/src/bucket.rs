//! A token bucket: so many at once, so many per second after that.

use std::time::Duration;

/// A bucket that holds at most one second's worth, or its own burst. Times count from any start, the same for all calls.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    burst: u32,
    per_second: u32,
    tokens: u32,
    refilled: Duration,
}

impl Bucket {
    /// A full bucket. Neither number is 0: a bucket that never gives anything is a switch.
    pub(crate) fn new(burst: u32, per_second: u32, now: Duration) -> Bucket {
        let (burst, per_second) = (burst.max(1), per_second.max(1));
        Bucket { burst, per_second, tokens: burst, refilled: now }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let has = self.available(now) > 0;
        self.spend(u32::from(has));
        has
    }

    /// How many tokens there are.
    pub(crate) fn available(&mut self, now: Duration) -> u32 {
        let interval = self.interval();
        let due = now.saturating_sub(self.refilled).as_nanos() / interval.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(due) >= self.burst {
            (self.tokens, self.refilled) = (self.burst, now);
        } else {
            self.tokens += due;
            self.refilled += interval * due;
        }
        self.tokens
    }

    /// Takes tokens that [`available`](Self::available) said were there.
    pub(crate) fn spend(&mut self, count: u32) {
        self.tokens = self.tokens.saturating_sub(count);
    }

    /// When there will be a token, if there is none.
    pub(crate) fn next_at(&self) -> Duration {
        self.refilled + self.interval()
    }

    /// Tokens that are out.
    pub(crate) fn used(&self) -> u32 {
        self.burst - self.tokens
    }

    /// Changes the rate; what is out stays out.
    pub(crate) fn set_rate(&mut self, burst: u32, per_second: u32) {
        let used = self.used();
        (self.burst, self.per_second) = (burst.max(1), per_second.max(1));
        self.tokens = self.burst.saturating_sub(used);
    }

    fn interval(&self) -> Duration {
        // Never 0: a billion per second is more than anything here is asked for.
        (Duration::from_secs(1) / self.per_second).max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_refills_at_the_rate_and_never_beyond_the_burst() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::new(20, 5, at(0));
        assert_eq!((0..100).filter(|_| bucket.take(at(0))).count(), 20);
        assert!(!bucket.take(at(199)));
        assert!(bucket.take(at(200)));
        assert!(!bucket.take(at(399)));
        assert_eq!(bucket.next_at(), at(400));
        assert!(bucket.take(at(400)));
        assert_eq!((0..100).filter(|_| bucket.take(at(3_600_000))).count(), 20);
    }

    #[test]
    fn set_rate_keeps_what_is_out() {
        let mut bucket = Bucket::new(10, 10, Duration::ZERO);
        bucket.spend(8);
        bucket.set_rate(4, 4);
        assert!(!bucket.take(Duration::ZERO));
        bucket.set_rate(20, 20);
        assert_eq!(bucket.available(Duration::ZERO), 16);
    }
}
