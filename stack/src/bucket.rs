//! A token bucket: so many at once, so many per second.

use crate::time::Instant;

pub(crate) struct Bucket {
    per_second: u32,
    burst: u32,
    /// Millionths of a token.
    level: u64,
    updated: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(per_second: u32, burst: u32) -> Bucket {
        Bucket { per_second, burst, level: u64::from(burst) * TOKEN, updated: Instant::ZERO }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let micros = now.as_micros().saturating_sub(self.updated.as_micros());
        let gained = micros.saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(u64::from(self.burst) * TOKEN);
        self.updated = now;
        if self.level < TOKEN {
            return false;
        }
        self.level -= TOKEN;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_empty_refills_with_time() {
        let mut bucket = Bucket::new(10, 2);
        assert!(bucket.take(Instant::ZERO) && bucket.take(Instant::ZERO));
        assert!(!bucket.take(Instant::ZERO));
        assert!(!bucket.take(Instant::from_micros(99_999)));
        assert!(bucket.take(Instant::from_micros(100_000)));
    }
}
