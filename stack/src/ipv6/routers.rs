//! What routers told us: which of them lead on, what is on the link, and how to resolve names (RFC 4861, 6.3; RFC 4191; RFC 8106).

use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};

use super::addresses::Lifetime;
use super::cidr::Cidr6;
use super::message::RouterAdvertisement;
use crate::config::MTU_MIN_V6;
use crate::time::Instant;

/// Entries of each list. An advertisement from anybody on the link adds to them, so they are small; RFC 4861, 6.3.4 wants at least two
/// routers.
const ROUTERS_MAX: usize = 8;
const PREFIXES_MAX: usize = 16;
const ROUTES_MAX: usize = 16;
const RESOLVERS_MAX: usize = 8;

/// Something that is believed until a time; `None` is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Until<T> {
    pub(super) value: T,
    pub(super) until: Option<Instant>,
}

/// A way through a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) destination: Cidr6,
    pub(super) router: Ipv6Addr,
    pub(super) preference: i8,
}

#[derive(Default)]
pub(super) struct Routers {
    /// Default routers are ways to ::/0.
    pub(super) ways: Vec<Until<Way>>,
    pub(super) on_link: Vec<Until<Cidr6>>,
    pub(super) dns: Vec<Until<Ipv6Addr>>,
    pub(super) search: Vec<Until<String>>,
    /// From the last advertisement that had one, within what the version allows.
    pub(super) mtu: Option<usize>,
    pub(super) managed: bool,
    pub(super) other: bool,
    defaults: usize,
}

/// Adds, refreshes or, with a lifetime of zero, removes; true if the list changed in more than its times.
fn update<T>(
    list: &mut Vec<Until<T>>,
    value: T,
    same: impl Fn(&T) -> bool,
    lifetime: Lifetime,
    (now, limit): (Instant, usize),
) -> bool
where
    T: PartialEq,
{
    let known = list.iter().position(|entry| same(&entry.value));
    match known {
        Some(index) if lifetime.is_zero() => {
            list.remove(index);
            true
        }
        Some(index) => {
            let changed = list[index].value != value;
            list[index] = Until { value, until: lifetime.end(now) };
            changed
        }
        None if lifetime.is_zero() || list.len() >= limit => false,
        None => {
            list.push(Until { value, until: lifetime.end(now) });
            true
        }
    }
}

impl Routers {
    /// Takes an advertisement; true if something changed that others may want to know.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        router: Ipv6Addr,
        advertisement: &RouterAdvertisement,
        device_mtu: usize,
    ) -> bool {
        let everything = Cidr6::new(Ipv6Addr::UNSPECIFIED, 0);
        let mut changed = false;
        if let Ok(destination) = everything {
            let lifetime = Lifetime::from_seconds(advertisement.lifetime_seconds.into());
            let way = Way { destination, router, preference: advertisement.preference };
            changed |= self.learn_way(now, way, lifetime);
        }
        for route in &advertisement.routes {
            let way = Way { destination: route.destination, router, preference: route.preference };
            changed |= self.learn_way(now, way, route.lifetime);
        }
        for prefix in advertisement.prefixes.iter().filter(|prefix| prefix.on_link) {
            // RFC 4861, 6.3.4: the link-local prefix is on the link whatever anybody says.
            if !prefix.cidr.address().is_unicast_link_local() && !prefix.cidr.address().is_multicast() {
                let same = |other: &Cidr6| *other == prefix.cidr;
                changed |= update(&mut self.on_link, prefix.cidr, same, prefix.valid, (now, PREFIXES_MAX));
            }
        }
        for (server, lifetime) in &advertisement.dns {
            changed |= self.learn_resolver(now, *server, *lifetime);
        }
        for (name, lifetime) in &advertisement.search {
            changed |= self.learn_domain(now, name, *lifetime);
        }
        (self.managed, self.other) = (advertisement.managed, advertisement.other);
        // RFC 4861, 6.3.4: between the smallest that IPv6 allows and what the device carries.
        let mtu = advertisement.mtu.and_then(|mtu| usize::try_from(mtu).ok());
        let mtu = mtu.filter(|mtu| (usize::from(MTU_MIN_V6)..=device_mtu).contains(mtu));
        if mtu.is_some() && mtu != self.mtu {
            self.mtu = mtu;
            changed = true;
        }
        changed
    }

    pub(super) fn learn_resolver(&mut self, now: Instant, server: Ipv6Addr, lifetime: Lifetime) -> bool {
        let same = |other: &Ipv6Addr| *other == server;
        crate::ip::is_usable_host(IpAddr::V6(server))
            && update(&mut self.dns, server, same, lifetime, (now, RESOLVERS_MAX))
    }

    pub(super) fn learn_domain(&mut self, now: Instant, name: &str, lifetime: Lifetime) -> bool {
        let same = |other: &String| other == name;
        update(&mut self.search, name.to_owned(), same, lifetime, (now, RESOLVERS_MAX))
    }

    fn learn_way(&mut self, now: Instant, way: Way, lifetime: Lifetime) -> bool {
        let same = |other: &Way| other.router == way.router && other.destination == way.destination;
        // Each kind has its own share of the list, so that neither keeps the other out.
        let others = self.ways.len() - self.defaults;
        let default = way.destination.prefix_len() == 0;
        let limit = if default { others + ROUTERS_MAX } else { self.defaults + ROUTES_MAX };
        let changed = update(&mut self.ways, way, same, lifetime, (now, limit));
        // Longest prefix first, then by preference: the first that answers is taken.
        self.ways.sort_by_key(|way| Reverse((way.value.destination.prefix_len(), way.value.preference)));
        self.defaults = self.ways.iter().filter(|way| way.value.destination.prefix_len() == 0).count();
        changed
    }

    /// A configured way, which stays.
    pub(super) fn add_fixed(&mut self, router: Ipv6Addr, destination: Cidr6) {
        self.ways.push(Until { value: Way { destination, router, preference: 0 }, until: None });
        self.defaults = self.ways.len();
    }

    /// A neighbour says that it is no router any more (RFC 4861, 7.2.5).
    pub(super) fn forget_router(&mut self, router: Ipv6Addr) -> bool {
        let before = self.ways.len();
        self.ways.retain(|way| way.value.router != router);
        self.defaults = self.ways.iter().filter(|way| way.value.destination.prefix_len() == 0).count();
        before != self.ways.len()
    }

    pub(super) fn is_on_link(&self, destination: Ipv6Addr) -> bool {
        destination.is_unicast_link_local()
            || self.on_link.iter().any(|prefix| prefix.value.contains(destination))
    }

    /// The router towards `destination`: the best one that `answers`, or the best of all when none does (RFC 4861, 6.3.6).
    pub(super) fn towards(
        &self,
        destination: Ipv6Addr,
        answers: impl Fn(Ipv6Addr) -> bool,
    ) -> Option<Ipv6Addr> {
        let mut leading = self.ways.iter().filter(|way| way.value.destination.contains(destination));
        let first = leading.clone().next()?;
        Some(leading.find(|way| answers(way.value.router)).unwrap_or(first).value.router)
    }

    /// Whether a router leads everywhere.
    pub(super) fn has_default(&self) -> bool {
        self.defaults > 0
    }

    /// Forgets what is out of date; true if that was anything.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        fn keep<T>(list: &mut Vec<Until<T>>, now: Instant) -> bool {
            let before = list.len();
            list.retain(|entry| entry.until.is_none_or(|until| now < until));
            before != list.len()
        }
        let changed = keep(&mut self.ways, now)
            | keep(&mut self.on_link, now)
            | keep(&mut self.dns, now)
            | keep(&mut self.search, now);
        self.defaults = self.ways.iter().filter(|way| way.value.destination.prefix_len() == 0).count();
        changed
    }

    /// When the next entry goes out of date.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let ways = self.ways.iter().filter_map(|entry| entry.until);
        let on_link = self.on_link.iter().filter_map(|entry| entry.until);
        let dns = self.dns.iter().filter_map(|entry| entry.until);
        let search = self.search.iter().filter_map(|entry| entry.until);
        ways.chain(on_link).chain(dns).chain(search).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_in_plenty_do_not_keep_a_default_router_out() {
        let mut routers = Routers::default();
        let (now, lifetime) = (Instant::ZERO, Lifetime::from_seconds(100));
        let router = |index: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, index);
        let way = |destination: &str, router, preference| Way {
            destination: destination.parse().unwrap(),
            router,
            preference,
        };
        for index in 0..100 {
            routers.learn_way(now, way(&format!("2001:db8:{index}::/48"), router(1), 0), lifetime);
        }
        assert_eq!(routers.ways.len(), ROUTES_MAX);
        for index in 0..100 {
            routers.learn_way(now, way("::/0", router(index), 0), lifetime);
        }
        assert_eq!(routers.ways.len(), ROUTES_MAX + ROUTERS_MAX);
        let far = "2001:db8:ffff::1".parse().unwrap();
        assert_eq!(routers.towards(far, |_| true), Some(router(0)));
        assert_eq!(routers.towards(far, |asked| asked == router(5)), Some(router(5)));
        assert_eq!(routers.towards(far, |_| false), Some(router(0)));
        assert_eq!(routers.towards("2001:db8:3::1".parse().unwrap(), |_| true), Some(router(1)));
        assert!(routers.expire(Instant::from_micros(100_000_000)) && !routers.has_default());
    }
}
