//! TCP listeners: a SEQPACKET descriptor that delivers accepted streams (see [`crate::accepted`]).

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

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
    deadline: Option<Instant>,
}

impl TcpListener {
    pub(super) fn new(client: Client, socket: OwnedFd, id: u64, local: SocketAddr) -> TcpListener {
        TcpListener { client, socket, id, local, deadline: None }
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
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// netd closed the listener (`InvalidListener`), or the deadline has passed.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let mut record = [0; RECORD_BYTES];
        let mut descriptors = Vec::new();
        let mut parts = [IoSliceMut::new(&mut record)];
        let count = message::receive(&self.socket, &mut parts, &mut descriptors, self.deadline, "accepting")?;
        if count == 0 {
            let message = format!("netd closed the listener on port {}", self.local.port());
            return Err(Error::Refused { kind: ErrorKind::InvalidListener, message });
        }
        let accepted = Accepted::decode(record.get(..count).unwrap_or_default())
            .map_err(|error| Error::Protocol(error.to_string()))?;
        let Accepted { id, remote, local_port } = accepted;
        let socket = descriptors.pop().ok_or_else(|| {
            Error::Protocol("an accepted stream without descriptor; is the process out of them?".to_owned())
        })?;
        let local = SocketAddr::new(self.local.ip(), local_port);
        Ok((TcpStream::new(self.client.clone(), socket, id, local, remote), remote))
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
