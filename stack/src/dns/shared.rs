//! What all exchanges share: servers, randomness, the way out, the counters.

use core::time::Duration;
use std::collections::VecDeque;

use super::server::Servers;
use super::statistics::Statistics;
use super::types::{SocketKey, Transmit};
use crate::random::Random;

pub(super) struct Shared {
    pub(super) servers: Servers,
    pub(super) random: Random,
    pub(super) statistics: Statistics,
    /// What the driver has not fetched: for each exchange at most one opening, and one closing for each socket it knows.
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
}

impl Shared {
    /// Has a socket for one transaction closed; one that the driver has not heard of is never opened.
    pub(super) fn close(&mut self, key: SocketKey) {
        let opens = |transmit: &Transmit| match transmit {
            Transmit::Udp { socket, .. } | Transmit::Tcp { socket, .. } => *socket == key,
            Transmit::Multicast { .. } | Transmit::Close { .. } => false,
        };
        match self.transmits.iter().rposition(opens) {
            Some(unheard) => {
                self.transmits.remove(unheard);
            }
            None => self.transmits.push_back(Transmit::Close { socket: key }),
        }
    }
}
