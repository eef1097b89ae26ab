//! DMA memory: a mapping in our address space, and the addresses under which the device sees its pieces.
//!
//! The mapping is shared with a device, so no Rust reference is ever made to memory that the device may be writing;
//! [`DmaSlice`] hands out raw pointers and bounds, and keeps the mapping alive.

use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::MmapRegion;

use crate::Error;

/// A run of the mapping that is contiguous for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaSegment {
    /// Where the run begins in the mapping, in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
    /// The address that goes into a descriptor: an IOVA, or a physical address without an IOMMU.
    pub device_address: u64,
}

/// A mapping that a device can reach.
#[derive(Debug)]
pub struct DmaMemory {
    region: Arc<MmapRegion>,
    segments: Vec<DmaSegment>,
}

impl DmaMemory {
    /// Describes `region`, whose pieces the device sees as `segments` say. Segments may come in any order, but must
    /// lie inside the mapping and not overlap.
    pub fn new(region: Arc<MmapRegion>, mut segments: Vec<DmaSegment>) -> Result<Self, Error> {
        segments.sort_by_key(|segment| segment.offset);
        let mut end_of_last = 0;
        for &DmaSegment { offset, len, device_address } in &segments {
            let end = offset.checked_add(len).filter(|end| *end <= region.size());
            let device_end = u64::try_from(len).ok().and_then(|len| device_address.checked_add(len));
            match (end, device_end) {
                (Some(end), Some(_)) if offset >= end_of_last => end_of_last = end,
                _ => return Err(Error::BadSegment { offset, len }),
            }
        }
        Ok(Self { region, segments })
    }

    /// The size of the mapping in bytes.
    pub fn size(&self) -> usize {
        self.region.size()
    }

    /// The mapping itself, for a device that lives in this process.
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.region
    }
}

/// Cuts a [`DmaMemory`] into pieces, front to back. Nothing is given back: a device's memory lives as long as it does.
#[derive(Debug)]
pub struct DmaArena {
    memory: Arc<DmaMemory>,
    /// First free offset in each segment of the memory.
    cursors: Vec<usize>,
}

impl DmaArena {
    /// An arena over all of `memory`.
    pub fn new(memory: Arc<DmaMemory>) -> Self {
        let cursors = memory.segments.iter().map(|segment| segment.offset).collect();
        Self { memory, cursors }
    }

    /// Cuts `len` bytes whose device address is a multiple of `align` (a power of two) and which are contiguous for
    /// the device. The bytes read as zero.
    pub fn allocate(&mut self, len: usize, align: usize) -> Result<DmaSlice, Error> {
        debug_assert!(align.is_power_of_two());
        for (segment, cursor) in self.memory.segments.iter().zip(&mut self.cursors) {
            let address = segment.device_address + (*cursor - segment.offset) as u64;
            let Some(padding) =
                address.checked_next_multiple_of(align as u64).map(|up| (up - address) as usize)
            else {
                continue;
            };
            let start = *cursor + padding;
            let Some(end) = start.checked_add(len).filter(|end| *end <= segment.offset + segment.len) else {
                continue;
            };
            *cursor = end;
            let slice = DmaSlice {
                // SAFETY: needed to name a place inside the mapping; `start + len` lies inside the segment, and segments
                // were checked to lie inside the region, so the offset stays within one allocation.
                pointer: unsafe { NonNull::new_unchecked(self.memory.region.as_ptr().add(start)) },
                len,
                device_address: address + padding as u64,
                _memory: Arc::clone(&self.memory),
            };
            slice.zero();
            return Ok(slice);
        }
        Err(Error::OutOfDmaMemory { bytes: len, total: self.memory.size() })
    }
}

/// A piece of DMA memory that is contiguous for the device. It keeps the whole mapping alive.
#[derive(Debug)]
pub struct DmaSlice {
    pointer: NonNull<u8>,
    len: usize,
    device_address: u64,
    _memory: Arc<DmaMemory>,
}

// SAFETY: needed because of the raw pointer. It points into a shared mapping that lives as long as `_memory`, is valid
// from every thread, and is cut so that no two slices overlap; all access goes through the owner of the slice.
unsafe impl Send for DmaSlice {}

impl DmaSlice {
    /// Where the piece begins in our address space. Valid for [`len`](Self::len) bytes while the slice lives.
    pub fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the device sees its first byte.
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    fn zero(&self) {
        // SAFETY: needed to clear shared memory without a reference to it; the slice was just cut, so its `len` bytes are
        // inside the mapping and neither another slice nor the device knows them.
        unsafe { self.pointer.as_ptr().write_bytes(0, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(segments: Vec<DmaSegment>) -> Result<DmaMemory, Error> {
        DmaMemory::new(Arc::new(MmapRegion::new(0x8000).unwrap()), segments)
    }

    #[test]
    fn segment_outside_mapping_is_refused() {
        let result = memory(vec![DmaSegment { offset: 0x7000, len: 0x2000, device_address: 0 }]);
        assert!(matches!(result, Err(Error::BadSegment { offset: 0x7000, len: 0x2000 })));
    }

    #[test]
    fn overlapping_segments_are_refused() {
        let a = DmaSegment { offset: 0, len: 0x2000, device_address: 0x10_0000 };
        let b = DmaSegment { offset: 0x1000, len: 0x1000, device_address: 0x20_0000 };
        assert!(matches!(memory(vec![b, a]), Err(Error::BadSegment { offset: 0x1000, .. })));
    }

    #[test]
    fn allocation_never_crosses_segments() {
        let a = DmaSegment { offset: 0, len: 0x4000, device_address: 0x10_0000 };
        let b = DmaSegment { offset: 0x4000, len: 0x4000, device_address: 0x90_0000 };
        let mut arena = DmaArena::new(Arc::new(memory(vec![a, b]).unwrap()));
        assert_eq!(arena.allocate(0x3000, 4096).unwrap().device_address(), 0x10_0000);
        assert_eq!(arena.allocate(0x3000, 4096).unwrap().device_address(), 0x90_0000);
        assert_eq!(arena.allocate(0x1000, 4096).unwrap().device_address(), 0x10_3000);
        assert!(matches!(
            arena.allocate(0x2000, 1),
            Err(Error::OutOfDmaMemory { bytes: 0x2000, total: 0x8000 })
        ));
    }

    #[test]
    fn alignment_is_of_the_device_address() {
        let odd = DmaSegment { offset: 0, len: 0x4000, device_address: 0x10_0100 };
        let mut arena = DmaArena::new(Arc::new(memory(vec![odd]).unwrap()));
        assert_eq!(arena.allocate(16, 4096).unwrap().device_address(), 0x10_1000);
    }
}
