//! From what a client was denied to the smallest grant for it.
//!
//! What comes out allows what was asked for and nothing else, as far as rules can say that: a port of netd's choice takes all
//! ports that netd may choose, and what is no host's name takes a grant for every name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::authority::{Authority, Host};
use crate::bus::{BusDevice, BusService, DevicePattern};
use crate::capability::Capability;
use crate::ether_type::EtherType;
use crate::host::HostPattern;
use crate::port::PortRange;
use crate::reach::special;
use crate::request::{EPHEMERAL, Request};
use crate::rule::{Effect, RuleConfig};
use crate::subject::SubjectPattern;

/// The port that must stand alone to be meant: see [`crate::Policy`].
const QUIC: u16 = 443;

/// Where a rule applies.
#[derive(Default, PartialEq)]
struct Scope {
    ports: Option<Vec<PortRange>>,
    to: Option<Vec<IpNet>>,
    hosts: Option<Vec<HostPattern>>,
    devices: Option<Vec<DevicePattern>>,
    services: Option<Vec<BusService>>,
    ether_types: Option<Vec<EtherType>>,
}

/// The grants that let `subject` do what was asked for.
pub fn smallest_grants<'a>(
    subject: &SubjectPattern,
    requests: impl IntoIterator<Item = &'a Request>,
) -> Vec<RuleConfig> {
    let mut asked = BTreeMap::<Capability, Asked>::new();
    for request in requests {
        if let Some(capability) = request.capability() {
            asked.entry(capability).or_default().add(request);
        }
    }
    // Capabilities with one scope share a rule.
    let mut grants = Vec::<(Scope, Vec<Capability>)>::new();
    for (capability, asked) in asked {
        for scope in asked.scopes() {
            match grants.iter_mut().find(|(other, _)| *other == scope) {
                Some((_, capabilities)) => capabilities.push(capability),
                None => grants.push((scope, vec![capability])),
            }
        }
    }
    let rule = |(Scope { ports, to, hosts, devices, services, ether_types }, capabilities)| RuleConfig {
        effect: Effect::Grant,
        subject: subject.clone(),
        capabilities,
        ports,
        to,
        hosts,
        devices,
        services,
        ether_types,
        // What a connection by name would begin with, nobody knows before it is there: what the port suggests.
        tls: None,
        // That is for an operator to say.
        redirects: None,
    };
    grants.into_iter().map(rule).collect()
}

/// What was asked for with one capability.
#[derive(Default)]
struct Asked {
    /// By address; echo requests have no port.
    peers: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// Of our own.
    ports: BTreeSet<u16>,
    /// By name; resolving has no port.
    hosts: BTreeMap<String, BTreeSet<u16>>,
    /// On the bus: what of which device, or of nobody in particular.
    bus: BTreeMap<Option<BusDevice>, BTreeSet<BusService>>,
    ether_types: BTreeSet<EtherType>,
    /// Something that only a rule without limits allows.
    everything: bool,
}

impl Asked {
    fn add(&mut self, request: &Request) {
        match request {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => {
                let ports = self.peers.entry(remote.ip().to_canonical()).or_default();
                ports.insert(remote.port());
            }
            Request::Ping { to } => drop(self.peers.entry(to.to_canonical()).or_default()),
            Request::TcpListen { port: Some(port) } | Request::UdpBind { port: Some(port) } => {
                self.ports.insert(*port);
            }
            Request::TcpListen { port: None } | Request::UdpBind { port: None } => {
                self.ports.extend(EPHEMERAL);
            }
            Request::TcpConnectName { name, port, address } => {
                self.hosts.entry(name.to_string()).or_default().insert(*port);
                // A grant for a name does not hold for these.
                if let Some(address) = address.filter(|address| special(*address).is_some()) {
                    self.peers.entry(address.to_canonical()).or_default().insert(*port);
                }
            }
            Request::Resolve { name: Some(name) } => drop(self.hosts.entry(name.to_string()).or_default()),
            Request::Raw { ether_type } => drop(self.ether_types.insert(*ether_type)),
            Request::Fetch { from: peer } | Request::ValidateTls { of: peer } => self.add_authority(peer),
            Request::OpenBusSession { device }
            | Request::ReadBusState { device }
            | Request::WriteBusState { device } => {
                self.bus.entry(Some(device.clone())).or_default();
            }
            Request::OpenBusStream { device, service }
            | Request::CallBusService { device, service }
            | Request::ReadBusShare { device, share: service } => {
                self.bus.entry(Some(device.clone())).or_default().insert(service.clone());
            }
            Request::ShareBusService { service } => {
                self.bus.entry(None).or_default().insert(service.clone());
            }
            Request::Resolve { name: None }
            | Request::FetchReal
            | Request::DiscoverBus
            | Request::ManageTrust
            | Request::Capture
            | Request::Operate => self.everything = true,
            Request::Represent | Request::Observe => {}
        }
    }

    fn add_authority(&mut self, peer: &Authority) {
        let ports = match &peer.host {
            Host::Name(name) => self.hosts.entry(name.to_string()).or_default(),
            Host::Address(address) => self.peers.entry(address.to_canonical()).or_default(),
        };
        ports.insert(peer.port);
    }

    fn scopes(self) -> Vec<Scope> {
        let Asked { peers, ports, hosts, bus, ether_types, everything } = self;
        if everything {
            return vec![Scope::default()];
        }
        // Peers that were asked for on the same ports share a rule: a rule means each of its peers on each of its ports.
        let mut by_ports = BTreeMap::<BTreeSet<u16>, Vec<IpNet>>::new();
        for (peer, ports) in peers {
            by_ports.entry(ports).or_default().push(peer.into());
        }
        let towards = |(ports, to)| Scope { ports: ranges(&ports), to: Some(to), ..Scope::default() };
        let mut scopes: Vec<Scope> = by_ports.into_iter().map(towards).collect();
        if !ports.is_empty() {
            scopes.push(Scope { ports: ranges(&ports), ..Scope::default() });
        }
        if !ether_types.is_empty() {
            let ether_types = Some(ether_types.into_iter().collect());
            scopes.push(Scope { ether_types, ..Scope::default() });
        }
        let mut by_ports = BTreeMap::<BTreeSet<u16>, Vec<HostPattern>>::new();
        for (host, ports) in hosts {
            // A name that was asked for is a pattern of itself.
            by_ports.entry(ports).or_default().extend(host.parse::<HostPattern>());
        }
        let named = |(ports, hosts)| Scope { ports: ranges(&ports), hosts: Some(hosts), ..Scope::default() };
        scopes.extend(by_ports.into_iter().map(named));
        // The same of devices that were asked for the same services.
        let mut by_services = BTreeMap::<BTreeSet<BusService>, Vec<DevicePattern>>::new();
        for (device, services) in bus {
            by_services.entry(services).or_default().extend(device.map(DevicePattern::from));
        }
        scopes.extend(by_services.into_iter().map(|(services, devices)| Scope {
            devices: (!devices.is_empty()).then_some(devices),
            services: (!services.is_empty()).then(|| services.into_iter().collect()),
            ..Scope::default()
        }));
        scopes
    }
}

/// Ports as ranges; none of none.
fn ranges(ports: &BTreeSet<u16>) -> Option<Vec<PortRange>> {
    let mut runs = Vec::<(u16, u16)>::new();
    for port in ports {
        match runs.last_mut() {
            Some((_, last))
                if u32::from(*last) + 1 == u32::from(*port) && ![*last, *port].contains(&QUIC) =>
            {
                *last = *port;
            }
            _ => runs.push((*port, *port)),
        }
    }
    let ranges: Vec<PortRange> =
        runs.into_iter().filter_map(|(first, last)| PortRange::new(first, last)).collect();
    (!ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_with_one_scope_share_a_rule_and_others_have_their_own() {
        let connect = |to: &str| Request::TcpConnect { remote: to.parse().unwrap() };
        let requests = [
            connect("10.0.0.1:80"),
            connect("10.0.0.1:81"),
            connect("10.0.0.2:80"),
            connect("10.0.0.3:80"),
            connect("[::ffff:10.0.0.3]:80"),
            Request::UdpBind { port: Some(53) },
            Request::TcpListen { port: Some(53) },
            Request::Resolve { name: Some("a.example".parse().unwrap()) },
        ];
        let grants = smallest_grants(&"user:alice".parse().unwrap(), &requests);
        let expected = "\
[[grant]]
subject = \"user:alice\"
allow = [\"net.tcp.connect\"]
ports = [\"80\"]
to = [\"10.0.0.2/32\", \"10.0.0.3/32\"]

[[grant]]
subject = \"user:alice\"
allow = [\"net.tcp.connect\"]
ports = [\"80-81\"]
to = [\"10.0.0.1/32\"]

[[grant]]
subject = \"user:alice\"
allow = [\"net.tcp.listen\", \"net.udp.bind\"]
ports = [\"53\"]

[[grant]]
subject = \"user:alice\"
allow = [\"net.dns.resolve\"]
hosts = [\"a.example\"]
";
        assert_eq!(crate::file::print(&grants).to_string(), expected);
    }
}
