//! An Ethernet address, as discovery reports it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A six-byte Ethernet address; printed and serialized as `42:01:0a:00:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac, Error> {
        let invalid = || Error::InvalidMac { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Mac(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Mac, Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_printed_parses_back() {
        let mac: Mac = "42:01:0a:00:00:02".parse().unwrap();
        assert_eq!(mac, Mac([0x42, 0x01, 0x0a, 0, 0, 2]));
        assert_eq!(mac.to_string(), "42:01:0a:00:00:02");
    }

    #[test]
    fn malformed_address_parsed_is_refused() {
        for text in ["", "42:01:0a:00:00", "42:01:0a:00:00:02:03", "42:01:0a:00:00:zz", "4201.0a00.0002"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
