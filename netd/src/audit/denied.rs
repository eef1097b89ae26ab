//! What was denied lately, by user: what `netctl policy learn` makes grants from.
//!
//! Each user has a share of its own, so that one who is denied in a loop cannot make the denials of others be forgotten.

use std::collections::HashMap;

use netd_policy::{Request, Subject, SubjectPattern};

/// Different requests remembered of one user: more than any program that works asks for.
const REQUESTS_MAX: usize = 256;
/// Users remembered: with [`REQUESTS_MAX`] requests of some 200 bytes, 3 MiB at the very most.
const USERS_MAX: usize = 64;

/// Something that was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Who asked, the last time.
    pub subject: Subject,
    /// For what.
    pub request: Request,
    /// How often.
    pub count: u64,
    /// The number of the last time.
    number: u64,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Memory {
    users: HashMap<u32, Vec<Denied>>,
    /// The number of the last denial; the first has 1.
    last: u64,
}

impl Memory {
    pub(super) fn add(&mut self, subject: &Subject, request: &Request) {
        self.last += 1;
        let number = self.last;
        if self.users.len() >= USERS_MAX && !self.users.contains_key(&subject.uid) {
            self.forget_a_user();
        }
        let denials = self.users.entry(subject.uid).or_default();
        let same = |denied: &&mut Denied| {
            denied.request == *request
                && denied.subject.gid == subject.gid
                && denied.subject.unit == subject.unit
        };
        if let Some(denied) = denials.iter_mut().find(same) {
            denied.count += 1;
            denied.number = number;
            denied.subject.pid = subject.pid;
            return;
        }
        if denials.len() >= REQUESTS_MAX
            && let Some(oldest) = (0..denials.len()).min_by_key(|index| denials[*index].number)
        {
            denials.swap_remove(oldest);
        }
        denials.push(Denied { subject: subject.clone(), request: request.clone(), count: 1, number });
    }

    /// What `who` was denied since the number `since`, the oldest first, and the number to go on with.
    pub(super) fn since(&self, since: u64, who: &SubjectPattern) -> (Vec<Denied>, u64) {
        let wanted = |denied: &&Denied| denied.number >= since && who.is(&denied.subject);
        let mut denials: Vec<Denied> = self.users.values().flatten().filter(wanted).cloned().collect();
        denials.sort_by_key(|denied| denied.number);
        (denials, self.last + 1)
    }

    /// The one who was not denied anything for the longest time.
    fn forget_a_user(&mut self) {
        let last = |denials: &Vec<Denied>| denials.iter().map(|denied| denied.number).max();
        let oldest = self.users.iter().min_by_key(|(_, denials)| last(denials)).map(|(uid, _)| *uid);
        if let Some(uid) = oldest {
            self.users.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(uid: u32) -> Subject {
        Subject { uid, gid: uid, pid: 1, unit: None }
    }

    fn bind(port: u16) -> Request {
        Request::UdpBind { port: Some(port) }
    }

    #[test]
    fn denials_are_told_since_a_number_and_repeated_ones_once() {
        let mut memory = Memory::default();
        memory.add(&subject(1), &bind(1));
        memory.add(&subject(2), &bind(2));
        let (all, next) = memory.since(0, &SubjectPattern::Any);
        assert_eq!(all.len(), 2);
        assert!(memory.since(next, &SubjectPattern::Any).0.is_empty());
        memory.add(&subject(1), &bind(1));
        let (again, _) = memory.since(next, &SubjectPattern::Any);
        assert_eq!((again.len(), again[0].count, &again[0].request), (1, 2, &bind(1)));
        assert_eq!(memory.since(0, &SubjectPattern::Uid(2)).0[0].request, bind(2));
    }

    #[test]
    fn one_user_in_a_loop_makes_nobody_elses_denials_be_forgotten() {
        let mut memory = Memory::default();
        memory.add(&subject(1), &bind(1));
        (1..10_000).for_each(|port| memory.add(&subject(2), &bind(port)));
        assert_eq!(memory.since(0, &SubjectPattern::Uid(1)).0.len(), 1);
        let (kept, _) = memory.since(0, &SubjectPattern::Uid(2));
        assert_eq!((kept.len(), &kept[REQUESTS_MAX - 1].request), (REQUESTS_MAX, &bind(9999)));
        (100..300).for_each(|uid| memory.add(&subject(uid), &bind(1)));
        assert_eq!(memory.users.len(), USERS_MAX);
    }
}
