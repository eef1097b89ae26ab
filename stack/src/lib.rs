//! TCP/IP without I/O: frames and time go in, frames and events come out.
//!
//! [`Stack`] does Ethernet, ARP, routing, IPv4, ICMP, UDP and DHCP itself, on smoltcp's wire types; TCP is smoltcp's, one
//! connection at a time, behind a type of our own. Nothing here reads a clock, opens a file or draws randomness from the
//! system: `now` is an argument, the seed is configuration.
//!
//! ```text
//!   handle_frame -> Ethernet -> ARP -> neighbours
//!                            -> IPv4 -> DHCP client, ICMP, UDP sockets
//!                                    -> TCP: flow table -> guard -> engine
//!   poll         -> timers (one heap), dirty flows -> engine -> routes -> neighbours -> Egress
//! ```
//!
//! **Not supported**: IPv6, IP fragments, multicast, connections to our own address.

#![forbid(unsafe_code)]

// The unit tests share the scenarios' wire and scripted peer, which name the crate as its callers do.
#[cfg(test)]
extern crate self as netd_stack;

mod bucket;
mod config;
mod counters;
mod dhcp;
pub mod dns;
mod egress;
mod error;
mod events;
mod icmp;
mod info;
mod ipv4;
mod neighbor;
mod network;
mod ports;
mod random;
mod route;
mod slab;
mod stack;
#[cfg(test)]
#[path = "../tests/scenarios/support.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, of which the unit tests use a part")]
mod support;
mod tcp;
mod time;
mod timers;
mod udp;

pub use config::{Addressing, Config, Limits, MTU_MIN, Static};
pub use counters::Counters;
pub use dhcp::Lease;
pub use egress::Egress;
pub use error::Error;
pub use events::{FlowId, ListenerId, PingId, Ready, UdpId};
pub use icmp::{IcmpError, PingReply};
pub use info::{AddressState, SocketInfo};
pub use ipv4::Cidr;
pub use neighbor::NeighborInfo;
pub use route::Route;
pub use stack::Stack;
pub use tcp::{FlowState, FlowStatus, Outcome};
pub use time::Instant;
pub use udp::UdpMeta;
