//! The registers of a virtio device, whatever carries them.

pub(crate) mod legacy;
pub(crate) mod modern;
pub(crate) mod vhost_user;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::{Error, Fault, Position, RingAddresses};

/// Device status bits (virtio 1.3, 2.1).
pub mod status {
    /// The driver has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// The features are settled (not on legacy devices).
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// Which of the two register layouts, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportKind {
    /// virtio 0.9: one I/O BAR, 32 feature bits, page numbers.
    LegacyPci,
    /// virtio 1.x over PCI capabilities.
    ModernPci,
    /// A software device in this process.
    Software,
    /// A device in another process, over vhost-user.
    VhostUser,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TransportKind::LegacyPci => "legacy PCI",
            TransportKind::ModernPci => "modern PCI",
            TransportKind::Software => "software",
            TransportKind::VhostUser => "vhost-user",
        })
    }
}

/// Rings one queue's bell.
pub trait Doorbell: Send + Sync {
    /// Tells the device that its queue has something new, up to `position`. Everything published before is visible to it.
    fn ring(&self, position: Position) -> io::Result<()>;
}

/// The registers of one device. Methods are the control path; only [`Doorbell`]s are used while frames flow.
pub trait Transport: Send {
    /// Which layout this is.
    fn kind(&self) -> TransportKind;
    /// The device status register.
    fn status(&self) -> Result<u8, Error>;
    /// Writes the device status register; 0 begins a reset.
    fn set_status(&mut self, status: u8) -> Result<(), Error>;
    /// Every feature bit that the device offers.
    fn device_features(&self) -> Result<u64, Error>;
    /// Tells the device which of them we accept.
    fn set_driver_features(&mut self, features: u64) -> Result<(), Error>;
    /// How many entries a queue may have; 0 where the device has no such queue.
    fn queue_size(&mut self, index: u16) -> Result<u16, Error>;
    /// Whether the driver may choose a smaller size than [`queue_size`](Self::queue_size) says (not on legacy devices).
    fn queue_size_is_ours_to_choose(&self) -> bool;
    /// What the used ring's address must be a multiple of.
    fn used_alignment(&self) -> usize;
    /// Gives the device a ring and makes the queue live.
    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error>;
    /// Tells the device which MSI-X vector a queue interrupts with. The function's MSI-X must be enabled by then. Devices without
    /// vectors of their own have nothing to be told.
    fn set_queue_vector(&mut self, _index: u16, _vector: u16) -> Result<(), Error> {
        Ok(())
    }
    /// The bell of a queue that was enabled.
    fn doorbell(&self, index: u16) -> Result<Box<dyn Doorbell>, Error>;
    /// Stops one queue and waits until the device says that it did (virtio 1.3, 2.6.1); needs RING_RESET. Afterwards the device does not
    /// touch the queue's memory, until [`enable_queue`](Self::enable_queue) gives it a ring again.
    fn reset_queue(&mut self, index: u16) -> Result<(), Error> {
        Err(Error::NoQueueReset(index))
    }
    /// Reads `buffer.len()` bytes of the device-specific configuration from `offset`, consistently where the transport
    /// has a configuration generation.
    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error>;

    /// Resets the device and waits until it says that it stopped (virtio 1.3, 4.1.4.3.2: the driver waits for a read of 0).
    /// Until this returned `Ok` once, the device may still write to memory.
    fn reset(&mut self) -> Result<(), Error> {
        self.set_status(0)?;
        let mut status = 0;
        let stopped = wait_until(|| {
            status = self.status()?;
            Ok(status == 0)
        })?;
        if stopped { Ok(()) } else { Err(Error::ResetTimeout(RESET_TIMEOUT.as_millis() as u64, status)) }
    }

    /// Says whether the device asked to be reset.
    fn check_health(&self) -> Result<(), Error> {
        // A function that left the bus reads as all ones.
        match self.status()? {
            u8::MAX => Err(Error::Fault(Fault::NeedsReset)),
            status if status & status::NEEDS_RESET != 0 => Err(Error::Fault(Fault::NeedsReset)),
            _ => Ok(()),
        }
    }
}

/// A reset takes microseconds in QEMU and below a millisecond on clouds; hardware that drains queues may take longer.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);
/// Short enough not to be felt at start.
const RESET_POLL: Duration = Duration::from_micros(100);

/// Asks whether a reset is done until it is; `false` after [`RESET_TIMEOUT`] at least. The questions are counted, since a machine that was
/// suspended in between has asked too seldom, whatever the clock says.
fn wait_until(mut done: impl FnMut() -> Result<bool, Error>) -> Result<bool, Error> {
    for _ in 0..RESET_TIMEOUT.as_micros() / RESET_POLL.as_micros() {
        if done()? {
            return Ok(true);
        }
        thread::sleep(RESET_POLL);
    }
    Ok(false)
}

/// One PCI function as its driver sees it: configuration space, and registers behind BARs. Accesses are single ones of
/// the width asked for, little endian.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space.
    fn config_read(&self, offset: u16, buffer: &mut [u8]) -> io::Result<()>;
    /// The length of a BAR in bytes, 0 when the function has none there.
    fn bar_len(&self, bar: u8) -> u64;
    /// Reads one byte.
    fn read_u8(&self, bar: u8, offset: u64) -> io::Result<u8>;
    /// Reads two bytes at once.
    fn read_u16(&self, bar: u8, offset: u64) -> io::Result<u16>;
    /// Reads four bytes at once.
    fn read_u32(&self, bar: u8, offset: u64) -> io::Result<u32>;
    /// Writes one byte.
    fn write_u8(&self, bar: u8, offset: u64, value: u8) -> io::Result<()>;
    /// Writes two bytes at once.
    fn write_u16(&self, bar: u8, offset: u64, value: u16) -> io::Result<()>;
    /// Writes four bytes at once.
    fn write_u32(&self, bar: u8, offset: u64, value: u32) -> io::Result<()>;
}

/// Opens the better of the two layouts that a function has: modern where its capabilities are there, else legacy.
///
/// `msix`: the function's MSI-X is enabled, which moves the configuration of a legacy device.
pub fn open_pci(function: Arc<dyn PciFunction>, msix: bool) -> Result<Box<dyn Transport>, Error> {
    Ok(match modern::ModernPci::discover(Arc::clone(&function))? {
        Some(transport) => Box::new(transport),
        None => Box::new(legacy::LegacyPci::new(function, msix)?),
    })
}

/// What a vector register reads when the device could not assign the vector (virtio 1.3, 4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// Names the register in an access error.
fn access<T>(what: &'static str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Access { what, source })
}
