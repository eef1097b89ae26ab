//! `[limits]` of netd.toml: what all clients together may have, and what each user may.

use serde::Deserialize;

const MIB: u64 = 1 << 20;

/// All bounds on clients.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections to the daemon's socket. Each may hold one unfinished request of 64 KiB, so 512 make 32 MiB.
    pub connections: u32,
    /// Sockets. What the stack's own tables hold is a bound beside this one.
    pub sockets: u32,
    /// Memory that sockets can take at the very most, kernel buffers included: a quarter of the smallest machine that this
    /// daemon is meant for would not hold more than 1024 idle streams; busy ones have not been seen to use half of it.
    pub memory_mib: u32,
    /// Captures, each with a ring and a thread.
    pub captures: u32,
    /// For each user.
    pub client: ClientLimits,
}

/// What one user may have.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientLimits {
    /// Connections to the daemon's socket. A library keeps a few idle ones, and one for each call that waits.
    pub connections: u32,
    /// Sockets: a quarter of what all may have, so that one user leaves room for others.
    pub sockets: u32,
    /// Memory that its sockets can take at the very most: all of its sockets as streams.
    pub memory_mib: u32,
    /// Captures.
    pub captures: u32,
    /// New connections; as many may come at once. Beyond what a busy proxy opens, below what fills the tables in seconds.
    pub connects_per_second: u32,
    /// Datagrams and echo requests; as many may come at once. A tenth of what one core sends.
    pub packets_per_second: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            sockets: 1024,
            memory_mib: 640,
            captures: 4,
            client: ClientLimits::default(),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            connections: 64,
            sockets: 256,
            memory_mib: 160,
            captures: 1,
            connects_per_second: 1000,
            packets_per_second: 100_000,
        }
    }
}

impl Limits {
    /// The memory bound in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) * MIB
    }

    /// The key of the first bound that is 0, by which nobody could do anything: that is what grants are for.
    pub fn zero(&self) -> Option<&'static str> {
        let Limits { connections, sockets, memory_mib, captures: _, client } = *self;
        let ClientLimits {
            connections: own_connections,
            sockets: own_sockets,
            memory_mib: own_memory,
            captures: _,
            connects_per_second,
            packets_per_second,
        } = client;
        [
            ("[limits] connections", connections),
            ("[limits] sockets", sockets),
            ("[limits] memory_mib", memory_mib),
            ("[limits.client] connections", own_connections),
            ("[limits.client] sockets", own_sockets),
            ("[limits.client] memory_mib", own_memory),
            ("[limits.client] connects_per_second", connects_per_second),
            ("[limits.client] packets_per_second", packets_per_second),
        ]
        .into_iter()
        .find(|(_, value)| *value == 0)
        .map(|(key, _)| key)
    }
}

impl ClientLimits {
    /// The memory bound in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) * MIB
    }
}
