//! When we announce ourselves, and to whom.

use alloc::collections::VecDeque;
use core::net::SocketAddr;
use core::time::Duration;

use netd_time::Bucket;

use super::config::{Config, UNICAST_MAX};
use crate::random::{Random, jittered};
use crate::time::Instant;

/// Announcements after a start or a change, a second apart: one may be lost, and peers may be starting too (RFC 6762, 8.3 has it so).
const REPEATS: u32 = 3;
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Answers to pinned peers that wait; more are not needed, since everybody announces again.
const ANSWERS_MAX: usize = 64;

/// Where an announcement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// 239.42.0.1, port 37020.
    Multicast,
    /// The link's broadcast address, port 37020.
    Broadcast,
    /// One peer.
    Unicast(SocketAddr),
}

#[derive(Debug)]
pub(super) struct Announcer {
    bucket: Bucket,
    /// The next round.
    due: Instant,
    /// Rounds that follow quickly.
    repeats: u32,
    /// What is left of this round, and answers.
    waiting: VecDeque<Destination>,
    /// The bucket was empty: until then.
    held: Option<Instant>,
}

impl Announcer {
    pub(super) fn new(config: &Config, now: Instant) -> Announcer {
        let bucket = Bucket::new(config.announce_per_second, config.announce_burst);
        Announcer { bucket, due: now, repeats: REPEATS, waiting: VecDeque::new(), held: None }
    }

    /// Something changed: everybody should know soon.
    pub(super) fn changed(&mut self, now: Instant) {
        self.due = self.due.min(now);
        self.repeats = REPEATS;
    }

    /// A newcomer should learn of us within a moment, which those who heard it draw differently.
    pub(super) fn soon(&mut self, now: Instant, random: &mut dyn Random) {
        self.due = self.due.min(now + jittered(random, REPEAT_INTERVAL));
    }

    /// A pinned peer is answered directly, since our other announcements may not reach it.
    pub(super) fn answer(&mut self, address: SocketAddr) {
        let destination = Destination::Unicast(address);
        if self.waiting.len() < ANSWERS_MAX + UNICAST_MAX && !self.waiting.contains(&destination) {
            self.waiting.push_back(destination);
        }
    }

    pub(super) fn poll(
        &mut self,
        now: Instant,
        config: &Config,
        random: &mut dyn Random,
    ) -> Option<Destination> {
        if self.due <= now {
            self.begin_round(now, config, random);
        }
        let next = *self.waiting.front()?;
        if !self.bucket.take(now) {
            self.held = Some(self.bucket.next());
            return None;
        }
        self.held = None;
        self.waiting.pop_front();
        Some(next)
    }

    fn begin_round(&mut self, now: Instant, config: &Config, random: &mut dyn Random) {
        self.repeats = self.repeats.saturating_sub(1);
        let pause = if self.repeats > 0 { REPEAT_INTERVAL } else { config.announce_interval };
        self.due = now + jittered(random, pause);
        let everybody =
            [(config.multicast, Destination::Multicast), (config.broadcast, Destination::Broadcast)];
        let chosen = everybody.into_iter().filter_map(|(chosen, destination)| chosen.then_some(destination));
        for destination in chosen.chain(config.unicast.iter().copied().map(Destination::Unicast)) {
            // What the bucket held back from the last round is not sent twice.
            if !self.waiting.contains(&destination) {
                self.waiting.push_back(destination);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let waiting = match (self.waiting.is_empty(), self.held) {
            (true, _) => None,
            (false, None) => Some(Instant::ZERO),
            (false, held) => held,
        };
        waiting.map_or(self.due, |waiting| waiting.min(self.due))
    }
}
