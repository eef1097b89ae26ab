//! Scripts in virtual time.

use super::*;
use alloc::vec::Vec;
use core::time::Duration;

const PEER: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), PORT);
const ELSEWHERE: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66)), PORT);

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn key(number: u64) -> PublicKey {
    let mut bytes = [0xa5; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PublicKey::new(bytes).unwrap()
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn announcement(name: &str, number: u64, services: &[&str]) -> Announcement {
    let services = services.iter().map(|service| service.parse().unwrap()).collect();
    Announcement::new(device(name), 34567, Some(key(number)), services).unwrap()
}

/// A bus that lets everybody in, seeded.
struct Script {
    discovery: Discovery,
    random: fastrand::Rng,
}

impl Script {
    fn new(config: Config) -> Script {
        let everybody = ["cam", "spoof", "hub"].map(|prefix| Rule {
            devices: Devices::Prefix(device(prefix)),
            transports: [Transport::Tcp].into(),
            services: Services::All,
            shared: Shared::default(),
        });
        let acl = Acl::new(Vec::from(everybody)).unwrap();
        let own = announcement("own", 1, &[]);
        let discovery = Discovery::new(config.check().unwrap(), own, acl, Instant::ZERO);
        Script { discovery, random: fastrand::Rng::with_seed(11) }
    }

    fn hear(&mut self, now: Instant, from: SocketAddr, announcement: &Announcement) -> Result<(), Error> {
        let random = &mut self.random;
        self.discovery
            .handle_packet(now, from, &announcement.to_bytes(), &mut |bytes: &mut [u8]| random.fill(bytes))
    }

    fn send(&mut self, now: Instant) -> Vec<Destination> {
        let random = &mut self.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        core::iter::from_fn(|| self.discovery.poll_transmit(now, &mut fill)).map(|(to, _)| to).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.discovery.poll_event()).collect()
    }

    fn failed(&mut self, now: Instant, number: u64) {
        let random = &mut self.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        self.discovery.dial_failed(now, &key(number), &mut fill).unwrap();
    }
}

#[test]
fn peer_heard_appears_with_its_services_and_is_gone_after_the_ttl() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), PEER, &announcement("cam-1", 2, &["video"])).unwrap();
    let (key, service) = (key(2), "video".parse::<crate::ServiceName>().unwrap());
    let appeared = Event::PeerAppeared { key, device: device("cam-1"), from: PEER };
    assert_eq!(script.events(), [appeared, Event::ServiceAppeared { key, service: service.clone() }]);
    assert_eq!(script.discovery.announced(&device("cam-1")), Some(key));
    script.discovery.poll(at(60));
    assert_eq!(script.events(), []);
    script.discovery.poll(at(61));
    let gone = Event::PeerGone { key, device: device("cam-1"), displaced: false };
    assert_eq!(script.events(), [Event::ServiceGone { key, service }, gone]);
    assert_eq!(script.discovery.announced(&device("cam-1")), None);
}

#[test]
fn peer_announcing_other_services_is_watched_one_by_one() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), PEER, &announcement("cam-1", 2, &["video", "ptz"])).unwrap();
    script.events();
    script.hear(at(2), PEER, &announcement("cam-1", 2, &["video", "audio"])).unwrap();
    let key = key(2);
    let service = |name: &str| name.parse::<crate::ServiceName>().unwrap();
    let gone = Event::ServiceGone { key, service: service("ptz") };
    assert_eq!(script.events(), [gone, Event::ServiceAppeared { key, service: service("audio") }]);
    script.hear(at(3), ELSEWHERE, &announcement("cam-1", 2, &["video", "audio"])).unwrap();
    let changed = ["audio", "video"].map(|name| Event::ServiceChanged { key, service: service(name) });
    let moved = core::iter::once(Event::PeerChanged { key }).chain(changed).collect::<Vec<_>>();
    assert_eq!(script.events(), moved);
    script.hear(at(4), ELSEWHERE, &announcement("cam-1", 2, &["video", "audio"])).unwrap();
    assert_eq!(script.events(), [], "what stays as it was is not told");
}

#[test]
fn table_full_of_strangers_makes_room_with_the_least_recently_heard() {
    let mut script = Script::new(Config { strangers_max: 2, ..Config::default() });
    script.hear(at(1), PEER, &announcement("cam-1", 2, &[])).unwrap();
    script.hear(at(2), PEER, &announcement("cam-2", 3, &[])).unwrap();
    script.hear(at(3), PEER, &announcement("cam-1", 2, &[])).unwrap();
    script.hear(at(4), PEER, &announcement("cam-3", 4, &[])).unwrap();
    let here: Vec<_> = script.discovery.peers().map(|peer| peer.device.clone()).collect();
    assert_eq!(here, [device("cam-1"), device("cam-3")]);
    assert_eq!(script.discovery.counters().displaced, 1);
}

#[test]
fn table_full_of_strangers_keeps_pinned_peers() {
    let mut script = Script::new(Config { strangers_max: 1, ..Config::default() });
    script.discovery.pin(at(0), device("hub"), key(9)).unwrap();
    script.hear(at(1), PEER, &announcement("hub", 9, &[])).unwrap();
    for number in 0..40 {
        script.hear(at(2), PEER, &announcement(&std::format!("cam-{number}"), 10 + number, &[])).unwrap();
    }
    assert!(script.discovery.peer(&key(9)).is_some());
    assert_eq!(script.discovery.occupancy(), (1, 1));
}

#[test]
fn device_pinned_is_not_taken_over_by_another_key() {
    let mut script = Script::new(Config::default());
    script.discovery.pin(at(0), device("hub"), key(9)).unwrap();
    let mismatch = Error::IdentityMismatch { device: device("hub"), key: key(66) };
    assert_eq!(script.hear(at(1), ELSEWHERE, &announcement("hub", 66, &[])), Err(mismatch));
    let told = Event::IdentityMismatch { device: device("hub"), key: key(66), from: ELSEWHERE };
    assert_eq!(script.events(), [told]);
    assert!(script.hear(at(2), ELSEWHERE, &announcement("cam-1", 9, &[])).is_err(), "the key is the hub's");
    assert!(script.hear(at(3), PEER, &announcement("hub", 9, &[])).is_ok());
}

#[test]
fn device_announced_keeps_its_key_for_as_long_as_it_is_there() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), PEER, &announcement("cam-1", 2, &[])).unwrap();
    assert!(script.hear(at(2), ELSEWHERE, &announcement("cam-1", 3, &[])).is_err());
    script.discovery.poll(at(61));
    assert!(script.hear(at(62), ELSEWHERE, &announcement("cam-1", 3, &[])).is_ok());
}

#[test]
fn stranger_with_the_name_of_a_device_is_removed_when_that_is_pinned() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), ELSEWHERE, &announcement("hub", 66, &[])).unwrap();
    script.discovery.pin(at(2), device("hub"), key(9)).unwrap();
    assert!(script.discovery.peer(&key(66)).is_none());
    script.hear(at(3), PEER, &announcement("hub", 9, &[])).unwrap();
    assert_eq!(script.discovery.announced(&device("hub")), Some(key(9)));
}

#[test]
fn announcement_of_our_own_and_one_without_a_key_are_counted() {
    let mut script = Script::new(Config::default());
    assert_eq!(script.hear(at(1), ELSEWHERE, &announcement("own", 1, &[])), Err(Error::OwnKey));
    let keyless = Announcement::new(device("cam-1"), 1, None, Vec::new()).unwrap();
    assert_eq!(script.hear(at(1), ELSEWHERE, &keyless), Err(Error::InvalidKey));
    let counters = script.discovery.counters();
    assert_eq!((counters.own, counters.keyless, counters.taken), (1, 1, 0));
}

#[test]
fn strangers_beyond_the_window_are_refused_until_it_moved_on() {
    let mut script = Script::new(Config::default());
    let hear = |script: &mut Script, now, number: u64| {
        script.hear(now, PEER, &announcement(&std::format!("cam-{number}"), 100 + number, &[]))
    };
    assert_eq!((0..60).filter(|number| hear(&mut script, at(10), *number).is_ok()).count(), 50);
    assert!(hear(&mut script, Instant::from_micros(14_999_999), 60).is_err());
    assert!(hear(&mut script, at(15), 60).is_ok());
}

#[test]
fn start_is_announced_three_times_then_well_within_the_ttl() {
    let mut script = Script::new(Config::default());
    let mut sent = Vec::new();
    let mut now = Instant::ZERO;
    while now < at(120) {
        sent.extend(script.send(now).iter().map(|_| now));
        now = script.discovery.poll_timeout();
    }
    assert!(sent[2] <= at(2), "{sent:?}");
    let pauses: Vec<_> = sent.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).collect();
    assert!(pauses[2..].iter().all(|pause| (15..=20).contains(&pause.as_secs())), "{pauses:?}");
}

#[test]
fn announcements_to_a_long_list_keep_to_the_bucket() {
    let unicast = (0..64).map(|host| SocketAddr::new([10, 0, 1, host].into(), PORT)).collect();
    let mut script = Script::new(Config { unicast, multicast: false, ..Config::default() });
    assert_eq!(script.send(Instant::ZERO).len(), 20);
    let mut now = Instant::ZERO;
    let mut sent = 0;
    while now <= at(1) {
        now = script.discovery.poll_timeout();
        sent += if now <= at(1) { script.send(now).len() } else { 0 };
    }
    assert_eq!(sent, 10);
}

#[test]
fn pinned_peer_that_appears_is_answered_directly() {
    let mut script = Script::new(Config { multicast: false, ..Config::default() });
    assert_eq!(script.send(Instant::ZERO), []);
    script.hear(at(1), ELSEWHERE, &announcement("cam-1", 3, &[])).unwrap();
    assert_eq!(script.send(at(1)), [], "a stranger could send us after anybody");
    script.discovery.pin(at(1), device("hub"), key(9)).unwrap();
    script.hear(at(1), PEER, &announcement("hub", 9, &[])).unwrap();
    assert_eq!(script.send(at(1)), [Destination::Unicast(PEER)]);
}

#[test]
fn peer_that_cannot_be_reached_is_dialled_ever_more_seldom() {
    let mut script = Script::new(Config { handshakes: 1000, ..Config::default() });
    let mut now = at(0);
    let mut attempts = 0;
    while now < at(600) {
        script.hear(now, PEER, &announcement("cam-1", 2, &[])).unwrap();
        if let Ok(address) = script.discovery.dial(now, &key(2), Transport::Tcp) {
            assert_eq!(address, SocketAddr::new(PEER.ip(), 34567));
            attempts += 1;
            script.failed(now, 2);
        }
        now = now + Duration::from_millis(500);
    }
    assert!((12..=22).contains(&attempts), "{attempts} attempts in ten minutes");
    script.discovery.session_opened(now, &key(2), None).unwrap();
    assert!(script.discovery.dial(now, &key(2), Transport::Tcp).is_ok());
}

#[test]
fn handshakes_with_one_peer_are_three_in_thirty_seconds() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), PEER, &announcement("cam-1", 2, &[])).unwrap();
    script.discovery.dial(at(1), &key(2), Transport::Tcp).unwrap();
    script.discovery.accept(at(2), &key(2), Transport::Tcp).unwrap();
    script.discovery.accept(at(3), &key(2), Transport::Tcp).unwrap();
    assert!(matches!(
        script.discovery.accept(at(30), &key(2), Transport::Tcp),
        Err(Error::RateLimited { .. })
    ));
    assert!(script.discovery.accept(at(31), &key(2), Transport::Tcp).is_ok());
}

#[test]
fn peer_without_a_rule_is_seen_and_not_dialled() {
    let mut script = Script::new(Config::default());
    script.hear(at(1), PEER, &announcement("printer", 2, &[])).unwrap();
    assert!(script.discovery.peer(&key(2)).is_some());
    let denied = Error::PeerDenied { device: device("printer"), transport: "tcp" };
    assert_eq!(script.discovery.dial(at(1), &key(2), Transport::Tcp), Err(denied.clone()));
    assert_eq!(script.discovery.accept(at(1), &key(2), Transport::Tcp), Err(denied));
}

#[test]
fn session_live_keeps_its_peer_and_its_address_against_spoofed_announcements() {
    let mut script = Script::new(Config { strangers_max: 1, ..Config::default() });
    script.hear(at(1), PEER, &announcement("cam-1", 2, &[])).unwrap();
    script.discovery.session_opened(at(2), &key(2), Some(PEER)).unwrap();
    for host in 0..40 {
        let liar = SocketAddr::new([10, 9, 9, host].into(), PORT);
        script.hear(at(3), liar, &announcement("cam-1", 2, &[])).unwrap();
    }
    let peer = script.discovery.peer(&key(2)).unwrap();
    assert_eq!((peer.addresses[0], peer.addresses.len()), (PEER, ADDRESSES_MAX));
    script.discovery.poll(at(1000));
    assert!(script.discovery.peer(&key(2)).is_some());
    script.discovery.session_closed(at(1000), &key(2)).unwrap();
    script.discovery.poll(at(1059));
    assert!(script.discovery.peer(&key(2)).is_some());
    script.discovery.poll(at(1060));
    assert!(script.discovery.peer(&key(2)).is_none());
}

#[test]
fn events_not_taken_become_one_that_says_so() {
    let mut script = Script::new(Config { events_max: 64, ..Config::default() });
    for round in 0..4 {
        for number in 0..40 {
            let _limited = script.hear(
                at(round * 70),
                PEER,
                &announcement(&std::format!("cam-{number}"), 100 + number, &[]),
            );
        }
    }
    let events = script.events();
    assert!(events.len() <= 64);
    assert_eq!(events[0], Event::Lagged);
}
