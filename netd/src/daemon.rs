//! The daemon's life: open the device, start the threads, serve until told to stop, give everything back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mio::{Poll, Waker};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;

use crate::audit::{Audit, Log};
use crate::config::Config;
use crate::control;
use crate::device::{self, Backend};
use crate::log::LogLevel;
use crate::reload::Reload;
use crate::rules::Rules;
use crate::store::Store;
use crate::worker::{self, Setup, Worker};

/// How often the hosts file is looked at: whoever edits it tries a name within seconds.
const HOSTS_INTERVAL: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// What ends the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The worker.
    #[error(transparent)]
    Worker(#[from] worker::Error),
    /// The control thread.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The state directory could not be had.
    #[error("cannot use {path} as state directory: choose another with '[state] directory'")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The audit log could not be had.
    #[error(transparent)]
    Audit(#[from] crate::audit::log::Error),
    /// Something that the system should give was not to be had.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread panicked; what it said is in the log.
    #[error("the {0} thread failed: this is a defect of netd")]
    Panicked(&'static str),
}

/// Runs until SIGTERM or SIGINT. SIGHUP reads `path`, where `config` is from, again.
///
/// # Errors
///
/// Whatever keeps the daemon from starting, or from giving the device back in order.
pub fn run(config: Config, path: &Path, log: LogLevel) -> Result<(), Error> {
    // Before any thread starts, so that all of them inherit the mask and signals come to `wait` alone.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().map_err(|errno| system("block signals", errno.into()))?;
    let descriptors_max = raise_descriptor_limit()?;
    let rules = Arc::new(Rules::new(config.policy.clone(), config.limits));
    let started_with = config.clone();
    let Config {
        policy,
        limits: _,
        device,
        features,
        poll: mode,
        hugetlbfs,
        network,
        tables,
        dns,
        clock,
        audit,
        socket,
        socket_mode,
        state_directory,
        runtime_directory,
    } = config;
    let socket = socket.map_or_else(control::default_path, Ok)?;
    let beside = || socket.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let runtime_directory = runtime_directory.unwrap_or_else(beside);
    let state_directory = state_directory.or_else(default_state_directory).unwrap_or_else(beside);
    for directory in [&runtime_directory, &state_directory] {
        std::fs::create_dir_all(directory)
            .map_err(|source| Error::State { path: directory.clone(), source })?;
    }
    let store = Store::open(&state_directory, device.keeps_its_mac())
        .map_err(|source| Error::State { path: state_directory.clone(), source })?;
    // The socket first: it tells a second daemon that it is one, before it touches the device.
    let listener = netd_ipc::server::listen(&socket, socket_mode).map_err(control::Error::from)?;
    let backend = Backend::open(&device, features, &hugetlbfs, mode)?;
    let audit = Arc::new(Audit::default().with_log(Log::open(audit.setup(&state_directory))?));
    audit.started(&policy);
    let mut reload = Reload::new(path.to_owned(), started_with, Arc::clone(&rules), Arc::clone(&audit));
    let poll = Poll::new().map_err(|source| system("make a poll", source))?;
    let control_waker =
        Waker::new(poll.registry(), control::WAKER).map_err(|source| system("make a waker", source))?;
    let control_waker = Arc::new(control_waker);
    let setup = Setup {
        backend,
        poll: mode,
        network,
        tables,
        dns,
        clock,
        rules: Arc::clone(&rules),
        audit: Arc::clone(&audit),
        store,
        runtime_directory,
        descriptors_max,
    };
    if !policy.devnet_enabled() {
        tracing::warn!("devnet is off: no client reaches a peer ([network.devnet] enabled)");
    }
    let (worker, port, worker_waker) = Worker::new(setup, Arc::clone(&control_waker))?;
    tracing::info!(socket = %socket.display(), "serving");
    let recorder = Arc::clone(&audit);
    let served = serve(&signals, &mut reload, (&control_waker, &worker_waker), |stop, turns| {
        let worker = move || worker.run(stop, turns).map_err(Error::from);
        let waker = Arc::clone(&control_waker);
        let about = control::Setup { listener, rules, audit, log, poll, waker };
        let control = move || control::run(about, port, stop).map_err(Error::from);
        (worker, control)
    });
    recorder.stopped();
    served
}

/// Runs both threads until a signal, or until one of them ends by itself.
fn serve<W, C>(
    signals: &SigSet,
    reload: &mut Reload,
    (control_waker, worker_waker): (&Waker, &Waker),
    threads: impl FnOnce(&'static AtomicBool, &'static AtomicU64) -> (W, C),
) -> Result<(), Error>
where
    W: FnOnce() -> Result<(), Error> + Send,
    C: FnOnce() -> Result<(), Error> + Send,
{
    // One per run of the daemon, and the threads are joined below; static only so that both may borrow it.
    static STOP: AtomicBool = AtomicBool::new(false);
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let descriptor = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| system("watch for signals", errno.into()))?;
    let (run_worker, run_control) = threads(&STOP, &TURNS);
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        // A thread that ends early ends the other, too: half a daemon serves nobody.
        let worker = named("worker").spawn_scoped(scope, || ending(run_worker));
        let control = named("control").spawn_scoped(scope, || ending(run_control));
        notify(NotifyState::Ready);
        let mut turns_seen = TURNS.load(Ordering::Relaxed);
        let waited = loop {
            // The worker turns once a second at least: one that stands still is not vouched for.
            let turns = TURNS.load(Ordering::Relaxed);
            if turns != turns_seen {
                notify(NotifyState::Watchdog);
                turns_seen = turns;
            }
            match next_signal(&descriptor) {
                Ok(Some(Signal::SIGHUP)) => {
                    reload.reload();
                    // It cuts what is no longer allowed. Should waking fail, it does so at its next turn.
                    let _ = worker_waker.wake();
                }
                Ok(None) => {
                    if reload.look_at_hosts() {
                        let _ = worker_waker.wake();
                    }
                }
                other => break other,
            }
        };
        notify(NotifyState::Stopping);
        STOP.store(true, Ordering::Relaxed);
        // A waker that fails leaves its thread to its next timeout.
        let _ = control_waker.wake();
        let _ = worker_waker.wake();
        let joined = [("control", control), ("worker", worker)].map(|(name, thread)| {
            let thread = thread.map_err(|source| system("start a thread", source))?;
            thread.join().map_err(|_| Error::Panicked(name))?
        });
        waited.map_err(|source| system("wait for a signal", source))?;
        joined.into_iter().collect()
    })
}

/// Tells the service manager, if one asked for it (sd_notify(3)). It notices by itself what it is not told.
fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(false, &[state]);
}

/// Runs a thread, and tells the main thread when it ends.
fn ending(run: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    struct Tell;
    impl Drop for Tell {
        fn drop(&mut self) {
            // To the process: the main thread waits for it. It cannot fail for our own process.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGTERM);
        }
    }
    let _tell = Tell;
    run()
}

/// Every socket of a client takes two descriptors for a moment and one for good: use what the system allows.
fn raise_descriptor_limit() -> Result<u64, Error> {
    let Rlimit { current: _, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, raised).map_err(|errno| system("raise RLIMIT_NOFILE", errno.into()))?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// The next signal; none if there was none for a while, so that it is time to look at files.
fn next_signal(signals: &SignalFd) -> io::Result<Option<Signal>> {
    let mut polled = [PollFd::new(signals, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&HOSTS_INTERVAL)) {
        Ok(0) => return Ok(None),
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let number = match signals.read_signal()? {
        Some(info) => i32::try_from(info.ssi_signo).unwrap_or_default(),
        None => return Ok(None),
    };
    Ok(Signal::try_from(number).ok())
}

/// Where services keep what outlives them (FHS, 5.8); for users, where the XDG base directory specification says. None if there is no
/// such place.
fn default_state_directory() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/netd"));
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("netd"))
}

fn system(step: &'static str, source: io::Error) -> Error {
    Error::System { step, source }
}
