//! Captures: copies of frames for clients, as a pcapng stream on a descriptor.
//!
//! ```text
//!   worker ── filter, copy ──> ring (bounded) ──> thread of the capture ──> descriptor ──> client
//! ```
//!
//! The worker never waits: when the ring is full, frames are lost for the capture, counted, and the count is told in the
//! stream. Without captures it costs one comparison per frame. A client that does not read blocks its own thread alone.

mod filter;
mod pcapng;
mod view;

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netd_ipc::passing;
use netd_virtqueue::Checksum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

pub use filter::{Error as FilterError, Filter};
pub use pcapng::Direction;

/// Frames in the ring: 2048 of 1514 bytes are 3 MiB, and a tenth of a second at 20,000 frames per second.
const RING_FRAMES: usize = 2048;
/// How often the thread looks whether its client is still there while no frame comes, and tells what was lost.
const TICK: Duration = Duration::from_millis(500);

/// A frame in the ring.
struct Copy {
    at: Duration,
    direction: Direction,
    len: usize,
    kept: Box<[u8]>,
}

/// What worker and thread share.
#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    /// The client is gone.
    over: AtomicBool,
}

/// One capture.
struct Tap {
    uid: u32,
    filter: Filter,
    snap_bytes: usize,
    ring: SyncSender<Copy>,
    shared: Arc<Shared>,
}

/// All captures of a worker.
#[derive(Default)]
pub struct Taps(Vec<Tap>);

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Taps").field(&self.0.len()).finish()
    }
}

impl Taps {
    /// Starts a capture for `uid` that writes to `descriptor`.
    ///
    /// # Errors
    /// Its thread could not be had.
    pub fn add(
        &mut self,
        uid: u32,
        filter: Filter,
        snap_bytes: usize,
        descriptor: OwnedFd,
    ) -> std::io::Result<()> {
        let (ring, frames) = sync_channel(RING_FRAMES);
        let shared = Arc::new(Shared::default());
        let writer = Writer { descriptor, shared: Arc::clone(&shared), kept: 0, told: 0 };
        thread::Builder::new()
            .name("netd-capture".to_owned())
            .spawn(move || writer.run(&frames, snap_bytes))?;
        self.0.push(Tap { uid, filter, snap_bytes, ring, shared });
        Ok(())
    }

    /// Offers a frame to every capture. A checksum that is left to somebody is in the copy as it will be on the wire, if the copy is whole.
    #[inline]
    pub fn offer(&mut self, direction: Direction, frame: &[u8], checksum: Checksum) {
        if !self.0.is_empty() {
            self.copy(direction, frame, checksum);
        }
    }

    #[cold]
    fn copy(&mut self, direction: Direction, frame: &[u8], checksum: Checksum) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for tap in &self.0 {
            if !tap.filter.takes(frame) {
                continue;
            }
            let mut kept: Box<[u8]> = frame.get(..tap.snap_bytes).unwrap_or(frame).into();
            if kept.len() == frame.len() {
                // One that lies elsewhere is left alone, as the stack will leave it.
                let _ = checksum.complete(&mut kept);
            }
            match tap.ring.try_send(Copy { at, direction, len: frame.len(), kept }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => drop(tap.shared.lost.fetch_add(1, Ordering::Relaxed)),
                Err(TrySendError::Disconnected(_)) => tap.shared.over.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets captures go whose clients are gone; returns whose they were.
    pub fn reap(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        self.0.retain(|tap| {
            let over = tap.shared.over.load(Ordering::Relaxed);
            if over {
                gone.push(tap.uid);
            }
            !over
        });
        gone
    }
}

/// The thread's side.
struct Writer {
    descriptor: OwnedFd,
    shared: Arc<Shared>,
    kept: u64,
    /// Losses that the stream has told.
    told: u64,
}

impl Writer {
    fn run(mut self, frames: &Receiver<Copy>, snap_bytes: usize) {
        // Errors mean that the client is gone, and nobody is left to be told.
        let _ = self.write_all(frames, snap_bytes);
        // What the client may have left in it can make closing block: until then the capture counts towards its bounds.
        drop(self.descriptor);
        self.shared.over.store(true, Ordering::Relaxed);
    }

    fn write_all(&mut self, frames: &Receiver<Copy>, snap_bytes: usize) -> Result<(), rustix::io::Errno> {
        self.send(&pcapng::header("net0", u32::try_from(snap_bytes).unwrap_or(u32::MAX)))?;
        loop {
            match frames.recv_timeout(TICK) {
                Ok(Copy { at, direction, len, kept }) => {
                    self.kept += 1;
                    self.send(&pcapng::packet(at, direction, len, &kept))?;
                    if self.kept.is_multiple_of(RING_FRAMES as u64) {
                        self.tick()?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tick()?,
                // The worker ends.
                Err(RecvTimeoutError::Disconnected) => return self.tick(),
            }
        }
    }

    /// Tells of new losses, and looks whether the client is there.
    fn tick(&mut self) -> Result<(), rustix::io::Errno> {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost != self.told {
            self.told = lost;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.send(&pcapng::statistics(now, self.kept, lost))?;
        }
        let mut descriptors = [PollFd::new(&self.descriptor, PollFlags::empty())];
        poll(&mut descriptors, Some(&Timespec::default()))?;
        let hung_up = descriptors[0].revents().contains(PollFlags::HUP);
        if hung_up { Err(rustix::io::Errno::PIPE) } else { Ok(()) }
    }

    /// Writes all of it, for as long as it takes.
    fn send(&self, mut bytes: &[u8]) -> Result<(), rustix::io::Errno> {
        while !bytes.is_empty() {
            let count = passing::send(&self.descriptor, &[IoSlice::new(bytes)], &[], SendFlags::empty())?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::view::tests::{ARP, UDP_V4};
    use super::*;

    fn capture(filter: &str, snap_bytes: usize) -> (Taps, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut taps = Taps::default();
        taps.add(1000, Filter::parse(filter).unwrap(), snap_bytes, ours.into()).unwrap();
        (taps, theirs)
    }

    /// The types of the blocks, with their bodies.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let (kind, len) = (number(bytes), number(&bytes[4..]) as usize);
            assert_eq!(number(&bytes[len - 4..]) as usize, len);
            blocks.push((kind, bytes[8..len - 4].to_vec()));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn frames_that_fit_come_as_packets_cut_to_the_length_asked_for() {
        let (mut taps, mut client) = capture("udp", 20);
        taps.offer(Direction::Received, &UDP_V4, Checksum::Complete);
        taps.offer(Direction::Sent, &ARP, Checksum::Complete);
        taps.offer(Direction::Sent, &UDP_V4, Checksum::Complete);
        drop(taps);
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        let blocks = blocks(&all);
        assert_eq!(blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6, 6]);
        let body = &blocks[2].1;
        assert_eq!(body[12..20], [20u32.to_ne_bytes(), 42u32.to_ne_bytes()].concat());
        assert_eq!(body[20..40], UDP_V4[..20]);
    }

    #[test]
    fn checksum_left_to_the_device_is_complete_in_a_whole_copy_and_untouched_in_a_cut_one() {
        let left = Checksum::Partial { start: 34, offset: 6 };
        let mut complete = UDP_V4.to_vec();
        left.complete(&mut complete).unwrap();
        assert_ne!(complete, UDP_V4);
        for (snap_bytes, expected) in [(100, &complete[..]), (41, &UDP_V4[..41])] {
            let (mut taps, mut client) = capture("", snap_bytes);
            taps.offer(Direction::Sent, &UDP_V4, left);
            drop(taps);
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            assert_eq!(blocks(&all)[2].1[20..20 + expected.len()], *expected);
        }
    }

    #[test]
    fn reader_that_stops_loses_frames_and_stops_nobody() {
        let (mut taps, client) = capture("", 2000);
        let frame = [0; 1500];
        let begun = std::time::Instant::now();
        (0..20_000).for_each(|_| taps.offer(Direction::Sent, &frame, Checksum::Complete));
        assert!(begun.elapsed() < Duration::from_secs(5));
        let lost = taps.0[0].shared.lost.load(Ordering::Relaxed);
        assert!(lost > 0 && lost < 20_000, "{lost}");
        drop(client);
    }

    #[test]
    fn client_that_is_gone_is_reaped_although_no_frame_comes() {
        let (mut taps, client) = capture("", 100);
        assert!(taps.reap().is_empty());
        drop(client);
        let begun = std::time::Instant::now();
        while taps.reap() != [1000] {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(10));
        }
        assert!(taps.is_empty());
    }
}
