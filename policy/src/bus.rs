//! Names on the bus, and patterns of them: devices and services, as far as rules can name them.
//!
//! The bus lets a device call itself anything. What a rule, a request or an audit record has to spell is less: a name that means
//! something to the syntax of these texts, or that a terminal would obey, cannot be named, and so is never granted.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The device that stands for this machine, where both ends of a stream are its own clients. Nothing leaves the machine for it, and no
/// peer may have the name.
pub const LOOPBACK_DEVICE: &str = "loopback";

/// Longest name, in bytes: the bus's own bound for devices and services.
const NAME_BYTES_MAX: usize = 64;
/// What leaves the choice open in a request's text, so nobody can be called so.
const ANY: &str = "any";

fn check(what: &'static str, text: &str) -> Result<(), Error> {
    let wrong = |why: &'static str| Err(Error::BusName { what, name: text.to_owned(), why });
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return wrong("a name has 1 to 64 bytes");
    }
    let means_something = |letter: char| {
        letter.is_control() || letter.is_whitespace() || matches!(letter, '*' | '/' | '"' | '\\')
    };
    if text.contains(means_something) {
        return wrong("a name has no spaces, control characters, '*', '/', '\"' or '\\'");
    }
    if text == ANY {
        return wrong("'any' stands for no name at all");
    }
    Ok(())
}

macro_rules! bus_name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// As it is spelled.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type, Error> {
                check($what, text)?;
                Ok($type(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

bus_name!(
    /// The id of a device.
    BusDevice,
    "a device"
);
bus_name!(
    /// The name of a service.
    BusService,
    "a service"
);

impl BusDevice {
    /// This machine itself.
    pub fn is_loopback(&self) -> bool {
        self.0 == LOOPBACK_DEVICE
    }
}

/// Which devices: `camera-1`, or with `camera-*` every one whose id begins so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePattern {
    name: BusDevice,
    prefix: bool,
}

impl DevicePattern {
    /// Whether `device` is one of them.
    pub fn matches(&self, device: &BusDevice) -> bool {
        if self.prefix { device.0.starts_with(&self.name.0) } else { self.name == *device }
    }

    /// The name without `*`, and whether it stands for what begins so.
    pub fn parts(&self) -> (&str, bool) {
        (&self.name.0, self.prefix)
    }
}

impl From<BusDevice> for DevicePattern {
    /// This one alone.
    fn from(name: BusDevice) -> DevicePattern {
        DevicePattern { name, prefix: false }
    }
}

impl FromStr for DevicePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<DevicePattern, Error> {
        let (name, prefix) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() || name.contains('*') {
            let why = "a pattern is a device's id, or the beginning of one and '*'; to mean every device, leave the key out";
            return Err(Error::BusName { what: "a device", name: text.to_owned(), why });
        }
        Ok(DevicePattern { name: name.parse()?, prefix })
    }
}

impl fmt::Display for DevicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, device: &str) -> bool {
        pattern.parse::<DevicePattern>().unwrap().matches(&device.parse().unwrap())
    }

    #[test]
    fn pattern_with_a_star_means_what_begins_so_and_without_one_itself() {
        assert!(matches("camera-*", "camera-1"));
        assert!(matches("camera-*", "camera-"));
        assert!(!matches("camera-*", "camera"));
        assert!(!matches("camera-*", "my-camera-1"));
        assert!(matches("camera-1", "camera-1"));
        assert!(!matches("camera-1", "camera-11"));
        assert!(!matches("camera-1", "Camera-1"));
    }

    #[test]
    fn name_that_no_text_could_carry_is_refused_with_the_reason() {
        for (name, why) in [
            ("", "1 to 64"),
            (&"x".repeat(65), "1 to 64"),
            ("a b", "no spaces"),
            ("a\u{1b}[2J", "no spaces, control"),
            ("a/b", "'/'"),
            ("any", "no name at all"),
        ] {
            let error = name.parse::<BusDevice>().unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
            assert!(name.parse::<BusService>().is_err(), "{name}");
        }
        for pattern in ["*", "a*b", "**", "any"] {
            assert!(pattern.parse::<DevicePattern>().is_err(), "{pattern}");
        }
    }
}
