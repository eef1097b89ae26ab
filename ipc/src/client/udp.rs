//! UDP sockets: a SEQPACKET descriptor whose messages are datagrams with a header (see [`crate::datagram`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use super::{Client, message};
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
    peer: Option<SocketAddr>,
    /// 0 leaves it to netd.
    ttl: u8,
}

/// A datagram that came, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of payload in the buffer.
    pub len: usize,
    /// Its sender.
    pub from: SocketAddr,
    /// Time to live, or hop limit, that was left.
    pub ttl: u8,
    /// The two ECN bits (RFC 3168, 5).
    pub ecn: u8,
}

impl UdpSocket {
    pub(super) fn new(socket: OwnedFd, id: u64, local: SocketAddr) -> UdpSocket {
        UdpSocket { socket, id, local, read_deadline: None, write_deadline: None, peer: None, ttl: 0 }
    }

    /// Binds a port through the [shared client](Client::shared); 0 lets netd choose.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn bind(port: u16) -> Result<UdpSocket, Error> {
        Client::shared()?.udp_bind(Some(port))
    }

    /// Makes `peer` the only one that [`send`](Self::send) and [`recv`](Self::recv) deal with; datagrams of others are passed
    /// over from now on.
    pub fn connect(&mut self, peer: SocketAddr) {
        self.peer = Some(peer);
    }

    /// Whom it is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The time to live of what is sent from now on; 0 leaves it to netd.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
    }

    /// The time to live of what is sent; 0 leaves it to netd.
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Another handle on the same socket, with deadlines, peer and time to live of its own. Each datagram goes to one of them.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        let UdpSocket { socket, id, local, read_deadline, write_deadline, peer, ttl } = self;
        Ok(UdpSocket {
            socket: socket.try_clone()?,
            id: *id,
            local: *local,
            read_deadline: *read_deadline,
            write_deadline: *write_deadline,
            peer: *peer,
            ttl: *ttl,
        })
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
    /// error of [`UdpSocket::recv_from`].
    ///
    /// # Errors
    /// The payload is too long for UDP, netd closed its end, or the deadline has passed.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        let header = self.header(payload, to)?;
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        message::send(&self.socket, &parts, self.write_deadline, "sending").map(|_| ())
    }

    /// As [`send_to`](Self::send_to) if it fits; `WouldBlock` if it does not.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_now(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        let header = self.header(payload, to)?;
        message::send_now(&self.socket, &[IoSlice::new(&header), IoSlice::new(payload)]).map(|_| ())
    }

    fn header(&self, payload: &[u8], to: SocketAddr) -> Result<[u8; HEADER_BYTES], Error> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("a datagram of {} bytes: {PAYLOAD_BYTES_MAX} is the most", payload.len());
            return Err(Error::Refused { kind: ErrorKind::InvalidInput, message });
        }
        Ok(Header { ttl: self.ttl, ..Header::data(to) }.encode())
    }

    /// Sends to the peer of [`connect`](Self::connect).
    ///
    /// # Errors
    /// `NotConnected`, or as [`send_to`](Self::send_to).
    pub fn send(&self, payload: &[u8]) -> Result<(), Error> {
        self.send_to(payload, self.connected()?)
    }

    /// Waits for the next datagram. What does not fit into the buffer is lost, as recv(2) has it.
    ///
    /// # Errors
    /// An earlier datagram failed (the message names its peer), netd closed its end, or the deadline has passed.
    pub fn recv_from(&self, into: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        self.recv_message(into).map(|received| (received.len, received.from))
    }

    /// Waits for the next datagram of the peer of [`connect`](Self::connect).
    ///
    /// # Errors
    /// `NotConnected`, or as [`recv_from`](Self::recv_from).
    pub fn recv(&self, into: &mut [u8]) -> Result<usize, Error> {
        let peer = self.connected()?;
        loop {
            match self.recv_from(into)? {
                (count, from) if from == peer => return Ok(count),
                _ => {}
            }
        }
    }

    /// As [`recv_from`](Self::recv_from), with all that its header says.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    pub fn recv_message(&self, into: &mut [u8]) -> Result<Received, Error> {
        let mut header = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        let mut unasked = Vec::new();
        let count =
            message::receive(&self.socket, &mut parts, &mut unasked, self.read_deadline, "receiving")?;
        self.received(&header, count)
    }

    /// Takes a datagram that is there; `WouldBlock` if none is.
    #[cfg(feature = "tokio")]
    pub(crate) fn recv_now(&self, into: &mut [u8]) -> Result<Received, Error> {
        let mut header = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        let count = message::receive_now(&self.socket, &mut parts, &mut Vec::new())?;
        self.received(&header, count)
    }

    fn received(&self, header: &[u8; HEADER_BYTES], count: usize) -> Result<Received, Error> {
        if count == 0 {
            let message = format!("netd closed the UDP socket on port {}", self.local.port());
            return Err(Error::Refused { kind: ErrorKind::InvalidSocket, message });
        }
        let (Header { kind, peer, ecn, ttl }, _) =
            Header::decode(header.get(..count.min(HEADER_BYTES)).unwrap_or_default())
                .map_err(|error| Error::Protocol(error.to_string()))?;
        match kind {
            Kind::Data => Ok(Received { len: count - HEADER_BYTES, from: peer, ttl, ecn }),
            Kind::Error(code) => Err(refusal(code, peer)),
        }
    }

    fn connected(&self) -> Result<SocketAddr, Error> {
        self.peer.ok_or_else(|| Error::Refused {
            kind: ErrorKind::NotConnected,
            message: "the UDP socket has no peer: connect it, or use send_to and recv_from".to_owned(),
        })
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

/// For event loops that take numbers, such as mio's and tokio's.
impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
