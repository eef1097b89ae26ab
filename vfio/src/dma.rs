//! Memory that a function may reach, and the addresses by which it does.
//!
//! The pool is a named file on hugetlbfs. Huge pages are neither swapped nor, in practice, moved, so that their
//! physical addresses hold; and as long as the file has its name its pages are not given to anybody else, even when
//! this process is killed while the function still writes to them. So the name goes only after the function has
//! stopped: in [`DmaPool::release`], or by the successor, who has opened and stopped the function first.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use crate::sys::VfioFunction;
use crate::sysfs::{Sysfs, read_optional};
use crate::{Bdf, Error, Isolation, pagemap};

/// Where the pool starts in the function's address space behind an IOMMU.
///
/// 4 GiB: above every window that platforms keep below it (x86's interrupt messages at 0xfee0_0000, ARM's at
/// 0x0800_0000), and low enough for IOMMUs with 39 address bits and for legacy queues, whose 32-bit page numbers
/// reach 16 TiB.
pub const DMA_IOVA_BASE: u64 = 1 << 32;

/// How to make a DMA pool.
#[derive(Clone, Debug)]
pub struct DmaPoolOptions {
    /// The hugetlbfs mount that the pool's file goes to; its page size is the pool's granularity.
    pub hugetlbfs: PathBuf,
}

impl Default for DmaPoolOptions {
    fn default() -> DmaPoolOptions {
        DmaPoolOptions { hugetlbfs: PathBuf::from("/dev/hugepages") }
    }
}

/// A part of the pool that is contiguous for the function, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaSegment {
    /// Where it starts in the pool.
    pub offset: usize,
    /// How long it is, in bytes.
    pub len: usize,
    /// Where it starts for the function: an IOVA, or a physical address.
    pub device_address: u64,
}

/// Memory that the function may reach.
///
/// [`release`](DmaPool::release) it once the function has stopped. A pool that is dropped otherwise keeps its file,
/// and with it its pages, until the next owner of the function takes over.
pub struct DmaPool {
    memory: Arc<MmapRegion>,
    segments: Vec<DmaSegment>,
    file: PathBuf,
    /// Keeps the function open, so that an IOMMU mapping lasts as long as the pool.
    device: Arc<dyn VfioFunction>,
    isolation: Isolation,
    /// The opened function's note that it has a pool; goes false with the release.
    lent: Arc<AtomicBool>,
}

impl fmt::Debug for DmaPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Device addresses stay out of logs.
        f.debug_struct("DmaPool")
            .field("file", &self.file)
            .field("bytes", &self.memory.size())
            .field("segments", &self.segments.len())
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

impl DmaPool {
    /// The pool's memory: volatile access only, since the function may write to it at any time.
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.memory
    }

    /// The pool cut into parts that are contiguous for the function, in the order of their offsets, without gaps.
    pub fn segments(&self) -> &[DmaSegment] {
        &self.segments
    }

    /// Removes the file that a dead owner of the function left, which frees its pages.
    ///
    /// For after a function was given back: its kernel driver reset it then. Whoever opens the function instead has
    /// [`Device::create_dma_pool`](crate::Device::create_dma_pool) do the same.
    pub fn remove_stale(function: Bdf, options: &DmaPoolOptions) -> Result<(), Error> {
        remove_stale(&pool_path(&options.hugetlbfs, function))
    }

    /// Takes the memory from the function and gives it back to the system.
    ///
    /// Call it only after the function has stopped: the device status read 0 after it was written 0. In no-IOMMU
    /// mode nothing else keeps the function from writing to pages that belong to somebody else by then.
    ///
    /// ```no_run
    /// # fn end(pool: netd_vfio::DmaPool) -> Result<usize, netd_vfio::Error> {
    /// let count = pool.segments().len();
    /// pool.release()?;
    /// # Ok(count)
    /// # }
    /// ```
    ///
    /// Memory that is named after it does not compile:
    ///
    /// ```compile_fail
    /// # fn end(pool: netd_vfio::DmaPool) -> Result<usize, netd_vfio::Error> {
    /// pool.release()?;
    /// let count = pool.segments().len();
    /// # Ok(count)
    /// # }
    /// ```
    pub fn release(self) -> Result<(), Error> {
        let DmaPool { memory, segments, file, device, isolation, lent } = self;
        if isolation == Isolation::Iommu {
            for segment in segments {
                let unmapped = device.unmap_dma(segment.device_address, segment.len);
                unmapped.map_err(|source| Error::file("unmap from the IOMMU", &file, source))?;
            }
        }
        drop(memory);
        fs::remove_file(&file).map_err(|source| Error::file("remove", file, source))?;
        lent.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// What a pool is made from.
pub(crate) struct Request<'a> {
    pub(crate) sysfs: &'a Sysfs,
    pub(crate) function: Bdf,
    pub(crate) device: Arc<dyn VfioFunction>,
    pub(crate) isolation: Isolation,
    pub(crate) bytes: usize,
    pub(crate) hugetlbfs: &'a Path,
    pub(crate) lent: &'a Arc<AtomicBool>,
}

/// Makes a pool. Everything of a dead predecessor is gone afterwards, whether this succeeds or fails.
pub(crate) fn create(request: &Request<'_>) -> Result<DmaPool, Error> {
    let Request { sysfs, hugetlbfs, .. } = *request;
    let page_bytes = huge_page_bytes(sysfs, hugetlbfs)?;
    if request.bytes == 0 {
        return Err(Error::EmptyPool);
    }
    let pages = request.bytes.div_ceil(page_bytes);
    let Some(bytes) = pages.checked_mul(page_bytes) else {
        return Err(no_hugepages(sysfs, hugetlbfs, pages, page_bytes));
    };
    let path = pool_path(hugetlbfs, request.function);
    remove_stale(&path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|source| Error::file("create", &path, source))?;
    let made = fill(request, &path, file, bytes, page_bytes);
    if made.is_err() {
        // The function never learnt an address of this file, so that its pages may go at once.
        remove_stale(&path)?;
    }
    made
}

fn fill(
    request: &Request<'_>,
    path: &Path,
    file: File,
    bytes: usize,
    page_bytes: usize,
) -> Result<DmaPool, Error> {
    let Request { sysfs, device, isolation, .. } = request;
    // All pages now, or none: a page that is missing later would be a SIGBUS.
    sysfs.kernel.allocate(&file, bytes as u64).map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => {
            no_hugepages(sysfs, request.hugetlbfs, bytes / page_bytes, page_bytes)
        }
        _ => Error::file("allocate huge pages for", path, source),
    })?;
    let memory = map(file, bytes).map_err(|source| Error::file("map", path, source))?;
    let segments = match isolation {
        Isolation::Iommu => map_in_iommu(request, &memory)?,
        Isolation::NoIommu => physical_segments(sysfs, &memory, page_bytes)?,
    };
    let (device, isolation, lent) = (Arc::clone(device), *isolation, Arc::clone(request.lent));
    Ok(DmaPool { memory: Arc::new(memory), segments, file: path.to_owned(), device, isolation, lent })
}

fn huge_page_bytes(sysfs: &Sysfs, hugetlbfs: &Path) -> Result<usize, Error> {
    let not_hugetlbfs = || Error::NotHugetlbfs { path: hugetlbfs.to_owned() };
    match sysfs.kernel.huge_page_bytes(hugetlbfs) {
        Ok(Some(bytes)) => usize::try_from(bytes).map_err(|_| not_hugetlbfs()),
        Ok(None) => Err(not_hugetlbfs()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_hugetlbfs()),
        Err(source) => Err(Error::file("examine", hugetlbfs, source)),
    }
}

fn pool_path(hugetlbfs: &Path, function: Bdf) -> PathBuf {
    hugetlbfs.join(format!("netd-{function}"))
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path, source)),
        _ => Ok(()),
    }
}

/// Maps the file, and its pages into this process, so that the page map shows them.
fn map(file: File, bytes: usize) -> io::Result<MmapRegion> {
    let protection = (ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed();
    let flags = (MapFlags::SHARED | MapFlags::POPULATE).bits().cast_signed();
    MmapRegion::build(Some(FileOffset::new(file, 0)), bytes, protection, flags).map_err(|error| match error {
        MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other),
    })
}

fn map_in_iommu(request: &Request<'_>, memory: &MmapRegion) -> Result<Vec<DmaSegment>, Error> {
    let (function, bytes) = (request.function, memory.size());
    request.device.map_dma(memory, DMA_IOVA_BASE).map_err(|source| match source.kind() {
        // VFIO counts what it pins against RLIMIT_MEMLOCK.
        io::ErrorKind::OutOfMemory => Error::LockedMemory { bytes, source },
        _ => Error::Vfio { function, step: "map the DMA pool in the IOMMU", source },
    })?;
    Ok(vec![DmaSegment { offset: 0, len: bytes, device_address: DMA_IOVA_BASE }])
}

fn physical_segments(
    sysfs: &Sysfs,
    memory: &MmapRegion,
    huge_page_bytes: usize,
) -> Result<Vec<DmaSegment>, Error> {
    let start = memory.as_ptr() as usize;
    let addresses: Vec<usize> =
        (0..memory.size()).step_by(huge_page_bytes).map(|offset| start + offset).collect();
    let entries = sysfs.kernel.pagemap_entries(&addresses);
    let entries = entries.map_err(|source| Error::file("read", "/proc/self/pagemap", source))?;
    pagemap::segments(&entries, huge_page_bytes, rustix::param::page_size())
}

/// The error that says how many huge pages there are, how many there should be, and how to get them.
fn no_hugepages(sysfs: &Sysfs, hugetlbfs: &Path, needed: usize, page_bytes: usize) -> Error {
    let page_kib = page_bytes as u64 / 1024;
    let pool = format!("sys/kernel/mm/hugepages/hugepages-{page_kib}kB");
    let counter = |name: &str| -> u64 {
        let text = read_optional(&sysfs.path(&pool).join(name)).ok().flatten();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    // Reserved pages are counted as free by the kernel, but promised to somebody.
    let free = counter("free_hugepages").saturating_sub(counter("resv_hugepages"));
    let (path, needed) = (hugetlbfs.to_owned(), needed as u64);
    if free >= needed {
        let bytes = needed.saturating_mul(page_bytes as u64);
        return Error::HugepagesLimited { path, needed, free, page_kib, bytes };
    }
    let total = counter("nr_hugepages").saturating_sub(free) + needed;
    let mend = if default_huge_page_kib(sysfs) == Some(page_kib) {
        format!("sysctl -w vm.nr_hugepages={total}")
    } else {
        format!("echo {total} > /{pool}/nr_hugepages")
    };
    Error::NoHugepages { path, needed, free, page_kib, mend }
}

/// The page size that vm.nr_hugepages is about.
fn default_huge_page_kib(sysfs: &Sysfs) -> Option<u64> {
    let meminfo = read_optional(&sysfs.path("proc/meminfo")).ok()??;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
#[path = "dma_tests.rs"]
mod tests;
