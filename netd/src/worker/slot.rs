//! The device as far as it is there: in operation with a stack on it, or failed and waiting to be brought up again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use netd_ipc::ErrorKind;
use netd_stack::{AddressState, Addressing, Config, Instant, Limits, Stack};
use netd_virtqueue::{Fault, Feature, NetDevice};

use crate::command::Reply;
use crate::config::{Dns, Network};
use crate::device::{self, Backend};
use crate::rules::Settings;
use crate::store::Store;
use crate::worker::Error;
use crate::worker::clients::Clients;
use crate::worker::names::Names;

/// How often link state and device health are read: each read leaves the guest.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// A device whose queues need a reset again so soon is reset as a whole.
const MEND_INTERVAL: Duration = Duration::from_secs(10);

/// A device in operation, and the stack on it.
pub(super) struct Live {
    pub(super) driver: NetDevice,
    pub(super) stack: Stack,
    pub(super) names: Names,
    pub(super) mac: [u8; 6],
    pub(super) link_up: bool,
    pub(super) checked_at: Instant,
    /// When its queues were last reset alone.
    pub(super) mended_at: Option<Instant>,
    /// The lease in use is written down.
    pub(super) lease_kept: bool,
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

/// Resets the queues alone after the device broke the protocol on one of them, where it can do that. Sockets live on: what was lost with
/// the rings is lost as on any wire. `false`: the device must be reset as a whole.
pub(super) fn mend(live: &mut Live, now: Instant, error: &device::Error) -> bool {
    let device::Error::Virtio(netd_virtqueue::Error::Fault(fault)) = error else { return false };
    let beyond_queues = matches!(fault, Fault::NeedsReset | Fault::Doorbell { .. });
    let again = live.mended_at.is_some_and(|at| now.saturating_duration_since(at) < MEND_INTERVAL);
    if beyond_queues || again || !live.driver.info().features.has(Feature::RING_RESET) {
        return false;
    }
    live.mended_at = Some(now);
    match live.driver.reset_queues() {
        Ok(()) => {
            tracing::warn!(%fault, "the device broke the protocol; its queues were reset");
            true
        }
        Err(error) => {
            tracing::warn!(%fault, %error, "the queues could not be reset alone");
            false
        }
    }
}

impl Live {
    /// Reads link state and device health, once in a while. Returns the link's state if it changed.
    pub(super) fn check_health(&mut self, now: Instant) -> Result<Option<bool>, device::Error> {
        if now.saturating_duration_since(self.checked_at) < HEALTH_INTERVAL {
            return Ok(None);
        }
        self.checked_at = now;
        self.driver.check_health()?;
        let up = self.driver.link_up()?;
        if up == self.link_up {
            return Ok(None);
        }
        self.link_up = up;
        if up {
            self.stack.link_restored(now);
        }
        Ok(Some(up))
    }

    /// Writes the lease down, or removes what is written if there is none any more.
    pub(super) fn keep_lease(&mut self, now: Instant, store: &Store) {
        match self.stack.lease() {
            AddressState::Bound(lease) => {
                store.save(self.mac, &lease, now, SystemTime::now());
                self.lease_kept = true;
            }
            AddressState::Searching | AddressState::Fallback(_) if self.lease_kept => {
                store.forget(self.mac);
                self.lease_kept = false;
            }
            AddressState::Searching | AddressState::Fallback(_) | AddressState::Static(_) => {}
        }
    }
}

/// What a stack is made from, whenever the device comes up.
pub(super) struct Blueprint {
    pub(super) network: Network,
    pub(super) tables: Limits,
    pub(super) dns: Dns,
    pub(super) store: Store,
    /// Offloads that were switched since the daemon started.
    pub(super) offloads: BTreeMap<String, bool>,
}

impl Blueprint {
    /// Puts other addresses, routes and names in force, now and for whatever stack is made next.
    pub(super) fn change(&mut self, now: Instant, settings: Settings, slot: &mut Slot) {
        let Settings { network, dns, clock: _ } = settings;
        if let Slot::Live(live) = slot {
            let Live { stack, names, .. } = &mut **live;
            let options = network.options(self.store.secret(), None);
            let done = stack.reconfigure(now, network.addressing.clone(), network.hostname.clone(), options);
            if let Err(error) = done {
                // The configuration was checked, so this is about the device.
                tracing::error!(%error, "other addresses were not put in force");
            }
            names.reconfigure(now, &dns, stack);
        }
        self.network = network;
        self.dns = dns;
    }
}

/// Lets the stack have as many connections as `[limits] sockets` allows, and a quarter more that are without an owner: half open,
/// waiting to be accepted, closing. Few sockets do not mean few of those, so the stack has never fewer than `[tcp] connections`.
pub(super) fn size_flows(stack: &mut Stack, limits: &crate::limits::Limits) {
    let sockets = limits.sockets as usize;
    stack.set_flows_max(sockets + sockets / 4);
}

/// Brings the device up, and a fresh stack on it: what the old one knew of connections and neighbours is void.
pub(super) fn bring_up(backend: &mut Backend, blueprint: &Blueprint, now: Instant) -> Result<Live, Error> {
    let Blueprint { network, tables, dns, store, offloads } = blueprint;
    let mut driver = backend.bring_up()?;
    for (name, on) in offloads {
        if let Err(error) = driver.set_offload(name, *on) {
            tracing::warn!(%error, "an offload is not as it was switched before the device failed");
        }
    }
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
        addressing: network.addressing.clone(),
        hostname: network.hostname.clone(),
        seed,
        limits: tables.clone(),
    };
    let lease = match &network.addressing {
        Addressing::Dhcp { .. } => store.lease(mac, now, SystemTime::now()),
        Addressing::Static(_) => None,
    };
    let stack = Stack::with_options(config, network.options(store.secret(), lease), now)?;
    let link_up = driver.link_up().map_err(device::Error::from)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|_| device::Error::Random)?;
    let names = Names::new(dns, secret, now, &stack);
    Ok(Live { driver, stack, names, mac, link_up, checked_at: now, mended_at: None, lease_kept: false })
}
