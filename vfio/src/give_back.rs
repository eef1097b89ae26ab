//! Giving a function back to the driver it had.
//!
//! Writing to `unbind` while anybody has the function open blocks the writer in the kernel, unkillably. A VFIO group
//! can be open once only, and every open device holds its group: so that we can open the group proves that nobody
//! has the function, and as long as we keep it open nobody can come in between.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use crate::bind::{STATE_DIRECTORY, VFIO_PCI, return_to_kernel};
use crate::network::Restored;
use crate::state::{self, Lock, Record};
use crate::sysfs::Sysfs;
use crate::{Bdf, DmaPool, DmaPoolOptions, Error, Interface, deadman};

/// How often a held group is tried again: fast enough for a restart, slow enough to cost nothing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How to give back.
#[derive(Clone, Debug)]
pub struct GiveBackOptions {
    /// Where it is remembered what the function was.
    pub state_dir: PathBuf,
    /// How long to wait for whoever still holds the function.
    pub wait: Duration,
    /// Whether to end whoever holds it: asked to at once (SIGTERM), and not asked any more after half of `wait` (SIGKILL).
    pub evict: bool,
    /// Where the memory of a daemon that was killed may still lie; it is freed.
    pub hugetlbfs: PathBuf,
}

impl Default for GiveBackOptions {
    fn default() -> GiveBackOptions {
        GiveBackOptions {
            state_dir: PathBuf::from(STATE_DIRECTORY),
            wait: WAIT_DEFAULT,
            evict: false,
            hugetlbfs: DmaPoolOptions::default().hugetlbfs,
        }
    }
}

/// A daemon that ends resets its device and closes its clients' sockets, in a second or two.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// A function that was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GivenBack {
    /// The kernel driver that has it now.
    pub driver: Option<String>,
    /// The interfaces that the driver made.
    pub interfaces: Vec<Interface>,
    /// What they have again.
    pub restored: Restored,
}

/// Gives a function back to the driver that it had before [`bind`](crate::bind), and its interface what it had, waiting
/// for whoever still holds it. A function that has a kernel driver and no record is left alone.
///
/// # Errors
///
/// [`Error::InUse`] when somebody still holds the function after the wait: nothing was changed then.
/// [`Error::DriverDidNotReturn`] and [`Error::NotRestored`] when the former driver does not take it, or the kernel not what its
/// interface had; the record is kept, so that it can be tried again.
pub fn give_back(sysfs: &Sysfs, function: Bdf, options: &GiveBackOptions) -> Result<GivenBack, Error> {
    let lock = state::lock(&options.state_dir, function)?;
    give_back_locked(sysfs, function, options, &lock)
}

/// The same, for who is alone at it already.
pub(crate) fn give_back_locked(
    sysfs: &Sysfs,
    function: Bdf,
    options: &GiveBackOptions,
    _lock: &Lock,
) -> Result<GivenBack, Error> {
    let found = sysfs.function(function)?;
    let remembered = state::load(&options.state_dir, function)?;
    let with_vfio = found.driver.as_deref() == Some(VFIO_PCI);
    if found.driver.is_some() && !with_vfio && remembered.is_none() {
        deadman::forget(&options.state_dir, function)?;
        let restored = Restored::default();
        return Ok(GivenBack { driver: found.driver, interfaces: found.interfaces, restored });
    }
    let record = remembered.unwrap_or_else(|| Record::unknown(function));
    let group = if with_vfio { hold_group(sysfs, function, options)? } else { None };
    let returned = return_to_kernel(sysfs, &record);
    // Only now: held until here, nobody could open the function while its driver was unbound.
    drop(group);
    let driver = sysfs.driver(function)?;
    if driver.is_some() {
        // The kernel's driver reset the device as it took it over, so nothing writes to that memory any more.
        DmaPool::remove_stale(function, &DmaPoolOptions { hugetlbfs: options.hugetlbfs.clone() })?;
    }
    let (interfaces, restored) = returned?;
    state::remove(&options.state_dir, function)?;
    deadman::forget(&options.state_dir, function)?;
    Ok(GivenBack { driver, interfaces, restored })
}

/// Opens the function's group, which only works while nobody else has it.
fn hold_group(sysfs: &Sysfs, function: Bdf, options: &GiveBackOptions) -> Result<Option<OwnedFd>, Error> {
    let Some(group) = sysfs.group(function)? else { return Ok(None) };
    let node = sysfs.group_node(group);
    let started = Instant::now();
    let mut asked = None;
    loop {
        let waited = started.elapsed();
        match sysfs.kernel.open_group(&node) {
            Ok(descriptor) => return Ok(Some(descriptor)),
            Err(error) if is_busy(&error) && waited < options.wait => {
                if options.evict {
                    let force = waited >= options.wait / 2;
                    evict(sysfs, &node, force, &mut asked);
                }
                thread::sleep(RETRY_INTERVAL);
            }
            Err(error) => return Err(group_error(sysfs, function, node, error)),
        }
    }
}

/// Ends whoever has a node open. Nobody is asked twice, but for one who came after the last was gone.
fn evict(sysfs: &Sysfs, node: &Path, force: bool, asked: &mut Option<(u32, bool)>) {
    let Some(Holder { process, name }) = holder(sysfs, node) else { return };
    if *asked == Some((process, force)) {
        return;
    }
    let signal = if force { Signal::KILL } else { Signal::TERM };
    tracing::warn!(process, name, ?signal, "ending the process that holds the function");
    // It may have ended by itself, and one that cannot be ended is named when the wait is over.
    let _ = sysfs.kernel.signal(process, signal);
    *asked = Some((process, force));
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// What it means that a group node could not be opened.
pub(crate) fn group_error(sysfs: &Sysfs, function: Bdf, node: PathBuf, error: io::Error) -> Error {
    if is_busy(&error) {
        let holder = holder(sysfs, &node).map_or_else(
            || "/proc does not show which".to_owned(),
            |Holder { process, name }| format!("process {process} {name}"),
        );
        return Error::InUse { function, group: node, holder };
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        let needs = "root, or read and write access to that node, and CAP_SYS_RAWIO where there is no IOMMU";
        return Error::PermissionDenied { action: "open", path: node, needs };
    }
    Error::File { action: "open", path: node, source: error }
}

struct Holder {
    process: u32,
    name: String,
}

/// The process that has a node open, as far as we may look into others.
fn holder(sysfs: &Sysfs, node: &Path) -> Option<Holder> {
    fs::read_dir(sysfs.path("proc")).ok()?.flatten().find_map(|process| {
        let number = process.file_name().to_str()?.parse().ok()?;
        let directory = process.path();
        has_open(&directory, node).then(|| {
            let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
            Holder { process: number, name: name.trim_end().to_owned() }
        })
    })
}

fn has_open(process: &Path, node: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == node))
}

#[cfg(test)]
#[path = "give_back_tests.rs"]
mod tests;
