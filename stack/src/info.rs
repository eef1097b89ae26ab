//! What the stack tells about itself.

use core::net::SocketAddr;

use serde::Serialize;

use crate::config::Static;
use crate::dhcp::Lease;

/// Which address is in use, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AddressState {
    /// None yet; DHCP servers are being asked.
    Searching,
    /// Granted by a DHCP server.
    Bound(Lease),
    /// The configured fallback; DHCP servers are still being asked.
    Fallback(Static),
    /// Configured.
    Static(Static),
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
