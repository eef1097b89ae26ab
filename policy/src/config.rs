//! Grants as the configuration file has them: parsed into types that cannot be wrong, names not yet resolved.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::grant::Capability;

/// One `[[grant]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// To whom.
    pub subject: SubjectPattern,
    /// What.
    pub allow: Vec<Capability>,
    /// Ports it is limited to: the remote port of a connection or datagram, the local port of a listener or bound
    /// socket. Echo requests have none. Absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
    /// Peers it is limited to, where the request names a peer. Absent: every peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<IpNet>>,
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectPattern {
    /// Whoever reaches the socket.
    Any,
    /// A user by number.
    Uid(u32),
    /// A user by name.
    User(String),
    /// A group by number; the primary group of the process counts, as the kernel tells it.
    Gid(u32),
    /// A group by name.
    Group(String),
    /// A systemd unit, such as `backup.service`.
    Unit(String),
}

impl FromStr for SubjectPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<SubjectPattern, Error> {
        let wrong = || Error::Subject(text.to_owned());
        if text == "any" {
            return Ok(SubjectPattern::Any);
        }
        let (form, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong());
        }
        // A number that does not fit is wrong, and not the name of a user.
        let number = name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().map_err(|_| wrong()));
        match (form, number) {
            ("user", Some(uid)) => uid.map(SubjectPattern::Uid),
            ("user", None) => Ok(SubjectPattern::User(name.to_owned())),
            ("group", Some(gid)) => gid.map(SubjectPattern::Gid),
            ("group", None) => Ok(SubjectPattern::Group(name.to_owned())),
            ("unit", _) => Ok(SubjectPattern::Unit(name.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubjectPattern::Any => f.write_str("any"),
            SubjectPattern::Uid(uid) => write!(f, "user:{uid}"),
            SubjectPattern::User(name) => write!(f, "user:{name}"),
            SubjectPattern::Gid(gid) => write!(f, "group:{gid}"),
            SubjectPattern::Group(name) => write!(f, "group:{name}"),
            SubjectPattern::Unit(name) => write!(f, "unit:{name}"),
        }
    }
}

/// Ports from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`; none if they are in the wrong order or `first` is 0.
    pub fn new(first: u16, last: u16) -> Option<PortRange> {
        (first != 0 && first <= last).then_some(PortRange { first, last })
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange, Error> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok();
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| PortRange::new(first, last))
            .ok_or_else(|| Error::PortRange(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// In the file, these types are strings.
macro_rules! serde_as_string {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_string!(SubjectPattern, PortRange, Capability);
