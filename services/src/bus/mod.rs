//! The driver of the bus: `netd-softbus` on netd's sockets, for this machine's clients.
//!
//! ```text
//!  clients ── calls ──> Bus ── Core (one lock): identity, trust, discovery, gate, sessions, services
//!                        ├── supervise   follows the devnet switch: network or loopback
//!                        ├── discover    UDP: announcements
//!                        ├── dns_sd      devices that a DNS zone lists
//!                        ├── listen      TCP: the gate, then a link
//!                        ├── link        one task for each session: records, mux, pumps
//!                        └── remote      what devices ask of each other: calls, topics
//! ```
//!
//! While devnet is off, or `[bus] mode` is loopback, there are no sockets, no sessions and no peers: streams go between clients of this
//! machine alone. What a client may, netd decides for each call; what a peer may, `[[bus.acl]]` does.

mod calls;
mod clock;
pub mod config;
mod core;
mod discover;
mod dns_sd;
mod events;
mod link;
mod listen;
mod local;
mod pump;
mod registry;
mod remote;
mod sessions;
mod store;
mod streams;
mod supervise;
mod trust;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_ipc::services::{BusEvent, BusMode};
use netd_softbus::session::{Identity, StaticKey, Trust};
use netd_softbus::{Checked, DeviceId, mux, session};
use tokio::sync::{Notify, broadcast};
use tokio::task::spawn_blocking;

pub(crate) use self::calls::{Registrations, answer};
use self::clock::{Clock, random};
use self::core::Core;
use self::remote::{FileShare, KeptState};
use self::store::{Kept, Store};
use crate::Failure;
use crate::netd::Netd;
use crate::rights::Rights;
use crate::server::Shares;

/// Services that one user may offer: half of what a device can announce.
const SERVICES_PER_USER: usize = 8;

/// See the module's documentation.
pub(crate) struct Bus {
    config: config::Bus,
    netd: Netd,
    rights: Arc<Rights>,
    clock: Clock,
    core: Mutex<Core>,
    /// Where keys are kept; none in loopback mode, or with what keeps it from being used.
    store: Result<Arc<Store>, String>,
    /// Counts what is to be kept.
    states: AtomicU64,
    events: broadcast::Sender<BusEvent>,
    /// What is announced changed, or what discovery has to do.
    announce: Notify,
    state: Mutex<State>,
    session_config: Checked<session::Config>,
    mux_config: Checked<mux::Config>,
    streams: Shares,
    services: Shares,
    failing: AtomicBool,
    /// The files that this machine shares.
    files: FileShare,
    /// The state that this machine keeps; otherwise why it keeps none.
    kept: Result<KeptState, String>,
}

/// Where the bus reaches at the moment.
#[derive(Debug, Clone)]
struct State {
    mode: BusMode,
    problem: Option<String>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("device", &self.config.device).finish_non_exhaustive()
    }
}

/// Opens the state, if this machine keeps it.
fn kept_state(config: &config::Bus, netd: &Netd) -> Result<KeptState, String> {
    if config.keeper.as_ref() != Some(&config.device) {
        return Err("this machine keeps no state ('[bus] keeper')".to_owned());
    }
    KeptState::open(&config.state, netd.clone())
        .inspect_err(|why| tracing::error!(%why, "the bus's state is not kept"))
}

impl Bus {
    /// The bus, in loopback mode; [`supervise`](Self::supervise) puts it on the network. `streams` is how many streams clients may have.
    ///
    /// # Errors
    /// Bounds that are built in, or a key, are wrong; no configuration can cause that.
    pub(crate) fn new(config: config::Bus, netd: Netd, streams: Shares) -> Result<Bus, netd_softbus::Error> {
        let clock = Clock::start();
        let opened = match config.mode {
            BusMode::Loopback => Err("the bus is in loopback mode ('[bus] mode')".to_owned()),
            BusMode::Network => Store::open(&config.state, clock.now()).map_err(|error| error.to_string()),
        };
        let (store, key, trust) = match opened {
            Ok((store, key, trust)) => (Ok(Arc::new(store)), key, trust),
            Err(why) => (Err(why), StaticKey::generate(&mut random)?, Trust::new()),
        };
        let session_config = session::Config::default().check()?;
        let identity = Identity::new(config.device.clone(), key);
        let core = Core::new(&config, identity, trust, session_config.clone(), clock.now())?;
        let (events, _) = broadcast::channel(events::BEHIND_MAX);
        Ok(Bus {
            rights: Arc::new(Rights::new(netd.clone())),
            clock,
            core: Mutex::new(core),
            state: Mutex::new(State { mode: BusMode::Loopback, problem: None }),
            store,
            states: AtomicU64::new(0),
            events,
            announce: Notify::new(),
            session_config,
            mux_config: mux::Config::default().check()?,
            streams,
            services: Shares::new(
                "services offered to the bus",
                "services",
                netd_softbus::discovery::SERVICES_MAX,
                SERVICES_PER_USER,
            ),
            failing: AtomicBool::new(false),
            files: FileShare::new(config.shares.clone()),
            kept: kept_state(&config, &netd),
            netd,
            config,
        })
    }

    /// What a panic elsewhere left is whole: the machines are not left half-changed.
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells those who watch. Nobody may.
    fn tell(&self, event: BusEvent) {
        let _ = self.events.send(event);
    }

    /// What is announced may have changed.
    fn announce(&self) {
        self.announce.notify_one();
    }

    /// Somebody showed another key than a device has: evidence, and what watchers are told.
    fn mismatch(&self, device: &DeviceId) {
        events::mark(&format!("identity mismatch peer={device}"));
        tracing::warn!(peer = %device, "a device showed another key than it has to have");
    }

    /// Keeps whom this machine trusts; back when it is on the disk.
    async fn save(&self) -> Result<(), Failure> {
        let internal = |message: String| Failure::new(netd_ipc::services::ErrorKind::Internal, message);
        let store = self.store.clone().map_err(internal)?;
        let (number, kept) = {
            let core = self.core();
            (self.states.fetch_add(1, Ordering::SeqCst) + 1, Kept::of(&core.trust))
        };
        let saved =
            spawn_blocking(move || store.save(number, &kept).map_err(|error| error.to_string())).await;
        let saved = saved.unwrap_or_else(|error| Err(error.to_string())).map_err(internal);
        if let Err(failure) = &saved
            && !self.failing.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%failure, "whom this machine trusts cannot be kept, and will be forgotten at the next start");
        }
        saved
    }

    /// The same, when nobody waits for it.
    fn save_later(self: &Arc<Self>) {
        let bus = Arc::clone(self);
        // What fails is in the log.
        tokio::spawn(async move { drop(bus.save().await) });
    }
}
