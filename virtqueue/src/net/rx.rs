//! Receiving: buffers go out empty, come back full, are lent to the stack in place, and go out again.

use crate::frame::{Frame, FramePool, owner};
use crate::net::{FrameRing, FrameShape, HEADER_NUM_BUFFERS, QueueCounters, RECEIVEQ1, ring_bell};
use crate::{Doorbell, Fault, Part, RingAddresses, Used};

/// The largest frame: 64 KiB of IP with its Ethernet header and a VLAN tag (virtio 1.3, 5.1.6.3.1 posts 65,562 bytes for it).
const FRAME_LEN_MAX: usize = 65_562;

/// The receive queue. Aligned so that no two queues, which may belong to two threads, share a pair of cache lines (x86 fetches pairs).
#[repr(align(128))]
pub struct RxQueue {
    ring: FrameRing,
    pool: FramePool,
    shape: FrameShape,
    doorbell: Box<dyn Doorbell>,
    counters: QueueCounters,
    /// Frames are copied before they are looked at: the device may write to them at any time.
    copies_out: bool,
    /// The frame after the one that is being lent: its first bytes are on their way into the cache meanwhile.
    next: Option<Used<Frame<owner::Device>>>,
    /// Where a frame of several buffers is put together, or one that is copied out.
    assembly: Vec<u8>,
}

impl RxQueue {
    pub(super) fn new(
        ring: FrameRing,
        pool: FramePool,
        shape: FrameShape,
        doorbell: Box<dyn Doorbell>,
        copies_out: bool,
    ) -> Self {
        let counters = QueueCounters::default();
        Self { ring, pool, shape, doorbell, counters, copies_out, next: None, assembly: Vec::new() }
    }

    /// What came through this queue.
    pub fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// Lends up to `budget` received Ethernet frames to `take`, one after the other, and posts their buffers again.
    /// Returns how many there were.
    pub fn poll(&mut self, budget: usize, mut take: impl FnMut(&[u8])) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < budget {
            let Some(used) = self.take()? else { break };
            self.look_ahead()?;
            self.lend(used, &mut take)?;
            taken += 1;
        }
        if taken > 0 {
            self.kick()?;
        }
        Ok(taken)
    }

    /// Asks for an interrupt when the next frame arrives. Returns whether one is there already.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        Ok(self.ring.arm()? || self.next.is_some())
    }

    /// No more interrupts: the queue is polled again.
    pub fn disarm(&mut self) {
        self.ring.silence();
    }

    /// The next buffer that the device filled.
    #[inline]
    fn take(&mut self) -> Result<Option<Used<Frame<owner::Device>>>, Fault> {
        match self.next.take() {
            Some(used) => Ok(Some(used)),
            None => self.ring.pop(),
        }
    }

    /// Takes one buffer more, and lets its bytes come.
    #[inline]
    fn look_ahead(&mut self) -> Result<(), Fault> {
        self.next = self.ring.pop()?;
        if let Some(used) = &self.next {
            self.pool.prefetch(&used.token);
        }
        Ok(())
    }

    /// Lends one frame, which begins in `used`.
    #[inline]
    fn lend(&mut self, used: Used<Frame<owner::Device>>, take: &mut impl FnMut(&[u8])) -> Result<(), Fault> {
        let header = self.shape.header;
        let frame = used.token.returned();
        let written = used.written as usize;
        let Some(len) = written.checked_sub(header) else {
            return Err(Fault::TooShort { queue: RECEIVEQ1, len: used.written });
        };
        let buffers = match self.shape.merged {
            true => self.pool.read_u16(&frame, HEADER_NUM_BUFFERS),
            false => 1,
        };
        if buffers == 1 && !self.copies_out {
            let bytes = self.pool.bytes(&frame, header, len);
            self.counters.frames += 1;
            self.counters.bytes += len as u64;
            take(bytes);
            self.post(frame.into_free());
            return Ok(());
        }
        self.gather(frame, len, buffers)?;
        self.counters.frames += 1;
        self.counters.merged += u64::from(buffers > 1);
        self.counters.bytes += self.assembly.len() as u64;
        take(&self.assembly);
        Ok(())
    }

    /// Puts a frame of `buffers` buffers together; the first one holds the header and `len` bytes. All of a frame's buffers are
    /// published at once (virtio 1.3, 5.1.6.4), so one that is not there yet is a lie.
    fn gather(&mut self, first: Frame<owner::Stack>, len: usize, buffers: u16) -> Result<(), Fault> {
        let bad = Fault::BadMerge { queue: RECEIVEQ1, count: buffers };
        self.assembly.clear();
        self.pool.copy_out(&first, self.shape.header, len, &mut self.assembly);
        self.post(first.into_free());
        for _ in 1..buffers {
            let used = self.take()?.ok_or(bad)?;
            let frame = used.token.returned();
            self.pool.copy_out(&frame, 0, used.written as usize, &mut self.assembly);
            self.post(frame.into_free());
            if self.assembly.len() > FRAME_LEN_MAX {
                return Err(bad);
            }
        }
        if buffers == 0 { Err(bad) } else { Ok(()) }
    }

    /// Posts every free buffer.
    pub(super) fn fill(&mut self) {
        while let Some(frame) = self.pool.take() {
            self.post(frame);
        }
    }

    /// Publishes what was posted and rings the bell if the device waits for it.
    pub(super) fn kick(&mut self) -> Result<(), Fault> {
        let rung = ring_bell(&*self.doorbell, self.ring.publish(), RECEIVEQ1)?;
        self.counters.doorbells += u64::from(rung);
        Ok(())
    }

    /// Where the device finds the ring.
    pub(super) fn addresses(&self) -> RingAddresses {
        self.ring.addresses()
    }

    /// Takes every buffer back from a queue that was reset, and posts it again.
    pub(super) fn restart(&mut self) {
        drop((self.ring.drain(), self.next.take()));
        self.pool.recover();
        self.fill();
    }

    #[inline]
    fn post(&mut self, frame: Frame<owner::Free>) {
        let address = self.pool.device_address(&frame);
        let (header, len) = (self.shape.header, self.pool.frame_bytes());
        let part = |offset: usize, len: usize| Part {
            device_address: address + offset as u64,
            len: len as u32,
            device_writes: true,
        };
        let device = frame.into_device();
        // There are as many frames as the ring has room for, so this never fails.
        let posted = match self.shape.rx_header_apart() {
            true => self.ring.push(&[part(0, header), part(header, len - header)], device),
            false => self.ring.push(&[part(0, len)], device),
        };
        debug_assert!(posted.is_ok());
    }
}
