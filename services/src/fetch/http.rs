//! One exchange over HTTP/1.1 (RFC 9112) or HTTP/2 (RFC 9113), on a connection of its own.

use std::error::Error as _;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HOST, IF_RANGE, RANGE, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use netd_ipc::services::{ErrorKind, FetchOptions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::target::Target;
use crate::Failure;

/// Longest head of an answer: what large servers send themselves, several times over.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most fields in it: hyper's own default for HTTP/1, and room for anything honest.
const HEAD_FIELDS_MAX: usize = 100;
/// What the server may send before we read on, in HTTP/2: a window of netd's own buffers.
const WINDOW_BYTES: u32 = 256 * 1024;

/// An answer whose body is still to come. The connection lasts as long as this.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) connection: JoinSet<()>,
}

/// Which version of HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    pub(super) fn name(self) -> &'static str {
        match self {
            Version::One => "HTTP/1.1",
            Version::Two => "HTTP/2",
        }
    }
}

/// Asks for a target and waits for the head of the answer.
///
/// # Errors
/// What came is no HTTP, or too much of it.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    version: Version,
    target: &Target,
    options: &FetchOptions,
) -> Result<Answer, Failure> {
    let io = TokioIo::new(stream);
    let mut connection = JoinSet::new();
    let request = request(version, target, options)?;
    let response = match version {
        Version::One => {
            let (mut sender, driver) = http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEAD_FIELDS_MAX)
                .handshake(io)
                .await
                .map_err(|error| no_answer(&error))?;
            // What ends it shows in the answer or its body as well.
            connection.spawn(async move { drop(driver.await) });
            sender.send_request(request).await
        }
        Version::Two => {
            let (mut sender, driver) = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .handshake(io)
                .await
                .map_err(|error| no_answer(&error))?;
            connection.spawn(async move { drop(driver.await) });
            sender.send_request(request).await
        }
    };
    Ok(Answer { response: response.map_err(|error| no_answer(&error))?, connection })
}

fn request(
    version: Version,
    target: &Target,
    options: &FetchOptions,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let uri = match version {
        Version::One => target.path_and_query().parse::<Uri>(),
        // The scheme and the host go as pseudo-headers (RFC 9113, 8.3.1).
        Version::Two => target.url().parse(),
    };
    let uri = uri.map_err(|error| {
        Failure::new(ErrorKind::InvalidInput, format!("'{}' cannot be asked for: {error}", target.url()))
    })?;
    let encodings = match options.compressed && options.from.is_none() {
        true => "gzip, br, zstd",
        // A part of an encoded body is of no use.
        false => "identity",
    };
    let mut request = Request::get(uri)
        .header(USER_AGENT, concat!("netd-services/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, encodings);
    if version == Version::One {
        request = request.header(HOST, target.host_header());
    }
    if let (Some(from), Some(validator)) = (options.from.filter(|from| *from > 0), &options.validator) {
        request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, validator);
    }
    request.body(Empty::new()).map_err(|error| {
        Failure::new(ErrorKind::InvalidInput, format!("the validator cannot be sent: {error}"))
    })
}

/// What kept the head from coming.
fn no_answer(error: &hyper::Error) -> Failure {
    // hyper tells this reason in words alone.
    if error.is_parse() && error.to_string().contains("too large") {
        let message = format!(
            "the head of the server's answer is longer than {HEAD_BYTES_MAX} bytes or has more than {HEAD_FIELDS_MAX} fields"
        );
        return Failure::new(ErrorKind::ProtocolError, message);
    }
    if error.is_incomplete_message() || error.is_canceled() {
        let message = "the server closed the connection before its answer was there";
        return Failure::new(ErrorKind::ProtocolError, message);
    }
    Failure::new(
        ErrorKind::ProtocolError,
        format!("the server's answer cannot be understood: {}", described(error)),
    )
}

/// What broke a body off.
pub(super) fn cut(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        let message = format!("the server's body cannot be understood: {}", described(error));
        return Failure::new(ErrorKind::ProtocolError, message);
    }
    Failure::new(ErrorKind::Truncated, format!("the body broke off: {}", described(error)))
}

/// An error with its causes, in one line.
fn described(error: &hyper::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    message
}
