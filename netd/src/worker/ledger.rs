//! The ledger: what each user has of the worker's sockets, memory and rates, and what it may have.
//!
//! Memory is reckoned by what a socket can take at the very most, when it is made: the stack's buffers and those of the
//! kernel on both ends of the descriptor. So a user that stays within its bound can never exceed it later by not reading.

use std::collections::HashMap;
use std::fmt;

use netd_ipc::{ClientUse, TotalUse, Use};
use netd_policy::{Quotas, Resource, Subject};
use netd_stack::Instant;
use netd_time::Bucket;

use crate::limits::{ClientLimits, Limits};
use crate::worker::shares::Shares;

/// Users remembered that have nothing: for people who look at `netctl clients`, and small.
const IDLE_ACCOUNTS_MAX: usize = 1024;

/// A bound that is reached: the sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// One that holds for each user, or for all of them.
    Limit(Limit),
    /// A quota.
    Quota(String),
}

/// A bound of `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    uid: u32,
    what: &'static str,
    key: &'static str,
    limit: u64,
    everybody: bool,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { uid, what, key, limit, everybody } = match self {
            Exceeded::Limit(limit) => limit,
            Exceeded::Quota(message) => return f.write_str(message),
        };
        match everybody {
            true => {
                write!(f, "all users together have {limit} {what}, the most that '[limits] {key}' allows")
            }
            false => write!(f, "user {uid} has {limit} {what}, the most that '[limits.client] {key}' allows"),
        }
    }
}

/// What somebody has, and how often more was refused.
#[derive(Debug, Clone, Copy, Default)]
struct Holdings {
    sockets: u32,
    memory_bytes: u64,
    captures: u32,
    refused_sockets: u64,
    refused_memory: u64,
    refused_captures: u64,
}

impl Holdings {
    fn is_nothing(&self) -> bool {
        self.sockets == 0 && self.captures == 0
    }
}

#[derive(Debug)]
struct Account {
    holdings: Holdings,
    connects: Bucket,
    packets: Bucket,
    refused_connects: u64,
    /// Times that a sender was made to wait.
    throttled: u64,
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    accounts: HashMap<u32, Account>,
    total: Holdings,
    shares: Shares,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Ledger {
        Ledger { limits, accounts: HashMap::new(), total: Holdings::default(), shares: Shares::default() }
    }

    /// Puts other limits in force. Who has more already keeps it.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        let ClientLimits { connects_per_second, packets_per_second, .. } = limits.client;
        for account in self.accounts.values_mut() {
            account.connects.set_rate(connects_per_second, connects_per_second);
            account.packets.set_rate(packets_per_second, packets_per_second);
        }
    }

    /// Puts other quotas in force.
    pub(super) fn set_quotas(&mut self, quotas: Quotas) {
        self.shares.set_quotas(quotas);
    }

    /// Charges one socket that can take this much memory.
    pub(super) fn reserve(&mut self, owner: &Subject, memory_bytes: u64) -> Result<(), Exceeded> {
        let uid = owner.uid;
        let Limits { sockets, client, .. } = self.limits;
        let memory_max = self.limits.memory_bytes();
        let total = &mut self.total;
        let account = account(&mut self.accounts, &self.limits, uid);
        let own = &mut account.holdings;
        let exceeded =
            |what, key, limit, everybody| Err(Exceeded::Limit(Limit { uid, what, key, limit, everybody }));
        if own.sockets >= client.sockets {
            own.refused_sockets += 1;
            return exceeded("sockets", "sockets", client.sockets.into(), false);
        }
        if own.memory_bytes + memory_bytes > client.memory_bytes() {
            own.refused_memory += 1;
            return exceeded("MiB of memory in its sockets", "memory_mib", client.memory_mib.into(), false);
        }
        if total.sockets >= sockets {
            total.refused_sockets += 1;
            return exceeded("sockets", "sockets", sockets.into(), true);
        }
        if total.memory_bytes + memory_bytes > memory_max {
            total.refused_memory += 1;
            return exceeded("MiB of memory in sockets", "memory_mib", self.limits.memory_mib.into(), true);
        }
        self.shares.reserve(owner, memory_bytes).map_err(Exceeded::Quota)?;
        for holdings in [own, total] {
            holdings.sockets += 1;
            holdings.memory_bytes += memory_bytes;
        }
        Ok(())
    }

    /// Gives back what [`reserve`](Self::reserve) charged.
    pub(super) fn release(&mut self, owner: &Subject, memory_bytes: u64) {
        self.shares.release(owner, memory_bytes);
        let uid = owner.uid;
        let own = self.accounts.get_mut(&uid).map(|account| &mut account.holdings);
        for holdings in own.into_iter().chain([&mut self.total]) {
            holdings.sockets = holdings.sockets.saturating_sub(1);
            holdings.memory_bytes = holdings.memory_bytes.saturating_sub(memory_bytes);
        }
        self.prune();
    }

    /// Charges one capture.
    pub(super) fn reserve_capture(&mut self, uid: u32) -> Result<(), Exceeded> {
        let Limits { captures, client, .. } = self.limits;
        let total = &mut self.total;
        let own = &mut account(&mut self.accounts, &self.limits, uid).holdings;
        let exceeded = |limit: u32, everybody| {
            let (what, key) = ("captures", "captures");
            Err(Exceeded::Limit(Limit { uid, what, key, limit: limit.into(), everybody }))
        };
        if own.captures >= client.captures {
            own.refused_captures += 1;
            return exceeded(client.captures, false);
        }
        if total.captures >= captures {
            total.refused_captures += 1;
            return exceeded(captures, true);
        }
        own.captures += 1;
        total.captures += 1;
        Ok(())
    }

    /// Gives a capture back.
    pub(super) fn release_capture(&mut self, uid: u32) {
        let own = self.accounts.get_mut(&uid).map(|account| &mut account.holdings);
        for holdings in own.into_iter().chain([&mut self.total]) {
            holdings.captures = holdings.captures.saturating_sub(1);
        }
    }

    /// Charges one new connection.
    pub(super) fn connect(&mut self, now: Instant, owner: &Subject) -> Result<(), Exceeded> {
        self.shares.connect(now, owner).map_err(Exceeded::Quota)?;
        let uid = owner.uid;
        let limit = self.limits.client.connects_per_second.into();
        let account = account(&mut self.accounts, &self.limits, uid);
        if account.connects.take(now) {
            return Ok(());
        }
        account.refused_connects += 1;
        let (what, key) = ("new connections in a second", "connects_per_second");
        Err(Exceeded::Limit(Limit { uid, what, key, limit, everybody: false }))
    }

    /// How many packets may be sent now; none also says when the next one may.
    pub(super) fn packets(&mut self, now: Instant, owner: &Subject) -> Result<u32, Instant> {
        let uid = owner.uid;
        let account = account(&mut self.accounts, &self.limits, uid);
        match account.packets.available(now) {
            0 => {
                account.throttled += 1;
                Err(account.packets.next())
            }
            count => self.shares.packets(now, owner, count),
        }
    }

    /// Charges packets that [`packets`](Self::packets) allowed.
    pub(super) fn spend_packets(&mut self, owner: &Subject, count: u32) {
        self.shares.spend(owner, Resource::Packets, count);
        if let Some(account) = self.accounts.get_mut(&owner.uid) {
            account.packets.spend(count);
        }
    }

    /// How many bytes may be carried now; none without a quota of bytes, and a moment if they are used up until then.
    pub(super) fn bytes(&mut self, now: Instant, owner: &Subject) -> Result<Option<usize>, Instant> {
        self.shares.bytes(now, owner)
    }

    /// Charges bytes that were carried.
    pub(super) fn spend_bytes(&mut self, owner: &Subject, count: u64) {
        self.shares.spend(owner, Resource::Bytes, u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// How many messages may be sent now; none also says when the next one may. Bytes that are used up hold messages back, and one
    /// that is longer than what is left overdraws nothing but a second's rest.
    pub(super) fn messages(&mut self, now: Instant, owner: &Subject) -> Result<u32, Instant> {
        let packets = self.packets(now, owner)?;
        self.bytes(now, owner)?;
        Ok(packets)
    }

    /// The packet rate as an error, for a call that cannot wait.
    pub(super) fn packet(&mut self, now: Instant, owner: &Subject) -> Result<(), Exceeded> {
        let uid = owner.uid;
        let limit = self.limits.client.packets_per_second.into();
        if self.packets(now, owner).is_ok() {
            self.spend_packets(owner, 1);
            return Ok(());
        }
        let (what, key) = ("packets in a second", "packets_per_second");
        Err(Exceeded::Limit(Limit { uid, what, key, limit, everybody: false }))
    }

    /// Everybody's use; the control thread knows the connections.
    pub(super) fn report(&mut self, now: Instant) -> netd_ipc::Clients {
        let Limits { connections, sockets, captures, client, .. } = self.limits;
        let unknown = |limit: u32| Use { used: 0, limit: limit.into(), refused: 0 };
        let (memory_max, own_memory_max) = (self.limits.memory_bytes(), client.memory_bytes());
        let uses = |held: &Holdings, sockets: u32, memory: u64, captures: u32| {
            [
                Use { used: held.sockets.into(), limit: sockets.into(), refused: held.refused_sockets },
                Use { used: held.memory_bytes, limit: memory, refused: held.refused_memory },
                Use { used: held.captures.into(), limit: captures.into(), refused: held.refused_captures },
            ]
        };
        let mut clients: Vec<ClientUse> = self
            .accounts
            .iter_mut()
            .map(|(uid, account)| {
                let [sockets, memory_bytes, captures] =
                    uses(&account.holdings, client.sockets, own_memory_max, client.captures);
                let rate = |bucket: &mut Bucket, limit: u32, refused| {
                    bucket.available(now);
                    Use { used: bucket.used().into(), limit: limit.into(), refused }
                };
                let connects =
                    rate(&mut account.connects, client.connects_per_second, account.refused_connects);
                let packets = rate(&mut account.packets, client.packets_per_second, account.throttled);
                ClientUse {
                    uid: *uid,
                    connections: unknown(client.connections),
                    sockets,
                    memory_bytes,
                    captures,
                    connects_per_second: connects,
                    packets_per_second: packets,
                    // The stack and the resolver know.
                    closing: Use::default(),
                    names: Use::default(),
                }
            })
            .collect();
        clients.sort_by_key(|client| client.uid);
        let [sockets, memory_bytes, captures] = uses(&self.total, sockets, memory_max, captures);
        let total = TotalUse { connections: unknown(connections), sockets, memory_bytes, captures };
        netd_ipc::Clients { total, clients, tables: Vec::new(), quotas: self.shares.report(now) }
    }

    /// Forgets users that have nothing, once there are many.
    fn prune(&mut self) {
        if self.accounts.len() > IDLE_ACCOUNTS_MAX {
            self.accounts.retain(|_, account| !account.holdings.is_nothing());
        }
    }
}

fn account<'a>(accounts: &'a mut HashMap<u32, Account>, limits: &Limits, uid: u32) -> &'a mut Account {
    let ClientLimits { connects_per_second, packets_per_second, .. } = limits.client;
    let bucket = |rate| Bucket::new(rate, rate);
    accounts.entry(uid).or_insert_with(|| Account {
        holdings: Holdings::default(),
        connects: bucket(connects_per_second),
        packets: bucket(packets_per_second),
        refused_connects: 0,
        throttled: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn of(uid: u32) -> Subject {
        Subject { uid, gid: uid, pid: 1, unit: None }
    }

    fn limits() -> Limits {
        let client =
            ClientLimits { sockets: 2, memory_mib: 1, connects_per_second: 2, ..ClientLimits::default() };
        Limits { sockets: 3, client, ..Limits::default() }
    }

    #[test]
    fn reserve_beyond_a_bound_names_it_and_leaves_the_others_their_share() {
        let mut ledger = Ledger::new(limits());
        ledger.reserve(&of(1), KIB).unwrap();
        ledger.reserve(&of(1), KIB).unwrap();
        let refused = ledger.reserve(&of(1), KIB).unwrap_err().to_string();
        assert_eq!(refused, "user 1 has 2 sockets, the most that '[limits.client] sockets' allows");
        ledger.reserve(&of(2), KIB).unwrap();
        let refused = ledger.reserve(&of(3), KIB).unwrap_err().to_string();
        assert_eq!(refused, "all users together have 3 sockets, the most that '[limits] sockets' allows");
        ledger.release(&of(1), KIB);
        ledger.reserve(&of(3), KIB).unwrap();
    }

    #[test]
    fn reserve_counts_memory_and_release_gives_it_back() {
        let mut ledger = Ledger::new(limits());
        let now = Instant::ZERO;
        ledger.reserve(&of(1), 1000 * KIB).unwrap();
        let refused = ledger.reserve(&of(1), 100 * KIB).unwrap_err().to_string();
        assert!(refused.contains("1 MiB of memory"), "{refused}");
        ledger.release(&of(1), 1000 * KIB);
        ledger.reserve(&of(1), 100 * KIB).unwrap();
        let report = ledger.report(now);
        assert_eq!(report.clients[0].memory_bytes.used, 100 * KIB);
        assert_eq!(report.clients[0].memory_bytes.refused, 1);
        assert_eq!(report.total.sockets.used, 1);
    }

    #[test]
    fn connect_faster_than_the_rate_is_refused_until_time_passes() {
        let mut ledger = Ledger::new(limits());
        let at = Instant::from_micros;
        ledger.connect(at(0), &of(1)).unwrap();
        ledger.connect(at(0), &of(1)).unwrap();
        assert!(ledger.connect(at(0), &of(1)).is_err());
        ledger.connect(at(0), &of(2)).unwrap();
        ledger.connect(at(500_000), &of(1)).unwrap();
        assert!(ledger.connect(at(500_000), &of(1)).is_err());
    }

    #[test]
    fn packets_when_used_up_say_when_the_next_may_go() {
        let mut limits = limits();
        limits.client.packets_per_second = 4;
        let mut ledger = Ledger::new(limits);
        assert_eq!(ledger.packets(Instant::ZERO, &of(1)), Ok(4));
        ledger.spend_packets(&of(1), 4);
        assert_eq!(ledger.packets(Instant::ZERO, &of(1)), Err(Instant::from_micros(250_000)));
        assert_eq!(ledger.packets(Instant::from_micros(250_000), &of(1)), Ok(1));
    }
}
