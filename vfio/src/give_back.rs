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

use serde::Serialize;

use crate::bind::{VFIO_PCI, return_to_driver};
use crate::state::{self, Record};
use crate::sysfs::Sysfs;
use crate::{Bdf, Error, Interface};

/// How often a held group is tried again: fast enough for a restart, slow enough to cost nothing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long the kernel's driver may take to show its interface: it does so while it probes, unless udev still has
/// to load the module for it.
const INTERFACE_WAIT: Duration = Duration::from_secs(2);

/// A function that was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GivenBack {
    /// The kernel driver that has it now.
    pub driver: Option<String>,
    /// The interfaces that the driver made.
    pub interfaces: Vec<Interface>,
}

/// Gives a function back to the driver that it had before [`bind`](crate::bind), waiting up to `wait` for whoever
/// still holds it. A function that has a kernel driver and no record is left alone.
///
/// # Errors
///
/// [`Error::InUse`] when somebody still holds the function after `wait`: nothing was changed then.
/// [`Error::DriverDidNotReturn`] when the former driver does not take it; the record is kept, so that it can be
/// tried again.
pub fn give_back(sysfs: &Sysfs, function: Bdf, state_dir: &Path, wait: Duration) -> Result<GivenBack, Error> {
    let found = sysfs.function(function)?;
    let remembered = state::load(state_dir, function)?;
    let with_vfio = found.driver.as_deref() == Some(VFIO_PCI);
    if found.driver.is_some() && !with_vfio && remembered.is_none() {
        return Ok(GivenBack { driver: found.driver, interfaces: found.interfaces });
    }
    let record = remembered.unwrap_or_else(|| Record::unknown(function));
    let group = if with_vfio { hold_group(sysfs, function, wait)? } else { None };
    return_to_driver(sysfs, &record)?;
    // Only now: held until here, nobody could open the function while its driver was unbound.
    drop(group);
    state::remove(state_dir, function)?;
    let driver = sysfs.driver(function)?;
    let interfaces = wait_for_interfaces(sysfs, function, record.interface.is_some())?;
    Ok(GivenBack { driver, interfaces })
}

/// Opens the function's group, which only works while nobody else has it.
fn hold_group(sysfs: &Sysfs, function: Bdf, wait: Duration) -> Result<Option<OwnedFd>, Error> {
    let Some(group) = sysfs.group(function)? else { return Ok(None) };
    let node = sysfs.group_node(group);
    let deadline = Instant::now() + wait;
    loop {
        match sysfs.kernel.open_group(&node) {
            Ok(descriptor) => return Ok(Some(descriptor)),
            Err(error) if is_busy(&error) && Instant::now() < deadline => thread::sleep(RETRY_INTERVAL),
            Err(error) => return Err(group_error(sysfs, function, node, error)),
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// What it means that a group node could not be opened.
pub(crate) fn group_error(sysfs: &Sysfs, function: Bdf, node: PathBuf, error: io::Error) -> Error {
    if is_busy(&error) {
        let holder = holder(sysfs, &node).unwrap_or_else(|| "/proc does not show which".to_owned());
        return Error::InUse { function, group: node, holder };
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        let needs = "root, or read and write access to that node, and CAP_SYS_RAWIO where there is no IOMMU";
        return Error::PermissionDenied { action: "open", path: node, needs };
    }
    Error::File { action: "open", path: node, source: error }
}

/// The process that has a node open, as far as we may look into others.
fn holder(sysfs: &Sysfs, node: &Path) -> Option<String> {
    let process = fs::read_dir(sysfs.path("proc")).ok()?.flatten().find(|process| {
        let is_process = process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        is_process && has_open(&process.path(), node)
    })?;
    let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    Some(format!("process {} {}", process.file_name().to_string_lossy(), name.trim_end()))
}

fn has_open(process: &Path, node: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == node))
}

fn wait_for_interfaces(sysfs: &Sysfs, function: Bdf, expected: bool) -> Result<Vec<Interface>, Error> {
    let deadline = Instant::now() + INTERFACE_WAIT;
    loop {
        let interfaces = sysfs.interfaces(&sysfs.function_directory(function))?;
        if !interfaces.is_empty() || !expected || Instant::now() >= deadline {
            return Ok(interfaces);
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

#[cfg(test)]
#[path = "give_back_tests.rs"]
mod tests;
