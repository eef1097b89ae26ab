//! The Varlink server: clients come, are told from each other, and are served one call at a time each.
//!
//! What one client can cost the others is bounded: connections and fetches by `[limits]`, requests by their length, replies by how long
//! they may lie unread. Nothing that a client sent is closed on a thread that serves others, since closing a stranger's descriptor can
//! block ([`disposal`]).

mod connection;
mod dispatch;
mod disposal;
mod share;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use netd_ipc::passing;
use netd_ipc::server::Peer;
use netd_ipc::services::ErrorKind;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use self::connection::{Connection, Gone, has_hung_up};
use self::disposal::Disposal;
pub(crate) use self::share::{Share, Shares};
use crate::Failure;
use crate::bus::Bus;
use crate::config::Config;
use crate::fetch::Fetcher;
use crate::netd::Netd;
use crate::publish::Published;
use crate::trust::Trust;

/// How long to wait after accept(2) failed, which it does when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How long calls under way may take to end once the server is told to.
const GRACE: Duration = Duration::from_secs(5);

/// What calls work with.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) netd: Netd,
    pub(crate) fetcher: Fetcher,
    pub(crate) trust: Trust,
    /// Fetches under way.
    pub(crate) fetches: Shares,
    pub(crate) bus: Arc<Bus>,
    pub(crate) published: Arc<Published>,
}

/// Serves clients and published ports until `stop` says true, and lets the calls under way end for a few seconds.
///
/// # Errors
/// The listener cannot be watched, or a thread cannot be started; no client can cause that.
pub(crate) async fn run(
    listener: UnixListener,
    config: Config,
    published: Arc<Published>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let Config { socket: _, socket_mode: _, metrics: _, netd, limits, fetch, trust, bus, publish: _ } =
        config;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let netd = Netd::new(netd);
    let streams = Shares::new(
        "streams of the bus",
        "[limits] bus_streams",
        limits.bus_streams,
        limits.bus_streams_per_user,
    );
    let bus = Arc::new(Bus::new(bus, netd.clone(), streams).map_err(io::Error::other)?);
    let supervising = tokio::spawn(Arc::clone(&bus).supervise());
    let publishing = tokio::spawn(Arc::clone(&published).run(netd.clone(), stop.clone()));
    let services = Arc::new(Services {
        fetcher: Fetcher::new(fetch),
        trust: Trust::new(trust),
        netd,
        bus,
        published,
        fetches: Shares::new(
            "fetches under way",
            "[limits] fetches",
            limits.fetches,
            limits.fetches_per_user,
        ),
    });
    let connections = Shares::new(
        "connections to netd-services",
        "[limits] connections",
        limits.connections,
        limits.connections_per_user,
    );
    let disposal = Disposal::start()?;
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Clients that are gone make room.
            Some(_) = clients.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some((connection, share)) = admit(stream, &connections, &disposal).await {
                    clients.spawn(dispatch::serve(connection, share, Arc::clone(&services)));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    supervising.abort();
    let _ = tokio::time::timeout(GRACE, async { while clients.join_next().await.is_some() {} }).await;
    clients.shutdown().await;
    // It has seen the same, and has bounds of its own.
    let _ = publishing.await;
    Ok(())
}

/// Finds out who a client is, and whether there is room for it.
async fn admit(stream: UnixStream, shares: &Shares, disposal: &Disposal) -> Option<(Connection, Share)> {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "a client without credentials is turned away");
            return None;
        }
    };
    if let Err(error) = passing::take_urgent_inline(&stream) {
        tracing::warn!(%error, uid = peer.uid, "a client's socket cannot be set up, and it is turned away");
        return None;
    }
    let uid = peer.uid;
    let mut connection = Connection::new(stream, peer, disposal.clone());
    match shares.take(uid) {
        Ok(share) => Some((connection, share)),
        Err(message) => {
            tracing::debug!(uid, "too many connections");
            // The answer to the call that it is about to make. A new socket's buffer takes it, or the client sees the end alone.
            let _ = connection.fail_now(&Failure::new(ErrorKind::QuotaExceeded, message));
            None
        }
    }
}
