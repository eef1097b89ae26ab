//! Our end of a SEQPACKET descriptor in a client's hands: whole messages both ways, never waited for.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use netd_ipc::passing;
use netd_stack::Egress;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Messages taken from a client before others have their turn.
const BURST: u32 = 64;

/// What taking messages found out about the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There may be more to do at once.
    Busy,
    /// Nothing more to do for now.
    Idle,
    /// Its last descriptor is closed.
    Gone,
}

/// The descriptor, and what is known of it.
#[derive(Debug)]
pub(super) struct Messages {
    descriptor: OwnedFd,
    /// What the client sent beside its messages. Nobody asked for it, and closing it can block: see [`crate::disposal`].
    unasked: Vec<OwnedFd>,
    /// Until a call says otherwise.
    readable: bool,
}

impl Messages {
    pub(super) fn new(descriptor: OwnedFd) -> Messages {
        Messages { descriptor, unasked: Vec::new(), readable: true }
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Everything that is to be closed.
    pub(super) fn into_descriptors(mut self) -> Vec<OwnedFd> {
        self.unasked.push(self.descriptor);
        self.unasked
    }

    pub(super) fn on_event(&mut self, readable: bool) {
        self.readable |= readable;
    }

    /// Whether the client may have written something.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Writes one message; false if the client does not take it.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> bool {
        passing::send(&self.descriptor, parts, &[], SendFlags::DONTWAIT).is_ok()
    }

    /// Takes the next message into the buffer, if it can be sent on; if there is none, says why.
    pub(super) fn take(&mut self, egress: &impl Egress, buffer: &mut [u8]) -> Result<usize, State> {
        if !self.readable {
            return Err(State::Idle);
        }
        if !egress.ready() {
            return Err(State::Busy);
        }
        // Never recv(2): that makes the kernel close descriptors inside the call, on this thread.
        let mut parts = [IoSliceMut::new(buffer)];
        match passing::receive(&self.descriptor, &mut parts, &mut self.unasked, RecvFlags::DONTWAIT) {
            // The end, or descriptors that nobody asked for: they end the socket.
            Ok(0) => Err(State::Gone),
            Ok(_) if !self.unasked.is_empty() => Err(State::Gone),
            Ok(len) => Ok(len),
            Err(Errno::AGAIN) => {
                self.readable = false;
                Err(State::Idle)
            }
            Err(_) => Err(State::Gone),
        }
    }
}

/// Takes messages one by one until there is none, `budget` and a burst at most; returns how many.
pub(super) fn take_some(budget: u32, mut take_one: impl FnMut() -> Result<(), State>) -> (u32, State) {
    let most = budget.min(BURST);
    for taken in 0..most {
        if let Err(state) = take_one() {
            return (taken, state);
        }
    }
    (most, State::Busy)
}
