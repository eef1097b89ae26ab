//! Asking for the time: a simple client of NTP (RFC 4330 on RFC 5905's packets), which sets no clock. It says whether the clock of
//! its caller agrees with a server.
//!
//! ```text
//!            +-- no answer, a useless one: the next server; after the last, back-off --+
//!            v                                                                         |
//!   Idle --due--> Asking --reply: the offset is within the tolerance--> Confirmed -----+--> asked again within the hour
//!                      \--reply: it is not--> Differs ---------------------------------/
//! ```
//!
//! Against forgers: each request has a socket, and so a port, of its own, and instead of its time it carries 64 random bits that
//! the reply must repeat. A datagram that does not is counted and ignored, so that it cannot end the wait for the true one. Whoever is on
//! the path sees those bits and can answer what he likes: plain NTP is not authenticated.
//!
//! The caller gives two times: `now`, which runs evenly, and `wall`, since 1970, which is what is to be confirmed. A confirmation holds
//! for [`CONFIRMED_FOR`] and only while the two run together: whoever sets the clock loses it. Limits: one request at a time, one server
//! never more often than every [`RETRY_MIN`].

mod packet;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use serde::Serialize;

use self::packet::{Foreign, PACKET_BYTES, Times};
pub use self::packet::{KissCode, Useless};
use crate::random::Random;
use crate::time::Instant;

/// Where servers listen (RFC 5905, 7.2).
const PORT: u16 = 123;
/// Servers that are asked; the rest of a longer list are not.
pub const SERVERS_MAX: usize = 8;
/// How long a server is waited for. A reply this late leaves two seconds of doubt, which no tolerance notices.
const REPLY_WAIT: Duration = Duration::from_secs(4);
/// RFC 4330, 10: a server is never asked more often than every fifteen seconds; so much more as jitter may take off.
const RETRY_MIN: Duration = Duration::from_secs(18);
/// The slowest that ntpd gets by default (2^10 s).
const RETRY_MAX: Duration = Duration::from_secs(1024);
/// Between a confirmation and the next question.
const CONFIRM_AGAIN: Duration = Duration::from_secs(3600);
/// How long a confirmation holds without another: at the 500 ppm that a crystal may be off at most (RFC 5905, 10), this is 7 seconds.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(4 * 3600);

/// Counts of what became of requests and datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Statistics {
    /// Requests.
    pub requests: u64,
    /// Replies with a time in them.
    pub replies: u64,
    /// Replies without one.
    pub useless: u64,
    /// Requests that nobody answered.
    pub timeouts: u64,
    /// Datagrams to a socket that waits for none.
    pub drop_socket: u64,
    /// From elsewhere than the server.
    pub drop_source: u64,
    /// No reply of this version of NTP.
    pub drop_malformed: u64,
    /// To another request than ours.
    pub drop_origin: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// From a new socket, with a port that nobody can guess.
    Send {
        /// How the socket is called from now on.
        socket: u64,
        /// Where to.
        server: SocketAddr,
        /// What.
        payload: [u8; PACKET_BYTES],
    },
    /// The socket is not needed any more.
    Close {
        /// Which.
        socket: u64,
    },
}

/// How far a clock is from a server's. Positive: the clock is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// In microseconds.
    pub micros: i64,
}

impl Offset {
    fn between(server: Duration, clock: Duration) -> Offset {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Offset { micros: micros(server) - micros(clock) }
    }

    fn is_within(self, tolerance: Duration) -> bool {
        Duration::from_micros(self.micros.unsigned_abs()) <= tolerance
    }
}

impl core::fmt::Display for Offset {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let sign = if self.micros < 0 { '-' } else { '+' };
        let micros = self.micros.unsigned_abs();
        write!(f, "{sign}{}.{:03} s", micros / 1_000_000, micros / 1000 % 1000)
    }
}

/// What is known of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is asked.
    NoServers,
    /// Nobody has answered yet.
    Unanswered {
        /// What came of the last request, if one is over.
        failure: Option<Failure>,
    },
    /// A server agrees.
    Confirmed {
        /// Which.
        server: IpAddr,
        /// As far as it does.
        offset: Offset,
    },
    /// A server does not.
    Differs {
        /// Which.
        server: IpAddr,
        /// By how much.
        offset: Offset,
    },
}

/// What came of a request that was not answered with a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Who was asked.
    pub server: IpAddr,
    /// What it said; none if it said nothing.
    pub said: Option<Useless>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.said {
            Some(useless) => write!(f, "time server {}: {useless}", self.server),
            None => write!(f, "time server {} does not answer", self.server),
        }
    }
}

enum State {
    /// Nothing to do: there are no servers, or nobody wants to know.
    Off,
    Idle {
        due: Instant,
    },
    Asking {
        server: IpAddr,
        socket: u64,
        nonce: u64,
        sent: Instant,
    },
}

/// The last answer with a time in it.
struct Answer {
    server: IpAddr,
    offset: Offset,
    at: Instant,
    /// The caller's clock when it ran evenly since.
    wall: Duration,
}

/// The client.
pub struct Client {
    tolerance: Duration,
    servers: Vec<IpAddr>,
    /// Servers of this round that were not asked yet; the next is the last.
    round: Vec<IpAddr>,
    /// Servers that said to be left alone.
    refusing: Vec<IpAddr>,
    state: State,
    wanted: bool,
    /// Who was asked within [`RETRY_MIN`], and when.
    asked: Vec<(IpAddr, Instant)>,
    /// Between this round and the next.
    backoff: Duration,
    answer: Option<Answer>,
    failure: Option<Failure>,
    outgoing: Vec<Transmit>,
    sockets_made: u64,
    statistics: Statistics,
    random: Random,
}

impl Client {
    /// A client that confirms clocks which are off by `tolerance` or less, and asks nobody yet.
    pub fn new(tolerance: Duration, seed: &[u8; 32]) -> Client {
        Client {
            tolerance,
            servers: Vec::new(),
            round: Vec::new(),
            refusing: Vec::new(),
            state: State::Off,
            wanted: false,
            asked: Vec::new(),
            backoff: RETRY_MIN,
            answer: None,
            failure: None,
            outgoing: Vec::new(),
            sockets_made: 0,
            statistics: Statistics::default(),
            random: Random::new(seed),
        }
    }

    /// Asks these servers from now on. The same ones change nothing.
    pub fn set_servers(&mut self, now: Instant, servers: &[IpAddr]) {
        let servers = &servers[..servers.len().min(SERVERS_MAX)];
        if self.servers == servers {
            return;
        }
        self.servers = servers.to_vec();
        self.refusing.clear();
        self.failure = None;
        // An answer of somebody who is asked no longer counts no longer.
        self.answer = self.answer.take().filter(|answer| servers.contains(&answer.server));
        self.restart(now);
    }

    /// Whether somebody wants to know. While nobody does, nothing is sent.
    pub fn set_wanted(&mut self, now: Instant, wanted: bool) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.restart(now);
        }
    }

    /// Which offset is still an agreement.
    pub fn set_tolerance(&mut self, tolerance: Duration) {
        self.tolerance = tolerance;
    }

    /// All sockets are gone, with whatever they had to do.
    pub fn sockets_lost(&mut self, now: Instant) {
        self.restart(now);
        self.outgoing.clear();
    }

    /// What is known. `wall` is the clock in question, since 1970.
    pub fn verdict(&self, now: Instant, wall: Duration) -> Verdict {
        match self.answer.as_ref().filter(|answer| self.holds(answer, now, wall)) {
            Some(Answer { server, offset, .. }) if offset.is_within(self.tolerance) => {
                Verdict::Confirmed { server: *server, offset: *offset }
            }
            Some(Answer { server, offset, .. }) => Verdict::Differs { server: *server, offset: *offset },
            None if self.servers.is_empty() => Verdict::NoServers,
            None => Verdict::Unanswered { failure: self.failure },
        }
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Off => None,
            State::Idle { due } => Some(due),
            State::Asking { sent, .. } => Some(sent + REPLY_WAIT),
        }
    }

    /// Does what is due. To be called too when the clock may have been set: an answer that it made void is asked for anew.
    pub fn poll(&mut self, now: Instant, wall: Duration) {
        if self.answer.as_ref().is_some_and(|answer| !self.holds(answer, now, wall)) {
            self.answer = None;
            self.restart(now);
        }
        match self.state {
            State::Idle { due } if due <= now => self.ask(now),
            State::Asking { server, sent, .. } if sent + REPLY_WAIT <= now => {
                self.statistics.timeouts += 1;
                self.fail(now, Failure { server, said: None });
            }
            State::Off | State::Idle { .. } | State::Asking { .. } => {}
        }
    }

    /// The next thing to be done.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        (!self.outgoing.is_empty()).then(|| self.outgoing.remove(0))
    }

    /// The request could not be sent, or an ICMP error came back.
    pub fn handle_error(&mut self, now: Instant, socket: u64) {
        match self.state {
            State::Asking { server, socket: current, .. } if current == socket => {
                self.fail(now, Failure { server, said: None });
            }
            State::Off | State::Idle { .. } | State::Asking { .. } => {}
        }
    }

    /// A datagram came to a socket.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        wall: Duration,
        socket: u64,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        let State::Asking { server, socket: current, nonce, sent } = self.state else {
            self.statistics.drop_socket += 1;
            return;
        };
        if current != socket {
            self.statistics.drop_socket += 1;
            return;
        }
        if (from.ip(), from.port()) != (server, PORT) {
            self.statistics.drop_source += 1;
            return;
        }
        match packet::read(bytes, nonce) {
            Err(Foreign::Malformed) => self.statistics.drop_malformed += 1,
            Err(Foreign::Origin) => self.statistics.drop_origin += 1,
            Ok(Err(useless)) => {
                self.statistics.useless += 1;
                self.fail(now, Failure { server, said: Some(useless) });
            }
            Ok(Ok(times)) => {
                self.statistics.replies += 1;
                self.accept(now, wall, server, times, now.saturating_duration_since(sent));
            }
        }
    }

    /// Takes a time (RFC 5905, 8, with the way there and back measured by the clock that runs evenly).
    fn accept(&mut self, now: Instant, wall: Duration, server: IpAddr, times: Times, elapsed: Duration) {
        let on_the_way = elapsed.saturating_sub(times.sent - times.received);
        let offset = Offset::between(times.sent + on_the_way / 2, wall);
        self.answer = Some(Answer { server, offset, at: now, wall });
        self.failure = None;
        self.close();
        self.round.clear();
        self.backoff = RETRY_MIN;
        // A clock that differs may be set soon; nobody is asked more often than every so often all the same.
        let pause = if offset.is_within(self.tolerance) { CONFIRM_AGAIN } else { RETRY_MAX };
        self.state = State::Idle { due: now + self.jittered(pause) };
    }

    /// Goes on to the next server, or waits for the next round.
    fn fail(&mut self, now: Instant, failure: Failure) {
        self.close();
        self.failure = Some(failure);
        if let Some(Useless::Kiss(code)) = failure.said {
            if code.is_farewell() {
                self.refusing.push(failure.server);
            }
            if code.is_rate() {
                self.backoff = RETRY_MAX;
            }
        }
        if self.round.is_empty() {
            let pause = self.backoff;
            self.backoff = (pause * 2).min(RETRY_MAX);
            self.state = State::Idle { due: now + self.jittered(pause) };
        } else {
            self.ask(now);
        }
    }

    fn ask(&mut self, now: Instant) {
        if self.round.is_empty() {
            let willing = |server: &&IpAddr| !self.refusing.contains(server);
            self.round = self.servers.iter().rev().filter(willing).copied().collect();
        }
        let Some(server) = self.round.pop() else {
            // All of them want to be left alone.
            self.state = State::Off;
            return;
        };
        self.sockets_made += 1;
        self.statistics.requests += 1;
        let (socket, nonce) = (self.sockets_made, self.random.next_u64());
        self.asked.retain(|(other, at)| *other != server && *at + RETRY_MIN > now);
        self.asked.push((server, now));
        self.state = State::Asking { server, socket, nonce, sent: now };
        let payload = packet::request(nonce);
        self.outgoing.push(Transmit::Send { socket, server: (server, PORT).into(), payload });
    }

    /// Begins anew, or ends.
    fn restart(&mut self, now: Instant) {
        self.close();
        self.round.clear();
        // Who was just asked is not asked again at once, whatever happened since.
        let again = self.asked.iter().filter(|(server, _)| self.servers.contains(server));
        let due = again.map(|(_, at)| *at + RETRY_MIN).max().unwrap_or(now).max(now);
        let asks = self.wanted && self.servers.iter().any(|server| !self.refusing.contains(server));
        self.state = if asks { State::Idle { due } } else { State::Off };
    }

    fn close(&mut self) {
        if let State::Asking { socket, .. } = self.state {
            self.outgoing.push(Transmit::Close { socket });
        }
    }

    /// Whether an answer is young enough, and the clock was not set since.
    fn holds(&self, answer: &Answer, now: Instant, wall: Duration) -> bool {
        let age = now.saturating_duration_since(answer.at);
        age <= CONFIRMED_FOR && Offset::between(answer.wall + age, wall).is_within(self.tolerance)
    }

    /// An eighth more or less, so that machines that started together do not ask together (RFC 4330, 10).
    fn jittered(&mut self, pause: Duration) -> Duration {
        let eighth = pause / 8;
        let spread = u32::try_from(2 * eighth.as_millis()).unwrap_or(u32::MAX);
        pause - eighth + Duration::from_millis(self.random.below(spread).into())
    }
}
