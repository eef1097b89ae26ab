//! The sockets for tokio: the same types as of the blocking library, behind [`AsyncFd`]. Feature `tokio`.
//!
//! Calls to netd block for a moment or for a whole connect, so they run on tokio's blocking threads.

#![allow(
    deprecated,
    reason = "AsyncFd's newer constructors are unsafe: they ask that the descriptor is owned as long as it is watched, and it is"
)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use ::tokio::task::{JoinHandle, spawn_blocking};

use crate::ToEndpoints;
use crate::error::Error;

/// Runs a call to netd on a blocking thread.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(call).await.map_err(io::Error::other)?.map_err(io::Error::from)
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

    /// Takes a stream of the blocking library over.
    ///
    /// # Errors
    /// Outside of a runtime that watches descriptors.
    pub fn new(stream: crate::TcpStream) -> io::Result<TcpStream> {
        Ok(TcpStream { inner: AsyncFd::new(stream)?, ending: None })
    }

    /// The stream below, for its addresses and its id.
    pub fn get_ref(&self) -> &crate::TcpStream {
        self.inner.get_ref()
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

    /// Takes a socket of the blocking library over.
    ///
    /// # Errors
    /// Outside of a runtime that watches descriptors.
    pub fn new(socket: crate::UdpSocket) -> io::Result<UdpSocket> {
        Ok(UdpSocket(AsyncFd::new(socket)?))
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.get_ref().local_addr()
    }

    /// Hands one datagram to netd.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::send_to`].
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| Ok(socket.send_now(payload, to)?)).await
    }

    /// Waits for the next datagram.
    ///
    /// # Errors
    /// As [`crate::UdpSocket::recv_from`].
    pub async fn recv_from(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = self.0.async_io(Interest::READABLE, |socket| Ok(socket.recv_now(&mut *into)?)).await?;
        Ok((received.len, received.from))
    }
}
