//! Names: drives the stack's resolver over sockets of the same stack, and answers the clients' `Resolve`.
//!
//! The resolver says which sockets it wants ([`Transmit`]); here they are opened in the stack, and what comes back is handed
//! to it. They are netd's own sockets: no client sees them, and how many there are is bounded by the resolver's queries.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use netd_ipc::{ErrorKind, Resolved, Service};
use netd_policy::HostName;
use netd_stack::dns::{
    Answer, Data, Error, Kind, Name, Query, QueryId, Resolver, SocketKey, Source, Statistics, TcpEvent,
    Transmit, Usage,
};
use netd_stack::{Egress, FlowId, Instant, Ready, Stack, UdpId};

use crate::command::{Failure, Reply};
use crate::config::Dns;
use crate::worker::clients::Completions;

/// Where servers listen.
const PORT: u16 = 53;
/// Hop limit of multicast DNS (RFC 6762, 11).
const MULTICAST_TTL: u8 = 255;

/// Users whose refused names are counted apart.
const REFUSED_USERS_MAX: usize = 1024;

/// A connection to a server.
struct Connection {
    flow: FlowId,
    /// Not yet written: the query, until the connection is established.
    unsent: Vec<u8>,
}

/// Whose query it is.
#[derive(Debug, Clone, Copy)]
struct Caller {
    /// The call.
    token: u64,
    uid: u32,
    /// It wants a connection: the addresses are for whoever dials them.
    connects: bool,
}

/// What became of the name of a call that wants a connection: its addresses, in the order to try them.
pub(super) type Found = (u64, Result<Vec<IpAddr>, Failure>);

/// The resolver with its sockets and callers.
pub(super) struct Names {
    resolver: Resolver,
    /// Configured servers and search list; without them the lease's are used.
    config: Dns,
    /// The call of each query, and whose it is.
    callers: HashMap<QueryId, Caller>,
    /// For those that want connections.
    found: VecDeque<Found>,
    /// How often each user had too many, for those who had lately.
    refused: HashMap<u32, u64>,
    refused_overall: u64,
    udp: HashMap<SocketKey, UdpId>,
    udp_keys: HashMap<UdpId, SocketKey>,
    tcp: HashMap<SocketKey, Connection>,
    tcp_keys: HashMap<FlowId, SocketKey>,
}

impl Names {
    /// A resolver for one life of a stack.
    pub(super) fn new(config: &Dns, seed: [u8; 32], now: Instant, stack: &Stack) -> Names {
        let mut resolver = Resolver::new(
            netd_stack::dns::Config {
                hosts: config.hosts.clone(),
                mdns: config.mdns,
                timeout: config.timeout,
                attempts: config.attempts,
                rotate: config.rotate,
                limits: config.limits,
                ..netd_stack::dns::Config::default()
            },
            seed,
        );
        resolver.set_search(config.search.clone());
        let mut names = Names {
            resolver,
            config: config.clone(),
            callers: HashMap::new(),
            found: VecDeque::new(),
            refused: HashMap::new(),
            refused_overall: 0,
            udp: HashMap::new(),
            udp_keys: HashMap::new(),
            tcp: HashMap::new(),
            tcp_keys: HashMap::new(),
        };
        names.network_changed(now, stack);
        names
    }

    /// Takes other servers, another search list and other hosts; the bounds stay.
    pub(super) fn reconfigure(&mut self, now: Instant, config: &Dns, stack: &Stack) {
        self.config = config.clone();
        self.resolver.set_hosts(config.hosts.clone());
        self.resolver.set_search(config.search.clone());
        self.network_changed(now, stack);
    }

    /// What the resolver did, and what is in use of its bounds.
    pub(super) fn report(&self) -> (&Statistics, Usage) {
        (self.resolver.statistics(), self.resolver.usage())
    }

    /// How many names each user has under way, and how often one more was refused.
    pub(super) fn of_user(&self, uid: u32) -> (usize, u64) {
        let under_way = self.callers.values().filter(|caller| caller.uid == uid).count();
        (under_way, self.refused.get(&uid).copied().unwrap_or(0))
    }

    /// How often a name was refused because there were enough.
    pub(super) fn refused(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.refused_overall
    }

    /// The network named other servers or domains, which count unless the configuration has its own.
    pub(super) fn network_changed(&mut self, now: Instant, stack: &Stack) {
        let servers = match self.config.servers.is_empty() {
            true => stack.name_servers(),
            false => self.config.servers.clone(),
        };
        let servers: Vec<SocketAddr> = servers.into_iter().map(|ip| (ip, PORT).into()).collect();
        self.resolver.set_servers(now, &servers);
        if self.config.search.is_empty() {
            let domains = stack.search_domains();
            // A domain that a server sent and that is no name is as good as not sent.
            let names = domains.iter().filter_map(|domain| Name::parse(domain).ok()).map(|(name, _)| name);
            self.resolver.set_search(names.collect());
        }
    }

    /// Begins to resolve for the call `token` of user `uid`.
    pub(super) fn start(
        &mut self,
        now: Instant,
        (token, uid): (u64, u32),
        query: &Query,
        completions: &Completions,
    ) {
        if let Err(failure) = self.ask(now, Caller { token, uid, connects: false }, query) {
            completions.send(token, failure.into());
        }
    }

    /// Begins to find the addresses of a name that the call `token` of user `uid` wants to connect to: see [`next_found`](Self::next_found).
    pub(super) fn find(&mut self, now: Instant, (token, uid): (u64, u32), name: &HostName) {
        // What a rule names is that name and nothing below a search domain; a single label is nothing without one (RFC 1123, 6.1.4.3).
        let name = if name.as_str().contains('.') { format!("{name}.") } else { name.to_string() };
        let query = Query { name, kind: Kind::Addresses };
        if let Err(failure) = self.ask(now, Caller { token, uid, connects: true }, &query) {
            self.found.push_back((token, Err(failure)));
        }
    }

    /// What became of a name.
    pub(super) fn next_found(&mut self) -> Option<Found> {
        self.found.pop_front()
    }

    fn ask(&mut self, now: Instant, caller: Caller, query: &Query) -> Result<(), Failure> {
        let uid = caller.uid;
        let most = self.config.queries_per_user;
        if self.of_user(uid).0 >= most {
            if self.refused.len() < REFUSED_USERS_MAX || self.refused.contains_key(&uid) {
                *self.refused.entry(uid).or_default() += 1;
            }
            let message = format!(
                "user {uid} has {most} names being resolved, the most that '[dns] queries_per_user' allows"
            );
            return Err(Failure(ErrorKind::QuotaExceeded, message));
        }
        match self.resolver.start(now, query) {
            Ok(id) => {
                self.callers.insert(id, caller);
                Ok(())
            }
            Err(error) => {
                self.refused_overall += u64::from(matches!(error, Error::QuotaExceeded { .. }));
                Err(failure(&error))
            }
        }
    }

    /// The client of the call is gone.
    pub(super) fn cancel(&mut self, token: u64) {
        let id = self.callers.iter().find(|(_, caller)| caller.token == token).map(|(id, _)| *id);
        if let Some(id) = id {
            self.callers.remove(&id);
            self.resolver.cancel(id);
        }
    }

    /// The device went away: every caller is told, but for those that want connections, who are the clients' business.
    pub(super) fn fail_all(&mut self, reason: &str, completions: &Completions) {
        for Caller { token, .. } in
            self.callers.drain().map(|(_, caller)| caller).filter(|caller| !caller.connects)
        {
            completions.send(token, Reply::Failed(ErrorKind::DeviceUnavailable, reason.to_owned()));
        }
    }

    /// When [`drive`](Self::drive) has something to do by itself.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.resolver.poll_timeout()
    }

    /// Takes news about a socket of its own; false if it is a client's.
    pub(super) fn on_ready(&mut self, now: Instant, stack: &mut Stack, ready: Ready) -> bool {
        match ready {
            Ready::Udp(udp) => match self.udp_keys.get(&udp) {
                Some(key) => self.receive(now, stack, *key, udp),
                None => return false,
            },
            Ready::Flow(flow) => match self.tcp_keys.get(&flow) {
                Some(key) => self.progress(now, stack, *key),
                None => return false,
            },
            Ready::Listener(_) | Ready::Ping(_) | Ready::Lease | Ready::Addresses => return false,
        }
        true
    }

    fn receive(&mut self, now: Instant, stack: &mut Stack, key: SocketKey, udp: UdpId) {
        while stack.udp_error(udp).is_some() {
            self.resolver.handle_udp_error(now, key);
        }
        while let Ok(true) = stack.udp_receive(udp, |meta, payload| {
            self.resolver.handle_udp(now, key, meta.from, payload);
            true
        }) {}
    }

    fn progress(&mut self, now: Instant, stack: &mut Stack, key: SocketKey) {
        let Some(Connection { flow, unsent }) = self.tcp.get_mut(&key) else { return };
        let flow = *flow;
        let sent = stack.tcp_send(flow, |room| {
            let count = unsent.len().min(room.len());
            room[..count].copy_from_slice(&unsent[..count]);
            count
        });
        unsent.drain(..sent.unwrap_or(0));
        let mut bytes = Vec::new();
        while let Ok(1..) = stack.tcp_receive(flow, |part| {
            bytes.extend_from_slice(part);
            part.len()
        }) {}
        if !bytes.is_empty() {
            self.resolver.handle_tcp(now, key, TcpEvent::Bytes(&bytes));
        }
        match stack.tcp_status(flow) {
            Ok(status) if status.receive_finished => self.resolver.handle_tcp(now, key, TcpEvent::Closed),
            Ok(status) if status.closed.is_none() => {}
            _ => self.resolver.handle_tcp(now, key, TcpEvent::Failed),
        }
    }

    /// Does what the resolver wants, and answers whoever waited for it. True if there was anything to do.
    pub(super) fn drive<E: Egress>(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        egress: &mut E,
        completions: &Completions,
    ) -> bool {
        let mut worked = false;
        if self.resolver.poll_timeout().is_some_and(|due| due <= now) {
            self.resolver.poll(now);
        }
        while let Some(transmit) = self.resolver.poll_transmit() {
            worked = true;
            self.transmit(now, stack, egress, transmit);
        }
        while let Some((id, result)) = self.resolver.next_result() {
            worked = true;
            // Not found: cancelled.
            let Some(Caller { token, connects, .. }) = self.callers.remove(&id) else { continue };
            match result {
                Ok(answer) if connects => self.found.push_back((token, Ok(answer.addresses().collect()))),
                Err(error) if connects => self.found.push_back((token, Err(failure(&error)))),
                Ok(answer) => completions.send(token, Reply::Resolved(Box::new(resolved(answer)))),
                Err(error) => completions.send(token, failure(&error).into()),
            }
        }
        worked
    }

    fn transmit<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E, transmit: Transmit) {
        match transmit {
            Transmit::Udp { socket, server, payload } => {
                self.send(now, (stack, egress), socket, server, None, &payload);
            }
            Transmit::Multicast { socket, group, payload } => {
                self.send(now, (stack, egress), socket, group, Some(MULTICAST_TTL), &payload);
            }
            Transmit::Tcp { socket, server, payload } => match stack.tcp_connect(now, server) {
                Ok(flow) => {
                    self.tcp.insert(socket, Connection { flow, unsent: payload });
                    self.tcp_keys.insert(flow, socket);
                }
                Err(_) => self.resolver.handle_tcp(now, socket, TcpEvent::Failed),
            },
            Transmit::Close { socket } => {
                if let Some(udp) = self.udp.remove(&socket) {
                    self.udp_keys.remove(&udp);
                    stack.udp_close(udp);
                }
                if let Some(Connection { flow, .. }) = self.tcp.remove(&socket) {
                    self.tcp_keys.remove(&flow);
                    // In order: a reset would tell a server that answered of a failure (RFC 7766, 6.2.3).
                    stack.tcp_release(now, flow);
                }
            }
        }
    }

    fn send<E: Egress>(
        &mut self,
        now: Instant,
        (stack, egress): (&mut Stack, &mut E),
        key: SocketKey,
        to: SocketAddr,
        ttl: Option<u8>,
        payload: &[u8],
    ) {
        let udp = match self.udp.get(&key) {
            Some(udp) => Ok(*udp),
            None => stack.udp_bind(None).map(|(udp, _)| {
                self.udp.insert(key, udp);
                self.udp_keys.insert(udp, key);
                udp
            }),
        };
        let sent = udp.and_then(|udp| stack.udp_send(now, udp, to, ttl, payload, egress));
        // A full queue looks like loss, which the resolver knows how to deal with.
        if sent.is_err_and(|error| error != netd_stack::Error::NoBuffers) {
            self.resolver.handle_udp_error(now, key);
        }
    }
}

fn resolved(answer: Answer) -> Resolved {
    let mut resolved = Resolved {
        name: answer.name.to_string(),
        aliases: answer.aliases.iter().map(ToString::to_string).collect(),
        addresses: answer.addresses().collect(),
        names: Vec::new(),
        services: Vec::new(),
        texts: Vec::new(),
        strings: Vec::new(),
        ttl_seconds: answer.ttl.as_secs(),
        source: match answer.source {
            Source::Literal => "literal".to_owned(),
            Source::Hosts => "hosts".to_owned(),
            Source::Cache => "cache".to_owned(),
            Source::Server(server) => server.ip().to_string(),
            Source::Multicast => "multicast".to_owned(),
        },
        incomplete: answer.incomplete,
    };
    for record in answer.records {
        match record {
            Data::A(_) | Data::Aaaa(_) => {}
            Data::Cname(name) | Data::Ptr(name) => resolved.names.push(name.to_string()),
            Data::Srv { priority, weight, port, target } => {
                resolved.services.push(Service { priority, weight, port, target: target.to_string() });
            }
            Data::Txt(parts) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                resolved.strings.extend(parts.iter().map(|part| text(part)));
                resolved.texts.push(text(&parts.concat()));
            }
        }
    }
    resolved
}

fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::InvalidName(_) => ErrorKind::InvalidInput,
        Error::QuotaExceeded { .. } => ErrorKind::NoBufs,
        Error::NoSuchName { .. } | Error::NoData { .. } => ErrorKind::NotFound,
        Error::TimedOut { .. } => ErrorKind::TimedOut,
        Error::NoServers => ErrorKind::Unreachable,
        _ => ErrorKind::Unreachable,
    };
    Failure(kind, error.to_string())
}
