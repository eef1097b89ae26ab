//! What certificates must satisfy, beside being signed: how their dates count, and which keys a host must have.
//!
//! ```toml
//! [trust]
//! time = "strict"
//! pins = { "*.example.org" = ["sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="] }
//! ```
//!
//! A pin is the SHA-256 digest of a certificate's public key (its SubjectPublicKeyInfo, RFC 7469, 2.4). A host that any pattern covers
//! must show one of that pattern's keys somewhere in its chain, root included; where several patterns cover it, it must satisfy
//! each: neither their order nor the file they stand in matters.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{Error, HostName, HostPattern};

/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;
/// How a pin begins.
const PREFIX: &str = "sha256/";

/// How the dates of certificates count.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimePolicy {
    /// Each certificate is valid now, by a clock that is trusted.
    #[default]
    Strict,
    /// All certificates were valid together at some moment. Only while devnet is on.
    IgnoreDates,
}

impl TimePolicy {
    /// As written in a file.
    pub const fn name(self) -> &'static str {
        match self {
            TimePolicy::Strict => "strict",
            TimePolicy::IgnoreDates => "ignore-dates",
        }
    }
}

impl fmt::Display for TimePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The digest of a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; DIGEST_BYTES]);

impl Pin {
    /// Of a SubjectPublicKeyInfo in DER.
    pub fn of(key: &[u8]) -> Pin {
        Pin(Sha256::digest(key).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", data_encoding::BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pin, Error> {
        text.strip_prefix(PREFIX)
            .and_then(|digits| data_encoding::BASE64.decode(digits.as_bytes()).ok())
            .and_then(|digest| digest.try_into().ok())
            .map(Pin)
            .ok_or_else(|| Error::Pin(text.to_owned()))
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pin, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which hosts must have which keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pins(Vec<(HostPattern, Vec<Pin>)>);

impl Pins {
    /// From patterns with their pins.
    ///
    /// # Errors
    /// [`Error::NoPins`]: a pattern without any, which no host could satisfy.
    pub fn new(pins: impl IntoIterator<Item = (HostPattern, Vec<Pin>)>) -> Result<Pins, Error> {
        let pins: Vec<_> = pins.into_iter().collect();
        match pins.iter().find(|(_, pins)| pins.is_empty()) {
            Some((pattern, _)) => Err(Error::NoPins(pattern.to_string())),
            None => Ok(Pins(pins)),
        }
    }

    /// What holds for a host: each pattern that covers it, with the pins of which one must be met.
    pub fn of<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = (&'a HostPattern, &'a [Pin])> {
        let covers = move |(pattern, _): &&(HostPattern, Vec<Pin>)| pattern.matches(host);
        self.0.iter().filter(covers).map(|(pattern, pins)| (pattern, pins.as_slice()))
    }

    /// All patterns with their pins.
    pub fn iter(&self) -> impl Iterator<Item = (&HostPattern, &[Pin])> {
        self.0.iter().map(|(pattern, pins)| (pattern, pins.as_slice()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Pins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, pins)| (pattern.to_string(), pins)))
    }
}

impl<'de> Deserialize<'de> for Pins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pins, D::Error> {
        use serde::de::Error as _;
        let written = BTreeMap::<String, Vec<Pin>>::deserialize(deserializer)?;
        let pins = written
            .into_iter()
            .map(|(pattern, pins)| Ok((pattern.parse()?, pins)))
            .collect::<Result<Vec<_>, Error>>()
            .map_err(D::Error::custom)?;
        Pins::new(pins).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Table {
        #[serde(default)]
        time: TimePolicy,
        pins: Pins,
    }

    // The digest of nothing.
    const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn pins_hold_for_what_their_patterns_cover() {
        let text = format!("time = \"ignore-dates\"\npins = {{ \"*.Example.org\" = [\"{PIN}\"] }}");
        let table: Table = toml::from_str(&text).unwrap();
        assert_eq!(table.time, TimePolicy::IgnoreDates);
        let of = |name: &str| {
            let host = name.parse().unwrap();
            table
                .pins
                .of(&host)
                .map(|(pattern, pins)| (pattern.to_string(), pins.to_vec()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("www.example.org"), [("*.example.org".to_owned(), vec![Pin::of(b"")])]);
        assert!(of("example.org").is_empty());
        let again: Table = toml::from_str(&toml::to_string(&table).unwrap()).unwrap();
        assert_eq!(again.pins, table.pins);
    }

    #[test]
    fn pin_that_is_none_is_refused_with_what_would_be_right() {
        for (pin, why) in [
            (format!("[\"{}\"]", &PIN[..20]), "openssl"),
            (format!("[\"{}\"]", &PIN[7..]), "sha256/"),
            ("[]".to_owned(), "at least one"),
        ] {
            let error =
                toml::from_str::<Table>(&format!("pins = {{ \"example.org\" = {pin} }}")).err().unwrap();
            assert!(error.to_string().contains(why), "{error}");
        }
        let error =
            toml::from_str::<Table>(&format!("pins = {{ \"192.0.2.1\" = [\"{PIN}\"] }}")).err().unwrap();
        assert!(error.to_string().contains("looks like an address"), "{error}");
        assert!(toml::from_str::<Table>("time = \"lenient\"\npins = {}").is_err());
    }
}
