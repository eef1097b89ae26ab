//! Address conflict detection for IPv4 (RFC 5227): probing a claim, announcing it, and defending it.
//!
//! ```text
//!   Probing --3 probes, 2 s of silence--> Announcing --2 announcements--> Watching
//!      |                                       |  somebody else uses the address: defend once in 10 s,
//!      +-------- conflict --> given up <-------+  give up at the second time
//! ```

use core::net::Ipv4Addr;
use core::time::Duration;

use smoltcp::wire::ArpOperation;

use crate::config::ConflictDetection;
use crate::egress::Egress;
use crate::ipv4::Cidr;
use crate::network::{BROADCAST, Network};
use crate::time::Instant;
use crate::timers::{Armed, Timer};

/// RFC 5227, 1.1.
const PROBE_WAIT_MILLIS: u32 = 1000;
const PROBES: u8 = 3;
const PROBE_MIN_MILLIS: u32 = 1000;
const PROBE_SPREAD_MILLIS: u32 = 1000;
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Probing { sent: u8 },
    Announcing { sent: u8 },
    Watching,
}

/// Our claim to an address.
pub(crate) struct Tenure {
    address: Ipv4Addr,
    phase: Phase,
    next: Instant,
    armed: Armed,
    defended: Option<Instant>,
}

impl Network {
    /// Begins to claim an address; false if nothing has to be checked: it is not wanted, or a /32 says that nobody shares the link.
    pub(crate) fn claim(&mut self, now: Instant, cidr: Cidr) -> bool {
        self.abandon_claim(cidr.address());
        if self.conflicts == ConflictDetection::Off || cidr.prefix_len() == 32 {
            return false;
        }
        let wait = Duration::from_millis(self.random.below(PROBE_WAIT_MILLIS).into());
        let next = now + wait;
        let mut tenure = Tenure {
            address: cidr.address(),
            phase: Phase::Probing { sent: 0 },
            next,
            armed: Armed::default(),
            defended: None,
        };
        self.timers.arm(&mut tenure.armed, Timer::Claim(cidr.address()), next);
        self.tenures.push(tenure);
        true
    }

    /// Gives the claim to an address up.
    pub(crate) fn abandon_claim(&mut self, address: Ipv4Addr) {
        self.tenures.retain(|tenure| tenure.address != address);
    }

    /// Sends what is due for the claim to `address`; true when the probes have remained unanswered and it may be used.
    pub(crate) fn claim_timer<E: Egress>(
        &mut self,
        now: Instant,
        (address, deadline): (Ipv4Addr, Instant),
        egress: &mut E,
    ) -> bool {
        let Some(tenure) = self.tenures.iter_mut().find(|tenure| tenure.address == address) else {
            return false;
        };
        if !tenure.armed.fires(deadline) {
            return false;
        }
        let spread =
            Duration::from_millis((PROBE_MIN_MILLIS + self.random.below(PROBE_SPREAD_MILLIS)).into());
        let mut free = false;
        let (phase, wait) = match tenure.phase {
            Phase::Probing { sent } if sent < PROBES => {
                let wait = if sent + 1 == PROBES { ANNOUNCE_WAIT } else { spread };
                (Phase::Probing { sent: sent + 1 }, wait)
            }
            Phase::Probing { .. } => {
                free = true;
                (Phase::Announcing { sent: 1 }, ANNOUNCE_INTERVAL)
            }
            Phase::Announcing { sent } if sent < ANNOUNCEMENTS => {
                (Phase::Announcing { sent: sent + 1 }, ANNOUNCE_INTERVAL)
            }
            Phase::Announcing { .. } | Phase::Watching => (Phase::Watching, Duration::ZERO),
        };
        tenure.phase = phase;
        tenure.next = now + wait;
        if phase != Phase::Watching {
            self.timers.arm(&mut tenure.armed, Timer::Claim(address), now + wait);
        }
        let sender = match phase {
            Phase::Probing { .. } => Ipv4Addr::UNSPECIFIED,
            Phase::Announcing { .. } => address,
            Phase::Watching => return free,
        };
        self.send_arp(egress, ArpOperation::Request, sender, ([0; 6], address), BROADCAST);
        free
    }

    /// Looks whether an ARP packet, which did not come from us, contests one of our addresses; returns the address that has to be
    /// given up.
    pub(crate) fn contest<E: Egress>(
        &mut self,
        now: Instant,
        (sender, target): (Ipv4Addr, Ipv4Addr),
        egress: &mut E,
    ) -> Option<Ipv4Addr> {
        // RFC 5227, 2.1.1: a probe of the same address by another host is a conflict too, while we probe.
        let contested = |tenure: &&mut Tenure| {
            let probing = matches!(tenure.phase, Phase::Probing { .. });
            sender == tenure.address || (probing && sender.is_unspecified() && target == tenure.address)
        };
        let tenure = self.tenures.iter_mut().find(contested)?;
        let address = tenure.address;
        let probing = matches!(tenure.phase, Phase::Probing { .. });
        self.counters.arp_conflicts += 1;
        let defended_lately = tenure.defended.is_some_and(|at| now < at + DEFEND_INTERVAL);
        if probing || defended_lately {
            self.abandon_claim(address);
            return Some(address);
        }
        // RFC 5227, 2.4 (b).
        tenure.defended = Some(now);
        self.send_arp(egress, ArpOperation::Request, address, ([0; 6], address), BROADCAST);
        None
    }
}
