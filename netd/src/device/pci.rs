//! The driver's view of a PCI function, over VFIO: mapped BARs where they can be mapped, the kernel's help elsewhere.

use std::io;
use std::sync::Arc;

use netd_vfio::{BarMapping, Device, Error};
use netd_virtqueue::PciFunction;

/// Base address registers of a function.
const BARS: u8 = 6;

pub(super) struct VfioFunction {
    device: Arc<Device>,
    mapped: [Option<BarMapping>; BARS as usize],
}

impl VfioFunction {
    /// Maps every BAR that can be mapped. I/O ports cannot, and are reached by system calls.
    pub(super) fn new(device: Arc<Device>) -> Result<Self, Error> {
        let mut mapped = [const { None }; BARS as usize];
        for (bar, slot) in (0..BARS).zip(&mut mapped) {
            if device.bar_is_mappable(bar) {
                *slot = Some(device.map_bar(bar)?);
            }
        }
        Ok(Self { device, mapped })
    }

    fn mapping(&self, bar: u8) -> Option<&BarMapping> {
        self.mapped.get(usize::from(bar))?.as_ref()
    }

    fn read<const N: usize>(&self, bar: u8, offset: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.device.bar_read(bar, offset, &mut bytes).map_err(io::Error::other)?;
        Ok(bytes)
    }

    fn write(&self, bar: u8, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.device.bar_write(bar, offset, bytes).map_err(io::Error::other)
    }
}

fn index(offset: u64) -> usize {
    // An offset that does not fit is far outside every mapping, and refused there.
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl PciFunction for VfioFunction {
    fn config_read(&self, offset: u16, buffer: &mut [u8]) -> io::Result<()> {
        self.device.config_read(offset.into(), buffer).map_err(io::Error::other)
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.device.bar_size(bar).unwrap_or(0)
    }

    fn read_u8(&self, bar: u8, offset: u64) -> io::Result<u8> {
        match self.mapping(bar) {
            Some(mapping) => mapping.read_u8(index(offset)).map_err(io::Error::other),
            None => self.read(bar, offset).map(u8::from_le_bytes),
        }
    }

    fn read_u16(&self, bar: u8, offset: u64) -> io::Result<u16> {
        match self.mapping(bar) {
            Some(mapping) => mapping.read_u16(index(offset)).map_err(io::Error::other),
            None => self.read(bar, offset).map(u16::from_le_bytes),
        }
    }

    fn read_u32(&self, bar: u8, offset: u64) -> io::Result<u32> {
        match self.mapping(bar) {
            Some(mapping) => mapping.read_u32(index(offset)).map_err(io::Error::other),
            None => self.read(bar, offset).map(u32::from_le_bytes),
        }
    }

    fn write_u8(&self, bar: u8, offset: u64, value: u8) -> io::Result<()> {
        match self.mapping(bar) {
            Some(mapping) => mapping.write_u8(index(offset), value).map_err(io::Error::other),
            None => self.write(bar, offset, &value.to_le_bytes()),
        }
    }

    fn write_u16(&self, bar: u8, offset: u64, value: u16) -> io::Result<()> {
        match self.mapping(bar) {
            Some(mapping) => mapping.write_u16(index(offset), value).map_err(io::Error::other),
            None => self.write(bar, offset, &value.to_le_bytes()),
        }
    }

    fn write_u32(&self, bar: u8, offset: u64, value: u32) -> io::Result<()> {
        match self.mapping(bar) {
            Some(mapping) => mapping.write_u32(index(offset), value).map_err(io::Error::other),
            None => self.write(bar, offset, &value.to_le_bytes()),
        }
    }
}
