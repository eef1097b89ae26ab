//! The DHCP client (RFC 2131), on smoltcp's wire types.
//!
//! ```text
//!   Rebooting --ACK--> Bound                     (with a lease of an earlier run, or of before the link was away; NAK or silence:
//!                                                 Selecting; in silence the old lease is used meanwhile, as long as it runs)
//!   Selecting --OFFER--> Requesting --ACK--> Bound --T1--> Renewing --T2--> Rebinding --expiry--> Selecting
//!       ^                    | NAK, 4 tries             |  ACK: Bound         |  ACK: Bound      (address lost)
//!       +--------------------+--------------------------+---- NAK (address lost) --+
//! ```
//!
//! A message counts only with our transaction id, which nobody off the link can guess, and our hardware address; while
//! requesting, only from the server that was asked. The lease is used from the ACK on. While no server answers, at first or after a
//! lease has run out, a configured fallback address may be in use; asking goes on. An address that somebody else turns out to have is
//! declined, and after a pause another is asked for.

mod lease;

use core::net::Ipv4Addr;
use core::time::Duration;

use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, EthernetProtocol, IpProtocol, UdpRepr,
};

pub use self::lease::Lease;
use self::lease::{Options, option};
use crate::config::Static;
use crate::egress::Egress;
use crate::ip;
use crate::ipv4;
use crate::network::{BROADCAST, Network};
use crate::time::Instant;
use crate::timers::{Armed, Timer};
use crate::udp;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

/// The first retransmission; RFC 2131, 4.1 proposes 4 s for a shared 10 Mbit/s link. Doubles up to [`RETRY_MAX`], with jitter.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// RFC 2131, 4.1.
const RETRY_MAX: Duration = Duration::from_secs(64);
/// REQUESTs before starting over (RFC 2131, 3.1.5 suggests four).
const REQUESTS_MAX: u32 = 4;
/// REQUESTs for the lease of an earlier run before starting over: whoever granted it either knows it or is gone.
const REBOOT_REQUESTS_MAX: u32 = 2;
/// Between declining an address and asking for another (RFC 2131, 3.1.5: at least ten seconds).
const DECLINE_WAIT: Duration = Duration::from_secs(10);
/// The shortest time between two REQUESTs while renewing (RFC 2131, 4.4.5).
const RENEW_RETRY_MIN: Duration = Duration::from_secs(60);
/// The smallest message that every relay takes (RFC 1542, 2.1: 300 octets of BOOTP).
const MESSAGE_MIN: usize = 300;
/// The largest message that we take: what one Ethernet packet holds.
const MESSAGE_MAX: u16 = 1472;

const PARAMETERS: [u8; 12] = [
    option::SUBNET_MASK,
    option::ROUTER,
    option::DNS,
    option::DOMAIN,
    option::MTU,
    option::NTP,
    option::LEASE_TIME,
    option::SERVER_ID,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
    option::DOMAIN_SEARCH,
    option::CLASSLESS_ROUTES,
];

/// What the owner of the address has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Bound(Box<Lease>),
    /// The lease is over.
    Lost,
    Fallback(Static),
}

/// A lease of an earlier run, to be asked for again: what a caller keeps from [`Lease`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHint {
    /// The address that was granted.
    pub address: Ipv4Addr,
    /// All of it, with the times that are left: it is used until it runs out if no server answers (RFC 2131, 3.2). Any server is
    /// still asked for one, since this may be another network than the one that the lease is from.
    pub lease: Option<Box<Lease>>,
}

enum State {
    /// Asking for the address of an earlier run, or of before the link was away (RFC 2131, 3.2 and 3.7: INIT-REBOOT).
    Rebooting {
        address: Ipv4Addr,
        tries: u32,
        lease: Option<Box<Lease>>,
    },
    Selecting {
        tries: u32,
    },
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
        tries: u32,
    },
    Bound {
        lease: Box<Lease>,
    },
    Renewing {
        lease: Box<Lease>,
    },
    Rebinding {
        lease: Box<Lease>,
    },
}

/// What differs between the messages.
struct Body {
    message_type: DhcpMessageType,
    client_ip: Ipv4Addr,
    requested_ip: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

pub(crate) struct Dhcp {
    state: State,
    transaction: u32,
    /// When the current exchange began, for the `secs` field.
    began: Instant,
    hostname: Option<String>,
    /// What to use from when on, while no server has answered, and how long to ask before that.
    fallback: Option<(Static, Duration)>,
    fallback_at: Option<Instant>,
    /// The old lease, in use for as long as no server answers and it runs.
    remembered: Option<Box<Lease>>,
    /// When the state moves on or its message is sent again.
    next_step: Option<Instant>,
    armed: Armed,
}

impl Dhcp {
    /// Starts with the next poll.
    pub(crate) fn new(
        now: Instant,
        hostname: Option<String>,
        (fallback, hint): (Option<(Static, Duration)>, Option<LeaseHint>),
        network: &mut Network,
    ) -> Dhcp {
        let mut dhcp = Dhcp {
            state: match hint.filter(|hint| ipv4::is_usable_host(hint.address)) {
                Some(LeaseHint { address, lease }) => State::Rebooting {
                    address,
                    tries: 0,
                    lease: lease.filter(|lease| lease.cidr.address() == address),
                },
                None => State::Selecting { tries: 0 },
            },
            transaction: network.random.next_u32(),
            began: now,
            hostname: usable_name(hostname),
            fallback_at: fallback.as_ref().map(|(_, timeout)| now + *timeout),
            fallback,
            remembered: None,
            next_step: Some(now),
            armed: Armed::default(),
        };
        dhcp.arm(network);
        dhcp
    }

    pub(crate) fn timer_expired<E: Egress>(
        &mut self,
        now: Instant,
        deadline: Instant,
        network: &mut Network,
        egress: &mut E,
    ) -> Change {
        if !self.armed.fires(deadline) {
            return Change::Nothing;
        }
        let mut change = Change::Nothing;
        if self.next_step.is_some_and(|at| now >= at) {
            change = self.advance(now, network);
            if !matches!(self.state, State::Bound { .. }) {
                self.transmit(now, network, egress);
            }
            self.schedule(now, network);
        }
        let ran_out = |lease: &mut Box<Lease>| !lease.is_infinite() && now >= lease.expires_at;
        if self.remembered.take_if(ran_out).is_some() {
            self.fallback_at = self.fallback.as_ref().map(|(_, timeout)| now + *timeout);
            change = Change::Lost;
        }
        if self.fallback_at.take_if(|at| now >= *at).is_some()
            && let Some((address, _)) = &self.fallback
        {
            change = Change::Fallback(address.clone());
        }
        self.arm(network);
        change
    }

    /// Moves on because of the time.
    fn advance(&mut self, now: Instant, network: &mut Network) -> Change {
        match &mut self.state {
            State::Selecting { tries } => *tries += 1,
            State::Rebooting { tries, .. } if *tries < REBOOT_REQUESTS_MAX => *tries += 1,
            State::Rebooting { lease, .. } => {
                return match lease.take().filter(|lease| lease.is_infinite() || now < lease.expires_at) {
                    Some(lease) => {
                        self.restart(now, network);
                        self.fallback_at = None;
                        self.remembered = Some(lease.clone());
                        Change::Bound(lease)
                    }
                    None => self.lose(now, network),
                };
            }
            State::Requesting { tries, .. } if *tries < REQUESTS_MAX => *tries += 1,
            State::Requesting { .. } => self.restart(now, network),
            State::Bound { lease } | State::Renewing { lease } | State::Rebinding { lease } => {
                if lease.is_infinite() {
                    return Change::Nothing;
                }
                let lease = lease.clone();
                if now >= lease.expires_at {
                    return self.lose(now, network);
                }
                if matches!(self.state, State::Bound { .. }) && now >= lease.renew_at {
                    self.transaction = network.random.next_u32();
                    self.began = now;
                }
                self.state = if now >= lease.rebind_at {
                    State::Rebinding { lease }
                } else if now >= lease.renew_at {
                    State::Renewing { lease }
                } else {
                    State::Bound { lease }
                };
            }
        }
        Change::Nothing
    }

    fn restart(&mut self, now: Instant, network: &mut Network) {
        self.state = State::Selecting { tries: 1 };
        self.transaction = network.random.next_u32();
        self.began = now;
    }

    /// The lease is over: the search begins again, and with it the time until the fallback.
    fn lose(&mut self, now: Instant, network: &mut Network) -> Change {
        self.remembered = None;
        self.restart(now, network);
        self.fallback_at = self.fallback.as_ref().map(|(_, timeout)| now + *timeout);
        Change::Lost
    }

    /// The link came back: asks whether the lease still holds here; it stays in use meanwhile.
    pub(crate) fn confirm(&mut self, now: Instant, network: &mut Network) {
        let (State::Bound { lease } | State::Renewing { lease } | State::Rebinding { lease }) = &self.state
        else {
            return;
        };
        let address = lease.cidr.address();
        self.state = State::Rebooting { address, tries: 0, lease: Some(lease.clone()) };
        self.transaction = network.random.next_u32();
        self.began = now;
        self.next_step = Some(now);
        self.arm(network);
    }

    /// Takes another name and another fallback. The lease, or the search for one, goes on.
    pub(crate) fn reconfigure(
        &mut self,
        now: Instant,
        hostname: Option<String>,
        fallback: Option<(Static, Duration)>,
        network: &mut Network,
    ) {
        self.hostname = usable_name(hostname);
        let bound =
            matches!(self.state, State::Bound { .. } | State::Renewing { .. } | State::Rebinding { .. });
        self.fallback_at = fallback.as_ref().filter(|_| !bound).map(|(_, timeout)| now + *timeout);
        self.fallback = fallback;
        self.arm(network);
    }

    /// Somebody else has the address of our lease (RFC 2131, 3.1.5).
    pub(crate) fn decline<E: Egress>(
        &mut self,
        now: Instant,
        network: &mut Network,
        egress: &mut E,
    ) -> Change {
        let (State::Bound { lease }
        | State::Renewing { lease }
        | State::Rebinding { lease }
        | State::Rebooting { lease: Some(lease), .. }) = &self.state
        else {
            // The remembered one: whoever granted it does not answer.
            self.remembered = None;
            return Change::Nothing;
        };
        let (address, server) = (lease.cidr.address(), lease.server);
        network.counters.dhcp_declines_sent += 1;
        let body = Body {
            message_type: DhcpMessageType::Decline,
            client_ip: Ipv4Addr::UNSPECIFIED,
            requested_ip: Some(address),
            server: Some(server),
        };
        self.send(now, &body, None, network, egress);
        let change = self.lose(now, network);
        self.state = State::Selecting { tries: 0 };
        self.next_step = Some(now + DECLINE_WAIT);
        self.arm(network);
        change
    }

    /// Decides when the next retransmission or state is due.
    fn schedule(&mut self, now: Instant, network: &mut Network) {
        let jitter = Duration::from_millis(network.random.below(1000).into());
        self.next_step = match &self.state {
            State::Selecting { tries } | State::Requesting { tries, .. } | State::Rebooting { tries, .. } => {
                let doubled = RETRY_MIN * (1 << tries.saturating_sub(1).min(5));
                Some(now + doubled.min(RETRY_MAX) + jitter)
            }
            State::Bound { lease } | State::Renewing { lease } | State::Rebinding { lease }
                if lease.is_infinite() =>
            {
                None
            }
            State::Bound { lease } => Some(lease.renew_at),
            // RFC 2131, 4.4.5: half of what remains, at least a minute, and not beyond the next state.
            State::Renewing { lease } => Some(now + retry_within(now, lease.rebind_at)),
            State::Rebinding { lease } => Some(now + retry_within(now, lease.expires_at)),
        };
        self.arm(network);
    }

    /// Arms the timer for the next step or the fallback, whichever comes first.
    fn arm(&mut self, network: &mut Network) {
        self.armed = Armed::default();
        let ends = self.remembered.as_ref().filter(|lease| !lease.is_infinite());
        let ends = ends.map(|lease| lease.expires_at);
        if let Some(at) = self.next_step.into_iter().chain(self.fallback_at).chain(ends).min() {
            network.timers.arm(&mut self.armed, Timer::Dhcp, at);
        }
    }

    /// Handles the payload of a datagram from a server's port to ours.
    pub(crate) fn handle<E: Egress>(
        &mut self,
        now: Instant,
        payload: &[u8],
        network: &mut Network,
        egress: &mut E,
    ) -> Change {
        let Ok(packet) = DhcpPacket::new_checked(payload) else {
            network.counters.drop_dhcp_malformed += 1;
            return Change::Nothing;
        };
        let ours = packet.transaction_id() == self.transaction
            && packet.client_hardware_address() == EthernetAddress(network.mac)
            && packet.opcode() == smoltcp::wire::DhcpOpCode::Reply;
        let message_type = Options(&packet).bytes(option::MESSAGE_TYPE);
        let message_type = message_type.first().map(|&value| DhcpMessageType::from(value));
        let server = Options(&packet).address(option::SERVER_ID);
        let (true, Some(message_type)) = (ours, message_type) else {
            network.counters.drop_dhcp_unexpected += 1;
            return Change::Nothing;
        };
        match (&self.state, message_type, server) {
            (State::Selecting { .. }, DhcpMessageType::Offer, Some(server))
                if ipv4::is_usable_host(packet.your_ip()) && ipv4::is_usable_host(server) =>
            {
                self.state = State::Requesting { address: packet.your_ip(), server, tries: 1 };
                self.transmit(now, network, egress);
                self.schedule(now, network);
                Change::Nothing
            }
            (State::Requesting { address, server: asked, .. }, DhcpMessageType::Ack, Some(server))
                if server == *asked && packet.your_ip() == *address =>
            {
                self.bind(now, &packet, network)
            }
            (State::Rebooting { address, .. }, DhcpMessageType::Ack, Some(_))
                if packet.your_ip() == *address =>
            {
                self.bind(now, &packet, network)
            }
            (State::Renewing { .. } | State::Rebinding { .. }, DhcpMessageType::Ack, _) => {
                self.bind(now, &packet, network)
            }
            (State::Requesting { server: asked, .. }, DhcpMessageType::Nak, Some(server))
                if server == *asked =>
            {
                self.restart(now, network);
                self.schedule(now, network);
                Change::Nothing
            }
            // RFC 2131, 3.2: the address is not right on this network any more.
            (State::Rebooting { .. }, DhcpMessageType::Nak, Some(_)) => {
                let change = self.lose(now, network);
                self.transmit(now, network, egress);
                self.schedule(now, network);
                change
            }
            (State::Renewing { .. } | State::Rebinding { .. }, DhcpMessageType::Nak, _) => {
                let change = self.lose(now, network);
                self.transmit(now, network, egress);
                self.schedule(now, network);
                change
            }
            _ => {
                network.counters.drop_dhcp_unexpected += 1;
                Change::Nothing
            }
        }
    }

    fn bind(&mut self, now: Instant, packet: &DhcpPacket<&[u8]>, network: &mut Network) -> Change {
        let Some(lease) = Lease::parse(packet, now) else {
            network.counters.drop_dhcp_malformed += 1;
            return Change::Nothing;
        };
        let lease = Box::new(lease);
        self.state = State::Bound { lease: lease.clone() };
        self.fallback_at = None;
        self.remembered = None;
        self.schedule(now, network);
        Change::Bound(lease)
    }

    /// Sends the message of the current state (RFC 2131, table 5).
    fn transmit<E: Egress>(&mut self, now: Instant, network: &mut Network, egress: &mut E) {
        let unset = Ipv4Addr::UNSPECIFIED;
        let (message_type, client_ip, requested_ip, server) = match &self.state {
            State::Selecting { .. } => (DhcpMessageType::Discover, unset, None, None),
            State::Rebooting { address, .. } => (DhcpMessageType::Request, unset, Some(*address), None),
            State::Requesting { address, server, .. } => {
                (DhcpMessageType::Request, unset, Some(*address), Some(*server))
            }
            State::Bound { lease } | State::Renewing { lease } | State::Rebinding { lease } => {
                (DhcpMessageType::Request, lease.cidr.address(), None, None)
            }
        };
        let unicast = match &self.state {
            State::Renewing { lease } => Some(lease.server),
            State::Selecting { .. }
            | State::Rebooting { .. }
            | State::Requesting { .. }
            | State::Bound { .. }
            | State::Rebinding { .. } => None,
        };
        self.send(now, &Body { message_type, client_ip, requested_ip, server }, unicast, network, egress);
    }

    /// Sends a message to one server, or to every server on the link.
    fn send<E: Egress>(
        &self,
        now: Instant,
        body: &Body,
        unicast: Option<Ipv4Addr>,
        network: &mut Network,
        egress: &mut E,
    ) {
        let Body { message_type, client_ip, requested_ip, server } = *body;
        let unset = Ipv4Addr::UNSPECIFIED;
        // RFC 2131, table 5: a DECLINE asks for nothing.
        let asks = message_type != DhcpMessageType::Decline;
        let hostname = self.hostname.as_deref().unwrap_or_default();
        let hostname = [DhcpOption { kind: option::HOST_NAME, data: hostname.as_bytes() }];
        let repr = DhcpRepr {
            message_type,
            transaction_id: self.transaction,
            secs: u16::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u16::MAX),
            client_hardware_address: EthernetAddress(network.mac),
            client_ip,
            your_ip: unset,
            server_ip: unset,
            router: None,
            subnet_mask: None,
            relay_agent_ip: unset,
            broadcast: false,
            requested_ip,
            client_identifier: Some(EthernetAddress(network.mac)),
            server_identifier: server,
            parameter_request_list: asks.then_some(&PARAMETERS),
            dns_servers: None,
            max_size: asks.then_some(MESSAGE_MAX),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: if self.hostname.is_some() && asks { &hostname } else { &[] },
        };
        let mut message = vec![0; repr.buffer_len().max(MESSAGE_MIN)];
        if repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).is_err() {
            return;
        }
        send_message(now, (client_ip, unicast), &message, network, egress);
    }
}

/// A name that fits option 12 as a label.
fn usable_name(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.is_empty() && name.len() < 64)
}

fn retry_within(now: Instant, end: Instant) -> Duration {
    let remaining = end.saturating_duration_since(now);
    (remaining / 2).max(RENEW_RETRY_MIN).min(remaining)
}

/// Sends to one server through the routes, or to every server on the link.
fn send_message<E: Egress>(
    now: Instant,
    (source, unicast): (Ipv4Addr, Option<Ipv4Addr>),
    message: &[u8],
    network: &mut Network,
    egress: &mut E,
) {
    let ports = UdpRepr { src_port: CLIENT_PORT, dst_port: SERVER_PORT };
    let destination = unicast.unwrap_or(Ipv4Addr::BROADCAST);
    let len = ipv4::HEADER_LEN + udp::HEADER_LEN + message.len();
    let fill = |packet: &mut [u8]| {
        ipv4::emit_header(packet, source, destination, IpProtocol::Udp, ip::TTL);
        udp::emit(&mut packet[ipv4::HEADER_LEN..], ports, (source.into(), destination.into()), message);
        true
    };
    match unicast {
        Some(server) => network.send_packet(now, egress, server.into(), len, fill),
        None => network.transmit(egress, BROADCAST, EthernetProtocol::Ipv4, len, fill),
    };
}
