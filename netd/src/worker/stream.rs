//! One TCP connection and the client's descriptor for it.
//!
//! A connection by name may have to begin with a ClientHello for that name: then its first bytes are held and looked at
//! ([`netd_policy::hello`]) before any of them reaches the connection's buffers.
//!
//! Bytes are copied once in user space each way: between the connection's buffers and frames. Between the buffers and
//! the descriptor the kernel copies; it reads and writes the connection's buffers in place.
//!
//! What the client sees at its end of the socketpair (see DESIGN in the client guide):
//! - the peer's FIN: our writing side is shut, so it reads end of file, without POLLHUP;
//! - a reset or any other failure: our end is closed, so it reads end of file with POLLHUP.
//!
//! What we see at ours: end of file without hang-up is the client's half-close; hang-up means that its last descriptor is
//! closed, or that both directions are shut.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};

use netd_ipc::{Outcome, StreamEnd, passing};
use netd_policy::HostName;
use netd_policy::hello::{Reader, Refusal, Verdict};
use netd_stack::{FlowId, Instant, Outcome as FlowEnd, Stack};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, send, shutdown};

/// How long a connection whose descriptor has hung up may go on without the peer taking a byte: what Linux gives an orphan
/// in FIN-WAIT-2 (`tcp_fin_timeout`).
const STALL_SECONDS: u64 = 60;

/// Bytes that are taken at a time while they are looked at: a whole ClientHello, as a rule.
const OPENING_BYTES: usize = 4096;

/// A connection handed to a client.
#[derive(Debug)]
pub(super) struct Stream {
    descriptor: OwnedFd,
    /// What must come first.
    opening: Opening,
    /// What came first, and should not have: why the stream ended.
    pub(super) refusal: Option<Refusal>,
    /// What the client sent beside its bytes. Nobody asked for it, and closing it can block: see [`crate::disposal`].
    unasked: Vec<OwnedFd>,
    pub(super) flow: FlowId,
    /// An event said so, and no call has said otherwise since.
    readable: bool,
    /// Until a call says otherwise.
    writable: bool,
    /// The client shut its writing side, or closed.
    client_finished: bool,
    /// Nobody holds the client's end.
    gone: bool,
    /// Once the descriptor has hung up: since when nothing moved, and how much had moved by then.
    stalled: Option<(Instant, (u64, usize))>,
    /// We shut our writing side: every byte before the peer's FIN is with the client.
    delivered: bool,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

/// What a connection begins with, as its grant wants it.
#[derive(Debug)]
enum Opening {
    /// Anything.
    Free,
    /// A ClientHello: what the client sends is held until it is whole, and what the peer sends stays where it is.
    Wanted(Box<Reader>),
    /// It was one; this much of what was held, from a place on, is not yet with the connection.
    Shown { held: Vec<u8>, from: usize },
}

/// Why a client's bytes are not taken any more.
enum Broken {
    /// It closed its end with bytes of the peer unread (RFC 1122, 4.2.2.13), or sent descriptors.
    Client,
    /// They are not what its grant wants first.
    Refused(Refusal),
}

impl Stream {
    /// Whose first bytes must be a ClientHello for `name`, if there is one.
    pub(super) fn new(descriptor: OwnedFd, flow: FlowId, name: Option<HostName>) -> Self {
        Self {
            descriptor,
            opening: name.map_or(Opening::Free, |name| Opening::Wanted(Box::new(Reader::new(name)))),
            refusal: None,
            unasked: Vec::new(),
            flow,
            // Nobody has the other end yet.
            readable: false,
            writable: true,
            client_finished: false,
            gone: false,
            stalled: None,
            delivered: false,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Whether its first bytes were looked at, or will be.
    pub(super) fn is_shown(&self) -> bool {
        !matches!(self.opening, Opening::Free)
    }

    /// Whether the descriptor's end of file was read, so that nothing is unread in it, and the client cannot send more.
    pub(super) fn is_drained(&self) -> bool {
        self.client_finished && self.unasked.is_empty()
    }

    /// Everything that is to be closed.
    pub(super) fn into_descriptors(mut self) -> Vec<OwnedFd> {
        self.unasked.push(self.descriptor);
        self.unasked
    }

    /// Takes note of what the descriptor is ready for. A hang-up means that the client is gone, unless our own direction is
    /// shut: then it may also be the client's half-close.
    pub(super) fn on_event(&mut self, now: Instant, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        self.writable |= writable;
        if hung_up {
            self.gone |= !self.delivered;
            self.stalled.get_or_insert((now, (self.sent_bytes, 0)));
        }
    }

    /// What is known of its end so far.
    pub(super) fn outcome(&self, end: StreamEnd) -> Outcome {
        Outcome { end, receive_finished: self.delivered }
    }

    /// Moves what can be moved, `most` bytes of it. Returns how it ended once there is nothing left to do for the client; the connection
    /// itself may still have to finish on its own.
    pub(super) fn pump(&mut self, now: Instant, stack: &mut Stack, most: usize) -> Option<Outcome> {
        let mut left = most;
        if let Err(broken) = self.open(stack, &mut left) {
            return Some(self.broken(stack, broken));
        }
        if let Some(end) = self.deliver(stack, &mut left) {
            return Some(self.outcome(end));
        }
        if let Err(broken) = self.collect(stack, &mut left) {
            return Some(self.broken(stack, broken));
        }
        let Ok(status) = stack.tcp_status(self.flow) else {
            return Some(self.outcome(StreamEnd::DeviceUnavailable));
        };
        match status.closed {
            // Both FINs are through; what the peer sent must still reach the client.
            Some(FlowEnd::Finished) if self.delivered || self.gone => {
                return Some(self.outcome(StreamEnd::Finished));
            }
            Some(FlowEnd::Finished) | None => {}
            Some(end) => return Some(self.outcome(stream_end(end))),
        }
        // Bytes for a client that is gone are answered with a reset (RFC 1122, 4.2.2.13).
        if (self.gone && status.readable > 0) || self.is_stalled(now, status.unacknowledged) {
            stack.tcp_abort(self.flow);
            return Some(self.outcome(StreamEnd::Aborted));
        }
        // Everything that the client left behind is in the connection's hands, which finishes by itself.
        (self.gone && self.client_finished).then(|| self.outcome(StreamEnd::Open))
    }

    /// Ends the connection for what the client did, and the peer is told by a reset.
    fn broken(&mut self, stack: &mut Stack, broken: Broken) -> Outcome {
        stack.tcp_abort(self.flow);
        match broken {
            Broken::Client => self.outcome(StreamEnd::Aborted),
            Broken::Refused(refusal) => {
                self.refusal = Some(refusal);
                self.outcome(StreamEnd::PolicyDenied)
            }
        }
    }

    /// Whether the peer has been taking nothing for too long, after the descriptor hung up.
    fn is_stalled(&mut self, now: Instant, unacknowledged: usize) -> bool {
        let Some((since, seen)) = &mut self.stalled else { return false };
        let moved = (self.sent_bytes, unacknowledged);
        if *seen != moved {
            (*since, *seen) = (now, moved);
        }
        now.saturating_duration_since(*since).as_secs() >= STALL_SECONDS
    }

    /// From the peer to the client.
    fn deliver(&mut self, stack: &mut Stack, left: &mut usize) -> Option<StreamEnd> {
        let descriptor = self.descriptor.as_fd();
        let opened = !matches!(self.opening, Opening::Wanted(_));
        while opened && self.writable && !self.gone {
            let mut broken = false;
            let mut blocked = false;
            let taken = stack.tcp_receive(self.flow, |bytes| {
                let bytes = bytes.get(..*left).unwrap_or(bytes);
                if bytes.is_empty() {
                    return 0;
                }
                match send(descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(count) => {
                        blocked = count < bytes.len();
                        count
                    }
                    Err(Errno::AGAIN) => {
                        blocked = true;
                        0
                    }
                    Err(_) => {
                        broken = true;
                        0
                    }
                }
            });
            let count = *taken.as_ref().unwrap_or(&0);
            self.received_bytes += count as u64;
            *left -= count;
            if broken {
                stack.tcp_abort(self.flow);
                return Some(StreamEnd::Aborted);
            }
            if blocked {
                self.writable = false;
            }
            if !matches!(taken, Ok(count) if count > 0) {
                break;
            }
        }
        if !self.delivered && stack.tcp_status(self.flow).is_ok_and(|status| status.receive_finished) {
            self.delivered = shutdown(descriptor, Shutdown::Write).is_ok();
        }
        None
    }

    /// The first bytes from the client, as long as they are looked at; then those that were held, to the peer.
    fn open(&mut self, stack: &mut Stack, left: &mut usize) -> Result<(), Broken> {
        while let Opening::Wanted(reader) = &mut self.opening
            && self.readable
            && !self.client_finished
        {
            let mut chunk = [0; OPENING_BYTES];
            let most = reader.room().min(OPENING_BYTES);
            let room = chunk.get_mut(..most).unwrap_or_default();
            // As in `collect`: never recv(2).
            let taken = passing::receive(
                &self.descriptor,
                &mut [IoSliceMut::new(room)],
                &mut self.unasked,
                RecvFlags::DONTWAIT,
            );
            let verdict = match taken {
                Ok(_) if !self.unasked.is_empty() => return Err(Broken::Client),
                Ok(0) => {
                    self.client_finished = true;
                    let _ = stack.tcp_finish(self.flow);
                    reader.end()
                }
                Ok(count) => reader.take(chunk.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Verdict::More
                }
                Err(_) => return Err(Broken::Client),
            };
            match verdict {
                Verdict::More => {}
                Verdict::Matches => {
                    let held = reader.take_held();
                    self.opening = Opening::Shown { held, from: 0 };
                }
                Verdict::Refused(refusal) => return Err(Broken::Refused(refusal)),
            }
        }
        if let Opening::Shown { held, from } = &mut self.opening {
            while let Some(rest) = held.get(*from..).filter(|rest| !rest.is_empty()) {
                let taken = stack.tcp_send(self.flow, |room| {
                    let count = rest.len().min(room.len()).min(*left);
                    room.iter_mut().zip(rest).take(count).for_each(|(to, byte)| *to = *byte);
                    count
                });
                let count = *taken.as_ref().unwrap_or(&0);
                *from += count;
                *left -= count;
                self.sent_bytes += count as u64;
                if count == 0 {
                    break;
                }
            }
            if *from == held.len() {
                (*held, *from) = (Vec::new(), 0);
            }
        }
        Ok(())
    }

    /// Whether what comes from the client goes straight to the peer.
    fn is_open(&self) -> bool {
        match &self.opening {
            Opening::Free => true,
            Opening::Wanted(_) => false,
            Opening::Shown { held, .. } => held.is_empty(),
        }
    }

    /// From the client to the peer.
    fn collect(&mut self, stack: &mut Stack, left: &mut usize) -> Result<(), Broken> {
        if !self.is_open() {
            return Ok(());
        }
        let (descriptor, unasked) = (self.descriptor.as_fd(), &mut self.unasked);
        while self.readable && !self.client_finished {
            let (mut blocked, mut finished, mut broken) = (false, false, false);
            let taken = stack.tcp_send(self.flow, |room| {
                let most = room.len().min(*left);
                let room = room.get_mut(..most).unwrap_or_default();
                if room.is_empty() {
                    return 0;
                }
                // Never recv(2): that makes the kernel close descriptors inside the call, on this thread.
                match passing::receive(descriptor, &mut [IoSliceMut::new(room)], unasked, RecvFlags::DONTWAIT)
                {
                    Ok(_) if !unasked.is_empty() => broken = true,
                    Ok(0) => finished = true,
                    Ok(count) => return count,
                    Err(Errno::AGAIN) => blocked = true,
                    // A reset of the socketpair, which is how the kernel tells of unread bytes.
                    Err(_) => broken = true,
                }
                0
            });
            let count = *taken.as_ref().unwrap_or(&0);
            self.sent_bytes += count as u64;
            *left -= count;
            if broken {
                return Err(Broken::Client);
            }
            if blocked {
                self.readable = false;
            }
            if finished {
                self.client_finished = true;
                // Fails only if the connection ended meanwhile, which the caller looks at next.
                let _ = stack.tcp_finish(self.flow);
            }
            if !matches!(taken, Ok(count) if count > 0) {
                break;
            }
        }
        Ok(())
    }
}

/// The stack's word for an end, in the words of the interface.
pub(super) fn stream_end(end: FlowEnd) -> StreamEnd {
    match end {
        FlowEnd::Finished => StreamEnd::Finished,
        FlowEnd::ConnectionRefused => StreamEnd::ConnectionRefused,
        FlowEnd::ConnectionReset => StreamEnd::ConnectionReset,
        FlowEnd::TimedOut => StreamEnd::TimedOut,
        FlowEnd::Unreachable => StreamEnd::Unreachable,
        FlowEnd::Aborted => StreamEnd::Aborted,
        FlowEnd::EngineFault => StreamEnd::EngineFault,
        FlowEnd::DeviceUnavailable => StreamEnd::DeviceUnavailable,
    }
}
