//! What users have of the control thread's connections.

use crate::limits::Limits;

/// What a connection counts as while it is being closed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    Admitted,
    TurnedAway,
}

/// Connections that a user has, or everybody.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) open: usize,
    /// Closed by either side, and still in a closing thread's hands. They have a bound of their own, as high: a client that
    /// makes and closes connections one after the other does not have to wait for that thread.
    pub(super) closing: usize,
    /// Beyond the bound; being closed.
    pub(super) turned_away: usize,
    /// How often that happened, for as long as there is anything else.
    pub(super) refused: u64,
}

impl Share {
    pub(super) fn is_full(&self, limit: u32) -> bool {
        self.used() >= limit.into()
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.open + self.closing + self.turned_away == 0
    }

    /// What the bound is compared with.
    pub(super) fn used(&self) -> u64 {
        self.open.max(self.closing) as u64
    }
}

/// A user that has connections and nothing at the worker.
pub(super) fn idle_client(uid: u32, connections: netd_ipc::Use, limits: &Limits) -> netd_ipc::ClientUse {
    let unused = |limit: u64| netd_ipc::Use { used: 0, limit, refused: 0 };
    let client = limits.client;
    netd_ipc::ClientUse {
        uid,
        connections,
        sockets: unused(client.sockets.into()),
        memory_bytes: unused(client.memory_bytes()),
        captures: unused(client.captures.into()),
        connects_per_second: unused(client.connects_per_second.into()),
        packets_per_second: unused(client.packets_per_second.into()),
        // The stack and the resolver know these, and whoever has none of them is unknown there.
        closing: netd_ipc::Use::default(),
        names: netd_ipc::Use::default(),
    }
}
