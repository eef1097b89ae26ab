//! What a client offers its service for, and what waits for it there.

use std::sync::Arc;

use netd_softbus::remote::gateway::Offers;
use tokio::sync::mpsc;

use super::calls::{self, Pending};
use super::topics::Hub;

/// The registry's side of a service's calls and topics.
#[derive(Debug)]
pub(in crate::bus) struct Wanted {
    pub(in crate::bus) calls: Option<mpsc::Sender<Pending>>,
    pub(in crate::bus) topics: Option<Arc<Hub>>,
}

/// The client's.
#[derive(Debug)]
pub(in crate::bus) struct Given {
    /// Calls that wait to be taken.
    pub(in crate::bus) calls: Option<mpsc::Receiver<Pending>>,
    pub(in crate::bus) topics: Option<Arc<Hub>>,
    /// Numbers of calls that it took, and may not have answered.
    pub(in crate::bus) taken: Vec<u64>,
}

/// Both sides of what is offered.
pub(in crate::bus) fn pair(offers: Offers) -> (Wanted, Given) {
    let (wanted_calls, given_calls) = offers
        .calls
        .then(|| mpsc::channel(calls::BACKLOG))
        .map_or((None, None), |(tx, rx)| (Some(tx), Some(rx)));
    let topics = offers.topics.then(|| Arc::new(Hub::default()));
    (
        Wanted { calls: wanted_calls, topics: topics.clone() },
        Given { calls: given_calls, topics, taken: Vec::new() },
    )
}
