//! DSoftBus without I/O: services that find and trust each other.
//!
//! Bytes, `now` and a source of randomness go in; bytes, timers and events come out. Nothing here reads a clock, opens a socket or
//! draws randomness from the system, so a test runs an hour in a millisecond, and a driver decides what carries the bytes.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`discovery`] | who is there: announcements, the peer table, who may be dialled and when |
//! | [`session`] | who is who: Noise XK, the binding to what is announced, pairing, keys that change |
//! | [`mux`] | many streams over one session: credit, priorities, keepalive |
//! | [`remote`] | what one device asks of another: what there is, calls, topics |
//!
//! **Not supported**: the datagram transport (udp-sec) is to come.

#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod config;
pub mod discovery;
mod error;
mod key;
pub mod mux;
mod name;
mod random;
mod rate;
mod read;
pub mod remote;
pub mod session;
mod time;

pub use config::Checked;
pub use error::Error;
pub use key::{KEY_BYTES, PublicKey};
pub use name::{DeviceId, MethodName, NAME_BYTES_MAX, ServiceName, StreamName, TopicName};
pub use random::Random;
pub use time::Instant;
