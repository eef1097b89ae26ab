//! UDP sockets: a SEQPACKET descriptor whose messages are datagrams with a header (see [`crate::datagram`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use super::{Client, message};
use crate::datagram::{HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, code};
use crate::error::{Error, ErrorKind};
use crate::types::UdpOptions;

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    client: Client,
    socket: OwnedFd,
    id: u64,
    local: SocketAddr,
    read_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    peer: Option<SocketAddr>,
    /// 0 leaves it to netd.
    ttl: u8,
}

/// What comes over a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A datagram.
    Datagram(Received),
    /// An earlier datagram of ours failed.
    Failed {
        /// Where it was sent.
        to: SocketAddr,
        /// Why: see [`code`].
        code: u32,
        /// Who said so, a router perhaps; none if it was netd itself.
        reporter: Option<IpAddr>,
    },
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
    pub(super) fn new(client: Client, socket: OwnedFd, id: u64, local: SocketAddr) -> UdpSocket {
        UdpSocket { client, socket, id, local, read_deadline: None, write_deadline: None, peer: None, ttl: 0 }
    }

    /// Binds a port through the [shared client](Client::shared); 0 lets netd choose.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn bind(port: u16) -> Result<UdpSocket, Error> {
        Client::shared()?.udp_bind(Some(port))
    }

    /// Makes `peer` the only one that the socket hears from now on, and the one of [`send`](Self::send) and
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    /// netd closed the socket, or the call failed; so for the options below.
    pub fn connect(&mut self, peer: SocketAddr) -> Result<(), Error> {
        self.set(UdpOptions { peer: Some(peer.into()), ..UdpOptions::default() })?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Whether it may send to everybody on the link; at first it may not.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn set_broadcast(&self, allowed: bool) -> Result<(), Error> {
        self.set(UdpOptions { broadcast: Some(allowed), ..UdpOptions::default() })
    }

    /// The time to live of datagrams to multicast groups; 1 at first, which is the link.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn set_multicast_ttl(&self, ttl: u8) -> Result<(), Error> {
        self.set(UdpOptions { multicast_ttl: Some(ttl), ..UdpOptions::default() })
    }

    /// Receives what is sent to a multicast group at this socket's port.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and `InvalidInput` for an address that is no group.
    pub fn join_multicast(&self, group: IpAddr) -> Result<(), Error> {
        self.set(UdpOptions { join: Some(group), ..UdpOptions::default() })
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn leave_multicast(&self, group: IpAddr) -> Result<(), Error> {
        self.set(UdpOptions { leave: Some(group), ..UdpOptions::default() })
    }

    fn set(&self, options: UdpOptions) -> Result<(), Error> {
        self.client.set_udp_options(self.id, options)
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
        let UdpSocket { client, socket, id, local, read_deadline, write_deadline, peer, ttl } = self;
        Ok(UdpSocket {
            client: client.clone(),
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
        self.recv_event(into)?.into_datagram()
    }

    /// Waits for the next datagram, or for the news that an earlier one of ours failed.
    ///
    /// # Errors
    /// netd closed its end, or the deadline has passed.
    pub fn recv_event(&self, into: &mut [u8]) -> Result<Event, Error> {
        let mut header = [0; HEADER_BYTES];
        let mut reporter = [0; 16];
        let mut unasked = Vec::new();
        // Room for the reporter's address even if the caller has none.
        let small = into.len() < reporter.len();
        let payload: &mut [u8] = if small { &mut reporter } else { &mut *into };
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(payload)];
        let count =
            message::receive(&self.socket, &mut parts, &mut unasked, self.read_deadline, "receiving")?;
        let event = self.event(&header, payload, count)?;
        if small && let Event::Datagram(received) = event {
            let len = received.len.min(into.len());
            into[..len].copy_from_slice(&reporter[..len]);
            return Ok(Event::Datagram(Received { len, ..received }));
        }
        Ok(event)
    }

    /// Takes a datagram that is there; `WouldBlock` if none is.
    #[cfg(feature = "tokio")]
    pub(crate) fn recv_now(&self, into: &mut [u8]) -> Result<Received, Error> {
        let mut header = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        let count = message::receive_now(&self.socket, &mut parts, &mut Vec::new())?;
        self.event(&header, into, count)?.into_datagram()
    }

    fn event(&self, header: &[u8; HEADER_BYTES], payload: &[u8], count: usize) -> Result<Event, Error> {
        if count == 0 {
            let message = format!("netd closed the UDP socket on port {}", self.local.port());
            return Err(Error::Refused { kind: ErrorKind::InvalidSocket, message });
        }
        let (Header { kind, peer, ecn, ttl }, _) =
            Header::decode(header.get(..count.min(HEADER_BYTES)).unwrap_or_default())
                .map_err(|error| Error::Protocol(error.to_string()))?;
        let len = count - HEADER_BYTES;
        match kind {
            Kind::Data => Ok(Event::Datagram(Received { len, from: peer, ttl, ecn })),
            Kind::Error(code) => {
                let reporter = payload.get(..len).and_then(|bytes| {
                    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
                    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
                });
                Ok(Event::Failed { to: peer, code, reporter })
            }
        }
    }

    fn connected(&self) -> Result<SocketAddr, Error> {
        self.peer.ok_or_else(|| Error::Refused {
            kind: ErrorKind::NotConnected,
            message: "the UDP socket has no peer: connect it, or use send_to and recv_from".to_owned(),
        })
    }
}

impl Event {
    fn into_datagram(self) -> Result<Received, Error> {
        match self {
            Event::Datagram(received) => Ok(received),
            Event::Failed { to, code, reporter: _ } => Err(refusal(code, to)),
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
