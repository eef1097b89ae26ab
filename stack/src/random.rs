//! Randomness and keyed hashing, both derived from the secret seed in [`Config`](crate::Config).
//!
//! Given the same seed and the same calls the stack behaves the same, which is what lets a failing test be replayed; given
//! a secret seed a peer can neither predict a port or sequence number nor aim at one bucket of a table.

use core::hash::{BuildHasher, Hasher};
use std::collections::{HashMap, HashSet};

use siphasher::sip::{SipHasher13, SipHasher24};

/// A map whose bucket order no peer can choose.
pub(crate) type KeyedMap<K, V> = HashMap<K, V, KeyedState>;
/// A set whose bucket order no peer can choose.
pub(crate) type KeyedSet<K> = HashSet<K, KeyedState>;

/// SipHash-1-3 under a secret key: the strength that std's own maps use, without their per-process randomness.
#[derive(Clone)]
pub(crate) struct KeyedState {
    key: (u64, u64),
}

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}

/// A generator of unpredictable numbers: SipHash-2-4, a pseudo-random function, over a counter.
pub(crate) struct Random {
    key: (u64, u64),
    counter: u64,
}

impl Random {
    /// Splits the 32 bytes of the secret into the generator's key and a source of hash keys.
    pub(crate) fn new(seed: &[u8; 32]) -> Random {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&seed[index * 8..index * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        // All 32 bytes matter: the second half whitens the first.
        let mut mixer = SipHasher24::new_with_keys(word(2), word(3));
        mixer.write_u64(word(0));
        let high = mixer.finish();
        mixer.write_u64(word(1));
        Random { key: (word(0) ^ high, word(1) ^ mixer.finish()), counter: 0 }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        hasher.finish()
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    pub(crate) fn next_u16(&mut self) -> u16 {
        (self.next_u64() >> 48) as u16
    }

    /// A number in `0..bound`; the bias of the modulus is below 2^-32 for the bounds used here.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (self.next_u64() % u64::from(bound.max(1))) as u32
    }

    /// A generator of its own, whose numbers tell nothing about this one's.
    pub(crate) fn fork(&mut self) -> Random {
        Random { key: (self.next_u64(), self.next_u64()), counter: 0 }
    }

    /// A hasher with a fresh key of its own, so that tables do not share a weakness.
    pub(crate) fn keyed_state(&mut self) -> KeyedState {
        KeyedState { key: (self.next_u64(), self.next_u64()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_same_seed_repeats_and_other_seed_differs() {
        let draw = |byte: u8| {
            let mut random = Random::new(&[byte; 32]);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn generator_every_seed_byte_matters() {
        let base = Random::new(&[7; 32]).next_u64();
        for index in 0..32 {
            let mut seed = [7; 32];
            seed[index] ^= 1;
            assert_ne!(Random::new(&seed).next_u64(), base, "byte {index} of the seed is ignored");
        }
    }
}
