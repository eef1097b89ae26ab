//! The ring against a device of a few lines that reads and writes the same memory, honestly or not.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::MmapRegion;

use super::*;
use crate::{DmaMemory, DmaSegment};

/// The device's side: raw reads and writes at the offsets that the specification gives.
struct Device {
    region: Arc<MmapRegion>,
    layout: RingLayout,
    next_avail: u16,
    used: u16,
}

impl Device {
    fn load(&self, offset: usize) -> u16 {
        assert!(offset + 2 <= self.region.size());
        // SAFETY: the test's mapping is larger than every ring it holds, and offsets are even.
        u16::from_le(unsafe { self.region.as_ptr().add(offset).cast::<u16>().read_volatile() })
    }

    fn store(&self, offset: usize, value: u16) {
        assert!(offset + 2 <= self.region.size());
        // SAFETY: as in `load`.
        unsafe { self.region.as_ptr().add(offset).cast::<u16>().write_volatile(value.to_le()) };
    }

    /// The next head that the driver made available.
    fn next(&mut self) -> Option<u16> {
        if self.load(self.layout.avail + 2) == self.next_avail {
            return None;
        }
        let head = self.load(self.layout.avail + 4 + 2 * usize::from(self.next_avail % self.layout.size));
        self.next_avail = self.next_avail.wrapping_add(1);
        Some(head)
    }

    fn complete(&mut self, id: u32, len: u32) {
        let element = self.layout.used + 4 + 8 * usize::from(self.used % self.layout.size);
        self.store(element, id as u16);
        self.store(element + 2, (id >> 16) as u16);
        self.store(element + 4, len as u16);
        self.store(element + 6, (len >> 16) as u16);
        self.used = self.used.wrapping_add(1);
        self.store(self.layout.used + 2, self.used);
    }
}

const PLAIN: RingOptions = RingOptions {
    packed: false,
    event_idx: false,
    in_order: false,
    indirect: false,
    parts_max: 2,
    used_alignment: 4096,
};

fn ring(size: u16, event_idx: bool) -> (SplitQueue<u32>, Device) {
    ring_with(size, RingOptions { event_idx, ..PLAIN })
}

fn ring_with(size: u16, options: RingOptions) -> (SplitQueue<u32>, Device) {
    let region = Arc::new(MmapRegion::new(1 << 20).unwrap());
    let segment = DmaSegment { offset: 0, len: 1 << 20, device_address: 0 };
    let memory = DmaMemory::new(Arc::clone(&region), vec![segment]).unwrap();
    let queue = SplitQueue::new(7, size, &options, &mut DmaArena::new(Arc::new(memory))).unwrap();
    let layout = queue.layout;
    (queue, Device { region, layout, next_avail: 0, used: 0 })
}

fn writable(len: u32) -> Part {
    Part { device_address: 0x1000, len, device_writes: true }
}

#[test]
fn layout_has_the_sizes_of_the_specification() {
    // Bytes per legacy ring, as every legacy driver computes them (virtio 1.3, 2.7.2).
    for (size, total) in [(256, 12_288), (1024, 32_768), (4096, 114_688), (16_384, 434_176)] {
        assert_eq!(RingLayout::new(0, size, 4096).unwrap().total, total);
    }
    assert!(RingLayout::new(0, 0, 4).is_err());
    assert!(RingLayout::new(0, 768, 4).is_err());
}

#[test]
fn chain_of_two_is_linked_and_both_descriptors_come_back() {
    let (mut queue, mut device) = ring(4, false);
    let header = Part { device_address: 0xabcd_0000_1111, len: 10, device_writes: true };
    queue.push(&[header, writable(1500)], 42).unwrap();
    assert!(queue.publish().is_some());
    let head = device.next().unwrap();
    let at = 16 * usize::from(head);
    assert_eq!([device.load(at), device.load(at + 2), device.load(at + 4)], [0x1111, 0, 0xabcd]);
    assert_eq!([device.load(at + 8), device.load(at + 12)], [10, DESC_F_NEXT | DESC_F_WRITE]);
    let next = 16 * usize::from(device.load(at + 14));
    assert_eq!([device.load(next + 8), device.load(next + 12)], [1500, DESC_F_WRITE]);
    assert_eq!(queue.free_descriptors(), 2);
    device.complete(head.into(), 1510);
    let used = queue.pop().unwrap().unwrap();
    assert_eq!((used.token, used.written, queue.free_descriptors()), (42, 1510, 4));
}

#[test]
fn full_ring_gives_the_token_back() {
    let (mut queue, _device) = ring(2, false);
    queue.push(&[writable(1)], 1).unwrap();
    queue.push(&[writable(1)], 2).unwrap();
    assert_eq!(queue.push(&[writable(1)], 3), Err(3));
}

#[test]
fn doorbell_is_not_rung_when_the_device_says_so() {
    let (mut queue, device) = ring(4, false);
    device.store(device.layout.used, USED_F_NO_NOTIFY);
    queue.push(&[writable(1)], 1).unwrap();
    assert!(queue.publish().is_none());
}

#[test]
fn doorbell_with_event_idx_is_rung_at_the_event_only() {
    let (mut queue, device) = ring(8, true);
    let avail_event = device.layout.used + 4 + 8 * 8;
    device.store(avail_event, 1);
    queue.push(&[writable(1)], 1).unwrap();
    assert!(queue.publish().is_none(), "the device waits for entry 1, this was entry 0");
    queue.push(&[writable(1)], 2).unwrap();
    assert!(queue.publish().is_some());
    assert!(queue.publish().is_none(), "nothing new");
}

#[test]
fn event_idx_used_event_stays_out_of_reach() {
    let (mut queue, mut device) = ring(2, true);
    let used_event = device.layout.avail + 4 + 2 * 2;
    for round in 0..200_000 {
        queue.push(&[writable(1)], round).unwrap();
        queue.publish();
        let head = device.next().unwrap();
        let (before, event) = (device.used, device.load(used_event));
        device.complete(head.into(), 1);
        assert!(!passed(event, before, device.used), "round {round} would have raised an interrupt");
        assert_eq!(queue.pop().unwrap().unwrap().token, round);
    }
}

#[test]
fn armed_queue_asks_for_the_next_buffer_and_notices_one_that_came_before() {
    for event_idx in [false, true] {
        let (mut queue, mut device) = ring(4, event_idx);
        let used_event = device.layout.avail + 4 + 2 * 4;
        let interrupts = |device: &Device, before: u16| match event_idx {
            true => passed(device.load(used_event), before, device.used),
            false => device.load(device.layout.avail) & AVAIL_F_NO_INTERRUPT == 0,
        };
        for round in 0..70_000 {
            queue.push(&[writable(1)], round).unwrap();
            queue.publish();
            assert!(!queue.arm().unwrap());
            let (head, before) = (device.next().unwrap(), device.used);
            device.complete(head.into(), 1);
            assert!(interrupts(&device, before), "round {round}: no interrupt, and the driver sleeps");
            assert!(queue.arm().unwrap(), "round {round}: a buffer is there, and the driver sleeps");
            queue.silence();
            assert_eq!(queue.pop().unwrap().unwrap().token, round);
            queue.push(&[writable(1)], round).unwrap();
            queue.publish();
            let (head, before) = (device.next().unwrap(), device.used);
            device.complete(head.into(), 1);
            assert!(!interrupts(&device, before), "round {round}: an interrupt that nobody asked for");
            queue.pop().unwrap().unwrap();
        }
    }
}

#[test]
fn used_index_that_jumps_is_a_fault() {
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), 1);
    device.complete(head.into(), 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::UsedIndexJump { queue: 7, by: 2, in_flight: 1 });
}

#[test]
fn used_index_that_goes_back_is_a_fault() {
    let (mut queue, device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    queue.publish();
    device.store(device.layout.used + 2, u16::MAX);
    assert!(matches!(queue.pop(), Err(Fault::UsedIndexJump { by: u16::MAX, .. })));
}

#[test]
fn buffer_that_was_never_published_cannot_come_back() {
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    queue.publish();
    let published = device.next().unwrap();
    queue.push(&[writable(64)], 2).unwrap();
    let hidden = 1 - published;
    device.complete(hidden.into(), 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id: hidden.into() });
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    device.complete(0, 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::UsedIndexJump { queue: 7, by: 1, in_flight: 0 });
}

#[test]
fn ordered_batch_is_returned_by_its_last_element() {
    let (mut queue, mut device) = ring_with(4, RingOptions { in_order: true, ..PLAIN });
    for round in 0..10_000 {
        for number in 0..3 {
            queue.push(&[writable(64)], 3 * round + number).unwrap();
        }
        queue.publish();
        let heads = [(); 3].map(|()| device.next().unwrap());
        // One element for three buffers, at the place of the first (2.7.9).
        device.complete(heads[2].into(), 9);
        device.used = device.used.wrapping_add(2);
        device.store(device.layout.used + 2, device.used);
        for (number, written) in [64, 64, 9].into_iter().enumerate() {
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.token, used.written), (3 * round + number as u32, written));
        }
        assert!(queue.pop().unwrap().is_none());
    }
}

#[test]
fn ordered_descriptors_are_used_in_ring_order() {
    let (mut queue, mut device) = ring_with(4, RingOptions { in_order: true, ..PLAIN });
    for round in 0..100u16 {
        queue.push(&[writable(64)], 0).unwrap();
        queue.publish();
        let head = device.next().unwrap();
        assert_eq!(head, round % 4);
        device.complete(head.into(), 1);
        queue.pop().unwrap().unwrap();
    }
}

#[test]
fn device_that_promised_order_and_does_not_keep_it_is_a_fault() {
    let (mut queue, mut device) = ring_with(4, RingOptions { in_order: true, ..PLAIN });
    queue.push(&[writable(64)], 1).unwrap();
    queue.push(&[writable(64)], 2).unwrap();
    queue.publish();
    device.complete(1, 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::OutOfOrder { queue: 7, id: 1 });
}

#[test]
fn indirect_buffer_takes_one_descriptor_that_names_its_table() {
    let (mut queue, mut device) = ring_with(2, RingOptions { indirect: true, ..PLAIN });
    let header = Part { device_address: 0x5000, len: 12, device_writes: false };
    queue.push(&[header, writable(1500)], 1).unwrap();
    queue.push(&[header, writable(1501)], 2).unwrap();
    queue.publish();
    device.next().unwrap();
    let at = 16 * usize::from(device.next().unwrap());
    assert_eq!([device.load(at + 8), device.load(at + 12)], [32, DESC_F_INDIRECT]);
    let table = usize::from(device.load(at)) | usize::from(device.load(at + 2)) << 16;
    assert_eq!(
        [device.load(table), device.load(table + 8), device.load(table + 12)],
        [0x5000, 12, DESC_F_NEXT]
    );
    assert_eq!(device.load(table + 14), 1);
    assert_eq!([device.load(table + 16 + 8), device.load(table + 16 + 12)], [1501, DESC_F_WRITE]);
}

#[test]
fn drained_ring_begins_anew() {
    let (mut queue, mut device) = ring(4, false);
    for token in 0..3 {
        queue.push(&[writable(64)], token).unwrap();
    }
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), 1);
    queue.pop().unwrap().unwrap();
    assert_eq!(queue.drain().len(), 2);
    (device.next_avail, device.used) = (0, 0);
    assert!(device.next().is_none());
    queue.push(&[writable(64)], 9).unwrap();
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), 5);
    assert_eq!(queue.pop().unwrap().unwrap().token, 9);
}

#[test]
fn id_that_is_not_in_flight_is_a_fault() {
    for id in [3, 4, 0x1_0000, u32::MAX] {
        let (mut queue, mut device) = ring(4, false);
        queue.push(&[writable(64)], 1).unwrap();
        queue.publish();
        device.complete(id, 1);
        assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id });
    }
}

#[test]
fn id_returned_twice_is_a_fault() {
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    queue.push(&[writable(64)], 2).unwrap();
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), 1);
    device.complete(head.into(), 1);
    assert_eq!(queue.pop().unwrap().unwrap().token, 1);
    assert_eq!(queue.pop().unwrap_err(), Fault::UnknownId { queue: 7, id: head.into() });
}

#[test]
fn length_beyond_the_buffer_is_a_fault() {
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[writable(64)], 1).unwrap();
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), 65);
    assert_eq!(queue.pop().unwrap_err(), Fault::LengthTooLarge { queue: 7, len: 65, capacity: 64 });
}

#[test]
fn length_of_a_read_only_buffer_is_ignored() {
    let (mut queue, mut device) = ring(4, false);
    queue.push(&[Part { device_writes: false, ..writable(64) }], 1).unwrap();
    queue.publish();
    let head = device.next().unwrap();
    device.complete(head.into(), u32::MAX);
    assert_eq!(queue.pop().unwrap().unwrap().written, 0);
}

proptest! {
    /// An honest device that completes in any order returns every token exactly once, across the wrap of all counters.
    #[test]
    fn honest_device_returns_each_token_once(
        size in prop::sample::select(vec![2u16, 4, 16, 256]),
        event_idx: bool,
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..3000),
    ) {
        let (mut queue, mut device) = ring(size, event_idx);
        let (mut pushed, mut held, mut with_driver) = (0u32, Vec::new(), std::collections::HashSet::new());
        for (action, pick) in steps {
            match action {
                0 | 1 => {
                    let parts = if action == 0 { vec![writable(9)] } else { vec![writable(4), writable(5)] };
                    if queue.push(&parts, pushed).is_ok() {
                        with_driver.insert(pushed);
                        pushed += 1;
                    }
                    queue.publish();
                }
                2 => {
                    held.extend(std::iter::from_fn(|| device.next()));
                    if !held.is_empty() {
                        let head = held.swap_remove(pick.index(held.len()));
                        device.complete(head.into(), 9);
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
    fn lying_device_never_panics(writes in prop::collection::vec((any::<u16>(), 0usize..40), 1..200)) {
        let (mut queue, device) = ring(4, true);
        let mut with_device = 0;
        for (value, at) in writes {
            if queue.push(&[writable(9)], 0).is_ok() {
                with_device += 1;
            }
            queue.publish();
            device.store(device.layout.used + 2 * at, value);
            loop {
                match queue.pop() {
                    Ok(Some(_)) => with_device -= 1,
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
            prop_assert!(with_device >= 0);
        }
    }
}
