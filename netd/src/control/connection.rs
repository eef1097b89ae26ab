//! One client's connection: bytes in, whole requests out, one reply at a time back.
//!
//! A request is read only when the reply before it is written, so a client that does not read its replies is not read
//! either, and costs at most one reply.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use netd_ipc::framing::{Decoder, REQUEST_BYTES_MAX};
use netd_ipc::passing;
use netd_ipc::server::{READ_BYTES, STALL_MAX, VIOLATIONS_MAX};
use netd_policy::Subject;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Gone {
    #[error("the client closed it")]
    Closed,
    #[error("reading or writing failed: {0}")]
    Failed(Errno),
    #[error("the client sent descriptors, and no method takes any")]
    UnaskedDescriptors,
    #[error("a request is longer than {REQUEST_BYTES_MAX} bytes")]
    RequestTooLong,
    #[error("{VIOLATIONS_MAX} requests were malformed")]
    Violations,
    #[error("the client did not read its reply for {} s", STALL_MAX.as_secs())]
    Stalled,
}

/// A call that the worker has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    pub(super) token: u64,
    /// The client wants no reply.
    pub(super) oneway: bool,
}

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) subject: Subject,
    pub(super) outstanding: Option<Outstanding>,
    /// An event said so, and no read has said otherwise since.
    readable: bool,
    /// The client sends nothing more; the end is there to be read.
    finished: bool,
    decoder: Decoder,
    reply: Option<Unwritten>,
    violations: u32,
    /// Descriptors that the client sent, kept for a closing thread.
    unasked: Vec<OwnedFd>,
}

/// A reply, or what is left of it.
struct Unwritten {
    bytes: Vec<u8>,
    written: usize,
    descriptors: Vec<OwnedFd>,
    since: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, subject: Subject) -> Connection {
        Connection {
            stream,
            subject,
            outstanding: None,
            readable: false,
            finished: false,
            decoder: Decoder::new(REQUEST_BYTES_MAX),
            reply: None,
            violations: 0,
            unasked: Vec::new(),
        }
    }

    /// Takes note of what the socket is ready for. Each event comes once.
    pub(super) fn on_event(&mut self, readable: bool, finished: bool) {
        self.readable |= readable || finished;
        self.finished |= finished;
    }

    /// Reads the next whole request; none until there is one.
    pub(super) fn next_request(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        loop {
            if let Some(request) = self.decoder.take().map_err(|_| Gone::RequestTooLong)? {
                return Ok(Some(request));
            }
            if !self.readable {
                return Ok(None);
            }
            let mut bytes = [0; READ_BYTES];
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let count =
                match passing::receive(&self.stream, &mut parts, &mut self.unasked, RecvFlags::DONTWAIT) {
                    Ok(count) => count,
                    Err(Errno::AGAIN) => {
                        self.readable = false;
                        return Ok(None);
                    }
                    Err(error) => return Err(Gone::Failed(error)),
                };
            if !self.unasked.is_empty() {
                return Err(Gone::UnaskedDescriptors);
            }
            if count == 0 {
                return Err(Gone::Closed);
            }
            // A short read has taken everything, and whatever comes later is another event (epoll(7)) - but for the end, of which the
            // event may have come before.
            self.readable = count == READ_BYTES || self.finished;
            self.decoder.push(&bytes[..count]);
        }
    }

    /// Counts a malformed request.
    pub(super) fn violation(&mut self) -> Result<(), Gone> {
        self.violations += 1;
        if self.violations >= VIOLATIONS_MAX { Err(Gone::Violations) } else { Ok(()) }
    }

    /// Takes a reply to be written by [`Connection::flush`]. There is none before it, since requests are read only then.
    pub(super) fn reply(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>, now: Instant) {
        self.reply = Some(Unwritten { bytes, written: 0, descriptors, since: now });
    }

    /// Writes what the socket takes; true once nothing is left. Descriptors go with the first byte, in one message.
    pub(super) fn flush(&mut self) -> Result<bool, Gone> {
        while let Some(reply) = &mut self.reply {
            let parts = [IoSlice::new(reply.bytes.get(reply.written..).unwrap_or_default())];
            let descriptors: Vec<_> = reply.descriptors.iter().map(OwnedFd::as_fd).collect();
            match passing::send(&self.stream, &parts, &descriptors, SendFlags::DONTWAIT) {
                Ok(count) => {
                    reply.written += count;
                    // They are the client's now; whatever is left of the bytes goes without them.
                    reply.descriptors.clear();
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Gone::Closed),
                Err(error) => return Err(Gone::Failed(error)),
            }
            if reply.written >= reply.bytes.len() {
                self.reply = None;
            }
        }
        Ok(true)
    }

    /// Whether a reply waits for the client to read.
    pub(super) fn is_stalled(&self) -> bool {
        self.reply.is_some()
    }

    /// Fails once the client has left its reply unread for too long.
    pub(super) fn check_stall(&self, now: Instant) -> Result<(), Gone> {
        match &self.reply {
            Some(reply) if now.saturating_duration_since(reply.since) >= STALL_MAX => Err(Gone::Stalled),
            _ => Ok(()),
        }
    }

    /// Everything that is to be closed.
    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let mut descriptors = self.unasked;
        descriptors.push(self.stream.into());
        descriptors
    }
}
