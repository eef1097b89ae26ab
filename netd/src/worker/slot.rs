//! The device as far as it is there: in operation with a stack on it, or failed and waiting to be brought up again.

use std::time::Duration;

use netd_ipc::ErrorKind;
use netd_stack::{Addressing, Config, Instant, Limits, Stack};
use netd_virtqueue::NetDevice;

use crate::command::Reply;
use crate::config::Dns;
use crate::device::{self, Backend};
use crate::worker::Error;
use crate::worker::clients::Clients;
use crate::worker::names::Names;

/// How often link state and device health are read: each read leaves the guest.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// A device in operation, and the stack on it.
pub(super) struct Live {
    pub(super) driver: NetDevice,
    pub(super) stack: Stack,
    pub(super) names: Names,
    pub(super) mac: [u8; 6],
    pub(super) link_up: bool,
    pub(super) checked_at: Instant,
}

/// A device that failed.
pub(super) struct Down {
    pub(super) reason: String,
    pub(super) retry_at: Instant,
    pub(super) backoff: Duration,
}

/// The device, as far as it is there.
pub(super) enum Slot {
    Live(Box<Live>),
    Down(Down),
}

impl Slot {
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Slot::Live(live) => Some(live),
            Slot::Down(_) => None,
        }
    }

    /// The device for a call that needs one; without one, the call is told why.
    pub(super) fn live_or_fail(&mut self, clients: &Clients, token: u64) -> Option<&mut Live> {
        match self {
            Slot::Live(live) => Some(live),
            Slot::Down(down) => {
                let reason = format!("the network device is not available: {}", down.reason);
                clients.completions.send(token, Reply::Failed(ErrorKind::DeviceUnavailable, reason));
                None
            }
        }
    }

    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Slot::Live(_) => None,
            Slot::Down(down) => Some(&down.reason),
        }
    }
}

/// Reads link state and device health, once in a while.
pub(super) fn check_health(live: &mut Live, now: Instant) -> Result<(), device::Error> {
    if now.saturating_duration_since(live.checked_at) < HEALTH_INTERVAL {
        return Ok(());
    }
    live.checked_at = now;
    live.driver.check_health()?;
    let up = live.driver.link_up()?;
    if up != live.link_up {
        live.link_up = up;
        tracing::info!(up, "the link changed");
    }
    Ok(())
}

/// Brings the device up, and a fresh stack on it: what the old one knew of connections and neighbours is void.
pub(super) fn bring_up(
    backend: &mut Backend,
    addressing: &Addressing,
    hostname: Option<String>,
    dns: &Dns,
    now: Instant,
) -> Result<Live, Error> {
    let driver = backend.bring_up()?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| device::Error::Random)?;
    let mut mac = driver.info().mac.unwrap_or_default();
    if mac == [0; 6] {
        // A device that gives no address leaves the choice to its driver (virtio 1.3, 5.1.5): a local one.
        mac.copy_from_slice(&seed[..6]);
        mac[0] = mac[0] & !1 | 2;
        getrandom::fill(&mut seed).map_err(|_| device::Error::Random)?;
    }
    let config = Config {
        mac,
        mtu: driver.info().mtu,
        addressing: addressing.clone(),
        hostname,
        seed,
        limits: Limits::default(),
    };
    let stack = Stack::new(config, now)?;
    let link_up = driver.link_up().map_err(device::Error::from)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|_| device::Error::Random)?;
    let names = Names::new(dns, secret, now, &stack);
    Ok(Live { driver, stack, names, mac, link_up, checked_at: now })
}
