//! A watch over free hugepages: fill them all with a pattern, wait, and see whether anybody wrote to them.
//!
//! After a driver dies, its device may still be writing. Pages that the driver's death gave back to the system are the
//! ones that such writes would corrupt: whoever gets them next finds foreign bytes in them. This is that next owner.

use crate::digest::split_mix;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

/// x86's smaller hugepage, the kernel's default size.
const HUGEPAGE_BYTES: usize = 2 * 1024 * 1024;
const MEMORY_INFORMATION: &str = "/proc/meminfo";

/// All hugepages that were free, held and filled. Dropping it gives them back.
#[derive(Debug)]
pub struct Filled {
    region: MmapRegion,
    pages: usize,
    file: PathBuf,
}

impl Filled {
    /// Takes every free hugepage and fills it.
    pub fn take_all(hugetlbfs: &Path) -> io::Result<Filled> {
        let pages = free_pages()?;
        if pages == 0 {
            return Err(io::Error::other("no hugepage is free: nothing can be watched"));
        }
        let path = hugetlbfs.join(format!("pattern-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Filled::fill(file, path, pages)
    }

    fn fill(file: File, path: PathBuf, pages: usize) -> io::Result<Filled> {
        let bytes = pages * HUGEPAGE_BYTES;
        file.set_len(bytes as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), bytes).map_err(io::Error::other)?;
        let filled = Filled { region, pages, file: path };
        for page in 0..pages {
            let memory = filled.region.as_volatile_slice();
            memory.write_slice(&pattern(page), page * HUGEPAGE_BYTES).map_err(io::Error::other)?;
        }
        Ok(filled)
    }

    /// How many pages are watched.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where each damaged page has its first foreign byte; empty when the pattern holds.
    pub fn damage(&self) -> io::Result<Vec<Damage>> {
        let mut found = vec![0; HUGEPAGE_BYTES];
        let mut damage = Vec::new();
        for page in 0..self.pages {
            let memory = self.region.as_volatile_slice();
            memory.read_slice(&mut found, page * HUGEPAGE_BYTES).map_err(io::Error::other)?;
            let expected = pattern(page);
            if let Some(offset) = found.iter().zip(&expected).position(|(found, expected)| found != expected)
            {
                damage.push(Damage {
                    page,
                    offset,
                    bytes: found[offset..].iter().take(16).copied().collect(),
                });
            }
        }
        Ok(damage)
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _left_behind = fs::remove_file(&self.file);
    }
}

/// A foreign write.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// The number of the page among those watched.
    pub page: usize,
    /// Where in the page the first foreign byte is.
    pub offset: usize,
    /// What stands there (the first bytes of an Ethernet frame tell whose it is).
    pub bytes: Vec<u8>,
}

/// Different in every page, so that a page that was swapped for another shows too.
fn pattern(page: usize) -> Vec<u8> {
    let mut state = page as u64;
    let mut bytes = Vec::with_capacity(HUGEPAGE_BYTES);
    while bytes.len() < HUGEPAGE_BYTES {
        bytes.extend_from_slice(&split_mix(&mut state).to_le_bytes());
    }
    bytes
}

fn free_pages() -> io::Result<usize> {
    let information = fs::read_to_string(MEMORY_INFORMATION)?;
    let value = |key: &str| {
        let line = information.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches(':').trim().parse::<usize>().ok()
    };
    // Reserved pages are free but promised to a mapping that has not touched them yet.
    let (free, reserved) = (value("HugePages_Free"), value("HugePages_Rsvd"));
    let free = free.ok_or_else(|| io::Error::other(format!("no HugePages_Free in {MEMORY_INFORMATION}")))?;
    Ok(free.saturating_sub(reserved.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_written_by_another_after_the_fill_is_reported_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pattern");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        // Ordinary pages behave the same; hugepages need a machine that has some.
        let filled = Filled::fill(file.try_clone().unwrap(), path, 3).unwrap();
        assert_eq!(filled.damage().unwrap(), []);
        let place = 2 * HUGEPAGE_BYTES as u64 + 77;
        let before = pattern(2)[77];
        std::os::unix::fs::FileExt::write_all_at(&file, &[!before], place).unwrap();
        let damage = filled.damage().unwrap();
        assert_eq!(damage.len(), 1);
        assert_eq!((damage[0].page, damage[0].offset, damage[0].bytes[0]), (2, 77, !before));
    }
}
