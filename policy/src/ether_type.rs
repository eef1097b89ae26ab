//! EtherTypes: what raw frames may carry.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The least EtherType: smaller numbers in its place are lengths (IEEE 802.3, 3.2.6).
const LEAST: u16 = 0x0600;

/// What netd speaks itself, and what carries it: IPv4, ARP, RARP, IPv6, and the tags of virtual networks, behind which another type
/// comes. With them a program could be anybody's address and go around every other grant.
const RESERVED: [u16; 7] = [0x0800, 0x0806, 0x8035, 0x86dd, 0x8100, 0x88a8, 0x9100];

/// The type of frames that programs may send and receive themselves: none of those that netd's own stack speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(u16);

impl EtherType {
    /// The type with this number; none if it is a length, or netd's own.
    pub fn new(number: u16) -> Option<EtherType> {
        (number >= LEAST && !RESERVED.contains(&number)).then_some(EtherType(number))
    }

    /// As it stands in a frame.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for EtherType {
    type Err = Error;

    /// As everybody writes them: `0x88b5`.
    fn from_str(text: &str) -> Result<EtherType, Error> {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 4);
        let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = digits.filter(is_hex).and_then(|digits| u16::from_str_radix(digits, 16).ok());
        number.and_then(EtherType::new).ok_or_else(|| Error::EtherType(text.to_owned()))
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_four_hexadecimal_digits_and_netds_own_are_none() {
        for (text, printed) in
            [("0x88b5", "0x88b5"), ("0x88CC", "0x88cc"), ("0x0600", "0x0600"), ("0xffff", "0xffff")]
        {
            let read: EtherType = text.parse().unwrap();
            assert_eq!((read.to_string(), EtherType::new(read.number())), (printed.to_owned(), Some(read)));
        }
        let wrong = [
            "", "88b5", "0x", "0x8b5", "0x088b5", "0X88b5", "0x+8b5", "34997", "0x05ff", "0x0800", "0x0806",
            "0x86DD", "0x8100",
        ];
        for text in wrong {
            assert_eq!(text.parse::<EtherType>(), Err(Error::EtherType(text.to_owned())), "{text}");
        }
    }
}
