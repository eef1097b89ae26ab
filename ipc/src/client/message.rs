//! Whole messages on the SEQPACKET descriptors of listeners and UDP sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::wait::Patience;
use crate::error::Error;
use crate::passing;

/// Reads one message of a listener or UDP socket; 0 bytes if netd closed its end.
pub(super) fn receive(
    socket: &OwnedFd,
    parts: &mut [IoSliceMut<'_>],
    descriptors: &mut Vec<OwnedFd>,
    patience: &Patience,
    doing: &str,
) -> Result<usize, Error> {
    patience.check(doing)?;
    loop {
        match passing::receive(socket, parts, descriptors, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => patience.wait(socket, PollFlags::IN, doing)?,
            // netd closed its end with messages of ours unread.
            Err(Errno::CONNRESET) => return Ok(0),
            Ok(count) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes one message of a UDP socket; false if netd closed its end.
pub(super) fn send(
    socket: &OwnedFd,
    parts: &[IoSlice<'_>],
    patience: &Patience,
    doing: &str,
) -> Result<bool, Error> {
    patience.check(doing)?;
    loop {
        match passing::send(socket, parts, &[], SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => patience.wait(socket, PollFlags::OUT, doing)?,
            Err(error) => return is_open(error),
            Ok(_) => return Ok(true),
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
    match passing::receive(socket, parts, descriptors, RecvFlags::DONTWAIT) {
        Err(Errno::CONNRESET) => Ok(0),
        other => Ok(other?),
    }
}

/// Writes one message if it fits; `WouldBlock` if it does not, false if netd closed its end.
#[cfg(feature = "tokio")]
pub(super) fn send_now(socket: &OwnedFd, parts: &[IoSlice<'_>]) -> Result<bool, Error> {
    passing::send(socket, parts, &[], SendFlags::DONTWAIT).map_or_else(is_open, |_| Ok(true))
}

fn is_open(error: Errno) -> Result<bool, Error> {
    match error {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Ok(false),
        error => Err(error.into()),
    }
}
