//! A token bucket: so many at once, so many per second.

use core::time::Duration;

use crate::Instant;

/// Millionths of a token come by the microsecond, so a rate needs no fractions.
const TOKEN: u64 = 1_000_000;

/// So many at once, so many per second. Neither is 0: a bucket that never gives anything is a switch.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: u32,
    burst: u32,
    /// In millionths of a token.
    level: u64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Bucket {
        let (per_second, burst) = (per_second.max(1), burst.max(1));
        Bucket { per_second, burst, level: u64::from(burst) * TOKEN, filled: Instant::ZERO }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let has = self.available(now) > 0;
        self.spend(u32::from(has));
        has
    }

    /// How many tokens there are.
    pub fn available(&mut self, now: Instant) -> u32 {
        let micros = u64::try_from((now - self.filled).as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(self.full());
        self.filled = self.filled.max(now);
        u32::try_from(self.level / TOKEN).unwrap_or(u32::MAX)
    }

    /// Takes tokens that [`available`](Self::available) said were there.
    pub fn spend(&mut self, count: u32) {
        self.level = self.level.saturating_sub(u64::from(count) * TOKEN);
    }

    /// When there is a token, if nobody takes one until then.
    #[must_use]
    pub fn next(&self) -> Instant {
        let missing = TOKEN.saturating_sub(self.level);
        self.filled + Duration::from_micros(missing.div_ceil(u64::from(self.per_second)))
    }

    /// Tokens that are out.
    #[must_use]
    pub fn used(&self) -> u32 {
        u32::try_from((self.full() - self.level).div_ceil(TOKEN)).unwrap_or(u32::MAX)
    }

    /// Changes the rate; what is out stays out.
    pub fn set_rate(&mut self, per_second: u32, burst: u32) {
        let out = self.full() - self.level;
        (self.per_second, self.burst) = (per_second.max(1), burst.max(1));
        self.level = self.full().saturating_sub(out);
    }

    fn full(&self) -> u64 {
        u64::from(self.burst) * TOKEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn take_refills_at_the_rate_and_never_beyond_the_burst() {
        let mut bucket = Bucket::new(5, 20);
        assert_eq!((0..100).filter(|_| bucket.take(at(0))).count(), 20);
        assert!(!bucket.take(at(199)));
        assert!(bucket.take(at(200)));
        assert!(!bucket.take(at(399)));
        assert_eq!(bucket.next(), at(400));
        assert!(bucket.take(at(400)));
        assert_eq!((0..100).filter(|_| bucket.take(at(3_600_000))).count(), 20);
    }

    #[test]
    fn take_of_the_past_gives_nothing_twice() {
        let mut bucket = Bucket::new(1, 1);
        assert!(bucket.take(at(5000)));
        assert!(!bucket.take(at(1000)));
        assert!(!bucket.take(at(5999)));
        assert!(bucket.take(at(6000)));
    }

    #[test]
    fn set_rate_keeps_what_is_out() {
        let mut bucket = Bucket::new(10, 10);
        bucket.spend(8);
        assert_eq!(bucket.used(), 8);
        bucket.set_rate(4, 4);
        assert!(!bucket.take(at(0)));
        bucket.set_rate(20, 20);
        assert_eq!(bucket.available(at(0)), 16);
    }
}
