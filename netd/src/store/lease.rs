//! A lease as it is kept: every option, and times by the wall clock, since no other clock goes on while the daemon does not run.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netd_stack::{Cidr, Instant, Lease, LeaseHint, Route};
use serde::{Deserialize, Serialize};

/// A lease of this length is for ever (RFC 2131, 3.3).
const FOR_EVER: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredLease {
    /// With the length of the prefix.
    address: String,
    gateway: Option<Ipv4Addr>,
    routes: Vec<StoredRoute>,
    dns: Vec<Ipv4Addr>,
    ntp: Vec<Ipv4Addr>,
    mtu: Option<u16>,
    hostname: Option<String>,
    domain: Option<String>,
    search: Vec<String>,
    server: Ipv4Addr,
    lease_seconds: u32,
    /// Seconds since 1970.
    renew_at: u64,
    rebind_at: u64,
    expires_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRoute {
    to: String,
    gateway: Option<Ipv4Addr>,
}

/// Seconds since 1970; a clock before that has not been set.
fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl StoredLease {
    /// `lease`, with `now` being `wall`.
    pub(super) fn new(lease: &Lease, now: Instant, wall: SystemTime) -> StoredLease {
        let Lease {
            cidr,
            gateway,
            on_link_gateway: _,
            routes,
            dns,
            ntp,
            mtu,
            hostname,
            domain,
            search,
            server,
            lease_seconds,
            renew_at,
            rebind_at,
            expires_at,
        } = lease;
        let at = |instant: Instant| seconds(wall) + instant.saturating_duration_since(now).as_secs();
        let route = |route: &Route| StoredRoute { to: route.destination.to_string(), gateway: route.via };
        StoredLease {
            address: cidr.to_string(),
            gateway: *gateway,
            routes: routes.iter().map(route).collect(),
            dns: dns.clone(),
            ntp: ntp.clone(),
            mtu: *mtu,
            hostname: hostname.clone(),
            domain: domain.clone(),
            search: search.clone(),
            server: *server,
            lease_seconds: *lease_seconds,
            renew_at: at(*renew_at),
            rebind_at: at(*rebind_at),
            expires_at: at(*expires_at),
        }
    }

    /// What is left of it, with `now` being `wall`; or why nothing is.
    pub(super) fn hint(self, now: Instant, wall: SystemTime) -> Result<LeaseHint, String> {
        let parse = |text: &str| text.parse::<Cidr>().map_err(|_| format!("{text:?} is no prefix"));
        let cidr = parse(&self.address)?;
        let clock = seconds(wall);
        let left = self.expires_at.saturating_sub(clock);
        if left == 0 && self.lease_seconds != FOR_EVER {
            return Err(format!("it ran out {} s ago", clock - self.expires_at));
        }
        let address = cidr.address();
        if left > u64::from(self.lease_seconds) {
            // The clock went back, so nobody knows what is left. A server does.
            return Ok(LeaseHint { address, lease: None });
        }
        let routes = self.routes.iter().map(|StoredRoute { to, gateway }| {
            parse(to).map(|destination| Route { destination, via: *gateway })
        });
        let at = |seconds: u64| now + Duration::from_secs(seconds.saturating_sub(clock));
        let lease = Lease {
            cidr,
            gateway: self.gateway,
            on_link_gateway: self.gateway.is_some_and(|gateway| !cidr.contains(gateway)),
            routes: routes.collect::<Result<_, _>>()?,
            dns: self.dns,
            ntp: self.ntp,
            mtu: self.mtu,
            hostname: self.hostname,
            domain: self.domain,
            search: self.search,
            server: self.server,
            lease_seconds: self.lease_seconds,
            renew_at: at(self.renew_at),
            rebind_at: at(self.rebind_at),
            expires_at: at(self.expires_at),
        };
        Ok(LeaseHint { address, lease: Some(Box::new(lease)) })
    }
}
