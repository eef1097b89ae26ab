//! What a packet costs the driver: transmit and receive, split and packed, against a device of a few lines on the same thread.
//!
//! `cargo xtask bench ring` runs it. Without arguments it prints nanoseconds of the driver's own part (the device's turns are not on the
//! clock). With `count FORMAT DIRECTION FRAMES` it runs one case, for callgrind to count the instructions of [`transmit`] or [`receive`].
#![expect(clippy::unwrap_used, reason = "a benchmark whose steps fail has measured nothing")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netd_virtqueue::{
    DmaMemory, DmaSegment, Doorbell, Error, Feature, NetDevice, Options, Position, RingAddresses, RxQueue,
    Transport, TransportKind, TxQueue,
};
use vm_memory::{MmapRegion, VolatileMemory};

const MEMORY: usize = 4 << 20;
/// As many as a polling application moves per turn.
const BURST: usize = 32;
const FRAME: usize = 60;
const HEADER: u32 = 12;
/// Frames in each round, and rounds of which the median is told.
const FRAMES: usize = 2_000_000;
const ROUNDS: usize = 5;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The driver's part of transmitting: fill, send, publish, and take back what the device finished with.
#[inline(never)]
fn transmit(queue: &mut TxQueue, payload: &[u8; FRAME]) -> usize {
    let mut sent = 0;
    for _ in 0..BURST {
        let Some(mut frame) = queue.lend(FRAME) else { break };
        frame.bytes().copy_from_slice(payload);
        frame.send();
        sent += 1;
    }
    queue.flush().unwrap();
    sent
}

/// The driver's part of receiving: look at each frame, post its buffer again, publish.
#[inline(never)]
fn receive(queue: &mut RxQueue) -> usize {
    queue
        .poll(BURST, |frame| {
            black_box(frame[0]);
        })
        .unwrap()
}

/// A device that offers what the case needs and wants no doorbell.
struct Registers {
    features: u64,
    status: u8,
    rings: Arc<Mutex<[Option<RingAddresses>; 2]>>,
}

struct Silent;

impl Doorbell for Silent {
    fn ring(&self, _position: Position) -> std::io::Result<()> {
        Ok(())
    }
}

impl Transport for Registers {
    fn kind(&self) -> TransportKind {
        TransportKind::Software
    }
    fn status(&self) -> Result<u8, Error> {
        Ok(self.status)
    }
    fn set_status(&mut self, status: u8) -> Result<(), Error> {
        self.status = status;
        Ok(())
    }
    fn device_features(&self) -> Result<u64, Error> {
        Ok(self.features)
    }
    fn set_driver_features(&mut self, _features: u64) -> Result<(), Error> {
        Ok(())
    }
    fn queue_size(&mut self, _index: u16) -> Result<u16, Error> {
        Ok(256)
    }
    fn queue_size_is_ours_to_choose(&self) -> bool {
        true
    }
    fn used_alignment(&self) -> usize {
        64
    }
    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        self.rings.lock().unwrap()[usize::from(index)] = Some(*ring);
        Ok(())
    }
    fn doorbell(&self, _index: u16) -> Result<Box<dyn Doorbell>, Error> {
        Ok(Box::new(Silent))
    }
    fn read_config(&self, _offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        buffer.fill(0);
        Ok(())
    }
}

/// The device's side of one ring: gives every available buffer back at once, with `len` bytes written.
struct Device {
    region: Arc<MmapRegion>,
    ring: RingAddresses,
    packed: bool,
    len: u32,
    at: u16,
    wrap: bool,
}

impl Device {
    fn new(region: &Arc<MmapRegion>, ring: RingAddresses, packed: bool, len: u32) -> Self {
        let device = Self { region: Arc::clone(region), ring, packed, len, at: 0, wrap: true };
        match packed {
            // Event suppression: never (virtio 1.3, 2.8.14); and the flag of a split ring (2.7.10).
            true => device.u32(ring.used).store(1 << 16, Ordering::Relaxed),
            false => device.u16(ring.used).store(1, Ordering::Relaxed),
        }
        device
    }

    fn u16(&self, at: u64) -> &AtomicU16 {
        self.region.get_atomic_ref(at as usize).unwrap()
    }

    fn u32(&self, at: u64) -> &AtomicU32 {
        self.region.get_atomic_ref(at as usize).unwrap()
    }

    fn u64(&self, at: u64) -> &AtomicU64 {
        self.region.get_atomic_ref(at as usize).unwrap()
    }

    /// Gives back at most `budget` buffers.
    fn turn(&mut self, budget: usize) {
        if self.packed { self.turn_packed(budget) } else { self.turn_split(budget) }
    }

    fn turn_packed(&mut self, budget: usize) {
        for _ in 0..budget {
            let at = self.ring.descriptors + 16 * u64::from(self.at);
            let word = self.u64(at + 8).load(Ordering::Acquire);
            let flags = (word >> 48) as u16;
            if (flags & AVAIL != 0) != self.wrap || (flags & USED != 0) == self.wrap {
                return;
            }
            self.fill(self.u64(at).load(Ordering::Relaxed));
            let flags = if self.wrap { AVAIL | USED } else { 0 };
            let used = word & 0xffff_0000_0000 | u64::from(self.len) | u64::from(flags) << 48;
            self.u64(at + 8).store(used, Ordering::Release);
            self.at += 1;
            if self.at == self.ring.size {
                (self.at, self.wrap) = (0, !self.wrap);
            }
        }
    }

    fn turn_split(&mut self, budget: usize) {
        let avail = self.u16(self.ring.avail + 2).load(Ordering::Acquire);
        let mask = self.ring.size - 1;
        for _ in 0..budget {
            if self.at == avail {
                break;
            }
            let slot = u64::from(self.at & mask);
            let head = self.u16(self.ring.avail + 4 + 2 * slot).load(Ordering::Relaxed);
            self.fill(self.u64(self.ring.descriptors + 16 * u64::from(head)).load(Ordering::Relaxed));
            let element = self.ring.used + 4 + 8 * slot;
            self.u32(element).store(head.into(), Ordering::Relaxed);
            self.u32(element + 4).store(self.len, Ordering::Relaxed);
            self.at = self.at.wrapping_add(1);
        }
        self.u16(self.ring.used + 2).store(self.at, Ordering::Release);
    }

    /// A received frame says that it is one buffer.
    fn fill(&self, buffer: u64) {
        if self.len > 0 {
            self.u16(buffer + 10).store(1, Ordering::Relaxed);
        }
    }
}

/// One format and direction, ready to run.
struct Case {
    driver: NetDevice,
    device: Device,
    transmit: bool,
    /// What reading the clock twice takes.
    clock: Duration,
}

impl Case {
    fn new(packed: bool, transmit: bool) -> Self {
        let region = Arc::new(MmapRegion::new(MEMORY).unwrap());
        let whole = DmaSegment { offset: 0, len: MEMORY, device_address: 0 };
        let memory = Arc::new(DmaMemory::new(Arc::clone(&region), vec![whole]).unwrap());
        let rings = Arc::new(Mutex::new([None; 2]));
        let mut features = Feature::VERSION_1.mask() | Feature::MRG_RXBUF.mask();
        if packed {
            features |= Feature::RING_PACKED.mask();
        }
        let registers = Registers { features, status: 0, rings: Arc::clone(&rings) };
        let driver = NetDevice::bring_up(Box::new(registers), memory, &Options::default()).unwrap();
        let ring = rings.lock().unwrap()[usize::from(transmit)].unwrap();
        let len = if transmit { 0 } else { HEADER + FRAME as u32 };
        let device = Device::new(&region, ring, packed, len);
        Self { driver, device, transmit, clock: clock() }
    }

    /// Moves `frames`, and returns what one cost the driver: the median of all bursts, since a burst in which the machine did something
    /// else says nothing.
    fn run(&mut self, frames: usize) -> f64 {
        let payload = black_box([0x5a; FRAME]);
        let mut bursts = Vec::with_capacity(frames / BURST + 1);
        let mut moved = 0;
        let (rx, tx) = self.driver.queues();
        while moved < frames {
            self.device.turn(BURST);
            let before = Instant::now();
            let burst = if self.transmit { transmit(tx, &payload) } else { receive(rx) };
            let spent = before.elapsed().saturating_sub(self.clock);
            // The first bursts of a transmit queue take nothing back, and the ring's end may cut one short.
            if burst == BURST {
                bursts.push(spent.as_nanos() as f64 / BURST as f64);
            }
            moved += burst;
        }
        median(&mut bursts)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count", format, direction, frames] => {
            Case::new(format == "packed", direction == "transmit").run(frames.parse().unwrap());
        }
        _ => measure(),
    }
}

/// Rounds alternate between the formats, so that a change of the machine's mood meets all of them.
fn measure() {
    let cases = [(false, true), (true, true), (false, false), (true, false)];
    let mut rounds = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for ((packed, transmit), rounds) in cases.into_iter().zip(&mut rounds) {
            rounds.push(Case::new(packed, transmit).run(FRAMES));
        }
    }
    for ((packed, transmit), rounds) in cases.into_iter().zip(&mut rounds) {
        let format = if packed { "packed" } else { "split" };
        let direction = if transmit { "transmit" } else { "receive" };
        println!("{format} {direction} {:.1}", median(rounds));
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What lies between two readings of the clock with nothing in between, at the median.
fn clock() -> Duration {
    let mut readings: Vec<_> = (0..1001).map(|_| Instant::now().elapsed()).collect();
    readings.sort();
    readings[readings.len() / 2]
}
