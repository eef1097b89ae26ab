//! UDP sockets: a SEQPACKET descriptor whose messages are datagrams with a header (see [`crate::datagram`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::endpoints::{ToEndpoints, try_each};
use super::wait::Patience;
use super::{Client, message};
use crate::datagram::{HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, code};
use crate::error::{Error, ErrorKind};
use crate::types::{Endpoint, UdpOptions};

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    client: Client,
    socket: OwnedFd,
    id: u64,
    local: SocketAddr,
    reading: Patience,
    writing: Patience,
    connection: Mutex<Option<Connection>>,
    /// 0 leaves it to netd.
    ttl: AtomicU8,
}

/// What connecting makes of a UDP socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    peer: SocketAddr,
    local: SocketAddr,
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
        /// With [`code::TOO_BIG`], the largest packet that the path carries, its IP header included; none if nobody said.
        mtu: Option<u16>,
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
        let (reading, writing) = (Patience::default(), Patience::default());
        UdpSocket {
            client,
            socket,
            id,
            local,
            reading,
            writing,
            connection: Mutex::default(),
            ttl: AtomicU8::new(0),
        }
    }

    /// Binds a port through the [shared client](Client::shared); 0 lets netd choose.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn bind(port: u16) -> Result<UdpSocket, Error> {
        Client::shared()?.udp_bind(Some(port))
    }

    /// As [`bind`](Self::bind), on one of netd's addresses alone: it is where datagrams come from.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and `InvalidInput` for an address that is not netd's.
    pub fn bind_on(address: IpAddr, port: u16) -> Result<UdpSocket, Error> {
        Client::shared()?.udp_bind_on(Some(address), Some(port))
    }

    /// Makes `peer` the only one that the socket hears from now on, and the one of [`send`](Self::send) and
    /// [`recv`](Self::recv). Of a name, the first address that netd takes.
    ///
    /// # Errors
    /// netd closed the socket, or the call failed; so for the options below.
    pub fn connect(&self, peer: impl ToEndpoints) -> Result<(), Error> {
        try_each(peer, &self.client, None, |peer| {
            let options = UdpOptions { peer: Some(peer.into()), ..UdpOptions::default() };
            let local = self.client.set_udp_options(self.id, options)?;
            self.set_connection(Some(Connection { peer, local: local.unwrap_or(self.local) }));
            Ok(())
        })
    }

    /// Hears everybody again.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn disconnect(&self) -> Result<(), Error> {
        let nobody = Endpoint { address: self.local.ip(), port: 0 };
        self.set(UdpOptions { peer: Some(nobody), ..UdpOptions::default() })?;
        self.set_connection(None);
        Ok(())
    }

    pub(crate) fn connection(&self) -> Option<Connection> {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_connection(&self, connection: Option<Connection>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// Whether a datagram that does not fit the path is refused, which comes back as [`code::TOO_BIG`] with the path's MTU (Linux's
    /// `IP_PMTUDISC_DO`). At first it is sent in fragments.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn set_dont_fragment(&self, refused: bool) -> Result<(), Error> {
        self.set(UdpOptions { dont_fragment: Some(refused), ..UdpOptions::default() })
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
        self.client.set_udp_options(self.id, options).map(|_| ())
    }

    /// Whom it is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.connection().map(|connection| connection.peer)
    }

    /// The time to live of what is sent from now on over this handle; 0 leaves it to netd.
    pub fn set_ttl(&self, ttl: u8) {
        self.ttl.store(ttl, Ordering::Relaxed);
    }

    /// The time to live of what is sent; 0 leaves it to netd.
    pub fn ttl(&self) -> u8 {
        self.ttl.load(Ordering::Relaxed)
    }

    /// Another handle on the same socket, with deadlines, peer and time to live of its own. Each datagram goes to one of them.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        let UdpSocket { client, socket, id, local, reading, writing, connection: _, ttl: _ } = self;
        Ok(UdpSocket {
            client: client.clone(),
            socket: socket.try_clone()?,
            id: *id,
            local: *local,
            reading: reading.clone(),
            writing: writing.clone(),
            connection: Mutex::new(self.connection()),
            ttl: AtomicU8::new(self.ttl()),
        })
    }

    /// The number under which netd lists it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is bound; of a connected socket, its own address towards the peer.
    pub fn local_addr(&self) -> SocketAddr {
        self.connection().map_or(self.local, |connection| connection.local)
    }

    /// From then on, receiving fails with `TimedOut`.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.reading.set_deadline(deadline);
    }

    /// From then on, sending fails with `TimedOut`.
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.writing.set_deadline(deadline);
    }

    /// Whether sending and receiving fail with `WouldBlock` where they would wait, for event loops; this handle's own.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.reading.set_none(nonblocking);
        self.writing.set_none(nonblocking);
    }

    /// Hands one datagram to netd. That it was sent, let alone that it arrived, is not known: a refusal comes back as an
    /// error of [`UdpSocket::recv_from`].
    ///
    /// # Errors
    /// The payload is too long for UDP, netd closed its end, or the deadline has passed.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        let header = self.header(payload, to)?;
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        if message::send(&self.socket, &parts, &self.writing, "sending")? {
            Ok(())
        } else {
            Err(self.closed())
        }
    }

    /// As [`send_to`](Self::send_to) if it fits; `WouldBlock` if it does not.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_now(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        let header = self.header(payload, to)?;
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        if message::send_now(&self.socket, &parts)? { Ok(()) } else { Err(self.closed()) }
    }

    fn header(&self, payload: &[u8], to: SocketAddr) -> Result<[u8; HEADER_BYTES], Error> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("a datagram of {} bytes: {PAYLOAD_BYTES_MAX} is the most", payload.len());
            return Err(Error::Refused { kind: ErrorKind::InvalidInput, message });
        }
        Ok(Header { ttl: self.ttl(), ..Header::data(to) }.encode())
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
        self.event_of(into, |parts| {
            message::receive(&self.socket, parts, &mut Vec::new(), &self.reading, "receiving")
        })
    }

    /// Takes what is there as [`recv_event`](Self::recv_event); `WouldBlock` if nothing is.
    #[cfg(feature = "tokio")]
    pub(crate) fn recv_now(&self, into: &mut [u8]) -> Result<Event, Error> {
        self.event_of(into, |parts| message::receive_now(&self.socket, parts, &mut Vec::new()))
    }

    fn event_of(
        &self,
        into: &mut [u8],
        receive: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, Error>,
    ) -> Result<Event, Error> {
        let mut header = [0; HEADER_BYTES];
        let mut reporter = [0; 16];
        // Room for the reporter's address even if the caller has none.
        let small = into.len() < reporter.len();
        let payload: &mut [u8] = if small { &mut reporter } else { &mut *into };
        let count = receive(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(payload)])?;
        let event = self.event(&header, payload, count)?;
        if small && let Event::Datagram(received) = event {
            let len = received.len.min(into.len());
            into[..len].copy_from_slice(&reporter[..len]);
            return Ok(Event::Datagram(Received { len, ..received }));
        }
        Ok(event)
    }

    fn event(&self, header: &[u8; HEADER_BYTES], payload: &[u8], count: usize) -> Result<Event, Error> {
        if count == 0 {
            return Err(self.closed());
        }
        let (Header { kind, peer, ecn, ttl, mtu }, _) =
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
                Ok(Event::Failed { to: peer, code, reporter, mtu: Some(mtu).filter(|mtu| *mtu > 0) })
            }
        }
    }

    fn closed(&self) -> Error {
        let message = format!("netd closed the UDP socket on port {}", self.local.port());
        Error::Refused { kind: ErrorKind::InvalidSocket, message }
    }

    pub(crate) fn connected(&self) -> Result<SocketAddr, Error> {
        self.peer_addr().ok_or_else(|| Error::Refused {
            kind: ErrorKind::NotConnected,
            message: "the UDP socket has no peer: connect it, or use send_to and recv_from".to_owned(),
        })
    }
}

impl Event {
    pub(crate) fn into_datagram(self) -> Result<Received, Error> {
        match self {
            Event::Datagram(received) => Ok(received),
            Event::Failed { to, code, reporter: _, mtu } => Err(refusal(code, to, mtu)),
        }
    }
}

fn refusal(code: u32, peer: SocketAddr, mtu: Option<u16>) -> Error {
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
    let path = mtu.map_or_else(String::new, |mtu| format!(", which carries packets of {mtu} bytes at most"));
    Error::Refused { kind, message: format!("a datagram to {peer} failed: {what}{path}") }
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
