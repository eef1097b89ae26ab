//! One connection to the daemon, on which one call at a time is made.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
};
use serde_json::{Map, Value};

use super::wait;
use crate::call::{Request, Response};
use crate::error::{Error, ErrorKind};
use crate::framing::{self, Decoder, REPLY_BYTES_MAX};
use crate::passing;

/// Bytes per read. Most replies are far shorter; a list of sockets is longer and takes several.
const READ_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// What came of later replies.
    decoder: Decoder,
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    pub(crate) fn open(path: &Path) -> Result<Connection, Errno> {
        let address = SocketAddrUnix::new(path)?;
        // Blocking, since connect(2) to a Unix socket with a full backlog should wait for the daemon; the rest never does.
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::retry_on_intr(|| connect(&socket, &address))?;
        Ok(Connection { socket, decoder: Decoder::new(REPLY_BYTES_MAX), descriptors: Vec::new() })
    }

    /// Nothing to read and not broken: between calls the daemon says nothing.
    pub(crate) fn is_usable(&self) -> bool {
        wait::now(&self.socket, PollFlags::IN).is_ok_and(|events| events.is_empty())
    }

    /// Makes a call. After an error the connection is of no use any more.
    pub(crate) fn call(
        &mut self,
        method: &str,
        parameters: Map<String, Value>,
        timeout: Duration,
    ) -> Result<(Response, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + timeout;
        let request = request(method, parameters, false)?;
        // A daemon that turns a client away answers first and closes then, so the answer is read even if sending fails.
        let sent = self.send(&request, deadline);
        match self.receive(deadline) {
            Err(Error::Io(ended)) if is_end(&ended) => Err(sent.err().unwrap_or(Error::Io(ended))),
            other => other,
        }
    }

    /// Makes a call that has several replies.
    pub(crate) fn begin(
        &mut self,
        method: &str,
        parameters: Map<String, Value>,
        timeout: Duration,
    ) -> Result<(), Error> {
        let request = request(method, parameters, true)?;
        match self.send(&request, Instant::now() + timeout) {
            // As above: why it was turned away is there to be read.
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// The next reply to it.
    pub(crate) fn next(&mut self, timeout: Duration) -> Result<(Response, Vec<OwnedFd>), Error> {
        self.receive(Instant::now() + timeout)
    }

    fn send(&self, mut bytes: &[u8], deadline: Instant) -> Result<(), Error> {
        while !bytes.is_empty() {
            match passing::send(&self.socket, &[IoSlice::new(bytes)], &[], SendFlags::DONTWAIT) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<(Response, Vec<OwnedFd>), Error> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let taken = self.decoder.take().map_err(|error| Error::Protocol(error.to_string()))?;
            if let Some(message) = taken {
                let response = serde_json::from_slice(&message)
                    .map_err(|error| Error::Protocol(format!("a reply that is no Varlink: {error}")))?;
                // The kernel never joins bytes before a message with descriptors to those after it, and only one reply has any.
                return Ok((response, std::mem::take(&mut self.descriptors)));
            }
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match passing::receive(&self.socket, &mut parts, &mut self.descriptors, RecvFlags::DONTWAIT) {
                Ok(0) => {
                    let ended = "netd closed the connection without an answer";
                    return Err(Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, ended)));
                }
                Ok(count) => self.decoder.push(bytes.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> Result<(), Error> {
        if wait::until(&self.socket, events, Some(deadline))? {
            return Ok(());
        }
        Err(Error::Refused {
            kind: ErrorKind::TimedOut,
            message: "netd did not answer the call in time".to_owned(),
        })
    }
}

fn request(method: &str, parameters: Map<String, Value>, more: bool) -> Result<Vec<u8>, Error> {
    let (method, parameters) = (method.to_owned(), Some(parameters));
    framing::encode(&Request { method, parameters, oneway: false, more, upgrade: false })
        .map_err(|error| Error::Protocol(format!("a request that is no JSON: {error}")))
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
