//! Taking a function from its kernel driver for VFIO.
//!
//! In this order: everything that could speak against it is checked; what the function was is written to disk; then
//! its driver_override names vfio-pci, its driver is unbound and the kernel asked to probe anew. Whatever fails after
//! the first write is undone. Binding by driver_override concerns this function alone: `new_id` would take every
//! function with the same ids, the boot disk's controller among them.

use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::network::{self, NAME_WAIT, Restored};
use crate::state::{self, Record};
use crate::sysfs::{Group, Sysfs, read_optional};
use crate::{Bdf, Error, Function, Interface, Mac, deadman};

/// The kernel driver that hands functions to user space.
pub const VFIO_PCI: &str = "vfio-pci";
/// Drivers that VFIO accepts beside it in one group, since they never touch their function
/// (Documentation/driver-api/vfio.rst, "Groups, Devices, and IOMMUs").
const HARMLESS_DRIVERS: [&str; 2] = [VFIO_PCI, "pci-stub"];
/// How long the kernel's driver may take to show its interface: it does so while it probes, unless udev still has
/// to load the module for it.
const INTERFACE_WAIT: Duration = Duration::from_secs(2);
const INTERFACE_INTERVAL: Duration = Duration::from_millis(20);
/// What sysfs prints for a driver_override that is not set.
const OVERRIDE_UNSET: &str = "(null)";

/// How memory is protected from the function, which is what the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// An IOMMU confines the function to the memory mapped for it.
    Iommu,
    /// Nothing does: the function reaches all physical memory.
    NoIommu,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Iommu => "iommu",
            Isolation::NoIommu => "no-iommu",
        })
    }
}

/// Where it is remembered what functions were, unless told otherwise: gone after a boot, as the binding is.
pub const STATE_DIRECTORY: &str = "/run/netd";

/// How to bind.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// Take the function even if the machine's default route goes through it.
    pub allow_default_route: bool,
    /// Where to remember what the function was.
    pub state_dir: PathBuf,
    /// The take-over that promised to give it back ([`crate::deadman`]), and takes it only as long as the promise stands.
    pub pledged: Option<String>,
}

impl Default for BindOptions {
    fn default() -> BindOptions {
        BindOptions { allow_default_route: false, state_dir: PathBuf::from(STATE_DIRECTORY), pledged: None }
    }
}

/// A function that is bound to vfio-pci.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The driver it had before, which [`give_back`](crate::give_back) returns it to.
    pub previous_driver: Option<String>,
    /// What isolation it will have.
    pub isolation: Isolation,
    /// The address that its interface had.
    pub mac: Option<Mac>,
}

/// Binds a virtio network function to vfio-pci; does nothing when it is bound already.
///
/// # Errors
///
/// Refuses a function that is not there, is no virtio network device, carries the default route (unless allowed),
/// shares its IOMMU group with functions in use, or has neither an IOMMU nor no-IOMMU mode; and, for a take-over whose time is over,
/// with [`Error::PledgeOver`]. After a failure half way
/// the function is back with the driver it had.
pub fn bind(sysfs: &Sysfs, function: Bdf, options: &BindOptions) -> Result<Bound, Error> {
    check_bindable(sysfs, function, options)?;
    let _alone = state::lock(&options.state_dir, function)?;
    if let Some(token) = &options.pledged {
        // Whoever keeps the time may have found nothing to give back yet, and has gone home.
        let stands =
            deadman::pledge(&options.state_dir, function)?.is_some_and(|pledge| pledge.token == *token);
        if !stands {
            return Err(Error::PledgeOver { function });
        }
    }
    // Somebody else may have been at it while we waited.
    let found = check_bindable(sysfs, function, options)?;
    let remembered = state::load(&options.state_dir, function)?;
    if found.driver.as_deref() == Some(VFIO_PCI) {
        return already_bound(sysfs, function, remembered, options);
    }
    let record = record_of(sysfs, &found, remembered)?;
    state::store(&options.state_dir, &record)?;
    if let Err(failure) = take(sysfs, &found) {
        return Err(restore(sysfs, &record, failure, options));
    }
    bound(sysfs, function, record)
}

/// Says what speaks against binding a function, and changes nothing.
///
/// # Errors
///
/// The refusals of [`bind`].
pub fn check_bindable(sysfs: &Sysfs, function: Bdf, options: &BindOptions) -> Result<Function, Error> {
    let found = sysfs.function(function)?;
    if !found.is_virtio_net() {
        let Function { vendor_id, device_id, class, .. } = found;
        return Err(Error::NotVirtioNet { function, vendor_id, device_id, class });
    }
    if found.driver.as_deref() == Some(VFIO_PCI) {
        return Ok(found);
    }
    check_default_route(sysfs, &found, options)?;
    check_group(sysfs, &found)?;
    if !sysfs.vfio_pci_loaded() {
        return Err(Error::VfioPciMissing { function });
    }
    if found.iommu_group.is_none() {
        check_no_iommu(sysfs, function)?;
    }
    Ok(found)
}

fn already_bound(
    sysfs: &Sysfs,
    function: Bdf,
    remembered: Option<Record>,
    options: &BindOptions,
) -> Result<Bound, Error> {
    let record = match remembered {
        Some(record) => record,
        None => {
            let record = Record::unknown(function);
            state::store(&options.state_dir, &record)?;
            record
        }
    };
    bound(sysfs, function, record)
}

fn bound(sysfs: &Sysfs, function: Bdf, record: Record) -> Result<Bound, Error> {
    let isolation = match sysfs.group(function)? {
        Some(Group::Iommu(_)) => Isolation::Iommu,
        Some(Group::NoIommu(_)) | None => Isolation::NoIommu,
    };
    Ok(Bound { previous_driver: record.previous_driver, isolation, mac: record.mac })
}

fn check_default_route(sysfs: &Sysfs, found: &Function, options: &BindOptions) -> Result<(), Error> {
    if options.allow_default_route {
        return Ok(());
    }
    match sysfs.default_route_through(&found.interfaces)? {
        Some(interface) => Err(Error::DefaultRoute { function: found.bdf, interface }),
        None => Ok(()),
    }
}

/// VFIO opens a group only when no kernel driver uses any function of it.
///
/// # Errors
///
/// [`Error::GroupShared`], with those that do.
pub fn check_group(sysfs: &Sysfs, found: &Function) -> Result<(), Error> {
    let Some(group) = found.iommu_group else { return Ok(()) };
    let mut others = Vec::new();
    for &member in &found.group_members {
        if let Some(driver) = sysfs.driver(member)?
            && !HARMLESS_DRIVERS.contains(&driver.as_str())
        {
            others.push(format!("{member} ({driver})"));
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::GroupShared { function: found.bdf, group, others: others.join(", ") })
}

fn check_no_iommu(sysfs: &Sysfs, function: Bdf) -> Result<(), Error> {
    match sysfs.no_iommu_enabled()? {
        Some(true) => Ok(()),
        Some(false) => Err(Error::NoIommuDisabled { function, state: "off" }),
        None => Err(Error::NoIommuDisabled { function, state: "absent from this kernel" }),
    }
}

/// A record that is there while the function has no driver comes from a run that died between unbind and probe: what
/// it says of the function is older and truer than what can be seen now.
fn record_of(sysfs: &Sysfs, found: &Function, remembered: Option<Record>) -> Result<Record, Error> {
    match remembered {
        Some(record) if found.driver.is_none() => Ok(record),
        _ => Ok(Record {
            function: found.bdf,
            previous_driver: found.driver.clone(),
            previous_override: driver_override(sysfs, found.bdf)?.filter(|driver| driver != VFIO_PCI),
            mac: found.mac,
            interface: found.interfaces.first().map(|interface| interface.name.clone()),
            link: network::snapshot(sysfs, found.bdf)?,
        }),
    }
}

fn driver_override(sysfs: &Sysfs, function: Bdf) -> Result<Option<String>, Error> {
    let text = read_optional(&sysfs.function_directory(function).join("driver_override"))?;
    Ok(text.filter(|driver| !driver.is_empty() && driver != OVERRIDE_UNSET))
}

fn take(sysfs: &Sysfs, found: &Function) -> Result<(), Option<Error>> {
    set_override(sysfs, found.bdf, Some(VFIO_PCI))?;
    if let Some(driver) = &found.driver {
        unbind(sysfs, found.bdf, driver)?;
    }
    probe(sysfs, found.bdf)?;
    // Probing reports success when no driver wanted the function, too.
    if sysfs.driver(found.bdf)?.as_deref() == Some(VFIO_PCI) { Ok(()) } else { Err(None) }
}

/// Undoes a bind that failed, and says how that went.
fn restore(sysfs: &Sysfs, record: &Record, failure: Option<Error>, options: &BindOptions) -> Error {
    let function = record.function;
    let undone = match &failure {
        // Lack of privilege shows at the first write: nothing was changed.
        Some(Error::PermissionDenied { .. }) => Ok(()),
        _ => return_to_kernel(sysfs, record).map(drop),
    };
    if let Err(error) = undone.and_then(|()| state::remove(&options.state_dir, function)) {
        return error;
    }
    match failure {
        Some(denied @ Error::PermissionDenied { .. }) => denied,
        failure => {
            let restored = record.previous_driver.clone().unwrap_or_else(no_driver);
            Error::BindFailed { function, restored, source: failure.map(Box::new) }
        }
    }
}

/// Brings a function to the driver of its record, and its interface to what it had.
pub(crate) fn return_to_kernel(sysfs: &Sysfs, record: &Record) -> Result<(Vec<Interface>, Restored), Error> {
    return_to_driver(sysfs, record)?;
    let directory = sysfs.function_directory(record.function);
    let deadline = Instant::now() + INTERFACE_WAIT;
    while record.interface.is_some() && sysfs.interfaces(&directory)?.is_empty() && Instant::now() < deadline
    {
        thread::sleep(INTERFACE_INTERVAL);
    }
    let restored = match &record.link {
        Some(link) => network::restore(sysfs, record.function, link, NAME_WAIT)?,
        None => Restored::default(),
    };
    Ok((sysfs.interfaces(&directory)?, restored))
}

/// Brings a function without a driver, or with the wrong one, to the driver of its record.
///
/// The override names that driver while the kernel probes, so that no other driver that knows the function's ids
/// (vfio-pci, if somebody gave it `new_id`) can come first.
fn return_to_driver(sysfs: &Sysfs, record: &Record) -> Result<(), Error> {
    let Record { function, previous_driver, previous_override, .. } = record;
    set_override(sysfs, *function, previous_driver.as_deref())?;
    let current = sysfs.driver(*function)?;
    if current.is_none() || current.as_deref() == Some(VFIO_PCI) {
        if current.is_some() {
            unbind(sysfs, *function, VFIO_PCI)?;
        }
        probe(sysfs, *function)?;
    }
    set_override(sysfs, *function, previous_override.as_deref())?;
    let actual = sysfs.driver(*function)?;
    match previous_driver {
        Some(driver) if actual.as_ref() != Some(driver) => Err(Error::DriverDidNotReturn {
            function: *function,
            driver: driver.clone(),
            actual: actual.unwrap_or_else(no_driver),
        }),
        _ => Ok(()),
    }
}

pub(crate) fn no_driver() -> String {
    "no driver".to_owned()
}

/// An empty line unsets it.
fn set_override(sysfs: &Sysfs, function: Bdf, driver: Option<&str>) -> Result<(), Error> {
    let attribute = sysfs.function_directory(function).join("driver_override");
    sysfs.write(&attribute, &format!("{}\n", driver.unwrap_or_default()))
}

fn unbind(sysfs: &Sysfs, function: Bdf, driver: &str) -> Result<(), Error> {
    sysfs.write(&sysfs.driver_directory(driver).join("unbind"), &function.to_string())
}

fn probe(sysfs: &Sysfs, function: Bdf) -> Result<(), Error> {
    sysfs.write(&sysfs.path("sys/bus/pci/drivers_probe"), &function.to_string())
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
