//! Everything this crate asks of the kernel that is not a plain file: VFIO's ioctls, huge pages, the page map.
//!
//! All ioctls of the crate are in this file, behind two traits, so that everything above them is tested against
//! `fake.rs`. The type1 IOMMU is opened through vfio-ioctls; it cannot do the no-IOMMU mode, which is opened here on
//! vfio-bindings. Once open, both are one descriptor with the same ioctls: vfio-ioctls' own region and interrupt calls
//! are not used, since they only log their errors and shift their indexes when a query fails.

use std::ffi::CString;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::RouteMessage;
use rustix::fs::FallocateFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_NOIOMMU_IOMMU,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE, vfio_device_info, vfio_group_status, vfio_irq_info,
    vfio_region_info,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};
use vm_memory::MmapRegion;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

use crate::Bdf;
use crate::netlink::{self, Change};

ioctl_io_nr!(VFIO_GET_API_VERSION, VFIO_TYPE.into(), VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, VFIO_TYPE.into(), VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, VFIO_TYPE.into(), VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE.into(), VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE.into(), VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);

/// `f_type` of a hugetlbfs mount (linux/magic.h, HUGETLBFS_MAGIC).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// An entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const PAGEMAP_ENTRY_BYTES: u64 = 8;

/// What the kernel does for this crate beyond reading files.
pub(crate) trait Kernel: Debug + Send + Sync {
    /// Writes a sysfs attribute in one write, as drivers expect it.
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()>;
    /// Opens a VFIO group node, which only one process can hold at a time.
    fn open_group(&self, node: &Path) -> io::Result<OwnedFd>;
    /// Opens a function that is bound to vfio-pci; VFIO resets it on the way.
    fn open_function(&self, what: &OpenFunction<'_>) -> Result<Arc<dyn VfioFunction>, OpenFailure>;
    /// The page size of a hugetlbfs mount; `None` when the directory is none.
    fn huge_page_bytes(&self, directory: &Path) -> io::Result<Option<u64>>;
    /// Gives a file its pages now; fails when there are not enough.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// The pagemap entries of the pages at these addresses of this process.
    fn pagemap_entries(&self, addresses: &[usize]) -> io::Result<Vec<u64>>;
    /// Every address of the machine's interfaces.
    fn addresses(&self) -> io::Result<Vec<AddressMessage>>;
    /// Every route of the machine.
    fn routes(&self) -> io::Result<Vec<RouteMessage>>;
    /// Changes an interface, or adds an address or a route.
    fn change_network(&self, change: Change) -> io::Result<()>;
    /// Sends a signal to a process.
    fn signal(&self, process: u32, signal: Signal) -> io::Result<()>;
    /// Since the machine was started, sleep included.
    fn since_boot(&self) -> Duration;
}

/// An open VFIO function: a descriptor whose regions are read, written and mapped at offsets, and its ioctls.
pub(crate) trait VfioFunction: Send + Sync {
    /// The device descriptor.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// VFIO_DEVICE_GET_REGION_INFO.
    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        region(self.descriptor(), index)
    }
    /// VFIO_DEVICE_GET_IRQ_INFO: how many vectors this kind of interrupt has.
    fn interrupt_count(&self, index: u32) -> io::Result<u32> {
        interrupt_count(self.descriptor(), index)
    }
    /// VFIO_DEVICE_SET_IRQS: one eventfd per vector, from vector 0; none switches the kind off.
    fn set_interrupts(&self, index: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> io::Result<()> {
        set_interrupts(self.descriptor(), index, eventfds)
    }
    /// Whether the function has a reset of its own.
    fn can_reset(&self) -> io::Result<bool> {
        can_reset(self.descriptor())
    }
    /// VFIO_DEVICE_RESET.
    fn reset(&self) -> io::Result<()> {
        reset(self.descriptor())
    }
    /// Maps memory in the IOMMU; [`io::ErrorKind::Unsupported`] in no-IOMMU mode.
    fn map_dma(&self, memory: &MmapRegion, iova: u64) -> io::Result<()>;
    /// Takes a mapping back out of the IOMMU.
    fn unmap_dma(&self, iova: u64, bytes: usize) -> io::Result<()>;
}

/// A region as VFIO describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    /// Zero when the function does not implement the region.
    pub(crate) size: u64,
    /// Where the region starts on the device descriptor.
    pub(crate) offset: u64,
    /// Whether mmap works on it.
    pub(crate) mappable: bool,
}

/// What to open, and how.
#[derive(Debug)]
pub(crate) enum OpenFunction<'a> {
    /// Through the type1 IOMMU.
    Iommu {
        /// The function's directory in sysfs; vfio-ioctls finds the group by it.
        directory: &'a Path,
    },
    /// In no-IOMMU mode.
    NoIommu {
        /// The container node, /dev/vfio/vfio.
        container: PathBuf,
        /// The group node, /dev/vfio/noiommu-N.
        group: &'a Path,
        /// The function of the group.
        function: Bdf,
    },
}

/// Where opening a function failed.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// At the group node: EBUSY means that another process has it.
    Group(io::Error),
    /// Another function of the group is with a kernel driver.
    NotViable,
    /// At a later or earlier step.
    Step(&'static str, io::Error),
}

/// The running kernel.
#[derive(Debug)]
pub(crate) struct Linux;

impl Kernel for Linux {
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
    }

    fn open_group(&self, node: &Path) -> io::Result<OwnedFd> {
        Ok(open_read_write(node)?.into())
    }

    fn open_function(&self, what: &OpenFunction<'_>) -> Result<Arc<dyn VfioFunction>, OpenFailure> {
        match what {
            OpenFunction::Iommu { directory } => Ok(Arc::new(IommuFunction::open(directory)?)),
            OpenFunction::NoIommu { container, group, function } => {
                Ok(Arc::new(NoIommuFunction::open(container, group, *function)?))
            }
        }
    }

    fn huge_page_bytes(&self, directory: &Path) -> io::Result<Option<u64>> {
        let mount = rustix::fs::statfs(directory)?;
        // Both fields are signed or unsigned, wide or narrow, by architecture; the values are small and positive.
        let is_hugetlbfs = mount.f_type as u64 & u64::from(u32::MAX) == HUGETLBFS_MAGIC;
        Ok(is_hugetlbfs.then_some(mount.f_bsize as u64))
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn pagemap_entries(&self, addresses: &[usize]) -> io::Result<Vec<u64>> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let page = rustix::param::page_size();
        addresses
            .iter()
            .map(|address| read_u64_at(&pagemap, (address / page) as u64 * PAGEMAP_ENTRY_BYTES))
            .collect()
    }

    fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        netlink::addresses()
    }

    fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        netlink::routes()
    }

    fn change_network(&self, change: Change) -> io::Result<()> {
        netlink::change(change)
    }

    fn signal(&self, process: u32, signal: Signal) -> io::Result<()> {
        let process = Pid::from_raw(process.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(process, signal)?)
    }

    fn since_boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        // Neither part is negative: the clock began at the start.
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

fn read_u64_at(file: &File, offset: u64) -> io::Result<u64> {
    let mut entry = [0; size_of::<u64>()];
    file.read_exact_at(&mut entry, offset)?;
    Ok(u64::from_ne_bytes(entry))
}

fn open_read_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// An ioctl's result: negative means that errno tells why.
fn check(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A function opened through the type1 IOMMU.
struct IommuFunction {
    device: VfioDevice,
    container: Arc<VfioContainer>,
}

impl IommuFunction {
    fn open(directory: &Path) -> Result<IommuFunction, OpenFailure> {
        let container = Arc::new(VfioContainer::new(None)?);
        // The last argument concerns iommufd only, which is not used here.
        let device = VfioDevice::new(directory, Arc::<VfioContainer>::clone(&container), false)?;
        Ok(IommuFunction { device, container })
    }
}

impl From<VfioError> for OpenFailure {
    fn from(error: VfioError) -> OpenFailure {
        match error {
            VfioError::OpenContainer(source) => OpenFailure::Step("open /dev/vfio/vfio", source),
            VfioError::OpenGroup(source, _) => OpenFailure::Group(source),
            VfioError::GroupViable => OpenFailure::NotViable,
            VfioError::VfioExtension => {
                let hint =
                    io::Error::new(io::ErrorKind::Unsupported, "`modprobe vfio_iommu_type1` may be missing");
                OpenFailure::Step("find the type1 IOMMU driver", hint)
            }
            VfioError::ContainerSetIOMMU(errno) => OpenFailure::Step("set the type1 IOMMU", errno.into()),
            VfioError::GroupGetDeviceFD(errno) => OpenFailure::Step("open the device", errno.into()),
            other => OpenFailure::Step("open the function", io::Error::other(other)),
        }
    }
}

impl VfioFunction for IommuFunction {
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: vfio-ioctls has no AsFd; the descriptor stays open as long as `device`, which `self` owns and
        // the returned lifetime borrows.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }

    fn map_dma(&self, memory: &MmapRegion, iova: u64) -> io::Result<()> {
        // SAFETY: the region is a live mapping of exactly this size. The device may write to it from now on, which
        // breaks no reference: MmapRegion hands out volatile access only. The kernel pins the pages until they are
        // unmapped from the IOMMU, so a region that is dropped early is not written to through a stale address.
        unsafe { self.container.vfio_dma_map(iova, memory.size(), memory.as_ptr()) }.map_err(dma_error)
    }

    fn unmap_dma(&self, iova: u64, bytes: usize) -> io::Result<()> {
        self.container.vfio_dma_unmap(iova, bytes).map_err(dma_error)
    }
}

fn dma_error(error: VfioError) -> io::Error {
    match error {
        VfioError::IommuDmaMap(errno) | VfioError::IommuDmaUnmap(errno) => errno.into(),
        other => io::Error::other(other),
    }
}

/// A function opened in no-IOMMU mode. Fields are closed in this order: a device holds its group, a group its
/// container.
struct NoIommuFunction {
    device: OwnedFd,
    _group: File,
    _container: File,
}

impl NoIommuFunction {
    /// The order of calls is that of Documentation/driver-api/vfio.rst, "VFIO Usage Example".
    fn open(container: &Path, group: &Path, function: Bdf) -> Result<NoIommuFunction, OpenFailure> {
        let step = |step| move |error| OpenFailure::Step(step, error);
        let container = open_read_write(container).map_err(step("open /dev/vfio/vfio"))?;
        check_no_iommu(&container).map_err(step("find its no-IOMMU mode"))?;
        let group = open_read_write(group).map_err(OpenFailure::Group)?;
        if !viable(&group).map_err(step("read the group's status"))? {
            return Err(OpenFailure::NotViable);
        }
        // SAFETY: both descriptors are open; the argument points to the container's number for the call's time.
        let joined = unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd()) };
        check(joined).map_err(step("join the group to a container"))?;
        // SAFETY: the container is open and the argument is a plain value.
        let mode = unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_NOIOMMU_IOMMU.into()) };
        check(mode).map_err(step("set the no-IOMMU mode"))?;
        let device = device_descriptor(&group, function).map_err(step("open the device"))?;
        Ok(NoIommuFunction { device, _group: group, _container: container })
    }
}

fn check_no_iommu(container: &File) -> io::Result<()> {
    // SAFETY: the container is open and this ioctl takes no argument.
    let version = check(unsafe { ioctl(container, VFIO_GET_API_VERSION()) })?;
    if version != VFIO_API_VERSION {
        let message = format!("the kernel's VFIO API version is {version}, {VFIO_API_VERSION} is known here");
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    // SAFETY: the container is open and the argument is a plain value.
    let supported = unsafe { ioctl_with_val(container, VFIO_CHECK_EXTENSION(), VFIO_NOIOMMU_IOMMU.into()) };
    if check(supported)? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel was built without CONFIG_VFIO_NOIOMMU",
        ));
    }
    Ok(())
}

fn viable(group: &File) -> io::Result<bool> {
    let mut status = vfio_group_status { argsz: argsz::<vfio_group_status>(), flags: 0 };
    // SAFETY: the group is open and `status` is the structure that this ioctl fills.
    check(unsafe { ioctl_with_mut_ref(group, VFIO_GROUP_GET_STATUS(), &mut status) })?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

fn device_descriptor(group: &File, function: Bdf) -> io::Result<OwnedFd> {
    let name = CString::new(function.to_string())?;
    // SAFETY: the group is open and `name` is a NUL-terminated string that outlives the call.
    let descriptor = unsafe { ioctl_with_ptr(group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
    check(descriptor)?;
    // SAFETY: the kernel made this descriptor for us just now and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

impl VfioFunction for NoIommuFunction {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn map_dma(&self, _memory: &MmapRegion, _iova: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unmap_dma(&self, _iova: u64, _bytes: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The size that a VFIO structure announces of itself.
const fn argsz<T>() -> u32 {
    // The structures of VFIO have tens of bytes.
    size_of::<T>() as u32
}

fn region(device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
    let mut info = vfio_region_info { argsz: argsz::<vfio_region_info>(), index, ..Default::default() };
    // SAFETY: the device is open and `info` is the structure that this ioctl fills; `argsz` keeps the kernel from
    // writing capabilities behind it.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) })?;
    let mappable = info.flags & VFIO_REGION_INFO_FLAG_MMAP != 0;
    Ok(RegionInfo { size: info.size, offset: info.offset, mappable })
}

fn interrupt_count(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let mut info = vfio_irq_info { argsz: argsz::<vfio_irq_info>(), index, ..Default::default() };
    // SAFETY: the device is open and `info` is the structure that this ioctl fills.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info.count)
}

/// Number of 32-bit words in `struct vfio_irq_set` before its data: argsz, flags, index, start, count.
const IRQ_SET_WORDS: usize = 5;

fn set_interrupts(device: BorrowedFd<'_>, index: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> io::Result<()> {
    let set = irq_set(index, eventfds);
    // SAFETY: the device is open and the kernel reads `argsz` bytes from `set`, which is exactly that long.
    check(unsafe { ioctl_with_ptr(&device, VFIO_DEVICE_SET_IRQS(), set.as_ptr()) })?;
    Ok(())
}

/// `struct vfio_irq_set`, which is five words followed by one descriptor per vector: a vector of words is its layout.
fn irq_set(index: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Vec<u32> {
    // An index is switched off as a whole with DATA_NONE and no vectors (linux/vfio.h, VFIO_DEVICE_SET_IRQS).
    let data = if eventfds.is_empty() { VFIO_IRQ_SET_DATA_NONE } else { VFIO_IRQ_SET_DATA_EVENTFD };
    let words = IRQ_SET_WORDS + eventfds.len();
    // A PCI function has at most 2048 vectors (PCI Local Bus 3.0, 6.8.2.3), so neither number is cut short.
    let (bytes, count) = ((words * size_of::<u32>()) as u32, eventfds.len() as u32);
    let mut set = Vec::with_capacity(words);
    set.extend([bytes, data | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, count]);
    // "-1 can be used to de-assign interrupts or to skip already-unassigned ones" (linux/vfio.h, VFIO_IRQ_SET_DATA_EVENTFD).
    let word = |eventfd: &Option<BorrowedFd<'_>>| eventfd.map_or(-1, |eventfd| eventfd.as_raw_fd());
    set.extend(eventfds.iter().map(|eventfd| word(eventfd).cast_unsigned()));
    set
}

fn can_reset(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = vfio_device_info { argsz: argsz::<vfio_device_info>(), ..Default::default() };
    // SAFETY: the device is open and `info` is the structure that this ioctl fills.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_INFO(), &mut info) })?;
    Ok(info.flags & VFIO_DEVICE_FLAGS_RESET != 0)
}

fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the device is open and this ioctl takes no argument.
    check(unsafe { ioctl(&device, VFIO_DEVICE_RESET()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_bindings::bindings::vfio::vfio_irq_set;

    #[test]
    fn irq_set_has_the_layout_of_the_kernels_structure() {
        let file = tempfile::tempfile().unwrap();
        let set = irq_set(2, &[Some(file.as_fd()), None]);
        let words = |offset: usize| set[offset / size_of::<u32>()];
        assert_eq!(size_of::<vfio_irq_set>(), IRQ_SET_WORDS * size_of::<u32>());
        assert_eq!(words(std::mem::offset_of!(vfio_irq_set, argsz)) as usize, set.len() * size_of::<u32>());
        assert_eq!(words(std::mem::offset_of!(vfio_irq_set, index)), 2);
        assert_eq!(words(std::mem::offset_of!(vfio_irq_set, count)), 2);
        assert_eq!(set[IRQ_SET_WORDS..], [file.as_raw_fd().cast_unsigned(), u32::MAX]);
        assert_eq!(irq_set(2, &[]), [20, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 0, 0]);
    }

    #[test]
    fn ordinary_directory_examined_is_no_hugetlbfs() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Linux.huge_page_bytes(directory.path()).unwrap(), None);
    }

    #[test]
    fn page_in_use_looked_up_is_present_and_an_unmapped_one_is_not() {
        const PRESENT: u64 = 1 << 63;
        let value = std::hint::black_box(7u8);
        let here = std::ptr::from_ref(&value) as usize;
        // The first page of the address space is never mapped.
        let entries = Linux.pagemap_entries(&[here, 0]).unwrap();
        assert_eq!([entries[0] & PRESENT, entries[1] & PRESENT], [PRESENT, 0]);
    }

    #[test]
    fn file_allocated_has_its_size() {
        let file = tempfile::tempfile().unwrap();
        Linux.allocate(&file, 8192).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
    }

    #[test]
    fn busy_group_reported_by_vfio_ioctls_stays_busy() {
        let busy = VfioError::OpenGroup(io::ErrorKind::ResourceBusy.into(), "1".to_owned());
        let failure = OpenFailure::from(busy);
        assert!(matches!(&failure, OpenFailure::Group(error) if error.kind() == io::ErrorKind::ResourceBusy));
        assert!(matches!(OpenFailure::from(VfioError::GroupViable), OpenFailure::NotViable));
    }

    #[test]
    fn container_that_is_no_vfio_fails_at_its_step() {
        let directory = tempfile::tempdir().unwrap();
        let (container, group) = (directory.path().join("vfio"), directory.path().join("noiommu-0"));
        let function = "00:03.0".parse().unwrap();
        let open = || NoIommuFunction::open(&container, &group, function).err();
        assert!(matches!(open(), Some(OpenFailure::Step("open /dev/vfio/vfio", _))));
        std::fs::write(&container, "").unwrap();
        assert!(matches!(open(), Some(OpenFailure::Step("find its no-IOMMU mode", _))));
    }
}
