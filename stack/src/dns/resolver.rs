//! The resolver: lookups on one side, exchanges on the other, the cache between them.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::cache::Cache;
use super::error::Error;
use super::exchange;
use super::finding::{Finding, Outcome, Question, seconds};
use super::hosts::Hosts;
use super::local;
use super::mdns;
use super::name::Name;
use super::query::{Lookup, Step, candidates, order_services};
use super::server::Servers;
use super::shared::Shared;
use super::statistics::Statistics;
use super::types::{
    Answer, Config, Kind, Limits, Mdns, Query, QueryId, SocketKey, Source, TcpEvent, Transmit,
};
use crate::random::Random;
use crate::time::Instant;

/// Domains of the search list that are used: each may cost a round trip (glibc had six for decades).
pub const SEARCH_MAX: usize = 8;
/// The longest that a query is under way, with all its candidates, aliases and servers: nobody waits longer for a name.
const QUERY_SECONDS_MAX: u64 = 30;

/// A stub resolver without I/O. The order of calls stands in the [module's documentation](super).
pub struct Resolver {
    shared: Shared,
    cache: Cache,
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
    mdns: Mdns,
    limits: Limits,
    lookups: BTreeMap<QueryId, Lookup>,
    exchanges: BTreeMap<u64, Running>,
    by_question: BTreeMap<Question, u64>,
    timers: BTreeSet<(Instant, Timer)>,
    results: VecDeque<(QueryId, Result<Answer, Error>)>,
    queries_made: u64,
    exchanges_made: u64,
    is_down: bool,
}

/// An exchange, and the lookups that wait for it. There are at most two for each lookup, so they need no limit of their own.
struct Running {
    question: Question,
    machine: Machine,
    waiting: Vec<QueryId>,
    armed: Option<Instant>,
}

#[expect(clippy::large_enum_variant, reason = "the large one is the common one")]
enum Machine {
    Servers(exchange::Exchange),
    Link(mdns::Exchange),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Query(QueryId),
    Exchange(u64),
}

/// What is in use of the [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Queries under way, with those whose result was not fetched.
    pub queries: usize,
    /// Questions on the wire.
    pub questions: usize,
    /// Entries of the cache.
    pub cache_entries: usize,
    /// Bytes of the cache.
    pub cache_bytes: usize,
}

impl Resolver {
    /// A resolver that knows nothing yet. `seed` is secret: ids and the case of letters come from it.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32]) -> Resolver {
        let Config { servers, search, ndots, timeout, attempts, rotate, hosts, mdns, limits } = config;
        let mut resolver = Resolver {
            shared: Shared {
                servers: Servers::new(&servers, rotate),
                random: Random::new(&seed),
                statistics: Statistics::default(),
                transmits: VecDeque::new(),
                // A server that has no time at all would never answer.
                timeout: timeout.max(Duration::from_millis(1)),
                attempts,
            },
            cache: Cache::new(limits),
            hosts,
            search: Vec::new(),
            ndots,
            mdns,
            limits,
            lookups: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            by_question: BTreeMap::new(),
            timers: BTreeSet::new(),
            results: VecDeque::new(),
            queries_made: 0,
            exchanges_made: 0,
            is_down: false,
        };
        resolver.set_search(search);
        resolver
    }

    /// Begins a query. Its result comes by [`Resolver::next_result`], perhaps at once.
    ///
    /// # Errors
    /// The name is none, there are too many queries, or the device is gone.
    pub fn start(&mut self, now: Instant, query: &Query) -> Result<QueryId, Error> {
        if self.is_down {
            return Err(Error::DeviceUnavailable);
        }
        if self.lookups.len() + self.results.len() >= self.limits.queries {
            return Err(Error::QuotaExceeded { limit: self.limits.queries });
        }
        let literal: Option<IpAddr> = query.name.parse().ok();
        let (name, absolute) = match (literal, query.kind) {
            (Some(address), Kind::Ptr) => (Name::reverse(address), true),
            _ => Name::parse(&query.name)?,
        };
        self.queries_made += 1;
        self.shared.statistics.queries += 1;
        let id = QueryId(self.queries_made);
        if let (Some(address), false) = (literal, query.kind == Kind::Ptr) {
            self.finish(id, literal_answer(name, address, query.kind));
            return Ok(id);
        }
        // A name that is known here as it is needs no search list.
        let known = local::answer(&Question { name: name.clone(), kind: query.kind }, &self.hosts);
        let is_known = known.is_some_and(|(finding, _)| matches!(finding.outcome, Outcome::Records(_)));
        let candidates = candidates(&name, absolute || is_known, &self.search, self.ndots);
        let deadline = now + Duration::from_secs(QUERY_SECONDS_MAX);
        self.timers.insert((deadline, Timer::Query(id)));
        self.lookups.insert(id, Lookup::new(name, query.kind, self.mdns, candidates, deadline));
        self.drive(now, id);
        Ok(id)
    }

    /// Forgets a query: its result will not come. An unknown id is ignored.
    pub fn cancel(&mut self, id: QueryId) {
        if let Some(lookup) = self.take(id) {
            self.leave(id, &lookup);
            self.shared.statistics.queries_cancelled += 1;
        }
        self.results.retain(|(finished, _)| *finished != id);
    }

    /// What the driver is to do next; call until `None`, after every other call.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.transmits.pop_front()
    }

    /// When [`Resolver::poll`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant) {
        while let Some(&(deadline, timer)) = self.timers.first() {
            if deadline > now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Query(id) => self.give_up(now, id),
                Timer::Exchange(id) => self.with_exchange(now, id, |machine, shared| match machine {
                    Machine::Servers(exchange) => exchange.expire(now, shared),
                    Machine::Link(exchange) => exchange.expire(now, shared),
                }),
            }
        }
    }

    /// A finished query.
    pub fn next_result(&mut self) -> Option<(QueryId, Result<Answer, Error>)> {
        self.results.pop_front()
    }

    /// A datagram arrived on the socket `key`. For [`Transmit::Multicast`] sockets the driver passes on only what comes from
    /// the link itself (RFC 6762, 11).
    pub fn handle_udp(&mut self, now: Instant, key: SocketKey, from: SocketAddr, bytes: &[u8]) {
        self.with_exchange(now, key.exchange, |machine, shared| match machine {
            Machine::Servers(exchange) => exchange.handle_udp(now, shared, key, from, bytes),
            Machine::Link(exchange) => {
                exchange.handle_udp(now, shared, key, from, bytes);
                None
            }
        });
    }

    /// The datagram of socket `key` could not be sent, or an ICMP error about it came back.
    pub fn handle_udp_error(&mut self, now: Instant, key: SocketKey) {
        self.with_exchange(now, key.exchange, |machine, shared| match machine {
            Machine::Servers(exchange) => exchange.handle_udp_error(now, shared, key),
            Machine::Link(_) => {
                // The other group, or the next transmission, may do better; else the time runs out.
                shared.statistics.transport_failures += 1;
                None
            }
        });
    }

    /// Something happened on the connection `key`.
    pub fn handle_tcp(&mut self, now: Instant, key: SocketKey, event: TcpEvent<'_>) {
        self.with_exchange(now, key.exchange, |machine, shared| match machine {
            Machine::Servers(exchange) => exchange.handle_tcp(now, shared, key, event),
            Machine::Link(_) => {
                shared.statistics.drop_socket += 1;
                None
            }
        });
    }

    /// Takes the servers of a new lease or router advertisement. If they are others than before, what the old ones said is
    /// forgotten, and what is under way begins anew.
    pub fn set_servers(&mut self, now: Instant, servers: &[SocketAddr]) {
        if !self.shared.servers.replace(servers) {
            return;
        }
        self.cache.clear();
        let running: Vec<u64> = self.exchanges.keys().copied().collect();
        for id in running {
            self.with_exchange(now, id, |machine, shared| match machine {
                Machine::Servers(exchange) => exchange.start(now, shared),
                Machine::Link(_) => None,
            });
        }
    }

    /// Takes another search list, for queries that begin from now on.
    pub fn set_search(&mut self, mut search: Vec<Name>) {
        search.truncate(SEARCH_MAX);
        self.search = search;
    }

    /// Takes another hosts file, for questions from now on.
    pub fn set_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// Empties the cache.
    pub fn flush(&mut self) {
        self.cache.clear();
    }

    /// The device is gone: every query ends with [`Error::DeviceUnavailable`], and so will all to come.
    pub fn shut_down(&mut self) {
        self.is_down = true;
        while let Some((&id, _)) = self.lookups.first_key_value() {
            if let Some(lookup) = self.take(id) {
                self.leave(id, &lookup);
                self.finish(id, Err(Error::DeviceUnavailable));
            }
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            queries: self.lookups.len() + self.results.len(),
            questions: self.exchanges.len(),
            cache_entries: self.cache.len(),
            cache_bytes: self.cache.bytes(),
        }
    }

    /// Brings a lookup as far as it gets.
    fn drive(&mut self, now: Instant, id: QueryId) {
        while let Some(lookup) = self.lookups.get_mut(&id) {
            match lookup.step() {
                Step::Wait => {
                    if let Some(later) = lookup.hurry(now) {
                        self.timers.remove(&(later, Timer::Query(id)));
                        self.timers.insert((lookup.deadline, Timer::Query(id)));
                    }
                    return;
                }
                Step::Ask(question) => self.ask(now, id, &question),
                Step::Finish(result) => {
                    self.take(id);
                    self.finish(id, result);
                }
            }
        }
    }

    fn ask(&mut self, now: Instant, id: QueryId, question: &Question) {
        let statistics = &mut self.shared.statistics;
        let known = if let Some((finding, source)) = local::answer(question, &self.hosts) {
            statistics.answered_locally += 1;
            Some((Arc::new(finding), Duration::ZERO, source))
        } else if let Some((finding, left)) = self.cache.get(now, question) {
            statistics.cache_hits += 1;
            Some((finding, left, Source::Cache))
        } else if let Some(running) =
            self.by_question.get(question).and_then(|exchange| self.exchanges.get_mut(exchange))
        {
            statistics.questions_joined += 1;
            running.waiting.push(id);
            None
        } else {
            statistics.cache_misses += 1;
            self.open(now, id, question).map(|finding| (Arc::new(finding), Duration::ZERO, Source::Literal))
        };
        if let (Some((finding, ttl, source)), Some(lookup)) = (known, self.lookups.get_mut(&id)) {
            lookup.settle(question, &finding, ttl, source);
        }
    }

    /// Opens an exchange for which `id` waits; returns the finding if it ends at once.
    fn open(&mut self, now: Instant, id: QueryId, question: &Question) -> Option<Finding> {
        let exchange = self.exchanges_made;
        self.exchanges_made += 1;
        let is_multicast = (self.mdns.ipv4 || self.mdns.ipv6) && local::is_link_local(&question.name);
        let machine = if is_multicast {
            let started = mdns::Exchange::start(now, &mut self.shared, exchange, question.clone(), self.mdns);
            Machine::Link(started)
        } else {
            let mut machine = exchange::Exchange::new(exchange, question.clone());
            if let Some(finding) = machine.start(now, &mut self.shared) {
                return Some(finding);
            }
            Machine::Servers(machine)
        };
        let running = Running { question: question.clone(), machine, waiting: vec![id], armed: None };
        self.exchanges.insert(exchange, running);
        self.by_question.insert(question.clone(), exchange);
        self.rearm(exchange);
        None
    }

    /// Lets an exchange handle an event, and does what follows from it.
    fn with_exchange(
        &mut self,
        now: Instant,
        id: u64,
        event: impl FnOnce(&mut Machine, &mut Shared) -> Option<Finding>,
    ) {
        let Some(running) = self.exchanges.get_mut(&id) else {
            self.shared.statistics.drop_socket += 1;
            return;
        };
        let Some(finding) = event(&mut running.machine, &mut self.shared) else {
            self.rearm(id);
            return;
        };
        let Some(Running { question, machine, waiting, armed: _ }) = self.close(id) else { return };
        let source = match machine {
            Machine::Servers(exchange) => exchange.server().map_or(Source::Literal, Source::Server),
            Machine::Link(_) => Source::Multicast,
        };
        let finding = Arc::new(finding);
        self.shared.statistics.cache_evictions += self.cache.insert(now, &question, &finding);
        for id in waiting {
            if let Some(lookup) = self.lookups.get_mut(&id) {
                lookup.settle(&question, &finding, seconds(finding.ttl), source);
                self.drive(now, id);
            }
        }
    }

    /// Makes the exchange's timer that of its deadline.
    fn rearm(&mut self, id: u64) {
        let Some(running) = self.exchanges.get_mut(&id) else { return };
        let deadline = match &running.machine {
            Machine::Servers(exchange) => exchange.deadline(),
            Machine::Link(exchange) => Some(exchange.deadline()),
        };
        if let Some(old) = core::mem::replace(&mut running.armed, deadline) {
            self.timers.remove(&(old, Timer::Exchange(id)));
        }
        if let Some(deadline) = deadline {
            self.timers.insert((deadline, Timer::Exchange(id)));
        }
    }

    /// Takes an exchange out, with its sockets and its timer.
    fn close(&mut self, id: u64) -> Option<Running> {
        let mut running = self.exchanges.remove(&id)?;
        self.by_question.remove(&running.question);
        if let Some(armed) = running.armed {
            self.timers.remove(&(armed, Timer::Exchange(id)));
        }
        match &mut running.machine {
            Machine::Servers(exchange) => exchange.close(&mut self.shared),
            Machine::Link(exchange) => exchange.close(&mut self.shared),
        }
        Some(running)
    }

    /// Takes a lookup out, with its timer.
    fn take(&mut self, id: QueryId) -> Option<Lookup> {
        let lookup = self.lookups.remove(&id)?;
        self.timers.remove(&(lookup.deadline, Timer::Query(id)));
        Some(lookup)
    }

    /// `lookup` no longer waits for its exchanges; those for which nobody waits end.
    fn leave(&mut self, id: QueryId, lookup: &Lookup) {
        for question in lookup.questions() {
            let Some(&exchange) = self.by_question.get(question) else { continue };
            let Some(running) = self.exchanges.get_mut(&exchange) else { continue };
            running.waiting.retain(|waiting| *waiting != id);
            if running.waiting.is_empty() {
                self.close(exchange);
            }
        }
    }

    /// A lookup's time is over. Its open questions count as failed, so that the next lookup does not wait as long for them.
    fn give_up(&mut self, now: Instant, id: QueryId) {
        if let Some(mut lookup) = self.take(id) {
            for question in lookup.questions() {
                let failed = Finding::failed(Error::TimedOut { name: question.name.clone() });
                self.shared.statistics.cache_evictions += self.cache.insert(now, question, &Arc::new(failed));
            }
            self.leave(id, &lookup);
            self.finish(id, lookup.expire());
        }
    }

    fn finish(&mut self, id: QueryId, mut result: Result<Answer, Error>) {
        match &mut result {
            Ok(answer) => {
                self.shared.statistics.queries_answered += 1;
                if matches!(answer.records.first(), Some(super::types::Data::Srv { .. })) {
                    order_services(&mut answer.records, &mut self.shared.random);
                }
            }
            Err(_) => self.shared.statistics.queries_failed += 1,
        }
        self.results.push_back((id, result));
    }
}

/// An address asked for as a name.
fn literal_answer(name: Name, address: IpAddr, kind: Kind) -> Result<Answer, Error> {
    match local::addresses(&[address], kind) {
        Outcome::Records(records) => Ok(Answer {
            name,
            aliases: Vec::new(),
            records,
            ttl: Duration::ZERO,
            source: Source::Literal,
            incomplete: false,
        }),
        _ => Err(Error::NoData { name, kind }),
    }
}
