//! Questions, and what the records of a response say about them.
//!
//! A finding is about the question that was asked and nothing else: records about other names, however tempting, are not kept,
//! so that no server can say anything about names it was not asked for (RFC 5452, 6).

use core::time::Duration;

use super::error::Error;
use super::name::Name;
use super::types::{Data, Kind};
use super::wire::Record;

/// Aliases that are followed, in one response and by asking again: more than any serious zone has, as in other resolvers.
pub(super) const ALIASES_MAX: usize = 16;
/// Records of one answer: a client that wants an address needs few, and each answer travels to it whole.
pub(super) const RECORDS_MAX: usize = 128;
/// How long "it cannot be resolved" is believed: RFC 9520, 3.2 asks for 1 s to 5 min, and a user who repairs a server tries
/// again soon.
pub(super) const FAILURE_SECONDS: u32 = 5;

/// What is asked on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) kind: Kind,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The targets of the aliases passed.
    pub(super) aliases: Vec<Name>,
    pub(super) outcome: Outcome,
    /// Seconds that it holds.
    pub(super) ttl: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At least one.
    Records(Vec<Data>),
    /// The last of `aliases` is to be asked about.
    Alias,
    NoData,
    NoSuchName,
    Failed(Error),
}

impl Finding {
    pub(super) fn local(outcome: Outcome) -> Finding {
        Finding { aliases: Vec::new(), outcome, ttl: 0 }
    }

    pub(super) fn failed(error: Error) -> Finding {
        Finding { aliases: Vec::new(), outcome: Outcome::Failed(error), ttl: FAILURE_SECONDS }
    }

    /// Bytes that it holds, roughly, for the accounts of the cache.
    pub(super) fn bytes(&self) -> usize {
        let data = match &self.outcome {
            Outcome::Records(records) => records.iter().map(data_bytes).sum(),
            Outcome::Alias | Outcome::NoData | Outcome::NoSuchName | Outcome::Failed(_) => 0,
        };
        let aliases: usize = self.aliases.iter().map(|name| size_of::<Name>() + name.len()).sum();
        size_of::<Finding>() + aliases + data
    }
}

fn data_bytes(data: &Data) -> usize {
    size_of::<Data>()
        + match data {
            Data::A(_) | Data::Aaaa(_) => 0,
            Data::Cname(name) | Data::Ptr(name) | Data::Srv { target: name, .. } => name.len(),
            Data::Txt(parts) => parts.iter().map(|part| size_of::<Vec<u8>>() + part.len()).sum(),
        }
}

/// What a response says about `question`: follows the aliases within it (RFC 1034, 3.6.2). `soa` is the negative answer's.
pub(super) fn conclude(
    question: &Question,
    exists: bool,
    answers: &[Record],
    soa: Option<&(Name, u32)>,
) -> Finding {
    let mut owner = &question.name;
    let mut aliases: Vec<Name> = Vec::new();
    let mut ttl = u32::MAX;
    loop {
        let mut records: Vec<Data> = Vec::new();
        let mut alias = None;
        for record in answers.iter().filter(|record| record.owner == *owner) {
            if question.kind.matches(&record.data) {
                ttl = ttl.min(record.ttl);
                if records.len() < RECORDS_MAX && !records.contains(&record.data) {
                    records.push(record.data.clone());
                }
            } else if let Data::Cname(target) = &record.data {
                alias = Some((target, record.ttl));
            }
        }
        if !records.is_empty() {
            return Finding { aliases, outcome: Outcome::Records(records), ttl };
        }
        let Some((target, alias_ttl)) = alias else { break };
        if aliases.len() >= ALIASES_MAX {
            let name = question.name.clone();
            return Finding::failed(Error::TooManyAliases { name, limit: ALIASES_MAX });
        }
        ttl = ttl.min(alias_ttl);
        aliases.push(target.clone());
        owner = target;
    }
    // RFC 2308, 5: without an SOA record a negative answer is not kept. One of another zone proves nothing here.
    let negative = soa.filter(|(zone, _)| owner.is_within(zone)).map(|(_, seconds)| *seconds);
    let outcome = match negative {
        // RFC 2308, 2.1: the code is about the last name of the chain.
        _ if !exists => Outcome::NoSuchName,
        None if !aliases.is_empty() => return Finding { aliases, outcome: Outcome::Alias, ttl },
        _ => Outcome::NoData,
    };
    Finding { aliases, outcome, ttl: ttl.min(negative.unwrap_or(0)) }
}

/// Seconds as the callers' type.
pub(super) fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn record(owner: &str, ttl: u32, data: Data) -> Record {
        Record { owner: name(owner), ttl, data }
    }

    fn question() -> Question {
        Question { name: name("www.example.com"), kind: Kind::A }
    }

    const ADDRESS: Data = Data::A(core::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn response_chain_in_any_order_is_followed_with_least_ttl() {
        let answers = [
            record("c.example.net", 300, ADDRESS),
            record("b.example.com", 20, Data::Cname(name("c.example.net"))),
            record("WWW.example.com", 600, Data::Cname(name("b.example.com"))),
        ];
        let finding = conclude(&question(), true, &answers, None);
        assert_eq!(finding.aliases, [name("b.example.com"), name("c.example.net")]);
        assert_eq!((finding.outcome, finding.ttl), (Outcome::Records(vec![ADDRESS]), 20));
    }

    #[test]
    fn response_about_other_names_is_not_believed() {
        let answers = [record("other.example.com", 600, ADDRESS)];
        assert_eq!(conclude(&question(), true, &answers, None).outcome, Outcome::NoData);
    }

    #[test]
    fn response_chain_in_circle_fails() {
        let answers = [
            record("www.example.com", 60, Data::Cname(name("b.example.com"))),
            record("b.example.com", 60, Data::Cname(name("www.example.com"))),
        ];
        let finding = conclude(&question(), true, &answers, None);
        assert!(matches!(finding.outcome, Outcome::Failed(Error::TooManyAliases { .. })));
    }

    #[test]
    fn response_chain_leading_out_is_to_be_asked_again_unless_proved_empty() {
        let answers = [record("www.example.com", 60, Data::Cname(name("b.example.net")))];
        assert_eq!(conclude(&question(), true, &answers, None).outcome, Outcome::Alias);
        let soa = (name("example.net"), 30);
        let finding = conclude(&question(), true, &answers, Some(&soa));
        assert_eq!((finding.outcome, finding.ttl), (Outcome::NoData, 30));
        let finding = conclude(&question(), false, &answers, Some(&soa));
        assert_eq!((finding.outcome, finding.ttl), (Outcome::NoSuchName, 30));
    }

    #[test]
    fn response_negative_without_soa_of_its_zone_is_not_kept() {
        assert_eq!(conclude(&question(), false, &[], None).ttl, 0);
        assert_eq!(conclude(&question(), false, &[], Some(&(name("example.org"), 900))).ttl, 0);
        assert_eq!(conclude(&question(), false, &[], Some(&(name("example.com"), 900))).ttl, 900);
    }
}
