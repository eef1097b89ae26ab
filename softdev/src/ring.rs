//! The device's side of a virtqueue: split on rust-vmm's `virtio-queue`, packed (virtio 1.3, 2.8) here, since that crate has none.
//!
//! Buffers are taken with [`DeviceRing::take`] and given back with [`DeviceRing::give`], in any order. A driver that breaks the protocol
//! is [`Broken`]: the device stops using the ring.

use std::sync::atomic::{Ordering, fence};

use netd_virtqueue::{Feature, RingAddresses};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Descriptors in one buffer at most, indirect ones included; a chain that is longer than any ring is a loop.
const PARTS_MAX: usize = 32_768;
/// Bytes of a descriptor (virtio 1.3, 2.8.13).
const DESCRIPTOR: u64 = 16;
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;
/// Event suppression (2.8.14): never, and at one descriptor.
const RING_EVENT_DISABLE: u16 = 1;
const RING_EVENT_DESC: u16 = 2;
const WRAP: u16 = 1 << 15;

/// The driver gave the device something that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the driver broke the virtqueue protocol")]
pub struct Broken;

/// One piece of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it is.
    pub address: u64,
    /// How long it is.
    pub len: u32,
    /// Whether the device writes to it.
    pub writable: bool,
}

/// A buffer that the driver made available.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    id: u16,
    /// Descriptors that it takes in the ring.
    descriptors: u16,
    pieces: Vec<Piece>,
}

impl Buffer {
    /// Its pieces, those that the device reads first.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// How many bytes the device may write.
    pub fn room(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.writable).map(|piece| piece.len as usize).sum()
    }

    /// Copies out what the driver wrote, as much as `bytes` holds, and returns how much that was.
    ///
    /// # Errors
    ///
    /// When a piece lies outside of the memory.
    pub fn read(&self, memory: &GuestMemoryMmap, bytes: &mut [u8]) -> Result<usize, Broken> {
        let mut at = 0;
        for piece in self.pieces.iter().filter(|piece| !piece.writable) {
            let len = (piece.len as usize).min(bytes.len() - at);
            memory.read_slice(&mut bytes[at..at + len], GuestAddress(piece.address)).map_err(|_| Broken)?;
            at += len;
        }
        Ok(at)
    }

    /// Copies `bytes` in, as many as there is room for, and returns how many that were.
    ///
    /// # Errors
    ///
    /// When a piece lies outside of the memory.
    pub fn write(&self, memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<usize, Broken> {
        let mut at = 0;
        for piece in self.pieces.iter().filter(|piece| piece.writable) {
            let len = (piece.len as usize).min(bytes.len() - at);
            memory.write_slice(&bytes[at..at + len], GuestAddress(piece.address)).map_err(|_| Broken)?;
            at += len;
        }
        Ok(at)
    }
}

/// A place in a ring to come back to.
#[derive(Debug, Clone, Copy)]
pub struct Mark(Cursor);

/// The device's side of one virtqueue.
#[derive(Debug)]
pub struct DeviceRing {
    format: Format,
}

#[derive(Debug)]
enum Format {
    Split(Queue),
    Packed(Packed),
}

impl DeviceRing {
    /// The ring at `addresses`, with the features that were negotiated. It asks for every doorbell.
    ///
    /// # Errors
    ///
    /// When the ring does not lie in the memory, aligned as it must be.
    pub fn new(addresses: &RingAddresses, features: u64, memory: &GuestMemoryMmap) -> Result<Self, Broken> {
        let event_idx = features & Feature::EVENT_IDX.mask() != 0;
        let format = match features & Feature::RING_PACKED.mask() != 0 {
            true => Format::Packed(Packed::new(addresses, event_idx)?),
            false => Format::Split(split(addresses, event_idx, memory).ok_or(Broken)?),
        };
        Ok(Self { format })
    }

    /// Takes the next buffer into `buffer`. `false`: there is none.
    ///
    /// # Errors
    ///
    /// When the driver's descriptors make no sense.
    pub fn take(&mut self, memory: &GuestMemoryMmap, buffer: &mut Buffer) -> Result<bool, Broken> {
        buffer.pieces.clear();
        match &mut self.format {
            Format::Packed(packed) => packed.take(memory, buffer),
            Format::Split(queue) => {
                let Some(chain) = queue.pop_descriptor_chain(memory) else { return Ok(false) };
                buffer.id = chain.head_index();
                buffer.descriptors = 1;
                let piece = |descriptor: virtio_queue::desc::split::Descriptor| Piece {
                    address: descriptor.addr().0,
                    len: descriptor.len(),
                    writable: descriptor.is_write_only(),
                };
                buffer.pieces.extend(chain.map(piece));
                if buffer.pieces.is_empty() { Err(Broken) } else { Ok(true) }
            }
        }
    }

    /// Gives a buffer back, of which the device wrote `len` bytes. Returns whether the driver wants an interrupt for it.
    ///
    /// # Errors
    ///
    /// When the ring is outside of the memory.
    pub fn give(&mut self, memory: &GuestMemoryMmap, buffer: &Buffer, len: u32) -> Result<bool, Broken> {
        match &mut self.format {
            Format::Packed(packed) => packed.give(memory, buffer.id, buffer.descriptors, len),
            Format::Split(queue) => {
                queue.add_used(memory, buffer.id, len).map_err(|_| Broken)?;
                queue.needs_notification(memory).map_err(|_| Broken)
            }
        }
    }

    /// Where the next buffer will be taken from.
    pub fn mark(&self) -> Mark {
        Mark(match &self.format {
            Format::Packed(packed) => packed.next,
            Format::Split(queue) => Cursor { slot: queue.next_avail(), wrap: true },
        })
    }

    /// Puts back everything that was taken since `mark`, so that it is taken again. None of it must have been given back.
    pub fn rewind(&mut self, mark: Mark) {
        match &mut self.format {
            Format::Packed(packed) => packed.next = mark.0,
            Format::Split(queue) => queue.set_next_avail(mark.0.slot),
        }
    }
}

/// rust-vmm's queue, if the ring makes sense.
fn split(ring: &RingAddresses, event_idx: bool, memory: &GuestMemoryMmap) -> Option<Queue> {
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let mut queue = Queue::new(ring.size.max(1)).ok()?;
    queue.set_size(ring.size);
    let (low, high) = halves(ring.descriptors);
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(ring.avail);
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(ring.used);
    queue.set_used_ring_address(low, high);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    // Our driver polls us; we ask for doorbells all the same, since they tell the loop that there is work.
    queue.enable_notification(memory).ok()?;
    queue.is_valid(memory).then_some(queue)
}

/// A place in a packed ring with its wrap counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    slot: u16,
    wrap: bool,
}

/// A packed ring.
#[derive(Debug)]
struct Packed {
    size: u16,
    descriptors: u64,
    driver_event: u64,
    event_idx: bool,
    next: Cursor,
    used: Cursor,
}

impl Packed {
    fn new(ring: &RingAddresses, event_idx: bool) -> Result<Self, Broken> {
        let aligned = ring.descriptors.is_multiple_of(16)
            && ring.avail.is_multiple_of(4)
            && ring.used.is_multiple_of(4);
        if !aligned || ring.size == 0 || ring.size > 1 << 15 {
            return Err(Broken);
        }
        // The device's own event suppression stays 0 as the driver left it: every doorbell, please.
        let start = Cursor { slot: 0, wrap: true };
        Ok(Self {
            size: ring.size,
            descriptors: ring.descriptors,
            driver_event: ring.avail,
            event_idx,
            next: start,
            used: start,
        })
    }

    fn at(&self, cursor: Cursor) -> u64 {
        self.descriptors + DESCRIPTOR * u64::from(cursor.slot)
    }

    fn advance(&self, cursor: Cursor, by: u16) -> Cursor {
        let slot = u32::from(cursor.slot) + u32::from(by);
        match slot.checked_sub(self.size.into()) {
            Some(slot) => Cursor { slot: slot as u16, wrap: !cursor.wrap },
            None => Cursor { slot: slot as u16, ..cursor },
        }
    }

    fn take(&mut self, memory: &GuestMemoryMmap, buffer: &mut Buffer) -> Result<bool, Broken> {
        buffer.descriptors = 0;
        loop {
            let at = self.at(self.next);
            let (len, id, flags) = second_word(memory, at)?;
            let (available, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
            if available != self.next.wrap || used == self.next.wrap {
                // Not available (2.8.1); in the middle of a chain that is a lie, since its head is published last.
                return if buffer.descriptors == 0 { Ok(false) } else { Err(Broken) };
            }
            buffer.descriptors += 1;
            if buffer.descriptors > self.size {
                return Err(Broken);
            }
            self.next = self.advance(self.next, 1);
            let address = first_word(memory, at)?;
            if flags & DESC_F_INDIRECT != 0 {
                table(memory, address, len, &mut buffer.pieces)?;
            } else {
                buffer.pieces.push(Piece { address, len, writable: flags & DESC_F_WRITE != 0 });
            }
            if flags & DESC_F_NEXT == 0 {
                buffer.id = id;
                return Ok(true);
            }
        }
    }

    fn give(
        &mut self,
        memory: &GuestMemoryMmap,
        id: u16,
        descriptors: u16,
        len: u32,
    ) -> Result<bool, Broken> {
        let from = self.used;
        let wrap = if from.wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 };
        // The length counts only with the flag that something was written (2.8.3).
        let flags = wrap | if len > 0 { DESC_F_WRITE } else { 0 };
        let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
        let at = GuestAddress(self.at(from) + 8);
        memory.store(word.to_le(), at, Ordering::Release).map_err(|_| Broken)?;
        self.used = self.advance(from, descriptors);
        // Full: the buffer is visible before we look whether the driver sleeps (2.8.14).
        fence(Ordering::SeqCst);
        let event: u32 =
            memory.load(GuestAddress(self.driver_event), Ordering::Relaxed).map_err(|_| Broken)?;
        let event = u32::from_le(event);
        Ok(match (event >> 16) as u16 & 3 {
            RING_EVENT_DISABLE => false,
            RING_EVENT_DESC if self.event_idx => self.passed(event as u16, from),
            _ => true,
        })
    }

    /// Whether what was used from `from` on covers the descriptor of `event`.
    fn passed(&self, event: u16, from: Cursor) -> bool {
        let below = |slot: u16, wrap: bool| {
            if wrap == self.used.wrap { slot } else { slot.wrapping_sub(self.size) }
        };
        let event = below(event & !WRAP, event & WRAP != 0);
        let (old, new) = (below(from.slot, from.wrap), self.used.slot);
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }
}

/// An indirect table (2.8.7).
fn table(memory: &GuestMemoryMmap, at: u64, len: u32, pieces: &mut Vec<Piece>) -> Result<(), Broken> {
    let count = u64::from(len) / DESCRIPTOR;
    if count == 0 || !u64::from(len).is_multiple_of(DESCRIPTOR) || pieces.len() + count as usize > PARTS_MAX {
        return Err(Broken);
    }
    for entry in 0..count {
        let at = at.checked_add(DESCRIPTOR * entry).ok_or(Broken)?;
        let address = first_word(memory, at)?;
        let (len, _, flags) = second_word(memory, at)?;
        pieces.push(Piece { address, len, writable: flags & DESC_F_WRITE != 0 });
    }
    Ok(())
}

fn first_word(memory: &GuestMemoryMmap, at: u64) -> Result<u64, Broken> {
    memory.load(GuestAddress(at), Ordering::Relaxed).map(u64::from_le).map_err(|_| Broken)
}

/// Length, id and flags of a descriptor.
fn second_word(memory: &GuestMemoryMmap, at: u64) -> Result<(u32, u16, u16), Broken> {
    let at = at.checked_add(8).ok_or(Broken)?;
    // Acquire: what the driver wrote before the flags is read after them (2.8.1).
    let word =
        memory.load::<u64>(GuestAddress(at), Ordering::Acquire).map(u64::from_le).map_err(|_| Broken)?;
    Ok((word as u32, (word >> 32) as u16, (word >> 48) as u16))
}
