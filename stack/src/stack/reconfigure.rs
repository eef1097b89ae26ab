//! What changes while the stack runs: its configuration, and the link below it.

use core::time::Duration;

use super::Stack;
use crate::config::{Addressing, Ipv6Addressing, Options, Static};
use crate::dhcp::{Dhcp, LeaseHint};
use crate::dhcp6::Dhcp6;
use crate::error::Error;
use crate::info::AddressState;
use crate::time::Instant;

/// What was asked for last.
pub(super) struct Configured {
    pub(super) addressing: Addressing,
    pub(super) hostname: Option<String>,
    pub(super) ipv6: Ipv6Addressing,
}

impl Stack {
    /// Takes another configuration of addresses and routes into use; what stays the same is not disturbed, and neither are
    /// connections whose address stays. [`Options::lease`] only counts when DHCP begins.
    ///
    /// # Errors
    /// The configuration makes no sense; the one in force stays.
    pub fn reconfigure(
        &mut self,
        now: Instant,
        addressing: Addressing,
        hostname: Option<String>,
        options: Options,
    ) -> Result<(), Error> {
        addressing.check()?;
        options.check()?;
        if self.failed {
            return Err(Error::DeviceUnavailable);
        }
        let Options { ipv6, secondary, routes, conflicts, address_secret, lease } = options;
        self.network.conflicts = conflicts;
        self.routes = routes;
        if (&addressing, &hostname) != (&self.configured.addressing, &self.configured.hostname) {
            match &addressing {
                Addressing::Static(address) => {
                    self.dhcp = None;
                    self.use_static(now, address.clone(), AddressState::Static);
                }
                Addressing::Dhcp { fallback, timeout } => {
                    let fallback = fallback.clone().map(|address| (address, *timeout));
                    self.begin_dhcp(now, hostname.clone(), (fallback, lease));
                }
            }
            self.configured.addressing = addressing;
            self.configured.hostname = hostname;
        }
        // Also puts the routes to use.
        self.set_secondary(now, &secondary);
        if ipv6 != self.configured.ipv6 {
            self.network.reconfigure_ipv6(now, &ipv6, address_secret);
            self.dhcp6 = Dhcp6::new();
            self.tcp.address_changed(&mut self.network);
            self.configured.ipv6 = ipv6;
        }
        Ok(())
    }

    /// Goes over to DHCP, or tells the client that is running of another fallback and another name: it keeps its lease.
    fn begin_dhcp(
        &mut self,
        now: Instant,
        hostname: Option<String>,
        (fallback, lease): (Option<(Static, Duration)>, Option<LeaseHint>),
    ) {
        match &mut self.dhcp {
            Some(dhcp) => dhcp.reconfigure(now, hostname, fallback, &mut self.network),
            None => {
                self.dhcp = Some(Dhcp::new(now, hostname, (fallback, lease), &mut self.network));
            }
        }
        if !matches!(self.address, AddressState::Bound(_)) {
            self.abandon_first();
            self.withdraw();
        }
    }

    /// The link came back, perhaps to another network: what was known about it is asked for again, and addresses stay in use
    /// meanwhile (RFC 5227, 2.1; RFC 2131, 3.7; RFC 4436 without its reachability test).
    pub fn link_restored(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        self.network.neighbors.doubt();
        self.claim_again(now);
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.confirm(now, &mut self.network);
        }
        self.network.ask_routers_again(now);
        self.network.report_groups_again(now);
    }
}
