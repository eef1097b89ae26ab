//! Raw frames: a SEQPACKET descriptor whose messages are Ethernet frames of one type (see [`crate::frames`]).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::message;
use super::wait::Patience;
use crate::error::{Error, ErrorKind};
use crate::frames::{ADDRESS_BYTES, HEADER_BYTES, Header, split};

/// Everybody on the link.
const EVERYBODY: [u8; ADDRESS_BYTES] = [0xff; ADDRESS_BYTES];

/// Raw frames of one EtherType, which is this program's alone until they are dropped.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    id: u64,
    ether_type: u16,
    mac: [u8; ADDRESS_BYTES],
    mtu: usize,
    reading: Patience,
    writing: Patience,
}

impl Frames {
    /// Of all on the link, as a destination.
    pub const EVERYBODY: [u8; ADDRESS_BYTES] = EVERYBODY;

    pub(super) fn new(
        socket: OwnedFd,
        id: u64,
        ether_type: u16,
        (mac, mtu): (&str, usize),
    ) -> Result<Frames, Error> {
        let mac =
            address(mac).ok_or_else(|| Error::Protocol(format!("netd's hardware address is '{mac}'")))?;
        let (reading, writing) = (Patience::default(), Patience::default());
        Ok(Frames { socket, id, ether_type, mac, mtu, reading, writing })
    }

    /// The number under which netd lists them.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Their type.
    pub fn ether_type(&self) -> u16 {
        self.ether_type
    }

    /// The hardware address that they are sent from.
    pub fn mac(&self) -> [u8; ADDRESS_BYTES] {
        self.mac
    }

    /// The most that one may carry, in bytes.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// From then on, receiving fails with `TimedOut`.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.reading.set_deadline(deadline);
    }

    /// From then on, sending fails with `TimedOut`.
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.writing.set_deadline(deadline);
    }

    /// Whether sending and receiving fail with `WouldBlock` where they would wait, for event loops.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.reading.set_none(nonblocking);
        self.writing.set_none(nonblocking);
    }

    /// Hands a frame to netd. That it was sent, let alone that it arrived, is not known.
    ///
    /// # Errors
    /// More than [`mtu`](Self::mtu), netd closed its end, or the deadline has passed.
    pub fn send(&self, to: [u8; ADDRESS_BYTES], payload: &[u8]) -> Result<(), Error> {
        if payload.len() > self.mtu {
            let message = format!("a frame with {} bytes: {} is the most", payload.len(), self.mtu);
            return Err(Error::Refused { kind: ErrorKind::InvalidInput, message });
        }
        let header = Header { to, from: self.mac, ether_type: self.ether_type }.encode();
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        if message::send(&self.socket, &parts, &self.writing, "sending")? { Ok(()) } else { Err(closed()) }
    }

    /// Waits for the next frame; returns who sent it, to whom, and how many bytes of it are in the buffer. What does not fit is lost.
    /// Short frames come with the padding that the wire gave them.
    ///
    /// # Errors
    /// netd closed its end, or the deadline has passed.
    pub fn recv(&self, into: &mut [u8]) -> Result<(Header, usize), Error> {
        let mut header = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(into)];
        let count = message::receive(&self.socket, &mut parts, &mut Vec::new(), &self.reading, "receiving")?;
        let carried = count.checked_sub(HEADER_BYTES).ok_or_else(closed)?;
        let (header, _) = split(&header).ok_or_else(closed)?;
        Ok((header, carried))
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn closed() -> Error {
    let message = "netd closed the raw frames: its device is gone, or the rules changed".to_owned();
    Error::Refused { kind: ErrorKind::Disconnected, message }
}

/// Six numbers of two hexadecimal digits, between colons.
fn address(text: &str) -> Option<[u8; ADDRESS_BYTES]> {
    let numbers = text.split(':').map(|part| u8::from_str_radix(part, 16).ok());
    numbers.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
