//! UDP sockets: a SEQPACKET descriptor whose messages are datagrams with a header (see [`crate::datagram`]).

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::message;
use crate::datagram::{HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, code};
use crate::error::{Error, ErrorKind};

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: OwnedFd,
    id: u64,
    local: SocketAddr,
    read_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
}

impl UdpSocket {
    pub(super) fn new(socket: OwnedFd, id: u64, local: SocketAddr) -> UdpSocket {
        UdpSocket { socket, id, local, read_deadline: None, write_deadline: None }
    }

    /// The number under which netd lists it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// From then on, receiving fails with `TimedOut`.
    pub fn set_read_deadline(&mut self, deadline: Option<Instant>) {
        self.read_deadline = deadline;
    }

    /// From then on, sending fails with `TimedOut`.
    pub fn set_write_deadline(&mut self, deadline: Option<Instant>) {
        self.write_deadline = deadline;
    }

    /// Hands one datagram to netd. That it was sent, let alone that it arrived, is not known: a refusal comes back as an
    /// error of [`UdpSocket::receive_from`].
    ///
    /// # Errors
    /// The payload is too long for UDP, netd closed its end, or the deadline has passed.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("a datagram of {} bytes: {PAYLOAD_BYTES_MAX} is the most", payload.len());
            return Err(Error::Refused { kind: ErrorKind::InvalidInput, message });
        }
        let header = Header::data(to).encode();
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        message::send(&self.socket, &parts, self.write_deadline, "sending").map(|_| ())
    }

    /// Waits for the next datagram. What does not fit into the buffer is lost, as recv(2) has it.
    ///
    /// # Errors
    /// An earlier datagram failed (the message names its peer), netd closed its end, or the deadline has passed.
    pub fn receive_from(&self, into: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let mut header = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        let mut unasked = Vec::new();
        let count =
            message::receive(&self.socket, &mut parts, &mut unasked, self.read_deadline, "receiving")?;
        if count == 0 {
            let message = format!("netd closed the UDP socket on port {}", self.local.port());
            return Err(Error::Refused { kind: ErrorKind::InvalidSocket, message });
        }
        let (Header { kind, peer, .. }, _) =
            Header::decode(header.get(..count.min(HEADER_BYTES)).unwrap_or_default())
                .map_err(|error| Error::Protocol(error.to_string()))?;
        match kind {
            Kind::Data => Ok((count - HEADER_BYTES, peer)),
            Kind::Error(code) => Err(refusal(code, peer)),
        }
    }
}

fn refusal(code: u32, peer: SocketAddr) -> Error {
    let (kind, what) = match code {
        code::PORT_UNREACHABLE => (ErrorKind::ConnectionRefused, "nobody listens there"),
        code::TOO_BIG => (ErrorKind::InvalidInput, "it is too big for the path"),
        code::POLICY_DENIED => (ErrorKind::PolicyDenied, "no grant allows it"),
        code::DEVNET_DISABLED => (ErrorKind::DevnetDisabled, "the devnet switch is off"),
        code::DEVICE_UNAVAILABLE => (ErrorKind::DeviceUnavailable, "there is no live device"),
        code::NO_ROUTE => (ErrorKind::Unreachable, "there is no way to it"),
        code::TIME_EXCEEDED => (ErrorKind::Unreachable, "its time to live ran out on the way"),
        code::PROHIBITED => (ErrorKind::Unreachable, "a filter on the way refused it"),
        _ => (ErrorKind::Unreachable, "it is unreachable"),
    };
    Error::Refused { kind, message: format!("a datagram to {peer} failed: {what}") }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
