//! Transmitting: a buffer is lent to be filled, sent, and taken back once another one is needed.

use crate::frame::{Frame, FramePool, owner};
use crate::net::{FrameRing, FrameShape, QueueCounters, TRANSMITQ1, ring_bell};
use crate::{Doorbell, Fault, Part, RingAddresses};

/// The transmit queue.
///
/// The virtio-net header in front of each buffer was zeroed with the pool and is never written again: without offloads
/// all its fields are zero (virtio 1.3, 5.1.6.2).
///
/// Aligned like [`RxQueue`](crate::RxQueue).
#[repr(align(128))]
pub struct TxQueue {
    ring: FrameRing,
    pool: FramePool,
    shape: FrameShape,
    doorbell: Box<dyn Doorbell>,
    counters: QueueCounters,
    /// Where a frame is written that is copied in when it is complete; empty where frames are written in place.
    staging: Vec<u8>,
    /// A lie seen where it could not be told; [`flush`](Self::flush) tells it.
    fault: Option<Fault>,
}

impl TxQueue {
    pub(super) fn new(
        ring: FrameRing,
        pool: FramePool,
        shape: FrameShape,
        doorbell: Box<dyn Doorbell>,
        copies_in: bool,
    ) -> Self {
        let staging = vec![0; if copies_in { pool.frame_bytes() } else { 0 }];
        Self { ring, pool, shape, doorbell, counters: QueueCounters::default(), staging, fault: None }
    }

    /// What went through this queue.
    pub fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// How many frames the device holds.
    pub(super) fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// The longest Ethernet frame that fits.
    pub fn frame_len_max(&self) -> usize {
        self.pool.frame_bytes() - self.shape.header
    }

    /// Whether a buffer is free. Those that the device is done with count once they were taken back.
    #[inline]
    pub fn ready(&self) -> bool {
        self.pool.available() > 0
    }

    /// Takes back every buffer that the device is done with. Worth a call per batch of work, not per frame.
    pub fn reclaim(&mut self) {
        while self.fault.is_none() {
            match self.ring.pop() {
                Ok(Some(used)) => {
                    self.counters.completed += 1;
                    self.pool.put(used.token.returned().into_free());
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
        if !self.ready() {
            self.reclaim();
        }
        if !self.ready() {
            self.counters.exhausted += 1;
            return None;
        }
        let frame = self.pool.take()?.into_stack();
        Some(TxFrame { queue: self, frame: Some(frame), len })
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
        self.pool.recover();
        self.fault = None;
    }

    #[inline]
    fn post(&mut self, frame: Frame<owner::Stack>, len: usize) {
        let address = self.pool.device_address(&frame);
        let header = self.shape.header;
        let part = |offset: usize, len: usize| Part {
            device_address: address + offset as u64,
            len: len as u32,
            device_writes: false,
        };
        let device = frame.into_device();
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
    len: usize,
}

impl TxFrame<'_> {
    /// The frame's bytes, as an earlier use left them.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        match &mut self.frame {
            Some(_) if !self.queue.staging.is_empty() => &mut self.queue.staging[..self.len],
            Some(frame) => self.queue.pool.bytes_mut(frame, self.queue.shape.header, self.len),
            None => &mut [],
        }
    }

    /// Puts the frame into the ring; the device sees it at the next [`TxQueue::flush`].
    #[inline]
    pub fn send(mut self) {
        if let Some(mut frame) = self.frame.take() {
            let TxQueue { pool, staging, shape, .. } = &mut *self.queue;
            if !staging.is_empty() {
                pool.copy_in(&mut frame, shape.header, &staging[..self.len]);
            }
            self.queue.post(frame, self.len);
        }
    }
}

impl Drop for TxFrame<'_> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.queue.pool.put(frame.into_free());
        }
    }
}
