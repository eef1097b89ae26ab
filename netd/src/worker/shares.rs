//! What the clients of a user, a group or a unit have together, and what `[[quota]]` lets them have.
//!
//! Sockets and memory are counted for everybody at all times, so that a quota that comes with a reload counts what is there
//! already. Rates begin when there is a quota.

use std::collections::HashMap;
use std::time::Duration;

use netd_ipc::{QuotaUse, Use};
use netd_policy::{Quotas, Resource, Subject, SubjectPattern, shares};
use netd_stack::Instant;
use netd_time::Bucket;

const MIB: u64 = 1 << 20;
/// Shares remembered that hold nothing.
const IDLE_MAX: usize = 1024;
/// How long a sender waits at most whose bytes are used up, before it is looked at again: short beside any round trip that matters.
const BYTES_PAUSE: Duration = Duration::from_millis(20);

/// What one user, group or unit has.
#[derive(Debug, Default)]
struct Share {
    sockets: u32,
    memory_bytes: u64,
    rates: HashMap<Resource, Bucket>,
    refused: HashMap<Resource, u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Shares {
    quotas: Quotas,
    shares: HashMap<SubjectPattern, Share>,
}

impl Shares {
    /// Puts other quotas in force. Who has more already keeps it; what is out of a rate stays out.
    pub(super) fn set_quotas(&mut self, quotas: Quotas) {
        for (key, share) in &mut self.shares {
            share.rates.retain(|resource, bucket| match quotas.bound(key, *resource) {
                Some(bound) => {
                    bucket.set_rate(bound.limit, bound.limit);
                    true
                }
                None => false,
            });
        }
        self.quotas = quotas;
    }

    /// Charges a socket to everybody who has a part in it, or to nobody.
    pub(super) fn reserve(&mut self, subject: &Subject, memory_bytes: u64) -> Result<(), String> {
        for key in shares(subject) {
            let (sockets, memory) =
                self.shares.get(&key).map_or((0, 0), |share| (share.sockets, share.memory_bytes));
            self.check(&key, Resource::Sockets, u64::from(sockets) + 1, 1)?;
            self.check(&key, Resource::MemoryMib, memory + memory_bytes, MIB)?;
        }
        for key in shares(subject) {
            let share = self.shares.entry(key).or_default();
            share.sockets += 1;
            share.memory_bytes += memory_bytes;
        }
        Ok(())
    }

    fn check(
        &mut self,
        key: &SubjectPattern,
        resource: Resource,
        wanted: u64,
        unit: u64,
    ) -> Result<(), String> {
        let Some(bound) = self.quotas.bound(key, resource) else { return Ok(()) };
        if wanted <= u64::from(bound.limit) * unit {
            return Ok(());
        }
        let (limit, name) = (bound.limit, resource.key());
        let message = format!("{key} has its {name} of {limit}, the quota of {}", bound.origin);
        *self.shares.entry(key.clone()).or_default().refused.entry(resource).or_default() += 1;
        Err(message)
    }

    /// Gives back what [`reserve`](Self::reserve) charged.
    pub(super) fn release(&mut self, subject: &Subject, memory_bytes: u64) {
        for key in shares(subject) {
            if let Some(share) = self.shares.get_mut(&key) {
                share.sockets = share.sockets.saturating_sub(1);
                share.memory_bytes = share.memory_bytes.saturating_sub(memory_bytes);
            }
        }
        if self.shares.len() > IDLE_MAX {
            // A rate that is forgotten while it was used up would be whole again.
            self.shares.retain(|_, share| share.sockets > 0 || !share.rates.is_empty());
        }
    }

    /// Charges one new connection.
    pub(super) fn connect(&mut self, now: Instant, subject: &Subject) -> Result<(), String> {
        match self.available(now, subject, Resource::Connects) {
            Err((key, _)) => self.check(&key, Resource::Connects, u64::MAX, 1),
            Ok(_) => {
                self.spend(subject, Resource::Connects, 1);
                Ok(())
            }
        }
    }

    /// How many packets may be sent now, `most` without a quota; none also says when some may.
    pub(super) fn packets(&mut self, now: Instant, subject: &Subject, most: u32) -> Result<u32, Instant> {
        match self.available(now, subject, Resource::Packets) {
            Ok(left) => Ok(left.map_or(most, |left| left.min(most))),
            Err((_, next)) => Err(next),
        }
    }

    /// How many bytes may be carried now, none without a quota; or when some may.
    pub(super) fn bytes(&mut self, now: Instant, subject: &Subject) -> Result<Option<usize>, Instant> {
        match self.available(now, subject, Resource::Bytes) {
            Ok(left) => Ok(left.map(|left| usize::try_from(left).unwrap_or(usize::MAX))),
            Err(_) => {
                // The same moment for everybody who asks meanwhile, so that each waits once.
                let step = u64::try_from(BYTES_PAUSE.as_micros()).unwrap_or(u64::MAX);
                Err(Instant::from_micros((now.as_micros() / step + 1) * step))
            }
        }
    }

    /// Charges what [`packets`](Self::packets), [`bytes`](Self::bytes) or another rate allowed.
    pub(super) fn spend(&mut self, subject: &Subject, resource: Resource, count: u32) {
        if self.quotas.is_empty() {
            return;
        }
        for key in shares(subject) {
            if let Some(bucket) = self.shares.get_mut(&key).and_then(|share| share.rates.get_mut(&resource)) {
                bucket.spend(count);
            }
        }
    }

    /// What is left of a rate for everybody who has a part in it; or who has nothing left, and until when.
    fn available(
        &mut self,
        now: Instant,
        subject: &Subject,
        resource: Resource,
    ) -> Result<Option<u32>, (SubjectPattern, Instant)> {
        let mut left = None::<u32>;
        if self.quotas.is_empty() {
            return Ok(left);
        }
        for key in shares(subject) {
            let Some(bound) = self.quotas.bound(&key, resource) else { continue };
            let share = self.shares.entry(key.clone()).or_default();
            let bucket = share.rates.entry(resource).or_insert_with(|| Bucket::new(bound.limit, bound.limit));
            match bucket.available(now) {
                0 => {
                    let next = bucket.next();
                    if resource != Resource::Connects {
                        *share.refused.entry(resource).or_default() += 1;
                    }
                    return Err((key, next));
                }
                count => left = Some(left.map_or(count, |left| left.min(count))),
            }
        }
        Ok(left)
    }

    /// Everything that a quota bounds, and its use.
    pub(super) fn report(&mut self, now: Instant) -> Vec<QuotaUse> {
        let mut all = Vec::new();
        for (key, share) in &mut self.shares {
            for resource in Resource::ALL {
                let Some(bound) = self.quotas.bound(key, resource) else { continue };
                let mut rate = || {
                    let bucket = share.rates.get_mut(&resource)?;
                    bucket.available(now);
                    Some(bucket.used())
                };
                let used = match resource {
                    Resource::Sockets => share.sockets.into(),
                    Resource::MemoryMib => share.memory_bytes.div_ceil(MIB),
                    Resource::Connects | Resource::Packets | Resource::Bytes => rate().unwrap_or(0).into(),
                };
                let refused = share.refused.get(&resource).copied().unwrap_or(0);
                all.push(QuotaUse {
                    subject: key.to_string(),
                    key: resource.key().to_owned(),
                    usage: Use { used, limit: bound.limit.into(), refused },
                    file: bound.origin.file.to_string(),
                    line: bound.origin.line,
                });
            }
        }
        all.sort_by(|one, other| (&one.subject, &one.key).cmp(&(&other.subject, &other.key)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(text: &str) -> Quotas {
        let tables = netd_policy::file::read("q.toml", text).unwrap().quotas;
        Quotas::new(&tables, |_| None, |_| None).unwrap()
    }

    fn subject(uid: u32, unit: &str) -> Subject {
        Subject { uid, gid: 1, pid: 1, unit: Some(unit.to_owned()) }
    }

    #[test]
    fn unit_shares_its_quota_among_its_users_and_others_have_theirs() {
        let mut shares = Shares::default();
        // Before there is a quota, and counted all the same.
        shares.reserve(&subject(1, "a.service"), MIB).unwrap();
        shares.set_quotas(quotas("[[quota]]\nsubject = \"unit:a.service\"\nsockets = 2\nmemory_mib = 3\n"));
        shares.reserve(&subject(2, "a.service"), MIB).unwrap();
        let refused = shares.reserve(&subject(3, "a.service"), MIB).unwrap_err();
        assert_eq!(refused, "unit:a.service has its sockets of 2, the quota of q.toml:1");
        shares.reserve(&subject(3, "b.service"), 9 * MIB).unwrap();
        shares.release(&subject(1, "a.service"), MIB);
        let refused = shares.reserve(&subject(3, "a.service"), 3 * MIB).unwrap_err();
        assert!(refused.contains("memory_mib of 3"), "{refused}");
        shares.reserve(&subject(3, "a.service"), 2 * MIB).unwrap();
        let report = shares.report(Instant::ZERO);
        let told: Vec<_> =
            report.iter().map(|quota| (quota.key.as_str(), quota.usage.used, quota.usage.refused)).collect();
        assert_eq!(told, [("memory_mib", 3, 1), ("sockets", 2, 1)]);
    }

    #[test]
    fn rates_are_shared_and_refill() {
        let mut shares = Shares::default();
        shares.set_quotas(quotas(
            "[[quota]]\nsubject = \"group:1\"\nconnects_per_second = 2\npackets_per_second = 4\nbytes_per_second = 1000\n",
        ));
        let (one, other) = (subject(1, "a.service"), subject(2, "b.service"));
        let at = Instant::from_micros;
        shares.connect(at(0), &one).unwrap();
        shares.connect(at(0), &other).unwrap();
        assert!(shares.connect(at(0), &one).unwrap_err().contains("connects_per_second of 2"));
        shares.connect(at(500_000), &one).unwrap();
        assert_eq!(shares.packets(at(0), &one, 100), Ok(4));
        shares.spend(&one, Resource::Packets, 4);
        assert_eq!(shares.packets(at(0), &other, 100), Err(at(250_000)));
        assert_eq!(shares.bytes(at(0), &one), Ok(Some(1000)));
        shares.spend(&one, Resource::Bytes, 1000);
        assert_eq!(shares.bytes(at(0), &other), Err(at(20_000)));
        assert_eq!(shares.bytes(at(500_000), &other), Ok(Some(500)));
        shares.set_quotas(Quotas::default());
        assert_eq!((shares.bytes(at(0), &one), shares.packets(at(0), &one, 9)), (Ok(None), Ok(9)));
    }
}
