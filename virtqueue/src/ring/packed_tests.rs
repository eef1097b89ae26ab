//! The ring against a device of a few lines that reads and writes the same memory, honestly or not.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::MmapRegion;

use super::*;
use crate::{DmaMemory, DmaSegment};

const PLAIN: RingOptions = RingOptions {
    packed: true,
    event_idx: false,
    in_order: false,
    indirect: false,
    parts_max: 3,
    used_alignment: 64,
};

/// The device's side: raw reads and writes at the offsets that the specification gives.
struct Device {
    region: Arc<MmapRegion>,
    size: u16,
    driver_event: usize,
    device_event: usize,
    next: Cursor,
    used: Cursor,
}

/// What the device found: id, parts as (address, length, writable), descriptors.
type Found = (u16, Vec<(u64, u32, bool)>, u16);

impl Device {
    fn load(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= self.region.size());
        // SAFETY: the test's mapping is larger than every ring it holds, and offsets are multiples of 8.
        u64::from_le(unsafe { self.region.as_ptr().add(offset).cast::<u64>().read_volatile() })
    }

    fn store(&self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.region.size());
        // SAFETY: as in `load`.
        unsafe { self.region.as_ptr().add(offset).cast::<u64>().write_volatile(value.to_le()) };
    }

    fn next(&mut self) -> Option<Found> {
        let (mut parts, mut count) = (Vec::new(), 0);
        loop {
            let at = self.next.offset();
            let word = self.load(at + 8);
            let flags = (word >> 48) as u16;
            let (available, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
            if available != self.next.wrap || used == self.next.wrap {
                assert!(parts.is_empty(), "the head was published before the rest of its chain");
                return None;
            }
            self.next = self.next.advance(1, self.size);
            count += 1;
            let writable = flags & DESC_F_WRITE != 0;
            if flags & DESC_F_INDIRECT != 0 {
                let (table, len) = (self.load(at) as usize, word as u32 as usize);
                for entry in (table..table + len).step_by(16) {
                    let word = self.load(entry + 8);
                    parts.push((self.load(entry), word as u32, (word >> 48) as u16 & DESC_F_WRITE != 0));
                }
            } else {
                parts.push((self.load(at), word as u32, writable));
            }
            if flags & DESC_F_NEXT == 0 {
                return Some(((word >> 32) as u16, parts, count));
            }
        }
    }

    /// Gives back `id`, which took `descriptors`.
    fn complete(&mut self, id: u16, len: u32, descriptors: u16) {
        let flags = if self.used.wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 };
        self.store(self.used.offset() + 8, u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48);
        self.used = self.used.advance(descriptors, self.size);
    }

    /// Whether the driver wants to be told of what was used from `before` on.
    fn interrupts(&self, before: Cursor) -> bool {
        let event = self.load(self.driver_event) as u32;
        match event >> 16 {
            RING_EVENT_ENABLE => true,
            RING_EVENT_DISABLE => false,
            _ => {
                let slot = event as u16 & !WRAP;
                let old = if before.wrap == self.used.wrap {
                    before.slot
                } else {
                    before.slot.wrapping_sub(self.size)
                };
                let event = if (event as u16 & WRAP != 0) == self.used.wrap {
                    slot
                } else {
                    slot.wrapping_sub(self.size)
                };
                passed(event, old, self.used.slot)
            }
        }
    }
}

fn ring(size: u16, options: RingOptions) -> (PackedQueue<u32>, Device) {
    let region = Arc::new(MmapRegion::new(1 << 20).unwrap());
    let segment = DmaSegment { offset: 0, len: 1 << 20, device_address: 0 };
    let memory = DmaMemory::new(Arc::clone(&region), vec![segment]).unwrap();
    let queue = PackedQueue::new(7, size, &options, &mut DmaArena::new(Arc::new(memory))).unwrap();
    let addresses = queue.addresses();
    assert_eq!(addresses.descriptors, 0);
    let device = Device {
        region,
        size,
        driver_event: addresses.avail as usize,
        device_event: addresses.used as usize,
        next: Cursor::START,
        used: Cursor::START,
    };
    (queue, device)
}

fn writable(len: u32) -> Part {
    Part { device_address: 0x1000, len, device_writes: true }
}

fn readable(len: u32) -> Part {
    Part { device_writes: false, ..writable(len) }
}

#[test]
fn sizes_need_not_be_powers_of_two() {
    for size in [1, 3, 256, 1000, 32_768] {
        let (mut queue, mut device) = ring(size, PLAIN);
        for token in 0..5 * u32::from(size).min(2000) {
            queue.push(&[writable(64)], token).unwrap();
            queue.publish();
            let (id, _, count) = device.next().unwrap();
            device.complete(id, 9, count);
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.token, used.written), (token, 9));
        }
    }
    let region = Arc::new(MmapRegion::new(1 << 20).unwrap());
    let segment = DmaSegment { offset: 0, len: 1 << 20, device_address: 0 };
    let mut arena = DmaArena::new(Arc::new(DmaMemory::new(region, vec![segment]).unwrap()));
    for size in [0, 32_769] {
        assert!(matches!(
            PackedQueue::<u32>::new(7, size, &PLAIN, &mut arena),
            Err(Error::QueueSize { index: 7, .. })
        ));
    }
}

#[test]
fn batch_appears_at_once_and_only_when_it_is_published() {
    let (mut queue, mut device) = ring(8, PLAIN);
    queue.push(&[readable(12), writable(1500)], 1).unwrap();
    queue.push(&[writable(60)], 2).unwrap();
    assert!(device.next().is_none(), "nothing was published yet");
    assert_eq!(queue.publish(), Some(Position(3 | WRAP)));
    let (_, parts, count) = device.next().unwrap();
    assert_eq!((parts, count), (vec![(0x1000, 12, false), (0x1000, 1500, true)], 2));
    assert_eq!(device.next().unwrap().1, [(0x1000, 60, true)]);
    assert!(device.next().is_none());
    assert!(queue.publish().is_none(), "nothing new");
}

#[test]
fn full_ring_gives_the_token_back() {
    let (mut queue, _device) = ring(2, PLAIN);
    queue.push(&[writable(1)], 1).unwrap();
    assert_eq!(queue.push(&[writable(1), writable(1)], 2), Err(2));
    queue.push(&[writable(1)], 3).unwrap();
    assert_eq!(queue.push(&[writable(1)], 4), Err(4));
}

#[test]
fn chain_across_the_end_of_the_ring_keeps_its_wrap_counters() {
    let (mut queue, mut device) = ring(3, PLAIN);
    for token in 0..100 {
        queue.push(&[readable(12), writable(100)], token).unwrap();
        queue.publish();
        let (id, parts, count) = device.next().unwrap();
        assert_eq!((parts.len(), count), (2, 2));
        device.complete(id, 100, count);
        assert_eq!(queue.pop().unwrap().unwrap().token, token);
    }
}

#[test]
fn indirect_buffer_takes_one_descriptor() {
    let (mut queue, mut device) = ring(1, RingOptions { indirect: true, ..PLAIN });
    for token in 0..10 {
        queue.push(&[readable(2), readable(1), writable(1)], token).unwrap();
        queue.publish();
        let (id, parts, count) = device.next().unwrap();
        assert_eq!((parts.len(), count), (3, 1));
        device.complete(id, 1, count);
        assert_eq!(queue.pop().unwrap().unwrap().token, token);
    }
}

#[test]
fn doorbell_follows_the_event_of_the_device() {
    for (flags, event_idx, rung) in [
        (RING_EVENT_ENABLE, false, true),
        (RING_EVENT_DISABLE, true, false),
        (RING_EVENT_DESC, false, true),
        (3, true, true),
    ] {
        let (mut queue, device) = ring(4, RingOptions { event_idx, ..PLAIN });
        device.store(device.device_event, u64::from(flags << 16 | 9));
        queue.push(&[writable(1)], 1).unwrap();
        assert_eq!(queue.publish().is_some(), rung, "flags {flags}, event_idx {event_idx}");
    }
}

#[test]
fn doorbell_at_an_event_is_rung_exactly_when_it_is_passed() {
    // Every event of both rounds, every start, batches of every length: against a plain count.
    let size = 5;
    for start in 0..10u16 {
        for batch in 1..=size {
            for ahead in 0..10u16 {
                let (mut queue, mut device) = ring(size, RingOptions { event_idx: true, ..PLAIN });
                for token in 0..u32::from(start) {
                    queue.push(&[writable(1)], token).unwrap();
                    queue.publish();
                    let (id, _, count) = device.next().unwrap();
                    device.complete(id, 1, count);
                    queue.pop().unwrap().unwrap();
                }
                let event = Cursor::START.advance(start % size, size);
                let event = if start / size % 2 == 1 { Cursor { wrap: !event.wrap, ..event } } else { event };
                let event = event.advance(ahead % size, size);
                let event = if ahead >= size { Cursor { wrap: !event.wrap, ..event } } else { event };
                device.store(device.device_event, u64::from(event.word()) | u64::from(RING_EVENT_DESC) << 16);
                for token in 0..u32::from(batch) {
                    queue.push(&[writable(1)], token).unwrap();
                }
                // An event a whole round ahead cannot be told from one in the past, and no device waits for it.
                if ahead < size {
                    assert_eq!(queue.publish().is_some(), ahead < batch, "{start} {batch} {ahead}");
                }
            }
        }
    }
}

#[test]
fn armed_queue_asks_for_the_next_buffer_and_notices_one_that_came_before() {
    for event_idx in [false, true] {
        let (mut queue, mut device) = ring(5, RingOptions { event_idx, ..PLAIN });
        for round in 0..10_000 {
            queue.push(&[writable(1)], round).unwrap();
            queue.publish();
            assert!(!queue.arm().unwrap());
            let before = device.used;
            let (id, _, count) = device.next().unwrap();
            device.complete(id, 1, count);
            assert!(device.interrupts(before), "round {round}: no interrupt, and the driver sleeps");
            assert!(queue.arm().unwrap(), "round {round}: a buffer is there, and the driver sleeps");
            queue.silence();
            assert_eq!(queue.pop().unwrap().unwrap().token, round);
            queue.push(&[writable(1)], round).unwrap();
            queue.publish();
            let before = device.used;
            let (id, _, count) = device.next().unwrap();
            device.complete(id, 1, count);
            assert!(!device.interrupts(before), "round {round}: an interrupt that nobody asked for");
            queue.pop().unwrap().unwrap();
        }
    }
}

#[test]
fn ordered_batch_is_returned_by_its_last_descriptor() {
    let (mut queue, mut device) = ring(7, RingOptions { in_order: true, ..PLAIN });
    for round in 0..1000 {
        for number in 0..3 {
            queue.push(&[readable(9), writable(64)], 3 * round + number).unwrap();
        }
        queue.publish();
        let found = [(); 3].map(|()| device.next().unwrap());
        // One descriptor for three buffers, at the place of the first (2.8.9).
        device.complete(found[2].0, 5, 6);
        for (number, written) in [64, 64, 5].into_iter().enumerate() {
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.token, used.written), (3 * round + number as u32, written));
        }
        assert!(queue.pop().unwrap().is_none());
    }
}

#[test]
fn id_that_is_not_in_flight_is_a_fault() {
    for in_order in [false, true] {
        for id in [1, 4, u16::MAX] {
            let (mut queue, mut device) = ring(4, RingOptions { in_order, ..PLAIN });
            queue.push(&[writable(64)], 1).unwrap();
            queue.publish();
            device.complete(id, 1, 1);
            assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id: id.into() });
        }
    }
}

#[test]
fn buffer_that_was_never_published_cannot_come_back() {
    for in_order in [false, true] {
        let (mut queue, mut device) = ring(4, RingOptions { in_order, ..PLAIN });
        queue.push(&[writable(64)], 1).unwrap();
        queue.publish();
        queue.push(&[writable(64)], 2).unwrap();
        device.complete(1, 1, 1);
        assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id: 1 });
    }
}

#[test]
fn id_returned_twice_is_a_fault() {
    let (mut queue, mut device) = ring(4, PLAIN);
    queue.push(&[writable(64)], 1).unwrap();
    queue.push(&[writable(64)], 2).unwrap();
    queue.publish();
    let (id, _, count) = device.next().unwrap();
    device.complete(id, 1, count);
    device.complete(id, 1, count);
    assert_eq!(queue.pop().unwrap().unwrap().token, 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id: id.into() });
}

#[test]
fn length_beyond_the_buffer_is_a_fault_and_that_of_a_read_only_one_is_ignored() {
    let (mut queue, mut device) = ring(4, PLAIN);
    queue.push(&[writable(64)], 1).unwrap();
    queue.publish();
    device.complete(0, 65, 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::LengthTooLarge { queue: 7, len: 65, capacity: 64 });
    let (mut queue, mut device) = ring(4, PLAIN);
    queue.push(&[readable(64)], 1).unwrap();
    queue.publish();
    device.complete(0, u32::MAX, 1);
    assert_eq!(queue.pop().unwrap().unwrap().written, 0);
}

#[test]
fn drained_ring_begins_anew() {
    let (mut queue, mut device) = ring(3, PLAIN);
    for token in 0..4 {
        queue.push(&[writable(64)], token).unwrap();
        queue.publish();
        let (id, _, count) = device.next().unwrap();
        device.complete(id, 1, count);
        queue.pop().unwrap().unwrap();
    }
    queue.push(&[writable(64)], 8).unwrap();
    assert_eq!(queue.drain(), [8]);
    (device.next, device.used) = (Cursor::START, Cursor::START);
    assert!(device.next().is_none());
    queue.push(&[writable(64)], 9).unwrap();
    queue.publish();
    let (id, _, count) = device.next().unwrap();
    device.complete(id, 5, count);
    assert_eq!(queue.pop().unwrap().unwrap().token, 9);
}

proptest! {
    /// An honest device that completes in any order it may returns every token exactly once, across many wraps.
    #[test]
    fn honest_device_returns_each_token_once(
        size in prop::sample::select(vec![3u16, 4, 7, 256]),
        (event_idx, in_order, indirect) in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..2000),
    ) {
        let (mut queue, mut device) = ring(size, RingOptions { event_idx, in_order, indirect, ..PLAIN });
        let (mut pushed, mut held, mut with_driver) = (0u32, Vec::new(), HashSet::new());
        for (action, pick) in steps {
            match action {
                0..=2 => {
                    let parts = [readable(4), writable(5), writable(4)];
                    if queue.push(&parts[..usize::from(action) + 1], pushed).is_ok() {
                        with_driver.insert(pushed);
                        pushed += 1;
                    }
                    if pick.index(2) == 0 {
                        queue.publish();
                    }
                }
                3 => {
                    held.extend(std::iter::from_fn(|| device.next()));
                    if !held.is_empty() {
                        let (id, parts, count) = match in_order {
                            true => held.remove(0),
                            false => held.swap_remove(pick.index(held.len())),
                        };
                        let room = parts.iter().filter(|part| part.2).map(|part| part.1).sum();
                        device.complete(id, room, count);
                    }
                }
                _ => while let Some(used) = queue.pop().unwrap() {
                    prop_assert!(with_driver.remove(&used.token));
                },
            }
            prop_assert_eq!(usize::from(queue.outstanding()), with_driver.len());
        }
    }

    /// A device that writes anything anywhere in its ring is at worst a fault, never a panic or a buffer out of thin air.
    #[test]
    fn lying_device_never_panics(
        (event_idx, in_order) in any::<(bool, bool)>(),
        writes in prop::collection::vec((any::<u32>(), 0u16..5, any::<u16>(), 0usize..18), 1..200),
    ) {
        let (mut queue, device) = ring(4, RingOptions { event_idx, in_order, ..PLAIN });
        let mut with_device = 0;
        for (len, id, flags, at) in writes {
            if queue.push(&[writable(9), writable(9)][..1 + usize::from(flags & 1)], 0).is_ok() {
                with_device += 1;
            }
            if flags & 2 == 0 {
                queue.publish();
            }
            let flags = if flags & 4 == 0 { DESC_F_AVAIL | DESC_F_USED } else { flags };
            let len = if len % 3 == 0 { len } else { len % 19 };
            device.store(8 * at, u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48);
            loop {
                match queue.pop() {
                    Ok(Some(_)) => with_device -= 1,
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
            prop_assert!(with_device >= 0);
            let _ = queue.arm();
        }
    }
}
