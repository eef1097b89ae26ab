//! Calls on their way to the client that answers them.
//!
//! A call waits in its service's queue, is taken by the service's client under a number, and answered under that number. Its caller's task
//! waits all the while; when that gives up or its deadline passes, the call is over and whoever works on it can learn so. When the client that
//! took it, or could have, goes away, the caller is told at once.

use std::collections::BTreeMap;
use std::time::Duration;

use netd_ipc::services::{BusCallEnd, ErrorKind};
use netd_softbus::MethodName;
use netd_softbus::remote::{BODY_BYTES_MAX, Status};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Answer, Bulk, Caller, Refusal, Reply, refusal};
use crate::Failure;

/// Calls that wait for a service's client; more are told that it is busy.
pub(super) const BACKLOG: usize = 16;
/// Calls that a service's client took and has not answered; it takes no more until it does.
pub(super) const TAKEN_MAX: usize = 32;

/// A call that nobody has answered.
#[derive(Debug)]
pub(in crate::bus) struct Pending {
    pub(super) caller: String,
    pub(super) method: String,
    pub(super) payload: Vec<u8>,
    pub(super) deadline: Instant,
    reply: oneshot::Sender<Result<Vec<u8>, Refusal>>,
    end: watch::Receiver<Option<BusCallEnd>>,
}

/// Tells whoever works on the call that it is over, when the caller's side of it is dropped.
struct End {
    tell: watch::Sender<Option<BusCallEnd>>,
    deadline: Instant,
    answered: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let end = match self.answered {
            true => BusCallEnd::Answered,
            false if Instant::now() >= self.deadline => BusCallEnd::DeadlinePassed,
            false => BusCallEnd::Cancelled,
        };
        self.tell.send_replace(Some(end));
    }
}

/// Has a call answered. To give up, drop this.
pub(super) async fn call(
    queue: &mpsc::Sender<Pending>,
    caller: &Caller,
    method: &MethodName,
    payload: Vec<u8>,
    deadline: Duration,
) -> Reply {
    let deadline = Instant::now() + deadline;
    let (reply, answered) = oneshot::channel();
    let (tell, end) = watch::channel(None);
    let caller = caller.as_str().to_owned();
    let pending = Pending { caller, method: method.as_str().to_owned(), payload, deadline, reply, end };
    queue.try_send(pending).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            refusal(Status::Busy, "too many calls wait for the service's client")
        }
        mpsc::error::TrySendError::Closed(_) => gone(),
    })?;
    let mut end = End { tell, deadline, answered: false };
    let reply = answered.await.unwrap_or_else(|_| Err(gone()));
    end.answered = true;
    reply.map(in_answer)
}

fn gone() -> Refusal {
    refusal(Status::Gone, "the service's client went away before it answered")
}

/// What does not fit into a body is bulk.
fn in_answer(payload: Vec<u8>) -> Answer {
    if payload.len() <= BODY_BYTES_MAX {
        return Answer { body: payload, bulk: None };
    }
    // A payload's length, which is at most 32 KiB.
    let length = payload.len() as u64;
    Answer { body: Vec::new(), bulk: Some(Bulk { length, reader: Box::new(std::io::Cursor::new(payload)) }) }
}

/// Calls that clients took, by number.
#[derive(Debug, Default)]
pub(in crate::bus) struct Taken {
    last: u64,
    open: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    uid: u32,
    reply: oneshot::Sender<Result<Vec<u8>, Refusal>>,
    end: watch::Receiver<Option<BusCallEnd>>,
}

impl Taken {
    /// A client of this user takes the call; gives the number. None if it is over already.
    pub(super) fn take(&mut self, uid: u32, pending: Pending) -> Option<(u64, Call)> {
        let Pending { caller, method, payload, deadline, reply, end } = pending;
        if end.borrow().is_some() {
            return None;
        }
        self.last += 1;
        self.open.insert(self.last, Held { uid, reply, end });
        Some((self.last, Call { caller, method, payload, deadline }))
    }

    /// Answers a call of this user.
    pub(super) fn answer(
        &mut self,
        uid: u32,
        id: u64,
        reply: Result<Vec<u8>, Refusal>,
    ) -> Result<(), Failure> {
        let owned = self.open.get(&id).is_some_and(|held| held.uid == uid);
        let held = owned.then(|| self.open.remove(&id)).flatten();
        held.and_then(|held| held.reply.send(reply).ok()).ok_or_else(|| unknown(id))
    }

    /// What tells that a call of this user is over.
    pub(super) fn end_of(&self, uid: u32, id: u64) -> Result<watch::Receiver<Option<BusCallEnd>>, Failure> {
        let held = self.open.get(&id).filter(|held| held.uid == uid);
        held.map(|held| held.end.clone()).ok_or_else(|| unknown(id))
    }

    /// Which of these are still under way; what is over is forgotten.
    pub(super) fn retain(&mut self, ids: &mut Vec<u64>) {
        ids.retain(|id| {
            let under_way = self.open.get(id).is_some_and(|held| held.end.borrow().is_none());
            if !under_way {
                self.open.remove(id);
            }
            under_way
        });
    }

    /// Whoever took these is gone: their callers are told.
    pub(in crate::bus) fn abandon(&mut self, ids: &[u64]) {
        for id in ids {
            self.open.remove(id);
        }
    }
}

/// A call that was taken.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: String,
    pub(super) method: String,
    pub(super) payload: Vec<u8>,
    pub(super) deadline: Instant,
}

fn unknown(id: u64) -> Failure {
    let message = format!("call {id} is none of yours, or it is over: answered, cancelled, or too late");
    Failure::new(ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn start(
        queue: &mpsc::Sender<Pending>,
        payload: &[u8],
        deadline: Duration,
    ) -> tokio::task::JoinHandle<Reply> {
        let (queue, payload) = (queue.clone(), payload.to_vec());
        tokio::spawn(async move {
            call(&queue, &Caller::Local, &"blink".parse().unwrap(), payload, deadline).await
        })
    }

    #[tokio::test]
    async fn call_taken_is_answered_once_and_by_its_user_alone() {
        let (queue, mut waiting) = mpsc::channel(BACKLOG);
        let caller = start(&queue, b"twice", MINUTE);
        let mut taken = Taken::default();
        let (id, call) = taken.take(7, waiting.recv().await.unwrap()).unwrap();
        assert_eq!(
            (call.method.as_str(), call.payload.as_slice(), call.caller.as_str()),
            ("blink", &b"twice"[..], "loopback")
        );
        assert!(taken.answer(8, id, Ok(Vec::new())).is_err(), "another user");
        let mut end = taken.end_of(7, id).unwrap();
        assert!(taken.end_of(8, id).is_err());
        taken.answer(7, id, Ok(b"done".to_vec())).unwrap();
        assert_eq!(caller.await.unwrap().unwrap().body, b"done");
        assert_eq!(*end.wait_for(Option::is_some).await.unwrap(), Some(BusCallEnd::Answered));
        assert!(taken.answer(7, id, Ok(Vec::new())).is_err(), "twice");
    }

    #[tokio::test]
    async fn caller_that_gives_up_is_told_to_whoever_works_on_it() {
        let (queue, mut waiting) = mpsc::channel(BACKLOG);
        let caller = start(&queue, b"", MINUTE);
        let mut taken = Taken::default();
        let (id, _) = taken.take(7, waiting.recv().await.unwrap()).unwrap();
        let mut end = taken.end_of(7, id).unwrap();
        caller.abort();
        assert_eq!(*end.wait_for(Option::is_some).await.unwrap(), Some(BusCallEnd::Cancelled));
        assert!(taken.answer(7, id, Ok(Vec::new())).is_err());
        let mut ids = vec![id];
        taken.retain(&mut ids);
        assert!(ids.is_empty() && taken.open.is_empty());
    }

    #[tokio::test]
    async fn call_over_before_it_was_taken_is_passed_over() {
        let (queue, mut waiting) = mpsc::channel(BACKLOG);
        let caller = start(&queue, b"", MINUTE);
        let pending = waiting.recv().await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert!(Taken::default().take(7, pending).is_none());
    }

    #[tokio::test]
    async fn answerer_that_dies_is_told_to_the_caller_at_once_taken_or_not() {
        let (queue, mut waiting) = mpsc::channel(BACKLOG);
        let (one, two) = (start(&queue, b"", MINUTE), start(&queue, b"", MINUTE));
        let mut taken = Taken::default();
        let (id, _) = taken.take(7, waiting.recv().await.unwrap()).unwrap();
        taken.abandon(&[id]);
        drop(waiting);
        for caller in [one, two] {
            assert_eq!(caller.await.unwrap().unwrap_err().status, Status::Gone);
        }
    }

    #[tokio::test]
    async fn queue_full_says_busy() {
        let (queue, _waiting) = mpsc::channel(1);
        let _first = start(&queue, b"", MINUTE);
        tokio::task::yield_now().await;
        let second = start(&queue, b"", MINUTE).await.unwrap();
        assert_eq!(second.unwrap_err().status, Status::Busy);
    }

    #[tokio::test]
    async fn answer_longer_than_a_body_is_bulk() {
        let answer = in_answer(vec![7; BODY_BYTES_MAX + 1]);
        assert!(answer.body.is_empty());
        let bulk = answer.bulk.unwrap();
        assert_eq!(bulk.read_all(BODY_BYTES_MAX + 1).await.unwrap().len(), BODY_BYTES_MAX + 1);
        let long = in_answer(vec![7; BODY_BYTES_MAX + 1]).bulk.unwrap().read_all(BODY_BYTES_MAX).await;
        assert_eq!(long.unwrap_err().status, Status::TooLarge);
    }
}
