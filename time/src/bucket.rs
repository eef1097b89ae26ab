//! A token bucket: so many at once, so many per second.

use core::time::Duration;

use crate::Instant;

const TOKEN: u64 = 1_000_000;

/// So many at once, so many per second.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: u32,
    burst: u32,
    /// Millionths of a token.
    level: u64,
    updated: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Bucket {
        Bucket { per_second, burst, level: u64::from(burst) * TOKEN, updated: Instant::ZERO }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let micros = now.as_micros().saturating_sub(self.updated.as_micros());
        let gained = micros.saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(u64::from(self.burst) * TOKEN);
        self.updated = self.updated.max(now);
        if self.level < TOKEN {
            return false;
        }
        self.level -= TOKEN;
        true
    }

    /// When the next token is there, as of the last `take`.
    #[must_use]
    pub fn next(&self) -> Instant {
        let missing = TOKEN.saturating_sub(self.level);
        self.updated + Duration::from_micros(missing.div_ceil(u64::from(self.per_second.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_empty_refills_with_time_and_says_when_the_next_token_comes() {
        let mut bucket = Bucket::new(10, 2);
        assert!(bucket.take(Instant::ZERO) && bucket.take(Instant::ZERO));
        assert!(!bucket.take(Instant::ZERO));
        assert_eq!(bucket.next(), Instant::from_micros(100_000));
        assert!(!bucket.take(Instant::from_micros(99_999)));
        assert!(bucket.take(Instant::from_micros(100_000)));
    }
}
