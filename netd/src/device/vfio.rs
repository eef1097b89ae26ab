//! A virtio-net PCI function through VFIO.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use netd_vfio::{Bdf, Device, DmaPool, DmaPoolOptions, Isolation, Sysfs};
use netd_virtqueue::{DmaMemory, DmaSegment, NetDevice, Options, PciFunction, Switches, open_pci};

use rustix::event::{EventfdFlags, eventfd};

use crate::device::Error;
use crate::device::pci::VfioFunction;

/// Memory for the rings and their frames: two legacy rings of 16,384 entries take 0.9 MiB, 256 receive buffers of 2 KiB half a MiB, 240
/// transmit buffers of an MTU of 9000 2.1 MiB, and 16 for long segments one MiB. Three huge pages.
const DMA_BYTES: usize = 6 << 20;

/// Which function, and how it is to be opened.
#[derive(Clone)]
pub struct Place {
    pub(super) function: Bdf,
    pub(super) switches: Switches,
    /// Where its memory comes from.
    pub(super) hugetlbfs: PathBuf,
    /// It need not have MSI-X.
    pub(super) polled: bool,
    /// How often it was opened.
    pub(super) opened: u64,
}

/// An opened function with its memory.
pub struct Vfio {
    place: Place,
    device: Arc<Device>,
    function: Arc<dyn PciFunction>,
    pool: DmaPool,
    memory: Arc<DmaMemory>,
    interrupt: Option<Interrupt>,
    /// Readable once the kernel wants the function back.
    removal: OwnedFd,
}

/// The one MSI-X vector of a function. While it is polled, its rings ask for no interrupt, and there is none - but that QEMU's device
/// sends one for the first buffer of each ring without being asked. So the vector stays masked until somebody wants to sleep.
struct Interrupt {
    /// Written by the kernel at each interrupt.
    eventfd: OwnedFd,
    masked: bool,
    delivered: u64,
}

/// Both queues share it: whoever sleeps wants to hear of either.
const VECTOR: u16 = 0;

impl Vfio {
    /// Opens a function that is bound to vfio-pci, stops it, and only then replaces the memory of a predecessor.
    pub(super) fn open(mut place: Place) -> Result<Self, Error> {
        place.opened += 1;
        let device = Arc::new(Device::open(&Sysfs::system(), place.function)?);
        let removal = new_eventfd()?;
        if !device.watch_removal(&removal)? {
            tracing::debug!(function = %place.function, "the kernel cannot say when it wants the function back");
        }
        let interrupt = match place.polled && device.msix_vectors() == 0 {
            true => None,
            false => Some(Interrupt::enable(&device, place.polled)?),
        };
        let function: Arc<dyn PciFunction> = Arc::new(VfioFunction::new(Arc::clone(&device))?);
        // A predecessor that was killed left its device running; its memory is free for others once the status reads 0.
        open_pci(Arc::clone(&function), interrupt.is_some())?.reset()?;
        let pool =
            device.create_dma_pool(DMA_BYTES, &DmaPoolOptions { hugetlbfs: place.hugetlbfs.clone() })?;
        let segments = pool.segments().iter().map(|segment| DmaSegment {
            offset: segment.offset,
            len: segment.len,
            device_address: segment.device_address,
        });
        let memory = Arc::new(DmaMemory::new(Arc::clone(pool.region()), segments.collect())?);
        Ok(Self { place, device, function, pool, memory, interrupt, removal })
    }

    pub(super) fn bring_up(&mut self) -> Result<NetDevice, Error> {
        let vector = self.interrupt.as_ref().map(|_| VECTOR);
        let translated = self.isolation() == Isolation::Iommu;
        let options = Options { translated, vector, switches: self.place.switches, ..Options::default() };
        let transport = open_pci(Arc::clone(&self.function), self.interrupt.is_some())?;
        // The device may reach memory from here on; it has no addresses before its queues are set up.
        self.device.set_bus_master(true)?;
        Ok(NetDevice::bring_up(transport, Arc::clone(&self.memory), &options)?)
    }

    /// Where it was, to be opened there again.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    pub(super) fn close(self) -> Result<(), Error> {
        let Self { place: _, device, function, pool, memory, interrupt, removal: _ } = self;
        // Once more, and with the answer that it stopped: after this the memory belongs to nobody.
        open_pci(Arc::clone(&function), interrupt.is_some())?.reset()?;
        device.disable_msix()?;
        device.set_bus_master(false)?;
        drop((function, memory));
        Ok(pool.release()?)
    }

    /// What becomes readable at an interrupt, and how often the function was opened.
    pub(super) fn descriptor(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.interrupt.as_ref().map(|interrupt| (interrupt.eventfd.as_fd(), self.place.opened))
    }

    /// What becomes readable when the kernel wants the function back, and how often it was opened.
    pub(super) fn removal(&self) -> (BorrowedFd<'_>, u64) {
        (self.removal.as_fd(), self.place.opened)
    }

    /// Lets its interrupts through, if it has any. Returns whether it has.
    pub(super) fn unmask(&mut self) -> Result<bool, Error> {
        let Some(interrupt) = &mut self.interrupt else { return Ok(false) };
        interrupt.unmask(&self.device)?;
        Ok(true)
    }

    /// How many interrupts there were so far; none for a function that can only be polled.
    pub fn interrupts(&mut self) -> Option<u64> {
        self.interrupt.as_mut().map(Interrupt::count)
    }

    /// Its address on the bus.
    pub fn bdf(&self) -> Bdf {
        self.device.bdf()
    }

    /// What keeps it inside its memory.
    pub fn isolation(&self) -> Isolation {
        self.device.isolation()
    }

    /// Size of its DMA memory, and in how many pieces the device sees it.
    pub fn dma_grant(&self) -> (usize, usize) {
        (self.memory.size(), self.pool.segments().len())
    }
}

impl Interrupt {
    fn enable(device: &Device, masked: bool) -> Result<Self, Error> {
        let eventfd = new_eventfd()?;
        device.enable_msix(&[(!masked).then_some(&eventfd)])?;
        Ok(Self { eventfd, masked, delivered: 0 })
    }

    fn unmask(&mut self, device: &Device) -> Result<(), Error> {
        if self.masked {
            device.enable_msix(&[Some(&self.eventfd)])?;
            self.masked = false;
        }
        Ok(())
    }

    fn count(&mut self) -> u64 {
        let mut since_last = [0; 8];
        // Fails with EAGAIN when there was none.
        if let Ok(8) = rustix::io::read(&self.eventfd, &mut since_last) {
            self.delivered += u64::from_ne_bytes(since_last);
        }
        self.delivered
    }
}

fn new_eventfd() -> Result<OwnedFd, Error> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    eventfd(0, flags).map_err(|errno| Error::Eventfd(errno.into()))
}
