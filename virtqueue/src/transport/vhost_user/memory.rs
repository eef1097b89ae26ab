//! Memory shared with a backend: a sealed memfd, mapped here, passed by descriptor.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use crate::{DmaMemory, DmaSegment, Error};

/// A multiple of every page size that a backend may map with.
const GRANULE: usize = 2 << 20;

/// The memory of one session.
#[derive(Debug)]
pub(super) struct SharedMemory {
    file: File,
    dma: Arc<DmaMemory>,
}

impl SharedMemory {
    /// At least `bytes` bytes, zeroed, which the backend sees from `device_address`.
    pub(super) fn new(bytes: usize, device_address: u64) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::VhostUserSystem { step: "make shared memory", source };
        let size = bytes.next_multiple_of(GRANULE);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("netd-vhost-user", flags).map_err(|errno| failed(errno.into()))?;
        ftruncate(&file, size as u64).map_err(|errno| failed(errno.into()))?;
        // The backend gets the descriptor: were it to cut the file short, our next access would be a SIGBUS.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        let shared = file.try_clone().map_err(failed)?;
        let region = MmapRegion::from_file(FileOffset::new(shared, 0), size)
            .map_err(|error| failed(io::Error::other(error)))?;
        let whole = DmaSegment { offset: 0, len: size, device_address };
        let dma = Arc::new(DmaMemory::new(Arc::new(region), vec![whole])?);
        Ok(Self { file, dma })
    }

    /// The mapping.
    pub(super) fn dma(&self) -> &Arc<DmaMemory> {
        &self.dma
    }

    /// What the backend maps.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
