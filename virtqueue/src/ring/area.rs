//! The memory of one ring, which both sides read and write: fields at offsets, each accessed as one atomic of its own width.
//!
//! Rings are written against this type alone. Built with `--cfg loom`, the fields lie in loom's atomics instead of DMA memory,
//! so that the models check the very code that drives a device.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::fence;
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::fence;

#[cfg(not(loom))]
pub(crate) use mapped::Area;
#[cfg(loom)]
pub(crate) use modelled::Area;

#[cfg(not(loom))]
mod mapped {
    use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

    use crate::DmaSlice;

    /// A ring's piece of DMA memory. Values are little endian there (virtio 1.3, 1.4; legacy devices on little-endian machines too).
    #[derive(Debug)]
    pub(crate) struct Area {
        memory: DmaSlice,
    }

    impl Area {
        /// Takes the fields of `memory`. Every offset given later must lie inside it, aligned to the field's width.
        pub(crate) fn new(memory: DmaSlice) -> Self {
            Self { memory }
        }

        /// Where the device finds its first byte.
        pub(crate) fn device_address(&self) -> u64 {
            self.memory.device_address()
        }

        /// Makes every field 0. Only for memory that the device does not know (any more).
        pub(crate) fn clear(&self) {
            for offset in (0..self.memory.len()).step_by(2) {
                self.store_u16(offset, 0, Ordering::Relaxed);
            }
        }

        #[inline]
        pub(crate) fn load_u16(&self, offset: usize, ordering: Ordering) -> u16 {
            u16::from_le(self.u16_at(offset).load(ordering))
        }

        #[inline]
        pub(crate) fn store_u16(&self, offset: usize, value: u16, ordering: Ordering) {
            self.u16_at(offset).store(value.to_le(), ordering);
        }

        #[inline]
        pub(crate) fn load_u32(&self, offset: usize, ordering: Ordering) -> u32 {
            u32::from_le(self.u32_at(offset).load(ordering))
        }

        #[inline]
        pub(crate) fn store_u32(&self, offset: usize, value: u32, ordering: Ordering) {
            self.u32_at(offset).store(value.to_le(), ordering);
        }

        #[inline]
        pub(crate) fn load_u64(&self, offset: usize, ordering: Ordering) -> u64 {
            u64::from_le(self.u64_at(offset).load(ordering))
        }

        #[inline]
        pub(crate) fn store_u64(&self, offset: usize, value: u64, ordering: Ordering) {
            self.u64_at(offset).store(value.to_le(), ordering);
        }

        #[inline]
        fn u16_at(&self, offset: usize) -> &AtomicU16 {
            debug_assert!(offset + 2 <= self.memory.len() && offset.is_multiple_of(2));
            // SAFETY: needed because the device shares this memory; an atomic is the one reference that tolerates that. The rings
            // compute all offsets from their layout, whose total is the slice's length, and aligned within it.
            unsafe { AtomicU16::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
        }

        #[inline]
        fn u32_at(&self, offset: usize) -> &AtomicU32 {
            debug_assert!(offset + 4 <= self.memory.len() && offset.is_multiple_of(4));
            // SAFETY: as in `u16_at`.
            unsafe { AtomicU32::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
        }

        #[inline]
        fn u64_at(&self, offset: usize) -> &AtomicU64 {
            debug_assert!(offset + 8 <= self.memory.len() && offset.is_multiple_of(8));
            // SAFETY: as in `u16_at`.
            unsafe { AtomicU64::from_ptr(self.memory.pointer().as_ptr().add(offset).cast()) }
        }
    }
}

#[cfg(loom)]
mod modelled {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use loom::sync::atomic::AtomicU64;

    use crate::DmaSlice;

    /// The same fields in loom's atomics, one for each even offset: no field is accessed at two offsets or in two widths.
    #[derive(Debug, Clone)]
    pub(crate) struct Area {
        fields: Arc<Vec<AtomicU64>>,
        device_address: u64,
    }

    impl Area {
        pub(crate) fn new(memory: DmaSlice) -> Self {
            let fields = Arc::new((0..memory.len() / 2).map(|_| AtomicU64::new(0)).collect());
            Self { fields, device_address: memory.device_address() }
        }

        pub(crate) fn device_address(&self) -> u64 {
            self.device_address
        }

        pub(crate) fn clear(&self) {
            self.fields.iter().for_each(|field| field.store(0, Ordering::Relaxed));
        }

        pub(crate) fn load_u16(&self, offset: usize, ordering: Ordering) -> u16 {
            self.load_u64(offset, ordering) as u16
        }

        pub(crate) fn store_u16(&self, offset: usize, value: u16, ordering: Ordering) {
            self.store_u64(offset, value.into(), ordering);
        }

        pub(crate) fn load_u32(&self, offset: usize, ordering: Ordering) -> u32 {
            self.load_u64(offset, ordering) as u32
        }

        pub(crate) fn store_u32(&self, offset: usize, value: u32, ordering: Ordering) {
            self.store_u64(offset, value.into(), ordering);
        }

        pub(crate) fn load_u64(&self, offset: usize, ordering: Ordering) -> u64 {
            self.fields[offset / 2].load(ordering)
        }

        pub(crate) fn store_u64(&self, offset: usize, value: u64, ordering: Ordering) {
            self.fields[offset / 2].store(value, ordering);
        }
    }
}
