//! Topics: what a service publishes, for whoever subscribed.
//!
//! A subscriber that does not keep up loses the oldest events, and is told how many: each of the queues on the way is a [`Backlog`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::call::push_name;
use super::envelope::BODY_BYTES_MAX;
use crate::error::Error;
use crate::name::{NAME_BYTES_MAX, ServiceName, TopicName};
use crate::read::Reader;

/// Events that wait for a subscriber.
pub const BACKLOG_MAX: usize = 32;
/// The longest payload of an event: the body of a reply, less the longest topic.
pub const EVENT_BYTES_MAX: usize = BODY_BYTES_MAX - 1 - NAME_BYTES_MAX;

/// The head of a request for [`Target::Topic`](super::Target::Topic).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// To what this service publishes.
    pub service: ServiceName,
    /// On this topic; none is on all.
    pub topic: Option<TopicName>,
}

impl Subscribe {
    /// As a request has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_name(&mut bytes, self.service.as_str());
        push_name(&mut bytes, self.topic.as_ref().map_or("", TopicName::as_str));
        bytes
    }

    /// What a peer asked.
    ///
    /// # Errors
    /// It is no subscription.
    pub fn parse(head: &[u8]) -> Result<Subscribe, Error> {
        let mut reader = Reader::new("subscription", head);
        let service = ServiceName::from_bytes(reader.short("service")?)?;
        let topic = match reader.short("topic")? {
            [] => None,
            topic => Some(TopicName::from_bytes(topic)?),
        };
        reader.end()?;
        Ok(Subscribe { service, topic })
    }
}

/// What was published: the body of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// On which topic.
    pub topic: TopicName,
    /// What.
    pub payload: Vec<u8>,
}

impl Event {
    /// As a reply has it.
    ///
    /// # Errors
    /// The payload is longer than [`EVENT_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        if self.payload.len() > EVENT_BYTES_MAX {
            let len = self.payload.len();
            return Err(Error::Oversize { message: "payload of an event", len, max: EVENT_BYTES_MAX });
        }
        let mut bytes = Vec::new();
        push_name(&mut bytes, self.topic.as_str());
        bytes.extend(&self.payload);
        Ok(bytes)
    }

    /// What a peer sent.
    ///
    /// # Errors
    /// It is no event.
    pub fn parse(body: &[u8]) -> Result<Event, Error> {
        let mut reader = Reader::new("event", body);
        let topic = TopicName::from_bytes(reader.short("topic")?)?;
        Ok(Event { topic, payload: reader.rest().to_vec() })
    }
}

/// What waits for a subscriber, the oldest first.
#[derive(Debug)]
pub struct Backlog<T> {
    waiting: VecDeque<(u32, T)>,
    /// Dropped before the first that waits.
    lost: u32,
    lost_total: u64,
}

impl<T> Default for Backlog<T> {
    fn default() -> Backlog<T> {
        Backlog { waiting: VecDeque::new(), lost: 0, lost_total: 0 }
    }
}

impl<T> Backlog<T> {
    /// Adds an event before which `lost` were dropped elsewhere; the oldest goes if there are [`BACKLOG_MAX`].
    pub fn push(&mut self, lost: u32, event: T) {
        self.lost_total += u64::from(lost);
        if self.waiting.len() >= BACKLOG_MAX
            && let Some((before, _)) = self.waiting.pop_front()
        {
            self.lost = self.lost.saturating_add(before).saturating_add(1);
            self.lost_total += 1;
        }
        self.waiting.push_back((lost, event));
    }

    /// The oldest, and how many were dropped between it and the one before.
    pub fn pop(&mut self) -> Option<(u32, T)> {
        let (before, event) = self.waiting.pop_front()?;
        Some((core::mem::take(&mut self.lost).saturating_add(before), event))
    }

    /// Dropped in all.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_total
    }

    /// Those that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn subscription_and_event_encoded_are_read_as_they_were(
            service in "\\PC{1,16}", topic in prop::option::of("\\PC{1,16}"), payload in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let topic: Option<TopicName> = topic.map(|topic| topic.parse().unwrap());
            let subscribe = Subscribe { service: service.parse().unwrap(), topic: topic.clone() };
            let encoded = subscribe.encode();
            prop_assert_eq!(Subscribe::parse(&encoded), Ok(subscribe));
            for at in 0..encoded.len() {
                prop_assert!(Subscribe::parse(&encoded[..at]).is_err());
            }
            if let Some(topic) = topic {
                let event = Event { topic, payload };
                prop_assert_eq!(Event::parse(&event.encode().unwrap()), Ok(event));
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(subscribe) = Subscribe::parse(&bytes) {
                prop_assert_eq!(subscribe.encode(), bytes.clone());
            }
            if let Ok(event) = Event::parse(&bytes) {
                prop_assert_eq!(event.encode().unwrap(), bytes);
            }
        }

        /// Whatever is pushed and popped: what comes is in order, and with what is told lost it is everything.
        #[test]
        fn backlog_accounts_for_each_event(steps in prop::collection::vec((any::<bool>(), 0u32..3), 0..300)) {
            let mut backlog = Backlog::default();
            let (mut pushed, mut accounted) = (0u32, 0u32);
            for (push, lost) in steps {
                if push {
                    pushed += lost;
                    backlog.push(lost, pushed);
                    pushed += 1;
                } else if let Some((lost, event)) = backlog.pop() {
                    accounted += lost;
                    prop_assert_eq!(event, accounted);
                    accounted += 1;
                }
                prop_assert!(backlog.len() <= BACKLOG_MAX);
            }
            while let Some((lost, event)) = backlog.pop() {
                accounted += lost;
                prop_assert_eq!(event, accounted);
                accounted += 1;
            }
            prop_assert_eq!(accounted, pushed);
        }
    }

    #[test]
    fn event_longer_than_its_bound_is_not_sent() {
        let event = |bytes| Event { topic: "x".repeat(64).parse().unwrap(), payload: vec![0; bytes] };
        assert_eq!(event(EVENT_BYTES_MAX).encode().unwrap().len(), BODY_BYTES_MAX);
        assert!(event(EVENT_BYTES_MAX + 1).encode().is_err());
    }

    #[test]
    fn subscriber_that_does_not_keep_up_loses_the_oldest_and_is_told() {
        let mut backlog = Backlog::default();
        for number in 0..BACKLOG_MAX + 5 {
            backlog.push(0, number);
        }
        assert_eq!(backlog.pop(), Some((5, 5)));
        assert_eq!(backlog.pop(), Some((0, 6)));
        assert_eq!(backlog.lost(), 5);
    }
}
