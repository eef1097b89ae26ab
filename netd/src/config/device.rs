//! `[device]`: which device is driven, and how.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use netd_ipc::PollMode;
use netd_policy::file::Spanned;
use netd_softdev::INTERFACE_NAME_MAX;
use netd_vfio::{Mac, Selector};
use netd_virtqueue::{Switches, VhostUserRole};
use serde::Deserialize;

use crate::config::complaint::{Complaint, parse_at};

/// MTUs that virtio-net devices announce: IPv6's minimum to the largest jumbo frame in use.
const SOFTWARE_MTU: RangeInclusive<u16> = 1280..=9216;
const SOFTWARE_MTU_DEFAULT: u16 = 1500;

/// The device to drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A PCI function through VFIO.
    Vfio {
        /// Which.
        function: Selector,
    },
    /// The software device.
    Software {
        /// What carries its frames.
        link: Link,
        /// Its address; none means a random one.
        mac: Option<[u8; 6]>,
        /// Its MTU.
        mtu: u16,
    },
    /// A device in another process.
    VhostUser(VhostUserDevice),
}

/// A vhost-user backend, and what it does not know of its own device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUserDevice {
    /// The socket between us.
    pub socket: PathBuf,
    /// Which side of it we are.
    pub role: VhostUserRole,
    /// Our address; none means a random one.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet.
    pub mtu: u16,
}

impl Device {
    /// Whether it has the same hardware address at every start.
    pub fn keeps_its_mac(&self) -> bool {
        match self {
            Device::Vfio { .. } => true,
            Device::Software { mac, .. } | Device::VhostUser(VhostUserDevice { mac, .. }) => mac.is_some(),
        }
    }
}

/// What carries the frames of a software device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A socket in QEMU's stream format.
    Socket {
        /// Where the program at the other end serves it.
        path: PathBuf,
    },
    /// A tap of the kernel's.
    Tap {
        /// Its name.
        interface: String,
    },
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(extend("allOf" = needs())))]
pub(super) struct RawDevice {
    /// Which kind of device is driven.
    kind: RawKind,
    /// With `kind = "vfio"`: the PCI function, see `netd function list`.
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["0000:00:03.0"])))]
    function: Option<Spanned<String>>,
    /// With `kind = "software"`: what carries its frames.
    link: Option<Spanned<RawLink>>,
    /// With `kind = "vhost-user"`: the socket between us and the backend.
    socket: Option<Spanned<PathBuf>>,
    /// With `kind = "vhost-user"`: which side of the socket we are; the client unless given.
    role: Option<Spanned<RawRole>>,
    /// The hardware address of a device that has none of its own; random unless given.
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["02:00:00:00:00:01"])))]
    mac: Option<Spanned<String>>,
    /// The largest IP packet of a device that does not say.
    #[cfg_attr(feature = "schema", schemars(range(min = *SOFTWARE_MTU.start(), max = *SOFTWARE_MTU.end()), extend("default" = SOFTWARE_MTU_DEFAULT)))]
    mtu: Option<Spanned<u16>>,
    /// How the worker waits for frames: `busy` unless given, and `adaptive` for a software device.
    poll: Option<PollMode>,
    /// What the device offers is used; each of these can be left alone with `false`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(schema_with = "features"))]
    features: BTreeMap<Spanned<String>, bool>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    /// A PCI function that is bound to vfio-pci.
    Vfio,
    /// A device in another process: DPDK, Open vSwitch.
    VhostUser,
    /// The software device in netd's own process.
    Software,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawRole {
    /// We connect to the socket.
    Client,
    /// We listen at the socket.
    Server,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    /// What it is.
    kind: RawLinkKind,
    /// With `kind = "socket"`: where the program at the other end serves it.
    path: Option<PathBuf>,
    /// With `kind = "tap"`: the name of the interface.
    interface: Option<Spanned<String>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawLinkKind {
    /// A socket in QEMU's stream format, such as passt's.
    Socket,
    /// A tap of the kernel's.
    Tap,
}

pub(super) fn check_device(device: Spanned<RawDevice>) -> Result<(Device, Switches, PollMode), Complaint> {
    let span = device.span();
    let RawDevice { kind, function, link, socket, role, mac, mtu, poll, features } = device.into_inner();
    let features = check_features(features)?;
    if kind != RawKind::VhostUser {
        refuse("socket", socket.as_ref().map(Spanned::span), "vhost-user")?;
        refuse("role", role.as_ref().map(Spanned::span), "vhost-user")?;
    }
    match kind {
        RawKind::Vfio => {
            refuse("link", link.map(|link| link.span()), "software")?;
            refuse("mac", mac.map(|mac| mac.span()), "software")?;
            refuse("mtu", mtu.map(|mtu| mtu.span()), "software")?;
            let function = function.ok_or_else(|| {
                Complaint::at(span, "a vfio device needs its PCI function: function = \"0000:00:03.0\" (see `netd function list`)")
            })?;
            let function = parse_at(&function, "function: ")?;
            let poll = poll.unwrap_or(PollMode::Busy);
            Ok((Device::Vfio { function }, features, poll))
        }
        RawKind::VhostUser => {
            refuse("function", function.map(|function| function.span()), "vfio")?;
            refuse("link", link.map(|link| link.span()), "software")?;
            let socket = socket.ok_or_else(|| {
                Complaint::at(span, "a vhost-user device needs a socket: socket = \"/path/to/vhost.sock\"")
            })?;
            let role = match role.map(Spanned::into_inner) {
                Some(RawRole::Server) => VhostUserRole::Server,
                Some(RawRole::Client) | None => VhostUserRole::Client,
            };
            let (mac, mtu) = check_station(mac, mtu)?;
            let poll = poll.unwrap_or(PollMode::Busy);
            let device = VhostUserDevice { socket: socket.into_inner(), role, mac, mtu };
            Ok((Device::VhostUser(device), features, poll))
        }
        RawKind::Software => {
            refuse("function", function.map(|function| function.span()), "vfio")?;
            let link = link.ok_or_else(|| {
                Complaint::at(span, "a software device needs a link: link = { kind = \"socket\", path = \"/path/to/passt.sock\" } or { kind = \"tap\", interface = \"tap0\" }")
            })?;
            let (mac, mtu) = check_station(mac, mtu)?;
            let poll = poll.unwrap_or(PollMode::Adaptive);
            Ok((Device::Software { link: check_link(link)?, mac, mtu }, features, poll))
        }
    }
}

fn check_link(link: Spanned<RawLink>) -> Result<Link, Complaint> {
    let span = link.span();
    let RawLink { kind, path, interface } = link.into_inner();
    match (kind, path, interface) {
        (RawLinkKind::Socket, Some(path), None) => Ok(Link::Socket { path }),
        (RawLinkKind::Socket, ..) => Err(Complaint::at(
            span,
            "a socket link needs a path, and nothing else: path = \"/path/to/passt.sock\"",
        )),
        (RawLinkKind::Tap, None, Some(interface)) => {
            if netd_softdev::is_interface_name(interface.get_ref()) {
                return Ok(Link::Tap { interface: interface.into_inner() });
            }
            let message = format!(
                "interface: {:?} names none: 1 to {INTERFACE_NAME_MAX} letters, digits and signs, no '/', ':' or '%'",
                interface.get_ref()
            );
            Err(Complaint::at(interface.span(), message))
        }
        (RawLinkKind::Tap, ..) => {
            Err(Complaint::at(span, "a tap link needs an interface, and nothing else: interface = \"tap0\""))
        }
    }
}

/// Address and MTU of a device that has none of its own.
fn check_station(
    mac: Option<Spanned<String>>,
    mtu: Option<Spanned<u16>>,
) -> Result<(Option<[u8; 6]>, u16), Complaint> {
    let mac = mac.map(|mac| parse_at::<Mac>(&mac, "mac: ").map(|mac| mac.0)).transpose()?;
    let mtu = mtu.map_or(Ok(SOFTWARE_MTU_DEFAULT), |mtu| {
        let (low, high) = SOFTWARE_MTU.into_inner();
        let fits = (low..=high).contains(mtu.get_ref());
        let message = format!("mtu is {}, and must be between {low} and {high}", mtu.get_ref());
        if fits { Ok(*mtu.get_ref()) } else { Err(Complaint::at(mtu.span(), message)) }
    })?;
    Ok((mac, mtu))
}

fn check_features(features: BTreeMap<Spanned<String>, bool>) -> Result<Switches, Complaint> {
    let mut switches = Switches::default();
    for (name, on) in features {
        if !switches.set(name.get_ref(), on) {
            let known: Vec<_> = Switches::names().collect();
            let message =
                format!("features: no switch is called '{}': there are {}", name.get_ref(), known.join(", "));
            return Err(Complaint::at(name.span(), message));
        }
    }
    Ok(switches)
}

/// The switches that there are, each `true` unless given.
#[cfg(feature = "schema")]
fn features(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let switch = serde_json::json!({ "type": "boolean", "default": true });
    let switches: serde_json::Map<_, _> =
        Switches::names().map(|name| (name.to_owned(), switch.clone())).collect();
    schemars::json_schema!({ "type": "object", "properties": switches, "additionalProperties": false })
}

/// What each kind of device needs.
#[cfg(feature = "schema")]
fn needs() -> serde_json::Value {
    let needs = |kind: &str, key: &str| {
        serde_json::json!({
            "if": { "properties": { "kind": { "const": kind } } },
            "then": { "required": [key] },
        })
    };
    [needs("vfio", "function"), needs("vhost-user", "socket"), needs("software", "link")].into()
}

/// Complains of a key that belongs to another kind of device.
fn refuse(key: &str, span: Option<Range<usize>>, other: &str) -> Result<(), Complaint> {
    match span {
        Some(span) => {
            Err(Complaint::at(span, format!("{key} belongs to a device with kind = \"{other}\": remove it")))
        }
        None => Ok(()),
    }
}
