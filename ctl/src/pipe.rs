//! Carrying bytes between a stream and standard input and output, both ways at once.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use netd_ipc::TcpStream;
use netd_ipc::services::BusStream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;

/// Bytes at a time: what a pipe of Linux holds (pipe(7)).
const CHUNK_BYTES: usize = 64 * 1024;

/// A stream of either kind.
pub(crate) trait Duplex: AsFd + Sync {
    /// Reads; 0 is the other side's end, and only that.
    fn receive(&self, into: &mut [u8]) -> Result<usize, Error>;
    /// Writes what fits.
    fn send(&self, bytes: &[u8]) -> Result<usize, Error>;
    /// Nothing more will be written.
    fn shutdown_write(&self) -> Result<(), Error>;
}

impl Duplex for TcpStream {
    fn receive(&self, into: &mut [u8]) -> Result<usize, Error> {
        Ok(TcpStream::receive(self, into)?)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Error> {
        Ok(TcpStream::send(self, bytes)?)
    }

    fn shutdown_write(&self) -> Result<(), Error> {
        Ok(TcpStream::shutdown_write(self)?)
    }
}

impl Duplex for BusStream {
    fn receive(&self, into: &mut [u8]) -> Result<usize, Error> {
        BusStream::receive(self, into).map_err(Error::Stream)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Error> {
        BusStream::send(self, bytes).map_err(Error::Stream)
    }

    fn shutdown_write(&self) -> Result<(), Error> {
        BusStream::shutdown_write(self).map_err(Error::Stream)
    }
}

/// What was carried, and how it ended.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// The input came to its end, and all of it was handed over.
    pub(crate) sent_all: bool,
    pub(crate) result: Result<(), Error>,
}

/// How the input's side ended.
#[derive(Debug, Default)]
struct Upload {
    bytes: u64,
    finished: bool,
    error: Option<Error>,
}

/// Copies `input` to the stream, then half-closes it, and the stream to `output` meanwhile. Over when the peer's end
/// came and the input is through; a person at a terminal is not waited for any more once the peer is done.
pub(crate) fn both_ways(stream: &impl Duplex, input: impl AsFd + Send, output: impl AsFd) -> Carried {
    let (stop, stopper) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(error) => return failed("make a pipe", error),
    };
    let terminal = rustix::termios::isatty(&input);
    thread::scope(|scope| {
        let upload = scope.spawn(move || upload(stream, input, &stop));
        let (received_bytes, downloaded) = download(stream, output);
        // Otherwise the input is waited for: the peer may have finished first and still be listening.
        let stopper = (!terminal && downloaded.is_ok()).then_some(stopper);
        if downloaded.is_err() {
            // Nobody reads from the stream any more, so the peer may never take what is still being sent. Should this
            // fail, the stream is over already, and sending fails without it.
            let _ = shutdown(stream, Shutdown::Both);
        }
        let upload = match upload.join() {
            Ok(upload) => upload,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        drop(stopper);
        carried(upload, received_bytes, downloaded)
    })
}

fn carried(upload: Upload, received_bytes: u64, downloaded: Result<(), Error>) -> Carried {
    let Upload { bytes, finished, error } = upload;
    let result = downloaded.and_then(|()| error.map_or(Ok(()), Err));
    Carried { sent_bytes: bytes, received_bytes, sent_all: finished, result }
}

fn failed(doing: &'static str, error: Errno) -> Carried {
    let result = Err(Error::System { doing, source: error.into() });
    Carried { sent_bytes: 0, received_bytes: 0, sent_all: false, result }
}

fn download(stream: &impl Duplex, output: impl AsFd) -> (u64, Result<(), Error>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        match stream.receive(&mut chunk) {
            Ok(0) => return (bytes, Ok(())),
            Ok(count) => {
                if let Err(error) = write_all(&output, chunk.get(..count).unwrap_or_default()) {
                    return (bytes, Err(Error::Delivery(error.into())));
                }
                bytes += count as u64;
            }
            Err(error) => return (bytes, Err(error)),
        }
    }
}

fn write_all(output: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = retry_on_intr(|| write(&output, bytes))?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn upload(stream: &impl Duplex, input: impl AsFd, stop: &OwnedFd) -> Upload {
    let mut upload = Upload::default();
    upload.error = send_input(stream, input, stop, &mut upload).err();
    upload
}

fn send_input(
    stream: &impl Duplex,
    input: impl AsFd,
    stop: &OwnedFd,
    upload: &mut Upload,
) -> Result<(), Error> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let waiting = |error: Errno| Error::System { doing: "wait for standard input", source: error.into() };
    while wait_for_input(&input, stop).map_err(waiting)? {
        // The descriptor itself, since standard input's own buffer would be unknown to poll(2).
        let count = retry_on_intr(|| read(&input, &mut chunk)).map_err(|error| Error::Input(error.into()))?;
        if count == 0 {
            stream.shutdown_write()?;
            upload.finished = true;
            break;
        }
        send_all(stream, chunk.get(..count).unwrap_or_default())?;
        upload.bytes += count as u64;
    }
    Ok(())
}

fn send_all(stream: &impl Duplex, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        let count = stream.send(bytes)?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Waits for input; false once the other end of `stop` is closed.
fn wait_for_input(input: impl AsFd, stop: &OwnedFd) -> Result<bool, Errno> {
    let mut descriptors = [PollFd::new(&input, PollFlags::IN), PollFd::new(stop, PollFlags::empty())];
    retry_on_intr(|| poll(&mut descriptors, None))?;
    Ok(descriptors[1].revents().is_empty())
}
