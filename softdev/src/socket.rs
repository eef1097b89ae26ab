//! A link over a Unix stream socket in QEMU's format (`-netdev stream`): each frame after its length, 32 bits big endian.
//! passt speaks it, so does another netd, so does a virtual machine.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netd_virtqueue::Offload;

use crate::{Error, FRAME_LEN_MAX, Link};

/// Output that waits for the peer: some frames more than a socket buffer's worth, so that a poll's burst goes out in one write.
const OUTPUT_MAX: usize = 256 << 10;
/// Input is read in pieces of this size; it holds the longest frame.
const INPUT_BYTES: usize = 256 << 10;
/// Between attempts to reach a peer that went away.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Length of the prefix.
const PREFIX: usize = 4;

/// A connection to a peer, and its reconnection.
pub struct SocketLink {
    path: PathBuf,
    connection: Option<Connection>,
    /// Counts connections, so that whoever waits for the descriptor notices a new one.
    generation: u64,
    retry_at: Instant,
}

struct Connection {
    stream: UnixStream,
    /// Bytes received; frames begin at `consumed`.
    input: Vec<u8>,
    filled: usize,
    consumed: usize,
    output: Vec<u8>,
    written: usize,
}

impl SocketLink {
    /// Connects to the program that serves `path`.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let stream =
            dial(path).map_err(|source| Error::Connect { path: path.display().to_string(), source })?;
        let connection = Some(Connection::new(stream));
        Ok(Self { path: path.to_owned(), connection, generation: 1, retry_at: Instant::now() })
    }

    /// Drops a connection that failed; [`Link::maintain`] makes a new one.
    fn lost<T>(&mut self) -> Option<T> {
        self.connection = None;
        self.retry_at = Instant::now() + RECONNECT_INTERVAL;
        None
    }
}

fn dial(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Link for SocketLink {
    fn send(&mut self, frame: &[u8], _: &Offload) -> bool {
        // A link without a peer loses frames, like a cable without one.
        let Some(connection) = &mut self.connection else { return true };
        if connection.output.len() + PREFIX + frame.len() > OUTPUT_MAX {
            self.flush();
            let Some(connection) = &self.connection else { return true };
            if connection.output.len() + PREFIX + frame.len() > OUTPUT_MAX {
                return false;
            }
        }
        if let (Some(connection), Ok(len)) = (&mut self.connection, u32::try_from(frame.len())) {
            connection.output.extend_from_slice(&len.to_be_bytes());
            connection.output.extend_from_slice(frame);
        }
        true
    }

    fn flush(&mut self) {
        if let Some(connection) = &mut self.connection
            && connection.flush().is_err()
        {
            self.lost::<()>();
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)> {
        match self.connection.as_mut()?.receive(buffer) {
            Ok(frame) => frame.map(|len| (len, Offload::NONE)),
            Err(_) => self.lost(),
        }
    }

    fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    fn maintain(&mut self) {
        if self.connection.is_some() || Instant::now() < self.retry_at {
            return;
        }
        match dial(&self.path) {
            Ok(stream) => {
                self.connection = Some(Connection::new(stream));
                self.generation += 1;
            }
            Err(_) => self.retry_at = Instant::now() + RECONNECT_INTERVAL,
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|connection| connection.stream.as_fd())
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn wants_write(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.output.is_empty())
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, input: vec![0; INPUT_BYTES], filled: 0, consumed: 0, output: Vec::new(), written: 0 }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Keep what is left at the front, so that the room in the buffer is what `send` thinks it is.
                    self.output.drain(..self.written);
                    self.written = 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// The next whole frame. A length that no frame has ends the connection: the stream cannot be understood any more.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let have = &self.input[self.consumed..self.filled];
            if let Some((prefix, rest)) = have.split_first_chunk::<PREFIX>() {
                let len = u32::from_be_bytes(*prefix) as usize;
                if len > FRAME_LEN_MAX.min(buffer.len()) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if let Some(frame) = rest.get(..len) {
                    buffer[..len].copy_from_slice(frame);
                    self.consumed += PREFIX + len;
                    return Ok(Some(len));
                }
            }
            self.input.copy_within(self.consumed..self.filled, 0);
            self.filled -= self.consumed;
            self.consumed = 0;
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn pair() -> (SocketLink, UnixListener, UnixStream, tempdir::Dir) {
        let dir = tempdir::Dir::new();
        let path = dir.path().join("link.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let link = SocketLink::connect(&path).unwrap();
        let (peer, _) = listener.accept().unwrap();
        (link, listener, peer, dir)
    }

    /// A directory that goes when the test ends.
    mod tempdir {
        use std::path::{Path, PathBuf};

        pub(super) struct Dir(PathBuf);

        impl Dir {
            pub(super) fn new() -> Self {
                let path = std::env::temp_dir().join(format!(
                    "netd-link-{}-{:x}",
                    std::process::id(),
                    fastrand::u64(..)
                ));
                std::fs::create_dir(&path).unwrap();
                Self(path)
            }

            pub(super) fn path(&self) -> &Path {
                &self.0
            }
        }

        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }
    }

    #[test]
    fn frames_sent_carry_their_length() {
        let (mut link, _listener, mut peer, _dir) = pair();
        assert!(link.send(&[1, 2, 3], &Offload::NONE) && link.send(&[4], &Offload::NONE));
        link.flush();
        let mut bytes = [0; 12];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 1, 4]);
    }

    #[test]
    fn frame_in_pieces_arrives_whole() {
        let (mut link, _listener, mut peer, _dir) = pair();
        let mut buffer = vec![0; FRAME_LEN_MAX];
        for byte in [0, 0, 0, 2, 7] {
            peer.write_all(&[byte]).unwrap();
            assert_eq!(link.receive(&mut buffer), None);
        }
        peer.write_all(&[8]).unwrap();
        assert_eq!(link.receive(&mut buffer), Some((2, Offload::NONE)));
        assert_eq!(buffer[..2], [7, 8]);
    }

    #[test]
    fn length_that_no_frame_has_ends_the_connection() {
        let (mut link, _listener, mut peer, _dir) = pair();
        peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(link.receive(&mut vec![0; FRAME_LEN_MAX]), None);
        assert!(!link.is_up());
    }

    #[test]
    fn peer_that_returns_is_reached_again() {
        let (mut link, listener, peer, _dir) = pair();
        drop(peer);
        assert_eq!(link.receive(&mut vec![0; FRAME_LEN_MAX]), None);
        assert!(!link.is_up());
        link.retry_at = Instant::now();
        link.maintain();
        assert!(link.is_up());
        listener.accept().unwrap();
    }

    #[test]
    fn peer_that_does_not_read_congests_the_link() {
        let (mut link, _listener, _peer, _dir) = pair();
        let frame = vec![0; 60_000];
        assert!((0..100).any(|_| !link.send(&frame, &Offload::NONE)), "six megabytes went nowhere");
    }
}
