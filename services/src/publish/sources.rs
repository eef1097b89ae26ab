//! Who comes from where: so many connections of one source at once, so many new ones per second.
//!
//! A source is an IPv4 address or an IPv6 /64, as netd bounds handshakes: whoever has one IPv6 address has all of its /64.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netd_time::{Bucket, Instant};

/// Sources that are remembered while nothing of theirs is open: some 400 KiB. Beyond, all of these are forgotten, which gives each a full
/// bucket again; what is open stays counted.
const REMEMBERED_MAX: usize = 4096;

/// The bounds of one port, and who takes how much of them. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    at_once: usize,
    per_second: u32,
    start: std::time::Instant,
    table: Arc<Mutex<HashMap<IpAddr, Source>>>,
}

#[derive(Debug)]
struct Source {
    open: usize,
    bucket: Bucket,
}

/// A connection of a source; its end gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    sources: Sources,
    key: IpAddr,
}

/// Why a source gets no further connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has as many as it may.
    AtOnce,
    /// It made too many lately.
    Rate,
}

impl Sources {
    pub(super) fn new(at_once: usize, per_second: u32) -> Sources {
        Sources { at_once, per_second, start: std::time::Instant::now(), table: Arc::default() }
    }

    /// A place for a connection from this address.
    pub(super) fn admit(&self, from: IpAddr) -> Result<Place, Refusal> {
        self.admit_at(from, self.start.elapsed())
    }

    fn admit_at(&self, from: IpAddr, elapsed: Duration) -> Result<Place, Refusal> {
        let now = Instant::ZERO + elapsed;
        let key = key(from);
        let mut table = self.table();
        if table.len() >= REMEMBERED_MAX && !table.contains_key(&key) {
            table.retain(|_, source| source.open > 0);
        }
        let full = || Source { open: 0, bucket: Bucket::new(self.per_second, self.per_second) };
        let source = table.entry(key).or_insert_with(full);
        if source.open >= self.at_once {
            return Err(Refusal::AtOnce);
        }
        if !source.bucket.take(now) {
            return Err(Refusal::Rate);
        }
        source.open += 1;
        Ok(Place { sources: self.clone(), key })
    }

    /// A panic elsewhere while the lock was held leaves counts, all whole.
    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(source) = self.sources.table().get_mut(&self.key) {
            source.open = source.open.saturating_sub(1);
        }
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn source_with_all_its_places_taken_gets_one_when_one_ends_and_others_do_meanwhile() {
        let sources = Sources::new(2, 100);
        let first = sources.admit_at(ip("192.0.2.1"), at(0)).unwrap();
        let _second = sources.admit_at(ip("192.0.2.1"), at(0)).unwrap();
        assert_eq!(sources.admit_at(ip("192.0.2.1"), at(0)).unwrap_err(), Refusal::AtOnce);
        assert!(sources.admit_at(ip("192.0.2.2"), at(0)).is_ok());
        drop(first);
        assert!(sources.admit_at(ip("192.0.2.1"), at(0)).is_ok());
    }

    #[test]
    fn source_that_comes_too_often_waits_for_a_second() {
        let sources = Sources::new(100, 2);
        let come = |seconds| sources.admit_at(ip("192.0.2.1"), at(seconds)).map(drop);
        assert_eq!([come(0), come(0), come(0)], [Ok(()), Ok(()), Err(Refusal::Rate)]);
        assert_eq!(come(1), Ok(()));
    }

    #[test]
    fn addresses_of_one_prefix_of_version_six_are_one_source() {
        let sources = Sources::new(1, 100);
        let _first = sources.admit_at(ip("2001:db8::1"), at(0)).unwrap();
        assert_eq!(sources.admit_at(ip("2001:db8::ffff:2"), at(0)).unwrap_err(), Refusal::AtOnce);
        assert!(sources.admit_at(ip("2001:db8:0:1::1"), at(0)).is_ok());
    }

    #[test]
    fn flood_of_sources_is_forgotten_and_what_is_open_is_not() {
        let sources = Sources::new(1, 1);
        let _open = sources.admit_at(ip("192.0.2.1"), at(0)).unwrap();
        for number in 0..3 * REMEMBERED_MAX as u32 {
            sources.admit_at(Ipv4Addr::from(0x0a00_0000 + number).into(), at(0)).unwrap();
        }
        assert!(sources.table().len() <= REMEMBERED_MAX + 1);
        assert_eq!(sources.admit_at(ip("192.0.2.1"), at(9)).unwrap_err(), Refusal::AtOnce);
    }
}
