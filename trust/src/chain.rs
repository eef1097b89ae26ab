//! What was found out about a server that was accepted.

use std::fmt;

use netd_policy::Pin;
use serde::{Serialize, Serializer};

use crate::certificate::Certificate;
use crate::date::Date;
use crate::store::Root;

/// The chain that a server was accepted by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Who it was for.
    pub host: String,
    /// The server's own certificate first, each signed by the next, the last by the root.
    pub certificates: Vec<Certificate>,
    /// The root, with its file.
    pub root: Root,
    /// The pin that was met; none if the host has none.
    pub pin: Option<PinMet>,
    /// What became of the dates.
    pub dates: Dates,
}

/// A pin that a chain has the key of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinMet {
    /// The pattern that covers the host.
    pub pattern: String,
    /// The pin.
    pub pin: Pin,
    /// Whose key it is.
    pub subject: String,
}

/// What became of a chain's dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    /// All were valid then.
    ValidAt(Date),
    /// They did not count (`ignore-dates`).
    Ignored,
}

impl fmt::Display for Dates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dates::ValidAt(date) => write!(f, "valid at {date}"),
            Dates::Ignored => f.write_str("ignored"),
        }
    }
}

impl Serialize for Dates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
