//! The network functions of the machine, as sysfs shows them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::routes::default_route_interfaces;
use crate::sysfs::{Group, Sysfs, names, read_hex, read_optional};
use crate::{Bdf, Error, Mac};

/// The vendor id of every virtio device (virtio 1.3, 4.1.2).
const VIRTIO_VENDOR: u16 = 0x1af4;
/// Transitional network device (virtio 1.3, 4.1.2.1).
const VIRTIO_NET_TRANSITIONAL: u16 = 0x1000;
/// Network device: 0x1040 plus device type 1 (virtio 1.3, 4.1.2 and 5.1.1).
const VIRTIO_NET_MODERN: u16 = 0x1041;
/// PCI base class of network controllers, the upper byte of the class code.
const CLASS_NETWORK: u32 = 0x02;
/// PCI base class of bridges: they carry other functions and do no DMA of their own.
const CLASS_BRIDGE: u32 = 0x06;
/// How many interfaces may be stacked on a function's: VLAN on bond on failover is three.
const STACKED_INTERFACES_MAX: usize = 8;

/// A PCI network function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its address.
    pub bdf: Bdf,
    /// PCI vendor id.
    pub vendor_id: u16,
    /// PCI device id.
    pub device_id: u16,
    /// PCI class code, 24 bits: base class, subclass, programming interface.
    pub class: u32,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group; `None` without an IOMMU (a group that VFIO made up for no-IOMMU mode is none).
    pub iommu_group: Option<u32>,
    /// The other functions of that group, bridges left out.
    pub group_members: Vec<Bdf>,
    /// The kernel's interfaces on it; none while VFIO has it.
    pub interfaces: Vec<Interface>,
    /// The address of its first interface.
    pub mac: Option<Mac>,
    /// Whether a default route (IPv4 or IPv6) goes through it, directly or through an interface stacked on it.
    pub default_route: bool,
}

/// A network interface of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address; `None` where it is not an Ethernet one.
    pub mac: Option<Mac>,
}

impl Function {
    /// Whether this is a virtio network device, transitional or modern.
    pub fn is_virtio_net(&self) -> bool {
        // Transitional ids lie in the range of every legacy device, so the class decides as well.
        let known = matches!(self.device_id, VIRTIO_NET_TRANSITIONAL | VIRTIO_NET_MODERN);
        self.vendor_id == VIRTIO_VENDOR && known && self.class >> 16 == CLASS_NETWORK
    }
}

impl Sysfs {
    /// Every PCI function of the machine, in the order of their addresses.
    pub fn functions(&self) -> Result<Vec<Function>, Error> {
        // sysfs lists nothing else here; what does not parse cannot be named by an operator either.
        let listed = names(&self.functions_directory())?;
        let mut addresses: Vec<Bdf> = listed.iter().filter_map(|name| name.parse().ok()).collect();
        addresses.sort();
        addresses.into_iter().map(|bdf| self.describe(bdf)).collect()
    }

    /// Every PCI network function, in the order of their addresses.
    pub fn network_functions(&self) -> Result<Vec<Function>, Error> {
        let mut functions = self.functions()?;
        functions.retain(|function| function.class >> 16 == CLASS_NETWORK);
        Ok(functions)
    }

    /// One function, of any class.
    pub fn function(&self, bdf: Bdf) -> Result<Function, Error> {
        if self.function_directory(bdf).exists() {
            return self.describe(bdf);
        }
        let present: Vec<String> = self.network_functions()?.iter().map(|f| f.bdf.to_string()).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        Err(Error::NoSuchFunction { function: bdf, present })
    }

    fn base_class(&self, bdf: Bdf) -> Result<u32, Error> {
        Ok(read_hex(&self.function_directory(bdf).join("class"))? >> 16)
    }

    fn describe(&self, bdf: Bdf) -> Result<Function, Error> {
        let directory = self.function_directory(bdf);
        let iommu_group = match self.group(bdf)? {
            Some(Group::Iommu(number)) => Some(number),
            Some(Group::NoIommu(_)) | None => None,
        };
        let interfaces = self.interfaces(&directory)?;
        Ok(Function {
            bdf,
            vendor_id: read_id(&directory.join("vendor"))?,
            device_id: read_id(&directory.join("device"))?,
            class: read_hex(&directory.join("class"))?,
            driver: self.driver(bdf)?,
            iommu_group,
            group_members: if iommu_group.is_some() { self.group_members(bdf)? } else { Vec::new() },
            mac: interfaces.first().and_then(|interface| interface.mac),
            default_route: self.default_route_through(&interfaces)?.is_some(),
            interfaces,
        })
    }

    fn group_members(&self, bdf: Bdf) -> Result<Vec<Bdf>, Error> {
        let mut members = Vec::new();
        for name in names(&self.function_directory(bdf).join("iommu_group/devices"))? {
            // A group may hold devices of other buses; VFIO's PCI view does not reach them.
            let Ok(member) = name.parse::<Bdf>() else { continue };
            if member != bdf && self.base_class(member)? != CLASS_BRIDGE {
                members.push(member);
            }
        }
        members.sort();
        Ok(members)
    }

    pub(crate) fn interfaces(&self, function_directory: &Path) -> Result<Vec<Interface>, Error> {
        let interface = |place: PathBuf| {
            let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let address = read_optional(&place.join("address"))?;
            Ok(Interface { name, mac: address.and_then(|text| text.parse().ok()) })
        };
        self.interface_places(function_directory)?.into_iter().map(interface).collect()
    }

    /// The directories of its interfaces, which are named like them. They hang below the function itself, or below the virtio device
    /// that its driver made.
    pub(crate) fn interface_places(&self, function_directory: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut places = Vec::new();
        let virtio = names(function_directory)?.into_iter().filter(|name| name.starts_with("virtio"));
        let parents = virtio.map(|name| function_directory.join(name)).chain([function_directory.to_owned()]);
        for parent in parents {
            let net = parent.join("net");
            places.extend(names(&net)?.into_iter().map(|name| net.join(name)));
        }
        Ok(places)
    }

    /// The interface through which a default route reaches one of these, if any does.
    pub(crate) fn default_route_through(&self, interfaces: &[Interface]) -> Result<Option<String>, Error> {
        if interfaces.is_empty() {
            return Ok(None);
        }
        let routed = default_route_interfaces(self)?;
        let mut level: BTreeSet<String> = interfaces.iter().map(|interface| interface.name.clone()).collect();
        for _ in 0..STACKED_INTERFACES_MAX {
            if let Some(name) = level.intersection(&routed).next() {
                return Ok(Some(name.clone()));
            }
            level = self.stacked_on(&level)?;
        }
        Ok(None)
    }

    /// Bridges, bonds and VLANs show as `upper_NAME` in the interfaces they use.
    fn stacked_on(&self, interfaces: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        let mut uppers = BTreeSet::new();
        for interface in interfaces {
            let entries = names(&self.path("sys/class/net").join(interface))?;
            uppers.extend(entries.iter().filter_map(|entry| entry.strip_prefix("upper_")).map(str::to_owned));
        }
        Ok(uppers)
    }
}

fn read_id(path: &Path) -> Result<u16, Error> {
    let value = read_hex(path)?;
    u16::try_from(value).map_err(|_| Error::Unintelligible {
        path: path.to_owned(),
        value: format!("{value:#x}"),
        expected: "a 16-bit PCI id",
    })
}
