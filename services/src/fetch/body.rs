//! A server's body: read as it comes, decoded, and carried to the client within its bounds.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use hyper::body::{Body as _, Bytes, Incoming};
use netd_ipc::services::ErrorKind;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, ReadBuf};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::http;
use super::pipe::Pipe;
use crate::Failure;

/// Bytes that are decoded and handed on at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How much must come within the idle deadline: a server that drips would otherwise hold a fetch for ever.
const PROGRESS_BYTES: u64 = 1024;
/// How many times larger a body may become by decoding: text compresses tenfold, logs fiftyfold, and gzip cannot do more than 1032.
const RATIO_MAX: u64 = 200;
/// What may come out whatever went in, so that short bodies of one repeated line are no bombs.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// How often a fetch under way is decided again: grants, the devnet switch and roots may be taken away.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// 8 MiB: more a decoder of zstd's content coding need not take (RFC 9659, 3).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is encoded (RFC 9110, 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Brotli,
    Zstd,
}

impl Encoding {
    /// As `Content-Encoding` says; none for what is not known, or several at once, which nobody sends.
    pub(super) fn parse(value: Option<&str>) -> Option<Encoding> {
        match value.map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Some(Encoding::Identity),
            Some("gzip" | "x-gzip") => Some(Encoding::Gzip),
            Some("br") => Some(Encoding::Brotli),
            Some("zstd") => Some(Encoding::Zstd),
            Some(_) => None,
        }
    }
}

/// The bytes of a body as the server sends them.
pub(super) struct Raw {
    incoming: Incoming,
    current: Bytes,
    received: u64,
    failure: Option<Failure>,
}

impl Raw {
    pub(super) fn new(incoming: Incoming) -> Raw {
        Raw { incoming, current: Bytes::new(), received: 0, failure: None }
    }
}

impl AsyncBufRead for Raw {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let raw = self.get_mut();
        while raw.current.is_empty() {
            match ready!(Pin::new(&mut raw.incoming).poll_frame(cx)) {
                None => break,
                Some(Ok(frame)) => {
                    // Trailers are of no use to anybody here.
                    if let Ok(data) = frame.into_data() {
                        raw.received += data.len() as u64;
                        raw.current = data;
                    }
                }
                Some(Err(error)) => {
                    let failure = http::cut(&error);
                    let message = failure.message.clone();
                    raw.failure = Some(failure);
                    return Poll::Ready(Err(io::Error::other(message)));
                }
            }
        }
        Poll::Ready(Ok(&raw.current))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let raw = self.get_mut();
        drop(raw.current.split_to(count.min(raw.current.len())));
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let there = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = there.len().min(into.remaining());
        into.put_slice(there.get(..count).unwrap_or_default());
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

/// A body and its decoder.
pub(super) enum Decoded {
    Identity(Raw),
    Gzip(Box<GzipDecoder<Raw>>),
    Brotli(Box<BrotliDecoder<Raw>>),
    Zstd(Box<ZstdDecoder<Raw>>),
}

impl Decoded {
    pub(super) fn new(raw: Raw, encoding: Encoding) -> Decoded {
        match encoding {
            Encoding::Identity => Decoded::Identity(raw),
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(raw);
                // A gzip file may consist of several members (RFC 1952, 2.2).
                decoder.multiple_members(true);
                Decoded::Gzip(Box::new(decoder))
            }
            Encoding::Brotli => Decoded::Brotli(Box::new(BrotliDecoder::new(raw))),
            Encoding::Zstd => {
                let bounded = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
                Decoded::Zstd(Box::new(ZstdDecoder::with_params(raw, &bounded)))
            }
        }
    }

    fn raw(&mut self) -> &mut Raw {
        match self {
            Decoded::Identity(raw) => raw,
            Decoded::Gzip(decoder) => decoder.get_mut(),
            Decoded::Brotli(decoder) => decoder.get_mut(),
            Decoded::Zstd(decoder) => decoder.get_mut(),
        }
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoded::Identity(raw) => raw.read(into).await,
            Decoded::Gzip(decoder) => decoder.read(into).await,
            Decoded::Brotli(decoder) => decoder.read(into).await,
            Decoded::Zstd(decoder) => decoder.read(into).await,
        }
    }

    /// The next bytes, decoded; 0 at the end of a body that is complete.
    ///
    /// # Errors
    /// It broke off, or does not decode.
    async fn next(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let read = match self.read(into).await {
            // What was decoded is whole; the body around it has to be, too.
            Ok(0) => return self.finish().await,
            other => other,
        };
        read.map_err(|error| self.failure(&error))
    }

    async fn finish(&mut self) -> Result<usize, Failure> {
        let raw = self.raw();
        match raw.read(&mut [0; 1]).await {
            Ok(0) => Ok(0),
            Ok(_) => {
                let message = "the body goes on after the end of what it encodes";
                Err(Failure::new(ErrorKind::ProtocolError, message))
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn failure(&mut self, error: &io::Error) -> Failure {
        if let Some(failure) = self.raw().failure.take() {
            return failure;
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Failure::new(ErrorKind::Truncated, "the body broke off in the middle of what it encodes");
        }
        Failure::new(ErrorKind::ProtocolError, format!("the body does not decode: {error}"))
    }

    /// Carries the body to the client, asking `still` every so often, and after each of the `changes`, whether it may go on; returns how
    /// much came from the server.
    ///
    /// # Errors
    /// It is not complete, and why.
    pub(super) async fn carry<F: Future<Output = Result<(), Failure>>>(
        &mut self,
        pipe: &mut Pipe,
        idle: Duration,
        mut changes: watch::Receiver<()>,
        mut still: impl FnMut() -> F,
    ) -> Result<u64, Failure> {
        let mut piece = vec![0; PIECE_BYTES];
        let (mut since, mut mark) = (Instant::now(), 0);
        let mut asked = Instant::now();
        loop {
            let count = {
                let mut next = pin!(self.next(&mut piece));
                loop {
                    // In this order: a server that never pauses is asked about as well, and one that is silent.
                    select! {
                        biased;
                        _ = changes.changed() => {}
                        () = sleep_until(asked + ASK_AGAIN) => {}
                        count = &mut next => break count?,
                        () = sleep_until(since + idle) => return Err(too_slow(idle)),
                    }
                    still().await?;
                    asked = Instant::now();
                }
            };
            let received = self.raw().received;
            if count == 0 {
                return Ok(received);
            }
            if received - mark >= PROGRESS_BYTES {
                (since, mark) = (Instant::now(), received);
            }
            let out = pipe.written() + count as u64;
            if out > RATIO_FREE_BYTES && out / RATIO_MAX > received {
                let message = format!(
                    "the body became more than {RATIO_MAX} times larger by decoding ({out} bytes of {received}): it is taken for a bomb"
                );
                return Err(Failure::new(ErrorKind::TooLarge, message));
            }
            let writing = Instant::now();
            pipe.write(piece.get(..count).unwrap_or_default()).await?;
            // While the client was slow, the server could not be fast.
            since += writing.elapsed();
        }
    }
}

fn too_slow(idle: Duration) -> Failure {
    let seconds = idle.as_secs_f32();
    let message = format!("fewer than {PROGRESS_BYTES} bytes of the body came within {seconds} s");
    Failure::new(ErrorKind::TimedOut, message)
}
