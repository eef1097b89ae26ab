//! The kernel's files about PCI functions: /sys, /proc and /dev below one root, so that tests bring their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bind::VFIO_PCI;
use crate::sys::{Kernel, Linux};
use crate::{Bdf, Error};

/// The file trees through which the kernel shows PCI functions and takes orders about them.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    pub(crate) kernel: Arc<dyn Kernel>,
}

/// The IOMMU group of a function, or the group that VFIO made for it in no-IOMMU mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Iommu(u32),
    NoIommu(u32),
}

/// The name that VFIO gives to the groups it makes up (drivers/vfio, `iommu_group_set_name`).
const NO_IOMMU_GROUP_NAME: &str = "vfio-noiommu";

impl Sysfs {
    /// The running system's.
    pub fn system() -> Sysfs {
        Sysfs::at("/")
    }

    /// The trees below `root` (`root/sys`, `root/proc`, `root/dev`).
    pub fn at(root: impl Into<PathBuf>) -> Sysfs {
        Sysfs::with_kernel(root, Arc::new(Linux))
    }

    pub(crate) fn with_kernel(root: impl Into<PathBuf>, kernel: Arc<dyn Kernel>) -> Sysfs {
        Sysfs { root: root.into(), kernel }
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn functions_directory(&self) -> PathBuf {
        self.path("sys/bus/pci/devices")
    }

    pub(crate) fn function_directory(&self, function: Bdf) -> PathBuf {
        self.functions_directory().join(function.to_string())
    }

    /// Whether the kernel's driver that hands functions to user space is there.
    pub fn vfio_pci_loaded(&self) -> bool {
        self.driver_directory(VFIO_PCI).exists()
    }

    /// The directory of a PCI driver, which exists while the driver is loaded.
    pub(crate) fn driver_directory(&self, driver: &str) -> PathBuf {
        self.path("sys/bus/pci/drivers").join(driver)
    }

    /// The driver that has the function now.
    pub(crate) fn driver(&self, function: Bdf) -> Result<Option<String>, Error> {
        link_name(&self.function_directory(function).join("driver"))
    }

    pub(crate) fn group(&self, function: Bdf) -> Result<Option<Group>, Error> {
        let link = self.function_directory(function).join("iommu_group");
        let Some(name) = link_name(&link)? else { return Ok(None) };
        let Ok(number) = name.parse() else {
            return Err(Error::Unintelligible { path: link, value: name, expected: "a group number" });
        };
        let no_iommu = read_optional(&link.join("name"))?.is_some_and(|name| name == NO_IOMMU_GROUP_NAME);
        Ok(Some(if no_iommu { Group::NoIommu(number) } else { Group::Iommu(number) }))
    }

    /// The node that VFIO makes for a group.
    pub(crate) fn group_node(&self, group: Group) -> PathBuf {
        match group {
            Group::Iommu(number) => self.path("dev/vfio").join(number.to_string()),
            Group::NoIommu(number) => self.path("dev/vfio").join(format!("noiommu-{number}")),
        }
    }

    /// Whether VFIO may take functions without an IOMMU; `None` when this kernel or module has no such mode.
    ///
    /// # Errors
    ///
    /// The module's parameter cannot be read.
    pub fn no_iommu_enabled(&self) -> Result<Option<bool>, Error> {
        let parameter = self.path("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        Ok(read_optional(&parameter)?.map(|value| value == "Y" || value == "1"))
    }

    pub(crate) fn write(&self, path: &Path, value: &str) -> Result<(), Error> {
        self.kernel.write_attribute(path, value).map_err(|source| Error::file("write", path, source))
    }
}

/// The text of an attribute without its line end.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| Error::file("read", path, source))
}

/// The text of an attribute that may be absent.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", path, source)),
    }
}

/// A hexadecimal attribute such as `0x1af4`.
pub(crate) fn read_hex(path: &Path) -> Result<u32, Error> {
    let text = read(path)?;
    let number = text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.ok_or(Error::Unintelligible {
        path: path.to_owned(),
        value: text,
        expected: "a number like 0x1af4",
    })
}

/// The names in a directory, sorted; none when the directory is absent.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::file("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    names.sort();
    Ok(names)
}

/// The last component of what a link points to; `None` when there is no link.
fn link_name(link: &Path) -> Result<Option<String>, Error> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", link, source)),
    }
}
