//! An opened function: configuration space, BARs, interrupts, reset; the same with an IOMMU and without.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};

use crate::bind::{VFIO_PCI, check_group, no_driver};
use crate::dma::{self, DmaPool, DmaPoolOptions};
use crate::error::Region;
use crate::give_back::group_error;
use crate::sys::{OpenFailure, OpenFunction, RegionInfo, VfioFunction};
use crate::sysfs::{Group, Sysfs};
use crate::{BarMapping, Bdf, Error, Function, Isolation};

/// A function has six base address registers (PCI Local Bus 3.0, 6.2.5).
const BARS: usize = 6;

/// The command register in configuration space (PCI Local Bus 3.0, 6.2.2).
const PCI_COMMAND: u64 = 0x04;
/// Answer accesses to I/O ports.
const PCI_COMMAND_IO: u16 = 1 << 0;
/// Answer accesses to memory.
const PCI_COMMAND_MEMORY: u16 = 1 << 1;
/// May start transfers of its own: DMA, and the messages of MSI-X.
const PCI_COMMAND_MASTER: u16 = 1 << 2;
/// Never assert INTx.
const PCI_COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// A function that this process has opened. Closing it (dropping this, its BAR mappings and its DMA pool) resets it.
pub struct Device {
    function: Bdf,
    isolation: Isolation,
    sysfs: Sysfs,
    handle: Arc<dyn VfioFunction>,
    config: RegionInfo,
    bars: [RegionInfo; BARS],
    msix_vectors: u32,
    /// VFIO refuses to switch off what is not on.
    msix_enabled: AtomicBool,
    /// Whether a DMA pool is out; the pool itself clears it.
    pool_lent: Arc<AtomicBool>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut device = f.debug_struct("Device");
        device.field("function", &self.function).field("isolation", &self.isolation).finish_non_exhaustive()
    }
}

impl Device {
    /// Opens a function that is bound to vfio-pci.
    ///
    /// VFIO switches its bus mastering off and resets it if it can; here its I/O and memory windows are switched on
    /// and its legacy interrupt off. It cannot reach memory before [`set_bus_master`](Device::set_bus_master).
    ///
    /// # Errors
    ///
    /// By name when the function is not there, not bound, shares its group, is held by another process, or when
    /// privilege is missing.
    pub fn open(sysfs: &Sysfs, function: Bdf) -> Result<Device, Error> {
        let found = sysfs.function(function)?;
        if found.driver.as_deref() != Some(VFIO_PCI) {
            let driver = found.driver.unwrap_or_else(no_driver);
            return Err(Error::NotBound { function, driver });
        }
        check_group(sysfs, &found)?;
        let group = sysfs.group(function)?.ok_or(Error::NoIommuDisabled { function, state: "off" })?;
        let (isolation, handle) = open_in_group(sysfs, &found, group)?;
        if isolation == Isolation::NoIommu {
            tracing::warn!(
                %function,
                "no IOMMU: the function can reach all physical memory, and whoever controls this process owns the machine"
            );
        }
        let device = Device::describe(sysfs.clone(), function, isolation, handle)?;
        device.change_command(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE, 0)?;
        Ok(device)
    }

    fn describe(
        sysfs: Sysfs,
        function: Bdf,
        isolation: Isolation,
        handle: Arc<dyn VfioFunction>,
    ) -> Result<Device, Error> {
        let failed = |step| move |source| Error::Vfio { function, step, source };
        let region = |index| handle.region(index).map_err(failed("describe a region"));
        let mut bars = [RegionInfo::default(); BARS];
        for (index, bar) in (VFIO_PCI_BAR0_REGION_INDEX..).zip(&mut bars) {
            *bar = region(index)?;
        }
        let config = region(VFIO_PCI_CONFIG_REGION_INDEX)?;
        let msix_vectors =
            handle.interrupt_count(VFIO_PCI_MSIX_IRQ_INDEX).map_err(failed("count interrupts"))?;
        let (msix_enabled, pool_lent) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
        Ok(Device { function, isolation, sysfs, handle, config, bars, msix_vectors, msix_enabled, pool_lent })
    }

    /// The function's address.
    pub fn bdf(&self) -> Bdf {
        self.function
    }

    /// How memory is protected from the function.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Reads configuration space. Accesses of 1, 2 or 4 aligned bytes reach the function as one.
    pub fn config_read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.read(Region::Config, self.config, offset, buffer)
    }

    /// Writes configuration space; VFIO keeps some of it (BARs, MSI-X) to itself.
    pub fn config_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write(Region::Config, self.config, offset, bytes)
    }

    /// Size of a BAR in bytes; `None` when the function does not implement it.
    pub fn bar_size(&self, bar: u8) -> Option<u64> {
        self.bar(bar).ok().map(|region| region.size)
    }

    /// Whether a BAR can be mapped; I/O ports never can.
    pub fn bar_is_mappable(&self, bar: u8) -> bool {
        self.bar(bar).is_ok_and(|region| region.mappable)
    }

    /// Reads a BAR through the kernel. Accesses of 1, 2 or 4 aligned bytes reach the function as one.
    pub fn bar_read(&self, bar: u8, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.read(Region::Bar(bar), self.bar(bar)?, offset, buffer)
    }

    /// Writes a BAR through the kernel. Accesses of 1, 2 or 4 aligned bytes reach the function as one.
    pub fn bar_write(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write(Region::Bar(bar), self.bar(bar)?, offset, bytes)
    }

    /// Maps a BAR into this process.
    pub fn map_bar(&self, bar: u8) -> Result<BarMapping, Error> {
        let (function, region) = (self.function, self.bar(bar)?);
        if !region.mappable {
            return Err(Error::BarNotMappable { function, bar });
        }
        let mapping = BarMapping::new(self.handle.descriptor(), bar, region);
        mapping.map_err(|source| Error::Vfio { function, step: "map a BAR", source })
    }

    /// Allows or forbids the function to reach memory. Without it there is neither DMA nor MSI-X.
    ///
    /// **Write 0 to the device status first**, after opening: a function without a reset of its own is still as its
    /// last owner left it, and goes on writing to that owner's buffers, whoever has these pages now.
    pub fn set_bus_master(&self, on: bool) -> Result<(), Error> {
        if on {
            self.change_command(PCI_COMMAND_MASTER, 0)
        } else {
            self.change_command(0, PCI_COMMAND_MASTER)
        }
    }

    /// Resets the function; its configuration space is as before afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::NoReset`] when the function has none, as conventional PCI functions often do.
    pub fn reset(&self) -> Result<(), Error> {
        let function = self.function;
        let failed = |source| Error::Vfio { function, step: "reset it", source };
        if !self.handle.can_reset().map_err(failed)? {
            return Err(Error::NoReset { function });
        }
        self.handle.reset().map_err(failed)
    }

    /// How many MSI-X vectors the function has; 0 when it has no MSI-X.
    pub fn msix_vectors(&self) -> u32 {
        self.msix_vectors
    }

    /// Switches MSI-X on: vector `i` signals `eventfds[i]`; one without stays masked, and never reaches a processor. Once more with
    /// as many changes what each signals. VFIO keeps references, so the descriptors may be closed.
    pub fn enable_msix(&self, eventfds: &[Option<impl AsFd>]) -> Result<(), Error> {
        let (function, wanted, available) = (self.function, eventfds.len(), self.msix_vectors);
        if wanted == 0 || wanted > available as usize {
            return Err(Error::Vectors { function, wanted, available });
        }
        let eventfds: Vec<Option<BorrowedFd<'_>>> =
            eventfds.iter().map(|eventfd| eventfd.as_ref().map(AsFd::as_fd)).collect();
        let enabled = self.handle.set_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, &eventfds);
        enabled.map_err(|source| Error::Vfio { function, step: "enable MSI-X", source })?;
        self.msix_enabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Switches MSI-X off; nothing happens when it is off already.
    pub fn disable_msix(&self) -> Result<(), Error> {
        if !self.msix_enabled.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let disabled = self.handle.set_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, &[]);
        disabled.map_err(|source| Error::Vfio { function: self.function, step: "disable MSI-X", source })
    }

    /// Has `eventfd` signalled when the kernel wants the function back: it is unplugged, or its driver unbound. Whoever does that waits,
    /// unkillably, until this [`Device`] is closed (linux/vfio.h, VFIO_PCI_REQ_IRQ_INDEX). Returns whether the kernel can tell.
    pub fn watch_removal(&self, eventfd: impl AsFd) -> Result<bool, Error> {
        let failed = |source| Error::Vfio { function: self.function, step: "watch for its removal", source };
        if self.handle.interrupt_count(VFIO_PCI_REQ_IRQ_INDEX).map_err(failed)? == 0 {
            return Ok(false);
        }
        self.handle.set_interrupts(VFIO_PCI_REQ_IRQ_INDEX, &[Some(eventfd.as_fd())]).map_err(failed)?;
        Ok(true)
    }

    /// Makes the memory that the function may reach: `bytes` rounded up to whole huge pages, zeroed.
    ///
    /// The pool is the file `netd-BDF` in the hugetlbfs mount. One that a dead predecessor left is removed here, which
    /// frees its pages: **stop the function first** (write 0 to the device status, wait until it reads 0). Having
    /// the function open means that no live predecessor exists.
    ///
    /// # Errors
    ///
    /// By name when huge pages are missing, the directory is no hugetlbfs mount, physical addresses are hidden, or
    /// there is a pool already.
    pub fn create_dma_pool(&self, bytes: usize, options: &DmaPoolOptions) -> Result<DmaPool, Error> {
        let function = self.function;
        if self.pool_lent.swap(true, Ordering::Relaxed) {
            return Err(Error::PoolExists { function });
        }
        let made = dma::create(&dma::Request {
            sysfs: &self.sysfs,
            function,
            device: Arc::clone(&self.handle),
            isolation: self.isolation,
            bytes,
            hugetlbfs: &options.hugetlbfs,
            lent: &self.pool_lent,
        });
        self.pool_lent.store(made.is_ok(), Ordering::Relaxed);
        made
    }

    fn bar(&self, bar: u8) -> Result<RegionInfo, Error> {
        let region = self.bars.get(usize::from(bar)).copied().filter(|region| region.size > 0);
        region.ok_or(Error::NoSuchBar { function: self.function, bar })
    }

    /// The command register belongs to one thread at a time: reading and writing it are two steps.
    fn change_command(&self, set: u16, clear: u16) -> Result<(), Error> {
        let mut command = [0; 2];
        self.config_read(PCI_COMMAND, &mut command)?;
        let changed = (u16::from_le_bytes(command) | set) & !clear;
        self.config_write(PCI_COMMAND, &changed.to_le_bytes())
    }

    fn read(&self, region: Region, info: RegionInfo, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let (at, len) = (position(region, info, offset, buffer.len())?, buffer.len());
        let done = rustix::io::pread(self.handle.descriptor(), buffer, at);
        self.whole(region, "read a register", offset, len, done)
    }

    fn write(&self, region: Region, info: RegionInfo, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let at = position(region, info, offset, bytes.len())?;
        let done = rustix::io::pwrite(self.handle.descriptor(), bytes, at);
        self.whole(region, "write a register", offset, bytes.len(), done)
    }

    fn whole(
        &self,
        region: Region,
        step: &'static str,
        offset: u64,
        len: usize,
        done: rustix::io::Result<usize>,
    ) -> Result<(), Error> {
        match done {
            Ok(done) if done == len => Ok(()),
            Ok(done) => Err(Error::ShortAccess { region, offset, len, done }),
            Err(errno) => Err(Error::Vfio { function: self.function, step, source: errno.into() }),
        }
    }
}

/// Where a region's bytes are on the device descriptor.
fn position(region: Region, info: RegionInfo, offset: u64, len: usize) -> Result<u64, Error> {
    let inside = offset.checked_add(len as u64).is_some_and(|end| end <= info.size);
    if inside {
        Ok(info.offset + offset)
    } else {
        Err(Error::BadAccess { region, offset, len, size: info.size })
    }
}

fn open_in_group(
    sysfs: &Sysfs,
    found: &Function,
    group: Group,
) -> Result<(Isolation, Arc<dyn VfioFunction>), Error> {
    let directory = sysfs.function_directory(found.bdf);
    let node = sysfs.group_node(group);
    let (isolation, what) = match group {
        Group::Iommu(_) => (Isolation::Iommu, OpenFunction::Iommu { directory: &directory }),
        Group::NoIommu(_) => {
            let container = sysfs.path("dev/vfio/vfio");
            (Isolation::NoIommu, OpenFunction::NoIommu { container, group: &node, function: found.bdf })
        }
    };
    let opened = sysfs.kernel.open_function(&what);
    let function = found.bdf;
    let handle = opened.map_err(|failure| match failure {
        OpenFailure::Group(error) => group_error(sysfs, function, node.clone(), error),
        OpenFailure::NotViable => not_viable(sysfs, found),
        OpenFailure::Step(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
            group_error(sysfs, function, node.clone(), error)
        }
        OpenFailure::Step(step, source) => Error::Vfio { function, step, source },
    })?;
    Ok((isolation, handle))
}

/// The group was fine a moment ago: look again who is in it.
fn not_viable(sysfs: &Sysfs, found: &Function) -> Error {
    let others = "a function that is gone again".to_owned();
    let group = found.iommu_group.unwrap_or_default();
    check_group(sysfs, found).err().unwrap_or(Error::GroupShared { function: found.bdf, group, others })
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
