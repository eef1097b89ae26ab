//! A stub resolver without I/O: queries and datagrams go in, datagrams and answers come out.
//!
//! # Theory of operation
//!
//! ```text
//!   start -> Lookup: candidates (search list), a branch for each family, aliases
//!              | question                                   ^ finding
//!              v                                            |
//!            fixed names, hosts file -> cache -> Exchange with servers (UDP, TCP), or with the link (.local)
//!                                                           |        ^
//!                                              poll_transmit v        | handle_udp, handle_tcp, poll
//! ```
//!
//! A **lookup** is a caller's query. It asks **questions**, one name and one type each. A question is answered here if its name
//! is an address, fixed (`localhost`, `invalid`) or in the hosts file; else by the cache; else by an **exchange**, which all lookups
//! that ask the same share. What comes of it is a **finding**: about exactly that question, kept for its time to live.
//!
//! | event | state | what follows |
//! | --- | --- | --- |
//! | no answer in [`Config::timeout`] (doubled each round) | asked by UDP | penalty for the server, the next one is asked |
//! | another source, id, question; not a response; garbage | any | counted, ignored: the true answer may still come |
//! | the question in another case | asked by UDP | asked over TCP; then, without TCP, in plain case |
//! | truncated | asked by UDP | asked over TCP |
//! | FORMERR, NOTIMP, BADVERS | with EDNS | asked without |
//! | SERVFAIL, REFUSED, referral | any | the next server; not this one again for this question |
//! | alias that leads out of the response | any | its target is asked about, 16 times at most |
//! | no such name, no such record | any | the next candidate of the search list |
//! | one family is there, the other late by 1 s | both asked | what is there is the answer, marked incomplete |
//! | nobody waits any longer | any | sockets closed |
//!
//! # Driving it
//!
//! After every call that may change something (`start`, `cancel`, `handle_*`, `poll`, `set_servers`, `shut_down`): call
//! [`Resolver::poll_transmit`] until `None` and do what each says, then [`Resolver::next_result`] until `None`, then sleep
//! until [`Resolver::poll_timeout`] at most, and call [`Resolver::poll`] when that time has come. A socket is the driver's from
//! the [`Transmit`] that names its [`SocketKey`] until [`Transmit::Close`] does.
//!
//! # Bounds
//!
//! [`Limits`] bounds queries and the cache; exchanges follow from queries (two each), sockets from exchanges (one each, two
//! under `.local`). A query ends after 30 s, whatever happens.
//!
//! **Not supported**: DNSSEC validation, DNS over TLS or HTTPS, TCP connections that serve several queries, IDNA (names come in
//! ASCII), continuous mDNS browsing.

mod cache;
mod error;
mod exchange;
mod finding;
mod hosts;
mod local;
mod mdns;
mod name;
mod query;
mod resolver;
mod server;
mod shared;
mod statistics;
mod types;
mod wire;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use hosts::{HOSTS_NAMES_MAX, Hosts};
pub use mdns::{MDNS_GROUP_V4, MDNS_GROUP_V6, MDNS_PORT};
pub use name::{LABEL_BYTES_MAX, NAME_BYTES_MAX, Name, NameError};
pub use resolver::{Resolver, SEARCH_MAX, Usage};
pub use server::SERVERS_MAX;
pub use statistics::Statistics;
pub use types::{
    Answer, Config, Data, Kind, Limits, Mdns, Query, QueryId, SocketKey, Source, TcpEvent, Transmit,
};
