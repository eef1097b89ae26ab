//! Receiving: buffers go out empty, come back full, are lent to the stack in place, and go out again.
//!
//! A frame of several buffers is lent in place too, if they follow each other in memory and all but the last are full. They do as a
//! rule: buffers are cut from the memory one after the other, posted in that order, and posted again in the order in which they come
//! back, so that a device which uses them in order goes around the pool as if it were one long buffer. Only a frame that begins at its
//! end and goes on at its beginning is copied, and whatever a device spreads in another way.

use crate::frame::{Frame, FramePool, owner};
use crate::net::offload::{OFFLOAD_BYTES, Offload};
use crate::net::{FrameRing, FrameShape, HEADER_NUM_BUFFERS, QueueCounters, RECEIVEQ1, ring_bell};
use crate::{Checksum, Doorbell, Fault, Part, Protocol, RingAddresses, Used};

/// The largest frame: 64 KiB of IP with its Ethernet header and a VLAN tag (virtio 1.3, 5.1.6.3.1 posts 65,562 bytes for it).
const FRAME_LEN_MAX: usize = 65_562;

/// What was negotiated for received frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Accepted {
    pub(super) checksum: bool,
    pub(super) tso4: bool,
    pub(super) tso6: bool,
}

impl Accepted {
    /// What of a header counts: a device has nothing to say about what was not negotiated. `None`: it joined segments although nobody
    /// asked it to, so that neither can be right.
    #[inline]
    fn filter(self, offload: Offload) -> Option<Offload> {
        let joined = match offload.segmentation.map(|segmentation| segmentation.protocol) {
            None => true,
            Some(Protocol::Tcp4) => self.tso4,
            Some(Protocol::Tcp6) => self.tso6,
            Some(Protocol::Udp) => false,
        };
        let checksum = if self.checksum { offload.checksum } else { Checksum::Complete };
        joined.then_some(Offload { checksum, ..offload })
    }
}

/// The receive queue. Aligned so that no two queues, which may belong to two threads, share a pair of cache lines (x86 fetches pairs).
#[repr(align(128))]
pub struct RxQueue {
    ring: FrameRing,
    pool: FramePool,
    shape: FrameShape,
    accepted: Accepted,
    doorbell: Box<dyn Doorbell>,
    counters: QueueCounters,
    /// Frames are copied before they are looked at: the device may write to them at any time.
    copies_out: bool,
    /// The frame after the one that is being lent: its first bytes are on their way into the cache meanwhile.
    next: Option<Used<Frame<owner::Device>>>,
    /// The buffers of a merged frame, and how much each holds.
    held: Vec<Frame<owner::Stack>>,
    held_bytes: Vec<usize>,
    /// Where header and bytes of a frame are put together, or those of one that is copied out.
    assembly: Vec<u8>,
}

impl RxQueue {
    pub(super) fn new(
        ring: FrameRing,
        pool: FramePool,
        (shape, accepted): (FrameShape, Accepted),
        doorbell: Box<dyn Doorbell>,
        copies_out: bool,
    ) -> Self {
        Self {
            ring,
            pool,
            shape,
            accepted,
            doorbell,
            counters: QueueCounters::default(),
            copies_out,
            next: None,
            held: Vec::new(),
            held_bytes: Vec::new(),
            assembly: Vec::new(),
        }
    }

    /// What came through this queue.
    pub fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// [`receive`](Self::receive) for whoever does not care what the device says about its frames.
    pub fn poll(&mut self, budget: usize, mut take: impl FnMut(&[u8])) -> Result<usize, Fault> {
        self.receive(budget, |frame, _| take(frame))
    }

    /// Lends up to `budget` received Ethernet frames to `take`, one after the other, each with what the device says about it, and posts
    /// their buffers again. Returns how many there were, those among them that were dropped because their header was wrong.
    pub fn receive(&mut self, budget: usize, mut take: impl FnMut(&[u8], Offload)) -> Result<usize, Fault> {
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
    fn lend(
        &mut self,
        used: Used<Frame<owner::Device>>,
        take: &mut impl FnMut(&[u8], Offload),
    ) -> Result<(), Fault> {
        let header = self.shape.header;
        let frame = used.token.returned();
        let written = used.written as usize;
        if written < header {
            return Err(Fault::TooShort { queue: RECEIVEQ1, len: used.written });
        }
        let buffers = match self.shape.merged {
            true => self.pool.read_u16(&frame, HEADER_NUM_BUFFERS),
            false => 1,
        };
        if buffers == 1 && !self.copies_out {
            let bytes = self.pool.bytes(&frame, 0, written);
            hand_on(bytes, header, self.accepted, &mut self.counters, take);
            self.post(frame.into_free());
            return Ok(());
        }
        let len = self.hold(frame, written, buffers)?;
        let Self { pool, held, held_bytes, assembly, accepted, counters, copies_out, .. } = self;
        let full =
            held_bytes.split_last().is_none_or(|(_, full)| full.iter().all(|n| *n == pool.frame_bytes()));
        let whole = if full && !*copies_out { pool.bytes_across(held, 0, len) } else { None };
        counters.merged += u64::from(buffers > 1);
        let bytes = match whole {
            Some(bytes) => bytes,
            None => {
                assembly.clear();
                for (frame, bytes) in held.iter().zip(held_bytes) {
                    pool.copy_out(frame, 0, *bytes, assembly);
                }
                counters.copied += (assembly.len() - header) as u64;
                &*assembly
            }
        };
        hand_on(bytes, header, *accepted, counters, take);
        let mut held = std::mem::take(&mut self.held);
        for frame in held.drain(..) {
            self.post(frame.into_free());
        }
        self.held = held;
        Ok(())
    }

    /// Takes the buffers of a frame, of which the first one holds `written` bytes, into our hands. All of them are published at once
    /// (virtio 1.3, 5.1.6.4), so one that is not there yet is a lie. Returns the length of all, header included.
    fn hold(&mut self, first: Frame<owner::Stack>, written: usize, buffers: u16) -> Result<usize, Fault> {
        let bad = Fault::BadMerge { queue: RECEIVEQ1, count: buffers };
        self.held.clear();
        self.held_bytes.clear();
        let mut len = written;
        self.held.push(first);
        self.held_bytes.push(written);
        for _ in 1..buffers {
            let used = self.take()?.ok_or(bad)?;
            len += used.written as usize;
            self.held.push(used.token.returned());
            self.held_bytes.push(used.written as usize);
            if len > self.shape.header + FRAME_LEN_MAX {
                return Err(bad);
            }
        }
        if buffers == 0 { Err(bad) } else { Ok(len) }
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
        self.held.clear();
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

/// Hands on what lies behind a header of `header` bytes, unless the header is wrong.
#[inline]
fn hand_on(
    bytes: &[u8],
    header: usize,
    accepted: Accepted,
    counters: &mut QueueCounters,
    take: &mut impl FnMut(&[u8], Offload),
) {
    let (fields, frame) = (bytes.first_chunk::<OFFLOAD_BYTES>(), bytes.get(header..).unwrap_or_default());
    let offload = fields.and_then(|fields| Offload::decode(fields, frame.len()).ok());
    let Some(offload) = offload.and_then(|offload| accepted.filter(offload)) else {
        counters.bad_headers += 1;
        return;
    };
    counters.frames += 1;
    counters.bytes += frame.len() as u64;
    counters.segments_joined += u64::from(offload.segmentation.is_some());
    take(frame, offload);
}
