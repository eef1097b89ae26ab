//! The DHCPv6 client (RFC 8415): an address where routers say that servers give them (M), and resolvers where they say that servers
//! know them (O).
//!
//! ```text
//!   Idle --O--> Asking --REPLY--> Informed --refresh time--> Asking
//!     \--M--> Soliciting --ADVERTISE--> Requesting --REPLY--> Bound --T1--> Renewing --T2--> Rebinding --expiry--> Soliciting
//!                  ^                        | 10 tries          ^-------- REPLY ------|------------|
//!                  +------------------------+------------- no address, or somebody has it (DECLINE) --+
//! ```
//!
//! As for IPv4, a message counts only with our transaction id and our identity, and while requesting only from the server that was
//! asked. The first usable advertisement is taken.

mod message;

use core::net::Ipv6Addr;
use core::time::Duration;

use smoltcp::wire::{IpProtocol, UdpRepr};

use self::message::{ADVERTISE, Grant, Heard, Kind, REPLY, Saying};
use crate::egress::Egress;
use crate::ip::Header;
use crate::ipv6::Lifetime;
use crate::network::Network;
use crate::time::Instant;
use crate::timers::{Armed, Timer};
use crate::udp;

pub(crate) const SERVER_PORT: u16 = 547;
pub(crate) const CLIENT_PORT: u16 = 546;
/// All relay agents and servers on the link (RFC 8415, 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// First and longest retransmission of each kind (RFC 8415, 7.6), and tries before starting over.
const SOLICIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
const REQUEST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const REQUESTS_MAX: u32 = 10;
const RENEW: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
const INFORMATION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// The longest random wait before the first message (RFC 8415, 18.2.1 and 18.2.6).
const START_DELAY_MILLIS: u32 = 1000;
/// RFC 8415, 21.23: how long information is good for, unless the server says otherwise, and at least.
const REFRESH_SECONDS: u32 = 86_400;
const REFRESH_SECONDS_MIN: u32 = 600;
/// The shortest T1 that is obeyed; see the shortest lease of IPv4.
const RENEW_SECONDS_MIN: u32 = 60;

#[derive(Clone)]
struct Lease6 {
    grant: Grant,
    server: Vec<u8>,
    renew_at: Option<Instant>,
    rebind_at: Option<Instant>,
    expires_at: Option<Instant>,
}

enum State {
    /// No router has said anything about servers.
    Idle,
    Asking,
    Informed,
    Soliciting,
    Requesting {
        address: Ipv6Addr,
        server: Vec<u8>,
    },
    Bound(Box<Lease6>),
    Renewing(Box<Lease6>),
    Rebinding(Box<Lease6>),
}

pub(crate) struct Dhcp6 {
    state: State,
    transaction: u32,
    began: Instant,
    /// Messages of this state sent, and the time until the next.
    tries: u32,
    interval: Duration,
    next: Option<Instant>,
    armed: Armed,
}

impl Dhcp6 {
    pub(crate) fn new() -> Dhcp6 {
        Dhcp6 {
            state: State::Idle,
            transaction: 0,
            began: Instant::ZERO,
            tries: 0,
            interval: Duration::ZERO,
            next: None,
            armed: Armed::default(),
        }
    }

    /// Looks at what routers said last, and whether our address turned out to be somebody else's.
    pub(crate) fn follow<E: Egress>(&mut self, now: Instant, network: &mut Network, egress: &mut E) {
        let (managed, any) = network.ipv6.dhcp_flags();
        match &self.state {
            State::Idle if any => {
                let delay = Duration::from_millis(network.random.below(START_DELAY_MILLIS).into());
                self.begin(if managed { State::Soliciting } else { State::Asking }, now, delay, network);
            }
            State::Asking | State::Informed if managed => {
                self.begin(State::Soliciting, now, Duration::ZERO, network);
            }
            State::Bound(lease) if network.ipv6.is_duplicated(lease.grant.address) => {
                // RFC 8415, 18.2.8. One message: what it is for is told by the next SOLICIT as well.
                let (server, address) = (lease.server.clone(), lease.grant.address);
                self.transaction = network.random.next_u32() & 0xff_ffff;
                network.counters.dhcp_declines_sent += 1;
                self.say(now, Kind::Decline, Some(&server), Some(address), network, egress);
                network.ipv6.remove_dhcp(address);
                self.begin(State::Soliciting, now, SOLICIT.0, network);
            }
            _ => {}
        }
    }

    /// Enters a state whose first message leaves after `delay`.
    fn begin(&mut self, state: State, now: Instant, delay: Duration, network: &mut Network) {
        self.state = state;
        self.transaction = network.random.next_u32() & 0xff_ffff;
        self.began = now + delay;
        self.tries = 0;
        self.wait_until(Some(now + delay), network);
    }

    fn wait_until(&mut self, next: Option<Instant>, network: &mut Network) {
        self.next = next;
        self.armed = Armed::default();
        if let Some(next) = next {
            network.timers.arm(&mut self.armed, Timer::Dhcp6, next);
        }
    }

    pub(crate) fn timer_expired<E: Egress>(
        &mut self,
        now: Instant,
        deadline: Instant,
        network: &mut Network,
        egress: &mut E,
    ) {
        if !self.armed.fires(deadline) {
            return;
        }
        if !network.ipv6.is_enabled() {
            self.state = State::Idle;
            return;
        }
        self.advance(now, network);
        self.transmit(now, network, egress);
    }

    /// Moves on because of the time.
    fn advance(&mut self, now: Instant, network: &mut Network) {
        let past = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        match &self.state {
            State::Informed => self.begin(State::Asking, now, Duration::ZERO, network),
            State::Requesting { .. } if self.tries >= REQUESTS_MAX => {
                self.begin(State::Soliciting, now, Duration::ZERO, network);
            }
            State::Bound(lease) | State::Renewing(lease) | State::Rebinding(lease) => {
                let lease = lease.clone();
                if past(lease.expires_at) {
                    self.begin(State::Soliciting, now, Duration::ZERO, network);
                } else if past(lease.rebind_at) && !matches!(self.state, State::Rebinding(_)) {
                    self.begin(State::Rebinding(lease), now, Duration::ZERO, network);
                } else if past(lease.renew_at) && matches!(self.state, State::Bound(_)) {
                    self.begin(State::Renewing(lease), now, Duration::ZERO, network);
                }
            }
            State::Idle | State::Asking | State::Soliciting | State::Requesting { .. } => {}
        }
    }

    /// Sends the message of the current state, and says when the next one is due.
    fn transmit<E: Egress>(&mut self, now: Instant, network: &mut Network, egress: &mut E) {
        let (kind, server, address, (first, most), end) = match &self.state {
            State::Idle | State::Informed | State::Bound(_) => return,
            State::Asking => (Kind::InformationRequest, None, None, INFORMATION, None),
            State::Soliciting => (Kind::Solicit, None, None, SOLICIT, None),
            State::Requesting { address, server } => {
                (Kind::Request, Some(server.clone()), Some(*address), REQUEST, None)
            }
            State::Renewing(lease) => {
                (Kind::Renew, Some(lease.server.clone()), Some(lease.grant.address), RENEW, lease.rebind_at)
            }
            State::Rebinding(lease) => {
                (Kind::Rebind, None, Some(lease.grant.address), RENEW, lease.expires_at)
            }
        };
        self.say(now, kind, server.as_deref(), address, network, egress);
        // RFC 8415, 15: doubled, a tenth to either side, and no further than what ends the exchange.
        let doubled = if self.tries == 0 { first } else { (self.interval * 2).min(most) };
        let tenth = doubled / 10;
        self.interval = doubled - tenth + tenth / 100 * network.random.below(200);
        self.tries += 1;
        let next = now + self.interval;
        self.wait_until(Some(end.map_or(next, |end| next.min(end))), network);
    }

    fn say<E: Egress>(
        &self,
        now: Instant,
        kind: Kind,
        server: Option<&[u8]>,
        address: Option<Ipv6Addr>,
        network: &mut Network,
        egress: &mut E,
    ) {
        let Some(source) = network.ipv6.link_local() else { return };
        let elapsed = if self.tries == 0 { Duration::ZERO } else { now - self.began };
        let saying = Saying { kind, transaction: self.transaction, elapsed, server, address };
        let message = saying.to_bytes(network.mac);
        let ports = UdpRepr { src_port: CLIENT_PORT, dst_port: SERVER_PORT };
        let header = Header { ttl: 1, ..Header::new(source.into(), SERVERS.into(), IpProtocol::Udp) };
        network.send_ip(now, egress, header, udp::HEADER_LEN + message.len(), |buffer| {
            udp::emit(buffer, ports, (header.source, header.destination), &message);
        });
    }

    /// Handles the payload of a datagram from a server's port to ours.
    pub(crate) fn handle<E: Egress>(
        &mut self,
        now: Instant,
        payload: &[u8],
        network: &mut Network,
        egress: &mut E,
    ) {
        let Some(heard) = Heard::parse(payload, network.mac) else {
            network.counters.drop_dhcp_malformed += 1;
            return;
        };
        let grant = heard.grant.filter(|_| heard.success);
        let ours = heard.transaction == self.transaction;
        match (&self.state, heard.kind, grant) {
            (State::Asking, REPLY, _) if ours && heard.success => {
                let seconds = heard.refresh_seconds.unwrap_or(REFRESH_SECONDS).max(REFRESH_SECONDS_MIN);
                let lifetime = Lifetime::from_seconds(seconds);
                network.learn_resolvers(now, &heard.dns, &heard.search, lifetime);
                self.state = State::Informed;
                self.wait_until(lifetime.end(now), network);
            }
            (State::Soliciting, ADVERTISE, Some(grant)) if ours => {
                let state = State::Requesting { address: grant.address, server: heard.server };
                self.begin(state, now, Duration::ZERO, network);
                self.transmit(now, network, egress);
            }
            (State::Requesting { server, .. }, REPLY, grant) if ours && heard.server == *server => {
                match grant {
                    Some(grant) => self.bind(now, heard, grant, network),
                    None => self.begin(State::Soliciting, now, SOLICIT.0, network),
                }
            }
            (State::Renewing(_) | State::Rebinding(_), REPLY, grant) if ours => match grant {
                Some(grant) => self.bind(now, heard, grant, network),
                // RFC 8415, 18.2.10.1: the server does not prolong it; the address is good until its time is up.
                None => network.counters.drop_dhcp_unexpected += 1,
            },
            _ => network.counters.drop_dhcp_unexpected += 1,
        }
    }

    fn bind(&mut self, now: Instant, heard: Heard, grant: Grant, network: &mut Network) {
        // RFC 8415, 14.2: with zeros it is up to us; half and four fifths of the preferred lifetime are what servers use.
        let seconds = |share: u32, given: u32| {
            let preferred =
                grant.preferred.0.map(|lifetime| u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX));
            let own = preferred.map(|preferred| (u64::from(preferred) * u64::from(share) / 10) as u32);
            let seconds = if given == 0 { own } else { Some(given).filter(|&given| given != u32::MAX) };
            seconds.map(|seconds| now + Duration::from_secs(seconds.max(RENEW_SECONDS_MIN).into()))
        };
        let lease = Lease6 {
            grant,
            server: heard.server,
            renew_at: seconds(5, grant.t1_seconds),
            rebind_at: seconds(8, grant.t2_seconds),
            expires_at: grant.valid.end(now),
        };
        network.adopt_dhcp(now, grant.address, grant.preferred, grant.valid);
        network.learn_resolvers(now, &heard.dns, &heard.search, grant.valid);
        let next = [lease.renew_at, lease.rebind_at, lease.expires_at].into_iter().flatten().min();
        self.state = State::Bound(Box::new(lease));
        self.wait_until(next, network);
    }
}
