//! The public half of a device's key.

use core::fmt::{self, Write as _};
use core::str::FromStr;

use crate::error::Error;

/// Bytes of a Curve25519 key, public or private (RFC 7748, 5).
pub const KEY_BYTES: usize = 32;

/// A Curve25519 public key. Never all zero: on the wire that means "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key in `bytes`, unless they are all zero.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Option<PublicKey> {
        (bytes != [0; KEY_BYTES]).then_some(PublicKey(bytes))
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first digits, enough to tell keys apart in a log.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_char('…')
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(digits: &str) -> Result<PublicKey, Error> {
        let digits = digits.as_bytes();
        let mut bytes = [0; KEY_BYTES];
        if digits.len() != 2 * KEY_BYTES {
            return Err(Error::InvalidKey);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit =
                |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(0).zip(digit(1)).map(|(high, low)| high << 4 | low).ok_or(Error::InvalidKey)?;
        }
        PublicKey::new(bytes).ok_or(Error::InvalidKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn keys_printed_are_read_back() {
        let key = PublicKey::new(core::array::from_fn(|at| u8::try_from(at * 8).unwrap())).unwrap();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("0".repeat(64).parse::<PublicKey>(), Err(Error::InvalidKey));
        assert_eq!("é".repeat(32).parse::<PublicKey>(), Err(Error::InvalidKey));
        assert_eq!("".parse::<PublicKey>(), Err(Error::InvalidKey));
    }
}
