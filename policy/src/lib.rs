//! Who may do what: subjects, grants and the devnet switch, without I/O.
//!
//! [`Policy::decide`] takes a typed [`Request`] of a [`Subject`] and answers with a [`Decision`] that names the rule it
//! rests on. Two gates stand one behind the other:
//!
//! 1. **Devnet.** While it is off, whatever would send a packet to a peer that a client chose is denied, whatever the
//!    grants say.
//! 2. **Grants.** Deny by default; a request passes when one grant covers its subject, its capability and its scope.
//!    Grants only ever add, so their order does not matter.
//!
//! Deciding is cheap, and a [`Policy`] is immutable and `Sync`: control thread and workers share one.

#![forbid(unsafe_code)]

mod config;
mod decide;
mod grant;

pub use config::{GrantConfig, PortRange, SubjectPattern};
pub use decide::{Decision, Denial, Policy, Request, Rule, Subject};
pub use grant::Capability;

/// A grant that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The subject has none of the known forms.
    #[error(
        "'{0}' is not a subject: expected 'any', 'user:NAME', 'user:UID', 'group:NAME', 'group:GID' or 'unit:NAME.service'"
    )]
    Subject(String),
    /// The capability does not exist.
    #[error("'{0}' is not a capability: expected one of {list}", list = Capability::names())]
    Capability(String),
    /// The ports cannot be read.
    #[error(
        "'{0}' is not a port range: expected a port such as \"443\" or a range such as \"8000-8999\", between 1 and 65535"
    )]
    PortRange(String),
    /// A list is there, and empty.
    #[error(
        "grant {number}: '{key}' is an empty list, so the grant would never apply: name something, or remove {what}"
    )]
    EmptyList {
        /// Which grant of the file, counted from 1.
        number: usize,
        /// The key.
        key: &'static str,
        /// What to remove instead.
        what: &'static str,
    },
    /// The user does not exist.
    #[error(
        "grant {number}: there is no user '{name}' on this machine: create it, or give the number as 'user:UID'"
    )]
    UnknownUser {
        /// Which grant of the file, counted from 1.
        number: usize,
        /// The name.
        name: String,
    },
    /// The group does not exist.
    #[error(
        "grant {number}: there is no group '{name}' on this machine: create it, or give the number as 'group:GID'"
    )]
    UnknownGroup {
        /// Which grant of the file, counted from 1.
        number: usize,
        /// The name.
        name: String,
    },
}

#[cfg(test)]
mod tests;
