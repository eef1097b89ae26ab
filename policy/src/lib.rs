//! Who may do what: subjects, rules and the devnet switch, without I/O.
//!
//! [`Policy::decide`] takes a typed [`Request`] of a [`Subject`] and answers with a [`Decision`] that names the rule it
//! rests on. Three gates stand one behind the other:
//!
//! 1. **Devnet.** While it is off, whatever would send a packet to a peer that a client chose is denied, whatever the
//!    rules say.
//! 2. **Denials.** A request that one of them covers is denied, whatever the grants say.
//! 3. **Grants.** Deny by default; a request passes when a grant covers its subject, its capability and its scope.
//!
//! A connection by name is decided twice: before the name is resolved, and for each address that it turns out to have (`by_name`).
//! What its first bytes must be is read by [`hello`].
//!
//! Neither the order of rules nor the file that they stand in matters. Two things a grant must name to mean them: the
//! metadata server of a cloud (a prefix that holds nothing else), and UDP port 443 (as a port of its own).
//!
//! Deciding is cheap ([`Policy`] is compiled), and a [`Policy`] is immutable and `Sync`: control thread and workers share one.

#![forbid(unsafe_code)]

pub mod audit;
mod authority;
mod bus;
mod bus_index;
mod by_name;
mod capability;
mod compile;
mod decide;
mod ether_type;
pub mod expect;
pub mod file;
pub mod hello;
mod host;
mod index;
mod learn;
mod port;
mod quota;
mod reach;
mod request;
mod rule;
#[cfg(feature = "schema")]
mod schema;
mod spanned;
mod subject;
mod target;
mod terms;
mod trust;

pub use authority::{Authority, FIXTURE_HOST, Host};
pub use bus::{BusDevice, BusService, DevicePattern, LOOPBACK_DEVICE};
pub use capability::Capability;
pub use decide::{Decision, Denial, Policy, Rule};
pub use ether_type::EtherType;
pub use host::{HostName, HostPattern};
pub use learn::smallest_grants;
pub use port::PortRange;
pub use quota::{Bound, QuotaTable, Quotas, Resource, shares};
pub use request::Request;
pub use rule::{DenyTable, Effect, GrantTable, Origin, RuleConfig};
pub use subject::{Subject, SubjectPattern};
pub use terms::{Redirects, Terms, Tls};
pub use trust::{Pin, Pins, TimePolicy};

/// A rule that cannot be understood.
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
    /// The target does not fit the capability.
    #[error("'{target}' is no target of {capability}: expected {expected}")]
    Target {
        /// With which right it was asked.
        capability: Capability,
        /// As given.
        target: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The EtherType cannot be read, or is none that programs may have.
    #[error(
        "'{0}' is no EtherType for programs: expected one such as '0x88b5', from 0x0600 on, and none of IP, ARP and VLAN tags, which netd speaks itself"
    )]
    EtherType(String),
    /// The ports cannot be read.
    #[error(
        "'{0}' is not a port range: expected a port such as \"443\" or a range such as \"8000-8999\", between 1 and 65535"
    )]
    PortRange(String),
    /// The name of a host, or a pattern of names, cannot be read.
    #[error("'{name}' is not the name of a host: {why}")]
    HostName {
        /// As given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What a connection must begin with cannot be read.
    #[error("'{0}' is not what a connection can be asked to begin with: expected \"required\" or \"any\"")]
    Tls(String),
    /// Which redirects are followed cannot be read.
    #[error("'{0}' does not say which redirects are followed: expected \"same-host\" or \"granted\"")]
    Redirects(String),
    /// Redirects of what is not fetched.
    #[error("{origin}: 'redirects' is about fetching: it needs net.http.fetch among what is allowed")]
    RedirectsWithoutFetch {
        /// Which rule.
        origin: Origin,
    },
    /// A demand that no connection would ever meet with.
    #[error(
        "{origin}: 'tls' is about connections by name: it needs 'hosts', and net.tcp.connect among what is allowed"
    )]
    TlsWithoutNames {
        /// Which rule.
        origin: Origin,
    },
    /// A list is there, and empty.
    #[error(
        "{origin}: '{key}' is an empty list, so the rule would never apply: name something, or remove {what}"
    )]
    EmptyList {
        /// Which rule.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What to remove instead.
        what: &'static str,
    },
    /// A quota without a bound.
    #[error(
        "{origin}: the quota bounds nothing: give sockets, memory_mib, connects_per_second, packets_per_second or bytes_per_second"
    )]
    EmptyQuota {
        /// Which.
        origin: Origin,
    },
    /// A pin cannot be read.
    #[error(
        "'{0}' is not a pin: expected \"sha256/\" and the digest in base64, as from `openssl x509 -in FILE -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`"
    )]
    Pin(String),
    /// No key would be right.
    #[error("no host could satisfy '{0}' without pins: give at least one, or remove the pattern")]
    NoPins(String),
    /// Both scopes at once.
    #[error(
        "{origin}: 'to' and 'hosts' in one rule: a request names its peer by address or by name, so write two rules"
    )]
    AddressesAndNames {
        /// Which rule.
        origin: Origin,
    },
    /// Prefixes for what has no peer.
    #[error(
        "{origin}: {capability} names no peer, so 'to' would not limit it: write a rule without 'to' for it"
    )]
    NoPeer {
        /// Which rule.
        origin: Origin,
        /// The capability.
        capability: Capability,
    },
    /// Names for what has none.
    #[error("{origin}: {capability} knows no names, so 'hosts' would never apply: use 'to' with prefixes")]
    NoNames {
        /// Which rule.
        origin: Origin,
        /// The capability.
        capability: Capability,
    },
    /// A name of the bus, or a pattern of names, cannot be read.
    #[error("'{name}' cannot name {what} of the bus: {why}")]
    BusName {
        /// "a device" or "a service".
        what: &'static str,
        /// As given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Devices for what has none.
    #[error(
        "{origin}: {capability} names no device, so 'devices' would not limit it: write a rule without 'devices' for it"
    )]
    NoDevices {
        /// Which rule.
        origin: Origin,
        /// The capability.
        capability: Capability,
    },
    /// Services for what has none.
    #[error(
        "{origin}: {capability} names no service, so 'services' would not limit it: write a rule without 'services' for it"
    )]
    NoServices {
        /// Which rule.
        origin: Origin,
        /// The capability.
        capability: Capability,
    },
    /// Types of raw frames for what has none.
    #[error(
        "{origin}: {capability} is not about raw frames, so 'ether_types' would never apply: leave it to a rule of net.raw alone"
    )]
    NoEtherType {
        /// Which rule.
        origin: Origin,
        /// The capability.
        capability: Capability,
    },
    /// The user or group does not exist.
    #[error(
        "{origin}: there is no {kind} '{name}' on this machine: create it, or give the number as '{kind}:NUMBER'"
    )]
    UnknownName {
        /// Which rule.
        origin: Origin,
        /// "user" or "group".
        kind: &'static str,
        /// The name.
        name: String,
    },
}

#[cfg(test)]
mod tests;
