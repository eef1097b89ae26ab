//! What the stack tells about itself.

use core::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::config::Static;
use crate::dhcp::Lease;
use crate::time::Instant;

/// Which address is in use, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AddressState {
    /// None yet; DHCP servers are being asked, or a claim to an address is being checked.
    Searching,
    /// Granted by a DHCP server.
    Bound(Lease),
    /// The configured fallback; DHCP servers are still being asked.
    Fallback(Static),
    /// Configured.
    Static(Static),
}

/// One of our addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressInfo {
    /// The address.
    pub address: IpAddr,
    /// Bits of its on-link prefix.
    pub prefix_len: u8,
    /// Whether it is in use.
    pub status: AddressStatus,
    /// Where it comes from.
    pub origin: AddressOrigin,
    /// Until when new connections begin from it; `None` is for ever.
    pub preferred_until: Option<Instant>,
    /// Until when it is ours; `None` is for ever.
    pub valid_until: Option<Instant>,
}

/// Whether an address is in use (RFC 4862, 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressStatus {
    /// It is being checked whether somebody else has it.
    Tentative,
    /// In use.
    Preferred,
    /// In use by what began with it; new connections prefer another.
    Deprecated,
    /// Somebody else has it.
    Duplicated,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressOrigin {
    /// Configured.
    Static,
    /// Configured for as long as no DHCP server answers.
    Fallback,
    /// Granted by a DHCP server.
    Dhcp,
    /// Every interface has one.
    LinkLocal,
    /// Made from a router's advertisement.
    Slaac,
}

/// One line of the routing table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteInfo {
    /// Where it leads.
    pub destination: IpAddr,
    /// Bits of it that count.
    pub prefix_len: u8,
    /// The gateway; `None` when the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// When it goes out of date; `None` is never.
    pub expires_at: Option<Instant>,
}

/// A table with a bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// As its bound is called.
    pub name: &'static str,
    /// What is in it.
    pub used: usize,
    /// How much may be.
    pub limit: usize,
    /// How often something found no room; 0 where whoever asked was told.
    pub refused: u64,
}

/// One line of the socket table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketInfo {
    /// The id, unique within `kind`.
    pub id: u64,
    /// `tcp`, `tcp-listener` or `udp`.
    pub kind: &'static str,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end; `None` where there is no single one.
    pub remote: Option<SocketAddr>,
    /// TCP's state, or `listening`, or `bound`.
    pub state: String,
    /// Who is responsible: `owned`, `handshake`, `backlog`, `closing`.
    pub stage: &'static str,
    /// Octets that wait for the owner.
    pub readable: usize,
}
