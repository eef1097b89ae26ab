//! The address of a PCI function: domain, bus, device, function.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The address of a PCI function, written as sysfs writes it: `0000:00:03.0`.
///
/// Parsing also takes the short form without a domain (`00:03.0`), as `lspci` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A PCI bus has 32 devices (PCI Local Bus 3.0, 3.2.2.3.2: five bits of device number).
const DEVICES_PER_BUS: u8 = 32;
/// A PCI device has 8 functions (same section: three bits of function number).
const FUNCTIONS_PER_DEVICE: u8 = 8;
/// sysfs prints domains with at least four digits; VMD and Hyper-V use more than 16 bits.
const DOMAIN_DIGITS_MAX: usize = 8;

impl Bdf {
    /// A function by its numbers; `None` when the device or function number is out of range.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Bdf> {
        if device < DEVICES_PER_BUS && function < FUNCTIONS_PER_DEVICE {
            Some(Bdf { domain, bus, device, function })
        } else {
            None
        }
    }

    fn parse(text: &str) -> Option<Bdf> {
        let (slot, function) = text.rsplit_once('.')?;
        let (bus, device) = slot.rsplit_once(':')?;
        let (domain, bus) = match bus.rsplit_once(':') {
            Some((domain, bus)) => (hex(domain, 4..=DOMAIN_DIGITS_MAX)?, bus),
            None => (0, bus),
        };
        Bdf::new(
            domain,
            u8::try_from(hex(bus, 2..=2)?).ok()?,
            u8::try_from(hex(device, 2..=2)?).ok()?,
            u8::try_from(hex(function, 1..=1)?).ok()?,
        )
    }
}

/// Hexadecimal digits only: `from_str_radix` alone would also take a sign.
fn hex(digits: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let well_formed = lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if well_formed { u32::from_str_radix(digits, 16).ok() } else { None }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bdf { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for Bdf {
    type Err = Error;

    fn from_str(text: &str) -> Result<Bdf, Error> {
        Bdf::parse(text).ok_or_else(|| Error::InvalidAddress { text: text.to_owned() })
    }
}

impl TryFrom<String> for Bdf {
    type Error = Error;

    fn try_from(text: String) -> Result<Bdf, Error> {
        text.parse()
    }
}

impl From<Bdf> for String {
    fn from(bdf: Bdf) -> String {
        bdf.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_form_parsed_gets_domain_zero() {
        let bdf: Bdf = "00:03.0".parse().unwrap();
        assert_eq!(bdf.to_string(), "0000:00:03.0");
        assert_eq!(bdf, "0000:00:03.0".parse().unwrap());
    }

    #[test]
    fn malformed_address_parsed_is_refused_with_an_example() {
        for text in
            ["", "eth0", "0000:00:03", "0:00:03.0", "00:20.0", "00:03.8", "00:+3.0", "00:03.0 ", "00:03.0.0"]
        {
            let error = text.parse::<Bdf>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("0000:00:03.0"), "{error}");
        }
    }

    #[test]
    fn addresses_sorted_follow_the_bus() {
        let parse = |text: &str| text.parse::<Bdf>().unwrap();
        assert!(parse("00:03.1") < parse("00:04.0") && parse("00:1f.0") < parse("01:00.0"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_address_printed_parses_back(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let bdf = Bdf::new(domain, bus, device, function).unwrap();
            prop_assert_eq!(bdf.to_string().parse::<Bdf>().unwrap(), bdf);
        }
    }
}
