//! Streams as clients have them: ends of socketpairs, their numbers, and how they ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netd_ipc::services::BusOutcome;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;

use crate::Failure;
use crate::rights::Right;
use crate::server::Share;

/// Streams whose end is remembered: clients ask within moments, and each takes some 20 bytes.
const REMEMBERED_MAX: usize = 4096;

/// What a client has a stream by: its share of those that there may be, and the right to it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) uid: u32,
    pub(super) right: Right,
    pub(super) _share: Share,
}

/// A stream that was made for a client: its number, and its end of the socketpair.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
}

/// A socketpair: our end, and the client's.
pub(super) fn pair() -> Result<(UnixStream, OwnedFd), Failure> {
    let failed = |error: io::Error| {
        let message = format!("no descriptor for the stream: {error}");
        Failure::new(netd_ipc::services::ErrorKind::QuotaExceeded, message)
    };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| failed(error.into()))?;
    let ours = std::os::unix::net::UnixStream::from(ours);
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((UnixStream::from_std(ours).map_err(failed)?, theirs))
}

/// Set once everything from the other side was handed to the client: before the client can see the end.
pub(super) type Received = Arc<AtomicBool>;

/// Numbers and outcomes.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    last: u64,
    open: BTreeMap<u64, (u32, Received)>,
    ended: VecDeque<(u64, u32, BusOutcome)>,
}

impl Outcomes {
    /// The number of a new stream of this user, and what is set when it received everything.
    pub(super) fn begin(&mut self, uid: u32) -> (u64, Received) {
        self.last += 1;
        let received = Received::default();
        self.open.insert(self.last, (uid, Arc::clone(&received)));
        (self.last, received)
    }

    /// The stream ended so.
    pub(super) fn end(&mut self, id: u64, outcome: BusOutcome) {
        let Some((uid, received)) = self.open.remove(&id) else { return };
        // A session that is lost later takes nothing back of what came before the end.
        let complete = outcome == BusOutcome::Reset && received.load(Ordering::SeqCst);
        let outcome = if complete { BusOutcome::Received } else { outcome };
        if self.ended.len() >= REMEMBERED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((id, uid, outcome));
    }

    /// How a stream of this user ended; none if it is not known, or somebody else's.
    pub(super) fn of(&self, uid: u32, id: u64) -> Option<BusOutcome> {
        if let Some((_, received)) = self.open.get(&id).filter(|(owner, _)| *owner == uid) {
            let received = received.load(Ordering::SeqCst);
            return Some(if received { BusOutcome::Received } else { BusOutcome::Open });
        }
        let found = self.ended.iter().rev().find(|(ended, owner, _)| (*ended, *owner) == (id, uid));
        found.map(|(_, _, outcome)| *outcome)
    }

    /// Streams that are there.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_is_told_to_the_streams_user_alone_and_forgotten_in_order() {
        let mut outcomes = Outcomes::default();
        let (first, _) = outcomes.begin(7);
        assert_eq!((outcomes.of(7, first), outcomes.of(8, first)), (Some(BusOutcome::Open), None));
        outcomes.end(first, BusOutcome::Finished);
        assert_eq!((outcomes.of(7, first), outcomes.of(8, first)), (Some(BusOutcome::Finished), None));
        for _ in 0..REMEMBERED_MAX {
            let (id, _) = outcomes.begin(7);
            outcomes.end(id, BusOutcome::Reset);
        }
        assert_eq!((outcomes.of(7, first), outcomes.open()), (None, 0));
    }

    #[test]
    fn stream_that_received_everything_stays_complete_when_its_session_is_lost() {
        let mut outcomes = Outcomes::default();
        let (id, received) = outcomes.begin(7);
        received.store(true, Ordering::SeqCst);
        assert_eq!(outcomes.of(7, id), Some(BusOutcome::Received));
        outcomes.end(id, BusOutcome::Reset);
        assert_eq!(outcomes.of(7, id), Some(BusOutcome::Received));
    }
}
