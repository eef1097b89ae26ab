//! Names that strangers send: of devices, services and streams.

use alloc::boxed::Box;
use core::borrow::Borrow;
use core::fmt;
use core::str::FromStr;

use crate::error::Error;

/// The longest name, in bytes of UTF-8. Fixed by the formats.
pub const NAME_BYTES_MAX: usize = 64;

fn check<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX {
        return Err(Error::NameLength { what, len: bytes.len(), max: NAME_BYTES_MAX });
    }
    core::str::from_utf8(bytes).map_err(|_| Error::NotUtf8 { what })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The name in `bytes`: 1 to [`NAME_BYTES_MAX`] bytes of UTF-8.
            pub fn from_bytes(bytes: &[u8]) -> Result<$type, Error> {
                Ok($type($type::check(bytes)?.into()))
            }

            /// The same without an allocation.
            pub(crate) fn check(bytes: &[u8]) -> Result<&str, Error> {
                check($what, bytes)
            }

            /// As it is spelled on the wire. [`fmt::Display`] escapes what a terminal would obey.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<$type, Error> {
                $type::from_bytes(name.as_bytes())
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_debug())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// What a device calls itself. Anybody can claim any: only a pinned key makes it an identity.
    DeviceId,
    "a device id"
);
name!(
    /// What a device offers.
    ServiceName,
    "a service name"
);
name!(
    /// What a stream was opened for: a service, or whatever both sides agreed on.
    StreamName,
    "a stream name"
);
name!(
    /// What of a service is called.
    MethodName,
    "a method's name"
);
name!(
    /// What a service publishes about.
    TopicName,
    "a topic"
);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn names_of_every_length_are_taken_within_the_bound_only() {
        assert!("x".repeat(64).parse::<DeviceId>().is_ok());
        let error = "x".repeat(65).parse::<DeviceId>().unwrap_err();
        assert_eq!(error.to_string(), "a device id is 65 bytes long: 1 to 64 are allowed");
        assert!("".parse::<ServiceName>().is_err());
        assert_eq!(StreamName::from_bytes(b"\xff"), Err(Error::NotUtf8 { what: "a stream name" }));
    }

    #[test]
    fn names_with_control_characters_are_shown_escaped() {
        let name: DeviceId = "a\x1b[2J".parse().unwrap();
        assert_eq!(name.to_string(), "a\\u{1b}[2J");
        assert_eq!(name.as_str(), "a\x1b[2J");
    }
}
