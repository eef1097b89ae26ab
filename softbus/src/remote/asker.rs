//! The asking side of a control stream: ids, deadlines, and which reply belongs to what was asked.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::envelope::{Outcome, Payload, Reply, Request, Status, Target};
use crate::error::Error;
use crate::time::Instant;

/// How much longer than the server's a deadline is here, so that the server's own words arrive as a rule.
const GRACE: Duration = Duration::from_millis(250);

/// What was asked and is not over yet; `T` is what its user knows it by.
#[derive(Debug)]
pub struct Asker<T> {
    next: u32,
    waiting: BTreeMap<u32, Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    user: T,
    /// None for a subscription that has begun.
    deadline: Option<Instant>,
    /// Its answer is the beginning, and events follow.
    subscription: bool,
}

impl<T> Default for Asker<T> {
    fn default() -> Asker<T> {
        Asker { next: 1, waiting: BTreeMap::new() }
    }
}

impl<T> Asker<T> {
    /// Asks something; gives the envelope to send. What comes of it, [`handle_reply`](Self::handle_reply) and [`poll`](Self::poll) say.
    ///
    /// # Errors
    /// The request is too long; `user` comes back with the reason.
    pub fn ask(
        &mut self,
        now: Instant,
        deadline: Duration,
        target: Target,
        head: Vec<u8>,
        payload: Payload,
        user: T,
    ) -> Result<Vec<u8>, (T, Error)> {
        let id = self.free_id();
        let request = Request { id, deadline: Some(deadline), target, head, payload };
        let envelope = match request.encode() {
            Ok(envelope) => envelope,
            Err(error) => return Err((user, error)),
        };
        let subscription = target == Target::Topic;
        let deadline = Some(now + deadline + GRACE);
        self.waiting.insert(id, Waiting { user, deadline, subscription });
        Ok(envelope)
    }

    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }

    /// A reply came. If it ends what was asked, the user is given back for good, otherwise lent; none if nobody waits for it any more.
    pub fn handle_reply(&mut self, reply: Reply) -> Option<Answered<'_, T>> {
        let Reply { id, outcome } = reply;
        let waiting = self.waiting.get_mut(&id)?;
        let goes_on = match &outcome {
            Outcome::Done(_) => waiting.subscription && waiting.deadline.take().is_some(),
            Outcome::Event { .. } => waiting.subscription && waiting.deadline.is_none(),
            Outcome::Carried { .. } | Outcome::Failed { .. } => false,
        };
        if !goes_on {
            let Waiting { user, .. } = self.waiting.remove(&id)?;
            return Some(Answered::Over(user, only_of_its_kind(outcome)));
        }
        let Waiting { user, .. } = self.waiting.get_mut(&id)?;
        Some(Answered::GoesOn(user, outcome))
    }

    /// The user gave up what fits; gives the envelopes that say so.
    pub fn cancel(&mut self, gave_up: impl Fn(&T) -> bool) -> Vec<Vec<u8>> {
        let over: Vec<u32> =
            self.waiting.iter().filter(|(_, waiting)| gave_up(&waiting.user)).map(|(id, _)| *id).collect();
        over.into_iter()
            .filter_map(|id| {
                self.waiting.remove(&id);
                cancellation(id)
            })
            .collect()
    }

    /// Those whose deadline has passed, with the envelopes that tell the server.
    pub fn poll(&mut self, now: Instant) -> Vec<(T, Vec<u8>)> {
        let is_late = |waiting: &Waiting<T>| waiting.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u32> =
            self.waiting.iter().filter(|(_, waiting)| is_late(waiting)).map(|(id, _)| *id).collect();
        late.into_iter()
            .filter_map(|id| {
                let Waiting { user, .. } = self.waiting.remove(&id)?;
                Some((user, cancellation(id).unwrap_or_default()))
            })
            .collect()
    }

    /// When to call [`poll`](Self::poll).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|waiting| waiting.deadline).min()
    }

    /// Everybody, since the stream is over.
    pub fn end(&mut self) -> Vec<T> {
        core::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.user).collect()
    }

    /// Those who wait.
    pub fn users(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|waiting| &waiting.user)
    }

    /// What is not over yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing was asked that is not over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What a reply means for its user.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered<'a, T> {
    /// It is over, so.
    Over(T, Outcome),
    /// A subscription began, or something was published.
    GoesOn(&'a mut T, Outcome),
}

/// An event for what is no subscription, or none yet, is an answer that makes no sense.
fn only_of_its_kind(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Event { .. } => Outcome::Failed {
            status: Status::Failed,
            message: String::from("an event, where none was asked for"),
        },
        outcome => outcome,
    }
}

fn cancellation(id: u32) -> Option<Vec<u8>> {
    let payload = Payload::Inline(Vec::new());
    // A request without head and payload is never too long.
    Request { id, deadline: None, target: Target::Cancel, head: Vec::new(), payload }.encode().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ask(asker: &mut Asker<u8>, target: Target, user: u8) -> u32 {
        let envelope =
            asker.ask(Instant::ZERO, SECOND, target, Vec::new(), Payload::Inline(Vec::new()), user).unwrap();
        Request::parse(&envelope[2..]).unwrap().id
    }

    fn done(id: u32) -> Reply {
        Reply { id, outcome: Outcome::Done(Vec::new()) }
    }

    fn event(id: u32) -> Reply {
        Reply { id, outcome: Outcome::Event { lost: 0, body: Vec::new() } }
    }

    #[test]
    fn answers_in_any_order_reach_whoever_asked_once() {
        let mut asker = Asker::default();
        let (one, two) = (ask(&mut asker, Target::Call, 1), ask(&mut asker, Target::Call, 2));
        assert_eq!(asker.handle_reply(done(two)), Some(Answered::Over(2, Outcome::Done(Vec::new()))));
        assert_eq!(asker.handle_reply(done(two)), None);
        assert_eq!(asker.handle_reply(done(77)), None);
        assert_eq!(asker.handle_reply(done(one)), Some(Answered::Over(1, Outcome::Done(Vec::new()))));
        assert!(asker.is_empty());
    }

    #[test]
    fn request_unanswered_ends_with_its_deadline_and_the_server_is_told() {
        let mut asker = Asker::default();
        let id = ask(&mut asker, Target::Call, 1);
        assert!(asker.poll(Instant::ZERO + SECOND).is_empty());
        let at = asker.poll_timeout().unwrap();
        let late = asker.poll(at);
        let cancelled = Request::parse(&late[0].1[2..]).unwrap();
        assert_eq!((late[0].0, cancelled.id, cancelled.target), (1, id, Target::Cancel));
        assert_eq!(asker.handle_reply(done(id)), None, "too late");
        assert_eq!(asker.poll_timeout(), None);
    }

    #[test]
    fn subscription_goes_on_until_it_fails_or_is_cancelled() {
        let mut asker = Asker::default();
        let id = ask(&mut asker, Target::Topic, 1);
        assert!(matches!(asker.handle_reply(done(id)), Some(Answered::GoesOn(..))));
        assert_eq!(asker.poll_timeout(), None, "what has begun has no deadline");
        for _ in 0..3 {
            assert!(matches!(asker.handle_reply(event(id)), Some(Answered::GoesOn(..))));
        }
        assert_eq!(asker.cancel(|user| *user == 1).len(), 1);
        assert_eq!(asker.handle_reply(event(id)), None);
        assert!(asker.cancel(|user| *user == 1).is_empty());
    }

    #[test]
    fn event_where_none_was_asked_for_is_a_failure_of_the_server() {
        let mut asker = Asker::default();
        for target in [Target::Call, Target::Topic] {
            let id = ask(&mut asker, target, 1);
            let over = asker.handle_reply(event(id));
            assert!(
                matches!(over, Some(Answered::Over(1, Outcome::Failed { status: Status::Failed, .. }))),
                "{over:?}"
            );
        }
        let id = ask(&mut asker, Target::Topic, 1);
        asker.handle_reply(done(id));
        assert!(matches!(asker.handle_reply(done(id)), Some(Answered::Over(..))), "begun twice");
    }

    #[test]
    fn request_too_long_comes_back_and_nothing_waits() {
        let mut asker = Asker::default();
        let payload = Payload::Inline(alloc::vec![0; 300]);
        let refused = asker.ask(Instant::ZERO, SECOND, Target::Call, Vec::new(), payload, 9);
        assert!(matches!(refused, Err((9, Error::Oversize { .. }))));
        assert!(asker.is_empty());
    }

    #[test]
    fn stream_over_gives_everybody_back() {
        let mut asker = Asker::default();
        ask(&mut asker, Target::Call, 1);
        ask(&mut asker, Target::Topic, 2);
        assert_eq!(asker.end(), [1, 2]);
    }
}
