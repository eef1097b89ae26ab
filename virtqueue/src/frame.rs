//! Frame buffers, typed by who owns them.
//!
//! A [`Frame`] is a name for one buffer of a [`FramePool`]; there is exactly one name for each buffer, it cannot be
//! copied, and only its owner's type gives access to the bytes. Passing it on consumes the name: using a frame after
//! it went to the device does not compile. Each queue has a pool of its own, so names of two pools never meet.

use std::marker::PhantomData;
use std::ptr::NonNull;

use vm_memory::VolatileSlice;

use crate::memory::DmaArena;
use crate::{DmaSlice, Error};

/// Who may touch a frame's bytes.
pub(crate) mod owner {
    /// Nobody: it lies in the pool.
    #[derive(Debug)]
    pub(crate) enum Free {}
    /// The device, from when it was posted until it comes back through the used ring.
    #[derive(Debug)]
    pub(crate) enum Device {}
    /// The driver's user (the stack): bytes may be read and written.
    #[derive(Debug)]
    pub(crate) enum Stack {}
}

/// The name of one frame buffer, owned by `O`.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its pool"]
pub(crate) struct Frame<O> {
    index: u32,
    owner: PhantomData<O>,
}

impl<O> Frame<O> {
    fn owned_by<P>(self) -> Frame<P> {
        Frame { index: self.index, owner: PhantomData }
    }
}

impl Frame<owner::Free> {
    /// Takes the frame from the pool into use.
    pub(crate) fn into_stack(self) -> Frame<owner::Stack> {
        self.owned_by()
    }

    /// Gives an empty buffer to the device to write into.
    pub(crate) fn into_device(self) -> Frame<owner::Device> {
        self.owned_by()
    }
}

impl Frame<owner::Stack> {
    /// Gives a filled buffer to the device to read.
    pub(crate) fn into_device(self) -> Frame<owner::Device> {
        self.owned_by()
    }

    /// Ends the use of the frame.
    pub(crate) fn into_free(self) -> Frame<owner::Free> {
        self.owned_by()
    }
}

impl Frame<owner::Device> {
    /// The device gave the frame back through the used ring. On VFIO the hypervisor is trusted not to write to it any more.
    pub(crate) fn returned(self) -> Frame<owner::Stack> {
        self.owned_by()
    }
}

/// Where a buffer is, for us and for the device: all that a packet needs of it, in a quarter of a cache line.
#[derive(Debug, Clone, Copy)]
struct Place {
    pointer: NonNull<u8>,
    device_address: u64,
}

/// A fixed number of equal frame buffers in DMA memory.
#[derive(Debug)]
pub(crate) struct FramePool {
    places: Box<[Place]>,
    free: Vec<Frame<owner::Free>>,
    frame_bytes: usize,
    /// Keeps the memory below the places.
    _buffers: Vec<DmaSlice>,
}

// SAFETY: needed because of the raw pointers in the places. They point into the slices beside them, which are Send, and are used through
// the pool only.
unsafe impl Send for FramePool {}

impl FramePool {
    /// Buffers begin on a cache line, so that a header and the first bytes of its frame share one.
    const ALIGNMENT: usize = 64;

    /// Cuts `count` buffers of `frame_bytes` out of `arena`.
    pub(crate) fn new(arena: &mut DmaArena, count: u16, frame_bytes: usize) -> Result<Self, Error> {
        let buffers = (0..count)
            .map(|_| arena.allocate(frame_bytes, Self::ALIGNMENT))
            .collect::<Result<Vec<_>, _>>()?;
        // Last in, first out: the buffer that was used last is the one most likely still in the cache.
        let free = (0..u32::from(count)).rev().map(|index| Frame { index, owner: PhantomData }).collect();
        let place =
            |slice: &DmaSlice| Place { pointer: slice.pointer(), device_address: slice.device_address() };
        Ok(Self { places: buffers.iter().map(place).collect(), free, frame_bytes, _buffers: buffers })
    }

    /// Takes a free buffer, if there is one.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Frame<owner::Free>> {
        self.free.pop()
    }

    /// Gives a buffer back.
    #[inline]
    pub(crate) fn put(&mut self, frame: Frame<owner::Free>) {
        self.free.push(frame);
    }

    /// Makes the names of all buffers anew. For when the device was stopped and every name that was out is gone, some of them lost in
    /// the fault that stopped it.
    pub(crate) fn recover(&mut self) {
        self.free.clear();
        let count = self.places.len() as u32;
        self.free.extend((0..count).rev().map(|index| Frame { index, owner: PhantomData }));
    }

    /// How many buffers are free.
    #[inline]
    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    /// The size of each buffer in bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Where the device sees the first byte of `frame`.
    #[inline]
    pub(crate) fn device_address<O>(&self, frame: &Frame<O>) -> u64 {
        self.place(frame).device_address
    }

    /// Begins to bring the first bytes of `frame` into the cache.
    #[inline]
    pub(crate) fn prefetch<O>(&self, frame: &Frame<O>) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let pointer = self.place(frame).pointer;
            // SAFETY: needed because the intrinsic takes a raw pointer. A prefetch reads nothing that the program could see, and the
            // place is inside the pool's memory.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer.as_ptr().cast_const().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// `len` bytes of `frame` from `offset`, cut short at the end of the buffer.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, frame: &'a Frame<owner::Stack>, offset: usize, len: usize) -> &'a [u8] {
        let (pointer, len) = self.range(frame, offset, len);
        // SAFETY: needed to lend received bytes without copying them. The range lies inside the buffer; a frame that the stack
        // owns is not in any ring, so the device does not write to it, and `&frame` keeps it from being posted meanwhile.
        unsafe { std::slice::from_raw_parts(pointer.as_ptr(), len) }
    }

    /// The same, to be written.
    #[inline]
    pub(crate) fn bytes_mut<'a>(
        &'a mut self,
        frame: &'a mut Frame<owner::Stack>,
        offset: usize,
        len: usize,
    ) -> &'a mut [u8] {
        let (pointer, len) = self.range(frame, offset, len);
        // SAFETY: as in `bytes`; `&mut frame` is the only name of this buffer, so nobody else can look at it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), len) }
    }

    /// `len` bytes from `offset` on in several buffers, if these follow each other in memory as if they were one.
    pub(crate) fn bytes_across<'a>(
        &'a self,
        frames: &'a [Frame<owner::Stack>],
        offset: usize,
        len: usize,
    ) -> Option<&'a [u8]> {
        let first = self.place(frames.first()?).pointer;
        let follows = |(number, frame): (usize, &Frame<owner::Stack>)| {
            let at = self.place(frame).pointer;
            at.addr().get() == first.addr().get() + number * self.frame_bytes
        };
        if offset + len > frames.len() * self.frame_bytes || !frames.iter().enumerate().all(follows) {
            return None;
        }
        // SAFETY: needed to lend a merged frame without copying it. All places come from one mapping, so one pointer may go from the
        // first to the last of them; they were just seen to follow each other without a gap, and the range lies inside. As in `bytes`,
        // `&frames` keeps each of them from being posted meanwhile.
        Some(unsafe { std::slice::from_raw_parts(first.add(offset).as_ptr(), len) })
    }

    /// Copies `len` bytes of `frame` from `offset` to the end of `into`, cut short at the end of the buffer. For a device that may
    /// write to a frame after it gave it back: nothing ever refers to such bytes in place.
    pub(crate) fn copy_out(
        &self,
        frame: &Frame<owner::Stack>,
        offset: usize,
        len: usize,
        into: &mut Vec<u8>,
    ) {
        let (pointer, len) = self.range(frame, offset, len);
        let at = into.len();
        into.resize(at + len, 0);
        // SAFETY: needed to copy memory that another process may be writing. The range lies inside the buffer, which lives as long
        // as the pool; a volatile slice tolerates that its bytes change.
        let shared = unsafe { VolatileSlice::new(pointer.as_ptr(), len) };
        shared.copy_to(&mut into[at..]);
    }

    /// The little-endian number at the even `offset` of `frame`, read once.
    pub(crate) fn read_u16(&self, frame: &Frame<owner::Stack>, offset: usize) -> u16 {
        let (pointer, len) = self.range(frame, offset, 2);
        debug_assert!(len == 2 && pointer.cast::<u16>().is_aligned());
        // SAFETY: needed because another process may be writing, so that a reference would be wrong. Buffers are larger than their
        // headers and begin on a cache line, so both bytes are inside, and aligned.
        u16::from_le(unsafe { pointer.cast::<u16>().read_volatile() })
    }

    /// Copies `bytes` into `frame` at `offset`, cut short at the end of the buffer.
    pub(crate) fn copy_in(&mut self, frame: &mut Frame<owner::Stack>, offset: usize, bytes: &[u8]) {
        let (pointer, len) = self.range(frame, offset, bytes.len());
        // SAFETY: as in `copy_out`; `&mut frame` is the only name of this buffer on our side.
        let shared = unsafe { VolatileSlice::new(pointer.as_ptr(), len) };
        shared.copy_from(&bytes[..len]);
    }

    #[inline]
    fn range<O>(&self, frame: &Frame<O>, offset: usize, len: usize) -> (NonNull<u8>, usize) {
        let place = self.place(frame);
        let offset = offset.min(self.frame_bytes);
        let len = len.min(self.frame_bytes - offset);
        // SAFETY: needed to name a place inside the buffer; `offset` was just bounded by the buffer's length.
        (unsafe { place.pointer.add(offset) }, len)
    }

    #[inline]
    fn place<O>(&self, frame: &Frame<O>) -> Place {
        // Names are made in `new` only, one for each buffer; a name from another pool is at worst out of range here.
        self.places[frame.index as usize]
    }
}
