//! What the kernel's network had on a function: its interface's name, MTU, whether it was up, addresses and routes.
//!
//! All of it goes with the interface when the function is unbound. It is remembered before, and put back after the
//! function's driver has made its interface anew. Addresses and routes are kept as the kernel tells them, so that nothing of
//! them is lost. What the kernel makes by itself is left to it: prefix routes, and what routers advertise.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use serde::{Deserialize, Serialize};

use crate::netlink::Change;
use crate::sysfs::{Sysfs, read, read_hex};
use crate::{Bdf, Error};

/// Bit of an interface's flags: an operator switched it on (linux/if.h, IFF_UP).
const IFF_UP: u32 = 1;
/// The routing table of the machine's own addresses (linux/rtnetlink.h, RT_TABLE_LOCAL), which the kernel keeps.
const TABLE_LOCAL: u8 = 255;
/// udev names a new interface within tenths of a second; a busy machine has room.
pub(crate) const NAME_WAIT: Duration = Duration::from_secs(3);
const NAME_INTERVAL: Duration = Duration::from_millis(20);

/// An interface as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) addresses: Vec<Kept>,
    pub(crate) routes: Vec<Kept>,
}

/// An address or a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// For people who read the file.
    pub(crate) text: String,
    /// The kernel's message, in hexadecimal.
    message: String,
}

/// What was put back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Addresses, as `10.0.0.2/24`.
    pub addresses: Vec<String>,
    /// Routes, as `default via 10.0.0.1`.
    pub routes: Vec<String>,
}

/// The first interface of a function as it is now.
pub(crate) fn snapshot(sysfs: &Sysfs, function: Bdf) -> Result<Option<Link>, Error> {
    let Some(place) = sysfs.interface_places(&sysfs.function_directory(function))?.into_iter().next() else {
        return Ok(None);
    };
    let index = number(&place.join("ifindex"))?;
    let failed = |source| Error::Network { function, action: "read the addresses and routes of", source };
    let mut addresses = sysfs.kernel.addresses().map_err(failed)?;
    addresses.retain(|address| address.header.index == index && is_ours_to_keep(address));
    let mut routes = sysfs.kernel.routes().map_err(failed)?;
    routes.retain(|route| output(route) == Some(index) && is_an_operators(route));
    // A gateway must be reachable before its route is accepted: what is on the link comes first.
    routes.sort_by_key(|route| gateway(route).is_some());
    Ok(Some(Link {
        name: place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        mtu: number(&place.join("mtu"))?,
        up: read_hex(&place.join("flags"))? & IFF_UP != 0,
        addresses: addresses.iter().map(|address| Kept::new(address_text(address), address)).collect(),
        routes: routes.iter().map(|route| Kept::new(route_text(route), route)).collect(),
    }))
}

/// Puts back what [`snapshot`] found, onto the interface that the function has now. What is there already is left alone.
///
/// `name_wait` is how long udev may take to give the interface its name; after that we do.
pub(crate) fn restore(
    sysfs: &Sysfs,
    function: Bdf,
    link: &Link,
    name_wait: Duration,
) -> Result<Restored, Error> {
    let failed = |source| Error::Network { function, action: "configure", source };
    let place = named_place(sysfs, function, &link.name, name_wait)?;
    let index = number(&place.join("ifindex"))?;
    let mut refused = Vec::new();
    let mut change = LinkMessage::default();
    change.header.index = index;
    // Before it is switched on: one that is up cannot be renamed everywhere.
    if !place.ends_with(&link.name) {
        let mut rename = change.clone();
        rename.attributes.push(LinkAttribute::IfName(link.name.clone()));
        if let Err(error) = sysfs.kernel.change_network(Change::Link(rename)) {
            refused.push(format!("its name {} ({error})", link.name));
        }
    }
    change.attributes.push(LinkAttribute::Mtu(link.mtu));
    if link.up {
        change.header.flags = LinkFlags::Up;
        change.header.change_mask = LinkFlags::Up;
    }
    sysfs.kernel.change_network(Change::Link(change)).map_err(failed)?;
    let mut restored = Restored::default();
    for kept in &link.addresses {
        let change = kept.address(index).map(Change::Address);
        put_back(sysfs, kept, change, &mut restored.addresses, &mut refused);
    }
    // The kernel takes routes only through an interface that is up; one that was down had none.
    for kept in link.routes.iter().filter(|_| link.up) {
        let change = kept.route(index).map(Change::Route);
        put_back(sysfs, kept, change, &mut restored.routes, &mut refused);
    }
    if refused.is_empty() {
        Ok(restored)
    } else {
        Err(Error::NotRestored { function, refused: refused.join(", ") })
    }
}

fn put_back(
    sysfs: &Sysfs,
    kept: &Kept,
    change: io::Result<Change>,
    done: &mut Vec<String>,
    refused: &mut Vec<String>,
) {
    match change.and_then(|change| sysfs.kernel.change_network(change)) {
        Ok(()) => done.push(kept.text.clone()),
        // The kernel, or a program that configures what appears, was faster; or this is the second try.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => done.push(kept.text.clone()),
        Err(error) => refused.push(format!("{} ({error})", kept.text)),
    }
}

/// The directory of the function's interface, once it has the name that it had, or will not get it.
fn named_place(sysfs: &Sysfs, function: Bdf, name: &str, wait: Duration) -> Result<PathBuf, Error> {
    let deadline = Instant::now() + wait;
    loop {
        let places = sysfs.interface_places(&sysfs.function_directory(function))?;
        if let Some(place) = places.iter().find(|place| place.ends_with(name)) {
            return Ok(place.clone());
        }
        if Instant::now() >= deadline {
            let first = places.into_iter().next();
            return first.ok_or(Error::NoInterface { function, interface: name.to_owned() });
        }
        thread::sleep(NAME_INTERVAL);
    }
}

fn number(path: &Path) -> Result<u32, Error> {
    let text = read(path)?;
    text.parse().map_err(|_| Error::Unintelligible {
        path: path.to_owned(),
        value: text,
        expected: "a number",
    })
}

/// Temporary addresses, and an IPv6 interface's own link-local one, the kernel makes anew.
fn is_ours_to_keep(address: &AddressMessage) -> bool {
    let flags = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    // For IPv4 the first flag means "secondary", for IPv6 "temporary".
    let of_ipv6 = address_of(address).is_some_and(|address| address.is_ipv6());
    !(of_ipv6 && flags.is_some_and(|flags| flags.contains(AddressFlags::Secondary)))
}

fn is_an_operators(route: &RouteMessage) -> bool {
    let RouteHeader { table, protocol, kind, flags, .. } = &route.header;
    *kind == RouteType::Unicast
        && *table != TABLE_LOCAL
        && !matches!(protocol, RouteProtocol::Kernel | RouteProtocol::Ra | RouteProtocol::IcmpRedirect)
        && !flags.contains(RouteFlags::Cloned)
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn gateway(route: &RouteMessage) -> Option<String> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => host(address),
        _ => None,
    })
}

fn host(address: &RouteAddress) -> Option<String> {
    match address {
        RouteAddress::Inet(address) => Some(address.to_string()),
        RouteAddress::Inet6(address) => Some(address.to_string()),
        _ => None,
    }
}

fn address_of(address: &AddressMessage) -> Option<std::net::IpAddr> {
    // On point-to-point links the two differ, and ours is the local one.
    let local = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn address_text(address: &AddressMessage) -> String {
    let host = address_of(address).map_or_else(|| "?".to_owned(), |address| address.to_string());
    format!("{host}/{}", address.header.prefix_len)
}

fn route_text(route: &RouteMessage) -> String {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => host(address),
        _ => None,
    });
    let mut text = match destination {
        Some(destination) => format!("{destination}/{}", route.header.destination_prefix_length),
        None => "default".to_owned(),
    };
    if let Some(gateway) = gateway(route) {
        text.push_str(&format!(" via {gateway}"));
    }
    text
}

impl Kept {
    fn new(text: String, message: &impl Emitable) -> Kept {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let message = bytes.iter().fold(String::new(), |mut digits, byte| {
            // Writing to a string does not fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        Kept { text, message }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let digits = self.message.as_bytes();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        digits.chunks(2).map(byte).collect::<Option<_>>().ok_or_else(damaged)
    }

    fn address(&self, index: u32) -> io::Result<AddressMessage> {
        let mut address = AddressMessage::parse(&self.bytes()?).map_err(|_| damaged())?;
        address.header.index = index;
        Ok(address)
    }

    /// With what the kernel observed of the route left out: it refuses to be told.
    fn route(&self, index: u32) -> io::Result<RouteMessage> {
        let mut route = RouteMessage::parse(&self.bytes()?).map_err(|_| damaged())?;
        route.header.flags &= RouteFlags::Onlink;
        route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
        for attribute in &mut route.attributes {
            if let RouteAttribute::Oif(output) = attribute {
                *output = index;
            }
        }
        Ok(route)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of it is damaged")
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
