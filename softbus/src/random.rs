//! Randomness, which the caller supplies like time.

use core::time::Duration;

use crate::time::micros;

/// A source of random bytes. What it gives becomes keys, cookies and PINs: outside of tests it must be the system's own
/// (getrandom(2)), and a source that fails must not return.
pub trait Random {
    /// Fills `bytes` entirely.
    fn fill(&mut self, bytes: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Random for F {
    fn fill(&mut self, bytes: &mut [u8]) {
        self(bytes);
    }
}

/// So many random bytes.
pub(crate) fn array<const N: usize>(random: &mut dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// A number below `bound`, each as likely as the others: values of the last, incomplete round are drawn again.
pub(crate) fn below(random: &mut dyn Random, bound: u64) -> u64 {
    let bound = bound.max(1);
    let whole_rounds = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = u64::from_le_bytes(array(random));
        if drawn < whole_rounds {
            return drawn % bound;
        }
    }
}

/// Between three quarters of `duration` and all of it, so that those who began together drift apart.
pub(crate) fn jittered(random: &mut dyn Random, duration: Duration) -> Duration {
    let whole = micros(duration);
    Duration::from_micros(whole - below(random, whole / 4 + 1))
}
