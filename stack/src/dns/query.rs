//! One query of a caller: which names it may mean, which questions each of them takes, and when they are answered.
//!
//! A query walks through candidates, the name itself and the name below each domain of the search list, in the order of
//! resolv.conf(5). A candidate has one branch, or two when addresses of both families are sought; each branch follows its own
//! aliases. The first candidate with any record wins. "Does not exist" and "has no such record" lead on to the next
//! candidate; a failure does not, because a server in trouble must not turn one name into another.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use super::error::Error;
use super::finding::{ALIASES_MAX, Finding, Outcome, Question};
use super::local::is_link_local;
use super::name::Name;
use super::types::{Answer, Data, Kind, Mdns, Source};
use crate::random::Random;
use crate::time::Instant;

/// How long the other family may take once one is there. Some servers never answer for AAAA, and a caller with an address in
/// hand should not wait out all their rounds; RFC 8305, 3 would wait 50 ms, for a caller that takes late addresses too.
const SECOND_FAMILY_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Lookup {
    /// For messages.
    asked: Name,
    kind: Kind,
    mdns: Mdns,
    candidates: VecDeque<Name>,
    name: Name,
    branches: Vec<Branch>,
    /// Some candidate exists, but has no such record.
    no_data: bool,
    /// When [`Lookup::expire`] is due.
    pub(super) deadline: Instant,
    is_hurried: bool,
}

struct Branch {
    question: Question,
    aliases: Vec<Name>,
    ttl: Duration,
    state: State,
}

enum State {
    Unasked,
    Asked,
    Settled(Arc<Finding>, Source),
}

/// What a lookup wants.
pub(super) enum Step {
    /// An answer to this question; it is told by [`Lookup::settle`].
    Ask(Question),
    /// Nothing until a question is settled.
    Wait,
    Finish(Result<Answer, Error>),
}

/// The names that `name` may mean, in the order to try them.
pub(super) fn candidates(name: &Name, absolute: bool, search: &[Name], ndots: usize) -> VecDeque<Name> {
    let mut candidates = VecDeque::new();
    // Names of the link and fixed names are whole as they are.
    let whole = absolute || is_link_local(name) || name.ends_with(&[b"localhost"]);
    if !whole {
        candidates.extend(search.iter().filter_map(|domain| name.below(domain).ok()));
    }
    if name.labels().count() > ndots {
        candidates.push_front(name.clone());
    } else {
        candidates.push_back(name.clone());
    }
    candidates
}

impl Lookup {
    pub(super) fn new(
        asked: Name,
        kind: Kind,
        mdns: Mdns,
        candidates: VecDeque<Name>,
        deadline: Instant,
    ) -> Lookup {
        let name = asked.clone();
        let branches = Vec::new();
        Lookup { asked, kind, mdns, candidates, name, branches, no_data: false, deadline, is_hurried: false }
    }

    /// Goes on as far as it can.
    pub(super) fn step(&mut self) -> Step {
        loop {
            if let Some(branch) =
                self.branches.iter_mut().find(|branch| matches!(branch.state, State::Unasked))
            {
                branch.state = State::Asked;
                return Step::Ask(branch.question.clone());
            }
            if self.branches.iter().any(|branch| matches!(branch.state, State::Asked)) {
                return Step::Wait;
            }
            if let Some(result) = self.conclude() {
                return Step::Finish(result);
            }
            match self.candidates.pop_front() {
                Some(name) => self.begin(name),
                None => return Step::Finish(Err(self.missing())),
            }
        }
    }

    fn begin(&mut self, name: Name) {
        // The servers take one type in a question; the link takes two, and so a host without IPv6 costs no second wait.
        let kinds: &[Kind] = match self.kind {
            Kind::Addresses if !self.is_multicast(&name) => &[Kind::Aaaa, Kind::A],
            _ => core::slice::from_ref(&self.kind),
        };
        self.branches = kinds
            .iter()
            .map(|&kind| Branch {
                question: Question { name: name.clone(), kind },
                aliases: Vec::new(),
                ttl: Duration::MAX,
                state: State::Unasked,
            })
            .collect();
        self.name = name;
    }

    fn is_multicast(&self, name: &Name) -> bool {
        (self.mdns.ipv4 || self.mdns.ipv6) && is_link_local(name)
    }

    /// Tells what became of a question, and how long that holds.
    pub(super) fn settle(
        &mut self,
        question: &Question,
        finding: &Arc<Finding>,
        ttl: Duration,
        source: Source,
    ) {
        let waits = |branch: &Branch| matches!(branch.state, State::Asked) && branch.question == *question;
        let Some(index) = self.branches.iter().position(waits) else { return };
        let crosses = |to: &Name| self.is_multicast(&question.name) != self.is_multicast(to);
        let crossing = finding.aliases.iter().find(|to| crosses(to)).cloned();
        let branch = &mut self.branches[index];
        branch.ttl = branch.ttl.min(ttl);
        let failure = if let Some(to) = crossing {
            // The link may not speak for the DNS, nor a distant server for the link.
            Some(Error::AliasCrosses { from: question.name.clone(), to })
        } else if branch.aliases.len() + finding.aliases.len() > ALIASES_MAX {
            Some(Error::TooManyAliases { name: self.name.clone(), limit: ALIASES_MAX })
        } else {
            None
        };
        if let Some(error) = failure {
            branch.state = State::Settled(Arc::new(Finding::failed(error)), source);
            return;
        }
        branch.aliases.extend(finding.aliases.iter().cloned());
        match (&finding.outcome, finding.aliases.last()) {
            (Outcome::Alias, Some(target)) => {
                branch.question.name = target.clone();
                branch.state = State::Unasked;
            }
            _ => branch.state = State::Settled(Arc::clone(finding), source),
        }
    }

    /// The result, unless the next candidate is to be tried. A branch that is not settled will not be in time.
    fn conclude(&mut self) -> Option<Result<Answer, Error>> {
        let mut answer: Option<Answer> = None;
        let mut failure = None;
        for branch in &self.branches {
            let State::Settled(finding, source) = &branch.state else {
                failure = Some(self.timed_out());
                continue;
            };
            match &finding.outcome {
                Outcome::Records(records) => match &mut answer {
                    Some(answer) => {
                        answer.records.extend(records.iter().cloned());
                        answer.ttl = answer.ttl.min(branch.ttl);
                    }
                    None => {
                        answer = Some(Answer {
                            name: self.name.clone(),
                            aliases: branch.aliases.clone(),
                            records: records.clone(),
                            ttl: branch.ttl,
                            source: *source,
                            incomplete: false,
                        });
                    }
                },
                Outcome::Failed(error) => failure = Some(error.clone()),
                Outcome::NoData => self.no_data = true,
                Outcome::Alias | Outcome::NoSuchName => {}
            }
        }
        match (answer, failure) {
            (Some(mut answer), failure) => {
                answer.incomplete = failure.is_some();
                answer.records.sort_by_key(|data| matches!(data, Data::A(_)));
                Some(Ok(answer))
            }
            (None, Some(error)) => Some(Err(error)),
            (None, None) => None,
        }
    }

    fn missing(&self) -> Error {
        let name = self.asked.clone();
        if self.no_data { Error::NoData { name, kind: self.kind } } else { Error::NoSuchName { name } }
    }

    /// It waits. If one family is there, it does so only a moment more; then the deadline that this replaces is returned.
    pub(super) fn hurry(&mut self, now: Instant) -> Option<Instant> {
        let has_records = |branch: &Branch| match &branch.state {
            State::Settled(finding, _) => matches!(finding.outcome, Outcome::Records(_)),
            State::Unasked | State::Asked => false,
        };
        if self.is_hurried || !self.branches.iter().any(has_records) {
            return None;
        }
        self.is_hurried = true;
        let sooner = self.deadline.min(now + SECOND_FAMILY_WAIT);
        Some(core::mem::replace(&mut self.deadline, sooner))
    }

    /// The time is over: what is there counts.
    pub(super) fn expire(&mut self) -> Result<Answer, Error> {
        self.conclude().unwrap_or_else(|| Err(self.timed_out()))
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { name: self.name.clone() }
    }

    /// The questions that it waits for.
    pub(super) fn questions(&self) -> impl Iterator<Item = &Question> {
        self.branches
            .iter()
            .filter(|branch| matches!(branch.state, State::Asked))
            .map(|branch| &branch.question)
    }
}

/// Brings SRV records into the order to try them: by priority, then at random by weight (RFC 2782, "Weight").
pub(super) fn order_services(records: &mut [Data], random: &mut Random) {
    let place = |data: &Data| match data {
        Data::Srv { priority, weight, .. } => (*priority, *weight),
        _ => (0, 0),
    };
    // Those of weight zero first, as the RFC wants them in the running sum.
    records.sort_by_key(place);
    for index in 0..records.len() {
        let (priority, _) = place(&records[index]);
        let equals = records[index..].iter().take_while(|data| place(data).0 == priority).count();
        let group = &mut records[index..index + equals];
        let total: u32 = group.iter().map(|data| u32::from(place(data).1)).sum();
        let drawn = random.below(total + 1);
        let mut sum = 0;
        let chosen = group.iter().position(|data| {
            sum += u32::from(place(data).1);
            sum >= drawn
        });
        // The chosen one comes to the front; the others keep their order.
        group[..=chosen.unwrap_or(0)].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn name_relative_is_tried_in_the_order_of_its_dots() {
        let search = names(&["eng.example", "example"]);
        let order = |text: &str, ndots| {
            let (name, absolute) = Name::parse(text).unwrap();
            Vec::from(candidates(&name, absolute, &search, ndots))
        };
        assert_eq!(order("db", 1), names(&["db.eng.example", "db.example", "db"]));
        assert_eq!(order("db.lab", 1), names(&["db.lab", "db.lab.eng.example", "db.lab.example"]));
        assert_eq!(order("db.lab", 2), names(&["db.lab.eng.example", "db.lab.example", "db.lab"]));
        assert_eq!(order("db.", 1), names(&["db"]));
        assert_eq!(order("printer.local", 2), names(&["printer.local"]));
    }

    #[test]
    fn services_are_ordered_by_priority_and_shared_by_weight() {
        let service = |priority, weight, port| Data::Srv { priority, weight, port, target: Name::root() };
        let mut random = Random::new(&[1; 32]);
        let mut first = [0; 2];
        for _ in 0..1000 {
            let mut records = [service(20, 0, 3), service(10, 90, 1), service(10, 10, 0)];
            order_services(&mut records, &mut random);
            assert_eq!(records[2], service(20, 0, 3));
            let Data::Srv { port, .. } = records[0] else { panic!("{records:?}") };
            first[usize::from(port)] += 1;
        }
        assert!((50..200).contains(&first[0]), "{first:?}");
    }
}
