//! The driver's side of a virtqueue: one interface, and the two formats below it.
//!
//! A buffer goes in with [`push`](Ring::push), is seen by the device after [`publish`](Ring::publish) (once per batch), and comes back
//! from [`pop`](Ring::pop). Between two batches a queue is polled; a driver that wants to sleep calls [`arm`](Ring::arm), looks once more,
//! sleeps, and goes back to polling with [`silence`](Ring::silence).
//!
//! Dispatch is static: one predictable branch per call, so that the cost per packet is the format's own.

pub(crate) mod area;
mod packed;
mod shadow;
mod split;

pub use split::RingLayout;

use packed::PackedQueue;
use split::SplitQueue;

use crate::{DmaArena, Error, Fault, Feature, Negotiation};

/// Bytes of one descriptor, in either format (virtio 1.3, 2.7.5 and 2.8.13) and in indirect tables.
const DESCRIPTOR_BYTES: usize = 16;

/// Descriptor flag: another descriptor follows (virtio 1.3, 2.7.5, 2.8.6).
const DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes.
const DESC_F_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors (2.7.5.3, 2.8.7).
const DESC_F_INDIRECT: u16 = 4;

/// What was negotiated, as far as rings care, and what the buffers are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    /// RING_PACKED: one ring that both sides write (virtio 1.3, 2.8) instead of three areas (2.7).
    pub packed: bool,
    /// EVENT_IDX: interrupts and doorbells are asked for at a place in the ring.
    pub event_idx: bool,
    /// IN_ORDER: the device uses buffers in the order in which it was given them.
    pub in_order: bool,
    /// INDIRECT_DESC: a buffer of several parts takes one descriptor in the ring.
    pub indirect: bool,
    /// The largest number of parts in a buffer.
    pub parts_max: usize,
    /// What the address of a split ring's used area must be a multiple of; of the whole block too on legacy devices.
    pub used_alignment: usize,
}

impl RingOptions {
    /// The options for buffers of up to `parts_max` parts under `features`.
    pub fn new(features: &Negotiation, parts_max: usize, used_alignment: usize) -> Self {
        Self {
            packed: features.has(Feature::RING_PACKED),
            event_idx: features.has(Feature::EVENT_IDX),
            in_order: features.has(Feature::IN_ORDER),
            indirect: features.has(Feature::INDIRECT_DESC),
            parts_max,
            used_alignment,
        }
    }

    /// How many descriptors of the ring a buffer takes at most.
    pub fn descriptors_max(&self) -> usize {
        if self.indirect { 1 } else { self.parts_max.max(1) }
    }

    /// Bytes of an indirect table for each buffer; 0 where none is ever needed.
    fn table_bytes(&self) -> usize {
        if self.indirect && self.parts_max > 1 { self.parts_max * DESCRIPTOR_BYTES } else { 0 }
    }
}

/// Where the device finds the areas of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingAddresses {
    /// Entries.
    pub size: u16,
    /// Device address of the descriptor table or, packed, the descriptor ring.
    pub descriptors: u64,
    /// Device address of the available ring or, packed, the driver's event suppression.
    pub avail: u64,
    /// Device address of the used ring or, packed, the device's event suppression.
    pub used: u64,
}

/// One descriptor's worth of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Where the device finds it.
    pub device_address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the device writes to it. Parts that it reads come first (virtio 1.3, 2.7.4.2).
    pub device_writes: bool,
}

/// A buffer that came back.
#[derive(Debug)]
pub struct Used<T> {
    /// What was given to [`Ring::push`].
    pub token: T,
    /// How many bytes the device says it wrote; at most what it had room for.
    pub written: u32,
}

/// Where the driver will put its next buffer, as a doorbell with NOTIFICATION_DATA tells it (virtio 1.3, 2.9): the available index of a split
/// ring; offset and wrap counter (bit 15) of a packed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub u16);

/// The driver's side of one virtqueue. `T` is what stands for a buffer while the device has it.
#[derive(Debug)]
pub struct Ring<T> {
    format: Format<T>,
}

#[derive(Debug)]
enum Format<T> {
    /// Three areas (virtio 1.3, 2.7).
    Split(SplitQueue<T>),
    /// One ring (2.8).
    Packed(PackedQueue<T>),
}

macro_rules! each {
    ($format:expr, $queue:ident => $call:expr) => {
        match $format {
            Format::Split($queue) => $call,
            Format::Packed($queue) => $call,
        }
    };
}

impl<T> Ring<T> {
    /// Cuts a ring of `size` entries from `arena`, empty, and polled until it is [armed](Self::arm). `index` is the queue's number, for
    /// messages.
    ///
    /// # Errors
    ///
    /// When the format has no ring of that size, or the memory is used up.
    pub fn new(index: u16, size: u16, options: &RingOptions, arena: &mut DmaArena) -> Result<Self, Error> {
        if usize::from(size) < options.descriptors_max() {
            return Err(Error::QueueSize { index, size, why: "a single buffer needs more descriptors" });
        }
        let format = match options.packed {
            true => Format::Packed(PackedQueue::new(index, size, options, arena)?),
            false => Format::Split(SplitQueue::new(index, size, options, arena)?),
        };
        let mut ring = Self { format };
        ring.silence();
        Ok(ring)
    }

    /// Where the device finds this ring.
    pub fn addresses(&self) -> RingAddresses {
        each!(&self.format, queue => queue.addresses())
    }

    /// How many buffers are in the ring, those not published yet among them.
    pub fn outstanding(&self) -> u16 {
        each!(&self.format, queue => queue.outstanding())
    }

    /// How many descriptors are free.
    pub fn free_descriptors(&self) -> u16 {
        each!(&self.format, queue => queue.free_descriptors())
    }

    /// Puts a buffer of 1 to [`RingOptions::parts_max`] parts into the ring. The device sees it at the next [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// A ring without room gives the token back.
    #[inline]
    pub fn push(&mut self, parts: &[Part], token: T) -> Result<(), T> {
        each!(&mut self.format, queue => queue.push(parts, token))
    }

    /// Shows the device everything pushed so far. `Some`: its doorbell must be rung, with this position.
    #[inline]
    pub fn publish(&mut self) -> Option<Position> {
        each!(&mut self.format, queue => queue.publish())
    }

    /// Takes back the next buffer that the device finished with, if there is one.
    ///
    /// # Errors
    ///
    /// What the device wrote cannot be true: it must be reset, and nothing more be taken from this ring.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used<T>>, Fault> {
        each!(&mut self.format, queue => queue.pop())
    }

    /// Asks for an interrupt when the device uses the next buffer. Returns whether it has used one already, in which case there may be
    /// no interrupt and the caller must look instead of sleeping.
    ///
    /// # Errors
    ///
    /// As [`pop`](Self::pop).
    pub fn arm(&mut self) -> Result<bool, Fault> {
        each!(&mut self.format, queue => queue.arm())
    }

    /// Tells the device that its interrupts are not wanted: this queue is polled.
    pub fn silence(&mut self) {
        each!(&mut self.format, queue => queue.silence());
    }

    /// Empties the ring and returns what was in it. Only once the device was reset, or this queue of it: until then it may still use them.
    pub fn drain(&mut self) -> Vec<T> {
        let tokens = each!(&mut self.format, queue => queue.drain());
        self.silence();
        tokens
    }
}

/// The two words of a descriptor of either format: `le64 addr`, then `le32 len` with the two 16-bit fields that the formats order
/// differently above it.
fn words(part: &Part, third: u16, fourth: u16) -> (u64, u64) {
    (part.device_address, u64::from(part.len) | u64::from(third) << 32 | u64::from(fourth) << 48)
}

#[cfg(loom)]
#[cfg(test)]
mod models;
