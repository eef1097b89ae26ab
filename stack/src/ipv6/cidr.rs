//! An IPv6 address and the length of its prefix.

use core::fmt;
use core::net::Ipv6Addr;
use core::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::Error;

/// An IPv6 address and the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr6 {
    address: Ipv6Addr,
    prefix_len: u8,
}

impl Cidr6 {
    /// `address`/`prefix_len`; at most 128.
    pub fn new(address: Ipv6Addr, prefix_len: u8) -> Result<Cidr6, Error> {
        if prefix_len > 128 {
            return Err(Error::InvalidInput { what: "an IPv6 prefix length is between 0 and 128" });
        }
        Ok(Cidr6 { address, prefix_len })
    }

    /// The address, host bits included.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Bits of the prefix.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0)
    }

    /// Whether `other` lies in the prefix.
    #[must_use]
    pub fn contains(&self, other: Ipv6Addr) -> bool {
        (self.address.to_bits() ^ other.to_bits()) & self.mask() == 0
    }

    /// The prefix with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Cidr6 {
        Cidr6 { address: Ipv6Addr::from_bits(self.address.to_bits() & self.mask()), ..*self }
    }
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr6 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Cidr6 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cidr6, Error> {
        let invalid = Error::InvalidInput { what: "an IPv6 address with prefix looks like 2001:db8::2/64" };
        let (address, prefix_len) = text.split_once('/').ok_or_else(|| invalid.clone())?;
        Cidr6::new(address.parse().map_err(|_| invalid.clone())?, prefix_len.parse().map_err(|_| invalid)?)
    }
}
