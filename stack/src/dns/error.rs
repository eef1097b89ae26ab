//! Why a name was not resolved.

use core::net::SocketAddr;

use thiserror::Error;

use super::name::{Name, NameError};
use super::types::Kind;

/// Why a name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The text is no domain name.
    #[error(transparent)]
    InvalidName(#[from] NameError),
    /// As many queries are under way, or wait to be fetched, as may.
    #[error("limit of {limit} DNS queries under way reached")]
    QuotaExceeded {
        /// [`Limits::queries`](super::Limits::queries).
        limit: usize,
    },
    /// The name does not exist (NXDOMAIN), nor does it below any domain of the search list.
    #[error("{name} does not exist")]
    NoSuchName {
        /// As asked for.
        name: Name,
    },
    /// The name exists, but has no such record (NODATA).
    #[error("{name} has no {kind} record")]
    NoData {
        /// As asked for.
        name: Name,
        /// What was asked for.
        kind: Kind,
    },
    /// Neither a lease nor the configuration named a server.
    #[error("no DNS server is known: none came with the address, and none is configured")]
    NoServers,
    /// Every server that answered said that it cannot.
    #[error("{server} answered {code} for {name}, and no other server did better")]
    ServerFailure {
        /// The name that was asked for last.
        name: Name,
        /// The last to answer.
        server: SocketAddr,
        /// What it answered, as in the IANA registry: SERVFAIL, REFUSED...
        code: &'static str,
    },
    /// No server answered in time.
    #[error("no DNS server answered for {name} in time")]
    TimedOut {
        /// The name that was asked for last.
        name: Name,
    },
    /// Aliases without end, or in a circle.
    #[error("{name} leads through more than {limit} aliases")]
    TooManyAliases {
        /// Where they begin.
        name: Name,
        /// The bound.
        limit: usize,
    },
    /// An alias of the DNS that points into `.local`, or the reverse: neither may speak for the other.
    #[error("{from} is an alias of {to}, which would cross between the DNS and multicast DNS")]
    AliasCrosses {
        /// The alias.
        from: Name,
        /// Its target.
        to: Name,
    },
    /// [`Resolver::shut_down`](super::Resolver::shut_down) was called.
    #[error("the network device is gone")]
    DeviceUnavailable,
}
