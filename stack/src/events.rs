//! What changed since the owner looked last.

use std::collections::VecDeque;

use crate::random::{KeyedSet, KeyedState};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// It carries a generation: kept after its socket's end it is refused and never names another.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
        pub struct $name(pub(crate) u64);

        impl $name {
            /// The id as a number, unique among its kind for the life of the stack.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }
        }
    };
}

id! {
    /// Names a TCP connection.
    FlowId
}
id! {
    /// Names a TCP listener.
    ListenerId
}
id! {
    /// Names a UDP socket.
    UdpId
}
id! {
    /// Names an echo request.
    PingId
}

/// Something to look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ready {
    /// The connection became readable, writable, established, finished or closed: ask for its status.
    Flow(FlowId),
    /// A connection can be accepted.
    Listener(ListenerId),
    /// A datagram or an error can be fetched.
    Udp(UdpId),
    /// The result can be fetched.
    Ping(PingId),
    /// The IPv4 address, the lease or its absence changed.
    Lease,
    /// An IPv6 address, a router, or what it advertises changed.
    Addresses,
}

/// A queue that holds each [`Ready`] at most once, so its length is bounded by the number of sockets.
pub(crate) struct Events {
    queue: VecDeque<Ready>,
    queued: KeyedSet<Ready>,
}

impl Events {
    pub(crate) fn new(hasher: KeyedState) -> Events {
        Events { queue: VecDeque::new(), queued: KeyedSet::with_hasher(hasher) }
    }

    pub(crate) fn push(&mut self, ready: Ready) {
        if self.queued.insert(ready) {
            self.queue.push_back(ready);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Ready> {
        let ready = self.queue.pop_front()?;
        self.queued.remove(&ready);
        Some(ready)
    }
}
