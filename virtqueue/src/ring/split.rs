//! The split virtqueue (virtio 1.3, 2.7), driver side.
//!
//! Three areas in DMA memory: the descriptor table and the available ring, which only the driver writes, and the used
//! ring, which only the device writes. Everything the driver needs to remember is in private memory ([`Shadow`]). From the used
//! ring come an index, ids and lengths; each is read once and compared with that shadow before it is used.
//!
//! Indices are free-running 16-bit counters. Their arithmetic is in [`distance`] and [`passed`], and nowhere else.

use super::area::{Area, Ordering, fence};
use super::shadow::{Shadow, Taken};
use super::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR_BYTES, Part, Position, RingAddresses, RingOptions,
    Used, words,
};
use crate::{DmaArena, Error, Fault};

/// The largest ring (virtio 1.3, 2.7: "the maximum Queue Size value is 32768").
pub(super) const SIZE_MAX: u16 = 32768;

/// Available ring flag: no interrupts, please (2.7.7).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Used ring flag: no doorbells, please (2.7.10).
const USED_F_NO_NOTIFY: u16 = 1;

/// How far `to` is ahead of `from` on a free-running 16-bit counter.
pub(super) fn distance(from: u16, to: u16) -> u16 {
    to.wrapping_sub(from)
}

/// Whether a counter that went from `old` to `new` passed the event at `event` (`vring_need_event`, virtio 1.3, 2.7.10.2).
pub(super) fn passed(event: u16, old: u16, new: u16) -> bool {
    distance(event.wrapping_add(1), new) < distance(old, new)
}

/// Where the three areas of a ring lie inside one block, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// Entries; a power of two.
    pub size: u16,
    /// Offset of the available ring.
    pub avail: usize,
    /// Offset of the used ring.
    pub used: usize,
    /// Length of the whole block.
    pub total: usize,
}

impl RingLayout {
    /// The layout of a ring of `size` entries whose used ring is aligned to `used_alignment` bytes: 4 for a modern device
    /// (virtio 1.3, 2.7), 4096 for a legacy one (2.7.2), where the whole block is a multiple of it too.
    ///
    /// # Errors
    ///
    /// When there is no split ring of that size.
    pub fn new(index: u16, size: u16, used_alignment: usize) -> Result<Self, Error> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return Err(Error::QueueSize {
                index,
                size,
                why: "a split ring has a power of two of entries, at most 32768",
            });
        }
        let n = usize::from(size);
        let avail = DESCRIPTOR_BYTES * n;
        let used = (avail + 6 + 2 * n).next_multiple_of(used_alignment.max(4));
        let total = (used + 6 + 8 * n).next_multiple_of(used_alignment.max(4));
        Ok(Self { size, avail, used, total })
    }

    fn avail_idx(&self) -> usize {
        self.avail + 2
    }

    fn avail_entry(&self, at: u16) -> usize {
        self.avail + 4 + 2 * usize::from(at & (self.size - 1))
    }

    fn used_event(&self) -> usize {
        self.avail + 4 + 2 * usize::from(self.size)
    }

    fn used_idx(&self) -> usize {
        self.used + 2
    }

    fn used_entry(&self, at: u16) -> usize {
        self.used + 4 + 8 * usize::from(at & (self.size - 1))
    }

    fn avail_event(&self) -> usize {
        self.used + 4 + 8 * usize::from(self.size)
    }
}

/// A run of used buffers of which the device wrote only the last (IN_ORDER, 2.7.9).
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) last: u16,
    pub(super) len: u32,
}

/// The driver's side of one split virtqueue.
#[derive(Debug)]
pub(super) struct SplitQueue<T> {
    index: u16,
    area: Area,
    layout: RingLayout,
    /// Indirect tables, one for each descriptor.
    tables: Option<Area>,
    table_bytes: usize,
    event_idx: bool,
    in_order: bool,
    shadow: Shadow<T>,
    /// Next entry of the available ring that we write.
    next_avail: u16,
    /// The available index that the device can see.
    published: u16,
    /// Next entry of the used ring that we read.
    next_used: u16,
    /// The used index as last read: entries before it may be read.
    seen_used: u16,
    /// IN_ORDER: what is left of the element read last.
    batch: Option<Batch>,
    /// EVENT_IDX: the used index at which the device would interrupt, as last written.
    quiet_until: u16,
    /// An interrupt was asked for.
    armed: bool,
}

impl<T> SplitQueue<T> {
    pub(super) fn new(
        index: u16,
        size: u16,
        options: &RingOptions,
        arena: &mut DmaArena,
    ) -> Result<Self, Error> {
        let layout = RingLayout::new(index, size, options.used_alignment)?;
        // The descriptor table is aligned to 16 (virtio 1.3, 2.7), on a legacy device the block to a page.
        let area = Area::new(arena.allocate(layout.total, options.used_alignment.max(64))?);
        let table_bytes = options.table_bytes();
        let tables = match table_bytes {
            0 => None,
            bytes => Some(Area::new(arena.allocate(bytes * usize::from(size), 64)?)),
        };
        let mut queue = Self {
            index,
            area,
            layout,
            tables,
            table_bytes,
            event_idx: options.event_idx,
            in_order: options.in_order,
            shadow: Shadow::new(size, options.in_order),
            next_avail: 0,
            published: 0,
            next_used: 0,
            seen_used: 0,
            batch: None,
            quiet_until: 0,
            armed: false,
        };
        queue.silence();
        Ok(queue)
    }

    pub(super) fn addresses(&self) -> RingAddresses {
        let base = self.area.device_address();
        RingAddresses {
            size: self.layout.size,
            descriptors: base,
            avail: base + self.layout.avail as u64,
            used: base + self.layout.used as u64,
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
        let head = self.shadow.first();
        let descriptors = match (parts, &self.tables) {
            ([_], _) | (_, None) => parts.len() as u16,
            (_, Some(_)) => 1,
        };
        if self.shadow.free() < descriptors {
            return Err(token);
        }
        match &self.tables {
            Some(tables) if parts.len() > 1 => {
                let at = usize::from(head) * self.table_bytes;
                let len = write_table(tables, at, parts);
                let table =
                    Part { device_address: tables.device_address() + at as u64, len, device_writes: false };
                self.write_descriptor(head, &table, DESC_F_INDIRECT, 0);
            }
            _ => self.write_chain(head, parts),
        }
        self.shadow.insert(token, parts, descriptors, descriptors);
        self.area.store_u16(self.layout.avail_entry(self.next_avail), head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(())
    }

    #[inline]
    pub(super) fn publish(&mut self) -> Option<Position> {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return None;
        }
        // Release: descriptors and ring entries are visible before the index that covers them (2.7.13.3).
        self.area.store_u16(self.layout.avail_idx(), new, Ordering::Release);
        self.published = new;
        self.shadow.publish();
        // Full: the index is visible before we look whether the device sleeps; the device does the two in the opposite
        // order, so that one of us sees the other (2.7.13.4).
        fence(Ordering::SeqCst);
        let wanted = match self.event_idx {
            true => passed(self.area.load_u16(self.layout.avail_event(), Ordering::Relaxed), old, new),
            false => self.area.load_u16(self.layout.used, Ordering::Relaxed) & USED_F_NO_NOTIFY == 0,
        };
        wanted.then_some(Position(new))
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<Used<T>>, Fault> {
        if self.next_used == self.seen_used && !self.look()? {
            return Ok(None);
        }
        let Batch { last, len } = match self.batch {
            Some(batch) => batch,
            None => self.read_element()?,
        };
        let head = if self.in_order { self.shadow.oldest() } else { last };
        let Some(Taken { token, capacity, .. }) = self.shadow.remove(head) else {
            return Err(Fault::UnknownId { queue: self.index, id: head.into() });
        };
        self.next_used = self.next_used.wrapping_add(1);
        if head != last {
            // "The skipped buffers are assumed to have been used by the device completely" (2.7.9).
            self.batch = Some(Batch { last, len });
            return Ok(Some(Used { token, written: capacity }));
        }
        self.batch = None;
        // Buffers that the device only reads: drivers ignore the length (legacy devices wrote nonsense there, 2.7.4.1).
        if capacity == 0 {
            return Ok(Some(Used { token, written: 0 }));
        }
        if len > capacity {
            return Err(Fault::LengthTooLarge { queue: self.index, len, capacity });
        }
        Ok(Some(Used { token, written: len }))
    }

    /// Reads the used element at `next_used`, once.
    #[inline]
    fn read_element(&self) -> Result<Batch, Fault> {
        let element = self.layout.used_entry(self.next_used);
        let id = self.area.load_u32(element, Ordering::Relaxed);
        let len = self.area.load_u32(element + 4, Ordering::Relaxed);
        let unknown = Fault::UnknownId { queue: self.index, id };
        let last = u16::try_from(id).map_err(|_| unknown)?;
        if self.in_order {
            // The element stands for every buffer up to this one, and the index must have moved by as many.
            let covers = self.shadow.place(last).ok_or(unknown)?;
            let by = distance(self.next_used, self.seen_used);
            if covers > by.into() {
                return Err(Fault::OutOfOrder { queue: self.index, id: last });
            }
        }
        Ok(Batch { last, len })
    }

    /// Reads the used index. Returns whether there is something to take.
    fn look(&mut self) -> Result<bool, Fault> {
        let by = self.used_by_now()?;
        self.seen_used = self.next_used.wrapping_add(by);
        if self.event_idx && !self.armed && distance(self.next_used, self.quiet_until) < self.layout.size {
            self.silence();
        }
        Ok(by > 0)
    }

    /// How many buffers the device has used that were not taken back yet.
    fn used_by_now(&self) -> Result<u16, Fault> {
        // Acquire: the elements that the index covers are read after it (2.7.14).
        let seen = self.area.load_u16(self.layout.used_idx(), Ordering::Acquire);
        let by = distance(self.next_used, seen);
        let in_flight = self.shadow.visible();
        if by > in_flight {
            return Err(Fault::UsedIndexJump { queue: self.index, by, in_flight });
        }
        Ok(by)
    }

    pub(super) fn arm(&mut self) -> Result<bool, Fault> {
        self.armed = true;
        if self.event_idx {
            // "When the device has used the buffer at this index": the next one (2.7.7).
            self.quiet_until = self.next_used;
            self.area.store_u16(self.layout.used_event(), self.quiet_until, Ordering::Relaxed);
        } else {
            self.area.store_u16(self.layout.avail, 0, Ordering::Relaxed);
        }
        // Full: the request is visible before the used index is read; the device does the two in the opposite order, so that
        // either it sees the request or we see its buffer (2.7.7.1).
        fence(Ordering::SeqCst);
        Ok(self.used_by_now()? > 0)
    }

    pub(super) fn silence(&mut self) {
        self.armed = false;
        if self.event_idx {
            // With EVENT_IDX the flag is ignored (2.7.7.1); the event lies half the counter's range ahead, and `look` moves it on
            // before the device can get there.
            self.quiet_until = self.next_used.wrapping_add(1 << 15);
            self.area.store_u16(self.layout.used_event(), self.quiet_until, Ordering::Relaxed);
        } else {
            self.area.store_u16(self.layout.avail, AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// The fields, for a model of the device.
    #[cfg(loom)]
    pub(super) fn area(&self) -> Area {
        self.area.clone()
    }

    pub(super) fn drain(&mut self) -> Vec<T> {
        let tokens = self.shadow.drain();
        self.area.clear();
        (self.next_avail, self.published, self.next_used, self.seen_used) = (0, 0, 0, 0);
        self.batch = None;
        self.silence();
        tokens
    }

    /// Writes one descriptor for each part, linked as the shadow's circle is.
    #[inline]
    fn write_chain(&self, head: u16, parts: &[Part]) {
        let mut slot = head;
        for (number, part) in parts.iter().enumerate() {
            if number + 1 < parts.len() {
                let next = self.shadow.after(slot);
                self.write_descriptor(slot, part, DESC_F_NEXT, next);
                slot = next;
            } else {
                self.write_descriptor(slot, part, 0, 0);
            }
        }
    }

    /// `struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next; }` (2.7.5)
    #[inline]
    fn write_descriptor(&self, slot: u16, part: &Part, flags: u16, next: u16) {
        let flags = if part.device_writes { flags | DESC_F_WRITE } else { flags };
        let at = DESCRIPTOR_BYTES * usize::from(slot);
        let (first, second) = words(part, flags, next);
        self.area.store_u64(at, first, Ordering::Relaxed);
        self.area.store_u64(at + 8, second, Ordering::Relaxed);
    }
}

/// Writes an indirect table (2.7.5.3), whose entries are chained one after the other, and returns its length.
fn write_table(tables: &Area, at: usize, parts: &[Part]) -> u32 {
    for (number, part) in parts.iter().enumerate() {
        let last = number + 1 == parts.len();
        let flags = if part.device_writes { DESC_F_WRITE } else { 0 } | if last { 0 } else { DESC_F_NEXT };
        let (first, second) = words(part, flags, if last { 0 } else { number as u16 + 1 });
        tables.store_u64(at + DESCRIPTOR_BYTES * number, first, Ordering::Relaxed);
        tables.store_u64(at + DESCRIPTOR_BYTES * number + 8, second, Ordering::Relaxed);
    }
    (parts.len() * DESCRIPTOR_BYTES) as u32
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
