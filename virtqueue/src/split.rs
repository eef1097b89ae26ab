//! The split virtqueue (virtio 1.3, 2.7), driver side.
//!
//! Three areas in DMA memory: the descriptor table and the available ring, which only the driver writes, and the used
//! ring, which only the device writes. Everything the driver needs to remember is in private memory: which
//! descriptors are free, which chain each head in flight stands for, how many bytes it has room for. From the used
//! ring come an index, ids and lengths; each is read once and compared with that shadow before it is used.
//!
//! Indices are free-running 16-bit counters. Their arithmetic is in [`distance`] and [`passed`], and nowhere else.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::{DmaArena, DmaSlice, Error, Fault};

/// The largest number of descriptors that one buffer takes: a header of its own and the bytes (legacy without ANY_LAYOUT).
pub(crate) const CHAIN_MAX: usize = 2;

/// The largest ring (virtio 1.3, 2.7: "the maximum Queue Size value is 32768").
const SIZE_MAX: u16 = 32768;

/// Descriptor flag: another descriptor follows (2.7.5).
const DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes (2.7.5).
const DESC_F_WRITE: u16 = 2;
/// Available ring flag: no interrupts, please (2.7.7).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Used ring flag: no doorbells, please (2.7.10).
const USED_F_NO_NOTIFY: u16 = 1;

/// How far `to` is ahead of `from` on a free-running 16-bit counter.
fn distance(from: u16, to: u16) -> u16 {
    to.wrapping_sub(from)
}

/// Whether a counter that went from `old` to `new` passed the event at `event` (`vring_need_event`, virtio 1.3, 2.7.10.2).
fn passed(event: u16, old: u16, new: u16) -> bool {
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
    pub fn new(index: u16, size: u16, used_alignment: usize) -> Result<Self, Error> {
        if !size.is_power_of_two() || size > SIZE_MAX {
            return Err(Error::QueueSize {
                index,
                size,
                why: "a split ring has a power of two of entries, at most 32768",
            });
        }
        if usize::from(size) < CHAIN_MAX {
            return Err(Error::QueueSize { index, size, why: "a frame may need two descriptors" });
        }
        let n = usize::from(size);
        let avail = 16 * n;
        let used = (avail + 6 + 2 * n).next_multiple_of(used_alignment.max(4));
        let total = (used + 6 + 8 * n).next_multiple_of(used_alignment.max(4));
        Ok(Self { size, avail, used, total })
    }
}

/// Where the device finds the three areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingAddresses {
    /// Entries.
    pub size: u16,
    /// Device address of the descriptor table.
    pub descriptors: u64,
    /// Device address of the available ring.
    pub avail: u64,
    /// Device address of the used ring.
    pub used: u64,
}

/// One descriptor's worth of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Where the device finds it.
    pub device_address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the device writes to it.
    pub device_writes: bool,
}

/// A buffer that came back.
#[derive(Debug)]
pub struct Used<T> {
    /// What was given to [`SplitQueue::push`].
    pub token: T,
    /// How many bytes the device says it wrote; at most what it had room for.
    pub written: u32,
}

/// What we remember of a chain that the device holds.
#[derive(Debug)]
struct InFlight<T> {
    token: T,
    parts: usize,
    /// Bytes that the device may write.
    capacity: u32,
}

/// The driver's side of one split virtqueue. `T` is what stands for a buffer while the device has it.
#[derive(Debug)]
pub struct SplitQueue<T> {
    index: u16,
    memory: DmaSlice,
    layout: RingLayout,
    event_idx: bool,
    /// Descriptors that no chain uses.
    free: Vec<u16>,
    /// By head descriptor.
    in_flight: Vec<Option<InFlight<T>>>,
    /// Second descriptor of the chain with this head.
    second: Vec<u16>,
    outstanding: u16,
    /// Next entry of the available ring that we write.
    next_avail: u16,
    /// The available index that the device can see.
    published: u16,
    /// Next entry of the used ring that we read.
    next_used: u16,
    /// The used index as last read: entries before it may be read.
    seen_used: u16,
    /// EVENT_IDX: the used index at which the device would interrupt, as last written.
    quiet_until: u16,
    /// An interrupt was asked for.
    armed: bool,
}

impl<T> SplitQueue<T> {
    /// Cuts a ring of `size` entries from `arena`, empty.
    pub fn new(
        index: u16,
        size: u16,
        used_alignment: usize,
        event_idx: bool,
        arena: &mut DmaArena,
    ) -> Result<Self, Error> {
        let layout = RingLayout::new(index, size, used_alignment)?;
        // The descriptor table is aligned to 16 (virtio 1.3, 2.7), on a legacy device the block to a page.
        let memory = arena.allocate(layout.total, used_alignment.max(64))?;
        let mut queue = Self {
            index,
            memory,
            layout,
            event_idx,
            free: (0..size).rev().collect(),
            in_flight: (0..size).map(|_| None).collect(),
            second: vec![0; usize::from(size)],
            outstanding: 0,
            next_avail: 0,
            published: 0,
            next_used: 0,
            seen_used: 0,
            quiet_until: 0,
            armed: false,
        };
        queue.silence();
        Ok(queue)
    }

    /// Where the device finds this ring.
    pub fn addresses(&self) -> RingAddresses {
        let base = self.memory.device_address();
        RingAddresses {
            size: self.layout.size,
            descriptors: base,
            avail: base + self.layout.avail as u64,
            used: base + self.layout.used as u64,
        }
    }

    /// How many chains the device holds.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// How many descriptors are free.
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Puts a buffer of one or two `parts` into the ring. The device sees it at the next [`publish`](Self::publish).
    /// A ring without room gives the token back.
    pub fn push(&mut self, parts: &[Part], token: T) -> Result<(), T> {
        debug_assert!((1..=CHAIN_MAX).contains(&parts.len()));
        if self.free.len() < parts.len() {
            return Err(token);
        }
        let Some(head) = self.free.pop() else { return Err(token) };
        if let [first, second, ..] = parts {
            let Some(next) = self.free.pop() else {
                self.free.push(head);
                return Err(token);
            };
            self.second[usize::from(head)] = next;
            self.write_descriptor(head, first, Some(next));
            self.write_descriptor(next, second, None);
        } else if let [only] = parts {
            self.write_descriptor(head, only, None);
        }
        let capacity = parts.iter().filter(|part| part.device_writes).map(|part| part.len).sum();
        self.in_flight[usize::from(head)] = Some(InFlight { token, parts: parts.len(), capacity });
        self.outstanding += 1;
        let slot = usize::from(self.next_avail & (self.layout.size - 1));
        self.u16_at(self.layout.avail + 4 + 2 * slot).store(head.to_le(), Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(())
    }

    /// Shows the device everything pushed so far. Returns whether its doorbell must be rung.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return false;
        }
        // Release: descriptors and ring entries are visible before the index that covers them (2.7.13.3).
        self.u16_at(self.layout.avail + 2).store(new.to_le(), Ordering::Release);
        self.published = new;
        // Full: the index is visible before we look whether the device sleeps; the device does the two in the opposite
        // order, so that one of us sees the other (2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            passed(self.load_u16(self.layout.used + 4 + 8 * usize::from(self.layout.size)), old, new)
        } else {
            self.load_u16(self.layout.used) & USED_F_NO_NOTIFY == 0
        }
    }

    /// Takes back the next buffer that the device finished with, if there is one.
    pub fn pop(&mut self) -> Result<Option<Used<T>>, Fault> {
        if self.next_used == self.seen_used && !self.look()? {
            return Ok(None);
        }
        let slot = usize::from(self.next_used & (self.layout.size - 1));
        let element = self.layout.used + 4 + 8 * slot;
        let id = u32::from_le(self.u32_at(element).load(Ordering::Relaxed));
        let len = u32::from_le(self.u32_at(element + 4).load(Ordering::Relaxed));
        let unknown = Fault::UnknownId { queue: self.index, id };
        let head = u16::try_from(id).ok().filter(|head| *head < self.layout.size).ok_or(unknown)?;
        let chain = self.in_flight[usize::from(head)].take().ok_or(unknown)?;
        self.free.push(head);
        if chain.parts == CHAIN_MAX {
            self.free.push(self.second[usize::from(head)]);
        }
        self.outstanding -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        // Buffers that the device only reads: drivers ignore the length (legacy devices wrote nonsense there, 2.7.4.1).
        if chain.capacity == 0 {
            return Ok(Some(Used { token: chain.token, written: 0 }));
        }
        if len > chain.capacity {
            return Err(Fault::LengthTooLarge { queue: self.index, len, capacity: chain.capacity });
        }
        Ok(Some(Used { token: chain.token, written: len }))
    }

    /// Reads the used index. Returns whether there is something to take.
    fn look(&mut self) -> Result<bool, Fault> {
        // Acquire: the elements that the index covers are read after it (2.7.14).
        let seen = u16::from_le(self.u16_at(self.layout.used + 2).load(Ordering::Acquire));
        let by = distance(self.next_used, seen);
        if by > self.outstanding {
            return Err(Fault::UsedIndexJump { queue: self.index, by, in_flight: self.outstanding });
        }
        self.seen_used = seen;
        if self.event_idx && !self.armed && distance(self.next_used, self.quiet_until) < self.layout.size {
            self.silence();
        }
        Ok(by > 0)
    }

    /// Asks for an interrupt when the device uses the next buffer. Returns whether it has used one already, in which case there may be
    /// no interrupt and the caller must look instead of sleeping.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        self.armed = true;
        if self.event_idx {
            // "When the device has used the buffer at this index": the next one (2.7.7).
            self.quiet_until = self.next_used;
            let used_event = self.layout.avail + 4 + 2 * usize::from(self.layout.size);
            self.u16_at(used_event).store(self.quiet_until.to_le(), Ordering::Relaxed);
        } else {
            self.u16_at(self.layout.avail).store(0, Ordering::Relaxed);
        }
        // Full: the request is visible before the used index is read; the device does the two in the opposite order, so that
        // either it sees the request or we see its buffer (2.7.7.1).
        fence(Ordering::SeqCst);
        let seen = u16::from_le(self.u16_at(self.layout.used + 2).load(Ordering::Acquire));
        let by = distance(self.next_used, seen);
        if by > self.outstanding {
            return Err(Fault::UsedIndexJump { queue: self.index, by, in_flight: self.outstanding });
        }
        Ok(by > 0)
    }

    /// Tells the device that its interrupts are not wanted: this queue is polled.
    pub fn silence(&mut self) {
        self.armed = false;
        if self.event_idx {
            // With EVENT_IDX the flag is ignored (2.7.7.1); the event lies half the counter's range ahead, and `look` moves it on
            // before the device can get there.
            self.quiet_until = self.next_used.wrapping_add(1 << 15);
            let used_event = self.layout.avail + 4 + 2 * usize::from(self.layout.size);
            self.u16_at(used_event).store(self.quiet_until.to_le(), Ordering::Relaxed);
        } else {
            self.u16_at(self.layout.avail).store(AVAIL_F_NO_INTERRUPT.to_le(), Ordering::Relaxed);
        }
    }

    fn write_descriptor(&self, slot: u16, part: &Part, next: Option<u16>) {
        let flags =
            if part.device_writes { DESC_F_WRITE } else { 0 } | if next.is_some() { DESC_F_NEXT } else { 0 };
        let at = 16 * usize::from(slot);
        // struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next; } (2.7.5)
        let second = u64::from(part.len) | u64::from(flags) << 32 | u64::from(next.unwrap_or(0)) << 48;
        self.u64_at(at).store(part.device_address.to_le(), Ordering::Relaxed);
        self.u64_at(at + 8).store(second.to_le(), Ordering::Relaxed);
    }

    fn load_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.u16_at(offset).load(Ordering::Relaxed))
    }

    fn u16_at(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset + 2 <= self.memory.len() && offset.is_multiple_of(2));
        // SAFETY: needed because the device shares this memory; an atomic is the one reference that tolerates that. All offsets
        // are computed from the layout, whose total is the slice's length, and are aligned within it.
        unsafe { AtomicU16::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
    }

    fn u32_at(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + 4 <= self.memory.len() && offset.is_multiple_of(4));
        // SAFETY: as in `u16_at`.
        unsafe { AtomicU32::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
    }

    fn u64_at(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= self.memory.len() && offset.is_multiple_of(8));
        // SAFETY: as in `u16_at`.
        unsafe { AtomicU64::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
