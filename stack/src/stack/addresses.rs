//! Which IPv4 addresses are in use and what they bring with them, and what can be said about all our addresses.
//!
//! The *first* address is the one of the lease, or the configured one; it brings gateway, MTU and resolvers. *Secondary* ones are
//! configured beside it. Each is claimed for itself (RFC 5227) and given up for itself.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::Stack;
use crate::config::{ConflictDetection, MTU_MIN, Static};
use crate::dhcp::{Change, Lease};
use crate::egress::Egress;
use crate::events::Ready;
use crate::info::{AddressInfo, AddressOrigin, AddressState, AddressStatus, RouteInfo};
use crate::ipv4::Cidr;
use crate::route::Routing;
use crate::time::Instant;
use crate::timers::Timer;

/// How long to leave a configured address alone that somebody else has (RFC 5227, 1.1: RATE_LIMIT_INTERVAL).
const RETRY: Duration = Duration::from_secs(60);

/// A first address that is not in use yet.
pub(super) struct Pending {
    state: AddressState,
    /// When it is tried again; `None` while it is being probed.
    retry_at: Option<Instant>,
}

/// An address beside the first.
pub(super) struct Secondary {
    pub(super) cidr: Cidr,
    status: SecondaryStatus,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SecondaryStatus {
    /// It is being probed, and not used before nobody has answered.
    Checking,
    InUse,
    /// Somebody else has it; when it is tried again.
    Taken {
        retry_at: Instant,
    },
}

pub(super) fn cidr_of(state: &AddressState) -> Option<Cidr> {
    match state {
        AddressState::Searching => None,
        AddressState::Bound(lease) => Some(lease.cidr),
        AddressState::Fallback(address) | AddressState::Static(address) => Some(address.cidr),
    }
}

impl Stack {
    pub(super) fn apply(&mut self, now: Instant, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Bound(lease) => self.adopt(now, AddressState::Bound(*lease)),
            Change::Fallback(address) => self.use_static(now, address, AddressState::Fallback),
            Change::Lost => {
                self.abandon_first();
                self.withdraw();
            }
        }
    }

    pub(super) fn use_static(&mut self, now: Instant, address: Static, state: fn(Static) -> AddressState) {
        self.adopt(now, state(address));
    }

    /// Gives up the claims to the first address, used or not.
    pub(super) fn abandon_first(&mut self) {
        let pending = self.pending.take().and_then(|pending| cidr_of(&pending.state));
        for cidr in pending.into_iter().chain(cidr_of(&self.address)) {
            // A secondary address may be the same one.
            if !self.secondary.iter().any(|other| other.cidr.address() == cidr.address()) {
                self.network.abandon_claim(cidr.address());
            }
        }
    }

    /// Takes a first address into use, now or when it has been checked. The one that is in use already is not checked again.
    fn adopt(&mut self, now: Instant, state: AddressState) {
        let renewed = cidr_of(&state) == cidr_of(&self.address);
        let Some(cidr) = cidr_of(&state).filter(|_| !renewed) else { return self.put_to_use(state) };
        self.abandon_first();
        let checking = self.network.claim(now, cidr);
        if checking && self.network.conflicts == ConflictDetection::Strict {
            self.withdraw();
            self.pending = Some(Pending { state, retry_at: None });
        } else {
            self.put_to_use(state);
        }
    }

    fn put_to_use(&mut self, state: AddressState) {
        self.address = state;
        self.network.searching = self.address == AddressState::Searching;
        self.reroute();
        self.network.events.push(Ready::Lease);
    }

    pub(super) fn withdraw(&mut self) {
        if self.address != AddressState::Searching {
            self.put_to_use(AddressState::Searching);
        }
    }

    /// Puts addresses and routes together from everything that is in use.
    pub(super) fn reroute(&mut self) {
        let (first, mtu) = match &self.address {
            AddressState::Searching => (Routing::default(), None),
            AddressState::Bound(lease) => (lease.routing(), lease.mtu),
            AddressState::Fallback(address) | AddressState::Static(address) => {
                (Routing::new(address.cidr, address.gateway, &[]), address.mtu)
            }
        };
        // What the operator wrote down is preferred to what a lease says of the same prefix, except where a packet comes from.
        let mut routing = Routing::default();
        routing.add_routes(&self.routes, None);
        routing.append(first);
        for secondary in self.secondary.iter().filter(|other| other.status == SecondaryStatus::InUse) {
            routing.add_address(secondary.cidr);
        }
        let mtu = mtu.unwrap_or(self.device_mtu).clamp(MTU_MIN, self.device_mtu);
        self.network.mtu = usize::from(mtu);
        self.network.set_routing((!routing.addresses().is_empty()).then_some(routing));
        self.tcp.address_changed(&mut self.network);
    }

    /// Takes these secondary addresses into use, and others out of use.
    pub(super) fn set_secondary(&mut self, now: Instant, wanted: &[Cidr]) {
        let mut kept = std::mem::take(&mut self.secondary);
        kept.retain(|secondary| {
            let keep = wanted.contains(&secondary.cidr);
            if !keep && cidr_of(&self.address).map(|cidr| cidr.address()) != Some(secondary.cidr.address()) {
                self.network.abandon_claim(secondary.cidr.address());
            }
            keep
        });
        for cidr in wanted {
            let known = kept.iter().position(|secondary| secondary.cidr == *cidr);
            let secondary = known.map(|index| kept.swap_remove(index));
            let secondary = secondary.unwrap_or_else(|| self.claim_secondary(now, *cidr));
            self.secondary.push(secondary);
        }
        self.reroute();
        self.network.events.push(Ready::Addresses);
    }

    fn claim_secondary(&mut self, now: Instant, cidr: Cidr) -> Secondary {
        let checking = self.network.claim(now, cidr);
        let strict = self.network.conflicts == ConflictDetection::Strict;
        let status = if checking && strict { SecondaryStatus::Checking } else { SecondaryStatus::InUse };
        Secondary { cidr, status }
    }

    fn set_secondary_status(&mut self, address: Ipv4Addr, status: SecondaryStatus) {
        let of = |other: &&mut Secondary| other.cidr.address() == address;
        if let Some(secondary) = self.secondary.iter_mut().find(of) {
            secondary.status = status;
            self.reroute();
            self.network.events.push(Ready::Addresses);
        }
    }

    /// Nobody else has the address that was being checked.
    pub(super) fn address_free(&mut self, address: Ipv4Addr) {
        let checked = |pending: &mut Pending| {
            pending.retry_at.is_none()
                && cidr_of(&pending.state).is_some_and(|cidr| cidr.address() == address)
        };
        if let Some(pending) = self.pending.take_if(checked) {
            self.put_to_use(pending.state);
        }
        let waiting =
            |other: &Secondary| other.cidr.address() == address && other.status == SecondaryStatus::Checking;
        if self.secondary.iter().any(waiting) {
            self.set_secondary_status(address, SecondaryStatus::InUse);
        }
    }

    /// Somebody else has one of our addresses, or will not leave it to us (RFC 5227, 2.1.1 and 2.4). A server is told and asked for
    /// another (RFC 2131, 4.4.4); a configured address is tried again later.
    pub(super) fn address_taken<E: Egress>(&mut self, now: Instant, address: Ipv4Addr, egress: &mut E) {
        let retry_at = now + RETRY;
        if self.secondary.iter().any(|other| other.cidr.address() == address) {
            self.network.timers.arm_once(Timer::Retry, retry_at);
            self.set_secondary_status(address, SecondaryStatus::Taken { retry_at });
        }
        let is_it = |state: &AddressState| cidr_of(state).is_some_and(|cidr| cidr.address() == address);
        let state = match self.pending.take_if(|pending| is_it(&pending.state)) {
            Some(pending) => pending.state,
            None if is_it(&self.address) => self.address.clone(),
            None => return,
        };
        self.withdraw();
        match (&state, &mut self.dhcp) {
            (AddressState::Bound(_), Some(dhcp)) => {
                let change = dhcp.decline(now, &mut self.network, egress);
                self.apply(now, change);
            }
            _ => {
                self.network.timers.arm_once(Timer::Retry, retry_at);
                self.pending = Some(Pending { state, retry_at: Some(retry_at) });
            }
        }
    }

    pub(super) fn retry_addresses(&mut self, now: Instant) {
        let due = |pending: &mut Pending| pending.retry_at.is_some_and(|at| now >= at);
        if let Some(pending) = self.pending.take_if(due) {
            self.adopt(now, pending.state);
        }
        let due = |other: &&Secondary| matches!(other.status, SecondaryStatus::Taken { retry_at } if now >= retry_at);
        let due: Vec<Cidr> = self.secondary.iter().filter(due).map(|other| other.cidr).collect();
        for cidr in due {
            let Secondary { cidr, status } = self.claim_secondary(now, cidr);
            self.set_secondary_status(cidr.address(), status);
        }
    }

    /// Claims every address in use anew: who is on the link may have changed (RFC 5227, 2.1).
    pub(super) fn claim_again(&mut self, now: Instant) {
        let secondary = self.secondary.iter().filter(|other| other.status == SecondaryStatus::InUse);
        let in_use: Vec<Cidr> =
            cidr_of(&self.address).into_iter().chain(secondary.map(|other| other.cidr)).collect();
        for cidr in in_use {
            self.network.claim(now, cidr);
        }
    }

    /// Which IPv4 address is in use.
    #[must_use]
    pub fn lease(&self) -> AddressState {
        self.address.clone()
    }

    /// The IP MTU in force: the device's, or less if the network says so.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        u16::try_from(self.network.mtu).unwrap_or(u16::MAX)
    }

    /// Every address of ours, in use or not: IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = AddressInfo> {
        let pending = self.pending.as_ref();
        let claimed = pending.map(|pending| (&pending.state, pending.retry_at.is_some()));
        let first = match (&self.address, claimed) {
            (AddressState::Searching, Some((state, true))) => v4_info(state, AddressStatus::Duplicated),
            (AddressState::Searching, Some((state, false))) => v4_info(state, AddressStatus::Tentative),
            (state, _) => v4_info(state, AddressStatus::Preferred),
        };
        let doubled = first.as_ref().map(|info| info.address);
        let others = self.secondary.iter().map(|other| AddressInfo {
            address: other.cidr.address().into(),
            prefix_len: other.cidr.prefix_len(),
            status: match other.status {
                SecondaryStatus::Checking => AddressStatus::Tentative,
                SecondaryStatus::InUse => AddressStatus::Preferred,
                SecondaryStatus::Taken { .. } => AddressStatus::Duplicated,
            },
            origin: AddressOrigin::Static,
            preferred_until: None,
            valid_until: None,
        });
        let others = others.filter(move |info| Some(info.address) != doubled);
        first.into_iter().chain(others).chain(self.network.ipv6.address_infos())
    }

    /// Every route, IPv4 first, in the order in which they are tried.
    pub fn routes(&self) -> impl Iterator<Item = RouteInfo> {
        let expires_at = match &self.address {
            AddressState::Bound(lease) => lease_end(lease),
            AddressState::Searching | AddressState::Fallback(_) | AddressState::Static(_) => None,
        };
        let v4 = self.network.routing.iter().flat_map(|routing| routing.routes());
        let v4 = v4.map(move |route| RouteInfo {
            destination: route.destination.address().into(),
            prefix_len: route.destination.prefix_len(),
            via: route.via.map(IpAddr::V4),
            expires_at,
        });
        v4.chain(self.network.ipv6.route_infos())
    }

    /// Name servers that the network offers, or that were configured: IPv4 first.
    #[must_use]
    pub fn name_servers(&self) -> Vec<IpAddr> {
        let v4: &[core::net::Ipv4Addr] = match &self.address {
            AddressState::Searching => &[],
            AddressState::Bound(lease) => &lease.dns,
            AddressState::Fallback(address) | AddressState::Static(address) => &address.dns,
        };
        v4.iter().copied().map(IpAddr::V4).chain(self.network.ipv6.dns()).collect()
    }

    /// Domains that the network offers to be tried behind a short name, without repetition.
    #[must_use]
    pub fn search_domains(&self) -> Vec<String> {
        let mut domains = Vec::new();
        let lease = match &self.address {
            AddressState::Bound(lease) => Some(lease),
            AddressState::Searching | AddressState::Fallback(_) | AddressState::Static(_) => None,
        };
        let from_lease = lease.into_iter().flat_map(|lease| lease.search.iter().chain(&lease.domain));
        for domain in from_lease.map(String::as_str).chain(self.network.ipv6.search()) {
            if !domains.iter().any(|known: &String| known.eq_ignore_ascii_case(domain)) {
                domains.push(domain.to_owned());
            }
        }
        domains
    }

    /// Whether a router says that DHCPv6 servers give addresses, and whether they give anything at all.
    #[must_use]
    pub fn dhcpv6_flags(&self) -> (bool, bool) {
        self.network.ipv6.dhcp_flags()
    }
}

fn lease_end(lease: &Lease) -> Option<Instant> {
    (!lease.is_infinite()).then_some(lease.expires_at)
}

fn v4_info(state: &AddressState, status: AddressStatus) -> Option<AddressInfo> {
    let (origin, until) = match state {
        AddressState::Searching => return None,
        AddressState::Bound(lease) => (AddressOrigin::Dhcp, lease_end(lease)),
        AddressState::Fallback(_) => (AddressOrigin::Fallback, None),
        AddressState::Static(_) => (AddressOrigin::Static, None),
    };
    let cidr = cidr_of(state)?;
    Some(AddressInfo {
        address: cidr.address().into(),
        prefix_len: cidr.prefix_len(),
        status,
        origin,
        preferred_until: until,
        valid_until: until,
    })
}
