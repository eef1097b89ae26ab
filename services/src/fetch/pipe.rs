//! The pipe that a body goes through to the client: counted, bounded, and never waited for without end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netd_ipc::services::ErrorKind;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::timeout;

use crate::Failure;

/// What waits for the client in the kernel; the most that a user may have by default is 1 MiB for one pipe (pipe(7)).
const PIPE_BYTES: usize = 256 * 1024;

/// The writing end.
#[derive(Debug)]
pub(super) struct Pipe {
    sender: Sender,
    written: u64,
    size_max: u64,
    patience: Duration,
}

/// Makes a pipe; the reading end is the client's, and blocks as it likes.
///
/// # Errors
/// The process or the system is out of descriptors.
pub(super) fn pipe(size_max: u64, patience: Duration) -> io::Result<(OwnedFd, Pipe)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // A user with many pipes gets small ones, which are slower and nothing else.
    let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
    let sender = Sender::from_owned_fd(writer)?;
    Ok((reader, Pipe { sender, written: 0, size_max, patience }))
}

impl Pipe {
    /// Hands bytes to the client.
    ///
    /// # Errors
    /// They are more than was allowed, or the client does not read.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Pipe { sender, written, size_max, patience } = self;
        if written.saturating_add(bytes.len() as u64) > *size_max {
            return Err(too_large(*size_max));
        }
        match timeout(*patience, sender.write_all(bytes)).await {
            Ok(Ok(())) => {
                *written += bytes.len() as u64;
                Ok(())
            }
            Ok(Err(error)) => {
                let message = format!("the client closed the pipe ({error})");
                Err(Failure::new(ErrorKind::Truncated, message))
            }
            Err(_) => {
                let message = format!("the client did not read for {} s", patience.as_secs_f32());
                Err(Failure::new(ErrorKind::TimedOut, message))
            }
        }
    }

    /// How much went through.
    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

/// The body is larger than was allowed.
pub(super) fn too_large(size_max: u64) -> Failure {
    Failure::new(
        ErrorKind::TooLarge,
        format!(
            "the body has more than {size_max} bytes, which is the most that was asked for or is allowed"
        ),
    )
}
