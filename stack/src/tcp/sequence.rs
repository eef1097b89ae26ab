//! Initial sequence numbers (RFC 6528): a clock of 4 microseconds plus a keyed hash of both ends.
//!
//! Two connections of the same four addresses and ports get numbers that only grow, so that an old segment is not taken for a new
//! one and a TIME-WAIT gives way to a new SYN; what another tuple gets tells nothing, because the hash is keyed.

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::segment::Tuple;
use crate::random::Random;
use crate::time::Instant;

/// One tick of the clock M (RFC 6528, 3; RFC 9293, 3.4.1).
const TICK_MICROS: u64 = 4;

/// The engine's generator (smoltcp 0.14 `rand.rs`): the state's next value is `state * MULTIPLIER + INCREMENT`, and the number drawn is
/// 32 bits of it, from bit 29 on when the upper three bits are clear.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;

pub(crate) struct SequenceNumbers {
    key: (u64, u64),
}

impl SequenceNumbers {
    pub(crate) fn new(random: &mut Random) -> SequenceNumbers {
        SequenceNumbers { key: (random.next_u64(), random.next_u64()) }
    }

    /// ISN = M + F(local address, local port, remote address, remote port, secret).
    pub(crate) fn initial(&self, now: Instant, tuple: &Tuple) -> u32 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        for (address, port) in [tuple.local, tuple.remote] {
            match address {
                core::net::IpAddr::V4(address) => hasher.write(&address.octets()),
                core::net::IpAddr::V6(address) => hasher.write(&address.octets()),
            }
            hasher.write_u16(port);
        }
        let clock = now.as_micros() / TICK_MICROS;
        (hasher.finish() as u32).wrapping_add(clock as u32)
    }
}

/// The seed with which the engine's generator gives `number` to the next connection: its steps, taken backwards. Before the number an
/// interface draws 16 bits for itself, and again for as long as they are zero.
pub(crate) fn engine_seed_for(number: u32) -> u64 {
    let back = |state: u64| state.wrapping_sub(INCREMENT).wrapping_mul(inverse(MULTIPLIER));
    // The lower 29 bits are free; one in 65,536 makes the draw before come out as zero.
    let mut state = u64::from(number) << 29;
    while low_half_of_draw(back(state)) == 0 {
        state += 1;
    }
    back(back(state))
}

/// What the generator draws in this state.
fn draw(state: u64) -> u32 {
    (state >> (29 - (state >> 61))) as u32
}

fn low_half_of_draw(state: u64) -> u16 {
    let drawn = draw(state);
    (drawn ^ (drawn >> 16)) as u16
}

/// The multiplicative inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the correct bits, from 3.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn tuple(port: u16) -> Tuple {
        Tuple {
            local: (Ipv4Addr::new(10, 0, 0, 1).into(), port),
            remote: (Ipv4Addr::new(10, 0, 0, 2).into(), 80),
        }
    }

    #[test]
    fn initial_same_tuple_grows_with_the_clock_and_other_tuple_is_unrelated() {
        let numbers = SequenceNumbers::new(&mut Random::new(&[3; 32]));
        let at = Instant::from_micros;
        let first = numbers.initial(at(1_000_000), &tuple(1));
        assert_eq!(numbers.initial(at(1_000_400), &tuple(1)).wrapping_sub(first), 100);
        assert!(numbers.initial(at(1_000_000), &tuple(2)).wrapping_sub(first) > 1 << 16);
        let other_key = SequenceNumbers::new(&mut Random::new(&[4; 32]));
        assert_ne!(other_key.initial(at(1_000_000), &tuple(1)), first);
    }

    #[test]
    fn engine_seed_makes_its_generator_draw_the_number() {
        let step = |state: u64| state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        for number in (0..200_000).chain([0x7fff_ffff, 0x8000_0000, u32::MAX]) {
            let first = step(engine_seed_for(number));
            assert_ne!(low_half_of_draw(first), 0);
            assert_eq!(draw(step(first)), number);
        }
    }
}
