//! First contact: a PIN, shown on one side and typed on the other, becomes proof that nobody sits between.
//!
//! SPAKE2 over the session that the handshake made. Its identities carry the handshake's hash, so that the proof is about this very
//! session, with exactly these two keys. A PIN that was merely hashed could be searched offline; in a PAKE each guess costs a run,
//! and the side that shows the PIN counts runs.
//!
//! ```text
//!  typed                                    shown
//!    X = SPAKE2(A, PIN)  ------ PAKE ---->  a try is used up
//!                        <----- PAKE -----  Y = SPAKE2(B, PIN)
//!    MAC(K, "typed")     ---- CONFIRM --->  right? then pinned; else the session ends
//!    right? then pinned  <--- CONFIRM ----  MAC(K, "shown")
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use blake2::Blake2sMac256;
use blake2::digest::Mac as _;
use rand_core::{CryptoRng, RngCore};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::noise::HASH_BYTES;
use crate::error::Error;
use crate::random::{Random, below};

/// Digits of a PIN that we draw.
const PIN_DIGITS: usize = 6;
/// Digits of a PIN that somebody typed: other implementations may draw longer ones.
const PIN_DIGITS_MAX: usize = 12;
const TYPED: &[u8] = b"netd-softbus pairing v1, typed";
const SHOWN: &[u8] = b"netd-softbus pairing v1, shown";
/// SPAKE2's message: the side and a point.
#[cfg(test)]
const PAKE_BYTES: usize = 33;

/// 6 to 12 digits. Wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Zeroizing<String>);

impl Pin {
    pub(super) fn draw(random: &mut dyn Random) -> Pin {
        let number = below(random, 10_u64.pow(6));
        Pin(Zeroizing::new(alloc::format!("{number:0PIN_DIGITS$}")))
    }

    /// The digits, to be shown.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(typed: &str) -> Result<Pin, Error> {
        let right = (PIN_DIGITS..=PIN_DIGITS_MAX).contains(&typed.len())
            && typed.bytes().all(|byte| byte.is_ascii_digit());
        if right { Ok(Pin(Zeroizing::new(typed.into()))) } else { Err(Error::InvalidPin) }
    }
}

/// Without the digits.
impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// The caller's source, as spake2 wants it.
struct Source<'a>(&'a mut dyn Random);

impl RngCore for Source<'_> {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// [`Random`]'s contract asks for it.
impl CryptoRng for Source<'_> {}

/// Which side of the PIN we are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Typed,
    Shown,
}

/// One run, until the peer's message comes.
pub(super) struct Exchange {
    state: Spake2<Ed25519Group>,
    side: Side,
    hash: [u8; HASH_BYTES],
}

/// The key that both have if both had the same PIN.
pub(super) struct Agreed {
    key: Zeroizing<Vec<u8>>,
    side: Side,
    hash: [u8; HASH_BYTES],
}

impl Exchange {
    /// Begins a run; gives the message for the peer.
    pub(super) fn begin(
        side: Side,
        pin: &Pin,
        hash: [u8; HASH_BYTES],
        random: &mut dyn Random,
    ) -> (Exchange, Vec<u8>) {
        let name = |label: &[u8]| Identity::new(&[label, &hash].concat());
        let (typed, shown) = (name(TYPED), name(SHOWN));
        let password = Password::new(pin.digits());
        let (state, message) = match side {
            Side::Typed => Spake2::start_a_with_rng(&password, &typed, &shown, Source(random)),
            Side::Shown => Spake2::start_b_with_rng(&password, &typed, &shown, Source(random)),
        };
        (Exchange { state, side, hash }, message)
    }

    /// The peer's message.
    pub(super) fn finish(self, message: &[u8]) -> Result<Agreed, Error> {
        let Exchange { state, side, hash } = self;
        let key = state.finish(message).map_err(|_| Error::NotAuthentic { message: "pairing message" })?;
        Ok(Agreed { key: Zeroizing::new(key), side, hash })
    }
}

impl Agreed {
    fn mac(&self, label: &[u8]) -> Result<Blake2sMac256, Error> {
        let mac = Blake2sMac256::new_from_slice(&self.key);
        let mac = mac.map_err(|_| Error::Crypto { what: "the key of a pairing" })?;
        Ok(mac.chain_update(label).chain_update(self.hash))
    }

    /// What proves to the peer that we had the PIN.
    pub(super) fn proof(&self) -> Result<Vec<u8>, Error> {
        let label = if self.side == Side::Typed { TYPED } else { SHOWN };
        Ok(self.mac(label)?.finalize().into_bytes().to_vec())
    }

    /// Whether the peer had the PIN. Compared in constant time.
    pub(super) fn check(&self, proof: &[u8]) -> Result<(), Error> {
        let label = if self.side == Side::Typed { SHOWN } else { TYPED };
        self.mac(label)?.verify_slice(proof).map_err(|_| Error::WrongPin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(typed: &str, hashes: [u8; 2]) -> Result<(), Error> {
        let mut seeded = fastrand::Rng::with_seed(3);
        let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
        let shown: Pin = "123456".parse().unwrap();
        let (one, x) = Exchange::begin(Side::Typed, &typed.parse().unwrap(), [hashes[0]; 32], &mut random);
        let (other, y) = Exchange::begin(Side::Shown, &shown, [hashes[1]; 32], &mut random);
        assert_eq!((x.len(), y.len()), (PAKE_BYTES, PAKE_BYTES));
        let (one, other) = (one.finish(&y)?, other.finish(&x)?);
        other.check(&one.proof()?)?;
        one.check(&other.proof()?)?;
        assert_eq!(
            one.check(&one.proof()?),
            Err(Error::WrongPin),
            "our own proof, reflected, proves nothing"
        );
        Ok(())
    }

    #[test]
    fn pin_typed_as_shown_in_the_same_session_is_proven() {
        assert_eq!(run("123456", [1, 1]), Ok(()));
    }

    #[test]
    fn pin_typed_wrongly_or_in_another_session_is_not() {
        assert_eq!(run("123457", [1, 1]), Err(Error::WrongPin));
        assert_eq!(run("123456", [1, 2]), Err(Error::WrongPin), "somebody sits between");
    }

    #[test]
    fn pins_drawn_have_six_digits_and_are_not_shown_by_debug() {
        let mut seeded = fastrand::Rng::with_seed(4);
        let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
        for _ in 0..100 {
            let pin = Pin::draw(&mut random);
            assert_eq!(pin.digits().parse(), Ok(pin.clone()));
            assert!(!alloc::format!("{pin:?}").contains(pin.digits()));
        }
        assert_eq!("12345".parse::<Pin>(), Err(Error::InvalidPin));
        assert_eq!("12345x".parse::<Pin>(), Err(Error::InvalidPin));
    }
}
