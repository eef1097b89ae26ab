//! TCP streams.
//!
//! A stream is one end of a SOCK_STREAM socketpair. netd shuts its writing side down when the peer's FIN came, and closes
//! its end when the connection is over. So at the end of file:
//!
//! | POLLHUP | own writing side | meaning |
//! | --- | --- | --- |
//! | no | any | the peer's FIN: complete |
//! | yes | open | netd closed its end while we could still write: cut short |
//! | yes | shut down | either; netd is asked for the outcome |
//!
//! The last line is ambiguous because a socketpair hangs up as soon as both directions are shut.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, shutdown};

use super::Client;
use super::endpoints::ToEndpoints;
use super::wait::{self, Patience};
use crate::error::Error;
use crate::passing;
use crate::types::{Outcome, StreamEnd, TcpOptions};

/// How often, and how far apart, netd is asked about a stream that hung up and is open in its books: it closes the
/// descriptor and settles the outcome in one turn of its loop, which takes far less.
const OUTCOME_TRIES: u32 = 20;
const OUTCOME_PAUSE: Duration = Duration::from_millis(25);

/// A TCP connection. Reading and writing work on a shared reference, so that two threads can do one each.
#[derive(Debug)]
pub struct TcpStream {
    client: Client,
    socket: OwnedFd,
    id: u64,
    local: SocketAddr,
    remote: SocketAddr,
    reading: Patience,
    writing: Patience,
    ends: Arc<Ends>,
    grant: Option<Arc<Grant>>,
}

/// What allowed a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The rule, with its file and line.
    pub rule: String,
    /// Of a connection by name: `required` if it must begin with a ClientHello for that name, otherwise `any`.
    pub tls: Option<String>,
}

/// What all clones of a stream know of its two ends.
#[derive(Debug, Default)]
struct Ends {
    write_shut: AtomicBool,
    /// The end of the stream was found to be the peer's orderly end; later hang-ups do not change that.
    complete: AtomicBool,
}

impl TcpStream {
    pub(super) fn new(
        client: Client,
        socket: OwnedFd,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> TcpStream {
        TcpStream {
            client,
            socket,
            id,
            local,
            remote,
            reading: Patience::default(),
            writing: Patience::default(),
            ends: Arc::default(),
            grant: None,
        }
    }

    pub(super) fn granted_by(self, grant: Grant) -> TcpStream {
        TcpStream { grant: Some(Arc::new(grant)), ..self }
    }

    /// Connects through the [shared client](Client::shared): to a name as [`Client::tcp_connect_host`] does, otherwise to the first
    /// address that answers.
    ///
    /// # Errors
    /// `PolicyDenied`, the last address's error, or the name cannot be resolved.
    pub fn connect(to: impl ToEndpoints) -> Result<TcpStream, Error> {
        Client::shared()?.tcp_connect_to(to, None)
    }

    /// As [`connect`](Self::connect); finding the addresses and trying all of them ends at the deadline.
    ///
    /// # Errors
    /// `TimedOut`, or as [`connect`](Self::connect).
    pub fn connect_deadline(to: impl ToEndpoints, deadline: Instant) -> Result<TcpStream, Error> {
        Client::shared()?.tcp_connect_deadline(to, deadline)
    }

    /// Connects to one endpoint, for so long at most.
    ///
    /// # Errors
    /// `TimedOut`, or another named error of the connect.
    pub fn connect_timeout(to: &SocketAddr, timeout: Duration) -> Result<TcpStream, Error> {
        Client::shared()?.tcp_connect(*to, Some(timeout))
    }

    /// Another handle on the same stream, with deadlines of its own. The stream ends with the last one.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream {
            client: self.client.clone(),
            socket: self.socket.try_clone()?,
            id: self.id,
            local: self.local,
            remote: self.remote,
            reading: self.reading.clone(),
            writing: self.writing.clone(),
            ends: Arc::clone(&self.ends),
            grant: self.grant.clone(),
        })
    }

    /// Whether small segments leave at once, as they do from the start, or wait until earlier ones are acknowledged.
    ///
    /// # Errors
    /// The stream is over, or the call failed; so for the options below.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        self.client.set_tcp_options(self.id, TcpOptions { nodelay: Some(nodelay), ..TcpOptions::default() })
    }

    /// After how long in silence the peer is asked whether it is there, in whole seconds; none never asks.
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub fn set_keepalive(&self, idle: Option<Duration>) -> Result<(), Error> {
        self.client.set_tcp_options(self.id, TcpOptions::keepalive(idle))
    }

    /// How long the stream, once closed, may go on to deliver what was written, in whole seconds; zero makes closing a reset.
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub fn set_linger(&self, linger: Duration) -> Result<(), Error> {
        self.client.set_tcp_options(self.id, TcpOptions::linger(linger))
    }

    /// The time to live, or hop limit, of what is sent from now on; 64 at first.
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay), and `InvalidInput` for 0.
    pub fn set_ttl(&self, ttl: u8) -> Result<(), Error> {
        self.client.set_tcp_options(self.id, TcpOptions { ttl: Some(ttl), ..TcpOptions::default() })
    }

    /// Where its calls go.
    #[cfg(feature = "tokio")]
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The number under which netd lists it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its own end.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer.
    pub fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// What allowed it; none for one that was accepted.
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_deref()
    }

    /// From then on, reading fails with `TimedOut` and takes nothing.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.reading.set_deadline(deadline);
    }

    /// From then on, writing fails with `TimedOut` and writes nothing.
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.writing.set_deadline(deadline);
    }

    /// Whether reading and writing fail with `WouldBlock` where they would wait, for event loops; this handle's own.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.reading.set_none(nonblocking);
        self.writing.set_none(nonblocking);
    }

    /// Says that nothing more will be written: the peer sees the end once it has read everything before.
    ///
    /// # Errors
    /// The stream is over already.
    pub fn shutdown_write(&self) -> Result<(), Error> {
        // Before the call: a reader on another thread that sees the hang-up has to ask, not to assume.
        self.ends.write_shut.store(true, Ordering::SeqCst);
        shutdown(&self.socket, Shutdown::Write).map_err(|error| self.failure(error))
    }

    /// Reads what is there, or waits for it; 0 is the peer's orderly end, and only that.
    ///
    /// # Errors
    /// The stream was cut short, its outcome cannot be learned, or the read deadline has passed.
    pub fn receive(&self, into: &mut [u8]) -> Result<usize, Error> {
        self.read_with(into, RecvFlags::empty())
    }

    /// As [`receive`](Self::receive), and leaves it there for the next read.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn peek(&self, into: &mut [u8]) -> Result<usize, Error> {
        self.read_with(into, RecvFlags::PEEK)
    }

    fn read_with(&self, into: &mut [u8], flags: RecvFlags) -> Result<usize, Error> {
        if into.is_empty() {
            return Ok(0);
        }
        self.reading.check("reading")?;
        loop {
            match rustix::io::retry_on_intr(|| recv(&self.socket, &mut *into, RecvFlags::DONTWAIT | flags)) {
                Ok((0, _)) => return self.end_of_stream().map(|()| 0),
                Ok((count, _)) => return Ok(count),
                Err(Errno::AGAIN) => self.reading.wait(&self.socket, PollFlags::IN, "reading")?,
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    /// Writes what fits, or waits until something does.
    ///
    /// # Errors
    /// The stream is over, or the write deadline has passed.
    pub fn send(&self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.writing.check("writing")?;
        loop {
            match passing::send(&self.socket, &[IoSlice::new(bytes)], &[], SendFlags::DONTWAIT) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => self.writing.wait(&self.socket, PollFlags::OUT, "writing")?,
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is. The end of the stream is not decided on: see `end_of_stream`.
    #[cfg(feature = "tokio")]
    pub(crate) fn receive_now(&self, into: &mut [u8]) -> io::Result<usize> {
        match rustix::io::retry_on_intr(|| recv(&self.socket, &mut *into, RecvFlags::DONTWAIT)) {
            Ok((count, _)) => Ok(count),
            Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(self.failure(error).into()),
        }
    }

    /// Writes what fits; `WouldBlock` if nothing does.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match passing::send(&self.socket, &[IoSlice::new(bytes)], &[], SendFlags::DONTWAIT) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(self.failure(error).into()),
        }
    }

    /// Decides what an end of file means: the table at the top.
    pub(crate) fn end_of_stream(&self) -> Result<(), Error> {
        if self.ends.complete.load(Ordering::SeqCst) {
            return Ok(());
        }
        let hung_up = wait::now(&self.socket, PollFlags::IN)?.contains(PollFlags::HUP);
        if hung_up {
            let could_write = !self.ends.write_shut.load(Ordering::SeqCst);
            match self.settled_outcome() {
                // The FIN came, and the connection ended before this read did. Netd's word is final both ways.
                Ok(Outcome { receive_finished: true, .. } | Outcome { end: StreamEnd::Finished, .. }) => {}
                Ok(Outcome { end, .. }) => return Err(cut_short(end)),
                Err(_) if could_write => return Err(cut_short(StreamEnd::ConnectionReset)),
                Err(error) => return Err(Error::OutcomeUnknown(error.to_string())),
            }
        }
        self.ends.complete.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Asks netd how the stream ended, again for a while if it says that it has not.
    fn settled_outcome(&self) -> Result<Outcome, Error> {
        for _ in 0..OUTCOME_TRIES {
            match self.client.outcome(self.id)? {
                Outcome { end: StreamEnd::Open, receive_finished: false } => thread::sleep(OUTCOME_PAUSE),
                settled => return Ok(settled),
            }
        }
        Ok(Outcome { end: StreamEnd::Open, receive_finished: false })
    }

    /// The error for a failed read or write: netd's own word for it if the stream is over.
    fn failure(&self, error: Errno) -> Error {
        if !matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) {
            return error.into();
        }
        if error == Errno::PIPE && self.ends.write_shut.load(Ordering::SeqCst) {
            return error.into();
        }
        let end = self.client.outcome(self.id).map_or(StreamEnd::ConnectionReset, |outcome| outcome.end);
        match end {
            StreamEnd::Finished => error.into(),
            end => cut_short(end),
        }
    }
}

fn cut_short(end: StreamEnd) -> Error {
    Error::CutShort { end }
}

impl Read for TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(into)?)
    }
}

impl Read for &TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(into)?)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.send(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.send(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For event loops that take numbers, such as mio's and tokio's.
impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The bare descriptor, for a program that keeps the end-of-stream rule by itself.
impl From<TcpStream> for OwnedFd {
    fn from(stream: TcpStream) -> OwnedFd {
        stream.socket
    }
}
