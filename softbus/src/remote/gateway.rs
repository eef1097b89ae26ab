//! The gateway: what a device has for another (resolve, list), and how often that one may ask.
//!
//! Which services a device may reach is [`Acl`](crate::discovery::Acl)'s to say, for calls and topics as for streams; what is not for it, is
//! not there for it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use netd_time::Bucket;

use super::call::push_name;
use super::envelope::Status;
use crate::discovery::SERVICES_MAX;
use crate::error::Error;
use crate::name::ServiceName;
use crate::read::Reader;
use crate::time::Instant;

/// Requests that may come at once are so many times those of a second.
const BURST_SECONDS: u32 = 2;

/// The head of a request for [`Target::Gateway`](super::Target::Gateway).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Everything that is for the asker: the reply's body is what [`encode_entries`] writes.
    List,
    /// One service: the reply's body is the one entry.
    Resolve(ServiceName),
}

impl Query {
    /// As a request has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Query::List => [0].into(),
            Query::Resolve(service) => {
                let mut bytes = Vec::from([1]);
                push_name(&mut bytes, service.as_str());
                bytes
            }
        }
    }

    /// What a peer asked.
    ///
    /// # Errors
    /// It is no query.
    pub fn parse(head: &[u8]) -> Result<Query, Error> {
        let mut reader = Reader::new("query", head);
        let query = match reader.u8("kind")? {
            0 => Query::List,
            1 => Query::Resolve(ServiceName::from_bytes(reader.short("service")?)?),
            value => return Err(Error::UnknownValue { message: "query", field: "kind", value }),
        };
        reader.end()?;
        Ok(query)
    }
}

/// What a service can be used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// Streams can be opened to it.
    pub streams: bool,
    /// It answers calls.
    pub calls: bool,
    /// It publishes.
    pub topics: bool,
}

impl Offers {
    fn number(self) -> u8 {
        u8::from(self.streams) | u8::from(self.calls) << 1 | u8::from(self.topics) << 2
    }

    /// Kinds that a later version knows are none that we could use.
    fn from_number(number: u8) -> Offers {
        Offers { streams: number & 1 != 0, calls: number & 2 != 0, topics: number & 4 != 0 }
    }
}

/// A service, and what it can be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub service: ServiceName,
    /// For what.
    pub offers: Offers,
}

/// The body of a reply to a [`Query`]: each entry's offers, then its name with the length in front.
#[must_use]
pub fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Entry { service, offers } in entries {
        bytes.push(offers.number());
        push_name(&mut bytes, service.as_str());
    }
    bytes
}

/// What a peer answered.
///
/// # Errors
/// It is no list, or longer than what a device can offer.
pub fn parse_entries(body: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut reader = Reader::new("list of services", body);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        if entries.len() >= SERVICES_MAX {
            let count = entries.len() + 1;
            return Err(Error::TooMany { what: "services", count, max: SERVICES_MAX });
        }
        let offers = Offers::from_number(reader.u8("offers")?);
        entries.push(Entry { service: ServiceName::from_bytes(reader.short("service")?)?, offers });
    }
    Ok(entries)
}

/// How often one peer may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Requests in a second, all together.
    pub per_peer: u32,
    /// Of one service.
    pub per_service: u32,
}

/// What one peer asked lately: a bucket for all of it, and one for each service.
#[derive(Debug)]
pub struct Limiter {
    rates: Rates,
    all: Bucket,
    services: BTreeMap<ServiceName, Bucket>,
}

impl Limiter {
    /// A peer that asked nothing yet.
    #[must_use]
    pub fn new(rates: Rates) -> Limiter {
        Limiter { rates, all: bucket(rates.per_peer), services: BTreeMap::new() }
    }

    /// Whether the peer may ask something. Everything that it sends counts, also what is refused later.
    ///
    /// # Errors
    /// Not now: [`Status::Busy`].
    pub fn admit(&mut self, now: Instant) -> Result<(), Status> {
        if self.all.take(now) { Ok(()) } else { Err(Status::Busy) }
    }

    /// Whether it may ask something of this service, which exists and is for it: so a peer makes no more buckets than there are services.
    ///
    /// # Errors
    /// Not now: [`Status::Busy`].
    pub fn admit_service(&mut self, now: Instant, service: &ServiceName) -> Result<(), Status> {
        if !self.services.contains_key(service) && self.services.len() >= SERVICES_MAX {
            // Services that came and went; a bucket that is full again says nothing.
            self.services.retain(|_, bucket| !is_full(bucket, now));
        }
        let per_service = self.rates.per_service;
        let bucket = self.services.entry(service.clone()).or_insert_with(|| bucket(per_service));
        if bucket.take(now) { Ok(()) } else { Err(Status::Busy) }
    }

    /// Whether nothing is remembered that a new one would not know.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        is_full(&mut self.all, now) && self.services.values_mut().all(|bucket| is_full(bucket, now))
    }

    /// Services whose use is remembered.
    #[must_use]
    pub fn services(&self) -> usize {
        self.services.len()
    }
}

fn bucket(per_second: u32) -> Bucket {
    Bucket::new(per_second, per_second.saturating_mul(BURST_SECONDS))
}

fn is_full(bucket: &mut Bucket, now: Instant) -> bool {
    bucket.available(now);
    bucket.used() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use core::time::Duration;
    use proptest::prelude::*;

    fn named(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    proptest! {
        #[test]
        fn entries_encoded_are_read_as_they_were(
            names in prop::collection::vec(("\\PC{1,16}", 0u8..8), 0..=SERVICES_MAX),
        ) {
            let entry = |(name, offers): &(_, _)| {
                let name: &alloc::string::String = name;
                Entry { service: named(name), offers: Offers::from_number(*offers) }
            };
            let entries: Vec<Entry> = names.iter().map(entry).collect();
            let encoded = encode_entries(&entries);
            prop_assert!(encoded.len() <= super::super::BODY_BYTES_MAX);
            prop_assert_eq!(parse_entries(&encoded), Ok(entries));
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(query) = Query::parse(&bytes) {
                prop_assert_eq!(query.encode(), bytes.clone());
            }
            if let Ok(entries) = parse_entries(&bytes) {
                prop_assert!(entries.len() <= SERVICES_MAX);
            }
        }
    }

    #[test]
    fn query_encoded_is_read_as_it_was_and_cut_is_refused() {
        for query in [Query::List, Query::Resolve(named("video"))] {
            let encoded = query.encode();
            assert_eq!(Query::parse(&encoded), Ok(query));
            for at in 0..encoded.len() {
                assert!(Query::parse(&encoded[..at]).is_err());
            }
        }
        assert!(Query::parse(&[0, 0]).is_err());
        assert!(Query::parse(&[2]).is_err());
    }

    #[test]
    fn list_of_more_than_a_device_can_offer_is_refused() {
        let entries: Vec<Entry> = (0..=SERVICES_MAX)
            .map(|number| Entry { service: named(&format!("s{number}")), offers: Offers::default() })
            .collect();
        assert!(matches!(parse_entries(&encode_entries(&entries)), Err(Error::TooMany { .. })));
    }

    #[test]
    fn flood_is_limited_for_one_service_and_for_all_together_and_room_returns() {
        let mut limiter = Limiter::new(Rates { per_peer: 10, per_service: 4 });
        let (start, video, chat) = (Instant::ZERO, named("video"), named("chat"));
        assert_eq!((0..100).filter(|_| limiter.admit_service(start, &video).is_ok()).count(), 8);
        assert!(limiter.admit_service(start, &chat).is_ok(), "another service has a bucket of its own");
        assert_eq!((0..100).filter(|_| limiter.admit(start).is_ok()).count(), 20);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| limiter.admit(later).is_ok()).count(), 10);
        assert_eq!((0..100).filter(|_| limiter.admit_service(later, &video).is_ok()).count(), 4);
        assert!(!limiter.is_idle(later));
        assert!(limiter.is_idle(later + Duration::from_secs(3)));
    }

    #[test]
    fn services_that_come_and_go_leave_no_more_buckets_than_there_can_be_services() {
        let mut limiter = Limiter::new(Rates { per_peer: 10, per_service: 1 });
        for number in 0..1000u64 {
            let now = Instant::ZERO + Duration::from_secs(number);
            let _ = limiter.admit_service(now, &named(&format!("s{number}")));
            assert!(limiter.services() <= SERVICES_MAX + 1);
        }
    }
}
