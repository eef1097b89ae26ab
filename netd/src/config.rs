//! netd.toml: read, checked, and turned into types that cannot be wrong.
//!
//! The file is parsed into `Raw*` types that remember where each value stands, so that every complaint names file, line
//! and column and says what would be right. What leaves this module needs no further checks.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use netd_ipc::PollMode;
use netd_policy::{DenyTable, GrantTable, Policy};
use netd_softdev::INTERFACE_NAME_MAX;
use netd_stack::dns::{Hosts, Name};
use netd_stack::{Addressing, Cidr, Static};
use netd_vfio::{Bdf, Mac};
use netd_virtqueue::{Switches, VhostUserRole};
use serde::Deserialize;
use toml::Spanned;

use crate::limits::Limits;
use crate::{names, policy_files};

/// Where the daemon looks for its configuration unless told otherwise.
pub const PATH_DEFAULT: &str = "/etc/netd/netd.toml";

/// The names that a machine knows by itself (hosts(5)).
const HOSTS_DEFAULT: &str = "/etc/hosts";
/// How long DHCP asks before a configured fallback address is used.
const DHCP_FALLBACK_SECONDS: u64 = 30;
/// A file longer than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// MTUs that virtio-net devices announce: IPv6's minimum to the largest jumbo frame in use.
const SOFTWARE_MTU: std::ops::RangeInclusive<u16> = 1280..=9216;
const SOFTWARE_MTU_DEFAULT: u16 = 1500;

/// Everything the daemon was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may do what; carries the devnet switch.
    pub policy: Policy,
    /// How much of it.
    pub limits: Limits,
    /// The device to drive.
    pub device: Device,
    /// Features that the driver leaves alone.
    pub features: Switches,
    /// How the worker waits for frames.
    pub poll: PollMode,
    /// The hugetlbfs mount that DMA memory comes from.
    pub hugetlbfs: PathBuf,
    /// Where the address comes from.
    pub addressing: Addressing,
    /// Sent to the DHCP server.
    pub hostname: Option<String>,
    /// How names are resolved.
    pub dns: Dns,
    /// Where clients connect; none means the default of the user.
    pub socket: Option<PathBuf>,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// Where evidence is written and bindings are remembered; none means the default of the user.
    pub state_directory: Option<PathBuf>,
}

/// How names are resolved.
#[derive(Debug, Clone, Default)]
pub struct Dns {
    /// Servers; without any, those of the lease or of `[address]` are asked.
    pub servers: Vec<IpAddr>,
    /// Domains below which short names are sought; without any, those of the lease.
    pub search: Vec<Name>,
    /// The hosts file, as it was when the daemon started.
    pub hosts: Hosts,
}

/// The device to drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A PCI function through VFIO.
    Vfio {
        /// Which.
        function: Bdf,
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

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file says something that makes no sense.
    #[error("{path}:{line}:{column}: {message}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A rule does not fit this machine, or itself.
    #[error(transparent)]
    Rule(#[from] netd_policy::Error),
    /// The files of rules are not as they should be.
    #[error(transparent)]
    Files(#[from] crate::policy_files::Error),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    network: RawNetwork,
    device: Spanned<RawDevice>,
    #[serde(default)]
    dma: RawDma,
    #[serde(default)]
    address: Option<Spanned<RawAddress>>,
    #[serde(default)]
    dns: RawDns,
    #[serde(default)]
    ipc: RawIpc,
    #[serde(default)]
    state: RawState,
    #[serde(default)]
    limits: Option<Spanned<Limits>>,
    #[serde(default)]
    policy: RawPolicy,
    #[serde(default)]
    grant: Vec<Spanned<GrantTable>>,
    #[serde(default)]
    deny: Vec<Spanned<DenyTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    #[serde(default)]
    devnet: RawDevnet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevnet {
    #[serde(default)]
    enabled: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    kind: RawKind,
    function: Option<Spanned<String>>,
    link: Option<Spanned<RawLink>>,
    socket: Option<Spanned<PathBuf>>,
    role: Option<Spanned<RawRole>>,
    mac: Option<Spanned<String>>,
    mtu: Option<Spanned<u16>>,
    poll: Option<RawPoll>,
    #[serde(default)]
    features: BTreeMap<Spanned<String>, bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    Vfio,
    VhostUser,
    Software,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawRole {
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawPoll {
    Busy,
    Adaptive,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    kind: RawLinkKind,
    path: Option<PathBuf>,
    interface: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawLinkKind {
    Socket,
    Tap,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDma {
    hugetlbfs: PathBuf,
}

impl Default for RawDma {
    fn default() -> Self {
        Self { hugetlbfs: PathBuf::from("/dev/hugepages") }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAddress {
    mode: RawMode,
    cidr: Option<Spanned<String>>,
    gateway: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    dns: Vec<Ipv4Addr>,
    mtu: Option<u16>,
    hostname: Option<Spanned<String>>,
    fallback_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    Dhcp,
    Static,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDns {
    servers: Vec<IpAddr>,
    search: Vec<Spanned<String>>,
    hosts: PathBuf,
}

impl Default for RawDns {
    fn default() -> Self {
        Self { servers: Vec::new(), search: Vec::new(), hosts: PathBuf::from(HOSTS_DEFAULT) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIpc {
    socket: Option<PathBuf>,
    mode: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    directory: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    directory: Option<PathBuf>,
}

/// Something wrong at a place in the text.
#[derive(Debug)]
struct Complaint {
    span: Range<usize>,
    message: String,
}

impl Complaint {
    fn at(span: Range<usize>, message: impl fmt::Display) -> Self {
        Self { span, message: message.to_string() }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place and what would be right.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB")));
        }
        Self::parse(path, &fs::read_to_string(path).map_err(read)?)
    }

    /// Checks the text of a file called `path`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong = |complaint: Complaint| {
            let (line, column) = position(text, complaint.span.start);
            Error::Wrong { path: path.to_owned(), line, column, message: complaint.message }
        };
        let raw: Raw = toml::from_str(text)
            .map_err(|error| wrong(Complaint::at(error.span().unwrap_or(0..0), explain(text, &error))))?;
        let Raw { network, device, dma, address, dns, ipc, state, limits, policy, grant, deny } = raw;
        let mut rules = netd_policy::file::rules(&path.to_string_lossy().into(), text, grant, deny);
        rules.extend(policy_files::load(path, policy.directory.as_deref())?);
        let policy = Policy::new(network.devnet.enabled, rules, names::user, names::group)?
            .with_operator(rustix::process::geteuid().as_raw());
        let (device, features, poll) = check_device(device).map_err(wrong)?;
        let (addressing, hostname) = check_address(address).map_err(wrong)?;
        Ok(Self {
            policy,
            limits: check_limits(limits).map_err(wrong)?,
            device,
            features,
            poll,
            hugetlbfs: dma.hugetlbfs,
            addressing,
            hostname,
            dns: check_dns(dns).map_err(wrong)?,
            socket: ipc.socket,
            socket_mode: check_mode(ipc.mode).map_err(wrong)?,
            state_directory: state.directory,
        })
    }
}

impl Config {
    /// The tables in which `new` differs and that only a restart puts in force.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let Config {
            policy: _,
            limits: _,
            device,
            features,
            poll,
            hugetlbfs,
            addressing,
            hostname,
            dns,
            socket,
            socket_mode,
            state_directory,
        } = self;
        // The stack's type is not comparable; its text says everything that it holds.
        let addressing = format!("{addressing:?}") == format!("{:?}", new.addressing);
        [
            ("[device]", *device == new.device && *features == new.features && *poll == new.poll),
            ("[dma]", *hugetlbfs == new.hugetlbfs),
            ("[address]", addressing && *hostname == new.hostname),
            ("[dns]", dns.servers == new.dns.servers && dns.search == new.dns.search),
            ("[ipc]", *socket == new.socket && *socket_mode == new.socket_mode),
            ("[state]", *state_directory == new.state_directory),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(table, _)| table)
        .collect()
    }
}

/// The parser's message, with the line that it is about.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| {
        let (number, _) = position(text, span.start);
        text.lines().nth(number - 1)
    });
    match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!("{} (in `{line}`)", error.message().trim_end()),
        None => error.message().trim_end().to_owned(),
    }
}

/// Line and column of a byte, counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

fn check_device(device: Spanned<RawDevice>) -> Result<(Device, Switches, PollMode), Complaint> {
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
            let poll = match poll {
                Some(RawPoll::Adaptive) => PollMode::Adaptive,
                Some(RawPoll::Busy) | None => PollMode::Busy,
            };
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
            let poll = match poll {
                Some(RawPoll::Adaptive) => PollMode::Adaptive,
                Some(RawPoll::Busy) | None => PollMode::Busy,
            };
            let device = VhostUserDevice { socket: socket.into_inner(), role, mac, mtu };
            Ok((Device::VhostUser(device), features, poll))
        }
        RawKind::Software => {
            refuse("function", function.map(|function| function.span()), "vfio")?;
            let link = link.ok_or_else(|| {
                Complaint::at(span, "a software device needs a link: link = { kind = \"socket\", path = \"/path/to/passt.sock\" } or { kind = \"tap\", interface = \"tap0\" }")
            })?;
            let (mac, mtu) = check_station(mac, mtu)?;
            let poll = match poll {
                Some(RawPoll::Busy) => PollMode::Busy,
                Some(RawPoll::Adaptive) | None => PollMode::Adaptive,
            };
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

fn check_dns(dns: RawDns) -> Result<Dns, Complaint> {
    let RawDns { servers, search, hosts } = dns;
    let domain = |name: Spanned<String>| match Name::parse(name.get_ref()) {
        Ok((name, _)) => Ok(name),
        Err(error) => Err(Complaint::at(name.span(), format!("search: {error}"))),
    };
    let search = search.into_iter().map(domain).collect::<Result<Vec<_>, _>>()?;
    // A machine without the file, or with one that cannot be read, has no names in it.
    let hosts = fs::read_to_string(hosts).map(|text| Hosts::parse(&text)).unwrap_or_default();
    Ok(Dns { servers, search, hosts })
}

fn check_limits(limits: Option<Spanned<Limits>>) -> Result<Limits, Complaint> {
    let Some(limits) = limits else { return Ok(Limits::default()) };
    match limits.get_ref().zero() {
        Some(key) => Err(Complaint::at(
            limits.span(),
            format!(
                "'{key}' is 0, so nobody could do anything: give at least 1 (who may do what is up to grants)"
            ),
        )),
        None => Ok(limits.into_inner()),
    }
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

fn check_address(address: Option<Spanned<RawAddress>>) -> Result<(Addressing, Option<String>), Complaint> {
    let dhcp =
        |fallback, seconds| Addressing::Dhcp { fallback, timeout: std::time::Duration::from_secs(seconds) };
    let Some(address) = address else { return Ok((dhcp(None, DHCP_FALLBACK_SECONDS), None)) };
    let span = address.span();
    let RawAddress { mode, cidr, gateway, dns, mtu, hostname, fallback_seconds } = address.into_inner();
    let hostname = hostname.map(check_hostname).transpose()?;
    let fixed = match cidr {
        Some(cidr) => {
            let place = cidr.span();
            let fixed = Static {
                cidr: parse_at::<Cidr>(&cidr, "cidr: ")?,
                gateway: gateway.map(Spanned::into_inner),
                mtu,
                dns,
            };
            fixed.check().map_err(|error| Complaint::at(place, error))?;
            Some(fixed)
        }
        None => {
            if let Some(gateway) = gateway {
                return Err(Complaint::at(
                    gateway.span(),
                    "gateway needs an address beside it: cidr = \"10.0.0.2/24\"",
                ));
            }
            None
        }
    };
    match (mode, fixed) {
        (RawMode::Static, Some(fixed)) => Ok((Addressing::Static(fixed), hostname)),
        (RawMode::Static, None) => Err(Complaint::at(
            span,
            "mode = \"static\" needs an address: cidr = \"10.0.0.2/24\", and mostly a gateway",
        )),
        (RawMode::Dhcp, fixed) => {
            Ok((dhcp(fixed, fallback_seconds.unwrap_or(DHCP_FALLBACK_SECONDS)), hostname))
        }
    }
}

/// A host name as RFC 1123, 2.1 has it, one label.
fn check_hostname(name: Spanned<String>) -> Result<String, Complaint> {
    let fits = !name.get_ref().is_empty()
        && name.get_ref().len() <= 63
        && name.get_ref().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.get_ref().starts_with('-')
        && !name.get_ref().ends_with('-');
    if fits {
        Ok(name.into_inner())
    } else {
        Err(Complaint::at(
            name.span(),
            "hostname must be one label of letters, digits and inner hyphens, at most 63",
        ))
    }
}

/// Members of the socket's group may connect, policy decides what they may do.
const SOCKET_MODE_DEFAULT: u32 = 0o660;

fn check_mode(mode: Option<Spanned<String>>) -> Result<u32, Complaint> {
    let Some(mode) = mode else { return Ok(SOCKET_MODE_DEFAULT) };
    u32::from_str_radix(mode.get_ref(), 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| Complaint::at(mode.span(), "mode must be octal permission bits such as \"0660\""))
}

fn parse_at<T: FromStr<Err: fmt::Display>>(text: &Spanned<String>, key: &str) -> Result<T, Complaint> {
    text.get_ref().parse().map_err(|error: T::Err| Complaint::at(text.span(), format!("{key}{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Path::new("netd.toml"), text)
    }

    /// What is said about a wrong file.
    fn complaint(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    const VFIO: &str = "[device]\nkind = \"vfio\"\nfunction = \"0000:00:03.0\"\n";

    #[test]
    fn minimal_file_has_devnet_off_and_dhcp() {
        let config = parse(VFIO).unwrap();
        assert!(!config.policy.devnet_enabled());
        assert!(matches!(config.addressing, Addressing::Dhcp { fallback: None, .. }));
        assert!(matches!(config.device, Device::Vfio { .. }));
        assert_eq!((config.poll, config.socket_mode), (PollMode::Busy, 0o660));
    }

    #[test]
    fn unknown_key_is_named_with_its_place_and_what_is_known() {
        let said = complaint("[device]\nkind = \"vfio\"\nfuncton = \"0000:00:03.0\"\n");
        assert!(said.starts_with("netd.toml:3:1: unknown field `functon`"), "{said}");
        assert!(said.contains("`function`"), "{said}");
    }

    #[test]
    fn unknown_kind_is_told_with_the_line_and_the_choices() {
        let said = complaint("[device]\nkind = \"vfo\"\n");
        assert!(said.starts_with("netd.toml:2:8: unknown variant `vfo`"), "{said}");
        assert!(said.contains("`vfio`") && said.contains("kind = \"vfo\""), "{said}");
    }

    #[test]
    fn file_that_is_no_toml_is_told_with_its_place() {
        let said = complaint("[device]\nkind = vfio\n");
        assert!(said.starts_with("netd.toml:2:8: "), "{said}");
    }

    #[test]
    fn vfio_without_function_says_how_to_find_one() {
        let said = complaint("[device]\nkind = \"vfio\"\n");
        assert!(
            said.contains("function = \"0000:00:03.0\"") && said.contains("netd function list"),
            "{said}"
        );
    }

    #[test]
    fn key_of_the_other_kind_is_refused() {
        let said = complaint(&format!("{VFIO}mac = \"02:00:00:00:00:01\"\n"));
        assert!(said.contains("mac belongs to a device with kind = \"software\""), "{said}");
        let said = complaint("[device]\nkind = \"software\"\nfunction = \"00:03.0\"\n");
        assert!(said.contains("function belongs to a device with kind = \"vfio\""), "{said}");
    }

    #[test]
    fn wrong_values_say_what_would_be_right() {
        let software = "[device]\nkind = \"software\"\nlink = { kind = \"socket\", path = \"/s\" }\n";
        for (text, part) in [
            (VFIO.replace("0000:00:03.0", "0000:00:3"), "function: "),
            (format!("{VFIO}poll = \"lazy\"\n"), "`busy`"),
            (
                format!("{VFIO}features.warp = false\n"),
                "no switch is called 'warp': there are merged_buffers, ",
            ),
            (format!("{VFIO}[device.features]\npacked = 0\n"), "expected a boolean"),
            (format!("{software}mtu = 100\n"), "between 1280 and 9216"),
            (software.replace("path", "interface"), "a socket link needs a path"),
            (software.replace("socket", "tap"), "a tap link needs an interface"),
            (software.replace("socket", "tap").replace("path", "interface"), "no '/'"),
            (format!("{software}mac = \"02:00\"\n"), "mac: "),
            (format!("{VFIO}[address]\nmode = \"static\"\n"), "cidr = \"10.0.0.2/24\""),
            (format!("{VFIO}[address]\nmode = \"static\"\ncidr = \"10.0.0.300/24\"\n"), "cidr: "),
            (format!("{VFIO}[address]\nmode = \"static\"\ncidr = \"224.0.0.1/24\"\n"), "unicast"),
            (
                format!("{VFIO}[address]\nmode = \"dhcp\"\ngateway = \"10.0.0.1\"\n"),
                "needs an address beside it",
            ),
            (format!("{VFIO}[address]\nmode = \"dhcp\"\nhostname = \"a.b\"\n"), "one label"),
            (format!("{VFIO}[ipc]\nmode = \"rw\"\n"), "octal"),
            (format!("{VFIO}[limits]\nsockets = 0\n"), "'[limits] sockets' is 0"),
            (format!("{VFIO}[limits.client]\nmemory_mib = 0\n"), "'[limits.client] memory_mib' is 0"),
            (format!("{VFIO}[limits.client]\nsockts = 1\n"), "unknown field `sockts`"),
            (
                format!("{VFIO}[[grant]]\nsubject = \"alice\"\nallow = [\"net.tcp.connect\"]\n"),
                "is not a subject",
            ),
            (format!("{VFIO}[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp\"]\n"), "is not a capability"),
            (
                format!("{VFIO}[[grant]]\nsubject = \"user:no-such-user\"\nallow = [\"net.udp.bind\"]\n"),
                "no user",
            ),
        ] {
            let said = complaint(&text);
            assert!(said.starts_with("netd.toml:") && said.contains(part), "{text}\n{said}");
        }
    }

    #[test]
    fn feature_that_is_switched_off_is_remembered() {
        let config = parse(&format!("{VFIO}features.packed = false\nfeatures.event_idx = true\n")).unwrap();
        let mut expected = Switches::default();
        assert!(expected.set("packed", false));
        assert_eq!(config.features, expected);
        assert_eq!(parse(VFIO).unwrap().needs_restart(&config), ["[device]"]);
    }

    #[test]
    fn limits_that_are_left_out_have_their_defaults() {
        let limits =
            parse(&format!("{VFIO}[limits]\nsockets = 9\n[limits.client]\nsockets = 3\n")).unwrap().limits;
        assert_eq!((limits.sockets, limits.client.sockets), (9, 3));
        assert_eq!(limits.client.connections, Limits::default().client.connections);
    }

    #[test]
    fn devnet_is_a_switch_and_nothing_else() {
        assert!(parse(&format!("[network.devnet]\nenabled = true\n{VFIO}")).unwrap().policy.devnet_enabled());
        let said = complaint(&format!("[network.devnet]\nenabled = \"yes\"\n{VFIO}"));
        assert!(said.contains("expected a boolean"), "{said}");
    }

    #[test]
    fn vhost_user_device_needs_a_socket_and_takes_nothing_of_the_others() {
        let text = "[device]\nkind = \"vhost-user\"\nsocket = \"/run/v.sock\"\n";
        let device = parse(text).unwrap().device;
        let expected = VhostUserDevice {
            socket: "/run/v.sock".into(),
            role: VhostUserRole::Client,
            mac: None,
            mtu: SOFTWARE_MTU_DEFAULT,
        };
        assert_eq!(device, Device::VhostUser(expected));
        let server = parse(&format!("{text}role = \"server\"\nmtu = 9000\n")).unwrap().device;
        assert!(matches!(
            server,
            Device::VhostUser(VhostUserDevice { role: VhostUserRole::Server, mtu: 9000, .. })
        ));
        let said = complaint("[device]\nkind = \"vhost-user\"\n");
        assert!(said.contains("needs a socket"), "{said}");
        let said = complaint(&format!("{text}function = \"0000:00:03.0\"\n"));
        assert!(said.contains("belongs to a device with kind = \"vfio\""), "{said}");
        let said = complaint(&format!("{VFIO}role = \"server\"\n"));
        assert!(said.contains("belongs to a device with kind = \"vhost-user\""), "{said}");
    }

    /// The files that are shipped are read by the code that reads an operator's.
    #[test]
    fn shipped_configurations_are_fine() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut count = 0;
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                Config::load(&path).unwrap();
                count += 1;
            }
        }
        assert!(count >= 3);
        let rules = policy_files::load(&directory, Some(&directory.join("example.policy.d"))).unwrap();
        assert!(Policy::new(true, rules, names::user, names::group).unwrap().rules().count() >= 4);
    }
}
