//! Model checks (`RUSTFLAGS="--cfg loom" cargo test -p netd-virtqueue --lib models`): every interleaving, and every value that a weak
//! memory may show, of the driver's own code against a device of a few lines in another thread.
//!
//! - Publication: a device that sees a buffer sees its descriptors and its bytes.
//! - Doorbell: a device that goes to sleep after it looked once more never misses a buffer.
//! - Interrupt: a driver that arms, looks once more and sleeps never misses one either.
//!
//! A missed wake-up is a deadlock, which loom reports; a byte that is read too early is a race, which it reports too.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::thread;
use vm_memory::MmapRegion;

use super::area::{Area, Ordering, fence};
use super::split::passed;
use super::*;
use crate::{DmaMemory, DmaSegment};

/// The smallest ring that two buffers fit in: loom's work grows with every field.
const SIZE: u16 = 2;
const ADDRESS: u64 = 0x1000;
/// How often a thread may be stopped in mid-course in one interleaving.
const PREEMPTIONS: usize = 3;

/// What one side tells the other out of band, and the bytes of a buffer.
struct Outside {
    bell: Notify,
    bytes: UnsafeCell<u64>,
}

/// The device's side, on the same fields.
struct Device {
    area: Area,
    packed: bool,
    event_idx: bool,
    outside: Arc<Outside>,
    /// How many buffers were taken, and how many given back.
    taken: u16,
    given: u16,
}

// Offsets for a ring of two entries, as the specification gives them: split with the used ring behind the available ring at 44.
const AVAIL: usize = 32;
const USED: usize = 44;
const DRIVER_EVENT: usize = 64;
const DEVICE_EVENT: usize = 128;

impl Device {
    /// The address in the next descriptor that the driver made available.
    fn take(&mut self) -> Option<u64> {
        let slot = usize::from(self.taken % SIZE);
        let address = if self.packed {
            let wrap = self.taken / SIZE % 2 == 0;
            let flags = self.area.load_u64(16 * slot + 8, Ordering::Acquire) >> 48;
            if (flags >> 7 & 1 == 1) != wrap || (flags >> 15 == 1) == wrap {
                return None;
            }
            self.area.load_u64(16 * slot, Ordering::Relaxed)
        } else {
            if self.area.load_u16(AVAIL + 2, Ordering::Acquire) == self.taken {
                return None;
            }
            let head = self.area.load_u16(AVAIL + 4 + 2 * slot, Ordering::Relaxed);
            self.area.load_u64(16 * usize::from(head), Ordering::Relaxed)
        };
        self.taken += 1;
        Some(address)
    }

    /// Asks for a doorbell at the next buffer.
    fn ask(&self) {
        match (self.packed, self.event_idx) {
            (true, false) => self.area.store_u32(DEVICE_EVENT, 0, Ordering::Relaxed),
            (true, true) => {
                let wrap = u32::from(self.taken / SIZE % 2 == 0);
                let at = u32::from(self.taken % SIZE);
                self.area.store_u32(DEVICE_EVENT, at | wrap << 15 | 2 << 16, Ordering::Relaxed);
            }
            (false, false) => self.area.store_u16(USED, 0, Ordering::Relaxed),
            (false, true) => self.area.store_u16(USED + 4 + 16, self.taken, Ordering::Relaxed),
        }
    }

    /// Wants no doorbell, from the beginning.
    fn refuse(&self) {
        match (self.packed, self.event_idx) {
            (true, _) => self.area.store_u32(DEVICE_EVENT, 1 << 16, Ordering::Relaxed),
            (false, false) => self.area.store_u16(USED, 1, Ordering::Relaxed),
            (false, true) => self.area.store_u16(USED + 4 + 16, 1 << 15, Ordering::Relaxed),
        }
    }

    /// Waits for one buffer, asleep if need be.
    fn wait(&mut self) -> u64 {
        loop {
            if let Some(address) = self.take() {
                return address;
            }
            self.ask();
            fence(Ordering::SeqCst);
            if let Some(address) = self.take() {
                return address;
            }
            self.outside.bell.wait();
        }
    }

    /// Gives buffer `id` back, and interrupts if the driver wants it.
    fn give(&mut self, id: u16) {
        let slot = usize::from(self.given % SIZE);
        let (old, new) = (self.given, self.given + 1);
        self.given = new;
        let wanted = if self.packed {
            let flags = if old / SIZE % 2 == 0 { 1 << 7 | 1 << 15 } else { 0u64 };
            let word = 1 | u64::from(id) << 32 | flags << 48;
            self.area.store_u64(16 * slot + 8, word, Ordering::Release);
            fence(Ordering::SeqCst);
            let event = self.area.load_u32(DRIVER_EVENT, Ordering::Relaxed);
            match event >> 16 {
                0 => true,
                1 => false,
                // One buffer at a time: the event is passed when it is this very descriptor.
                _ => {
                    let wrap = u32::from(old / SIZE % 2 == 0);
                    event & 0xffff == u32::from(old % SIZE) | wrap << 15
                }
            }
        } else {
            self.area.store_u32(USED + 4 + 8 * slot, id.into(), Ordering::Relaxed);
            self.area.store_u32(USED + 8 + 8 * slot, 1, Ordering::Relaxed);
            self.area.store_u16(USED + 2, new, Ordering::Release);
            fence(Ordering::SeqCst);
            match self.event_idx {
                true => passed(self.area.load_u16(AVAIL + 4 + 4, Ordering::Relaxed), old, new),
                false => self.area.load_u16(AVAIL, Ordering::Relaxed) == 0,
            }
        };
        if wanted {
            self.outside.bell.notify();
        }
    }
}

fn pair(packed: bool, event_idx: bool) -> (Ring<u32>, Device) {
    let region = Arc::new(MmapRegion::new(4096).unwrap());
    let segment = DmaSegment { offset: 0, len: 4096, device_address: 0 };
    let mut arena = DmaArena::new(Arc::new(DmaMemory::new(region, vec![segment]).unwrap()));
    let options =
        RingOptions { packed, event_idx, in_order: false, indirect: false, parts_max: 1, used_alignment: 4 };
    let ring = Ring::new(0, SIZE, &options, &mut arena).unwrap();
    let area = match &ring.format {
        Format::Split(queue) => queue.area(),
        Format::Packed(queue) => queue.area(),
    };
    let addresses = ring.addresses();
    let expected = if packed { (DRIVER_EVENT, DEVICE_EVENT) } else { (AVAIL, USED) };
    assert_eq!((addresses.avail as usize, addresses.used as usize), expected);
    let outside = Arc::new(Outside { bell: Notify::new(), bytes: UnsafeCell::new(0) });
    (ring, Device { area, packed, event_idx, outside, taken: 0, given: 0 })
}

fn push(ring: &mut Ring<u32>, token: u32) {
    let part = Part { device_address: ADDRESS + u64::from(token), len: 1, device_writes: true };
    ring.push(&[part], token).unwrap();
}

/// Runs `model` for both formats, with and without EVENT_IDX.
fn check(model: fn(bool, bool)) {
    for packed in [false, true] {
        for event_idx in [false, true] {
            let mut builder = loom::model::Builder::new();
            // The known lost wake-ups need one or two; without a bound the longest model takes minutes.
            builder.preemption_bound = Some(PREEMPTIONS);
            builder.check(move || model(packed, event_idx));
        }
    }
}

#[test]
fn published_buffer_is_seen_whole() {
    check(|packed, event_idx| {
        let (mut ring, mut device) = pair(packed, event_idx);
        let outside = Arc::clone(&device.outside);
        // SAFETY: loom's cell is accessed inside its own closure; that nobody else does so meanwhile is what the model checks.
        outside.bytes.with_mut(|bytes| unsafe { *bytes = 7 });
        let other = thread::spawn(move || {
            if let Some(address) = device.take() {
                assert_eq!(address, ADDRESS);
                // SAFETY: as above: a publication that comes too early is the race that loom reports here.
                assert_eq!(device.outside.bytes.with(|bytes| unsafe { *bytes }), 8);
                assert_eq!(device.take(), Some(ADDRESS + 1), "the rest of the batch came with it");
            }
        });
        // SAFETY: as above.
        outside.bytes.with_mut(|bytes| unsafe { *bytes = 8 });
        push(&mut ring, 0);
        push(&mut ring, 1);
        ring.publish();
        other.join().unwrap();
    });
}

#[test]
fn device_that_sleeps_is_always_rung() {
    check(|packed, event_idx| {
        let (mut ring, mut device) = pair(packed, event_idx);
        device.refuse();
        let outside = Arc::clone(&device.outside);
        let other = thread::spawn(move || {
            assert_eq!(device.wait(), ADDRESS);
            assert_eq!(device.wait(), ADDRESS + 1);
        });
        for token in 0..2 {
            push(&mut ring, token);
            if ring.publish().is_some() {
                outside.bell.notify();
            }
        }
        other.join().unwrap();
    });
}

#[test]
fn driver_that_sleeps_is_always_interrupted() {
    check(|packed, event_idx| {
        let (mut ring, mut device) = pair(packed, event_idx);
        push(&mut ring, 0);
        push(&mut ring, 1);
        ring.publish();
        let outside = Arc::clone(&device.outside);
        let other = thread::spawn(move || {
            device.give(0);
            device.give(1);
        });
        let mut taken = 0;
        while taken < 2 {
            if let Some(used) = ring.pop().unwrap() {
                assert_eq!((used.token, used.written), (taken, 1));
                taken += 1;
                continue;
            }
            if !ring.arm().unwrap() {
                outside.bell.wait();
            }
            ring.silence();
        }
        other.join().unwrap();
    });
}
