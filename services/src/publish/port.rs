//! One published port: listens through netd, and serves who comes.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netd_ipc::services::PublishedPort;
use netd_ipc::tokio::{TcpListener, TcpStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::carry::carry;
use super::config::{Listen, Publish, Target};
use super::counters::{Counters, Ended};
use super::sources::{Place as SourcePlace, Refusal, Sources};
use super::target::{self, Connected, Place};
use super::{proxy, reset_on_close, unit};
use crate::Failure;
use crate::netd::Netd;

/// Pauses before listening is tried again: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long connections have to be reset when netd-services stops: a call to netd for each.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// What waits in the kernel for a peer, which the kernel doubles. Writing goes on once three quarters of it are taken (unix(7)'s buffers), so
/// that a peer that takes less than a kilobyte per second stalls within `response_send_seconds`.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Port {
    config: Publish,
    /// Where the server listens, or why that is not known.
    place: Result<Place, String>,
    sources: Sources,
    places: Arc<Semaphore>,
    counters: Counters,
    /// Why it does not listen; none while it does.
    problem: Mutex<Option<String>>,
}

impl Port {
    pub(super) fn new(config: Publish) -> Port {
        let place = match &config.to {
            Target::Tcp(address) => may_use_tcp(*address).map(|()| Place::Tcp(*address)),
            Target::Unix(path) => Ok(Place::Unix(path.clone())),
            Target::SocketUnit(name) => unit::look_up(name),
        };
        Port {
            place,
            sources: Sources::new(config.connections_per_source, config.new_per_second_per_source),
            places: Arc::new(Semaphore::new(config.connections)),
            counters: Counters::default(),
            problem: Mutex::new(Some("it does not listen yet".to_owned())),
            config,
        }
    }

    /// How it does.
    pub(super) fn status(&self) -> PublishedPort {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PublishedPort {
            listen: self.config.listen.to_string(),
            to: self.config.to.to_string(),
            proxy_protocol: self.config.proxy_protocol,
            listening: problem.is_none(),
            problem,
            open: self.config.connections.saturating_sub(self.places.available_permits()),
            connections: self.config.connections,
            received_bytes: self.counters.received_bytes.load(Ordering::Relaxed),
            sent_bytes: self.counters.sent_bytes.load(Ordering::Relaxed),
            counters: self.counters.list(),
        }
    }

    /// Listens, serves, and listens again after netd was restarted, until `stop` says true.
    pub(super) async fn run(self: Arc<Self>, netd: Netd, mut stop: watch::Receiver<bool>) {
        let place = match &self.place {
            Ok(place) => place.clone(),
            Err(why) => return self.lost(why.clone()),
        };
        let mut served = JoinSet::new();
        let of_connections = stop.clone();
        tokio::select! {
            never = self.keep_listening(&netd, &place, &mut served, &of_connections) => match never {},
            _ = stop.wait_for(|stop| *stop) => {}
        }
        // Each sees the same, and resets its peer.
        let _ = timeout(STOP_GRACE, async { while served.join_next().await.is_some() {} }).await;
    }

    async fn keep_listening(
        self: &Arc<Self>,
        netd: &Netd,
        place: &Place,
        served: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) -> Infallible {
        let mut pause = PAUSE_MIN;
        loop {
            match self.listen(netd).await {
                Ok(listener) => {
                    pause = PAUSE_MIN;
                    self.listens();
                    let failed = self.accept(&listener, place, served, stop).await;
                    self.lost(failed.to_string());
                }
                Err(failure) => self.lost(failure.message),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn listen(&self, netd: &Netd) -> Result<TcpListener, Failure> {
        let Listen { address, port } = self.config.listen;
        let listener = netd.call(move |netd| netd.tcp_listen_on(address, Some(port), None)).await?;
        Ok(TcpListener::new(listener)?)
    }

    /// Until the listener fails.
    async fn accept(
        self: &Arc<Self>,
        listener: &TcpListener,
        place: &Place,
        served: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) -> std::io::Error {
        loop {
            let (stream, remote) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => return error,
                },
                // Those that ended are forgotten.
                Some(_) = served.join_next() => continue,
            };
            self.counters.accepted();
            match self.admit(remote.ip()) {
                Ok(places) => {
                    let (port, place, stop) = (Arc::clone(self), place.clone(), stop.clone());
                    served.spawn(async move {
                        let ended = port.serve(stream, &place, stop).await;
                        drop(places);
                        port.note(remote, ended);
                    });
                }
                // Closing is all that a stranger who is one too many costs.
                Err(refused) => self.note(remote, refused),
            }
        }
    }

    fn admit(&self, from: IpAddr) -> Result<(SourcePlace, OwnedSemaphorePermit), Ended> {
        let source = self.sources.admit(from).map_err(|refusal| match refusal {
            Refusal::AtOnce => Ended::RefusedSource,
            Refusal::Rate => Ended::RefusedRate,
        })?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Ended::RefusedFull)?;
        Ok((source, place))
    }

    async fn serve(&self, mut peer: TcpStream, place: &Place, stop: watch::Receiver<bool>) -> Ended {
        let connected = timeout(self.config.connect, target::connect(place)).await;
        match connected {
            Ok(Ok(Connected::Tcp(mut target))) => {
                let ended = self.carry(&mut peer, &mut target, stop).await;
                if ended != Ended::Finished {
                    // It is closed all the same.
                    let _ = reset_on_close(&target);
                }
                self.close(peer, ended).await
            }
            Ok(Ok(Connected::Unix(mut target))) => {
                let ended = self.carry(&mut peer, &mut target, stop).await;
                self.close(peer, ended).await
            }
            Ok(Err(error)) => {
                tracing::warn!(listen = %self.config.listen, to = %self.config.to, %error, "the server takes no connection");
                Ended::TargetFailed
            }
            Err(_) => {
                let seconds = self.config.connect.as_secs();
                tracing::warn!(listen = %self.config.listen, to = %self.config.to, seconds, "the server accepts nothing");
                Ended::TargetFailed
            }
        }
    }

    async fn carry(
        &self,
        peer: &mut TcpStream,
        target: &mut (impl AsyncRead + AsyncWrite + Unpin),
        mut stop: watch::Receiver<bool>,
    ) -> Ended {
        if sockopt::set_socket_send_buffer_size(&*peer, SEND_BUFFER_BYTES).is_err() {
            return Ended::PeerReset;
        }
        let Ok(descriptor) = peer.get_ref().try_clone() else { return Ended::PeerReset };
        let first = match self.config.proxy_protocol {
            true => proxy::header(peer.peer_addr(), peer.local_addr()),
            false => Vec::new(),
        };
        tokio::select! {
            ended = carry(peer, target, &first, &self.config, &self.counters, || has_hung_up(&descriptor)) => ended,
            _ = stop.wait_for(|stop| *stop) => Ended::Stopped,
        }
    }

    /// Closes the peer's connection: in order if it ended so, otherwise by a reset, since what was cut short must not look complete.
    async fn close(&self, peer: TcpStream, ended: Ended) -> Ended {
        if !matches!(ended, Ended::Finished | Ended::PeerReset)
            && let Err(error) = peer.set_linger(Duration::ZERO).await
        {
            tracing::debug!(%error, "a connection cannot be reset");
        }
        ended
    }

    fn note(&self, remote: SocketAddr, ended: Ended) {
        self.counters.ended(ended);
        tracing::debug!(listen = %self.config.listen, %remote, %ended, "a connection to a published port is over");
    }

    fn listens(&self) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!(listen = %self.config.listen, to = %self.config.to, "published");
    }

    fn lost(&self, why: String) {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.as_ref() != Some(&why) {
            tracing::warn!(listen = %self.config.listen, to = %self.config.to, %why, "not published");
        }
        *problem = Some(why);
    }
}

/// netd-services' unit leaves it no TCP of the kernel's unless told otherwise: better said before peers come than to each of them.
fn may_use_tcp(address: SocketAddr) -> Result<(), String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let made = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    made.map(drop).map_err(|error| {
        format!(
            "netd-services may not use TCP of the kernel's ({error}): lead the port to a Unix socket, or let it \
             (docs/publish.md, \"Servers on the loopback\")"
        )
    })
}

/// Whether netd closed its end: the connection is over.
fn has_hung_up(stream: impl AsFd) -> bool {
    let mut watched = [PollFd::new(&stream, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&now)), Ok(1..)) && watched[0].revents().contains(PollFlags::HUP)
}
