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

/// The address in use and the routes that come with it.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    cidr: Cidr,
    /// Longest prefix first, so the first match is the best.
    routes: Vec<Route>,
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
        let mut all = vec![Route { destination: cidr.network(), via: None }];
        all.extend(routes.iter().take(ROUTES_MAX));
        if let Some(gateway) = gateway {
            if !all.iter().any(|route| route.via.is_none() && route.destination.contains(gateway)) {
                all.push(Route { destination: Cidr::host(gateway), via: None });
            }
            if let Ok(destination) = Cidr::new(Ipv4Addr::UNSPECIFIED, 0) {
                all.push(Route { destination, via: Some(gateway) });
            }
        }
        all.sort_by_key(|route| Reverse(route.destination.prefix_len()));
        Routing { cidr, routes: all }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.cidr.address()
    }

    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.cidr.broadcast() == Some(address)
    }

    /// The neighbour that takes a packet for `destination`, or `None` when there is no way.
    pub(crate) fn next_hop(&self, destination: Ipv4Addr) -> Option<NextHop> {
        if destination.is_multicast() {
            return Some(NextHop::Everybody(group_mac(destination.into())));
        }
        if self.is_broadcast(destination) {
            return Some(NextHop::Everybody(BROADCAST));
        }
        let route = self.routes.iter().find(|route| route.destination.contains(destination))?;
        let hop = match route.via {
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
    fn no_gateway_no_way_off_the_link() {
        let routing = Routing::new("10.0.0.9/24".parse().unwrap(), None, &[]);
        assert_eq!(routing.next_hop(Ipv4Addr::new(8, 8, 8, 8)), None);
    }
}
