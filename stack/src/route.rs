//! Where a packet goes next: our address, the prefixes on the link, and the routes through gateways.

use core::cmp::Reverse;
use core::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::groups::group_mac;
use crate::ipv4::Cidr;
use crate::neighbor::Mac;
use crate::network::BROADCAST;

/// Routes kept from one lease. Option 121 of a lease from a cloud has two or three; 64 leaves room for a site's static routes.
pub(crate) const ROUTES_MAX: usize = 64;

/// A way to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where it leads.
    pub destination: Cidr,
    /// The gateway; `None` when the destination is on the link itself.
    pub via: Option<Ipv4Addr>,
}

/// The addresses in use and the routes that come with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    /// The most preferred first.
    addresses: Vec<Cidr>,
    /// Longest prefix first, so the first match is the best.
    entries: Vec<Entry>,
}

/// A route, and which of our addresses packets on it come from. Without one, it is the address that has the gateway in its prefix.
#[derive(Clone, Copy, Debug)]
struct Entry {
    route: Route,
    source: Option<Ipv4Addr>,
}

/// What the destination of a packet means for its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    Unicast(IpAddr),
    /// A group's or everybody's hardware address.
    Everybody(Mac),
}

impl Routing {
    /// `routes` beyond [`ROUTES_MAX`] are ignored. `gateway` is the default route; when nothing says that it can be reached
    /// (a /32 address, as on GCE) it is taken to be on the link.
    pub(crate) fn new(cidr: Cidr, gateway: Option<Ipv4Addr>, routes: &[Route]) -> Routing {
        let mut routing = Routing::default();
        routing.add_address(cidr);
        let mut all: Vec<Route> = routes.iter().take(ROUTES_MAX).copied().collect();
        if let Some(gateway) = gateway {
            let on_link = |route: &Route| route.via.is_none() && route.destination.contains(gateway);
            if !cidr.contains(gateway) && !all.iter().any(on_link) {
                all.push(Route { destination: Cidr::host(gateway), via: None });
            }
            if let Ok(destination) = Cidr::new(Ipv4Addr::UNSPECIFIED, 0) {
                all.push(Route { destination, via: Some(gateway) });
            }
        }
        routing.add_routes(&all, Some(cidr.address()));
        routing
    }

    /// Adds an address, less preferred than those that are there, and what is on the link with it.
    pub(crate) fn add_address(&mut self, cidr: Cidr) {
        if !self.is_own(cidr.address()) {
            self.addresses.push(cidr);
            self.add_routes(&[Route { destination: cidr.network(), via: None }], Some(cidr.address()));
        }
    }

    /// Adds routes, less preferred than those that are there and lead to the same prefix.
    pub(crate) fn add_routes(&mut self, routes: &[Route], source: Option<Ipv4Addr>) {
        for route in routes {
            // A lease with option 121 names the gateway of its default route again.
            if !self.entries.iter().any(|entry| entry.route == *route && entry.source == source) {
                self.entries.push(Entry { route: *route, source });
            }
        }
        self.entries.sort_by_key(|entry| Reverse(entry.route.destination.prefix_len()));
    }

    /// Adds everything of `other`, less preferred.
    pub(crate) fn append(&mut self, other: Routing) {
        self.addresses.extend(other.addresses);
        self.entries.extend(other.entries);
        self.entries.sort_by_key(|entry| Reverse(entry.route.destination.prefix_len()));
    }

    pub(crate) fn addresses(&self) -> &[Cidr] {
        &self.addresses
    }

    pub(crate) fn is_own(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|cidr| cidr.address() == address)
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.entries.iter().map(|entry| &entry.route)
    }

    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.addresses.iter().any(|cidr| cidr.broadcast() == Some(address))
    }

    fn entry(&self, destination: Ipv4Addr) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.route.destination.contains(destination))
    }

    /// Which of our addresses a packet to `destination` comes from: itself if it is ours, what its route says, the one that has the
    /// next hop in its prefix, or the first.
    pub(crate) fn source_for(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.is_own(destination) {
            return Some(destination);
        }
        let entry = self.entry(destination).filter(|_| !destination.is_multicast());
        let near = entry.and_then(|entry| entry.route.via).unwrap_or(destination);
        // Of several that fit equally well the last is the maximum, hence backwards.
        let neighbor = self.addresses.iter().rev().filter(|cidr| cidr.contains(near));
        entry
            .and_then(|entry| entry.source)
            .or_else(|| neighbor.max_by_key(|cidr| cidr.prefix_len()).map(Cidr::address))
            .or_else(|| self.addresses.first().map(Cidr::address))
    }

    /// The neighbour that takes a packet for `destination`, or `None` when there is no way.
    pub(crate) fn next_hop(&self, destination: Ipv4Addr) -> Option<NextHop> {
        if destination.is_multicast() {
            return Some(NextHop::Everybody(group_mac(destination.into())));
        }
        if self.is_broadcast(destination) {
            return Some(NextHop::Everybody(BROADCAST));
        }
        let hop = match self.entry(destination)?.route.via {
            None => destination,
            // RFC 3442 lets a gateway be behind a route of the list itself; one level is what it means.
            Some(gateway) => gateway,
        };
        Some(NextHop::Unicast(hop.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(a: u8, b: u8, c: u8, d: u8) -> Option<NextHop> {
        Some(NextHop::Unicast(Ipv4Addr::new(a, b, c, d).into()))
    }

    #[test]
    fn host_lease_with_gateway_only_reaches_everything_through_it() {
        let gateway = Ipv4Addr::new(10, 128, 0, 1);
        let routing = Routing::new("10.128.0.7/32".parse().unwrap(), Some(gateway), &[]);
        assert_eq!(routing.next_hop(Ipv4Addr::new(10, 128, 0, 9)), hop(10, 128, 0, 1));
        assert_eq!(routing.next_hop(gateway), hop(10, 128, 0, 1));
    }

    #[test]
    fn default_route_of_a_list_that_has_the_gateway_too_is_there_once() {
        let gateway = Ipv4Addr::new(10, 128, 0, 1);
        let routes = [
            Route { destination: Cidr::host(gateway), via: None },
            Route { destination: "0.0.0.0/0".parse().unwrap(), via: Some(gateway) },
        ];
        let routing = Routing::new("10.128.0.7/32".parse().unwrap(), Some(gateway), &routes);
        assert_eq!(routing.routes().filter(|route| route.destination.prefix_len() == 0).count(), 1);
        assert_eq!(routing.routes().filter(|route| route.destination == Cidr::host(gateway)).count(), 1);
    }

    #[test]
    fn longest_prefix_wins() {
        let routes = [
            Route { destination: "0.0.0.0/0".parse().unwrap(), via: Some(Ipv4Addr::new(10, 0, 0, 1)) },
            Route { destination: "172.16.0.0/12".parse().unwrap(), via: Some(Ipv4Addr::new(10, 0, 0, 2)) },
            Route { destination: "172.16.5.0/24".parse().unwrap(), via: None },
        ];
        let routing = Routing::new("10.0.0.9/24".parse().unwrap(), None, &routes);
        assert_eq!(routing.next_hop(Ipv4Addr::new(8, 8, 8, 8)), hop(10, 0, 0, 1));
        assert_eq!(routing.next_hop(Ipv4Addr::new(172, 17, 0, 1)), hop(10, 0, 0, 2));
        assert_eq!(routing.next_hop(Ipv4Addr::new(172, 16, 5, 4)), hop(172, 16, 5, 4));
        assert_eq!(routing.next_hop(Ipv4Addr::new(10, 0, 0, 255)), Some(NextHop::Everybody(BROADCAST)));
    }

    #[test]
    fn source_is_what_the_route_says_then_the_address_beside_the_gateway_then_the_first() {
        let mut routing =
            Routing::new("10.128.0.7/32".parse().unwrap(), Some(Ipv4Addr::new(10, 128, 0, 1)), &[]);
        routing.add_address("10.128.0.9/24".parse().unwrap());
        routing.add_address("192.168.7.2/24".parse().unwrap());
        routing.add_address("192.168.7.3/24".parse().unwrap());
        let via = |destination: &str, gateway| Route {
            destination: destination.parse().unwrap(),
            via: Some(gateway),
        };
        routing.add_routes(
            &[
                via("172.16.0.0/12", Ipv4Addr::new(192, 168, 7, 1)),
                via("172.20.0.0/16", Ipv4Addr::new(9, 9, 9, 9)),
            ],
            None,
        );
        let source = |a, b, c, d| routing.source_for(Ipv4Addr::new(a, b, c, d)).unwrap().to_string();
        // The lease's default route and its gateway have the lease's address, although another prefix holds the gateway.
        assert_eq!(source(8, 8, 8, 8), "10.128.0.7");
        assert_eq!(source(10, 128, 0, 1), "10.128.0.7");
        assert_eq!(source(10, 128, 0, 5), "10.128.0.9");
        assert_eq!(source(192, 168, 7, 9), "192.168.7.2", "the first of two in one prefix");
        assert_eq!(source(192, 168, 7, 3), "192.168.7.3", "our own address speaks for itself");
        assert_eq!(source(192, 168, 7, 255), "192.168.7.2");
        assert_eq!(source(172, 17, 0, 1), "192.168.7.2");
        assert_eq!(source(172, 20, 0, 1), "10.128.0.7");
        assert_eq!(source(224, 0, 0, 251), "10.128.0.7");
        assert!(routing.is_broadcast(Ipv4Addr::new(192, 168, 7, 255)));
    }

    #[test]
    fn no_gateway_no_way_off_the_link() {
        let routing = Routing::new("10.0.0.9/24".parse().unwrap(), None, &[]);
        assert_eq!(routing.next_hop(Ipv4Addr::new(8, 8, 8, 8)), None);
    }
}
