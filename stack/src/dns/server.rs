//! The recursive servers: which to ask first, and what each cannot do.

use core::net::SocketAddr;
use core::time::Duration;

use crate::time::Instant;

/// Servers kept; resolv.conf(5) has three, leases rarely more than four.
pub const SERVERS_MAX: usize = 8;
/// A server that did not answer goes to the end of the line: this long at first, doubling to the cap.
const PENALTY_FIRST: Duration = Duration::from_secs(5);
const PENALTY_DOUBLINGS_MAX: u32 = 6;
/// How long it is remembered that a server lacks something: it may be exchanged for a better one.
const SHORTCOMING_LASTS: Duration = Duration::from_secs(3600);

/// What a query to a server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// An OPT record (RFC 6891).
    pub(super) edns: bool,
    /// The 0x20 bits of the name's letters as further bits of the id.
    pub(super) mixed_case: bool,
}

struct Server {
    address: SocketAddr,
    failures: u32,
    penalty_ends: Instant,
    without_edns_until: Instant,
    without_mixed_case_until: Instant,
}

pub(super) struct Servers {
    list: Vec<Server>,
    rotate: bool,
    turn: usize,
}

impl Servers {
    pub(super) fn new(addresses: &[SocketAddr], rotate: bool) -> Servers {
        let mut servers = Servers { list: Vec::new(), rotate, turn: 0 };
        servers.replace(addresses);
        servers
    }

    /// Takes other servers; what is known about those that stay is kept. Returns false if nothing changed.
    pub(super) fn replace(&mut self, addresses: &[SocketAddr]) -> bool {
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for &address in addresses {
            if wanted.len() < SERVERS_MAX && !wanted.contains(&address) {
                wanted.push(address);
            }
        }
        if self.list.iter().map(|server| server.address).eq(wanted.iter().copied()) {
            return false;
        }
        let mut old = core::mem::take(&mut self.list);
        for address in wanted {
            let known = old.iter().position(|server| server.address == address);
            self.list.push(known.map_or_else(|| Server::new(address), |index| old.swap_remove(index)));
        }
        true
    }

    /// All servers in the order to ask them: those without a penalty first.
    pub(super) fn order(&mut self, now: Instant) -> Vec<SocketAddr> {
        let mut order: Vec<&Server> = self.list.iter().collect();
        if self.rotate && !order.is_empty() {
            let shift = self.turn % order.len();
            order.rotate_left(shift);
            self.turn = self.turn.wrapping_add(1);
        }
        // Stable: equals keep their order.
        order.sort_by_key(|server| server.penalty_ends.max(now));
        order.into_iter().map(|server| server.address).collect()
    }

    pub(super) fn form(&self, now: Instant, address: SocketAddr) -> Form {
        let server = self.list.iter().find(|server| server.address == address);
        Form {
            edns: server.is_none_or(|server| server.without_edns_until <= now),
            mixed_case: server.is_none_or(|server| server.without_mixed_case_until <= now),
        }
    }

    /// It answered, whatever it said.
    pub(super) fn answered(&mut self, address: SocketAddr) {
        if let Some(server) = self.find(address) {
            server.failures = 0;
            server.penalty_ends = Instant::ZERO;
        }
    }

    /// It did not answer, or cannot be reached.
    pub(super) fn failed(&mut self, now: Instant, address: SocketAddr) {
        if let Some(server) = self.find(address) {
            server.penalty_ends = now + PENALTY_FIRST * (1 << server.failures.min(PENALTY_DOUBLINGS_MAX));
            server.failures += 1;
        }
    }

    pub(super) fn lacks_edns(&mut self, now: Instant, address: SocketAddr) {
        if let Some(server) = self.find(address) {
            server.without_edns_until = now + SHORTCOMING_LASTS;
        }
    }

    pub(super) fn lacks_mixed_case(&mut self, now: Instant, address: SocketAddr) {
        if let Some(server) = self.find(address) {
            server.without_mixed_case_until = now + SHORTCOMING_LASTS;
        }
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Server> {
        self.list.iter_mut().find(|server| server.address == address)
    }
}

impl Server {
    fn new(address: SocketAddr) -> Server {
        Server {
            address,
            failures: 0,
            penalty_ends: Instant::ZERO,
            without_edns_until: Instant::ZERO,
            without_mixed_case_until: Instant::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 53))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn server_silent_goes_last_until_penalty_ends() {
        let mut servers = Servers::new(&[address(1), address(2)], false);
        servers.failed(at(100), address(1));
        assert_eq!(servers.order(at(104)), [address(2), address(1)]);
        assert_eq!(servers.order(at(105)), [address(1), address(2)]);
        servers.failed(at(105), address(1));
        assert_eq!(servers.order(at(114)), [address(2), address(1)]);
        servers.answered(address(1));
        assert_eq!(servers.order(at(114)), [address(1), address(2)]);
    }

    #[test]
    fn servers_rotating_take_turns() {
        let mut servers = Servers::new(&[address(1), address(2)], true);
        assert_eq!(servers.order(at(0))[0], address(1));
        assert_eq!(servers.order(at(0))[0], address(2));
        assert_eq!(servers.order(at(0))[0], address(1));
    }

    #[test]
    fn servers_replaced_keep_what_is_known_and_lose_doubles() {
        let mut servers = Servers::new(&[address(1)], false);
        servers.lacks_edns(at(0), address(1));
        assert!(servers.replace(&[address(2), address(1), address(2)]));
        assert!(!servers.replace(&[address(2), address(1)]));
        assert!(!servers.form(at(1), address(1)).edns && servers.form(at(1), address(2)).edns);
        assert!(servers.form(at(3600), address(1)).edns);
    }
}
