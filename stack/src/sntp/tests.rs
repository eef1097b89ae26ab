//! A scripted server on the other side of the client.

use std::collections::HashSet;

use super::*;

/// Some day in 2026.
const WALL: Duration = Duration::from_secs(1_795_000_000);
const TOLERANCE: Duration = Duration::from_secs(60);
const A: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 2));

struct Script {
    client: Client,
    now: Instant,
    /// What the caller's clock says beside what has passed.
    wall: Duration,
}

/// A request on the wire.
struct Asked {
    socket: u64,
    server: SocketAddr,
    payload: [u8; PACKET_BYTES],
}

impl Script {
    fn new(servers: &[IpAddr]) -> Script {
        let mut client = Client::new(TOLERANCE, &[7; 32]);
        client.set_wanted(Instant::ZERO, true);
        client.set_servers(Instant::ZERO, servers);
        Script { client, now: Instant::ZERO, wall: WALL }
    }

    fn wall(&self) -> Duration {
        self.wall + self.now.saturating_duration_since(Instant::ZERO)
    }

    fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.client.poll(self.now, self.wall());
    }

    /// Until something is due, however long that takes; how long it took.
    fn wait(&mut self) -> Duration {
        let due = self.client.poll_timeout().expect("something is due");
        let waited = due.saturating_duration_since(self.now);
        self.advance(waited);
        waited
    }

    fn asked(&mut self) -> Option<Asked> {
        self.client.poll(self.now, self.wall());
        loop {
            match self.client.poll_transmit()? {
                Transmit::Send { socket, server, payload } => return Some(Asked { socket, server, payload }),
                Transmit::Close { .. } => {}
            }
        }
    }

    fn answer(&mut self, asked: &Asked, bytes: &[u8]) {
        self.client.handle_datagram(self.now, self.wall(), asked.socket, asked.server, bytes);
    }

    fn verdict(&self) -> Verdict {
        self.client.verdict(self.now, self.wall())
    }

    fn confirm(&mut self) {
        let asked = self.asked().unwrap();
        let reply = reply(&asked, self.wall());
        self.answer(&asked, &reply);
        assert!(matches!(self.verdict(), Verdict::Confirmed { .. }), "{:?}", self.verdict());
    }
}

/// A good reply by a server whose clock says `time`.
fn reply(asked: &Asked, time: Duration) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = 4 << 3 | 4;
    packet[1] = 2;
    packet[24..32].copy_from_slice(&asked.payload[40..]);
    let seconds = (time.as_secs() + 2_208_988_800) << 32;
    let timestamp = seconds | ((u64::from(time.subsec_nanos()) << 32) / 1_000_000_000);
    packet[32..40].copy_from_slice(&timestamp.to_be_bytes());
    packet[40..].copy_from_slice(&timestamp.to_be_bytes());
    packet
}

#[test]
fn clock_within_the_tolerance_is_confirmed_with_half_of_the_way_added() {
    let mut script = Script::new(&[A]);
    assert_eq!(script.verdict(), Verdict::Unanswered { failure: None });
    let asked = script.asked().unwrap();
    assert_eq!(asked.server, (A, 123).into());
    let server = WALL + Duration::from_secs(30);
    script.advance(Duration::from_secs(2));
    script.answer(&asked, &reply(&asked, server));
    let Verdict::Confirmed { server, offset } = script.verdict() else { panic!("{:?}", script.verdict()) };
    // The server said thirty seconds more while the request was on its way for two, of which one is the way back.
    assert_eq!((server, offset.to_string().as_str()), (A, "+29.000 s"));
    assert_eq!(script.client.poll_transmit(), Some(Transmit::Close { socket: asked.socket }));
}

#[test]
fn clock_beyond_the_tolerance_differs() {
    for (server, shown) in [
        (WALL + Duration::from_secs(61), "+61.000 s"),
        (WALL - Duration::from_secs(61), "-61.000 s"),
        (WALL - Duration::from_secs(1_000_000_000), "-1000000000.000 s"),
    ] {
        let mut script = Script::new(&[A]);
        let asked = script.asked().unwrap();
        script.answer(&asked, &reply(&asked, server));
        assert!(
            matches!(script.verdict(), Verdict::Differs { server: A, offset } if offset.to_string() == shown),
            "{:?}",
            script.verdict()
        );
    }
}

#[test]
fn forged_reply_is_counted_and_the_true_one_still_waited_for() {
    let mut script = Script::new(&[A]);
    let asked = script.asked().unwrap();
    let good = reply(&asked, WALL + Duration::from_secs(9999));
    let elsewhere = SocketAddr::from((B, 123));
    let (now, wall) = (script.now, script.wall());
    script.client.handle_datagram(now, wall, asked.socket, elsewhere, &good);
    script.client.handle_datagram(now, wall, asked.socket, (A, 124).into(), &good);
    script.client.handle_datagram(now, wall, asked.socket + 1, asked.server, &good);
    let mut origin = good;
    origin[31] ^= 1;
    script.answer(&asked, &origin);
    // A kiss from nowhere silences nobody.
    let mut kiss = origin;
    kiss[1] = 0;
    kiss[12..16].copy_from_slice(b"DENY");
    script.answer(&asked, &kiss);
    script.answer(&asked, &good[..47]);
    for flags in [4 << 3 | 3, 4 << 3 | 5, 3 << 3 | 4] {
        let mut other = good;
        other[0] = flags;
        script.answer(&asked, &other);
    }
    let statistics = script.client.statistics();
    assert_eq!(
        (statistics.drop_source, statistics.drop_socket, statistics.drop_origin, statistics.drop_malformed),
        (2, 1, 2, 4)
    );
    assert_eq!(script.verdict(), Verdict::Unanswered { failure: None });
    let (now, wall) = (script.now, script.wall());
    script.answer(&asked, &reply(&asked, wall));
    assert!(matches!(script.verdict(), Verdict::Confirmed { .. }));
    // The same once more comes too late.
    script.client.handle_datagram(now, wall, asked.socket, asked.server, &good);
    assert_eq!(script.client.statistics().drop_socket, 2);
}

#[test]
fn requests_have_ports_and_nonces_of_their_own() {
    let mut script = Script::new(&[A]);
    let mut sockets = HashSet::new();
    let mut nonces = HashSet::new();
    for _ in 0..8 {
        let asked = script.asked().unwrap();
        assert!(sockets.insert(asked.socket) && nonces.insert(asked.payload));
        script.wait();
        script.wait();
    }
}

#[test]
fn server_that_is_no_help_is_told_by_what_it_said() {
    type Change = fn(&mut [u8; PACKET_BYTES]);
    let cases: [(Change, &str); 7] = [
        (|packet| packet[0] |= 3 << 6, "its own clock is not synchronised"),
        (|packet| packet[1] = 16, "its own clock is not synchronised"),
        (|packet| packet[8..12].copy_from_slice(&[0, 3, 0, 1]), "may be off by more than 3 seconds"),
        (|packet| packet[4..8].copy_from_slice(&[0, 7, 0, 0]), "may be off by more than 3 seconds"),
        (|packet| packet[40..].fill(0), "its timestamps make no sense"),
        (|packet| packet[32..40].copy_from_slice(&[0xff; 8]), "its timestamps make no sense"),
        (
            |packet| {
                packet[1] = 0;
                packet[12..16].copy_from_slice(b"X\x1b[J");
            },
            r"it answers 'X\x1b[J' instead of the time",
        ),
    ];
    for (change, said) in cases {
        let mut script = Script::new(&[A]);
        let asked = script.asked().unwrap();
        let mut bytes = reply(&asked, WALL);
        change(&mut bytes);
        script.answer(&asked, &bytes);
        let Verdict::Unanswered { failure: Some(failure) } = script.verdict() else {
            panic!("{:?}", script.verdict())
        };
        let told = failure.to_string();
        assert!(told.starts_with("time server 192.0.2.1: ") && told.contains(said), "{told}");
        assert_eq!(script.client.statistics().useless, 1);
    }
}

#[test]
fn silent_servers_are_asked_in_turn_and_then_ever_less_often() {
    let mut script = Script::new(&[A, B]);
    let mut rounds = Vec::new();
    for _ in 0..10 {
        assert_eq!(script.asked().unwrap().server.ip(), A);
        assert_eq!(script.wait(), REPLY_WAIT);
        assert_eq!(script.asked().unwrap().server.ip(), B);
        assert_eq!(script.wait(), REPLY_WAIT);
        assert!(script.asked().is_none());
        rounds.push(script.wait());
    }
    assert_eq!(script.client.statistics().timeouts, 20);
    for (index, pause) in rounds.iter().enumerate() {
        let meant = (RETRY_MIN * 2u32.pow(index as u32)).min(RETRY_MAX);
        assert!(*pause >= meant - meant / 8 && *pause <= meant + meant / 8, "round {index}: {pause:?}");
    }
    assert!(rounds[0] >= Duration::from_secs(15), "RFC 4330, 10");
    let Verdict::Unanswered { failure: Some(failure) } = script.verdict() else { panic!() };
    assert_eq!(failure.to_string(), "time server 192.0.2.2 does not answer");
}

#[test]
fn server_that_says_to_leave_it_alone_is_left_alone() {
    let mut script = Script::new(&[A, B]);
    for server in [A, B] {
        let asked = script.asked().unwrap();
        assert_eq!(asked.server.ip(), server);
        let mut kiss = reply(&asked, WALL);
        kiss[0] |= 3 << 6;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RSTR");
        script.answer(&asked, &kiss);
    }
    script.wait();
    assert!(script.asked().is_none());
    assert_eq!(script.client.poll_timeout(), None, "nobody is left to be asked");
    // Until somebody names servers anew.
    let now = script.now;
    script.client.set_servers(now, &[A]);
    script.wait();
    assert!(script.asked().is_some());
}

#[test]
fn server_that_was_asked_too_often_is_asked_rarely() {
    let mut script = Script::new(&[A]);
    let asked = script.asked().unwrap();
    let mut kiss = reply(&asked, WALL);
    kiss[1] = 0;
    kiss[12..16].copy_from_slice(b"RATE");
    script.answer(&asked, &kiss);
    assert!(script.wait() >= RETRY_MAX - RETRY_MAX / 8);
}

#[test]
fn confirmation_ends_when_nobody_repeats_it() {
    let mut script = Script::new(&[A]);
    script.confirm();
    let pause = script.wait();
    assert!(pause >= CONFIRM_AGAIN - CONFIRM_AGAIN / 8 && pause <= CONFIRM_AGAIN + CONFIRM_AGAIN / 8);
    assert!(script.asked().is_some());
    script.wait();
    assert!(
        matches!(script.verdict(), Verdict::Confirmed { .. }),
        "one that does not answer takes nothing back"
    );
    while script.now <= Instant::ZERO + CONFIRMED_FOR {
        assert!(matches!(script.verdict(), Verdict::Confirmed { .. }));
        script.wait();
    }
    assert!(matches!(script.verdict(), Verdict::Unanswered { failure: Some(_) }));
}

#[test]
fn clock_that_is_set_loses_its_confirmation_and_asks_anew() {
    for change in [Duration::from_secs(61), Duration::from_secs(1_000_000)] {
        for forward in [true, false] {
            let mut script = Script::new(&[A]);
            script.confirm();
            script.advance(RETRY_MIN);
            script.wall = if forward { WALL + change } else { WALL - change };
            assert_eq!(script.verdict(), Verdict::Unanswered { failure: None });
            script.confirm();
        }
    }
    // One that is corrected a little keeps it.
    let mut script = Script::new(&[A]);
    script.confirm();
    script.wall += Duration::from_secs(59);
    assert!(matches!(script.verdict(), Verdict::Confirmed { .. }));
    assert!(script.asked().is_none());
}

#[test]
fn nobody_is_asked_unless_somebody_wants_to_know_and_never_at_once_again() {
    let mut script = Script::new(&[A]);
    let (now, wall) = (script.now, script.wall());
    script.client.set_wanted(now, false);
    script.client.poll(now, wall);
    assert!(script.asked().is_none());
    assert_eq!(script.client.poll_timeout(), None);
    script.client.set_wanted(now, true);
    assert!(script.asked().is_some());
    // Turned off and on, and given its sockets back.
    script.client.set_wanted(now, false);
    script.client.set_wanted(now, true);
    script.client.sockets_lost(now);
    assert!(script.asked().is_none());
    assert_eq!(script.wait(), RETRY_MIN);
    assert!(script.asked().is_some());
    // Nor is one that was asked before the last one.
    script.wait();
    let now = script.now;
    script.client.set_servers(now, &[B, A]);
    script.client.poll(now, script.wall());
    let now = script.now;
    script.client.set_servers(now, &[A]);
    assert!(script.asked().is_none());
    let now = script.now;
    script.client.set_servers(now, &[]);
    assert_eq!((script.verdict(), script.client.poll_timeout()), (Verdict::NoServers, None));
}
