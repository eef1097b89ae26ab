//! The bounds of discovery.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::config::{Checked, within, within_ms};
use crate::error::Error;

const SECOND: usize = 1000;

/// How much discovery may cost, and how fast it is. The defaults are the protocol's own numbers where it has one.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a peer is there after its last announcement: 60 s, 3 s to an hour.
    pub ttl: Duration,
    /// How often we announce ourselves: 20 s, so that two may be lost within the TTL; from 1 s to half of the TTL.
    pub announce_interval: Duration,
    /// Packets that we announce per second: 10, 1 to 1,000.
    pub announce_per_second: u32,
    /// Packets that we announce at once: 20, 1 to 1,000.
    pub announce_burst: u32,
    /// Peers without a pin in the table: 256, 1 to 65,536. The least recently heard makes room.
    pub strangers_max: usize,
    /// Peers with a pin: 256, 1 to 65,536. None makes room.
    pub pinned_max: usize,
    /// Announcements of strangers that are looked at, all strangers together, per `strangers_period`: 50, 1 to 100,000.
    pub strangers_packets: u32,
    /// See `strangers_packets`: 5 s, 100 ms to a minute.
    pub strangers_period: Duration,
    /// The first pause after a failed connection: 1 s, 100 ms to a minute.
    pub backoff_min: Duration,
    /// The longest pause: 60 s, `backoff_min` to an hour.
    pub backoff_max: Duration,
    /// Handshakes with one peer per `handshakes_period`: 3, 1 to 1,000.
    pub handshakes: u32,
    /// See `handshakes`: 30 s, 1 s to an hour.
    pub handshakes_period: Duration,
    /// Events that wait for the caller: 1,024, 64 to 65,536. Beyond that the caller is told to look at the table instead.
    pub events_max: usize,
    /// Whether announcements go to the multicast group: yes.
    pub multicast: bool,
    /// Whether announcements go to the link's broadcast address: no.
    pub broadcast: bool,
    /// Where announcements go besides: nowhere; up to [`UNICAST_MAX`].
    pub unicast: Vec<SocketAddr>,
}

/// Peers that are announced to one by one. A longer list is a registry's task: DNS-SD.
pub const UNICAST_MAX: usize = 64;

impl Default for Config {
    fn default() -> Config {
        Config {
            ttl: Duration::from_secs(60),
            announce_interval: Duration::from_secs(20),
            announce_per_second: 10,
            announce_burst: 20,
            strangers_max: 256,
            pinned_max: 256,
            strangers_packets: 50,
            strangers_period: Duration::from_secs(5),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            handshakes: 3,
            handshakes_period: Duration::from_secs(30),
            events_max: 1024,
            multicast: true,
            broadcast: false,
            unicast: Vec::new(),
        }
    }
}

impl Config {
    /// Fails with the first value that is out of its bounds.
    pub fn check(self) -> Result<Checked<Config>, Error> {
        let ttl_ms = usize::try_from(self.ttl.as_millis()).unwrap_or(usize::MAX);
        let backoff_min_ms = usize::try_from(self.backoff_min.as_millis()).unwrap_or(usize::MAX);
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        within_ms("discovery.ttl_ms", self.ttl, 3 * SECOND..=3600 * SECOND)?;
        within_ms("discovery.announce_interval_ms", self.announce_interval, SECOND..=ttl_ms / 2)?;
        within("discovery.announce_per_second", count(self.announce_per_second), 1..=1000)?;
        within("discovery.announce_burst", count(self.announce_burst), 1..=1000)?;
        within("discovery.strangers_max", self.strangers_max, 1..=65_536)?;
        within("discovery.pinned_max", self.pinned_max, 1..=65_536)?;
        within("discovery.strangers_packets", count(self.strangers_packets), 1..=100_000)?;
        within_ms("discovery.strangers_period_ms", self.strangers_period, 100..=60 * SECOND)?;
        within_ms("discovery.backoff_min_ms", self.backoff_min, 100..=60 * SECOND)?;
        within_ms("discovery.backoff_max_ms", self.backoff_max, backoff_min_ms..=3600 * SECOND)?;
        within("discovery.handshakes", count(self.handshakes), 1..=1000)?;
        within_ms("discovery.handshakes_period_ms", self.handshakes_period, SECOND..=3600 * SECOND)?;
        within("discovery.events_max", self.events_max, 64..=65_536)?;
        within("discovery.unicast", self.unicast.len(), 0..=UNICAST_MAX)?;
        Ok(Checked::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn config_by_default_is_within_its_bounds() {
        assert!(Config::default().check().is_ok());
    }

    #[test]
    fn config_that_would_expire_its_own_announcements_is_refused_with_what_is_right() {
        let slow = Config { announce_interval: Duration::from_secs(31), ..Config::default() };
        let error = slow.check().unwrap_err();
        assert_eq!(error.to_string(), "discovery.announce_interval_ms is 31000: 1000 to 30000 are allowed");
    }

    #[test]
    fn config_with_a_bound_of_zero_is_refused() {
        assert!(Config { strangers_max: 0, ..Config::default() }.check().is_err());
        assert!(Config { announce_per_second: 0, ..Config::default() }.check().is_err());
        assert!(Config { ttl: Duration::MAX, ..Config::default() }.check().is_err());
    }
}
