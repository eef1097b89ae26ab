//! The worker: one thread that owns the device, its queues, the stack, and every client's sockets.
//!
//! It turns in a loop, and everything it does happens on this thread:
//!
//! ```text
//!   commands ─> sockets        from the control thread
//!   device ─> frames ─> stack  lent in place
//!   clients' descriptors ─> stack
//!   stack ─> clients' descriptors
//!   stack ─> frames ─> device  published once, one doorbell
//! ```
//!
//! With `poll = "busy"` it never sleeps, and no interrupt is ever used. With `"adaptive"` it spins for a budget that follows the
//! traffic (`spin.rs`), then asks the device for an interrupt, looks once more, and sleeps until a descriptor is ready or a timer is due;
//! with `"interrupt"` it does so at once. The mode can be changed while it runs.

mod carried;
mod clients;
mod clock;
mod datagram;
mod egress;
mod evidence;
mod execute;
mod frames;
mod history;
mod ledger;
mod listener;
mod messages;
mod names;
mod outcome;
mod port;
mod reply;
mod report;
mod shares;
mod slot;
mod spin;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{self, Duration};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use netd_ipc::{PollMode, passing};
use netd_stack::{Instant, Limits, Ready};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::audit::Audit;
use crate::capture::{Direction, Taps};
use crate::command::Submission;
use crate::config::{self, Dns, Network};
use crate::device::{self, Backend, Vfio};
use crate::disposal::Disposal;
use crate::rules::Rules;
use crate::store::Store;
use crate::worker::clients::{Clients, Completions};
use crate::worker::clock::Clock;
use crate::worker::datagram::Gate;
use crate::worker::egress::{TxEgress, integrity};
use crate::worker::evidence::Evidence;
use crate::worker::history::History;
pub use crate::worker::port::Port;
use crate::worker::report::About;
use crate::worker::slot::{Blueprint, Down, Live, Slot, bring_up, mend, size_flows};
use crate::worker::spin::Spin;

/// Wakes the worker for commands and for its end.
const WAKER: Token = Token(0);
/// The device's descriptor: an interrupt, or the software device's link.
const LINK: Token = Token(1);
/// The kernel wants the device back.
const REMOVAL: Token = Token(2);
/// Clients' descriptors: this plus their key.
const TOKEN_FIRST: usize = 3;

/// Frames taken from the device in one turn, so that clients have theirs in between: a full ring of buffers.
const RX_BUDGET: usize = 256;
/// Commands that wait for the worker at most; beyond, the control thread says that the daemon is busy.
const COMMANDS_MAX: usize = 1024;
/// Descriptors that become ready in one turn.
const EVENTS: usize = 256;
/// How long it sleeps at most: what is looked at once per second must not wait longer.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Between attempts to bring a failed device up again: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a worker is made from.
pub struct Setup {
    /// The opened device.
    pub backend: Backend,
    /// How to wait for frames.
    pub poll: PollMode,
    /// Addresses and routes.
    pub network: Network,
    /// How large the stack's tables are.
    pub tables: Limits,
    /// How names are resolved.
    pub dns: Dns,
    /// Whether the clock is believed.
    pub clock: config::Clock,
    /// Decides on datagrams to new peers.
    pub rules: Arc<Rules>,
    /// Told of what it denied.
    pub audit: Arc<Audit>,
    /// What is kept for the next start.
    pub store: Store,
    /// Where evidence is written.
    pub runtime_directory: PathBuf,
    /// RLIMIT_NOFILE.
    pub descriptors_max: u64,
}

/// What keeps a worker from starting, or from ending in order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The stack's configuration does not fit the device.
    #[error("the device cannot be used with this configuration: {0}")]
    Stack(#[from] netd_stack::Error),
    /// A descriptor or a thread could not be had.
    #[error("the worker cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The worker thread's state.
pub struct Worker {
    backend: Backend,
    slot: Slot,
    clients: Clients,
    evidence: Evidence,
    about: About,
    blueprint: Blueprint,
    history: History,
    clock: Clock,
    /// Of the rules that this worker has looked at.
    generation: u64,
    taps: Taps,
    poll: mio::Poll,
    submissions: mpsc::Receiver<Submission>,
    started: time::Instant,
    link_generation: u64,
    removal_generation: u64,
}

impl Worker {
    /// Brings the device up and makes the worker, which then waits to be [`run`](Self::run). `control` wakes the control thread.
    ///
    /// # Errors
    ///
    /// When the device does not come up, or the system denies descriptors.
    pub fn new(setup: Setup, control: Arc<mio::Waker>) -> Result<(Self, Port, Arc<mio::Waker>), Error> {
        let system = |step| move |source| Error::System { step, source };
        let poll = mio::Poll::new().map_err(system("make its poll"))?;
        let registry = poll.registry().try_clone().map_err(system("share its poll"))?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER).map_err(system("make its waker"))?);
        let (submissions, commands) = mpsc::sync_channel(COMMANDS_MAX);
        let (completed, completions) = mpsc::channel();
        let Setup {
            mut backend,
            poll: mode,
            network,
            tables,
            dns,
            clock,
            rules,
            audit,
            store,
            runtime_directory,
            descriptors_max,
        } = setup;
        let generation = rules.generation();
        let blueprint = Blueprint { network, tables, dns, store, offloads: BTreeMap::new() };
        let about = About { rules: Arc::clone(&rules), spin: Spin::new(mode), resets: 0, lost_in_flight: 0 };
        let slot = match bring_up(&mut backend, &blueprint, Instant::ZERO) {
            Ok(mut live) => {
                size_flows(&mut live.stack, &rules.current().limits);
                Slot::Live(Box::new(live))
            }
            Err(error) if backend.may_come_later() => {
                let reason = error.to_string();
                tracing::info!(%reason, "the device is waited for");
                Slot::Down(Down { reason, retry_at: Instant::ZERO + RETRY_FIRST, backoff: RETRY_FIRST })
            }
            Err(error) => return Err(error),
        };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| device::Error::Random)?;
        let mut clock = Clock::new(&clock, &seed, Arc::clone(&audit));
        if let Slot::Live(live) = &slot {
            clock.network_changed(Instant::ZERO, &live.stack);
        }
        let gate = Gate { rules, audit };
        let disposal = Disposal::start(Arc::clone(&waker)).map_err(system("start the thread that closes"))?;
        let listeners_max = listener::listeners_max(descriptors_max);
        let worker = Self {
            clients: Clients::new(
                registry,
                gate,
                Completions::new(completed, control),
                disposal,
                (listeners_max, blueprint.tables.udp_queue_bytes),
                first_id()?,
            ),
            evidence: Evidence::new(runtime_directory),
            backend,
            slot,
            about,
            blueprint,
            history: History::default(),
            clock,
            generation,
            taps: Taps::default(),
            poll,
            submissions: commands,
            started: time::Instant::now(),
            link_generation: 0,
            removal_generation: 0,
        };
        if worker.slot.live().is_some() {
            worker.evidence.device_up();
        }
        Ok((worker, Port { submissions, completions, waker: Arc::clone(&waker) }, waker))
    }

    /// Turns until `stop` is set, counting its turns in `turns`, then ends every connection, stops the device and gives its memory back.
    ///
    /// # Errors
    ///
    /// When the device did not stop in order; its memory is then kept from everybody.
    pub fn run(mut self, stop: &AtomicBool, turns: &AtomicU64) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS);
        let mut idle_since = None;
        let mut turn = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            turn = turn.wrapping_add(1);
            turns.store(turn, Ordering::Relaxed);
            let now = self.now();
            let timeout = match idle_since {
                Some(since) if self.may_sleep(now, since) => self.prepare_sleep(now),
                _ => Duration::ZERO,
            };
            self.watch_device()?;
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(Error::System { step: "wait for events", source: error });
                }
                _ => {}
            }
            let slept_since = now;
            let now = self.now();
            if !timeout.is_zero() {
                self.about.spin.woken(now.saturating_duration_since(slept_since), !events.is_empty());
                if let Slot::Live(live) = &mut self.slot {
                    live.driver.disarm();
                }
            }
            let worked = self.turn(now, &events);
            idle_since = if worked { None } else { idle_since.or(Some(now)) };
        }
        self.stop()
    }

    fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// One turn: everybody has a share. Returns whether anybody had anything to do.
    fn turn(&mut self, now: Instant, events: &Events) -> bool {
        self.clients.settle();
        self.take_settings(now);
        self.heed_removal(now, events);
        let mut worked = self.take_commands(now) | !events.is_empty();
        match self.network(now, events) {
            Ok(moved) => worked |= moved,
            Err(error) => {
                let mended = match &mut self.slot {
                    Slot::Live(live) => mend(live, now, &error),
                    Slot::Down(_) => false,
                };
                if !mended {
                    self.fail(now, &error);
                }
            }
        }
        self.recover(now);
        self.clients.completions.announce();
        worked
    }

    /// Puts in force what a reload left for the worker.
    fn take_settings(&mut self, now: Instant) {
        let generation = self.about.rules.generation();
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        if let Some(settings) = self.about.rules.take_posted() {
            let clock = settings.clock.clone();
            self.blueprint.change(now, settings, &mut self.slot);
            self.clock.reconfigure(now, &clock, self.slot.live().map(|live| &live.stack));
        }
    }

    /// Frames, clients and timers.
    fn network(&mut self, now: Instant, events: &Events) -> Result<bool, device::Error> {
        let Self {
            slot: Slot::Live(live), clients, backend, evidence, taps, blueprint, history, clock, ..
        } = self
        else {
            return Ok(false);
        };
        let Live { driver, stack, names, .. } = &mut **live;
        let (rx, tx) = driver.queues();
        tx.reclaim();
        let mut egress = TxEgress(tx, taps);
        let received = rx.receive(RX_BUDGET, |frame, offload| {
            egress.1.offer(Direction::Received, frame, offload.checksum);
            clients.offer_frame(frame);
            stack.handle_received(now, (frame, integrity(offload)), &mut egress);
        })?;
        let mut worked = received > 0;
        for event in events {
            clients.on_event(now, stack, &mut egress, event);
        }
        worked |= clients.resume(now, stack, &mut egress);
        worked |= stack.poll(now, &mut egress);
        let mut leased = false;
        while let Some(ready) = stack.next_ready() {
            worked = true;
            if matches!(ready, Ready::Lease | Ready::Addresses) {
                names.network_changed(now, stack);
                clock.network_changed(now, stack);
                history.addresses(now, stack);
            }
            if ready == Ready::Lease {
                evidence.address_changed(&stack.lease());
                leased = true;
            } else if !names.on_ready(now, stack, ready) && !clock.on_ready(now, stack, ready) {
                clients.on_ready(now, stack, ready);
            }
        }
        clients.on_time(now, stack);
        worked |= names.drive(now, stack, &mut egress, &clients.completions);
        while let Some((token, found)) = names.next_found() {
            clients.dial_found(now, stack, token, found);
        }
        clients.take_given_up().into_iter().for_each(|token| names.cancel(token));
        worked |= clock.drive(now, stack, &mut egress);
        for uid in egress.1.reap() {
            clients.ledger.release_capture(uid);
        }
        // What the clients just wrote, and the windows they just opened, go out with this turn.
        worked |= stack.poll(now, &mut egress);
        tx.flush()?;
        worked |= backend.service()? > 0;
        if !evidence.is_complete() {
            evidence.exchange(backend, driver)?;
        }
        if leased {
            live.keep_lease(now, &blueprint.store);
        }
        if let Some(up) = live.check_health(now)? {
            history.link(now, up);
        }
        Ok(worked)
    }

    /// The device broke the protocol, or is gone: everybody who uses it is told by name.
    fn fail(&mut self, now: Instant, error: &device::Error) {
        let reason = error.to_string();
        tracing::error!(%reason, "the device failed and will be reset");
        let told = format!("the network device failed: {reason}");
        self.clients.fail_all(&told);
        if let Slot::Live(live) = &mut self.slot {
            live.names.fail_all(&told, &self.clients.completions);
            let lost = u64::from(live.driver.unsent());
            if lost > 0 {
                tracing::warn!(frames = lost, "frames that the device had not sent are lost");
            }
            self.about.lost_in_flight += lost;
        }
        self.clock.device_lost(now);
        let backoff = RETRY_FIRST;
        self.about.resets += 1;
        // The driver is dropped here, which resets the device before its memory can be used again.
        self.slot = Slot::Down(Down { reason, retry_at: now + backoff, backoff });
    }

    /// Brings a failed device up again when it is time to.
    fn recover(&mut self, now: Instant) {
        let Slot::Down(down) = &mut self.slot else { return };
        if now < down.retry_at && !self.backend.is_awaited() {
            return;
        }
        match bring_up(&mut self.backend, &self.blueprint, now) {
            Ok(mut live) => {
                tracing::info!("the device is up again");
                size_flows(&mut live.stack, &self.about.rules.current().limits);
                self.clock.network_changed(now, &live.stack);
                self.slot = Slot::Live(Box::new(live));
                self.evidence.device_up();
                self.history.restarted(now);
            }
            Err(error) => {
                down.reason = error.to_string();
                down.backoff = (down.backoff * 2).min(RETRY_MAX);
                down.retry_at = now + down.backoff;
                tracing::warn!(reason = %down.reason, retry_in = ?down.backoff, "the device does not come up");
            }
        }
    }

    fn may_sleep(&self, now: Instant, idle_since: Instant) -> bool {
        match (self.about.spin.budget(), &self.slot) {
            (_, Slot::Down(_)) => true,
            (None, Slot::Live(_)) => false,
            (Some(budget), Slot::Live(_)) => now.saturating_duration_since(idle_since) >= budget,
        }
    }

    /// Asks for an interrupt, and says how long to sleep: until the next thing is due, or not at all when there is work already.
    fn prepare_sleep(&mut self, now: Instant) -> Duration {
        let due = match &mut self.slot {
            Slot::Down(down) => Some(down.retry_at),
            Slot::Live(live) => match live.driver.arm() {
                Ok(false) => {
                    let due = live.stack.poll_timeout().into_iter().chain(live.names.next_deadline());
                    due.chain(self.clock.next_deadline()).min()
                }
                Ok(true) => return Duration::ZERO,
                Err(fault) => {
                    self.fail(now, &fault.into());
                    return Duration::ZERO;
                }
            },
        };
        let next = due.into_iter().chain(self.clients.next_deadline(now)).min();
        next.map_or(SLEEP_MAX, |at| at.saturating_duration_since(now).min(SLEEP_MAX))
    }

    /// Watches the device's descriptors, which change when a link is mended or a function opened again. The old ones left the poll as they
    /// closed.
    fn watch_device(&mut self) -> Result<(), Error> {
        let Self { backend, poll, link_generation, removal_generation, .. } = self;
        let watch = |found: Option<(BorrowedFd<'_>, u64)>, token, seen: &mut u64| {
            let Some((descriptor, generation)) = found.filter(|(_, generation)| generation != seen) else {
                return Ok(());
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut SourceFd(&descriptor.as_raw_fd()), token, interest)?;
            *seen = generation;
            Ok(())
        };
        let watched = watch(backend.descriptor(), LINK, link_generation)
            .and_then(|()| watch(backend.removal(), REMOVAL, removal_generation));
        watched.map_err(|source| Error::System { step: "watch the device", source })
    }

    /// Lets the device go if the kernel wants it back. Whoever takes it away waits for that and cannot be stopped, so it is not tried to
    /// end anything in order first.
    fn heed_removal(&mut self, now: Instant, events: &Events) {
        let wanted = events.iter().any(|event| event.token() == REMOVAL && event.is_readable());
        let Some(function) = self.backend.function().filter(|_| wanted).map(Vfio::bdf) else { return };
        self.fail(now, &device::Error::Removed(function));
        match self.backend.let_go() {
            Ok(()) => tracing::warn!(%function, "the function was let go"),
            Err(error) => tracing::error!(%function, %error, "the function was not let go in order"),
        }
    }

    fn stop(mut self) -> Result<(), Error> {
        let now = self.now();
        if let Slot::Live(mut live) = self.slot {
            let Live { driver, stack, .. } = &mut *live;
            self.clients.close_all(stack);
            self.clients.completions.announce();
            let (_, tx) = driver.queues();
            tx.reclaim();
            // Resets for the peers. They are a courtesy: a device that cannot take them any more is stopped all the same.
            stack.poll(now, &mut TxEgress(tx, &mut self.taps));
            if tx.flush().is_ok() {
                let _ = self.backend.service();
            }
            live.driver.shut_down().map_err(device::Error::from)?;
        }
        self.backend.close()?;
        Ok(())
    }
}

/// Where the ids of this daemon's sockets begin: anywhere in the lower half of what JSON carries exactly (RFC 8259, 6).
fn first_id() -> Result<u64, device::Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| device::Error::Random)?;
    Ok(u64::from_le_bytes(random) >> 12)
}

/// What the kernel holds for a client at most in each direction of a descriptor. As large as Linux's default of 208 KiB
/// (net.core.wmem_default) and no larger: it only has to bridge the time until the other side is scheduled. On Unix sockets the
/// sender's buffer counts and the receiver's is not used (unix(7)), so both ends' send buffers are set.
const KERNEL_BUFFER_BYTES: u64 = 256 * 1024;

/// A pair of connected Unix sockets. Both block, as programs expect; our end is always used with MSG_DONTWAIT.
fn socketpair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if kind == SocketType::STREAM {
        passing::take_urgent_inline(&ours)?;
    }
    for end in [&ours, &theirs] {
        // The kernel doubles what is asked for (socket(7)).
        sockopt::set_socket_send_buffer_size(end, KERNEL_BUFFER_BYTES as usize / 2)?;
    }
    Ok((ours, theirs))
}
