//! What discovery tells, and its bounded queue.

use alloc::collections::VecDeque;
use core::net::SocketAddr;

use crate::key::PublicKey;
use crate::name::{DeviceId, ServiceName};

/// What happened to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer was heard for the first time, or again after it was gone. Its services follow, one by one.
    PeerAppeared {
        /// Its key.
        key: PublicKey,
        /// Who it says it is.
        device: DeviceId,
        /// Where it was heard.
        from: SocketAddr,
    },
    /// A peer is to be reached otherwise: another port, or a new address.
    PeerChanged {
        /// Its key.
        key: PublicKey,
    },
    /// A peer was not heard for the TTL, or had to make room.
    PeerGone {
        /// Its key.
        key: PublicKey,
        /// Who it was.
        device: DeviceId,
        /// Whether it had to make room for another stranger.
        displaced: bool,
    },
    /// A peer offers a service that it did not offer before.
    ServiceAppeared {
        /// The peer's key.
        key: PublicKey,
        /// The service.
        service: ServiceName,
    },
    /// A service is to be reached otherwise, since its peer is.
    ServiceChanged {
        /// The peer's key.
        key: PublicKey,
        /// The service.
        service: ServiceName,
    },
    /// A peer no longer offers a service, or is gone.
    ServiceGone {
        /// The peer's key.
        key: PublicKey,
        /// The service.
        service: ServiceName,
    },
    /// Somebody announces a pinned device with a key that is not pinned.
    IdentityMismatch {
        /// The device.
        device: DeviceId,
        /// The key that is not its own.
        key: PublicKey,
        /// Where it was heard.
        from: SocketAddr,
    },
    /// Events were lost, because they were not taken in time: the table says what is.
    Lagged,
}

/// Events that wait; when they are too many, all of them become one [`Event::Lagged`].
#[derive(Debug)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    max: usize,
}

impl Events {
    pub(super) fn new(max: usize) -> Events {
        Events { waiting: VecDeque::new(), max }
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.waiting.len() >= self.max {
            self.waiting.clear();
            self.waiting.push_back(Event::Lagged);
        }
        self.waiting.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }
}
