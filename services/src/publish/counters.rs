//! What became of a port's connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a connection to a published port ended, or why it never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ended {
    #[error("both sides were done")]
    Finished,
    #[error("the port has as many connections as it may ('connections')")]
    RefusedFull,
    #[error("its source has as many connections as it may ('connections_per_source')")]
    RefusedSource,
    #[error("its source came too often ('new_per_second_per_source')")]
    RefusedRate,
    #[error("the server did not take it")]
    TargetFailed,
    #[error("its first bytes did not come in time ('request_read_seconds')")]
    RequestLate,
    #[error("it took nothing of what was sent to it ('response_send_seconds')")]
    ResponseStalled,
    #[error("the peer reset it")]
    PeerReset,
    #[error("the server reset it")]
    TargetReset,
    #[error("netd-services is stopping")]
    Stopped,
}

impl Ended {
    /// In the order of the variants.
    const ALL: [Ended; 10] = [
        Ended::Finished,
        Ended::RefusedFull,
        Ended::RefusedSource,
        Ended::RefusedRate,
        Ended::TargetFailed,
        Ended::RequestLate,
        Ended::ResponseStalled,
        Ended::PeerReset,
        Ended::TargetReset,
        Ended::Stopped,
    ];

    /// As it is counted.
    fn name(self) -> &'static str {
        match self {
            Ended::Finished => "finished",
            Ended::RefusedFull => "refused_full",
            Ended::RefusedSource => "refused_source",
            Ended::RefusedRate => "refused_rate",
            Ended::TargetFailed => "target_failed",
            Ended::RequestLate => "request_late",
            Ended::ResponseStalled => "response_stalled",
            Ended::PeerReset => "peer_reset",
            Ended::TargetReset => "target_reset",
            Ended::Stopped => "stopped",
        }
    }
}

/// Counters of one port.
#[derive(Debug, Default)]
pub(super) struct Counters {
    ended: [AtomicU64; Ended::ALL.len()],
    accepted: AtomicU64,
    /// From peers to the server.
    pub(super) received_bytes: AtomicU64,
    /// From the server to peers.
    pub(super) sent_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, how: Ended) {
        let counters = Ended::ALL.into_iter().zip(&self.ended);
        for (_, counter) in counters.filter(|(ended, _)| *ended == how) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, by name.
    pub(super) fn list(&self) -> BTreeMap<String, u64> {
        let ended = Ended::ALL.into_iter().zip(&self.ended);
        let ended = ended.map(|(ended, counter)| (ended.name().to_owned(), counter.load(Ordering::Relaxed)));
        ended.chain([("accepted".to_owned(), self.accepted.load(Ordering::Relaxed))]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_a_counter_of_its_own_name() {
        let counters = Counters::default();
        counters.accepted();
        for ended in Ended::ALL {
            counters.ended(ended);
        }
        let list = counters.list();
        assert_eq!(list.len(), Ended::ALL.len() + 1);
        assert!(list.values().all(|count| *count == 1), "{list:?}");
    }
}
