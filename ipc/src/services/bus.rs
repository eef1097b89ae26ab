//! Types of the calls about the bus.

use serde::{Deserialize, Serialize};

/// Where the bus reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusMode {
    /// This machine's own clients.
    Loopback,
    /// Other devices, too.
    Network,
}

/// Answer of `GetBus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusStatus {
    /// What is in force.
    pub mode: BusMode,
    /// What is configured.
    pub configured: BusMode,
    /// Why the two differ, or what keeps the network from working.
    pub problem: Option<String>,
    /// What this machine calls itself.
    pub device: String,
    /// Its public key, in hexadecimal digits; none in loopback mode.
    pub key: Option<String>,
    /// Where it takes sessions.
    pub port: u16,
    /// Peers that were heard lately.
    pub peers: usize,
    /// Devices whose keys are pinned.
    pub pinned: usize,
    /// Keys that were revoked.
    pub revoked: usize,
    /// Sessions that are ready.
    pub sessions: usize,
    /// Streams of clients.
    pub streams: usize,
    /// What this machine's clients offer.
    pub services: Vec<String>,
    /// While a PIN is shown: how often it may still be tried.
    pub pin_tries: Option<u8>,
    /// What became of announcements, by name.
    pub announcements: std::collections::BTreeMap<String, u64>,
}

/// A device that was heard of, or whose key is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusPeer {
    /// What it calls itself.
    pub device: String,
    /// The key that it announces, or that is pinned.
    pub key: String,
    /// Whether the key is pinned.
    pub pinned: bool,
    /// Whether it was heard within the TTL. What follows is empty if not.
    pub present: bool,
    /// Where it was heard, the latest first.
    pub addresses: Vec<String>,
    /// Where it takes sessions.
    pub port: u16,
    /// What it offers.
    pub services: Vec<String>,
    /// Sessions with it.
    pub sessions: u32,
    /// How long ago it was heard.
    pub heard_ms: Option<u64>,
}

/// Something that happened on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusEvent {
    /// `peer_appeared`, `peer_changed`, `peer_gone`, `service_appeared`, `service_changed`, `service_gone`, `identity_mismatch`,
    /// `session_ready`, `session_ended`, `paired`, `mode`, or `lagged`: events were lost, and the list of peers says what is.
    pub event: String,
    /// Of which device.
    pub device: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Of which service.
    pub service: Option<String>,
    /// More of it, for people.
    pub detail: Option<String>,
}

/// Answer of `ShowBusPin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusPin {
    /// The digits.
    pub pin: String,
    /// How often it may be tried.
    pub tries: u8,
    /// How long it is good.
    pub seconds: u64,
}

/// A device with its key: what was paired, pinned or revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusDevice {
    /// What it calls itself.
    pub device: String,
    /// Its keys.
    pub keys: Vec<String>,
}

/// A stream that was opened or accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusStreamInfo {
    /// Its number, for `GetBusOutcome`.
    pub id: u64,
    /// The device on the other side; `loopback` for this one.
    pub device: String,
    /// The service.
    pub service: String,
    /// Its class: 0 goes before all others.
    pub priority: u8,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusOutcome {
    /// Not yet.
    Open,
    /// The other side said that it was done, and all that it sent was handed over. What this side sent is still under way.
    Received,
    /// Both sides said that they were done.
    Finished,
    /// It was cut short, or its session was.
    Reset,
}
