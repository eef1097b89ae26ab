//! What a guest boots from, made once and kept in `target/vm`: the kernel, and the initramfs with our programs.

mod cpio;
mod kernel;

use crate::binaries::{self, Binaries};
use crate::error::{Attempt, Result};
use crate::vm::Twin;
use crate::{digest, install};
use cpio::Archive;
use kernel::Kernel;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// What every guest loads: its own console to the harness, the NIC's kernel driver, VFIO.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "virtio_net", "vfio_iommu_type1", "vfio-pci"];
/// Our programs in the guest.
const PROGRAMS: [&str; 4] = ["netd", "netctl", "netd-peer", "netd-load"];
/// An initramfs that nothing has asked for in this long belongs to an earlier build.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The files that QEMU loads for one twin.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM file system, which is the guest's whole file system.
    pub initramfs: PathBuf,
}

impl Artifacts {
    /// Takes everything from the cache; builds or downloads what is not there.
    pub fn obtain(twin: Twin) -> Result<Artifacts> {
        // One thread makes them, the others wait and find them made.
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        install::ensure(install::VIRTUAL_MACHINE)?;
        let cache = cache_directory()?;
        let kernel = Kernel::obtain(&cache)?;
        let content = initramfs(twin, &kernel, &Binaries::build()?)?;
        let initramfs = cache.join(format!("initramfs-{}.cpio", &digest::hex(&content)[..16]));
        if !initramfs.exists() {
            remove_stale(&cache);
            write_whole(&cache, &initramfs, &content)?;
        }
        Ok(Artifacts { kernel: kernel.image(), initramfs })
    }
}

/// `target/vm`, made when it is not there.
pub fn cache_directory() -> Result<PathBuf> {
    let cache = binaries::target_directory()?.join("vm");
    fs::create_dir_all(&cache).attempt(|| format!("make {}", cache.display()))?;
    Ok(cache)
}

fn initramfs(twin: Twin, kernel: &Kernel, programs: &Binaries) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "run", "tmp", "root", "etc", "var", "sbin"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &read(Path::new("/bin/busybox"))?);
    archive.symlink("bin/sh", "busybox");
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("init", &binaries::stripped(&programs.path("netd-guest"))?);
    let mut libraries = BTreeSet::from_iter(binaries::libraries(&programs.path("netd-guest"))?);
    for name in PROGRAMS {
        archive.file(&format!("bin/{name}"), &binaries::stripped(&programs.path(name))?);
        libraries.extend(binaries::libraries(&programs.path(name))?);
    }
    for library in libraries {
        archive.file(library.to_string_lossy().trim_start_matches('/'), &read(&library)?);
    }
    add_modules(&mut archive, twin, kernel)?;
    Ok(archive.finish())
}

fn add_modules(archive: &mut Archive, twin: Twin, kernel: &Kernel) -> Result<()> {
    let mut list = String::new();
    for module in kernel.load_order(&MODULES)? {
        let is_vfio = module.ends_with("/vfio.ko");
        let (source, parameters) = match twin {
            Twin::Gce if is_vfio => (kernel.noiommu_vfio(), " enable_unsafe_noiommu_mode=1"),
            _ => (kernel.modules().join(&module), ""),
        };
        let path = format!("lib/modules/{module}");
        archive.file(&path, &read(&source)?);
        list.push_str(&format!("/{path}{parameters}\n"));
    }
    archive.file("etc/modules", list.as_bytes());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).attempt(|| format!("read {}", path.display()))
}

/// A reader never sees half of it.
fn write_whole(cache: &Path, target: &Path, content: &[u8]) -> Result<()> {
    let scratch =
        tempfile::NamedTempFile::new_in(cache).attempt(|| format!("write in {}", cache.display()))?;
    fs::write(scratch.path(), content).attempt(|| format!("write {}", scratch.path().display()))?;
    scratch.persist(target).map_err(|error| error.error).attempt(|| format!("write {}", target.display()))?;
    Ok(())
}

/// Keeps the cache from growing by one initramfs a build. Failing to tidy up is no reason to fail.
fn remove_stale(cache: &Path) {
    let Ok(listing) = fs::read_dir(cache) else { return };
    for entry in listing.flatten() {
        let is_initramfs = entry.file_name().to_string_lossy().starts_with("initramfs-");
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        if is_initramfs && age.is_some_and(|age| age > STALE_AFTER) {
            let _left_behind = fs::remove_file(entry.path());
        }
    }
}
