//! The software device with a driver that lies: rings anywhere, descriptors that say anything, on memory that it shares.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use netd_softdev::{FRAME_LEN_MAX, Link, create};
use netd_virtqueue::{DmaMemory, Offload, RingAddresses, Transport as _, status};
use vm_memory::{Bytes as _, VolatileMemory as _};

use crate::input::Input;

/// Frames that one poll of the device may move: 256 each way.
const POLL_MAX: usize = 512;

/// A link with frames to deliver, which checks what it is given.
#[derive(Default)]
struct Drain {
    /// Lengths of the frames that wait.
    waiting: Vec<usize>,
    congested: bool,
}

impl Link for Drain {
    fn carries_offloads(&self) -> bool {
        true
    }
    fn send(&mut self, frame: &[u8], _: &Offload) -> bool {
        assert!(frame.len() <= FRAME_LEN_MAX);
        self.congested = !self.congested;
        self.congested
    }
    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)> {
        let len = self.waiting.pop()?.min(buffer.len());
        buffer[..len].fill(0x5a);
        Some((len, Offload::NONE))
    }
    fn is_up(&self) -> bool {
        true
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Frames that wait `u8`, then steps: writes to the shared memory, registers, polls.
pub fn softdev(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let waiting = (0..input.u8()?).map(|index| 60 + usize::from(index) * 37).collect();
    let link = Drain { waiting, congested: false };
    let (mut transport, memory, mut device) =
        create([2, 0, 0, 0, 0, 1], 1500, link).expect("a software device");
    while let Some(step) = input.u8() {
        match step % 8 {
            0 | 1 => {
                // Where rings usually are, or anywhere.
                let at = if step & 0x80 == 0 { u64::from(input.u16()?) } else { input.u32()?.into() };
                write(&memory, at, input.short()?);
            }
            2 => drop(transport.enable_queue(u16::from(step >> 7), &addresses(&mut input)?)),
            3 => drop(transport.set_driver_features(input.u64()?)),
            4 => drop(transport.set_status(status::DRIVER_OK | input.u8()?)),
            5 => drop(transport.set_status(input.u8()?)),
            // A driver that lies harms itself: its device stops with an error and may be asked again.
            _ => match device.poll() {
                Ok(moved) => assert!(moved <= POLL_MAX, "one poll moved {moved} frames"),
                Err(error) => drop(error.to_string()),
            },
        }
    }
    Some(())
}

fn addresses(input: &mut Input<'_>) -> Option<RingAddresses> {
    let mut ring =
        RingAddresses { size: 1 << (input.u8()? % 12), descriptors: 0x1000, avail: 0x2000, used: 0x3000 };
    match input.u8()? % 8 {
        0 => ring.size = input.u16()?,
        1 => ring.descriptors = input.u64()?,
        2 => ring.avail = input.u64()?,
        3 => ring.used = input.u64()?,
        _ => {}
    }
    Some(ring)
}

fn write(memory: &Arc<DmaMemory>, at: u64, bytes: &[u8]) {
    let region = memory.region();
    let at = at as usize % region.size();
    let len = bytes.len().min(region.size() - at);
    region.as_volatile_slice().write_slice(&bytes[..len], at).expect("within the region");
}
