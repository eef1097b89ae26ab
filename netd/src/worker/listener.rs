//! A TCP listener and the client's descriptor that delivers its connections.
//!
//! Descriptors that were sent and not yet received count against a limit that the kernel keeps per user: one listener
//! whose client never accepts could use it up for everybody. So few are ever under way; the rest wait in the stack's
//! backlog, and what does not fit there is not answered.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use netd_ipc::accepted::Accepted;
use netd_ipc::passing;
use netd_stack::ListenerId;
use rustix::io::Errno;
use rustix::net::{SendFlags, sockopt};

/// Undelivered connections per listener at most: what fits the smallest send buffer that the kernel gives.
pub(super) const UNDELIVERED_MAX: usize = 8;

/// Undelivered descriptors in all, as a part of RLIMIT_NOFILE, which is also the kernel's limit on descriptors under way.
const UNDELIVERED_SHARE: u64 = 16;

/// How many listeners there may be, so that all of them together stay within their share of `descriptors_max`.
pub(super) fn listeners_max(descriptors_max: u64) -> usize {
    usize::try_from(descriptors_max / UNDELIVERED_SHARE / UNDELIVERED_MAX as u64).unwrap_or(usize::MAX).max(1)
}

/// A listener handed to a client.
#[derive(Debug)]
pub(super) struct Listener {
    descriptor: OwnedFd,
    pub(super) id: ListenerId,
    pub(super) local: SocketAddr,
    /// Until a call says otherwise.
    pub(super) writable: bool,
    /// The next connection to deliver, and the client's descriptor for it.
    parked: Option<(Accepted, OwnedFd)>,
}

/// What became of the connection that is to be delivered next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The client has it, or will; or there was none.
    Sent,
    /// Enough are under way; try again when the descriptor is writable.
    Full,
    /// The client is gone.
    Gone,
}

impl Listener {
    /// Takes our end of the client's SEQPACKET socketpair.
    pub(super) fn new(descriptor: OwnedFd, id: ListenerId, local: SocketAddr) -> Result<Self, Errno> {
        // The kernel raises this to its minimum, which holds fewer than `UNDELIVERED_MAX` of our records.
        sockopt::set_socket_send_buffer_size(&descriptor, 1)?;
        Ok(Self { descriptor, id, local, writable: true, parked: None })
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Everything that is to be closed.
    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        vec![self.descriptor]
    }

    /// Takes a connection to be delivered next. One that is still parked would be lost, so deliver it first.
    pub(super) fn park(&mut self, accepted: Accepted, stream: OwnedFd) {
        debug_assert!(self.parked.is_none());
        self.parked = Some((accepted, stream));
    }

    /// Delivers the parked connection, if there is one.
    pub(super) fn deliver_parked(&mut self) -> Delivery {
        let Some((accepted, stream)) = &self.parked else { return Delivery::Sent };
        if !self.writable {
            return Delivery::Full;
        }
        let record = accepted.encode();
        match passing::send(
            &self.descriptor,
            &[IoSlice::new(&record)],
            &[stream.as_fd()],
            SendFlags::DONTWAIT,
        ) {
            Ok(_) => {
                self.parked = None;
                Delivery::Sent
            }
            // ETOOMANYREFS: the user has too many descriptors under way already.
            Err(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS) => {
                self.writable = false;
                Delivery::Full
            }
            Err(_) => Delivery::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::socketpair;
    use rustix::net::SocketType;

    #[test]
    fn client_that_never_accepts_holds_few_descriptors() {
        let (ours, _theirs) = socketpair(SocketType::SEQPACKET).unwrap();
        let (stream, _other) = socketpair(SocketType::STREAM).unwrap();
        let mut stack =
            netd_stack::Stack::new(crate::worker::tests::stack_config(), netd_stack::Instant::ZERO).unwrap();
        let (id, local) = stack.tcp_listen(Some(80), 1).unwrap();
        let mut listener = Listener::new(ours, id, local).unwrap();
        let accepted =
            Accepted { id: 1, remote: ([10, 0, 0, 1], 1234).into(), local: ([10, 0, 0, 2], 80).into() };
        let deliver = |_: &i32| {
            listener.park(accepted, stream.try_clone().unwrap());
            listener.deliver_parked() == Delivery::Sent
        };
        let sent = (0..100).take_while(deliver).count();
        assert!((1..=UNDELIVERED_MAX).contains(&sent), "{sent} descriptors are under way");
        assert!(!listener.writable);
    }

    #[test]
    fn share_of_the_descriptors_bounds_the_listeners() {
        assert_eq!(listeners_max(1024), 8);
        assert_eq!(listeners_max(524_288), 4096);
        assert_eq!(listeners_max(16), 1);
    }
}
