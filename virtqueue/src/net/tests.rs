//! The driver against a fake device: its registers are fields, its memory is written by the test - honestly or not.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::MmapRegion;

use super::*;
use crate::{DmaSegment, Doorbell, RingAddresses};

const MEMORY: usize = 8 << 20;

/// Registers that the test can look at while the driver has the transport.
#[derive(Default)]
struct Registers {
    status: AtomicU8,
    rings: Mutex<Vec<(u16, RingAddresses)>>,
    /// Reads of status that still say "not yet" after a reset was asked for.
    reset_refused: bool,
}

struct Fake {
    kind: TransportKind,
    features: u64,
    queue_size: u16,
    registers: Arc<Registers>,
}

struct Silent;

impl Doorbell for Silent {
    fn ring(&self, _: Position) -> std::io::Result<()> {
        Ok(())
    }
}

impl Transport for Fake {
    fn kind(&self) -> TransportKind {
        self.kind
    }
    fn status(&self) -> Result<u8, Error> {
        Ok(self.registers.status.load(Ordering::Relaxed))
    }
    fn set_status(&mut self, status: u8) -> Result<(), Error> {
        if !(status == 0 && self.registers.reset_refused) {
            self.registers.status.store(status, Ordering::Relaxed);
        }
        Ok(())
    }
    fn device_features(&self) -> Result<u64, Error> {
        Ok(self.features)
    }
    fn set_driver_features(&mut self, _features: u64) -> Result<(), Error> {
        Ok(())
    }
    fn queue_size(&mut self, _index: u16) -> Result<u16, Error> {
        Ok(self.queue_size)
    }
    fn queue_size_is_ours_to_choose(&self) -> bool {
        self.kind != TransportKind::LegacyPci
    }
    fn used_alignment(&self) -> usize {
        if self.kind == TransportKind::LegacyPci { 4096 } else { 64 }
    }
    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        self.registers.rings.lock().unwrap().push((index, *ring));
        Ok(())
    }
    fn doorbell(&self, _index: u16) -> Result<Box<dyn Doorbell>, Error> {
        Ok(Box::new(Silent))
    }
    fn reset_queue(&mut self, _index: u16) -> Result<(), Error> {
        Ok(())
    }
    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        let config = [0x42, 1, 10, 0, 0, 2, 1, 0, 1, 0, 0xdc, 5];
        buffer.copy_from_slice(&config[usize::from(offset)..usize::from(offset) + buffer.len()]);
        Ok(())
    }
}

struct Bench {
    device: NetDevice,
    registers: Arc<Registers>,
    region: Arc<MmapRegion>,
}

fn bring_up(kind: TransportKind, features: u64, queue_size: u16) -> Result<Bench, Error> {
    let region = Arc::new(MmapRegion::new(MEMORY).unwrap());
    let whole = DmaSegment { offset: 0, len: MEMORY, device_address: 0 };
    let memory = Arc::new(DmaMemory::new(Arc::clone(&region), vec![whole])?);
    let registers = Arc::new(Registers::default());
    let fake = Fake { kind, features, queue_size, registers: Arc::clone(&registers) };
    let device = NetDevice::bring_up(Box::new(fake), memory, &Options::default())?;
    Ok(Bench { device, registers, region })
}

impl Bench {
    fn ring(&self, index: u16) -> RingAddresses {
        self.registers.rings.lock().unwrap().iter().find(|(queue, _)| *queue == index).unwrap().1
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let at = address as usize;
        assert!(at + bytes.len() <= MEMORY);
        for (offset, byte) in bytes.iter().enumerate() {
            // SAFETY: the range was just checked to lie inside the mapping, which the bench keeps alive.
            unsafe { self.region.as_ptr().add(at + offset).write_volatile(*byte) };
        }
    }

    fn read_u16(&self, address: u64) -> u16 {
        let at = address as usize;
        assert!(at + 2 <= MEMORY);
        // SAFETY: as in `write`; ring fields are aligned.
        u16::from_le(unsafe { self.region.as_ptr().add(at).cast::<u16>().read_volatile() })
    }

    fn used_element(&self, ring: &RingAddresses, slot: u16, id: u32, len: u32) {
        let at = ring.used + 4 + 8 * u64::from(slot % ring.size);
        self.write(at, &id.to_le_bytes());
        self.write(at + 4, &len.to_le_bytes());
    }
}

const LEGACY: u64 = Feature::MAC.mask() | Feature::MRG_RXBUF.mask() | Feature::STATUS.mask();
const MODERN: u64 = LEGACY | Feature::VERSION_1.mask();

#[test]
fn legacy_rings_of_every_size_post_fewer_buffers_than_they_have_entries() {
    for size in [256, 1024, 4096, 8192, 16_384] {
        let bench = bring_up(TransportKind::LegacyPci, LEGACY, size).unwrap();
        for queue in &bench.device.info().queues {
            assert_eq!(
                (queue.size, queue.frames),
                (size, 256.min(size / if queue.index == 1 { 2 } else { 1 }))
            );
        }
        let rx = bench.ring(0);
        assert_eq!((rx.descriptors % 4096, rx.used % 4096), (0, 0));
        assert_eq!(bench.read_u16(rx.avail + 2), 256.min(size));
    }
}

#[test]
fn modern_rings_are_as_large_as_the_buffers_need() {
    let bench = bring_up(TransportKind::ModernPci, MODERN, 1000).unwrap();
    assert!(bench.device.info().queues.iter().all(|queue| queue.size == 256));
}

#[test]
fn device_without_a_queue_is_refused_and_told_so() {
    let refused = bring_up(TransportKind::ModernPci, MODERN, 0);
    assert!(matches!(refused.map(drop), Err(Error::QueueSize { index: 0, size: 0, .. })));
}

#[test]
fn legacy_header_without_any_layout_has_a_descriptor_of_its_own() {
    let mut bench = bring_up(TransportKind::LegacyPci, LEGACY, 256).unwrap();
    let (_, tx) = bench.device.queues();
    tx.lend(60).unwrap().send();
    tx.flush().unwrap();
    let ring = bench.ring(1);
    let head = u64::from(bench.read_u16(ring.avail + 4));
    let header = ring.descriptors + 16 * head;
    assert_eq!([bench.read_u16(header + 8), bench.read_u16(header + 12)], [12, 1]);
    let body = ring.descriptors + 16 * u64::from(bench.read_u16(header + 14));
    assert_eq!([bench.read_u16(body + 8), bench.read_u16(body + 12)], [60, 0]);
}

#[test]
fn received_frame_shorter_than_its_header_is_a_fault() {
    let mut bench = bring_up(TransportKind::ModernPci, MODERN, 256).unwrap();
    let ring = bench.ring(0);
    let id = bench.read_u16(ring.avail + 4);
    bench.used_element(&ring, 0, id.into(), 11);
    bench.write(ring.used + 2, &1u16.to_le_bytes());
    let fault = bench.device.queues().0.poll(8, |_| panic!("no frame")).unwrap_err();
    assert_eq!(fault, Fault::TooShort { queue: 0, len: 11 });
}

#[test]
fn merged_frame_whose_buffers_are_missing_is_a_fault() {
    for count in [0u16, 2, u16::MAX] {
        let mut bench = bring_up(TransportKind::ModernPci, MODERN, 256).unwrap();
        let ring = bench.ring(0);
        let id = bench.read_u16(ring.avail + 4);
        let buffer = ring.descriptors + 16 * u64::from(id);
        let address = u64::from(bench.read_u16(buffer)) | u64::from(bench.read_u16(buffer + 2)) << 16;
        bench.write(address + 10, &count.to_le_bytes());
        bench.used_element(&ring, 0, id.into(), 100);
        bench.write(ring.used + 2, &1u16.to_le_bytes());
        let fault = bench.device.queues().0.poll(8, |_| panic!("no frame")).unwrap_err();
        assert_eq!(fault, Fault::BadMerge { queue: 0, count });
    }
}

#[test]
fn queues_that_are_reset_after_a_lie_have_all_their_buffers_again() {
    let mut bench = bring_up(TransportKind::ModernPci, MODERN | Feature::RING_RESET.mask(), 256).unwrap();
    let rings = [bench.ring(0), bench.ring(1)];
    for lie in 0..300u32 {
        let id = bench.read_u16(rings[0].avail + 4);
        // Too short, too long, or never given: each loses the buffer at hand in another place.
        let (id, len) = [(u32::from(id), 3), (u32::from(id), 5000), (300, 60)][lie as usize % 3];
        bench.used_element(&rings[0], 0, id, len);
        bench.write(rings[0].used + 2, &1u16.to_le_bytes());
        let (rx, tx) = bench.device.queues();
        assert!(rx.poll(8, |_| panic!("no frame")).is_err());
        while let Some(frame) = tx.lend(60) {
            frame.send();
        }
        tx.flush().unwrap();
        bench.device.reset_queues().unwrap();
        assert_eq!(bench.read_u16(rings[0].avail + 2), 256, "after {lie} lies");
        assert_eq!((bench.read_u16(rings[1].avail + 2), bench.read_u16(rings[0].used + 2)), (0, 0));
        let (_, tx) = bench.device.queues();
        assert_eq!(std::iter::from_fn(|| tx.lend(60).map(TxFrame::send)).count(), 256);
        bench.device.reset_queues().unwrap();
    }
}

#[test]
fn device_that_never_confirms_its_reset_keeps_its_memory() {
    let bench = bring_up(TransportKind::ModernPci, MODERN, 256).unwrap();
    let Bench { device, region, .. } = bench;
    let before = Arc::strong_count(&region);
    drop(device);
    assert!(Arc::strong_count(&region) < before, "a device that confirmed gives its memory back");

    let region = Arc::new(MmapRegion::new(MEMORY).unwrap());
    let whole = DmaSegment { offset: 0, len: MEMORY, device_address: 0 };
    let memory = Arc::new(DmaMemory::new(Arc::clone(&region), vec![whole]).unwrap());
    let registers = Arc::new(Registers { reset_refused: true, ..Registers::default() });
    let fake = Fake {
        kind: TransportKind::ModernPci,
        features: MODERN,
        queue_size: 256,
        registers: Arc::clone(&registers),
    };
    let device = NetDevice::bring_up(Box::new(fake), memory, &Options::default()).unwrap();
    drop(device);
    assert!(Arc::strong_count(&region) > 1, "memory was released while the device may write");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a device writes - used rings, headers, frames - ends in frames or in a fault, never in a panic, and never in an
    /// endless poll.
    #[test]
    fn lying_device_is_at_worst_a_fault(
        merged: bool,
        writes in prop::collection::vec((0u64..64, any::<u32>(), any::<u32>(), any::<u16>()), 1..64),
    ) {
        let features = if merged { MODERN } else { MODERN & !Feature::MRG_RXBUF.mask() };
        let mut bench = bring_up(TransportKind::ModernPci, features, 256).unwrap();
        let rings = [bench.ring(0), bench.ring(1)];
        for (at, id, len, index) in writes {
            for ring in &rings {
                // Sometimes plausible, so that the lie gets deeper than the first check.
                let id = if id % 3 == 0 { id } else { id % 256 };
                let len = if len % 3 == 0 { len } else { len % 2049 };
                bench.used_element(ring, at as u16, id, len);
                let index = if index % 4 == 0 { index } else { (at % 8) as u16 };
                bench.write(ring.used + 2, &index.to_le_bytes());
            }
            let (rx, tx) = bench.device.queues();
            let mut lent = 0;
            let polled = rx.poll(usize::MAX, |frame| lent += usize::from(frame.len() < 1 << 17));
            if let Some(frame) = tx.lend(60) {
                frame.send();
            }
            if polled.is_err() || tx.flush().is_err() {
                return Ok(());
            }
            prop_assert!(lent <= 256);
        }
    }
}
