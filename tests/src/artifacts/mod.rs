//! What a guest boots from, made once and kept in `target/vm`: the kernel, the initramfs with our programs, and Debian's disk.

mod cpio;
mod debian;
mod kernel;

use crate::binaries::{self, Binaries};
use crate::error::{Attempt, Result};
use crate::vm::{System, Twin};
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
/// For a disk.
const DISK_MODULE: &str = "virtio_blk";
/// Our programs in the guest.
const PROGRAMS: [&str; 4] = ["netd", "netctl", "netd-peer", "netd-load"];
/// What a Debian carries beside them: the agent that its systemd starts, and what has needs of its own there.
const DEBIAN_PROGRAMS: [&str; 2] = ["netd-guest", "netd-services"];
/// An initramfs that nothing has asked for in this long belongs to an earlier build.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The files that QEMU loads for one twin.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM file system: the guest's whole file system, or what finds the disk and puts our programs on it.
    pub initramfs: PathBuf,
    /// A disk with a Debian; never written to.
    pub disk: Option<PathBuf>,
}

impl Artifacts {
    /// Takes everything from the cache; builds or downloads what is not there. `carried` names files for a Debian to find beside our
    /// programs.
    pub fn obtain(twin: Twin, system: System, carried: &[PathBuf]) -> Result<Artifacts> {
        // One thread makes them, the others wait and find them made.
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        install::ensure(install::VIRTUAL_MACHINE)?;
        let cache = cache_directory()?;
        let kernel = Kernel::obtain(&cache)?;
        let programs = Binaries::build()?;
        let (content, disk) = match system {
            System::Initramfs => (initramfs(twin, &kernel, &programs)?.finish(), None),
            System::Debian => {
                let content = debian_initramfs(twin, &kernel, &programs, carried)?.finish();
                (content, Some(debian::disk(&cache, &kernel)?))
            }
        };
        let initramfs = cache.join(format!("initramfs-{}.cpio", &digest::hex(&content)[..16]));
        if !initramfs.exists() {
            remove_stale(&cache);
            write_whole(&cache, &initramfs, &content)?;
        }
        Ok(Artifacts { kernel: kernel.image(), initramfs, disk })
    }
}

/// `target/vm`, made when it is not there.
pub fn cache_directory() -> Result<PathBuf> {
    let cache = binaries::target_directory()?.join("vm");
    fs::create_dir_all(&cache).attempt(|| format!("make {}", cache.display()))?;
    Ok(cache)
}

fn initramfs(twin: Twin, kernel: &Kernel, programs: &Binaries) -> Result<Archive> {
    let mut archive = foundation(programs, &PROGRAMS)?;
    for name in PROGRAMS {
        archive.file(&format!("bin/{name}"), &binaries::stripped(&programs.path(name))?);
    }
    add_modules(&mut archive, twin, kernel, &MODULES)?;
    Ok(archive)
}

/// Finds the disk, copies what lies in its `carried` to it, and goes there. Debian has the libraries that our programs were linked with.
fn debian_initramfs(
    twin: Twin,
    kernel: &Kernel,
    programs: &Binaries,
    carried: &[PathBuf],
) -> Result<Archive> {
    let mut archive = foundation(programs, &[])?;
    archive.directory("sysroot");
    for name in PROGRAMS.iter().chain(&DEBIAN_PROGRAMS) {
        archive.file(&format!("carried/{name}"), &binaries::stripped(&programs.path(name))?);
    }
    for path in carried {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("carried/{name}"), &read(path)?);
    }
    add_modules(&mut archive, twin, kernel, &[&MODULES[..], &[DISK_MODULE]].concat())?;
    Ok(archive)
}

/// What process 1 needs, and the libraries of further programs.
fn foundation(programs: &Binaries, further: &[&str]) -> Result<Archive> {
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
    for name in further {
        libraries.extend(binaries::libraries(&programs.path(name))?);
    }
    for library in libraries {
        archive.file(library.to_string_lossy().trim_start_matches('/'), &read(&library)?);
    }
    Ok(archive)
}

fn add_modules(archive: &mut Archive, twin: Twin, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let mut list = String::new();
    for module in kernel.load_order(names)? {
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
