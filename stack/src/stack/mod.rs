//! The stack: frames in, frames out, and the sockets between.

mod addresses;
mod calls;
mod ingress;
mod reconfigure;

use core::net::IpAddr;

use self::addresses::{Pending, Secondary};
use self::reconfigure::Configured;
use crate::config::{Addressing, Config, Limits, Options};
use crate::counters::Counters;
use crate::dhcp::Dhcp;
use crate::dhcp6::Dhcp6;
use crate::egress::Egress;
use crate::error::Error;
use crate::events::{Events, Ready};
use crate::fragment::Reassembly;
use crate::groups::Groups;
use crate::icmp::{Icmp, IcmpError, Quote, Report};
use crate::info::{AddressState, SocketInfo, TableInfo};
use crate::ipv6::Ipv6;
use crate::neighbor::{NeighborInfo, Neighbors};
use crate::network::{Looped, Network};
use crate::path_mtu::PathMtus;
use crate::random::Random;
use crate::route::Route;
use crate::tcp::Tcp;
use crate::time::Instant;
use crate::timers::{Timer, Timers};
use crate::udp::{SocketView, Udp};

/// Rounds of packets from us to us in one poll: a handshake with its first data is four. More go on with the next poll, after
/// everybody else.
const LOOP_ROUNDS_MAX: usize = 16;

/// A TCP/IP stack for one device. It does no I/O and owns no clock.
///
/// The caller's loop is: [`handle_frame`](Stack::handle_frame) for each frame that arrived, [`poll`](Stack::poll) once per batch,
/// [`next_ready`](Stack::next_ready) until it is empty, then sleep until a frame arrives, a buffer is freed, its clients want
/// something, or [`poll_timeout`](Stack::poll_timeout). What socket calls make to be sent leaves with the next `poll`.
pub struct Stack {
    network: Network,
    tcp: Tcp,
    udp: Udp,
    icmp: Icmp,
    reassembly: Reassembly,
    dhcp: Option<Dhcp>,
    dhcp6: Dhcp6,
    address: AddressState,
    /// A first IPv4 address that is being checked, or that somebody else has and that is tried again later.
    pending: Option<Pending>,
    secondary: Vec<Secondary>,
    /// Configured ones, beside those that come with the first address.
    routes: Vec<Route>,
    /// What was asked for, to see what another configuration changes.
    configured: Configured,
    device_mtu: u16,
    limits: Limits,
    failed: bool,
}

impl Stack {
    /// A stack with the usual [`Options`], that has not sent anything yet; DHCP starts with the first [`poll`](Stack::poll).
    pub fn new(config: Config, now: Instant) -> Result<Stack, Error> {
        Stack::with_options(config, Options::default(), now)
    }

    /// A stack that has not sent anything yet.
    pub fn with_options(config: Config, options: Options, now: Instant) -> Result<Stack, Error> {
        config.check()?;
        options.check()?;
        let Config { mac, mtu, addressing, hostname, seed, limits } = config;
        let Options { ipv6, secondary, routes, conflicts, address_secret, lease } = options;
        let configured =
            Configured { addressing: addressing.clone(), hostname: hostname.clone(), ipv6: ipv6.clone() };
        let mut random = Random::new(&seed);
        let mut network = Network {
            mac,
            mtu: usize::from(mtu),
            routing: None,
            searching: true,
            neighbors: Neighbors::new(limits.neighbors, random.keyed_state()),
            timers: Timers::default(),
            events: Events::new(random.keyed_state()),
            counters: Counters::default(),
            looped: Looped::default(),
            ipv6: Ipv6::new(&ipv6, address_secret, (mac, usize::from(mtu)), now, &mut random),
            groups: Groups::default(),
            conflicts,
            tenures: Vec::new(),
            path_mtus: PathMtus::new(random.keyed_state()),
            random,
        };
        let mut stack = Stack {
            tcp: Tcp::new(&limits, &mut network),
            udp: Udp::new(&limits, &mut network),
            icmp: Icmp::new(limits.pings, &mut network),
            reassembly: Reassembly::new(&limits, network.random.keyed_state()),
            dhcp: None,
            dhcp6: Dhcp6::new(),
            address: AddressState::Searching,
            pending: None,
            secondary: Vec::new(),
            routes,
            configured,
            device_mtu: mtu,
            limits,
            failed: false,
            network,
        };
        stack.network.start_ipv6(now);
        match addressing {
            Addressing::Static(address) => stack.use_static(now, address, AddressState::Static),
            Addressing::Dhcp { fallback, timeout } => {
                let fallback = fallback.map(|address| (address, timeout));
                stack.dhcp = Some(Dhcp::new(now, hostname, (fallback, lease), &mut stack.network));
            }
        }
        if !secondary.is_empty() {
            stack.set_secondary(now, &secondary);
        }
        Ok(stack)
    }

    /// Runs due timers and sends what is pending; true when something was sent. The cost depends on what is due and on which flows
    /// have something to do, not on how many there are.
    pub fn poll<E: Egress>(&mut self, now: Instant, egress: &mut E) -> bool {
        if self.failed {
            return false;
        }
        self.network.ipv6.clock = now;
        let sent_before = self.network.counters.frames_sent;
        while let Some((deadline, timer)) = self.network.timers.expired(now) {
            self.handle_timer(now, deadline, timer, egress);
        }
        self.tcp.poll(now, &mut self.network, egress);
        for _ in 0..LOOP_ROUNDS_MAX {
            if self.network.looped.is_empty() {
                break;
            }
            self.deliver_looped(now, egress);
            self.tcp.poll(now, &mut self.network, egress);
        }
        self.network.counters.frames_sent != sent_before
    }

    fn handle_timer<E: Egress>(&mut self, now: Instant, deadline: Instant, timer: Timer, egress: &mut E) {
        let network = &mut self.network;
        match timer {
            Timer::Flow(id) => self.tcp.timer_expired(now, id, deadline, network),
            Timer::Ping(id) => self.icmp.pings.timer_expired(id, deadline, network),
            Timer::Neighbor(target) => {
                for packet in network.neighbor_expired(now, target, deadline, egress) {
                    if let Some(quote) = Quote::parse(&packet) {
                        // Nobody else knows: we are the ones who say so.
                        let offender = quote.source;
                        self.handle_report(&Report { quote, error: IcmpError::HostUnreachable, offender });
                    }
                }
            }
            Timer::Dhcp => {
                if let Some(dhcp) = &mut self.dhcp {
                    let change = dhcp.timer_expired(now, deadline, network, egress);
                    self.apply(now, change);
                }
            }
            Timer::Ipv6 => {
                if network.ipv6_timer(now, deadline, egress) {
                    self.tcp.address_changed(network);
                }
            }
            Timer::Dhcp6 => self.dhcp6.timer_expired(now, deadline, network, egress),
            Timer::Groups => network.groups_timer(now, deadline, egress),
            Timer::Claim(address) => {
                if network.claim_timer(now, (address, deadline), egress) {
                    self.address_free(address);
                }
            }
            Timer::Retry => self.retry_addresses(now),
            Timer::Reassembly(serial) => self.reassembly_expired(now, serial, egress),
        }
    }

    /// When [`poll`](Stack::poll) should run next, if nothing else happens; a point that has passed means now. With a full transmit
    /// queue it stays "now": waiting for the device is then up to the caller.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.tcp.has_work() || !self.network.looped.is_empty() {
            return Some(Instant::ZERO);
        }
        self.network.timers.next_deadline()
    }

    /// The next thing that changed. Each is in the queue at most once until taken.
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.network.events.pop()
    }

    /// Every socket: connections in any state, listeners, UDP.
    pub fn sockets(&self) -> impl Iterator<Item = SocketInfo> {
        let any = self.network.any_address();
        let flows = self.tcp.iter().map(|(id, stage, status)| SocketInfo {
            id: id.as_u64(),
            kind: "tcp",
            local: status.local,
            remote: Some(status.remote),
            state: format!("{:?}", status.state),
            stage,
            readable: status.readable,
        });
        let bound =
            move |id, kind, (address, port): (Option<IpAddr>, u16), state: &str, readable| SocketInfo {
                id,
                kind,
                local: (address.unwrap_or(any), port).into(),
                remote: None,
                state: state.to_owned(),
                stage: "owned",
                readable,
            };
        let listeners = self.tcp.listeners().map(move |(id, address, port)| {
            bound(id.as_u64(), "tcp-listener", (address, port), "listening", 0)
        });
        let udp = self.udp.iter().map(move |(id, SocketView { address, port, queued_bytes, peer })| {
            let state = if peer.is_some() { "connected" } else { "bound" };
            SocketInfo { remote: peer, ..bound(id.as_u64(), "udp", (address, port), state, queued_bytes) }
        });
        flows.chain(listeners).chain(udp)
    }

    /// The tables with a bound, as they are filled.
    #[must_use]
    pub fn tables(&self) -> Vec<TableInfo> {
        let limits = &self.limits;
        let counters = &self.network.counters;
        let table = |name, used, limit, refused| TableInfo { name, used, limit, refused };
        let (flows, flows_max, pending) = self.tcp.usage();
        let closing = self.tcp.closing_by_owner().values().sum();
        let (listeners, _) = self.tcp.listener_usage();
        let (udp_sockets, _) = self.udp.usage();
        let (neighbors, _) = self.network.neighbors.usage();
        let (fragments, fragment_bytes) = self.reassembly.usage();
        vec![
            table("connections", flows, flows_max, counters.drop_tcp_flows_full),
            table("closing", closing, limits.closing, counters.tcp_closing_cut),
            table("pending", pending, limits.pending, counters.drop_tcp_pending_full),
            table("listeners", listeners, limits.listeners, 0),
            table("udp_sockets", udp_sockets, limits.udp_sockets, 0),
            table("pings", self.icmp.pings.len(), limits.pings, 0),
            table("neighbors", neighbors, limits.neighbors, counters.neighbors_evicted),
            table("fragments", fragments, limits.fragments, counters.drop_fragment_table_full),
            table("fragment_bytes", fragment_bytes, limits.fragment_bytes, counters.drop_fragment_table_full),
        ]
    }

    /// The neighbour table.
    pub fn neighbors(&self) -> impl Iterator<Item = NeighborInfo> {
        self.network.neighbors.iter()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.network.counters
    }

    /// Raises [`Limits::flows`](crate::Limits::flows) above what the stack was made with, or lowers it to that again. Connections that
    /// are there stay, also beyond it.
    pub fn set_flows_max(&mut self, flows: usize) {
        self.tcp.set_flows_max(flows.max(self.limits.flows));
    }

    /// The device is gone: every connection ends with [`Outcome::DeviceUnavailable`](crate::Outcome::DeviceUnavailable), every
    /// call that needs a device fails from now on, and no frame is taken or sent any more.
    pub fn fail_all(&mut self) {
        self.failed = true;
        self.tcp.fail_all(&mut self.network);
        self.udp.fail_all(&mut self.network);
        self.icmp.pings.fail_all(&mut self.network);
        self.network.set_routing(None);
        self.network.searching = true;
        self.network.events.push(Ready::Lease);
        self.network.tenures.clear();
        self.network.ipv6.disable();
        self.dhcp = None;
        self.dhcp6 = Dhcp6::new();
        self.address = AddressState::Searching;
        self.pending = None;
        self.secondary.clear();
    }

    #[cfg(test)]
    pub(crate) fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    #[cfg(test)]
    pub(crate) fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }
}
