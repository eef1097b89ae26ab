//! A BAR mapped into the process: registers that are read and written with single accesses of their width.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

use crate::Error;
use crate::error::Region;
use crate::sys::RegionInfo;

/// A mapped BAR.
///
/// Accesses are volatile, of exactly the named width, little endian as PCI is, and imply no fence. They are refused
/// when they leave the BAR or are not aligned. The mapping keeps the function open: drop it before giving the
/// function back.
#[derive(Debug)]
pub struct BarMapping {
    base: NonNull<u8>,
    len: usize,
    bar: u8,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached through raw volatile accesses only.
unsafe impl Send for BarMapping {}
// SAFETY: as above; concurrent accesses to registers are single accesses whose meaning is up to the device.
unsafe impl Sync for BarMapping {}

impl BarMapping {
    pub(crate) fn new(device: BorrowedFd<'_>, bar: u8, region: RegionInfo) -> io::Result<BarMapping> {
        let len = usize::try_from(region.size).map_err(io::Error::other)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel chooses an address where nothing else is, so no memory in use changes.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, device, region.offset)
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap chose address zero"))?;
        Ok(BarMapping { base, len, bar })
    }

    /// Size of the BAR in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Reads a byte.
    pub fn read_u8(&self, offset: usize) -> Result<u8, Error> {
        self.read::<u8>(offset)
    }

    /// Reads a 16-bit register.
    pub fn read_u16(&self, offset: usize) -> Result<u16, Error> {
        self.read::<u16>(offset).map(u16::from_le)
    }

    /// Reads a 32-bit register.
    pub fn read_u32(&self, offset: usize) -> Result<u32, Error> {
        self.read::<u32>(offset).map(u32::from_le)
    }

    /// Writes a byte.
    pub fn write_u8(&self, offset: usize, value: u8) -> Result<(), Error> {
        self.write(offset, value)
    }

    /// Writes a 16-bit register.
    pub fn write_u16(&self, offset: usize, value: u16) -> Result<(), Error> {
        self.write(offset, value.to_le())
    }

    /// Writes a 32-bit register.
    pub fn write_u32(&self, offset: usize, value: u32) -> Result<(), Error> {
        self.write(offset, value.to_le())
    }

    fn read<T: Register>(&self, offset: usize) -> Result<T, Error> {
        let register = self.register::<T>(offset)?;
        // SAFETY: `register` points to an aligned `T` inside the mapping, which lives as long as `self`; every bit
        // pattern is a valid `T`.
        Ok(unsafe { register.read_volatile() })
    }

    fn write<T: Register>(&self, offset: usize, value: T) -> Result<(), Error> {
        let register = self.register::<T>(offset)?;
        // SAFETY: `register` points to an aligned `T` inside the mapping, which is writable and lives as long as
        // `self`; no reference into it exists.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    /// The address of a register that is inside the BAR and aligned.
    fn register<T: Register>(&self, offset: usize) -> Result<NonNull<T>, Error> {
        let width = size_of::<T>();
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(width) {
            let (region, offset, size) = (Region::Bar(self.bar), offset as u64, self.len as u64);
            return Err(Error::BadAccess { region, offset, len: width, size });
        }
        // SAFETY: `offset` is less than the length of the mapping that `base` starts.
        Ok(unsafe { self.base.add(offset) }.cast())
    }
}

/// Integers of which every bit pattern is valid.
trait Register: Copy {}
impl Register for u8 {}
impl Register for u16 {}
impl Register for u32 {}

impl Drop for BarMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this address and length, and nothing points into it any more.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::warn!(bar = self.bar, %error, "BAR stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn mapping(size: u64) -> (std::fs::File, BarMapping) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let region = RegionInfo { size, offset: 4096, mappable: true };
        let mapping = BarMapping::new(file.as_fd(), 4, region).unwrap();
        (file, mapping)
    }

    #[test]
    fn registers_written_are_in_the_file_little_endian() {
        use std::os::unix::fs::FileExt;
        let (file, bar) = mapping(64);
        bar.write_u32(0, 0x0403_0201).unwrap();
        bar.write_u16(4, 0x0605).unwrap();
        bar.write_u8(6, 7).unwrap();
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(bar.read_u32(4).unwrap(), 0x0007_0605);
        assert_eq!((bar.read_u16(2).unwrap(), bar.read_u8(6).unwrap()), (0x0403, 7));
    }

    #[test]
    fn access_past_the_end_or_unaligned_is_refused() {
        let (_file, bar) = mapping(62);
        assert!(bar.read_u16(60).is_ok());
        for refused in [bar.read_u32(60).map(drop), bar.write_u16(59, 0), bar.read_u32(usize::MAX).map(drop)]
        {
            assert!(matches!(refused, Err(Error::BadAccess { region: Region::Bar(4), size: 62, .. })));
        }
    }
}
