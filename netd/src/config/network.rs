//! `[address]` and `[ipv6]`: our addresses, routes and how claims to them are checked.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netd_policy::file::Spanned;
use netd_stack::{
    Addressing, Cidr, Cidr6, ConflictDetection, Ipv6Addressing, LeaseHint, Options, Route, SECONDARY_MAX,
    STATIC_ROUTES_MAX, Static, Static6,
};
use serde::Deserialize;

use crate::config::complaint::{Complaint, parse_at, within};

/// How long DHCP asks before a configured fallback address is used.
const DHCP_FALLBACK_SECONDS: u64 = 30;
/// An hour: longer is nobody's fallback.
const DHCP_FALLBACK_SECONDS_MAX: u64 = 3600;

/// Addresses and routes. A reload puts another value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Where the first IPv4 address comes from.
    pub addressing: Addressing,
    /// Sent to the DHCP server.
    pub hostname: Option<String>,
    /// IPv4 addresses beside the first.
    pub additional: Vec<Cidr>,
    /// Routes beside those that come with the first address.
    pub routes: Vec<Route>,
    /// How a claim to an IPv4 address is checked.
    pub conflicts: ConflictDetection,
    /// Where IPv6 addresses come from.
    pub ipv6: Ipv6Addressing,
    /// Whether they are made with the secret of the state directory (RFC 7217) and not from the hardware address.
    pub stable_identifiers: bool,
}

impl Network {
    /// As the stack wants it. `secret` is what the state directory keeps, `lease` what is left of an earlier run's.
    pub fn options(&self, secret: [u8; 16], lease: Option<LeaseHint>) -> Options {
        Options {
            ipv6: self.ipv6.clone(),
            secondary: self.additional.clone(),
            routes: self.routes.clone(),
            conflicts: self.conflicts,
            address_secret: self.stable_identifiers.then_some(secret),
            lease,
        }
    }
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAddress {
    /// Where the first IPv4 address comes from.
    mode: RawMode,
    /// The address with its prefix; with `mode = "dhcp"`, a fallback for when no server answers.
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["10.0.0.2/24"])))]
    cidr: Option<Spanned<String>>,
    /// The router of that address.
    gateway: Option<Spanned<Ipv4Addr>>,
    /// Resolvers that come with that address.
    dns: Vec<Ipv4Addr>,
    /// The largest IP packet on the network of that address.
    mtu: Option<u16>,
    /// Told to the DHCP server: one label.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"))
    )]
    hostname: Option<Spanned<String>>,
    /// How long DHCP asks before the fallback is used.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = DHCP_FALLBACK_SECONDS_MAX), extend("default" = DHCP_FALLBACK_SECONDS)))]
    fallback_seconds: Option<Spanned<u64>>,
    /// Addresses beside the first, with their prefixes; those of one prefix share its routes.
    #[cfg_attr(feature = "schema", schemars(length(max = SECONDARY_MAX)))]
    additional: Option<Spanned<Vec<Spanned<String>>>>,
    /// Routes beside those of the lease.
    #[cfg_attr(feature = "schema", schemars(length(max = STATIC_ROUTES_MAX)))]
    routes: Option<Spanned<Vec<RawRoute>>>,
    /// How claims to an address are checked (RFC 5227).
    conflicts: RawConflicts,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    /// From a DHCP server.
    #[default]
    Dhcp,
    /// From `cidr`.
    Static,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    /// A prefix.
    to: Spanned<String>,
    /// The router; without it, the prefix is on the link.
    gateway: Option<Ipv4Addr>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawConflicts {
    /// Addresses are used at once, and probed meanwhile.
    #[default]
    Optimistic,
    /// First probed, then used.
    Strict,
    /// Not at all.
    Off,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIpv6 {
    /// Where IPv6 addresses come from.
    mode: RawIpv6Mode,
    /// With `mode = "static"`: addresses with their prefixes.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = SECONDARY_MAX)))]
    addresses: Option<Spanned<Vec<Spanned<String>>>>,
    /// With `mode = "static"`: the router, mostly `fe80::...`.
    gateway: Option<Spanned<Ipv6Addr>>,
    /// With `mode = "static"`: resolvers.
    dns: Option<Spanned<Vec<Ipv6Addr>>>,
    /// How the lower half of addresses is made.
    identifiers: RawIdentifiers,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawIpv6Mode {
    /// What routers and DHCPv6 say.
    #[default]
    Auto,
    /// The link-local address alone.
    LinkLocal,
    /// From `addresses`.
    Static,
    /// None: no IPv6.
    Off,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawIdentifiers {
    /// Opaque, the same on each network at each start (RFC 7217).
    #[default]
    Stable,
    /// From the hardware address.
    Hardware,
}

pub(super) fn check(
    address: Option<Spanned<RawAddress>>,
    ipv6: Option<Spanned<RawIpv6>>,
) -> Result<Network, Complaint> {
    let identifiers = ipv6.as_ref().map(|ipv6| ipv6.get_ref().identifiers).unwrap_or_default();
    let span = address.as_ref().map_or(0..0, Spanned::span);
    let RawAddress {
        mode,
        cidr,
        gateway,
        dns,
        mtu,
        hostname,
        fallback_seconds,
        additional,
        routes,
        conflicts,
    } = address.map(Spanned::into_inner).unwrap_or_default();
    let seconds =
        within("fallback_seconds", fallback_seconds, DHCP_FALLBACK_SECONDS, 1..=DHCP_FALLBACK_SECONDS_MAX)?;
    let addressing = match (mode, check_static(cidr, gateway, mtu, dns)?) {
        (RawMode::Static, Some(fixed)) => Addressing::Static(fixed),
        (RawMode::Static, None) => {
            return Err(Complaint::at(
                span,
                "mode = \"static\" needs an address: cidr = \"10.0.0.2/24\", and mostly a gateway",
            ));
        }
        (RawMode::Dhcp, fallback) => Addressing::Dhcp { fallback, timeout: Duration::from_secs(seconds) },
    };
    Ok(Network {
        addressing,
        hostname: hostname.map(check_hostname).transpose()?,
        additional: check_additional(additional)?,
        routes: check_routes(routes)?,
        conflicts: match conflicts {
            RawConflicts::Optimistic => ConflictDetection::Optimistic,
            RawConflicts::Strict => ConflictDetection::Strict,
            RawConflicts::Off => ConflictDetection::Off,
        },
        ipv6: check_ipv6(ipv6)?,
        stable_identifiers: identifiers == RawIdentifiers::Stable,
    })
}

/// The address with a gateway; none if there is no address.
fn check_static(
    cidr: Option<Spanned<String>>,
    gateway: Option<Spanned<Ipv4Addr>>,
    mtu: Option<u16>,
    dns: Vec<Ipv4Addr>,
) -> Result<Option<Static>, Complaint> {
    match (cidr, gateway) {
        (Some(cidr), gateway) => {
            let place = cidr.span();
            let cidr = parse_at::<Cidr>(&cidr, "cidr: ")?;
            let fixed = Static { cidr, gateway: gateway.map(Spanned::into_inner), mtu, dns };
            fixed.check().map_err(|error| Complaint::at(place, error))?;
            Ok(Some(fixed))
        }
        (None, Some(gateway)) => {
            Err(Complaint::at(gateway.span(), "gateway needs an address beside it: cidr = \"10.0.0.2/24\""))
        }
        (None, None) => Ok(None),
    }
}

fn check_additional(additional: Option<Spanned<Vec<Spanned<String>>>>) -> Result<Vec<Cidr>, Complaint> {
    let Some(additional) = additional else { return Ok(Vec::new()) };
    if additional.get_ref().len() > SECONDARY_MAX {
        let message = format!(
            "additional has {} addresses, and there may be {SECONDARY_MAX}",
            additional.get_ref().len()
        );
        return Err(Complaint::at(additional.span(), message));
    }
    let mut all: Vec<Cidr> = Vec::new();
    for text in additional.into_inner() {
        let cidr = parse_at::<Cidr>(&text, "additional: ")?;
        let alone = Static { cidr, gateway: None, mtu: None, dns: Vec::new() };
        alone.check().map_err(|error| Complaint::at(text.span(), format!("additional: {error}")))?;
        if all.iter().any(|other| other.address() == cidr.address()) {
            return Err(Complaint::at(text.span(), format!("additional has {} twice", cidr.address())));
        }
        all.push(cidr);
    }
    Ok(all)
}

fn check_routes(routes: Option<Spanned<Vec<RawRoute>>>) -> Result<Vec<Route>, Complaint> {
    let Some(routes) = routes else { return Ok(Vec::new()) };
    if routes.get_ref().len() > STATIC_ROUTES_MAX {
        let message = format!("{} routes, and there may be {STATIC_ROUTES_MAX}", routes.get_ref().len());
        return Err(Complaint::at(routes.span(), message));
    }
    let check = |RawRoute { to, gateway }: RawRoute| {
        let destination = parse_at::<Cidr>(&to, "to: ")?;
        if destination != destination.network() {
            let message = format!("to has bits behind its prefix: write \"{}\"", destination.network());
            return Err(Complaint::at(to.span(), message));
        }
        let usable = gateway.is_none_or(|gateway| {
            Static { cidr: Cidr::host(gateway), gateway: None, mtu: None, dns: Vec::new() }.check().is_ok()
        });
        match usable {
            true => Ok(Route { destination, via: gateway }),
            false => Err(Complaint::at(to.span(), "the gateway of a route is a host's unicast address")),
        }
    };
    routes.into_inner().into_iter().map(check).collect()
}

fn check_ipv6(ipv6: Option<Spanned<RawIpv6>>) -> Result<Ipv6Addressing, Complaint> {
    let span = ipv6.as_ref().map_or(0..0, Spanned::span);
    let RawIpv6 { mode, addresses, gateway, dns, identifiers: _ } =
        ipv6.map(Spanned::into_inner).unwrap_or_default();
    if mode != RawIpv6Mode::Static {
        let places = [
            ("addresses", addresses.map(|addresses| addresses.span())),
            ("gateway", gateway.map(|gateway| gateway.span())),
            ("dns", dns.map(|dns| dns.span())),
        ];
        if let Some((key, place)) = places.into_iter().find_map(|(key, place)| Some((key, place?))) {
            return Err(Complaint::at(place, format!("{key} belongs to mode = \"static\": remove it")));
        }
        return Ok(match mode {
            RawIpv6Mode::Auto | RawIpv6Mode::Static => Ipv6Addressing::Auto,
            RawIpv6Mode::LinkLocal => Ipv6Addressing::LinkLocal,
            RawIpv6Mode::Off => Ipv6Addressing::Off,
        });
    }
    let addresses = addresses.map(Spanned::into_inner).unwrap_or_default();
    if addresses.is_empty() || addresses.len() > SECONDARY_MAX {
        let message = format!(
            "mode = \"static\" needs addresses = [\"2001:db8::2/64\"], one to {SECONDARY_MAX} of them"
        );
        return Err(Complaint::at(span, message));
    }
    let parse = |text: Spanned<String>| {
        let cidr = parse_at::<Cidr6>(&text, "addresses: ")?;
        match is_host(cidr.address()) {
            true => Ok(cidr),
            false => Err(Complaint::at(text.span(), "addresses: only unicast addresses are a host's")),
        }
    };
    if let Some(gateway) = gateway.as_ref().filter(|gateway| !is_host(*gateway.get_ref())) {
        return Err(Complaint::at(gateway.span(), "gateway is a router's unicast address, mostly fe80::..."));
    }
    Ok(Ipv6Addressing::Static(Static6 {
        addresses: addresses.into_iter().map(parse).collect::<Result<_, _>>()?,
        gateway: gateway.map(Spanned::into_inner),
        dns: dns.map(Spanned::into_inner).unwrap_or_default(),
    }))
}

fn is_host(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.to_ipv4_mapped().is_some())
}

/// A host name as RFC 1123, 2.1 has it, one label.
fn check_hostname(name: Spanned<String>) -> Result<String, Complaint> {
    let fits = !name.get_ref().is_empty()
        && name.get_ref().len() <= 63
        && name.get_ref().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.get_ref().starts_with('-')
        && !name.get_ref().ends_with('-');
    match fits {
        true => Ok(name.into_inner()),
        false => Err(Complaint::at(
            name.span(),
            "hostname must be one label of letters, digits and inner hyphens, at most 63",
        )),
    }
}
