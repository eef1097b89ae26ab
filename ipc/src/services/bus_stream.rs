//! A stream of the bus, for a blocking client: reads and writes, and an end that is never mistaken for a reset.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, shutdown};

use super::bus::{BusOutcome, BusStreamInfo};
use super::client::Client;
use crate::client::wait;
use crate::passing;

/// How often and how long netd-services is asked again: a second in all, for what takes it microseconds.
const OUTCOME_TRIES: u32 = 50;
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// A stream. Reading ends with 0 when the other side said that it was done, and fails when the stream was cut short.
#[derive(Debug)]
pub struct BusStream {
    client: Client,
    socket: OwnedFd,
    info: BusStreamInfo,
    /// The other side's end was told from a reset.
    complete: Arc<AtomicBool>,
}

impl BusStream {
    pub(super) fn new(client: Client, socket: OwnedFd, info: BusStreamInfo) -> BusStream {
        BusStream { client, socket, info, complete: Arc::default() }
    }

    /// The number under which netd-services knows it.
    pub fn id(&self) -> u64 {
        self.info.id
    }

    /// The device on the other side; `loopback` for this one.
    pub fn device(&self) -> &str {
        &self.info.device
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.info.service
    }

    /// Another handle on the same stream. The stream ends with the last one.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<BusStream> {
        Ok(BusStream {
            client: self.client.clone(),
            socket: self.socket.try_clone()?,
            info: self.info.clone(),
            complete: Arc::clone(&self.complete),
        })
    }

    /// Says that nothing more will be written: the other side sees the end once it has read everything before.
    ///
    /// # Errors
    /// The stream is over already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Whether all that was written was taken by the other side's end of the bus, and both sides are done.
    ///
    /// # Errors
    /// The call failed, or the stream is forgotten.
    pub fn outcome(&self) -> Result<BusOutcome, super::Error> {
        self.client.bus_outcome(self.info.id)
    }

    /// Reads what is there, or waits for it; 0 is the other side's orderly end, and only that.
    ///
    /// # Errors
    /// `ConnectionReset` if the stream was cut short, or if nobody can say that it was not.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        match retry_on_intr(|| recv(&self.socket, &mut *into, RecvFlags::empty())) {
            Ok((0, _)) => self.judge_end().map(|()| 0),
            Ok((count, _)) => Ok(count),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what fits, or waits until something does.
    ///
    /// # Errors
    /// `BrokenPipe` if the stream is over.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match passing::send(&self.socket, &[IoSlice::new(bytes)], &[], SendFlags::empty()) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => drop(wait::until(&self.socket, PollFlags::OUT, None)?),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks how the stream ended, again for a while if it has not: both directions are shut a moment before that is written down.
    fn settled_outcome(&self) -> Result<BusOutcome, super::Error> {
        for _ in 0..OUTCOME_TRIES {
            match self.client.bus_outcome(self.info.id)? {
                BusOutcome::Open => thread::sleep(OUTCOME_PAUSE),
                settled => return Ok(settled),
            }
        }
        Ok(BusOutcome::Open)
    }

    /// End of file alone is the other side's end; where netd-services has closed its own end as well, it has to be asked.
    fn judge_end(&self) -> io::Result<()> {
        if self.complete.load(Ordering::SeqCst) {
            return Ok(());
        }
        if wait::now(&self.socket, PollFlags::IN)?.contains(PollFlags::HUP) {
            let reset = |why: String| Err(io::Error::new(io::ErrorKind::ConnectionReset, why));
            match self.settled_outcome() {
                Ok(BusOutcome::Received | BusOutcome::Finished) => {}
                Ok(BusOutcome::Open | BusOutcome::Reset) => {
                    return reset("the stream was cut short".to_owned());
                }
                Err(error) => return reset(format!("whether the stream was cut short is unknown: {error}")),
            }
        }
        self.complete.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Read for BusStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into)
    }
}

impl Read for &BusStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into)
    }
}

impl Write for BusStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &BusStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for BusStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The bare descriptor, for a program that keeps the end-of-stream rule by itself.
impl From<BusStream> for OwnedFd {
    fn from(stream: BusStream) -> OwnedFd {
        stream.socket
    }
}
