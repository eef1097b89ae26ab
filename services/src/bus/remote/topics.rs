//! What services publish, and the queues of those who subscribed: each loses its oldest events when it is not emptied, and nobody waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use netd_softbus::TopicName;
use netd_softbus::remote::Status;
use netd_softbus::remote::topic::{Backlog, Event};
use tokio::sync::Notify;

use super::asker::GiveUp;
use super::{Refusal, refusal};

/// Subscriptions of one service: what publishing costs.
const SUBSCRIBERS_MAX: usize = 256;

/// Events that wait for one subscriber. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Events as a reply has them; subscribers of one event share it.
    backlog: Backlog<Arc<[u8]>>,
    end: Option<Refusal>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, lost: u32, event: Arc<[u8]>) {
        self.state().backlog.push(lost, event);
        self.0.changed.notify_one();
    }

    /// There will be no more.
    pub(super) fn close(&self, why: Refusal) {
        self.state().end.get_or_insert(why);
        self.0.changed.notify_one();
    }

    /// Waits for the next event, and how many were lost before it; or for the end.
    async fn next(&self) -> Result<(u32, Arc<[u8]>), Refusal> {
        loop {
            {
                let mut state = self.state();
                if let Some(event) = state.backlog.pop() {
                    return Ok(event);
                }
                if let Some(why) = &state.end {
                    return Err(why.clone());
                }
            }
            self.0.changed.notified().await;
        }
    }
}

/// A subscription; it ends when it is dropped.
#[derive(Debug)]
pub(in crate::bus) struct Subscription {
    queue: Queue,
    _held: Held,
}

/// What ends with a subscription.
#[derive(Debug)]
pub(super) enum Held {
    /// A place at a service of this machine.
    Place { _place: Place },
    /// A request to another device.
    Request { _request: GiveUp },
}

impl Subscription {
    pub(super) fn new(queue: Queue, held: Held) -> Subscription {
        Subscription { queue, _held: held }
    }

    /// Waits for the next event, and how many were lost before it; or for the end.
    pub(super) async fn next(&self) -> Result<(u32, Arc<[u8]>), Refusal> {
        self.queue.next().await
    }
}

/// Those who subscribed to one service.
#[derive(Debug, Default)]
pub(in crate::bus) struct Hub {
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    topic: Option<TopicName>,
    queue: Queue,
}

/// A subscriber's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    hub: Weak<Hub>,
    queue: Queue,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.subscribers().retain(|subscriber| !Arc::ptr_eq(&subscriber.queue.0, &self.queue.0));
        }
    }
}

impl Hub {
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all subscriptions, after what waits for them: the service is not offered any more.
    pub(in crate::bus) fn close(&self) {
        for subscriber in self.subscribers().drain(..) {
            subscriber.queue.close(refusal(Status::Gone, "the service's client went away"));
        }
    }

    /// Gives an event to everybody who wants it: how many that are.
    ///
    /// # Errors
    /// It is longer than an event may be.
    pub(in crate::bus) fn publish(&self, event: &Event) -> Result<usize, netd_softbus::Error> {
        let body: Arc<[u8]> = event.encode()?.into();
        let subscribers = self.subscribers();
        let wants =
            |subscriber: &&Subscriber| subscriber.topic.as_ref().is_none_or(|topic| *topic == event.topic);
        let mut count = 0;
        for subscriber in subscribers.iter().filter(wants) {
            subscriber.queue.push(0, Arc::clone(&body));
            count += 1;
        }
        Ok(count)
    }
}

pub(super) fn subscribe(hub: &Arc<Hub>, topic: Option<TopicName>) -> Result<Subscription, Refusal> {
    let mut subscribers = hub.subscribers();
    if subscribers.len() >= SUBSCRIBERS_MAX {
        return Err(refusal(Status::Busy, format!("{SUBSCRIBERS_MAX} subscribed to the service already")));
    }
    let queue = Queue::default();
    subscribers.push(Subscriber { topic, queue: queue.clone() });
    let place = Place { hub: Arc::downgrade(hub), queue: queue.clone() };
    Ok(Subscription::new(queue, Held::Place { _place: place }))
}

#[cfg(test)]
mod tests {
    use netd_softbus::remote::topic::BACKLOG_MAX;

    use super::*;

    fn event(topic: &str, number: u8) -> Event {
        Event { topic: topic.parse().unwrap(), payload: vec![number] }
    }

    async fn next(subscription: &Subscription) -> (u32, Event) {
        let (lost, body) = subscription.next().await.unwrap();
        (lost, Event::parse(&body).unwrap())
    }

    #[tokio::test]
    async fn event_reaches_those_who_want_its_topic() {
        let hub = Arc::new(Hub::default());
        let all = subscribe(&hub, None).unwrap();
        let some = subscribe(&hub, Some("heat".parse().unwrap())).unwrap();
        assert_eq!(hub.publish(&event("light", 1)).unwrap(), 1);
        assert_eq!(hub.publish(&event("heat", 2)).unwrap(), 2);
        assert_eq!(next(&all).await, (0, event("light", 1)));
        assert_eq!(next(&all).await, (0, event("heat", 2)));
        assert_eq!(next(&some).await, (0, event("heat", 2)));
        drop(some);
        assert_eq!(hub.publish(&event("heat", 3)).unwrap(), 1);
    }

    #[tokio::test]
    async fn subscriber_too_slow_loses_the_oldest_and_nobody_else_does() {
        let hub = Arc::new(Hub::default());
        let (slow, quick) = (subscribe(&hub, None).unwrap(), subscribe(&hub, None).unwrap());
        for number in 0..u8::try_from(BACKLOG_MAX).unwrap() + 3 {
            hub.publish(&event("heat", number)).unwrap();
            assert_eq!(next(&quick).await, (0, event("heat", number)));
        }
        assert_eq!(next(&slow).await, (3, event("heat", 3)));
        assert_eq!(next(&slow).await, (0, event("heat", 4)));
    }

    #[tokio::test]
    async fn publisher_gone_ends_the_subscription_after_what_it_said() {
        let hub = Arc::new(Hub::default());
        let subscription = subscribe(&hub, None).unwrap();
        hub.publish(&event("heat", 1)).unwrap();
        hub.close();
        assert_eq!(next(&subscription).await, (0, event("heat", 1)));
        assert_eq!(subscription.next().await.unwrap_err().status, Status::Gone);
    }

    #[test]
    fn subscriptions_of_a_service_are_bounded_and_room_returns() {
        let hub = Arc::new(Hub::default());
        let mut held: Vec<_> = (0..SUBSCRIBERS_MAX).map(|_| subscribe(&hub, None).unwrap()).collect();
        assert_eq!(subscribe(&hub, None).unwrap_err().status, Status::Busy);
        held.pop();
        assert!(subscribe(&hub, None).is_ok());
    }
}
