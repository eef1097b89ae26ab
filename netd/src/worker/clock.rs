//! Whether this machine's clock is trusted, and by whom: the kernel, a time server that netd asks over its own stack, or the operator.
//!
//! Nothing here sets a clock. A time server is asked only while its word counts: not while the kernel calls its clock synchronised (unless
//! the operator does not believe it), and never with `trust = "host"`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netd_ipc::{ClockAuthority, ClockStatus};
use netd_stack::sntp::{Client, Statistics, Transmit, Verdict};
use netd_stack::{AddressState, Egress, Error, Instant, Ready, Stack, UdpId};

use crate::audit::Audit;
use crate::config::{Clock as Config, ClockTrust};

/// Between two looks at the kernel's clock: whoever sets it, or begins to discipline it, is noticed this soon.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of the clock, and how more is found out.
pub(super) struct Clock {
    config: Config,
    client: Client,
    /// The one socket that a request is under way from.
    socket: Option<(u64, UdpId)>,
    /// What the kernel says of its clock; none if it does not say.
    kernel: Option<bool>,
    looked_at: Option<Instant>,
    told: Option<ClockStatus>,
    audit: Arc<Audit>,
}

impl Clock {
    pub(super) fn new(config: &Config, seed: &[u8; 32], audit: Arc<Audit>) -> Clock {
        let client = Client::new(config.tolerance, seed);
        Clock {
            config: config.clone(),
            client,
            socket: None,
            kernel: None,
            looked_at: None,
            told: None,
            audit,
        }
    }

    /// Takes another configuration.
    pub(super) fn reconfigure(&mut self, now: Instant, config: &Config, stack: Option<&Stack>) {
        self.config = config.clone();
        self.client.set_tolerance(config.tolerance);
        self.looked_at = None;
        if let Some(stack) = stack {
            self.network_changed(now, stack);
        }
    }

    /// The lease may name other servers, and before there is an address nobody can be asked.
    pub(super) fn network_changed(&mut self, now: Instant, stack: &Stack) {
        let servers: Vec<IpAddr> = match (stack.lease(), &self.config.servers) {
            (AddressState::Searching, Some(servers)) => {
                servers.iter().copied().filter(IpAddr::is_ipv6).collect()
            }
            (_, Some(servers)) => servers.clone(),
            (AddressState::Bound(lease), None) => lease.ntp.iter().copied().map(IpAddr::V4).collect(),
            (AddressState::Searching | AddressState::Fallback(_) | AddressState::Static(_), None) => {
                Vec::new()
            }
        };
        self.client.set_servers(now, &servers);
    }

    /// The device is gone, and the stack with the socket.
    pub(super) fn device_lost(&mut self, now: Instant) {
        self.socket = None;
        self.client.sockets_lost(now);
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.client.statistics()
    }

    /// When [`drive`](Self::drive) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    /// Takes news about its socket; false if it is somebody else's.
    pub(super) fn on_ready(&mut self, now: Instant, stack: &mut Stack, ready: Ready) -> bool {
        let Some((key, udp)) = self.socket else { return false };
        if ready != Ready::Udp(udp) {
            return false;
        }
        while stack.udp_error(udp).is_some() {
            self.client.handle_error(now, key);
        }
        while let Ok(true) = stack.udp_receive(udp, |meta, payload| {
            self.client.handle_datagram(now, wall(), key, meta.from, payload);
            true
        }) {}
        true
    }

    /// Looks at the kernel, and does what the client wants. True if there was anything to do.
    pub(super) fn drive<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E) -> bool {
        let look = self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL);
        let due = self.client.poll_timeout().is_some_and(|due| due <= now);
        if look {
            self.look(now);
        }
        if look || due {
            self.client.poll(now, wall());
        }
        let mut worked = false;
        while let Some(transmit) = self.client.poll_transmit() {
            worked = true;
            self.transmit(now, stack, egress, &transmit);
        }
        if look || due || worked {
            self.tell(now);
        }
        worked
    }

    /// What is known now.
    pub(super) fn status(&mut self, now: Instant) -> ClockStatus {
        self.look(now);
        self.standing(now)
    }

    fn look(&mut self, now: Instant) {
        self.looked_at = Some(now);
        self.kernel = netd_vfio::kernel_is_synchronised()
            .inspect_err(
                |error| tracing::warn!(%error, "the kernel does not say whether its clock is synchronised"),
            )
            .ok();
        let wanted = match self.config.trust {
            ClockTrust::Host => false,
            ClockTrust::Sntp => true,
            ClockTrust::Auto => self.kernel != Some(true),
        };
        self.client.set_wanted(now, wanted);
    }

    fn standing(&self, now: Instant) -> ClockStatus {
        let trusted = |by, reason| ClockStatus { trusted: true, by: Some(by), reason };
        let kernel = match (self.config.trust, self.kernel) {
            (ClockTrust::Host, _) => {
                let reason = "[clock] trust = \"host\" in netd.toml".to_owned();
                return trusted(ClockAuthority::Operator, reason);
            }
            (ClockTrust::Auto, Some(true)) => {
                let reason = "the kernel says that it is synchronised".to_owned();
                return trusted(ClockAuthority::Kernel, reason);
            }
            (ClockTrust::Auto, Some(false)) => "the kernel says that it is not synchronised, and ",
            (ClockTrust::Auto, None) => "the kernel does not say whether it is synchronised, and ",
            (ClockTrust::Sntp, _) => "",
        };
        let most = self.config.tolerance.as_secs();
        let reason = match self.client.verdict(now, wall()) {
            Verdict::Confirmed { server, offset } => {
                let reason = format!("time server {server} confirms it ({offset}, at most {most} s)");
                return trusted(ClockAuthority::Sntp, reason);
            }
            Verdict::Differs { server, offset } => {
                format!("{kernel}time server {server} has another time ({offset}, at most {most} s)")
            }
            Verdict::NoServers => format!("{kernel}no time server is known"),
            Verdict::Unanswered { failure: None } => format!("{kernel}no time server has answered yet"),
            Verdict::Unanswered { failure: Some(failure) } => format!("{kernel}{failure}"),
        };
        ClockStatus { trusted: false, by: None, reason }
    }

    /// Tells the log of a change, and the audit of one that changes what is accepted.
    fn tell(&mut self, now: Instant) {
        let standing = self.standing(now);
        let same = |told: &ClockStatus| (told.trusted, told.by) == (standing.trusted, standing.by);
        if self.told.as_ref().is_some_and(same) {
            return;
        }
        let ClockStatus { trusted, by: _, reason } = &standing;
        if *trusted {
            tracing::info!(%reason, "the clock is trusted");
        } else {
            tracing::warn!(%reason, "the clock is not trusted: certificates are refused while their dates count");
        }
        self.audit.clock(&standing);
        self.told = Some(standing);
    }

    fn transmit<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E, transmit: &Transmit) {
        match *transmit {
            Transmit::Send { socket, server, ref payload } => {
                let sent = stack.udp_bind(None).and_then(|(udp, _)| {
                    self.socket = Some((socket, udp));
                    stack.udp_send(now, udp, server, None, payload, egress)
                });
                // A full queue looks like loss.
                if sent.is_err_and(|error| error != Error::NoBuffers) {
                    self.client.handle_error(now, socket);
                }
            }
            Transmit::Close { socket } => {
                if let Some((_, udp)) = self.socket.take_if(|(key, _)| *key == socket) {
                    stack.udp_close(udp);
                }
            }
        }
    }
}

/// This machine's time since 1970; a clock that stands before is as wrong as one that stands there.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
