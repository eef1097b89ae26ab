//! TCP listeners: a SEQPACKET descriptor that delivers accepted streams (see [`crate::accepted`]).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use super::wait::Patience;
use super::{Client, TcpStream, message};
use crate::accepted::{Accepted, RECORD_BYTES};
use crate::error::{Error, ErrorKind};

/// A TCP listener. Dropping it closes the port; streams that it delivered live on.
#[derive(Debug)]
pub struct TcpListener {
    client: Client,
    socket: OwnedFd,
    id: u64,
    local: SocketAddr,
    patience: Patience,
}

impl TcpListener {
    pub(super) fn new(client: Client, socket: OwnedFd, id: u64, local: SocketAddr) -> TcpListener {
        TcpListener { client, socket, id, local, patience: Patience::default() }
    }

    /// Listens on a port through the [shared client](Client::shared); 0 lets netd choose.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn bind(port: u16) -> Result<TcpListener, Error> {
        Client::shared()?.tcp_listen(Some(port), None)
    }

    /// As [`bind`](Self::bind), on one of netd's addresses alone.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and `InvalidInput` for an address that is not netd's.
    pub fn bind_on(address: IpAddr, port: u16) -> Result<TcpListener, Error> {
        Client::shared()?.tcp_listen_on(Some(address), Some(port), None)
    }

    /// The connections, one after the other, without end.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// Another handle on the same listener, with a deadline of its own. Each connection goes to one of them.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener {
            client: self.client.clone(),
            socket: self.socket.try_clone()?,
            id: self.id,
            local: self.local,
            patience: self.patience.clone(),
        })
    }

    /// The number under which netd lists it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// From then on, accepting fails with `TimedOut`.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.patience.set_deadline(deadline);
    }

    /// Whether accepting fails with `WouldBlock` where it would wait, for event loops; this handle's own.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.patience.set_none(nonblocking);
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// netd closed the listener (`InvalidListener`), or the deadline has passed.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let mut record = [0; RECORD_BYTES];
        let mut descriptors = Vec::new();
        let mut parts = [IoSliceMut::new(&mut record)];
        let count =
            message::receive(&self.socket, &mut parts, &mut descriptors, &self.patience, "accepting")?;
        self.accepted(record.get(..count).unwrap_or_default(), descriptors)
    }

    /// Takes a connection that is there; `WouldBlock` if none is.
    #[cfg(feature = "tokio")]
    pub(crate) fn accept_now(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let mut record = [0; RECORD_BYTES];
        let mut descriptors = Vec::new();
        let mut parts = [IoSliceMut::new(&mut record)];
        let count = message::receive_now(&self.socket, &mut parts, &mut descriptors)?;
        self.accepted(record.get(..count).unwrap_or_default(), descriptors)
    }

    fn accepted(
        &self,
        record: &[u8],
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(TcpStream, SocketAddr), Error> {
        if record.is_empty() {
            let message = format!("netd closed the listener on port {}", self.local.port());
            return Err(Error::Refused { kind: ErrorKind::InvalidListener, message });
        }
        let accepted = Accepted::decode(record).map_err(|error| Error::Protocol(error.to_string()))?;
        let Accepted { id, remote, local } = accepted;
        let socket = descriptors.pop().ok_or_else(|| {
            Error::Protocol("an accepted stream without descriptor; is the process out of them?".to_owned())
        })?;
        Ok((TcpStream::new(self.client.clone(), socket, id, local, remote), remote))
    }
}

/// The connections of a listener; an error, such as a deadline that has passed, does not end it.
#[derive(Debug)]
pub struct Incoming<'a>(&'a TcpListener);

impl Iterator for Incoming<'_> {
    type Item = Result<TcpStream, Error>;

    fn next(&mut self) -> Option<Result<TcpStream, Error>> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}

/// For event loops that take numbers, such as mio's and tokio's.
impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
