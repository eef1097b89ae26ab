//! Published ports, as `ListPublished` shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Client;
use super::error::Error;

/// A port of netd's that leads to a server of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// A port, or an address of netd's and a port.
    pub listen: String,
    /// Where connections are carried to, as configured.
    pub to: String,
    /// Whether the server is told who its peers are.
    pub proxy_protocol: bool,
    /// Whether it listens at the moment.
    pub listening: bool,
    /// If not: why.
    pub problem: Option<String>,
    /// Connections that are open ...
    pub open: usize,
    /// ... of so many at most.
    pub connections: usize,
    /// From peers to the server.
    pub received_bytes: u64,
    /// From the server to peers.
    pub sent_bytes: u64,
    /// How many were accepted, and how they ended.
    pub counters: BTreeMap<String, u64>,
}

impl Client {
    /// The published ports.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn published(&self) -> Result<Vec<PublishedPort>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            ports: Vec<PublishedPort>,
        }
        self.ask("ListPublished", json!({})).map(|Reply { ports }| ports)
    }
}
