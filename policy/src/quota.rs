//! Quotas: how much of netd a subject may have, beside the bounds that hold for every user.
//!
//! ```toml
//! [[quota]]
//! subject = "unit:backup.service"
//! sockets = 8
//! memory_mib = 16
//! connects_per_second = 5
//! packets_per_second = 1000
//! bytes_per_second = 1000000
//! ```
//!
//! All clients of a user, group or unit share its quota; one for `any` holds for each user alone. Of several the smallest
//! counts, so that neither their order nor their file matters.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::rule::Origin;
use crate::subject::{Subject, SubjectPattern};

/// What can be bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `sockets`
    Sockets,
    /// `memory_mib`: what the sockets can take at the very most.
    MemoryMib,
    /// `connects_per_second`
    Connects,
    /// `packets_per_second`: datagrams, echo requests and names.
    Packets,
    /// `bytes_per_second`: of payload; of connections both ways, of datagrams those sent.
    Bytes,
}

impl Resource {
    /// All there are.
    pub const ALL: [Resource; 5] =
        [Resource::Sockets, Resource::MemoryMib, Resource::Connects, Resource::Packets, Resource::Bytes];

    /// The key in the file.
    pub const fn key(self) -> &'static str {
        match self {
            Resource::Sockets => "sockets",
            Resource::MemoryMib => "memory_mib",
            Resource::Connects => "connects_per_second",
            Resource::Packets => "packets_per_second",
            Resource::Bytes => "bytes_per_second",
        }
    }
}

/// A `[[quota]]` table.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaTable {
    /// Who, all clients together; `any`: each user alone.
    subject: SubjectPattern,
    /// Sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sockets: Option<NonZeroU32>,
    /// What its sockets can take at the very most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_mib: Option<NonZeroU32>,
    /// New connections; as many may come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connects_per_second: Option<NonZeroU32>,
    /// Datagrams, echo requests and names; as many may come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packets_per_second: Option<NonZeroU32>,
    /// Of payload: of connections both ways, of datagrams those sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<NonZeroU32>,
}

impl QuotaTable {
    fn bounds(&self) -> impl Iterator<Item = (Resource, u32)> {
        let QuotaTable {
            subject: _,
            sockets,
            memory_mib,
            connects_per_second,
            packets_per_second,
            bytes_per_second,
        } = *self;
        let values = [sockets, memory_mib, connects_per_second, packets_per_second, bytes_per_second];
        Resource::ALL.into_iter().zip(values).filter_map(|(resource, value)| Some((resource, value?.get())))
    }
}

/// One bound, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// How much.
    pub limit: u32,
    /// By which quota.
    pub origin: Origin,
}

/// What one subject may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Quota(HashMap<Resource, Bound>);

impl Quota {
    /// The bound of a resource, if it has one.
    fn bound(&self, resource: Resource) -> Option<&Bound> {
        self.0.get(&resource)
    }

    fn add(&mut self, resource: Resource, bound: &Bound) {
        let smallest = self.0.entry(resource).or_insert_with(|| bound.clone());
        if (bound.limit, &bound.origin) < (smallest.limit, &smallest.origin) {
            *smallest = bound.clone();
        }
    }
}

/// The quotas in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// As they were written.
    tables: Vec<(Origin, QuotaTable)>,
    each: Quota,
    by_subject: HashMap<SubjectPattern, Quota>,
}

impl Quotas {
    /// Takes tables together; `user` and `group` turn names of this machine into ids.
    ///
    /// # Errors
    /// A name that does not exist, or a quota of nothing.
    pub fn new(
        tables: &[(Origin, QuotaTable)],
        user: impl Fn(&str) -> Option<u32>,
        group: impl Fn(&str) -> Option<u32>,
    ) -> Result<Quotas, Error> {
        let mut quotas = Quotas { tables: tables.to_vec(), ..Quotas::default() };
        for (origin, table) in tables {
            if table.bounds().next().is_none() {
                return Err(Error::EmptyQuota { origin: origin.clone() });
            }
            let unknown =
                |kind, name: &String| Error::UnknownName { origin: origin.clone(), kind, name: name.clone() };
            let quota = match &table.subject {
                SubjectPattern::Any => &mut quotas.each,
                SubjectPattern::User(name) => {
                    let uid = user(name).ok_or_else(|| unknown("user", name))?;
                    quotas.by_subject.entry(SubjectPattern::Uid(uid)).or_default()
                }
                SubjectPattern::Group(name) => {
                    let gid = group(name).ok_or_else(|| unknown("group", name))?;
                    quotas.by_subject.entry(SubjectPattern::Gid(gid)).or_default()
                }
                other => quotas.by_subject.entry(other.clone()).or_default(),
            };
            for (resource, limit) in table.bounds() {
                quota.add(resource, &Bound { limit, origin: origin.clone() });
            }
        }
        Ok(quotas)
    }

    /// As they were written, in the order of the files.
    pub fn tables(&self) -> impl Iterator<Item = &(Origin, QuotaTable)> {
        self.tables.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.each.0.is_empty() && self.by_subject.is_empty()
    }

    /// The bound of what clients of one user, group or unit have together.
    pub fn bound(&self, share: &SubjectPattern, resource: Resource) -> Option<&Bound> {
        let own = self.by_subject.get(share).and_then(|quota| quota.bound(resource));
        let each = match share {
            SubjectPattern::Uid(_) => self.each.bound(resource),
            _ => None,
        };
        own.into_iter().chain(each).min_by_key(|bound| (bound.limit, &bound.origin))
    }

    /// The bounds that hold for `subject`, in sentences.
    pub fn describe(&self, subject: &Subject) -> Vec<String> {
        let mut all = Vec::new();
        for share in shares(subject) {
            for resource in Resource::ALL {
                if let Some(Bound { limit, origin }) = self.bound(&share, resource) {
                    all.push(format!("{} {limit} for {share} ({origin})", resource.key()));
                }
            }
        }
        all
    }
}

/// Those whose shares a subject has a part in: its user, its group and its unit.
pub fn shares(subject: &Subject) -> impl Iterator<Item = SubjectPattern> {
    let Subject { uid, gid, pid: _, unit } = subject;
    let unit = unit.clone().map(SubjectPattern::Unit);
    [Some(SubjectPattern::Uid(*uid)), Some(SubjectPattern::Gid(*gid)), unit].into_iter().flatten()
}

/// As a table of a policy file.
impl fmt::Display for QuotaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[quota]]\nsubject = \"{}\"", self.subject)?;
        self.bounds().try_for_each(|(resource, limit)| writeln!(f, "{} = {limit}", resource.key()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tables(text: &str) -> Vec<(Origin, QuotaTable)> {
        crate::file::read("q.toml", text).unwrap().quotas
    }

    fn quotas(text: &str) -> Quotas {
        Quotas::new(&tables(text), |name| (name == "alice").then_some(7), |_| None).unwrap()
    }

    #[test]
    fn smallest_bound_counts_and_any_is_for_each_user() {
        let quotas = quotas(
            "[[quota]]\nsubject = \"user:alice\"\nsockets = 9\n[[quota]]\nsubject = \"any\"\nsockets = 4\n\
             [[quota]]\nsubject = \"unit:a.service\"\nbytes_per_second = 1000\n",
        );
        let limit = |share: &SubjectPattern| quotas.bound(share, Resource::Sockets).map(|bound| bound.limit);
        assert_eq!(limit(&SubjectPattern::Uid(7)), Some(4));
        assert_eq!(limit(&SubjectPattern::Uid(8)), Some(4));
        assert_eq!(limit(&SubjectPattern::Gid(7)), None);
        let subject = Subject { uid: 8, gid: 8, pid: 1, unit: Some("a.service".into()) };
        let expected =
            ["sockets 4 for user:8 (q.toml:4)", "bytes_per_second 1000 for unit:a.service (q.toml:7)"];
        assert_eq!(quotas.describe(&subject), expected);
    }

    #[test]
    fn wrong_quota_is_refused_with_its_place() {
        let zero = crate::file::read("q.toml", "[[quota]]\nsubject = \"any\"\nsockets = 0\n").unwrap_err();
        assert!(
            zero.to_string().starts_with("q.toml:3:11: ") && zero.to_string().contains("nonzero"),
            "{zero}"
        );
        for (lines, wanted) in [
            ("subject = \"user:bob\"\nsockets = 1", "no user 'bob'"),
            ("subject = \"any\"", "bounds nothing"),
        ] {
            let none = |_: &str| None;
            let error =
                Quotas::new(&tables(&format!("\n[[quota]]\n{lines}\n")), none, none).unwrap_err().to_string();
            assert!(error.starts_with("q.toml:2: ") && error.contains(wanted), "{error}");
        }
    }

    proptest! {
        #[test]
        fn order_of_quotas_changes_nothing(
            (one, other) in prop::collection::vec((0u32..3, 1u32..9, any::<bool>()), 1..6)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            let limits = |all: &[(u32, u32, bool)]| {
                let table = |(uid, limit, each): &(u32, u32, bool)| {
                    let subject = if *each { "any".to_owned() } else { format!("user:{uid}") };
                    format!("[[quota]]\nsubject = \"{subject}\"\nsockets = {limit}\n")
                };
                let quotas = quotas(&all.iter().map(table).collect::<String>());
                let limit = |uid| quotas.bound(&SubjectPattern::Uid(uid), Resource::Sockets).map(|bound| bound.limit);
                (0..3).map(limit).collect::<Vec<_>>()
            };
            prop_assert_eq!(limits(&one), limits(&other));
        }

        #[test]
        fn quota_survives_its_own_text(uid in 0u32..9, sockets in 0u32..9, bytes in 1u32..9) {
            let table = QuotaTable {
                subject: SubjectPattern::Uid(uid), sockets: NonZeroU32::new(sockets), memory_mib: None,
                connects_per_second: None, packets_per_second: None, bytes_per_second: NonZeroU32::new(bytes),
            };
            prop_assert_eq!(&tables(&table.to_string())[0].1, &table);
        }
    }
}
