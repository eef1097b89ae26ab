//! Whole messages on the SEQPACKET descriptors of listeners and UDP sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::wait;
use crate::error::Error;
use crate::passing;

/// Reads one message of a listener or UDP socket, waiting until the deadline; 0 bytes if netd closed its end.
pub(super) fn receive(
    socket: &OwnedFd,
    parts: &mut [IoSliceMut<'_>],
    descriptors: &mut Vec<OwnedFd>,
    deadline: Option<Instant>,
    doing: &str,
) -> Result<usize, Error> {
    if wait::has_passed(deadline) {
        return Err(wait::timed_out(doing));
    }
    loop {
        match passing::receive(socket, parts, descriptors, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => {
                if !wait::until(socket, PollFlags::IN, deadline)? {
                    return Err(wait::timed_out(doing));
                }
            }
            Ok(count) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes one message of a UDP socket, waiting until the deadline.
pub(super) fn send(
    socket: &OwnedFd,
    parts: &[IoSlice<'_>],
    deadline: Option<Instant>,
    doing: &str,
) -> Result<usize, Error> {
    if wait::has_passed(deadline) {
        return Err(wait::timed_out(doing));
    }
    loop {
        match passing::send(socket, parts, &[], SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => {
                if !wait::until(socket, PollFlags::OUT, deadline)? {
                    return Err(wait::timed_out(doing));
                }
            }
            Ok(count) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads one message that is there; `WouldBlock` if none is.
#[cfg(feature = "tokio")]
pub(super) fn receive_now(
    socket: &OwnedFd,
    parts: &mut [IoSliceMut<'_>],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize, Error> {
    Ok(passing::receive(socket, parts, descriptors, RecvFlags::DONTWAIT)?)
}

/// Writes one message if it fits; `WouldBlock` if it does not.
#[cfg(feature = "tokio")]
pub(super) fn send_now(socket: &OwnedFd, parts: &[IoSlice<'_>]) -> Result<usize, Error> {
    Ok(passing::send(socket, parts, &[], SendFlags::DONTWAIT)?)
}
