//! Which IPv4 address is in use, what it brings with it, and what can be said about all our addresses.

use core::net::IpAddr;
use core::time::Duration;

use super::Stack;
use crate::config::{ConflictDetection, MTU_MIN, Static};
use crate::dhcp::{Change, Lease};
use crate::egress::Egress;
use crate::info::{AddressInfo, AddressOrigin, AddressState, AddressStatus, RouteInfo};
use crate::ipv4::Cidr;
use crate::route::Routing;
use crate::time::Instant;
use crate::timers::Timer;

/// How long to leave a configured address alone that somebody else has (RFC 5227, 1.1: RATE_LIMIT_INTERVAL).
const RETRY: Duration = Duration::from_secs(60);

/// An address that is not in use yet.
pub(super) struct Pending {
    state: AddressState,
    /// When it is tried again; `None` while it is being probed.
    retry_at: Option<Instant>,
}

fn cidr_of(state: &AddressState) -> Option<Cidr> {
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
                self.pending = None;
                self.network.abandon_claim();
                self.withdraw();
            }
        }
    }

    pub(super) fn use_static(&mut self, now: Instant, address: Static, state: fn(Static) -> AddressState) {
        self.adopt(now, state(address));
    }

    /// Takes an address into use, now or when it has been checked. The one that is in use already is not checked again.
    fn adopt(&mut self, now: Instant, state: AddressState) {
        let renewed = cidr_of(&state) == cidr_of(&self.address);
        let Some(cidr) = cidr_of(&state).filter(|_| !renewed) else { return self.put_to_use(state) };
        self.pending = None;
        let checking = self.network.claim(now, cidr);
        if checking && self.network.conflicts == ConflictDetection::Strict {
            self.withdraw();
            self.pending = Some(Pending { state, retry_at: None });
        } else {
            self.put_to_use(state);
        }
    }

    fn put_to_use(&mut self, state: AddressState) {
        let (routing, mtu) = match &state {
            AddressState::Searching => (None, None),
            AddressState::Bound(lease) => (Some(lease.routing()), lease.mtu),
            AddressState::Fallback(address) | AddressState::Static(address) => {
                (Some(Routing::new(address.cidr, address.gateway, &[])), address.mtu)
            }
        };
        self.use_address(routing, mtu);
        self.address = state;
    }

    fn withdraw(&mut self) {
        if self.address != AddressState::Searching {
            self.put_to_use(AddressState::Searching);
        }
    }

    fn use_address(&mut self, routing: Option<Routing>, mtu: Option<u16>) {
        let mtu = mtu.unwrap_or(self.device_mtu).clamp(MTU_MIN, self.device_mtu);
        self.network.mtu = usize::from(mtu);
        self.network.set_routing(routing);
        self.tcp.address_changed(&mut self.network);
    }

    /// Nobody else has the address that was being checked.
    pub(super) fn address_free(&mut self) {
        if let Some(pending) = self.pending.take_if(|pending| pending.retry_at.is_none()) {
            self.put_to_use(pending.state);
        }
    }

    /// Somebody else has our address, or will not leave it to us (RFC 5227, 2.1.1 and 2.4). A server is told and asked for another
    /// (RFC 2131, 4.4.4); a configured address is tried again later.
    pub(super) fn address_taken<E: Egress>(&mut self, now: Instant, egress: &mut E) {
        let state = match self.pending.take() {
            Some(pending) => pending.state,
            None => self.address.clone(),
        };
        self.withdraw();
        match (&state, &mut self.dhcp) {
            (AddressState::Bound(_), Some(dhcp)) => {
                let change = dhcp.decline(now, &mut self.network, egress);
                self.apply(now, change);
            }
            _ => {
                self.network.timers.arm_once(Timer::Retry, now + RETRY);
                self.pending = Some(Pending { state, retry_at: Some(now + RETRY) });
            }
        }
    }

    pub(super) fn retry_address(&mut self, now: Instant) {
        let due = |pending: &mut Pending| pending.retry_at.is_some_and(|at| now >= at);
        if let Some(pending) = self.pending.take_if(due) {
            self.adopt(now, pending.state);
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
        let v4 = match (&self.address, claimed) {
            (AddressState::Searching, Some((state, true))) => v4_info(state, AddressStatus::Duplicated),
            (AddressState::Searching, Some((state, false))) => v4_info(state, AddressStatus::Tentative),
            (state, _) => v4_info(state, AddressStatus::Preferred),
        };
        v4.into_iter().chain(self.network.ipv6.address_infos())
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
