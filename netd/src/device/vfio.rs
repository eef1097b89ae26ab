//! A virtio-net PCI function through VFIO.

use std::path::Path;
use std::sync::Arc;

use netd_vfio::{Bdf, Device, DmaPool, DmaPoolOptions, Isolation, Sysfs};
use netd_virtqueue::{DmaMemory, DmaSegment, NetDevice, Options, PciFunction, open_pci};

use crate::device::Error;
use crate::device::pci::VfioFunction;

/// Memory for both rings and their frames: two legacy rings of 16,384 entries take 0.9 MiB, two times 256 frames of
/// 2 KiB one MiB. Two huge pages.
const DMA_BYTES: usize = 4 << 20;

/// An opened function with its memory.
pub struct Vfio {
    device: Arc<Device>,
    function: Arc<dyn PciFunction>,
    pool: DmaPool,
    memory: Arc<DmaMemory>,
}

impl Vfio {
    /// Opens a function that is bound to vfio-pci, stops it, and only then replaces the memory of a predecessor.
    pub(super) fn open(function: Bdf, hugetlbfs: &Path) -> Result<Self, Error> {
        let device = Arc::new(Device::open(&Sysfs::system(), function)?);
        let function: Arc<dyn PciFunction> = Arc::new(VfioFunction::new(Arc::clone(&device))?);
        // A predecessor that was killed left its device running; its memory is free for others once the status reads 0.
        open_pci(Arc::clone(&function))?.reset()?;
        let pool = device.create_dma_pool(DMA_BYTES, &DmaPoolOptions { hugetlbfs: hugetlbfs.to_owned() })?;
        let segments = pool.segments().iter().map(|segment| DmaSegment {
            offset: segment.offset,
            len: segment.len,
            device_address: segment.device_address,
        });
        let memory = Arc::new(DmaMemory::new(Arc::clone(pool.region()), segments.collect())?);
        Ok(Self { device, function, pool, memory })
    }

    pub(super) fn bring_up(&mut self) -> Result<NetDevice, Error> {
        let options = Options { translated: self.isolation() == Isolation::Iommu, ..Options::default() };
        let transport = open_pci(Arc::clone(&self.function))?;
        // The device may reach memory from here on; it has no addresses before its queues are set up.
        self.device.set_bus_master(true)?;
        Ok(NetDevice::bring_up(transport, Arc::clone(&self.memory), &options)?)
    }

    pub(super) fn close(self) -> Result<(), Error> {
        let Self { device, function, pool, memory } = self;
        // Once more, and with the answer that it stopped: after this the memory belongs to nobody.
        open_pci(Arc::clone(&function))?.reset()?;
        device.set_bus_master(false)?;
        drop((function, memory));
        Ok(pool.release()?)
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
