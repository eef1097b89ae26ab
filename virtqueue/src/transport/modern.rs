//! Modern virtio over PCI: register structures found through vendor capabilities (virtio 1.3, 4.1.4).

use std::io;
use std::sync::Arc;

use crate::transport::{
    Doorbell, NO_VECTOR, PciFunction, RESET_TIMEOUT, Transport, TransportKind, access, wait_until,
};
use crate::{Error, Feature, Position, RingAddresses};

/// PCI configuration space: offset of the status register, its capability list bit, and the list's head (PCI 3.0, 6.7).
const PCI_STATUS: u16 = 0x06;
const PCI_STATUS_CAP_LIST: u16 = 1 << 4;
const PCI_CAPABILITY_LIST: u16 = 0x34;
const PCI_CAP_ID_VENDOR: u8 = 0x09;
/// Capabilities lie in the first 256 bytes of configuration space.
const CONFIG_SPACE: u16 = 256;
/// More capabilities than 256 bytes of configuration space can hold mean a loop.
const CAPABILITIES_MAX: usize = 48;

/// `cfg_type` (virtio 1.3, 4.1.4).
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_DEVICE: u8 = 4;

/// `struct virtio_pci_common_cfg` (4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(super) const DEVICE_FEATURE: u64 = 4;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(super) const DRIVER_FEATURE: u64 = 12;
    pub(super) const DEVICE_STATUS: u64 = 20;
    pub(super) const CONFIG_GENERATION: u64 = 21;
    pub(super) const QUEUE_SELECT: u64 = 22;
    pub(super) const QUEUE_SIZE: u64 = 24;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 26;
    pub(super) const QUEUE_ENABLE: u64 = 28;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(super) const QUEUE_DESC: u64 = 32;
    pub(super) const QUEUE_DRIVER: u64 = 40;
    pub(super) const QUEUE_DEVICE: u64 = 48;
    /// Fields that a device before virtio 1.2 does not have end here.
    pub(super) const LEN: u64 = 56;
    pub(super) const QUEUE_RESET: u64 = 58;
}

/// A device whose configuration changed this often while it was read is not going to stop.
const CONFIG_READS_MAX: usize = 64;

/// A register structure: a piece of a BAR.
#[derive(Debug, Clone, Copy)]
struct Window {
    bar: u8,
    offset: u64,
    len: u64,
}

impl Window {
    /// The BAR and offset of `len` bytes at `at`, if they are inside.
    fn at(&self, at: u64, len: u64) -> Option<(u8, u64)> {
        at.checked_add(len).filter(|end| *end <= self.len).map(|_| (self.bar, self.offset + at))
    }
}

/// A virtio 1.x device.
pub struct ModernPci {
    function: Arc<dyn PciFunction>,
    common: Window,
    notify: Window,
    notify_multiplier: u32,
    device: Option<Window>,
    /// NOTIFICATION_DATA was negotiated.
    notification_data: bool,
}

impl ModernPci {
    /// Walks the capability list of `function`. `None` when it has no virtio capabilities: then it is a legacy device.
    pub fn discover(function: Arc<dyn PciFunction>) -> Result<Option<Self>, Error> {
        let (mut common, mut notify, mut device) = (None, None, None);
        for at in vendor_capabilities(&*function)? {
            // struct virtio_pci_cap { u8 cap_vndr, cap_next, cap_len, cfg_type, bar, id, padding[2]; le32 offset, length; }
            let mut cap = [0; 20];
            // Only a notification capability has the last four bytes; another may end with configuration space.
            let len = cap.len().min(usize::from(CONFIG_SPACE - at));
            config_read(&*function, at, &mut cap[..len])?;
            let window = Window { bar: cap[4], offset: le32(&cap, 8).into(), len: le32(&cap, 12).into() };
            // The first usable one of each type wins; a driver must ignore unknown types and reserved BARs (4.1.4.1).
            let usable = window.bar <= 5 && window.offset + window.len <= function.bar_len(window.bar);
            match cap[3] {
                CAP_COMMON if usable && common.is_none() => common = Some(window),
                CAP_NOTIFY if usable && notify.is_none() => notify = Some((window, le32(&cap, 16))),
                CAP_DEVICE if usable && device.is_none() => device = Some(window),
                _ => {}
            }
        }
        match (common, notify) {
            (None, None) => Ok(None),
            (Some(common), Some((notify, notify_multiplier))) if common.len >= common::LEN => {
                Ok(Some(Self {
                    function,
                    common,
                    notify,
                    notify_multiplier,
                    device,
                    notification_data: false,
                }))
            }
            (common, notify) => Err(Error::Capabilities(format!(
                "common configuration {}, notification {}",
                found(common.is_some()),
                found(notify.is_some())
            ))),
        }
    }

    fn select(&self, index: u16) -> Result<(), Error> {
        self.write_u16(common::QUEUE_SELECT, index)
    }

    // The structures' lengths were checked when they were found, so offsets of `common` are inside.

    fn read_u8(&self, register: u64) -> Result<u8, Error> {
        access(
            "the common configuration",
            self.function.read_u8(self.common.bar, self.common.offset + register),
        )
    }

    fn read_u16(&self, register: u64) -> Result<u16, Error> {
        access(
            "the common configuration",
            self.function.read_u16(self.common.bar, self.common.offset + register),
        )
    }

    fn read_u32(&self, register: u64) -> Result<u32, Error> {
        access(
            "the common configuration",
            self.function.read_u32(self.common.bar, self.common.offset + register),
        )
    }

    fn write_u8(&self, register: u64, value: u8) -> Result<(), Error> {
        let at = self.common.offset + register;
        access("the common configuration", self.function.write_u8(self.common.bar, at, value))
    }

    fn write_u16(&self, register: u64, value: u16) -> Result<(), Error> {
        let at = self.common.offset + register;
        access("the common configuration", self.function.write_u16(self.common.bar, at, value))
    }

    fn write_u32(&self, register: u64, value: u32) -> Result<(), Error> {
        let at = self.common.offset + register;
        access("the common configuration", self.function.write_u32(self.common.bar, at, value))
    }

    /// 64-bit fields are written as two 32-bit halves (4.1.3.1).
    fn write_u64(&self, register: u64, value: u64) -> Result<(), Error> {
        self.write_u32(register, value as u32)?;
        self.write_u32(register + 4, (value >> 32) as u32)
    }
}

impl Transport for ModernPci {
    fn kind(&self) -> TransportKind {
        TransportKind::ModernPci
    }

    fn status(&self) -> Result<u8, Error> {
        self.read_u8(common::DEVICE_STATUS)
    }

    fn set_status(&mut self, status: u8) -> Result<(), Error> {
        self.write_u8(common::DEVICE_STATUS, status)
    }

    fn device_features(&self) -> Result<u64, Error> {
        self.write_u32(common::DEVICE_FEATURE_SELECT, 0)?;
        let low = self.read_u32(common::DEVICE_FEATURE)?;
        self.write_u32(common::DEVICE_FEATURE_SELECT, 1)?;
        let high = self.read_u32(common::DEVICE_FEATURE)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn set_driver_features(&mut self, features: u64) -> Result<(), Error> {
        self.write_u32(common::DRIVER_FEATURE_SELECT, 0)?;
        self.write_u32(common::DRIVER_FEATURE, features as u32)?;
        self.write_u32(common::DRIVER_FEATURE_SELECT, 1)?;
        self.write_u32(common::DRIVER_FEATURE, (features >> 32) as u32)?;
        self.notification_data = features & Feature::NOTIFICATION_DATA.mask() != 0;
        Ok(())
    }

    fn queue_size(&mut self, index: u16) -> Result<u16, Error> {
        self.select(index)?;
        self.read_u16(common::QUEUE_SIZE)
    }

    fn queue_size_is_ours_to_choose(&self) -> bool {
        true
    }

    fn used_alignment(&self) -> usize {
        // The used ring needs 4 (2.7); a cache line keeps what the device writes apart from what we write.
        64
    }

    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        self.select(index)?;
        self.write_u16(common::QUEUE_SIZE, ring.size)?;
        self.write_u64(common::QUEUE_DESC, ring.descriptors)?;
        self.write_u64(common::QUEUE_DRIVER, ring.avail)?;
        self.write_u64(common::QUEUE_DEVICE, ring.used)?;
        // Last: every other field must be set before (4.1.4.3.2).
        self.write_u16(common::QUEUE_ENABLE, 1)?;
        let enabled =
            self.read_u16(common::QUEUE_ENABLE)? == 1 && self.read_u16(common::QUEUE_SIZE)? == ring.size;
        if enabled { Ok(()) } else { Err(Error::QueueNotEnabled(index)) }
    }

    fn set_queue_vector(&mut self, index: u16, vector: u16) -> Result<(), Error> {
        self.select(index)?;
        self.write_u16(common::QUEUE_MSIX_VECTOR, vector)?;
        match self.read_u16(common::QUEUE_MSIX_VECTOR)? {
            NO_VECTOR => Err(Error::NoVector { index, vector }),
            _ => Ok(()),
        }
    }

    fn doorbell(&self, index: u16) -> Result<Box<dyn Doorbell>, Error> {
        self.select(index)?;
        // cap.offset + queue_notify_off * notify_off_multiplier (4.1.4.4); the multiplier may be 0.
        let at = u64::from(self.read_u16(common::QUEUE_NOTIFY_OFF)?) * u64::from(self.notify_multiplier);
        // With NOTIFICATION_DATA the doorbell is 32 bits wide (4.1.5.2).
        let width = if self.notification_data { 4 } else { 2 };
        let (bar, offset) = self.notify.at(at, width).ok_or_else(|| {
            Error::Capabilities(format!(
                "queue {index} notifies at {at:#x}, outside of a structure of {:#x} bytes",
                self.notify.len
            ))
        })?;
        let function = Arc::clone(&self.function);
        Ok(Box::new(ModernDoorbell { function, bar, offset, index, with_data: self.notification_data }))
    }

    fn reset_queue(&mut self, index: u16) -> Result<(), Error> {
        if self.common.len < common::QUEUE_RESET + 2 {
            return Err(Error::NoQueueReset(index));
        }
        self.select(index)?;
        self.write_u16(common::QUEUE_RESET, 1)?;
        // The reset is done when the field reads 0 and the queue is disabled (2.6.1.1, 4.1.4.3.1).
        let done = wait_until(|| {
            Ok(self.read_u16(common::QUEUE_RESET)? == 0 && self.read_u16(common::QUEUE_ENABLE)? == 0)
        })?;
        if done { Ok(()) } else { Err(Error::QueueResetTimeout(index, RESET_TIMEOUT.as_millis() as u64)) }
    }

    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        let window = self.device.and_then(|window| window.at(offset.into(), buffer.len() as u64));
        let (bar, base) = window.ok_or_else(|| {
            Error::Capabilities(format!("no device configuration with {} bytes at {offset}", buffer.len()))
        })?;
        for _ in 0..CONFIG_READS_MAX {
            let before = self.read_u8(common::CONFIG_GENERATION)?;
            for (at, byte) in (base..).zip(buffer.iter_mut()) {
                *byte = access("the device configuration", self.function.read_u8(bar, at))?;
            }
            // The same generation before and after: nothing changed in between (4.1.4.3.1).
            if self.read_u8(common::CONFIG_GENERATION)? == before {
                return Ok(());
            }
        }
        Err(Error::Capabilities("the device configuration does not stop changing".to_owned()))
    }
}

/// A queue's own notification address. Where the BAR is mapped, ringing it is one store.
struct ModernDoorbell {
    function: Arc<dyn PciFunction>,
    bar: u8,
    offset: u64,
    index: u16,
    /// NOTIFICATION_DATA was negotiated.
    with_data: bool,
}

impl Doorbell for ModernDoorbell {
    fn ring(&self, position: Position) -> io::Result<()> {
        if self.with_data {
            // Queue number below, position above (2.9, 4.1.5.2).
            let value = u32::from(self.index) | u32::from(position.0) << 16;
            return self.function.write_u32(self.bar, self.offset, value);
        }
        self.function.write_u16(self.bar, self.offset, self.index)
    }
}

/// Offsets of the vendor capabilities in configuration space.
fn vendor_capabilities(function: &dyn PciFunction) -> Result<Vec<u16>, Error> {
    let mut status = [0; 2];
    config_read(function, PCI_STATUS, &mut status)?;
    if u16::from_le_bytes(status) & PCI_STATUS_CAP_LIST == 0 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut next = [0; 1];
    config_read(function, PCI_CAPABILITY_LIST, &mut next)?;
    for _ in 0..CAPABILITIES_MAX {
        // The two low bits are reserved and must be masked (PCI 3.0, 6.7).
        let at = u16::from(next[0] & !3);
        if at == 0 {
            return Ok(found);
        }
        let mut head = [0; 2];
        config_read(function, at, &mut head)?;
        if head[0] == PCI_CAP_ID_VENDOR {
            found.push(at);
        }
        next[0] = head[1];
    }
    Err(Error::Capabilities("the capability list is a loop".to_owned()))
}

fn config_read(function: &dyn PciFunction, offset: u16, buffer: &mut [u8]) -> Result<(), Error> {
    access("PCI configuration space", function.config_read(offset, buffer))
}

fn le32(bytes: &[u8; 20], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn found(found: bool) -> &'static str {
    if found { "found" } else { "missing or outside its BAR" }
}

#[cfg(test)]
#[path = "modern_tests.rs"]
mod tests;
