//! The sockets for tokio: the same types as of the blocking library, behind [`AsyncFd`]. Feature `tokio`.
//!
//! Calls to netd block for a moment or for a whole connect, so they run on tokio's blocking threads; a future that is dropped
//! leaves its call to end by itself, and what it made is closed then. Reading, writing, accepting and datagrams run on the
//! task itself and may be dropped at any time without a byte lost, so `tokio::time::timeout` and `timeout_at` are their deadlines.

#![allow(
    deprecated,
    reason = "AsyncFd's newer constructors are unsafe: they ask that the descriptor is owned as long as it is watched, and it is"
)]

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use ::tokio::task::{JoinHandle, spawn_blocking};

use crate::error::Error;
use crate::types::{Pong, TcpOptions};
use crate::{Client, Event, ToEndpoints};

/// Runs a call to netd on a blocking thread.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(call).await.map_err(io::Error::other)?.map_err(io::Error::from)
}

/// The addresses of a name, in the order to try them.
///
/// # Errors
/// As [`Client::resolve`].
pub async fn resolve(name: impl Into<String>) -> io::Result<Vec<IpAddr>> {
    let name = name.into();
    blocking(move || crate::resolve(&name, None)).await
}

/// Sends one echo request and waits for the answer; `timeout` is a second unless given.
///
/// # Errors
/// As [`Client::ping`].
pub async fn ping(to: IpAddr, timeout: Option<Duration>) -> io::Result<Pong> {
    blocking(move || Client::shared()?.ping(to, timeout, None)).await
}

/// A TCP connection, as [`crate::TcpStream`]: an end of file is the peer's orderly end, and only that.
#[derive(Debug)]
pub struct TcpStream {
    inner: AsyncFd<crate::TcpStream>,
    /// At the end of file: what it means, if netd has to be asked.
    ending: Option<JoinHandle<Result<(), Error>>>,
}

impl TcpStream {
    /// Connects, to the first address that answers.
    ///
    /// # Errors
    /// As [`crate::TcpStream::connect`].
    pub async fn connect(to: impl ToEndpoints + Send + 'static) -> io::Result<TcpStream> {
        blocking(move || crate::TcpStream::connect(to)).await.and_then(TcpStream::new)
    }

    /// As [`connect`](Self::connect), for so long at most: finding the addresses and trying all of them.
    ///
    /// # Errors
    /// `TimedOut`, or as [`connect`](Self::connect).
    pub async fn connect_timeout(
        to: impl ToEndpoints + Send + 'static,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let deadline = std::time::Instant::now() + timeout;
        blocking(move || crate::TcpStream::connect_deadline(to, deadline)).await.and_then(TcpStream::new)
    }

    /// Takes a stream of the blocking library over.
    ///
    /// # Errors
    /// Outside of a runtime that watches descriptors.
    pub fn new(stream: crate::TcpStream) -> io::Result<TcpStream> {
        Ok(TcpStream { inner: AsyncFd::new(stream)?, ending: None })
    }

    /// The stream below. Its own reads and writes would block the task.
    pub fn get_ref(&self) -> &crate::TcpStream {
        self.inner.get_ref()
    }

    /// Its own end.
    pub fn local_addr(&self) -> SocketAddr {
        self.get_ref().local_addr()
    }

    /// The peer.
    pub fn peer_addr(&self) -> SocketAddr {
        self.get_ref().peer_addr()
    }

    /// As [`crate::TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// The stream is over, or the call failed; so for the options below.
    pub async fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set(TcpOptions { nodelay: Some(nodelay), ..TcpOptions::default() }).await
    }

    /// As [`crate::TcpStream::set_keepalive`].
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub async fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        self.set(TcpOptions::keepalive(idle)).await
    }

    /// As [`crate::TcpStream::set_linger`].
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub async fn set_linger(&self, linger: Duration) -> io::Result<()> {
        self.set(TcpOptions::linger(linger)).await
    }

    /// As [`crate::TcpStream::set_ttl`].
    ///
    /// # Errors
    /// As [`crate::TcpStream::set_ttl`].
    pub async fn set_ttl(&self, ttl: u8) -> io::Result<()> {
        self.set(TcpOptions { ttl: Some(ttl), ..TcpOptions::default() }).await
    }

    async fn set(&self, options: TcpOptions) -> io::Result<()> {
        let (client, id) = (self.get_ref().client().clone(), self.get_ref().id());
        blocking(move || client.set_tcp_options(id, options)).await
    }

    /// Waits for netd's word on what the end of file means.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            let stream = self.inner.get_ref().try_clone()?;
            self.ending = Some(spawn_blocking(move || stream.end_of_stream()));
        }
        let Some(ending) = &mut self.ending else { return Poll::Ready(Ok(())) };
        let ended = ready!(Pin::new(ending).poll(cx));
        self.ending = None;
        Poll::Ready(ended.map_err(io::Error::other)?.map_err(io::Error::from))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.ending.is_some() {
                return self.poll_end(cx);
            }
            let mut ready = ready!(self.inner.poll_read_ready(cx))?;
            let room = into.initialize_unfilled();
            if room.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready.try_io(|stream| stream.get_ref().receive_now(room)) {
                Ok(Ok(0)) => return self.poll_end(cx),
                Ok(Ok(count)) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.inner.poll_write_ready(cx))?;
            match ready.try_io(|stream| stream.get_ref().send_now(bytes)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Half-closes: reading goes on.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.get_ref().shutdown_write().map_err(io::Error::from))
    }
}

/// A TCP listener, as [`crate::TcpListener`].
#[derive(Debug)]
pub struct TcpListener(AsyncFd<crate::TcpListener>);

impl TcpListener {
    /// Listens on a port; 0 lets netd choose.
    ///
    /// # Errors
    /// As [`crate::TcpListener::bind`].
    pub async fn bind(port: u16) -> io::Result<TcpListener> {
        blocking(move || crate::TcpListener::bind(port)).await.and_then(TcpListener::new)
    }

    /// As [`bind`](Self::bind), on one of netd's addresses alone.
    ///
    /// # Errors
    /// As [`crate::TcpListener::bind_on`].
    pub async fn bind_on(address: IpAddr, port: u16) -> io::Result<TcpListener> {
        blocking(move || crate::TcpListener::bind_on(address, port)).await.and_then(TcpListener::new)
    }

    /// Takes a listener of the blocking library over.
    ///
    /// # Errors
    /// Outside of a runtime that watches descriptors.
    pub fn new(listener: crate::TcpListener) -> io::Result<TcpListener> {
        // It is never written to, and a socketpair is always writable.
        Ok(TcpListener(AsyncFd::with_interest(listener, Interest::READABLE)?))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.get_ref().local_addr()
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// netd closed the listener.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accept = |listener: &crate::TcpListener| Ok(listener.accept_now()?);
        let (stream, remote) = self.0.async_io(Interest::READABLE, accept).await?;
        Ok((TcpStream::new(stream)?, remote))
    }
}

/// A UDP socket, as [`crate::UdpSocket`].
#[derive(Debug)]
pub struct UdpSocket(AsyncFd<crate::UdpSocket>);

impl UdpSocket {
    /// Binds a port; 0 lets netd choose.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::bind`].
    pub async fn bind(port: u16) -> io::Result<UdpSocket> {
        blocking(move || crate::UdpSocket::bind(port)).await.and_then(UdpSocket::new)
    }

    /// As [`bind`](Self::bind), on one of netd's addresses alone.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::bind_on`].
    pub async fn bind_on(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
        blocking(move || crate::UdpSocket::bind_on(address, port)).await.and_then(UdpSocket::new)
    }

    /// Takes a socket of the blocking library over.
    ///
    /// # Errors
    /// Outside of a runtime that watches descriptors.
    pub fn new(socket: crate::UdpSocket) -> io::Result<UdpSocket> {
        Ok(UdpSocket(AsyncFd::new(socket)?))
    }

    /// The socket below. Its own sends and receives would block the task.
    pub fn get_ref(&self) -> &crate::UdpSocket {
        self.0.get_ref()
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.get_ref().local_addr()
    }

    /// Whom it is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.get_ref().peer_addr()
    }

    /// As [`crate::UdpSocket::connect`].
    ///
    /// # Errors
    /// netd closed the socket, or the call failed; so for the options below.
    pub async fn connect(&self, peer: impl ToEndpoints + Send + 'static) -> io::Result<()> {
        let connected = self.on(move |socket| socket.connect(peer).map(|()| socket.connection())).await?;
        self.get_ref().set_connection(connected);
        Ok(())
    }

    /// As [`crate::UdpSocket::disconnect`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn disconnect(&self) -> io::Result<()> {
        self.on(|socket| socket.disconnect()).await?;
        self.get_ref().set_connection(None);
        Ok(())
    }

    /// As [`crate::UdpSocket::set_broadcast`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn set_broadcast(&self, allowed: bool) -> io::Result<()> {
        self.on(move |socket| socket.set_broadcast(allowed)).await
    }

    /// As [`crate::UdpSocket::set_dont_fragment`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn set_dont_fragment(&self, refused: bool) -> io::Result<()> {
        self.on(move |socket| socket.set_dont_fragment(refused)).await
    }

    /// The time to live of what is sent from now on; 0 leaves it to netd.
    pub fn set_ttl(&self, ttl: u8) {
        self.get_ref().set_ttl(ttl);
    }

    /// As [`crate::UdpSocket::set_multicast_ttl`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn set_multicast_ttl(&self, ttl: u8) -> io::Result<()> {
        self.on(move |socket| socket.set_multicast_ttl(ttl)).await
    }

    /// As [`crate::UdpSocket::join_multicast`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and `InvalidInput` for an address that is no group.
    pub async fn join_multicast(&self, group: IpAddr) -> io::Result<()> {
        self.on(move |socket| socket.join_multicast(group)).await
    }

    /// As [`crate::UdpSocket::leave_multicast`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn leave_multicast(&self, group: IpAddr) -> io::Result<()> {
        self.on(move |socket| socket.leave_multicast(group)).await
    }

    /// Runs a call about the socket, on another handle of it.
    async fn on<T: Send + 'static>(
        &self,
        call: impl FnOnce(&crate::UdpSocket) -> Result<T, Error> + Send + 'static,
    ) -> io::Result<T> {
        let socket = self.get_ref().try_clone()?;
        blocking(move || call(&socket)).await
    }

    /// Hands one datagram to netd.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::send_to`].
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| Ok(socket.send_now(payload, to)?)).await
    }

    /// Sends to the peer of [`connect`](Self::connect).
    ///
    /// # Errors
    /// `NotConnected`, or as [`send_to`](Self::send_to).
    pub async fn send(&self, payload: &[u8]) -> io::Result<()> {
        let peer = self.get_ref().connected()?;
        self.send_to(payload, peer).await
    }

    /// Waits for the next datagram.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::recv_from`].
    pub async fn recv_from(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = self.recv_event(into).await?.into_datagram()?;
        Ok((received.len, received.from))
    }

    /// Waits for the next datagram of the peer of [`connect`](Self::connect).
    ///
    /// # Errors
    /// `NotConnected`, or as [`recv_from`](Self::recv_from).
    pub async fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let peer = self.get_ref().connected()?;
        loop {
            match self.recv_from(into).await? {
                (count, from) if from == peer => return Ok(count),
                _ => {}
            }
        }
    }

    /// As [`crate::UdpSocket::recv_event`].
    ///
    /// # Errors
    /// netd closed its end.
    pub async fn recv_event(&self, into: &mut [u8]) -> io::Result<Event> {
        self.0.async_io(Interest::READABLE, |socket| Ok(socket.recv_now(&mut *into)?)).await
    }
}

/// The descriptors, for what else watches or passes them on.
macro_rules! descriptors {
    ($($type:ty: $field:tt),*) => {$(
        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.$field.get_ref().as_fd()
            }
        }

        impl AsRawFd for $type {
            fn as_raw_fd(&self) -> RawFd {
                self.$field.as_raw_fd()
            }
        }
    )*};
}

descriptors!(TcpStream: inner, TcpListener: 0, UdpSocket: 0);
