//! netd-services: what local programs ask for above sockets, on netd's sockets and with its own user. It fetches over HTTP, drives the
//! bus, and carries what comes to published ports to servers of this machine.
//!
//! ```text
//!  client ── request ──> server ──> fetch ── may this client? ──> netd
//!         <── head, pipe, end ──┘      └──── connect ───────────> netd ──> network
//! ```
//!
//! It is a client of netd like any other, with one more right: it may ask what its own clients are allowed. The parsers of HTTP, TLS and
//! compressed bodies are here, and not in the process that owns the device.

#![forbid(unsafe_code)]

pub mod bus;
pub mod config;
pub mod daemon;
mod dial;
mod failure;
pub mod fetch;
mod metrics;
pub mod netd;
pub mod publish;
mod rights;
pub mod server;
mod trust;

pub use failure::Failure;
