//! Waiting for a descriptor until a deadline.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};

/// Waits until one of `events` (or an error, or a hang-up) is there; false once the deadline has passed.
pub(super) fn until(socket: impl AsFd, events: PollFlags, deadline: Option<Instant>) -> Result<bool, Errno> {
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
pub(super) fn now(socket: impl AsFd, events: PollFlags) -> Result<PollFlags, Errno> {
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

/// The error for a deadline that has passed.
pub(super) fn timed_out(doing: &str) -> Error {
    Error::Refused { kind: ErrorKind::TimedOut, message: format!("the deadline for {doing} has passed") }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
