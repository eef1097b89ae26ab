//! Published ports: connections to a port of netd's are carried to a server of this machine.
//!
//! ```text
//!  peer ── TCP ──> netd ── descriptor ──> Port ── sources, places ── carry ──> 127.0.0.1:22, or a Unix socket
//! ```
//!
//! Each port is a task of its own: it listens through netd as any client does, by a grant of netd-services' user, listens again after
//! netd was restarted, and bounds who may come ([`sources`]), how many, and how slowly ([`carry`]).

mod carry;
pub mod config;
mod counters;
mod port;
mod proxy;
mod sources;
mod target;
mod unit;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use netd_ipc::services::PublishedPort;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::port::Port;
use crate::netd::Netd;

/// All published ports.
#[derive(Debug)]
pub(crate) struct Published {
    ports: Vec<Arc<Port>>,
}

impl Published {
    /// What the configuration names; nothing listens yet.
    pub(crate) fn new(ports: Vec<config::Publish>) -> Published {
        Published { ports: ports.into_iter().map(|port| Arc::new(Port::new(port))).collect() }
    }

    /// Serves all ports until `stop` says true; the connections that are left then are reset.
    pub(crate) async fn run(self: Arc<Self>, netd: Netd, stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for port in &self.ports {
            tasks.spawn(Arc::clone(port).run(netd.clone(), stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// How each port does.
    pub(crate) fn list(&self) -> Vec<PublishedPort> {
        self.ports.iter().map(|port| port.status()).collect()
    }
}

/// Has a TCP socket of the kernel's be reset when it is closed: what was cut short must not look complete.
fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO))?)
}
