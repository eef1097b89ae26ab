//! The driver with a device that lies, on either PCI transport, and the software device with a driver that lies.
//!
//! Everything a device can write is the fuzzer's: registers and configuration as the driver reads them, used rings, headers, frames,
//! and whatever else lies in the memory they share. What must hold: no panic, no frame longer than a frame can be, no more frames than
//! there are buffers, and no buffer lost where nobody lied.

mod pci;
mod ring;
mod soft;

pub use soft::softdev;

use std::sync::Arc;

use netd_virtqueue::{DmaMemory, DmaSegment, NetDevice, Options, open_pci};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use self::pci::Function;
use self::ring::Device;
use crate::input::Input;

/// Enough for two rings of 4,096 entries and our few frames.
const MEMORY_BYTES: usize = 1 << 20;
static CLEAR: [u8; MEMORY_BYTES] = [0; MEMORY_BYTES];
/// Few buffers, so that rings go round within one script.
const FRAMES: u16 = 8;

/// A legacy device: see [`run`].
pub fn virtio_legacy(data: &[u8]) {
    run(data, false);
}

/// A modern device: see [`run`].
pub fn virtio_modern(data: &[u8]) {
    run(data, true);
}

/// What the device is ([`Function::new`]), then what it does ([`Device::step`]).
fn run(data: &[u8], modern: bool) -> Option<()> {
    thread_local! {
        // Making a mapping costs more than a whole script.
        static REGION: Arc<MmapRegion> = Arc::new(MmapRegion::new(MEMORY_BYTES).expect("a mapping of a MiB"));
    }
    let mut input = Input::new(data);
    let function = Arc::new(Function::new(&mut input, modern)?);
    let region = REGION.with(Arc::clone);
    // What the last script left is no part of this one.
    region.as_volatile_slice().write_slice(&CLEAR, 0).expect("the whole region");
    let whole = DmaSegment { offset: 0, len: MEMORY_BYTES, device_address: 0 };
    let memory =
        Arc::new(DmaMemory::new(Arc::clone(&region), vec![whole]).expect("one segment, the whole region"));
    let transport = open_pci(Arc::clone(&function) as Arc<_>, input.u8()? & 1 != 0).ok()?;
    let options = Options { rx_frames: FRAMES, tx_frames: FRAMES, ..Options::default() };
    let mut driver = NetDevice::bring_up(transport, memory, &options).ok()?;
    assert!(driver.info().queues.iter().all(|queue| queue.frames <= FRAMES));
    let mut device = Device::new(&function, region);
    while device.step(&mut driver, &function, &mut input).is_some() {}
    Some(())
}
