//! The packed virtqueue (virtio 1.3, 2.8), driver side.
//!
//! One ring of descriptors that both sides write: the driver makes a buffer available by writing its descriptors in ring order, the
//! device gives it back by overwriting one of them. Whose a descriptor is, two of its flags say against a wrap counter that each side
//! keeps and that starts at 1 (2.8.1). Beside it lie two words in which each side says when it wants to be told (2.8.14).
//!
//! The word with length, id and flags is read once, as one atomic, and believed only as far as the [`Shadow`] agrees.
//!
//! A batch is published by its first descriptor: the device goes through the ring in order, so what lies behind a descriptor that it
//! may not take yet does not exist for it. The flags of the first one are therefore written last.

use super::area::{Area, Ordering, fence};
use super::shadow::{Shadow, Taken};
use super::split::{Batch, SIZE_MAX, passed};
use super::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR_BYTES, Part, Position, RingAddresses, RingOptions,
    Used, words,
};
use crate::{DmaArena, Error, Fault};

/// Descriptor flags: available and used, each compared with a wrap counter (2.8.6).
const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;

/// Event suppression flags (2.8.10): tell me always, never, or at one descriptor (with EVENT_IDX only).
const RING_EVENT_ENABLE: u32 = 0;
const RING_EVENT_DISABLE: u32 = 1;
const RING_EVENT_DESC: u32 = 2;
const RING_EVENT_MASK: u32 = 3;
/// The wrap counter's bit in an event suppression's offset, and in a position.
const WRAP: u16 = 1 << 15;

/// What one side writes should not share a cache line with what the other writes.
const CACHE_LINE: usize = 64;

/// A place in the ring, and the wrap counter of whoever goes through it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    slot: u16,
    wrap: bool,
}

impl Cursor {
    const START: Self = Self { slot: 0, wrap: true };

    /// `by` descriptors on, in a ring of `size`.
    #[inline]
    fn advance(self, by: u16, size: u16) -> Self {
        // Both are at most 32768, so the sum needs one bit more than 16.
        let slot = u32::from(self.slot) + u32::from(by);
        match slot.checked_sub(size.into()) {
            Some(slot) => Self { slot: slot as u16, wrap: !self.wrap },
            None => Self { slot: slot as u16, wrap: self.wrap },
        }
    }

    /// Offset of the descriptor here.
    fn offset(self) -> usize {
        DESCRIPTOR_BYTES * usize::from(self.slot)
    }

    /// The flags that make a descriptor here available (2.8.1: AVAIL as the wrap counter, USED its inverse).
    fn available(self) -> u16 {
        if self.wrap { DESC_F_AVAIL } else { DESC_F_USED }
    }

    /// Offset and wrap counter in the 16 bits of events and doorbells.
    fn word(self) -> u16 {
        self.slot | if self.wrap { WRAP } else { 0 }
    }
}

/// The driver's side of one packed virtqueue.
#[derive(Debug)]
pub(super) struct PackedQueue<T> {
    index: u16,
    size: u16,
    area: Area,
    /// Offsets of the driver's and the device's event suppression.
    driver_event: usize,
    device_event: usize,
    /// Indirect tables, one for each id.
    tables: Option<Area>,
    table_bytes: usize,
    event_idx: bool,
    in_order: bool,
    shadow: Shadow<T>,
    next_avail: Cursor,
    next_used: Cursor,
    /// The first descriptor that was not published yet, and its second word.
    pending: Option<(Cursor, u64)>,
    /// IN_ORDER: what is left of the descriptor read last.
    batch: Option<Batch>,
}

impl<T> PackedQueue<T> {
    pub(super) fn new(
        index: u16,
        size: u16,
        options: &RingOptions,
        arena: &mut DmaArena,
    ) -> Result<Self, Error> {
        if size == 0 || size > SIZE_MAX {
            return Err(Error::QueueSize { index, size, why: "a packed ring has 1 to 32768 entries" });
        }
        let driver_event = (DESCRIPTOR_BYTES * usize::from(size)).next_multiple_of(CACHE_LINE);
        let device_event = driver_event + CACHE_LINE;
        // The ring is aligned to 16, the events to 4 (2.8.10.1).
        let area = Area::new(arena.allocate(device_event + CACHE_LINE, CACHE_LINE)?);
        let table_bytes = options.table_bytes();
        let tables = match table_bytes {
            0 => None,
            bytes => Some(Area::new(arena.allocate(bytes * usize::from(size), CACHE_LINE)?)),
        };
        let mut queue = Self {
            index,
            size,
            area,
            driver_event,
            device_event,
            tables,
            table_bytes,
            event_idx: options.event_idx,
            in_order: options.in_order,
            shadow: Shadow::new(size, options.in_order),
            next_avail: Cursor::START,
            next_used: Cursor::START,
            pending: None,
            batch: None,
        };
        queue.silence();
        Ok(queue)
    }

    pub(super) fn addresses(&self) -> RingAddresses {
        let base = self.area.device_address();
        RingAddresses {
            size: self.size,
            descriptors: base,
            avail: base + self.driver_event as u64,
            used: base + self.device_event as u64,
        }
    }

    pub(super) fn outstanding(&self) -> u16 {
        self.shadow.outstanding()
    }

    pub(super) fn free_descriptors(&self) -> u16 {
        self.shadow.free()
    }

    #[inline]
    pub(super) fn push(&mut self, parts: &[Part], token: T) -> Result<(), T> {
        debug_assert!(!parts.is_empty());
        let id = self.shadow.first();
        let descriptors = match (parts, &self.tables) {
            ([_], _) | (_, None) => parts.len() as u16,
            (_, Some(_)) => 1,
        };
        if self.shadow.free() < descriptors {
            return Err(token);
        }
        match &self.tables {
            Some(tables) if parts.len() > 1 => {
                let at = usize::from(id) * self.table_bytes;
                let len = write_table(tables, at, parts);
                let table =
                    Part { device_address: tables.device_address() + at as u64, len, device_writes: false };
                self.write_descriptor(&table, DESC_F_INDIRECT, id);
            }
            _ => {
                for (number, part) in parts.iter().enumerate() {
                    let flags = if number + 1 < parts.len() { DESC_F_NEXT } else { 0 };
                    // The id counts in the last descriptor only (2.8.6), and is the same in all.
                    self.write_descriptor(part, flags, id);
                }
            }
        }
        self.shadow.insert(token, parts, descriptors, 1);
        Ok(())
    }

    /// `struct pvirtq_desc { le64 addr; le32 len; le16 id; le16 flags; }` (2.8.13), at the next place in the ring.
    #[inline]
    fn write_descriptor(&mut self, part: &Part, flags: u16, id: u16) {
        let at = self.next_avail;
        let flags = flags | at.available() | if part.device_writes { DESC_F_WRITE } else { 0 };
        let (first, second) = words(part, id, flags);
        self.area.store_u64(at.offset(), first, Ordering::Relaxed);
        match self.pending {
            None => self.pending = Some((at, second)),
            Some(_) => self.area.store_u64(at.offset() + 8, second, Ordering::Relaxed),
        }
        self.next_avail = at.advance(1, self.size);
    }

    #[inline]
    pub(super) fn publish(&mut self) -> Option<Position> {
        let (from, word) = self.pending.take()?;
        // Release: everything written behind this descriptor is visible before it can be taken (2.8.19.2).
        self.area.store_u64(from.offset() + 8, word, Ordering::Release);
        self.shadow.publish();
        // Full: the descriptor is visible before we look whether the device sleeps; the device does the two in the opposite order
        // (2.8.19.3).
        fence(Ordering::SeqCst);
        let event = self.area.load_u32(self.device_event, Ordering::Relaxed);
        let wanted = match event >> 16 & RING_EVENT_MASK {
            RING_EVENT_DISABLE => false,
            RING_EVENT_DESC if self.event_idx => self.event_passed(event as u16, from),
            // ENABLE; and what a driver cannot understand is better answered once too often.
            _ => true,
        };
        wanted.then_some(Position(self.next_avail.word()))
    }

    /// Whether what was published from `from` on covers the descriptor of `event`.
    fn event_passed(&self, event: u16, from: Cursor) -> bool {
        let new = self.next_avail.slot;
        // Places of the last round count from below 0 (2.8.19.3, `vring_need_event` on free-running counters).
        let old =
            if from.wrap == self.next_avail.wrap { from.slot } else { from.slot.wrapping_sub(self.size) };
        let slot = event & !WRAP;
        let event =
            if (event & WRAP != 0) == self.next_avail.wrap { slot } else { slot.wrapping_sub(self.size) };
        passed(event, old, new)
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<Used<T>>, Fault> {
        let Batch { last, len } = match self.batch {
            Some(batch) => batch,
            None => match self.read_descriptor()? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let id = if self.in_order { self.shadow.oldest() } else { last };
        let Some(Taken { token, descriptors, capacity }) = self.shadow.remove(id) else {
            return Err(Fault::UnknownId { queue: self.index, id: id.into() });
        };
        self.next_used = self.next_used.advance(descriptors, self.size);
        if id != last {
            // Skipped buffers were used completely (2.8.9).
            self.batch = Some(Batch { last, len });
            return Ok(Some(Used { token, written: capacity }));
        }
        self.batch = None;
        // Of a buffer that the device only reads there is no length (2.8.5). The WRITE flag, which should say that there is one, is not
        // asked: QEMU does not set it.
        if capacity == 0 {
            return Ok(Some(Used { token, written: 0 }));
        }
        if len > capacity {
            return Err(Fault::LengthTooLarge { queue: self.index, len, capacity });
        }
        Ok(Some(Used { token, written: len }))
    }

    /// Reads the descriptor at `next_used`. `None`: the device has not used it yet.
    #[inline]
    fn read_descriptor(&self) -> Result<Option<Batch>, Fault> {
        let Some(word) = self.used_word() else { return Ok(None) };
        let (len, last) = (word as u32, (word >> 32) as u16);
        // Something must be in flight for the device to give it back.
        if self.in_order && self.shadow.place(last).is_none() {
            return Err(Fault::UnknownId { queue: self.index, id: last.into() });
        }
        Ok(Some(Batch { last, len }))
    }

    /// The second word of the descriptor at `next_used`, if the device has used it.
    #[inline]
    fn used_word(&self) -> Option<u64> {
        // Acquire: what the device wrote into the buffer is read after its flags (2.8.20). Length, id and flags are one load, so that
        // they belong together and none of them can change between check and use.
        let word = self.area.load_u64(self.next_used.offset() + 8, Ordering::Acquire);
        let flags = (word >> 48) as u16;
        let (available, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
        // Used: both as the wrap counter (2.8.1).
        (available == self.next_used.wrap && used == self.next_used.wrap).then_some(word)
    }

    pub(super) fn arm(&mut self) -> Result<bool, Fault> {
        let event = match self.event_idx {
            // At the descriptor that will be used next.
            true => u32::from(self.next_used.word()) | RING_EVENT_DESC << 16,
            false => RING_EVENT_ENABLE << 16,
        };
        self.area.store_u32(self.driver_event, event, Ordering::Relaxed);
        // Full: the request is visible before the descriptor is read; the device does the two in the opposite order, so that either it
        // sees the request or we see its buffer (2.8.21.1).
        fence(Ordering::SeqCst);
        Ok(self.batch.is_some() || self.used_word().is_some())
    }

    pub(super) fn silence(&mut self) {
        self.area.store_u32(self.driver_event, RING_EVENT_DISABLE << 16, Ordering::Relaxed);
    }

    /// The fields, for a model of the device.
    #[cfg(loom)]
    pub(super) fn area(&self) -> Area {
        self.area.clone()
    }

    pub(super) fn drain(&mut self) -> Vec<T> {
        let tokens = self.shadow.drain();
        self.area.clear();
        (self.next_avail, self.next_used) = (Cursor::START, Cursor::START);
        (self.pending, self.batch) = (None, None);
        self.silence();
        tokens
    }
}

/// Writes an indirect table, whose entries follow each other without being chained (2.8.7), and returns its length.
fn write_table(tables: &Area, at: usize, parts: &[Part]) -> u32 {
    for (number, part) in parts.iter().enumerate() {
        let flags = if part.device_writes { DESC_F_WRITE } else { 0 };
        let (first, second) = words(part, 0, flags);
        tables.store_u64(at + DESCRIPTOR_BYTES * number, first, Ordering::Relaxed);
        tables.store_u64(at + DESCRIPTOR_BYTES * number + 8, second, Ordering::Relaxed);
    }
    (parts.len() * DESCRIPTOR_BYTES) as u32
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
