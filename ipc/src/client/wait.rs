//! Waiting for a descriptor until a deadline.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};

/// How long a handle waits in one direction: until a deadline, or not at all. Set through a shared reference, since two threads
/// may use a handle at once, each in its own direction.
#[derive(Debug, Default)]
pub(super) struct Patience {
    deadline: Mutex<Option<Instant>>,
    none: AtomicBool,
}

impl Patience {
    pub(super) fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    pub(super) fn set_none(&self, none: bool) {
        self.none.store(none, Ordering::Relaxed);
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails once the deadline has passed, before anything is done.
    pub(super) fn check(&self, doing: &str) -> Result<(), Error> {
        if has_passed(self.deadline()) { Err(timed_out(doing)) } else { Ok(()) }
    }

    /// Waits until one of `events` is there; `WouldBlock` or `TimedOut` if that is not to be waited for (any longer).
    pub(super) fn wait(&self, socket: impl AsFd, events: PollFlags, doing: &str) -> Result<(), Error> {
        if self.none.load(Ordering::Relaxed) {
            return Err(Errno::AGAIN.into());
        }
        if until(socket, events, self.deadline())? { Ok(()) } else { Err(timed_out(doing)) }
    }
}

impl Clone for Patience {
    fn clone(&self) -> Patience {
        let Patience { deadline: _, none } = self;
        Patience {
            deadline: Mutex::new(self.deadline()),
            none: AtomicBool::new(none.load(Ordering::Relaxed)),
        }
    }
}

/// Waits until one of `events` (or an error, or a hang-up) is there; false once the deadline has passed.
pub(crate) fn until(socket: impl AsFd, events: PollFlags, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(timespec);
        match poll(&mut [PollFd::new(&socket, events)], timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            // Either the clocks differ by a little, or the wait was longer than a timespec holds.
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// What is there now.
pub(crate) fn now(socket: impl AsFd, events: PollFlags) -> Result<PollFlags, Errno> {
    let mut descriptors = [PollFd::new(&socket, events)];
    loop {
        match poll(&mut descriptors, Some(&Timespec::default())) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| descriptors.map(|descriptor| descriptor.revents())[0]),
        }
    }
}

/// Whether a deadline has passed.
pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// What is left until a deadline, `most` at most.
///
/// # Errors
/// `TimedOut` if it has passed.
pub(super) fn left(deadline: Option<Instant>, most: Duration, doing: &str) -> Result<Duration, Error> {
    let Some(deadline) = deadline else { return Ok(most) };
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(timed_out(doing)),
        left => Ok(left.min(most)),
    }
}

/// The error for a deadline that has passed.
pub(super) fn timed_out(doing: &str) -> Error {
    Error::Refused { kind: ErrorKind::TimedOut, message: format!("the deadline for {doing} has passed") }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
