//! Spoofed announcements at 100,000 a second, in virtual time, for longer than the TTL.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use core::net::SocketAddr;
use core::time::Duration;

use netd_softbus::discovery::{Acl, Announcement, Config, Discovery};
use netd_softbus::{DeviceId, Instant, PublicKey};

const PER_SECOND: u64 = 100_000;
/// One second more than the TTL; two minutes with NETD_LONG.
const SECONDS: u64 = 61;
const SECONDS_LONG: u64 = 120;
/// What the process may grow by: the table's 256 strangers are some 200 KB, the rest is the allocator's.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

fn key(number: u64) -> PublicKey {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    PublicKey::new(bytes).unwrap()
}

/// Announcements whose key and name are overwritten in place: the flood costs the attacker, that is this test, little.
struct Flood {
    packet: Vec<u8>,
    sent: u64,
}

impl Flood {
    /// With a few services of the longest names; reading more would only make the test slower.
    fn new() -> Flood {
        let service = |number: u64| format!("{number:064}").parse().unwrap();
        let device = format!("{:064}", 0).parse().unwrap();
        let spoofed = Announcement::new(device, 1, Some(key(0)), (0..4).map(service).collect());
        Flood { packet: spoofed.unwrap().to_bytes(), sent: 0 }
    }

    /// Every ninth has the pinned peer's key and another name.
    fn next(&mut self) -> &[u8] {
        self.sent += 1;
        let number = if self.sent.is_multiple_of(9) { 7 } else { 1000 + self.sent };
        let mut name = [b'0'; 64];
        name[..8].copy_from_slice(&self.sent.to_le_bytes().map(|byte| b'a' + byte % 26));
        self.packet[6..70].copy_from_slice(&name);
        self.packet[72..104].copy_from_slice(key(number).as_bytes());
        &self.packet
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

fn own(name: &str, number: u64) -> Announcement {
    Announcement::new(name.parse().unwrap(), 34567, Some(key(number)), Vec::new()).unwrap()
}

#[test]
fn bus_flooded_beyond_the_ttl_keeps_its_bounds_its_pinned_peers_and_its_sessions() {
    let config = Config::default().check().unwrap();
    let start = Instant::ZERO;
    let mut discovery = Discovery::new(config, own("own", 1), Acl::default(), start);
    let mut seeded = fastrand::Rng::with_seed(5);
    let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
    let (hub, hub_key): (DeviceId, _) = ("hub".parse().unwrap(), key(7));
    let from = |host: u8| SocketAddr::new([10, 0, 0, host].into(), 37020);

    discovery.pin(start, hub.clone(), hub_key).unwrap();
    discovery.pin(start, "live".parse().unwrap(), key(8)).unwrap();
    discovery.handle_packet(start, from(7), &own("hub", 7).to_bytes(), &mut random).unwrap();
    discovery.handle_packet(start, from(8), &own("live", 8).to_bytes(), &mut random).unwrap();
    discovery.session_opened(start, &key(8), Some(from(8))).unwrap();

    let mut flood = Flood::new();
    let mut resident_after_a_second = 0;
    let seconds = if std::env::var_os("NETD_LONG").is_some() { SECONDS_LONG } else { SECONDS };
    let mut hub_heard = 0;
    for second in 0..seconds {
        for packet in 0..PER_SECOND {
            let now = Instant::from_micros(second * 1_000_000 + packet * (1_000_000 / PER_SECOND));
            let spoofed =
                SocketAddr::new([172, 16, packet.to_le_bytes()[1], packet.to_le_bytes()[0]].into(), 37020);
            let _refused = discovery.handle_packet(now, spoofed, flood.next(), &mut random);
            // The hub announces itself every fifteen seconds, and as ever in the middle of the flood.
            if second % 15 == 14 && packet == PER_SECOND / 2 {
                hub_heard += u64::from(
                    discovery.handle_packet(now, from(7), &own("hub", 7).to_bytes(), &mut random).is_ok(),
                );
            }
        }
        discovery.poll(Instant::from_micros(second * 1_000_000));
        assert!(
            discovery.occupancy().0 <= 256 && discovery.occupancy().1 == 2,
            "{:?}",
            discovery.occupancy()
        );
        while discovery.poll_event().is_some() {}
        if second == 0 {
            resident_after_a_second = resident_bytes();
        }
    }
    let end = start + Duration::from_secs(seconds);
    discovery.poll(end);
    assert_eq!(discovery.announced(&hub), Some(hub_key), "the hub is there");
    assert_eq!(hub_heard, seconds / 15, "every one of its announcements was heard");
    assert_eq!(discovery.peer(&key(8)).map(|peer| peer.addresses[0]), Some(from(8)));
    let grown = resident_bytes().saturating_sub(resident_after_a_second);
    assert!(grown < GROWTH_BYTES_MAX, "grew by {grown} bytes");
    let counters = discovery.counters();
    assert!(counters.taken <= 2 + hub_heard + 10 * (seconds + 5), "{counters:?}");
    assert_eq!(
        counters.taken + counters.strangers_limited + counters.pinned_limited + counters.mismatched,
        seconds * PER_SECOND + 2 + seconds / 15
    );
}
