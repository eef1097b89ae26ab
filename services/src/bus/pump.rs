//! One stream of a session: bytes between the mux and a client's descriptor, as fast as the slower of the two.
//!
//! A client that does not read fills its descriptor, then our 16 KiB, then the mux's buffer, and its peer's credit runs out: nobody else
//! waits. What the descriptor says at its end is what the other streams of netd say: our writing side shut is the peer's end; our
//! end closed before that is a reset.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use netd_softbus::mux::{Mux, Read, StreamId};
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};
use tokio::net::UnixStream;

use super::streams::{Claim, Received};
use crate::server::has_hung_up;

/// Bytes moved at a time: what the mux puts into one frame.
const CHUNK_BYTES: usize = 16 * 1024;
/// What a peer may still send to a client that is gone, before it is told by a reset: as much as it may send unasked.
const DISCARDED_MAX: usize = 256 * 1024;

/// How a stream is after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing moved: the task is woken when something can.
    Idle,
    /// Something moved.
    Moved,
    /// Both sides are done.
    Finished,
    /// It is over before its end: reset it.
    Broken,
}

/// Where a stream ends on this side of the mux.
#[derive(Debug)]
pub(super) enum End {
    /// At a client, whose other end of the socketpair this is.
    Client(UnixStream),
    /// At a task in this process.
    Inside(DuplexStream),
}

impl End {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            End::Client(socket) => Pin::new(socket).poll_read(cx, buffer),
            End::Inside(pipe) => Pin::new(pipe).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            End::Client(socket) => Pin::new(socket).poll_write(cx, bytes),
            End::Inside(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    /// Says that nothing more will be written. Whoever is gone does not need it.
    fn finish(&mut self, cx: &mut Context<'_>) {
        match self {
            End::Client(socket) => drop(shutdown(socket, Shutdown::Write)),
            End::Inside(pipe) => drop(Pin::new(pipe).poll_shutdown(cx)),
        }
    }

    /// Whether the other end is gone, and not merely done with writing. Of a task, writing to it tells.
    fn has_hung_up(&self) -> bool {
        match self {
            End::Client(socket) => has_hung_up(socket),
            End::Inside(_) => false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pump {
    stream: StreamId,
    end: End,
    /// From the client, for the mux.
    outgoing: Vec<u8>,
    outgoing_done: bool,
    /// From the mux, for the client: what is left of it begins at `delivered`.
    incoming: Vec<u8>,
    delivered: usize,
    incoming_done: bool,
    /// Nobody holds the client's end any more.
    gone: bool,
    discarded: usize,
    received: Received,
    claim: Option<Claim>,
}

impl Pump {
    /// `claim` is what a client has the stream by.
    pub(super) fn new(stream: StreamId, end: End, received: Received, claim: Option<Claim>) -> Pump {
        Pump {
            stream,
            end,
            outgoing: Vec::new(),
            outgoing_done: false,
            incoming: Vec::new(),
            delivered: 0,
            incoming_done: false,
            gone: false,
            discarded: 0,
            received,
            claim,
        }
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, mux: &mut Mux, cx: &mut Context<'_>) -> Turn {
        if self.claim.as_mut().is_some_and(|claim| claim.right.poll_lost(cx).is_ready()) {
            return Turn::Broken;
        }
        let moved = match (self.send(mux, cx), self.deliver(mux, cx)) {
            (Ok(sent), Ok(delivered)) => sent || delivered,
            _ => return Turn::Broken,
        };
        // Once the last of ours is sent as well, the mux has forgotten the stream.
        let done = self.outgoing_done && self.incoming_done && mux.finish(self.stream).is_err();
        match (done, moved) {
            (true, _) => Turn::Finished,
            (false, true) => Turn::Moved,
            (false, false) => Turn::Idle,
        }
    }

    /// From the client to the mux: no more is read than the mux takes.
    fn send(&mut self, mux: &mut Mux, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.outgoing_done {
            if !self.outgoing.is_empty() {
                let taken = mux.write(self.stream, &self.outgoing).map_err(io::Error::other)?;
                self.outgoing.drain(..taken);
                moved |= taken > 0;
                if !self.outgoing.is_empty() {
                    break;
                }
            }
            let mut chunk = [0; CHUNK_BYTES];
            let mut buffer = ReadBuf::new(&mut chunk);
            match self.end.poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.outgoing.extend(buffer.filled()),
                // The end, or the client closed its end with something unread: what it wrote still goes out.
                Poll::Ready(ended) => {
                    self.gone |= ended.is_err() || self.end.has_hung_up();
                    mux.finish(self.stream).map_err(io::Error::other)?;
                    self.outgoing_done = true;
                    moved = true;
                }
            }
        }
        Ok(moved)
    }

    /// From the mux to the client.
    fn deliver(&mut self, mux: &mut Mux, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.incoming_done {
            let waiting = self.incoming.get(self.delivered..).unwrap_or_default();
            if waiting.is_empty() {
                self.incoming.resize(CHUNK_BYTES, 0);
                self.delivered = 0;
                let read = mux.read(self.stream, &mut self.incoming).map_err(io::Error::other)?;
                self.incoming.truncate(match read {
                    Read::Bytes(count) => count,
                    Read::Nothing | Read::End => 0,
                });
                match read {
                    Read::Bytes(_) => moved = true,
                    Read::Nothing => break,
                    Read::End => {
                        self.received.store(true, Ordering::SeqCst);
                        self.end.finish(cx);
                        (self.incoming_done, moved) = (true, true);
                    }
                }
                continue;
            }
            if self.gone {
                self.discarded += waiting.len();
                self.incoming.clear();
                if self.discarded > DISCARDED_MAX {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                continue;
            }
            match self.end.poll_write(cx, waiting) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    self.delivered += count;
                    moved = true;
                }
                Poll::Ready(Err(_)) => self.gone = true,
            }
        }
        Ok(moved)
    }
}
