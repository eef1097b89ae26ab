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
pub(super) struct Connection {
    socket: OwnedFd,
}

impl Connection {
    pub(super) fn open(path: &Path) -> Result<Connection, Errno> {
        let address = SocketAddrUnix::new(path)?;
        // Blocking, since connect(2) to a Unix socket with a full backlog should wait for the daemon; the rest never does.
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::retry_on_intr(|| connect(&socket, &address))?;
        Ok(Connection { socket })
    }

    /// Nothing to read and not broken: between calls the daemon says nothing.
    pub(super) fn is_usable(&self) -> bool {
        wait::now(&self.socket, PollFlags::IN).is_ok_and(|events| events.is_empty())
    }

    /// Makes a call. After an error the connection is of no use any more.
    pub(super) fn call(
        &mut self,
        method: &str,
        parameters: Map<String, Value>,
        timeout: Duration,
    ) -> Result<(Response, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + timeout;
        let parameters = Some(parameters);
        let request =
            Request { method: method.to_owned(), parameters, oneway: false, more: false, upgrade: false };
        let request = framing::encode(&request)
            .map_err(|error| Error::Protocol(format!("a request that is no JSON: {error}")))?;
        // A daemon that turns a client away answers first and closes then, so the answer is read even if sending fails.
        let sent = self.send(&request, deadline);
        match self.receive(deadline) {
            Err(Error::Io(ended)) if is_end(&ended) => Err(sent.err().unwrap_or(Error::Io(ended))),
            other => other,
        }
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

    fn receive(&self, deadline: Instant) -> Result<(Response, Vec<OwnedFd>), Error> {
        let mut decoder = Decoder::new(REPLY_BYTES_MAX);
        let mut descriptors = Vec::new();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match passing::receive(&self.socket, &mut parts, &mut descriptors, RecvFlags::DONTWAIT) {
                Ok(0) => {
                    let ended = "netd closed the connection without an answer";
                    return Err(Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, ended)));
                }
                Ok(count) => decoder.push(bytes.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(error) => return Err(error.into()),
            }
            if let Some(message) = decoder.take().map_err(|error| Error::Protocol(error.to_string()))? {
                let response = serde_json::from_slice(&message)
                    .map_err(|error| Error::Protocol(format!("a reply that is no Varlink: {error}")))?;
                return Ok((response, descriptors));
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

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
