//! TCP/IP without I/O: frames and time go in, frames and events come out.
//!
//! [`Stack`] does Ethernet, ARP and neighbour discovery, routing, both versions of IP with their fragments, ICMP, group membership,
//! UDP and DHCP itself, on smoltcp's wire types; TCP is smoltcp's, one connection at a time, behind a type of our own. Nothing here
//! reads a clock, opens a file or draws randomness from the system: `now` is an argument, the seed is configuration.
//!
//! ```text
//!   handle_frame -> Ethernet -> ARP -> neighbours, address conflicts
//!                            -> IPv4, IPv6 -> reassembly -> DHCP client, neighbour discovery, IGMP and MLD
//!                                                        -> ICMP, UDP sockets
//!                                                        -> TCP: flow table -> guard -> engine
//!   poll         -> timers (one heap), dirty flows -> engine -> routes -> neighbours -> Egress
//!                                                          \-> our own address: back in, without the device
//! ```
//!
//! **Not supported**: redirects, prefix delegation, privacy addresses (RFC 8981), source-specific multicast.

#![forbid(unsafe_code)]

// The unit tests share the scenarios' wire and scripted peer, which name the crate as its callers do.
#[cfg(test)]
extern crate self as netd_stack;

mod acd;
mod arp;
mod checksum;
mod config;
mod counters;
mod dhcp;
mod dhcp6;
pub mod dns;
mod egress;
mod error;
mod events;
mod fragment;
mod groups;
mod icmp;
mod info;
mod ip;
mod ipv4;
mod ipv6;
mod neighbor;
mod network;
mod path_mtu;
mod ports;
mod random;
mod route;
mod slab;
pub mod sntp;
mod stack;
#[cfg(test)]
#[path = "../tests/scenarios/support.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, of which the unit tests use a part")]
mod support;
mod tcp;
mod time;
mod timers;
mod udp;

pub use config::{
    Addressing, Config, ConflictDetection, Ipv6Addressing, Limits, MTU_MIN, MTU_MIN_V6, Options,
    SECONDARY_MAX, STATIC_ROUTES_MAX, Static, Static6,
};
pub use counters::Counters;
pub use dhcp::{Lease, LeaseHint};
pub use egress::{Egress, Integrity, Left};
pub use error::Error;
pub use events::{FlowId, ListenerId, PingId, Ready, UdpId};
pub use icmp::{IcmpError, PingReply};
pub use info::{AddressInfo, AddressOrigin, AddressState, AddressStatus, RouteInfo, SocketInfo, TableInfo};
pub use ipv4::Cidr;
pub use ipv6::Cidr6;
pub use neighbor::NeighborInfo;
pub use route::Route;
pub use stack::Stack;
pub use tcp::{FlowState, FlowStatus, Outcome};
pub use time::Instant;
pub use udp::{SendOptions, UdpError, UdpMeta};
