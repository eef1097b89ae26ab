//! Rules as files have them: parsed into types that cannot be wrong, names of users not yet resolved.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bus::{BusService, DevicePattern};
use crate::capability::Capability;
use crate::ether_type::EtherType;
use crate::host::HostPattern;
use crate::port::PortRange;
use crate::subject::SubjectPattern;
use crate::terms::{Redirects, Tls};

/// What a rule does to the requests that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `[[grant]]`
    Grant,
    /// `[[deny]]`: wins over every grant.
    Deny,
}

impl Effect {
    /// The key of its list of capabilities.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Effect::Grant => "allow",
            Effect::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Grant => "grant",
            Effect::Deny => "deny",
        })
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// Whether it gives or takes.
    pub effect: Effect,
    /// To or from whom.
    pub subject: SubjectPattern,
    /// What.
    pub capabilities: Vec<Capability>,
    /// Ports it is limited to: the remote port of a connection or datagram, the local port of a listener or bound
    /// socket. Echo requests have none. Absent: every port.
    pub ports: Option<Vec<PortRange>>,
    /// Peers it is limited to, where the request names a peer by address. Absent: every peer.
    pub to: Option<Vec<IpNet>>,
    /// Names it is limited to, where the request has a name. Absent: every name.
    pub hosts: Option<Vec<HostPattern>>,
    /// Devices of the bus it is limited to. Absent: every device.
    pub devices: Option<Vec<DevicePattern>>,
    /// Services of the bus it is limited to. Absent: every service.
    pub services: Option<Vec<BusService>>,
    /// Types of raw frames it is limited to. Absent: every one.
    pub ether_types: Option<Vec<EtherType>>,
    /// What connections by name must begin with. Absent: what [`Tls`] says of the port.
    pub tls: Option<Tls>,
    /// Which redirects of a fetch are followed. Absent: those that stay with the host.
    pub redirects: Option<Redirects>,
}

/// A `[[grant]]` table.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantTable {
    /// Who: `any`, `user:NAME|UID`, `group:NAME|GID` or `unit:NAME.service`.
    subject: SubjectPattern,
    /// What.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    allow: Vec<Capability>,
    /// Remote ports of connections and datagrams, local ports of listeners and bound sockets; absent: every one. UDP port 443 is granted only by a port of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    ports: Option<Vec<PortRange>>,
    /// Remote prefixes; absent: every one. A cloud's metadata server is granted only by a prefix of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>", length(min = 1)))]
    to: Option<Vec<IpNet>>,
    /// Names, `example.org` or `*.example.org` (what is below it); absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    hosts: Option<Vec<HostPattern>>,
    /// Devices of the bus, `camera-1` or `camera-*` (what begins so); absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    devices: Option<Vec<DevicePattern>>,
    /// Services of the bus; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    services: Option<Vec<BusService>>,
    /// Types of raw frames, such as `0x88b5`; absent: every one but those that netd speaks itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    ether_types: Option<Vec<EtherType>>,
    /// What connections by name begin with: `required` (a ClientHello for that name) or `any`; absent: `required` on port 443 and `any` on others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    /// Which redirects a fetch follows: `same-host`, or `granted` (to other hosts as well, as far as these are granted by themselves); absent:
    /// `same-host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redirects: Option<Redirects>,
}

/// A `[[deny]]` table.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyTable {
    /// Who: `any`, `user:NAME|UID`, `group:NAME|GID` or `unit:NAME.service`.
    subject: SubjectPattern,
    /// What.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    deny: Vec<Capability>,
    /// Remote ports of connections and datagrams, local ports of listeners and bound sockets; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    ports: Option<Vec<PortRange>>,
    /// Remote prefixes; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>", length(min = 1)))]
    to: Option<Vec<IpNet>>,
    /// Names, `example.org` or `*.example.org` (what is below it); absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    hosts: Option<Vec<HostPattern>>,
    /// Devices of the bus, `camera-1` or `camera-*` (what begins so); absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    devices: Option<Vec<DevicePattern>>,
    /// Services of the bus; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    services: Option<Vec<BusService>>,
    /// Types of raw frames; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    ether_types: Option<Vec<EtherType>>,
}

impl From<GrantTable> for RuleConfig {
    fn from(table: GrantTable) -> RuleConfig {
        let GrantTable { subject, allow, ports, to, hosts, devices, services, ether_types, tls, redirects } =
            table;
        RuleConfig {
            effect: Effect::Grant,
            subject,
            capabilities: allow,
            ports,
            to,
            hosts,
            devices,
            services,
            ether_types,
            tls,
            redirects,
        }
    }
}

impl From<DenyTable> for RuleConfig {
    fn from(table: DenyTable) -> RuleConfig {
        let DenyTable { subject, deny, ports, to, hosts, devices, services, ether_types } = table;
        RuleConfig {
            effect: Effect::Deny,
            subject,
            capabilities: deny,
            ports,
            to,
            hosts,
            devices,
            services,
            ether_types,
            tls: None,
            redirects: None,
        }
    }
}

/// As a table of a policy file.
impl fmt::Display for RuleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, values: &[T]) -> fmt::Result {
            write!(f, "{key} = [")?;
            for (index, value) in values.iter().enumerate() {
                write!(f, "{}\"{value}\"", if index == 0 { "" } else { ", " })?;
            }
            writeln!(f, "]")
        }
        // Nothing in these texts needs an escape: subjects and names of the bus have no quotes, the rest is letters, digits and dots.
        writeln!(f, "[[{}]]\nsubject = \"{}\"", self.effect, self.subject)?;
        list(f, self.effect.key(), &self.capabilities)?;
        if let Some(ports) = &self.ports {
            list(f, "ports", ports)?;
        }
        if let Some(to) = &self.to {
            list(f, "to", to)?;
        }
        if let Some(hosts) = &self.hosts {
            list(f, "hosts", hosts)?;
        }
        if let Some(devices) = &self.devices {
            list(f, "devices", devices)?;
        }
        if let Some(services) = &self.services {
            list(f, "services", services)?;
        }
        if let Some(ether_types) = &self.ether_types {
            list(f, "ether_types", ether_types)?;
        }
        if let Some(tls) = self.tls {
            writeln!(f, "tls = \"{tls}\"")?;
        }
        if let Some(redirects) = self.redirects {
            writeln!(f, "redirects = \"{redirects}\"")?;
        }
        Ok(())
    }
}

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file.
    pub file: Arc<str>,
    /// Its line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// In the file, these types are strings.
macro_rules! serde_as_string {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = String::deserialize(deserializer)?;
                <$type>::from_str(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_string!(
    SubjectPattern,
    PortRange,
    Capability,
    HostPattern,
    DevicePattern,
    BusService,
    EtherType,
    Tls,
    Redirects
);
