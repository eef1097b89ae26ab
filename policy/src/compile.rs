//! From a rule as written to what the index takes.

use crate::Error;
use crate::capability::Capability;
use crate::decide::QUIC;
use crate::index::{Entry, Place};
use crate::port::PortRange;
use crate::rule::{Effect, Origin, RuleConfig};
use crate::subject::{SubjectPattern, Who};
use crate::terms::{HTTPS, Redirects, Terms, Tls};

/// Refuses a rule that could never apply, or that contradicts itself.
pub(crate) fn check(origin: &Origin, rule: &RuleConfig) -> Result<(), Error> {
    let empty = |key, what| Err(Error::EmptyList { origin: origin.clone(), key, what });
    if rule.capabilities.is_empty() {
        return empty(rule.effect.key(), "the rule");
    }
    if rule.ports.as_ref().is_some_and(Vec::is_empty) {
        return empty("ports", "the key to mean every port");
    }
    if rule.to.as_ref().is_some_and(Vec::is_empty) {
        return empty("to", "the key to mean every peer");
    }
    if rule.hosts.as_ref().is_some_and(Vec::is_empty) {
        return empty("hosts", "the key to mean every name");
    }
    if rule.devices.as_ref().is_some_and(Vec::is_empty) {
        return empty("devices", "the key to mean every device");
    }
    if rule.services.as_ref().is_some_and(Vec::is_empty) {
        return empty("services", "the key to mean every service");
    }
    if rule.ether_types.as_ref().is_some_and(Vec::is_empty) {
        return empty("ether_types", "the key to mean every type");
    }
    if rule.to.is_some() && rule.hosts.is_some() {
        return Err(Error::AddressesAndNames { origin: origin.clone() });
    }
    if rule.tls.is_some() && (rule.hosts.is_none() || !rule.capabilities.contains(&Capability::TcpConnect)) {
        return Err(Error::TlsWithoutNames { origin: origin.clone() });
    }
    if rule.redirects.is_some() && !rule.capabilities.contains(&Capability::HttpFetch) {
        return Err(Error::RedirectsWithoutFetch { origin: origin.clone() });
    }
    let without =
        |has: fn(Capability) -> bool| rule.capabilities.iter().copied().find(|capability| !has(*capability));
    if let (Some(_), Some(capability)) = (&rule.to, without(Capability::has_peer)) {
        return Err(Error::NoPeer { origin: origin.clone(), capability });
    }
    if let (Some(_), Some(capability)) = (&rule.hosts, without(Capability::has_names)) {
        return Err(Error::NoNames { origin: origin.clone(), capability });
    }
    if let (Some(_), Some(capability)) = (&rule.devices, without(Capability::has_devices)) {
        return Err(Error::NoDevices { origin: origin.clone(), capability });
    }
    if let (Some(_), Some(capability)) = (&rule.services, without(Capability::has_services)) {
        return Err(Error::NoServices { origin: origin.clone(), capability });
    }
    if let (Some(_), Some(capability)) =
        (&rule.ether_types, without(|capability| capability == Capability::Raw))
    {
        return Err(Error::NoEtherType { origin: origin.clone(), capability });
    }
    Ok(())
}

/// Whom a rule is for, by number.
pub(crate) fn resolve(
    origin: &Origin,
    subject: &SubjectPattern,
    user: &impl Fn(&str) -> Option<u32>,
    group: &impl Fn(&str) -> Option<u32>,
) -> Result<Who, Error> {
    let unknown =
        |kind, name: &String| Error::UnknownName { origin: origin.clone(), kind, name: name.clone() };
    Ok(match subject {
        SubjectPattern::Any => Who::Any,
        SubjectPattern::Uid(uid) => Who::Uid(*uid),
        SubjectPattern::User(name) => Who::Uid(user(name).ok_or_else(|| unknown("user", name))?),
        SubjectPattern::Gid(gid) => Who::Gid(*gid),
        SubjectPattern::Group(name) => Who::Gid(group(name).ok_or_else(|| unknown("group", name))?),
        SubjectPattern::Unit(name) => Who::Unit(name.clone()),
    })
}

/// A rule in as many pieces as it names capabilities and places, of those that are granted (or denied) on certain terms: a rule whose
/// ports differ in that comes in both.
pub(crate) fn entries(number: usize, rule: &RuleConfig, who: &Who, terms: Terms) -> Vec<Entry> {
    let places: Vec<Place> = match (&rule.to, &rule.hosts) {
        (Some(to), _) => to.iter().copied().map(canonical).map(Place::Prefix).collect(),
        (None, Some(hosts)) => hosts.iter().cloned().map(Place::Hosts).collect(),
        (None, None) if rule.devices.is_some() || rule.services.is_some() => on_bus(rule),
        (None, None) => vec![Place::Everywhere],
    };
    let pairs =
        rule.capabilities.iter().flat_map(|capability| places.iter().map(move |place| (*capability, place)));
    let entry = |(capability, place): (Capability, &Place)| {
        let ports = ports(rule, capability, ranges(rule, capability), terms);
        let entry = Entry { capability, who: who.clone(), place: place.clone(), ports, rule: number };
        (!entry.ports.is_empty()).then_some(entry)
    };
    pairs.filter_map(entry).collect()
}

/// Each of a rule's devices with each of its services.
fn on_bus(rule: &RuleConfig) -> Vec<Place> {
    let devices = some_of(rule.devices.as_deref());
    let services = some_of(rule.services.as_deref());
    let pairs = devices.iter().flat_map(|device| services.iter().map(move |service| (device, service)));
    pairs.map(|(device, service)| Place::Bus(device.clone(), service.clone())).collect()
}

/// The members of a list; without a list, the one that stands for all.
fn some_of<T: Clone>(list: Option<&[T]>) -> Vec<Option<T>> {
    list.map_or_else(|| vec![None], |list| list.iter().cloned().map(Some).collect())
}

/// The ports of a rule as written, and in their place the types of raw frames, which have none.
fn ranges(rule: &RuleConfig, capability: Capability) -> Vec<PortRange> {
    let ranges = match (capability, &rule.ether_types) {
        (Capability::Raw, None) => None,
        (Capability::Raw, Some(types)) => {
            let numbers = types.iter().map(|ether_type| ether_type.number());
            Some(numbers.filter_map(|number| PortRange::new(number, number)).collect())
        }
        _ => rule.ports.clone(),
    };
    ranges.unwrap_or_else(|| vec![PortRange::ALL])
}

/// The ports of a rule that are granted (or denied) on certain terms.
fn ports(rule: &RuleConfig, capability: Capability, ranges: Vec<PortRange>, terms: Terms) -> Vec<PortRange> {
    let ranges = ranges.into_iter();
    let is_grant = rule.effect == Effect::Grant;
    if is_grant && capability == Capability::TcpConnect && rule.hosts.is_some() {
        return match (rule.tls, terms) {
            (Some(Tls::Required), Terms::Tls) | (Some(Tls::Any), Terms::Free) => ranges.collect(),
            (None, Terms::Tls) => ranges.filter_map(|range| range.only(HTTPS)).collect(),
            (None, Terms::Free) => ranges.flat_map(|range| range.except(HTTPS)).collect(),
            _ => Vec::new(),
        };
    }
    match terms {
        Terms::Free if is_grant && capability == Capability::UdpSend => {
            ranges.flat_map(|range| range.without(QUIC)).collect()
        }
        Terms::Free => ranges.collect(),
        // Beside those that are allowed on no terms: a fetch is allowed either way.
        Terms::Redirected
            if capability == Capability::HttpFetch && rule.redirects == Some(Redirects::Granted) =>
        {
            ranges.collect()
        }
        Terms::Tls | Terms::ByAddress | Terms::Redirected => Vec::new(),
    }
}

/// A prefix of IPv4 addresses mapped into IPv6 is the prefix of the IPv4 addresses, as requests are.
fn canonical(prefix: ipnet::IpNet) -> ipnet::IpNet {
    let mapped = match prefix {
        ipnet::IpNet::V6(prefix) if prefix.prefix_len() >= 96 => {
            let length = prefix.prefix_len() - 96;
            prefix.addr().to_ipv4_mapped().and_then(|address| ipnet::Ipv4Net::new(address, length).ok())
        }
        _ => None,
    };
    mapped.map_or(prefix, Into::into)
}
