//! Transmitting: a buffer is lent to be filled, sent, and taken back once another one is needed.

use crate::frame::{Frame, FramePool, owner};
use crate::net::offload::Offload;
use crate::net::{FrameShape, QueueCounters, TRANSMITQ1, ring_bell};
use crate::{Doorbell, Fault, Part, Ring, RingAddresses};

/// What the device does for who sends, as far as it is switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxOffloads {
    /// It completes checksums.
    pub checksum: bool,
    /// It cuts segments of TCP over IPv4.
    pub tso4: bool,
    /// It cuts segments of TCP over IPv6.
    pub tso6: bool,
}

/// Which pool a buffer is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// For a frame that the link carries.
    Link,
    /// For a segment that the device cuts.
    Long,
}

pub(super) type TxRing = Ring<TxToken>;

/// A buffer that the device has.
#[derive(Debug)]
pub(super) struct TxToken(Frame<owner::Device>, Size);

/// Where transmitted frames are written.
pub(super) struct TxPools {
    /// Each holds a frame that the link carries.
    pub(super) link: FramePool,
    /// Where the device cuts segments: each holds the longest of them. They are few, and each is one piece of memory: the engine
    /// writes a segment in one go, and a chain of small buffers would have to be copied together or cost a descriptor for each.
    pub(super) long: Option<FramePool>,
}

impl TxPools {
    fn of(&mut self, size: Size) -> &mut FramePool {
        match (size, &mut self.long) {
            (Size::Long, Some(long)) => long,
            // Only what was taken from the other pool is `Long`.
            (Size::Link | Size::Long, _) => &mut self.link,
        }
    }
}

/// The transmit queue.
///
/// The virtio-net header in front of each buffer was zeroed with the pool. It is never written again unless offloads were negotiated:
/// without them all its fields are zero (virtio 1.3, 5.1.6.2).
///
/// Aligned like [`RxQueue`](crate::RxQueue).
#[repr(align(128))]
pub struct TxQueue {
    ring: TxRing,
    pools: TxPools,
    shape: FrameShape,
    /// What was negotiated: then every header is written.
    writes_headers: bool,
    offloads: TxOffloads,
    doorbell: Box<dyn Doorbell>,
    counters: QueueCounters,
    /// Where a frame is written that is copied in when it is complete; empty where frames are written in place.
    staging: Vec<u8>,
    /// A lie seen where it could not be told; [`flush`](Self::flush) tells it.
    fault: Option<Fault>,
}

impl TxQueue {
    pub(super) fn new(
        ring: TxRing,
        pools: TxPools,
        (shape, offloads): (FrameShape, TxOffloads),
        doorbell: Box<dyn Doorbell>,
        copies_in: bool,
    ) -> Self {
        let longest = pools.long.as_ref().unwrap_or(&pools.link).frame_bytes();
        Self {
            ring,
            pools,
            shape,
            writes_headers: offloads.checksum,
            offloads,
            doorbell,
            counters: QueueCounters::default(),
            staging: vec![0; if copies_in { longest } else { 0 }],
            fault: None,
        }
    }

    /// What the device does for who sends now.
    #[inline]
    pub fn offloads(&self) -> TxOffloads {
        self.offloads
    }

    /// Uses other offloads from now on; all of them were negotiated.
    pub(super) fn set_offloads(&mut self, offloads: TxOffloads) {
        self.offloads = offloads;
    }

    /// The longest frame that can be lent now for the device to cut; `None` while all buffers for such are with it.
    #[inline]
    pub fn long_frame_len(&self) -> Option<usize> {
        let long = self.pools.long.as_ref().filter(|long| long.available() > 0)?;
        Some(long.frame_bytes() - self.shape.header)
    }

    /// What went through this queue.
    pub fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// How many frames the device holds.
    pub(super) fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// The longest Ethernet frame that fits and that is not cut.
    pub fn frame_len_max(&self) -> usize {
        self.pools.link.frame_bytes() - self.shape.header
    }

    /// Whether a buffer is free. Those that the device is done with count once they were taken back.
    #[inline]
    pub fn ready(&self) -> bool {
        self.pools.link.available() > 0
    }

    /// Takes back every buffer that the device is done with. Worth a call per batch of work, not per frame.
    pub fn reclaim(&mut self) {
        while self.fault.is_none() {
            match self.ring.pop() {
                Ok(Some(used)) => {
                    self.counters.completed += 1;
                    let TxToken(frame, size) = used.token;
                    self.pools.of(size).put(frame.returned().into_free());
                }
                Ok(None) => break,
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    /// Lends a buffer for a frame of `len` bytes. `None` when all are with the device, or none is that large.
    #[inline]
    pub fn lend(&mut self, len: usize) -> Option<TxFrame<'_>> {
        if len > self.frame_len_max() {
            return None;
        }
        self.lend_from(Size::Link, len)
    }

    /// Lends a buffer for a segment of `len` bytes, header included, which must be sent for the device to cut. `None` when all are with the
    /// device, it cuts none, or none is that large.
    pub fn lend_long(&mut self, len: usize) -> Option<TxFrame<'_>> {
        let largest = self.pools.long.as_ref()?.frame_bytes() - self.shape.header;
        if len > largest {
            return None;
        }
        self.lend_from(Size::Long, len)
    }

    #[inline]
    fn lend_from(&mut self, size: Size, len: usize) -> Option<TxFrame<'_>> {
        if self.pools.of(size).available() == 0 {
            self.reclaim();
        }
        let Some(frame) = self.pools.of(size).take() else {
            self.counters.exhausted += 1;
            return None;
        };
        Some(TxFrame { queue: self, frame: Some(frame.into_stack()), size, len })
    }

    /// Shows the device what was sent since the last call, once for all of it.
    pub fn flush(&mut self) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let rung = ring_bell(&*self.doorbell, self.ring.publish(), TRANSMITQ1)?;
        self.counters.doorbells += u64::from(rung);
        Ok(())
    }

    /// Asks for an interrupt when the device has sent the next frame. Returns whether it has already.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        self.ring.arm()
    }

    /// No more interrupts.
    pub fn disarm(&mut self) {
        self.ring.silence();
    }

    /// Where the device finds the ring.
    pub(super) fn addresses(&self) -> RingAddresses {
        self.ring.addresses()
    }

    /// Takes every buffer back from a queue that was reset.
    pub(super) fn restart(&mut self) {
        drop(self.ring.drain());
        self.pools.link.recover();
        if let Some(long) = &mut self.pools.long {
            long.recover();
        }
        self.fault = None;
    }

    #[inline]
    fn post(&mut self, frame: Frame<owner::Stack>, size: Size, len: usize) {
        let address = self.pools.of(size).device_address(&frame);
        let header = self.shape.header;
        let part = |offset: usize, len: usize| Part {
            device_address: address + offset as u64,
            len: len as u32,
            device_writes: false,
        };
        let device = TxToken(frame.into_device(), size);
        // There are as many frames as the ring has room for, so this never fails.
        let posted = match self.shape.header_apart {
            true => self.ring.push(&[part(0, header), part(header, len)], device),
            false => self.ring.push(&[part(0, header + len)], device),
        };
        debug_assert!(posted.is_ok());
        self.counters.frames += 1;
        self.counters.bytes += len as u64;
    }
}

/// A transmit buffer on loan. Dropped without being sent, it goes back to the pool.
///
/// Sending ends the loan, so writing to a frame that the device may be reading does not compile:
/// ```compile_fail
/// # use netd_virtqueue::TxQueue;
/// fn write_after_send(queue: &mut TxQueue) {
///     let mut frame = queue.lend(60).unwrap();
///     let bytes = frame.bytes();
///     frame.send();
///     bytes[0] = 1;
/// }
/// ```
pub struct TxFrame<'a> {
    queue: &'a mut TxQueue,
    /// `Some` until the loan ends.
    frame: Option<Frame<owner::Stack>>,
    size: Size,
    len: usize,
}

impl TxFrame<'_> {
    /// The frame's bytes, as an earlier use left them.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        match &mut self.frame {
            Some(_) if !self.queue.staging.is_empty() => &mut self.queue.staging[..self.len],
            Some(frame) => self.queue.pools.of(self.size).bytes_mut(frame, self.queue.shape.header, self.len),
            None => &mut [],
        }
    }

    /// Puts the frame into the ring; the device sees it at the next [`TxQueue::flush`].
    #[inline]
    pub fn send(self) {
        self.send_for(&Offload::NONE);
    }

    /// The same, and leaves to the device what `offload` says. What was not negotiated must not be in it.
    #[inline]
    pub fn send_for(mut self, offload: &Offload) {
        if let Some(mut frame) = self.frame.take() {
            let TxQueue { pools, staging, shape, writes_headers, counters, .. } = &mut *self.queue;
            let pool = pools.of(self.size);
            debug_assert!(*writes_headers || *offload == Offload::NONE);
            if !staging.is_empty() {
                pool.copy_in(&mut frame, shape.header, &staging[..self.len]);
                pool.copy_in(&mut frame, 0, &offload.encode());
            } else if *writes_headers {
                let header = offload.encode();
                pool.bytes_mut(&mut frame, 0, header.len()).copy_from_slice(&header);
            }
            counters.segments_joined += u64::from(offload.segmentation.is_some());
            self.queue.post(frame, self.size, self.len);
        }
    }
}

impl Drop for TxFrame<'_> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.queue.pools.of(self.size).put(frame.into_free());
        }
    }
}
