//! One client's connection: whole requests in, replies with their descriptors out.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netd_ipc::call::{Request, Response};
use netd_ipc::framing::{self, Decoder, REQUEST_BYTES_MAX};
use netd_ipc::passing;
use netd_ipc::server::{Peer, READ_BYTES, STALL_MAX, VIOLATIONS_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::disposal::Disposal;
use super::share::Share;
use crate::Failure;

/// How often it is looked whether a client is still there that has sent more than was asked for, or nothing any more.
const GONE_INTERVAL: Duration = Duration::from_millis(250);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    #[error("the client closed it")]
    Closed,
    #[error("reading or writing failed: {0}")]
    Failed(#[from] io::Error),
    #[error("the client sent descriptors, and no method takes any")]
    UnaskedDescriptors,
    #[error("a request is longer than {REQUEST_BYTES_MAX} bytes")]
    RequestTooLong,
    #[error("{VIOLATIONS_MAX} requests were malformed")]
    Violations,
    #[error("the client did not read its reply for {} s", STALL_MAX.as_secs())]
    Stalled,
}

/// A client's connection. It is closed by the disposal's thread.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Option<UnixStream>,
    peer: Peer,
    decoder: Decoder,
    violations: u32,
    unasked: Vec<OwnedFd>,
    share: Option<Share>,
    disposal: Disposal,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, peer: Peer, disposal: Disposal) -> Connection {
        let (decoder, unasked) = (Decoder::new(REQUEST_BYTES_MAX), Vec::new());
        Connection { stream: Some(stream), peer, decoder, violations: 0, unasked, share: None, disposal }
    }

    /// Keeps a share until the connection is closed.
    pub(crate) fn hold(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// Who the client is.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    fn stream(&self) -> Result<&UnixStream, Gone> {
        self.stream.as_ref().ok_or(Gone::Closed)
    }

    /// Waits for the next whole request.
    pub(crate) async fn request(&mut self) -> Result<Vec<u8>, Gone> {
        loop {
            if let Some(request) = self.decoder.take().map_err(|_| Gone::RequestTooLong)? {
                return Ok(request);
            }
            let stream = self.stream.as_ref().ok_or(Gone::Closed)?;
            stream.readable().await?;
            let mut bytes = [0; READ_BYTES];
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let unasked = &mut self.unasked;
            let read = stream.try_io(Interest::READABLE, || {
                Ok(passing::receive(stream, &mut parts, unasked, RecvFlags::DONTWAIT)?)
            });
            let count = match read {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Gone::Closed),
                Err(error) => return Err(error.into()),
            };
            if !self.unasked.is_empty() {
                return Err(Gone::UnaskedDescriptors);
            }
            if count == 0 {
                return Err(Gone::Closed);
            }
            self.decoder.push(bytes.get(..count).unwrap_or_default());
        }
    }

    /// Understands a request as Varlink; one that is none is answered, and counted.
    pub(crate) async fn understand(&mut self, bytes: &[u8]) -> Result<Option<Request>, Gone> {
        if let Ok(request) = serde_json::from_slice(bytes) {
            return Ok(Some(request));
        }
        let bad = netd_ipc::call::BadCall::InvalidParameter("request".to_owned());
        self.send(&bad.response(), &[]).await?;
        self.violations += 1;
        if self.violations >= VIOLATIONS_MAX { Err(Gone::Violations) } else { Ok(None) }
    }

    /// Waits until the client is gone; for ever, if it may still be there after it stopped sending.
    pub(crate) async fn gone(&self) {
        let Some(stream) = &self.stream else { return };
        loop {
            let Ok(ready) = stream.ready(Interest::READABLE).await else { return };
            if has_hung_up(stream) {
                return;
            }
            // Reading a request leaves the mark that there may be more behind it. Where there is nothing, it is taken away, and the next
            // news is waited for; where something waits, or the client stopped sending, the mark stays, and is looked at now and then.
            let looked = stream.try_io(Interest::READABLE, || match rustix::io::ioctl_fionread(stream)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            });
            if looked.is_ok() || ready.is_read_closed() {
                tokio::time::sleep(GONE_INTERVAL).await;
            }
        }
    }

    /// Sends what a method returns; `continues` if more is to come.
    pub(crate) async fn reply(
        &mut self,
        parameters: Value,
        continues: bool,
        descriptors: &[OwnedFd],
    ) -> Result<(), Gone> {
        self.send(&Response { parameters: Some(parameters), error: None, continues }, descriptors).await
    }

    /// Sends what a method came to.
    pub(crate) async fn answer(&mut self, result: Result<Value, Failure>) -> Result<(), Gone> {
        match result {
            Ok(parameters) => self.reply(parameters, false, &[]).await,
            Err(failure) => self.fail(&failure).await,
        }
    }

    /// Refuses a call that has several replies, and was made for one (Varlink's `more`).
    pub(crate) async fn expected_more(&mut self) -> Result<(), Gone> {
        let error = Some("org.varlink.service.ExpectedMore".to_owned());
        self.send(&Response { error, ..Response::default() }, &[]).await
    }

    /// Sends an error.
    pub(crate) async fn fail(&mut self, failure: &Failure) -> Result<(), Gone> {
        self.send(&response(failure), &[]).await
    }

    /// Sends an error if the socket takes it at once.
    pub(crate) fn fail_now(&mut self, failure: &Failure) -> Result<(), Gone> {
        let bytes = encode(&response(failure))?;
        passing::send(self.stream()?, &[IoSlice::new(&bytes)], &[], SendFlags::DONTWAIT)
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// Sends a response, its descriptors with the first byte.
    pub(crate) async fn send(&mut self, response: &Response, descriptors: &[OwnedFd]) -> Result<(), Gone> {
        let bytes = encode(response)?;
        let stream = self.stream()?;
        let mut descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            timeout(STALL_MAX, stream.writable()).await.map_err(|_| Gone::Stalled)??;
            let sent = stream.try_io(Interest::WRITABLE, || {
                Ok(passing::send(stream, &[IoSlice::new(left)], &descriptors, SendFlags::DONTWAIT)?)
            });
            match sent {
                Ok(count) => {
                    left = left.get(count..).unwrap_or_default();
                    // They are the client's now; whatever is left of the bytes goes without them.
                    descriptors.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Gone::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Whether the other end is closed, and not merely done with sending.
pub(crate) fn has_hung_up(stream: &UnixStream) -> bool {
    let mut watched = [PollFd::new(stream, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&now)), Ok(1..)) && watched[0].revents().contains(PollFlags::HUP)
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What waits in the socket may hold descriptors as well, and is closed with it.
        let stream = self.stream.take().and_then(|stream| stream.into_std().ok());
        let mut descriptors = std::mem::take(&mut self.unasked);
        descriptors.extend(stream.map(OwnedFd::from));
        self.disposal.close(descriptors, self.share.take());
    }
}

fn response(failure: &Failure) -> Response {
    Response {
        parameters: Some(failure.parameters()),
        error: Some(format!("io.netd.services.{}", failure.kind)),
        continues: false,
    }
}

fn encode(response: &Response) -> Result<Vec<u8>, Gone> {
    framing::encode(response).map_err(|error| Gone::Failed(error.into()))
}
