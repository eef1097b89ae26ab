//! The control thread's side of the queues to and from the worker.

use std::sync::{Arc, mpsc};

use crate::command::{Completion, QueueFull, Submission, WorkerPort};

/// The control thread's side of the queues to and from the worker.
pub struct Port {
    pub(super) submissions: mpsc::SyncSender<Submission>,
    pub(super) completions: mpsc::Receiver<Completion>,
    pub(super) waker: Arc<mio::Waker>,
}

impl WorkerPort for Port {
    fn submit(&self, submission: Submission) -> Result<(), QueueFull> {
        self.submissions.try_send(submission).map_err(|_| QueueFull)
    }

    fn wake(&self) {
        // Fails only when the worker is gone; then its calls are ended by the control thread's own end.
        let _ = self.waker.wake();
    }

    fn completions(&self) -> impl Iterator<Item = Completion> {
        self.completions.try_iter()
    }
}
