//! What routers said of the largest packet that reaches a destination (RFC 1191, RFC 8201): what datagrams and echo requests are cut
//! to. A TCP connection learns its own, which no other socket's errors can lower.

use core::net::IpAddr;
use core::time::Duration;

use crate::config::{MTU_MIN, MTU_MIN_V6};
use crate::random::{KeyedMap, KeyedState};
use crate::time::Instant;

/// Destinations that something is known about, each 40 bytes: a host rarely has more than a few behind narrow links.
const ENTRIES_MAX: usize = 1024;
/// After this long the larger size is tried again (RFC 1191, 6.3; RFC 8201, 4; Linux's `mtu_expires`).
const LIFETIME: Duration = Duration::from_secs(600);

struct Entry {
    mtu: u16,
    expires: Instant,
}

pub(crate) struct PathMtus {
    entries: KeyedMap<IpAddr, Entry>,
}

impl PathMtus {
    pub(crate) fn new(keyed: KeyedState) -> PathMtus {
        PathMtus { entries: KeyedMap::with_hasher(keyed) }
    }

    /// A router has no way for packets of more than `mtu` bytes to `destination`; 0 if it did not say. True if that is news, and
    /// believable.
    pub(crate) fn learn(&mut self, now: Instant, destination: IpAddr, mtu: u16) -> bool {
        let smallest = if destination.is_ipv4() { MTU_MIN } else { MTU_MIN_V6 };
        // RFC 1191, 5: of a router that does not say, nothing larger than 576 is sure.
        let mtu = if mtu == 0 { smallest } else { mtu };
        // Below the version's smallest it is a mistake or an attack (RFC 5927, 7.2), and an error never raises it (RFC 8201, 4).
        if mtu < smallest || self.get(now, destination).is_some_and(|known| known <= usize::from(mtu)) {
            return false;
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&destination) {
            self.make_room(now);
        }
        self.entries.insert(destination, Entry { mtu, expires: now + LIFETIME });
        true
    }

    /// What is known, in bytes.
    pub(crate) fn get(&self, now: Instant, destination: IpAddr) -> Option<usize> {
        let entry = self.entries.get(&destination).filter(|entry| now < entry.expires)?;
        Some(usize::from(entry.mtu))
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now < entry.expires);
        if self.entries.len() >= ENTRIES_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.expires).map(|(to, _)| *to);
            oldest.and_then(|oldest| self.entries.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::random::Random;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn nothing_known() -> PathMtus {
        PathMtus::new(Random::new(&[7; 32]).keyed_state())
    }

    #[test]
    fn learn_lowers_only_and_is_forgotten_in_time() {
        let mut known = nothing_known();
        let now = Instant::from_micros(0);
        assert!(known.learn(now, HOST, 1400));
        assert!(!known.learn(now, HOST, 1450) && known.learn(now, HOST, 1300) && !known.learn(now, HOST, 68));
        assert_eq!(known.get(now, HOST), Some(1300));
        assert_eq!(known.get(now + LIFETIME, HOST), None);
        assert!(known.learn(now + LIFETIME, HOST, 1450));
        assert!(known.learn(now, HOST, 0), "a router that does not say");
        assert_eq!(known.get(now, HOST), Some(576));
    }

    #[test]
    fn full_table_gives_up_the_oldest() {
        let mut known = nothing_known();
        for index in 0..=ENTRIES_MAX as u32 {
            let host = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + index));
            assert!(known.learn(Instant::from_micros(index.into()), host, 1400));
        }
        let now = Instant::from_micros(ENTRIES_MAX as u64);
        assert_eq!(known.entries.len(), ENTRIES_MAX);
        assert_eq!(known.get(now, Ipv4Addr::new(10, 0, 0, 0).into()), None);
        assert_eq!(known.get(now, Ipv4Addr::new(10, 0, 0, 1).into()), Some(1400));
    }
}
