//! Fetching: decided first, then from the stub's files or from a server, and through a pipe to the client.
//!
//! Each redirect is a fetch of its own: decided, dialled, secured. Whatever fails, fails the whole; nothing is tried in another way.

mod answer;
mod body;
mod fixture;
mod http;
mod pipe;
mod real;
mod target;
mod tls;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netd_ipc::server::Peer;
use netd_ipc::services::{End, ErrorKind, FetchOptions, FetchReply, Head, Hop};
use serde_json::json;

pub use self::answer::{About, Meaning, understand};
use self::pipe::{Pipe, pipe};
use self::real::Coming;
pub use self::target::Target;
use crate::Failure;
use crate::config;
use crate::server::{Connection, Gone, Services};

/// What fetching takes, for the host and port.
const FETCH: &str = "net.http.fetch";
/// Bytes that are handed to a client at once, and that it has to take within the idle deadline.
const PIECE_BYTES: usize = 64 * 1024;

/// Fetches for clients.
#[derive(Debug)]
pub(crate) struct Fetcher {
    config: config::Fetch,
}

/// A body that is there to be read, and what is known of it.
struct Opened {
    head: Head,
    body: Body,
}

/// Where a body comes from.
enum Body {
    /// It is there.
    Whole(Vec<u8>),
    /// A server sends it.
    Coming(Box<Coming>),
}

impl Fetcher {
    pub(crate) fn new(config: config::Fetch) -> Fetcher {
        Fetcher { config }
    }

    /// Everything up to the head of the answer that has the body.
    async fn open(
        &self,
        services: &Services,
        client: &Peer,
        url: &str,
        options: &FetchOptions,
    ) -> Result<Opened, Failure> {
        let target = Target::parse(url)?;
        let permission = services.netd.permission(client, FETCH, Some(target.authority())).await?;
        if target.is_fixture() {
            return self.open_fixture(&target, permission.rule, options).await;
        }
        services.netd.permit(client, "net.http.devnet", None).await?;
        self.open_real(services, client, target, permission, options).await
    }

    async fn open_fixture(
        &self,
        target: &Target,
        rule: String,
        options: &FetchOptions,
    ) -> Result<Opened, Failure> {
        let started = Instant::now();
        let (directory, path) = (self.config.fixtures.clone(), target.path().to_owned());
        let read = tokio::task::spawn_blocking(move || fixture::read(&directory, &path)).await;
        let fixture::Fixture { mut content, etag } =
            read.map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))??;
        let offset = match options.from {
            Some(from) if options.validator.as_deref() == Some(&*etag) && from <= content.len() as u64 => {
                from
            }
            _ => 0,
        };
        let content = content.split_off(usize::try_from(offset).unwrap_or(usize::MAX));
        let hop = Hop {
            url: target.url().to_owned(),
            status: if offset > 0 { 206 } else { 200 },
            protocol: "fixture".to_owned(),
            rule,
            peer: None,
            tls: None,
            location: None,
            connect_us: None,
            tls_us: None,
            first_byte_us: microseconds(started.elapsed()),
        };
        let head = Head {
            hops: vec![hop],
            offset,
            length: Some(content.len() as u64),
            validator: Some(etag),
            content_type: None,
            encoding: None,
            descriptor: 0,
        };
        Ok(Opened { head, body: Body::Whole(content) })
    }

    /// Makes the pipe, unless the body is known to be too large.
    fn begin(&self, opened: Opened, options: &FetchOptions) -> Result<(Head, OwnedFd, Body, Pipe), Failure> {
        let Opened { head, body } = opened;
        let size_max = options.size_max.map_or(self.config.size_max, |max| max.min(self.config.size_max));
        if head.length.is_some_and(|length| length > size_max) {
            return Err(pipe::too_large(size_max));
        }
        let (reader, pipe) = pipe(size_max, self.idle(options)).map_err(|error| {
            Failure::new(ErrorKind::QuotaExceeded, format!("cannot make a pipe: {error}"))
        })?;
        Ok((head, reader, body, pipe))
    }

    fn idle(&self, options: &FetchOptions) -> Duration {
        options.idle.unwrap_or(self.config.idle)
    }
}

/// Answers a call of `Fetch`.
pub(crate) async fn answer(
    connection: &mut Connection,
    services: &Services,
    url: &str,
    options: &FetchOptions,
    more: bool,
) -> Result<(), Gone> {
    if !more {
        return connection.expected_more().await;
    }
    let _share = match services.fetches.take(connection.peer().uid) {
        Ok(share) => share,
        Err(message) => return connection.fail(&Failure::new(ErrorKind::QuotaExceeded, message)).await,
    };
    let started = Instant::now();
    let peer = connection.peer().clone();
    let fetcher = &services.fetcher;
    let opened = tokio::select! {
        opened = fetcher.open(services, &peer, url, options) => opened,
        () = connection.gone() => return Err(Gone::Closed),
    };
    let (head, reader, body, mut pipe) = match opened.and_then(|opened| fetcher.begin(opened, options)) {
        Ok(begun) => begun,
        Err(failure) => {
            tracing::info!(uid = peer.uid, url, %failure, "not fetched");
            return connection.fail(&failure).await;
        }
    };
    connection.reply(json!(FetchReply { head: Some(head), end: None }), true, &[reader]).await?;
    let idle = fetcher.idle(options);
    let carried = tokio::select! {
        carried = carry(body, &mut pipe, services, &peer, idle) => carried,
        () = connection.gone() => return Err(Gone::Closed),
    };
    let bytes = pipe.written();
    // Before the last reply: the client reads to the end of the pipe first.
    drop(pipe);
    match carried {
        Ok(received_bytes) => {
            tracing::debug!(uid = peer.uid, url, bytes, "fetched");
            let end = End { bytes, received_bytes, total_us: microseconds(started.elapsed()) };
            connection.reply(json!(FetchReply { head: None, end: Some(end) }), false, &[]).await
        }
        Err(failure) => {
            tracing::info!(uid = peer.uid, url, bytes, %failure, "not fetched whole");
            connection.fail(&failure).await
        }
    }
}

/// Carries a body to the client; returns how much came from the server.
async fn carry(
    body: Body,
    pipe: &mut Pipe,
    services: &Services,
    client: &Peer,
    idle: Duration,
) -> Result<u64, Failure> {
    match body {
        Body::Whole(content) => {
            for piece in content.chunks(PIECE_BYTES) {
                pipe.write(piece).await?;
            }
            Ok(content.len() as u64)
        }
        Body::Coming(coming) => coming.carry(pipe, services, client, idle).await,
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Bytes as lower case digits.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
