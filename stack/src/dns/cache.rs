//! What was found, for as long as it holds: bounded in entries and bytes, the least recently used goes first.
//!
//! Nothing expires by a timer: an entry that is too old is found out when it is looked at, or makes room like any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use core::time::Duration;

use super::error::Error;
use super::finding::{FAILURE_SECONDS, Finding, Outcome, Question, seconds};
use super::local::is_link_local;
use super::name::Name;
use super::types::{Kind, Limits};
use crate::time::Instant;

/// Longest time that records are kept. RFC 8767, 4 suggests a cap of days to weeks for servers; a host that outlives a
/// change by a day has been patient enough.
const TTL_SECONDS_MAX: u32 = 86_400;
/// RFC 2308, 5: up to three hours for what does not exist.
const NEGATIVE_SECONDS_MAX: u32 = 10_800;
/// One entry takes at most this part of the cache, so that no answer empties it.
const SHARE_MAX: usize = 8;

/// `None` stands for every kind: the name does not exist (RFC 2308, 5).
type Key = (Name, Option<Kind>);

struct Entry {
    finding: Arc<Finding>,
    expires: Instant,
    used: u64,
    bytes: usize,
}

pub(super) struct Cache {
    entries: BTreeMap<Key, Entry>,
    /// By time of last use.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    limits: Limits,
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Cache {
        Cache { entries: BTreeMap::new(), order: BTreeMap::new(), uses: 0, bytes: 0, limits }
    }

    /// What is known, and for how much longer.
    pub(super) fn get(&mut self, now: Instant, question: &Question) -> Option<(Arc<Finding>, Duration)> {
        let name_missing = (question.name.clone(), None);
        self.touch(now, &name_missing)
            .or_else(|| self.touch(now, &(question.name.clone(), Some(question.kind))))
    }

    fn touch(&mut self, now: Instant, key: &Key) -> Option<(Arc<Finding>, Duration)> {
        let entry = self.entries.get_mut(key)?;
        if entry.expires <= now {
            self.remove(key);
            return None;
        }
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(self.uses, key.clone());
        Some((Arc::clone(&entry.finding), entry.expires - now))
    }

    /// Keeps `finding` if it may be kept; returns how many entries had to go.
    pub(super) fn insert(&mut self, now: Instant, question: &Question, finding: &Arc<Finding>) -> u64 {
        let ttl = lifetime(finding);
        let key = key(question, finding);
        // Costs of an entry besides what it names: its key twice, and its places in two trees.
        let bytes = finding.bytes() + 2 * (size_of::<Key>() + question.name.len()) + size_of::<Entry>();
        if ttl == 0 || bytes > self.limits.cache_bytes / SHARE_MAX || self.limits.cache_entries == 0 {
            return 0;
        }
        self.remove(&key);
        // What was found for one kind shows that the name exists.
        self.remove(&(question.name.clone(), None));
        let mut evicted = 0;
        while self.entries.len() >= self.limits.cache_entries || self.bytes + bytes > self.limits.cache_bytes
        {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = oldest.clone();
            self.remove(&oldest);
            evicted += 1;
        }
        self.uses += 1;
        self.bytes += bytes;
        self.order.insert(self.uses, key.clone());
        let expires = now + seconds(ttl);
        self.entries.insert(key, Entry { finding: Arc::clone(finding), expires, used: self.uses, bytes });
        evicted
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn key(question: &Question, finding: &Finding) -> Key {
    // Of a name behind an alias nothing is said about the alias. Under .local silence about one kind is not about the others.
    let whole_name = finding.outcome == Outcome::NoSuchName
        && finding.aliases.is_empty()
        && !is_link_local(&question.name);
    (question.name.clone(), (!whole_name).then_some(question.kind))
}

/// Seconds that a finding may be kept.
fn lifetime(finding: &Finding) -> u32 {
    match &finding.outcome {
        Outcome::Records(_) | Outcome::Alias => finding.ttl.min(TTL_SECONDS_MAX),
        Outcome::NoData | Outcome::NoSuchName => finding.ttl.min(NEGATIVE_SECONDS_MAX),
        // RFC 9520, 3: failures to resolve are kept, briefly. The others are about us, not about the name.
        Outcome::Failed(
            Error::ServerFailure { .. } | Error::TimedOut { .. } | Error::TooManyAliases { .. },
        ) => FAILURE_SECONDS,
        Outcome::Failed(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::types::Data;
    use super::*;

    fn question(name: &str) -> Question {
        Question { name: name.parse().unwrap(), kind: Kind::A }
    }

    fn finding(outcome: Outcome, ttl: u32) -> Arc<Finding> {
        Arc::new(Finding { aliases: Vec::new(), outcome, ttl })
    }

    fn address() -> Outcome {
        Outcome::Records(vec![Data::A(Ipv4Addr::LOCALHOST)])
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn small(cache_entries: usize) -> Cache {
        Cache::new(Limits { queries: 1, cache_entries, cache_bytes: 1 << 16 })
    }

    #[test]
    fn entry_expires_when_ttl_ends() {
        let mut cache = small(4);
        cache.insert(at(0), &question("a.example"), &finding(address(), 30));
        assert_eq!(cache.get(at(10), &question("A.example")).unwrap().1, Duration::from_secs(20));
        assert!(cache.get(at(30), &question("a.example")).is_none());
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn entry_ttl_of_zero_is_not_kept_and_long_one_is_capped() {
        let mut cache = small(4);
        cache.insert(at(0), &question("zero.example"), &finding(address(), 0));
        cache.insert(at(0), &question("long.example"), &finding(address(), i32::MAX as u32));
        cache.insert(at(0), &question("none.example"), &finding(Outcome::NoData, i32::MAX as u32));
        assert!(cache.get(at(0), &question("zero.example")).is_none());
        assert!(cache.get(at(86_399), &question("long.example")).is_some());
        assert!(cache.get(at(86_400), &question("long.example")).is_none());
        assert!(cache.get(at(10_800), &question("none.example")).is_none());
    }

    #[test]
    fn cache_full_loses_least_recently_used() {
        let mut cache = small(2);
        cache.insert(at(0), &question("a.example"), &finding(address(), 30));
        cache.insert(at(0), &question("b.example"), &finding(address(), 30));
        cache.get(at(1), &question("a.example"));
        assert_eq!(cache.insert(at(1), &question("c.example"), &finding(address(), 30)), 1);
        assert!(cache.get(at(1), &question("a.example")).is_some());
        assert!(cache.get(at(1), &question("b.example")).is_none());
    }

    #[test]
    fn name_missing_is_known_for_every_kind_until_a_record_appears() {
        let mut cache = small(4);
        let text = Question { kind: Kind::Txt, ..question("a.example") };
        cache.insert(at(0), &question("a.example"), &finding(Outcome::NoSuchName, 30));
        assert_eq!(cache.get(at(1), &text).unwrap().0.outcome, Outcome::NoSuchName);
        cache.insert(at(2), &question("a.example"), &finding(address(), 30));
        assert!(cache.get(at(2), &text).is_none());
    }

    #[test]
    fn entry_larger_than_its_share_is_not_kept() {
        let mut cache = small(4);
        let text = Outcome::Records(vec![Data::Txt(vec![vec![0; 9000]])]);
        cache.insert(at(0), &question("a.example"), &finding(text, 30));
        assert_eq!(cache.len(), 0);
    }

    proptest! {
        #[test]
        fn cache_any_use_keeps_its_bounds(steps in prop::collection::vec((0u8..12, 0u32..40, any::<bool>(), 0usize..9000), 1..200)) {
            let mut cache = small(5);
            for (index, (name, ttl, insert, size)) in steps.into_iter().enumerate() {
                let question = question(&format!("n{name}.example"));
                if insert {
                    let text = Outcome::Records(vec![Data::Txt(vec![vec![0; size]])]);
                    cache.insert(at(index as u64), &question, &finding(text, ttl));
                } else {
                    cache.get(at(index as u64), &question);
                }
                prop_assert!(cache.len() <= 5 && cache.bytes() <= 1 << 16);
                prop_assert_eq!(cache.entries.values().map(|entry| entry.bytes).sum::<usize>(), cache.bytes);
                prop_assert_eq!(cache.order.len(), cache.len());
            }
        }
    }
}
