//! Legacy virtio over PCI: the registers of virtio 0.9 in an I/O BAR (virtio 1.3, 4.1.4.10).

use std::io;
use std::sync::Arc;

use crate::transport::{Doorbell, NO_VECTOR, PciFunction, Transport, TransportKind, access};
use crate::{Error, Position, RingAddresses};

/// Where the registers are: the first BAR.
const BAR: u8 = 0;

/// The common header (virtio 1.3, 4.1.4.10, "Legacy Interfaces").
mod register {
    pub(super) const DEVICE_FEATURES: u64 = 0;
    pub(super) const DRIVER_FEATURES: u64 = 4;
    pub(super) const QUEUE_ADDRESS: u64 = 8;
    pub(super) const QUEUE_SIZE: u64 = 12;
    pub(super) const QUEUE_SELECT: u64 = 14;
    pub(super) const QUEUE_NOTIFY: u64 = 16;
    pub(super) const DEVICE_STATUS: u64 = 18;
    /// Which vector the selected queue interrupts with; exists while MSI-X is enabled.
    pub(super) const QUEUE_VECTOR: u64 = 22;
    /// Device configuration, where MSI-X is not enabled.
    pub(super) const CONFIG: u64 = 20;
    /// Device configuration, where it is.
    pub(super) const CONFIG_MSIX: u64 = 24;
}

/// A ring's address is given as a page number.
const PAGE: u64 = 4096;

/// How often a value is read before two reads must have agreed: there is no configuration generation (4.1.4.10), and
/// the only fields that change (status) change with the link.
const CONFIG_READS_MAX: usize = 8;

/// A legacy device.
pub struct LegacyPci {
    function: Arc<dyn PciFunction>,
    /// Where the device configuration begins.
    config: u64,
}

impl LegacyPci {
    /// Takes the registers in the first BAR of `function`, whose MSI-X is enabled or not.
    pub fn new(function: Arc<dyn PciFunction>, msix: bool) -> Result<Self, Error> {
        let len = function.bar_len(BAR);
        if len < register::CONFIG {
            return Err(Error::Capabilities(format!(
                "no virtio capabilities, and BAR 0 has {len} bytes, fewer than the {} of a legacy device",
                register::CONFIG
            )));
        }
        let config = if msix { register::CONFIG_MSIX } else { register::CONFIG };
        Ok(Self { function, config })
    }

    fn select(&self, index: u16) -> Result<(), Error> {
        access("the queue select register", self.function.write_u16(BAR, register::QUEUE_SELECT, index))
    }
}

impl Transport for LegacyPci {
    fn kind(&self) -> TransportKind {
        TransportKind::LegacyPci
    }

    fn status(&self) -> Result<u8, Error> {
        access("the status register", self.function.read_u8(BAR, register::DEVICE_STATUS))
    }

    fn set_status(&mut self, status: u8) -> Result<(), Error> {
        access("the status register", self.function.write_u8(BAR, register::DEVICE_STATUS, status))
    }

    fn device_features(&self) -> Result<u64, Error> {
        access("the features register", self.function.read_u32(BAR, register::DEVICE_FEATURES)).map(u64::from)
    }

    fn set_driver_features(&mut self, features: u64) -> Result<(), Error> {
        // A legacy device has 32 feature bits and offered no other, so nothing is cut off here.
        let low = features as u32;
        access("the features register", self.function.write_u32(BAR, register::DRIVER_FEATURES, low))
    }

    fn queue_size(&mut self, index: u16) -> Result<u16, Error> {
        self.select(index)?;
        access("the queue size register", self.function.read_u16(BAR, register::QUEUE_SIZE))
    }

    fn queue_size_is_ours_to_choose(&self) -> bool {
        false
    }

    fn used_alignment(&self) -> usize {
        PAGE as usize
    }

    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        let page = ring.descriptors / PAGE;
        let page = u32::try_from(page).map_err(|_| Error::QueueAddress(ring.descriptors))?;
        self.select(index)?;
        access("the queue address register", self.function.write_u32(BAR, register::QUEUE_ADDRESS, page))?;
        let read_back =
            access("the queue address register", self.function.read_u32(BAR, register::QUEUE_ADDRESS))?;
        if read_back == page { Ok(()) } else { Err(Error::QueueNotEnabled(index)) }
    }

    fn set_queue_vector(&mut self, index: u16, vector: u16) -> Result<(), Error> {
        self.select(index)?;
        access("the queue vector register", self.function.write_u16(BAR, register::QUEUE_VECTOR, vector))?;
        match access("the queue vector register", self.function.read_u16(BAR, register::QUEUE_VECTOR))? {
            NO_VECTOR => Err(Error::NoVector { index, vector }),
            _ => Ok(()),
        }
    }

    fn doorbell(&self, index: u16) -> Result<Box<dyn Doorbell>, Error> {
        Ok(Box::new(LegacyDoorbell { function: Arc::clone(&self.function), index }))
    }

    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        let read = |buffer: &mut [u8]| {
            for (at, byte) in (u64::from(offset)..).zip(buffer) {
                *byte = access("the device configuration", self.function.read_u8(BAR, self.config + at))?;
            }
            Ok::<(), Error>(())
        };
        let mut again = vec![0; buffer.len()];
        read(buffer)?;
        for _ in 0..CONFIG_READS_MAX {
            read(&mut again)?;
            if again == buffer {
                break;
            }
            buffer.copy_from_slice(&again);
        }
        Ok(())
    }
}

/// The notify register, one for all queues. It is behind an I/O port, so each ring is a system call.
struct LegacyDoorbell {
    function: Arc<dyn PciFunction>,
    index: u16,
}

impl Doorbell for LegacyDoorbell {
    fn ring(&self, _position: Position) -> io::Result<()> {
        self.function.write_u16(BAR, register::QUEUE_NOTIFY, self.index)
    }
}
