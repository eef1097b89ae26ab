//! netd, built with optimisation, on the software device, with the benchmark's own peer at the other end of its link.

use super::account::cpu_time_of;
use super::peer::{Ends, Peer};
use crate::error::{Attempt, Error, Result};
use crate::lab::ANY_GRANT;
use crate::process::{Background, READY_LIMIT, wait_until};
use netd_ipc::Client;
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) use super::peer::Role;

const ENDS: Ends = Ends { peer: Ipv4Addr::new(10, 9, 0, 1), daemon: Ipv4Addr::new(10, 9, 0, 2) };
/// More than any benchmark uses: the bounds on clients are not what is measured.
const MEMORY_MIB: u32 = 1 << 22;

/// What to vary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// "adaptive" or "busy".
    pub(super) poll: &'static str,
    /// What the peer does.
    pub(super) role: Role,
    /// The daemon gets a processor to itself, and everybody else the others.
    pub(super) pinned: bool,
    /// How many there may be at once.
    pub(super) connections: u32,
}

/// netd at work. Dropping it ends everything.
#[derive(Debug)]
pub(super) struct Daemon {
    /// A client of it.
    pub(super) client: Client,
    process: Background,
    peer: Peer,
    /// What this thread may use when the benchmark is over.
    processors: CpuSet,
    _directory: TempDir,
}

impl Daemon {
    /// The peer's address.
    pub(super) const PEER: Ipv4Addr = ENDS.peer;
    /// Where a peer that opens connections finds the client's listener.
    pub(super) const OPENED_PORT: u16 = 7000;

    /// Starts the peer, then the daemon, and waits until it answers.
    pub(super) fn start(setting: Setting) -> Result<Daemon> {
        let directory = tempfile::Builder::new().prefix("netd-bench-").tempdir();
        let directory = directory.attempt(|| "make a directory for the daemon".to_owned())?;
        let path = |name: &str| directory.path().join(name);
        let processors = sched_getaffinity(None).attempt(|| "read the affinity".to_owned())?;
        let (first, others) = divide(&processors);
        let pinned = setting.pinned && others.count() > 0;
        if pinned {
            // The peer's thread and the client's inherit this.
            sched_setaffinity(None, &others).attempt(|| "set the affinity".to_owned())?;
        }
        let listener = UnixListener::bind(path("link.sock")).attempt(|| "bind the link".to_owned())?;
        let peer = Peer::start(listener, ENDS, setting.role, setting.connections as usize)?;
        let configuration = configuration(&directory, setting);
        fs::write(path("netd.toml"), configuration).attempt(|| "write netd.toml".to_owned())?;
        let mut command = program(pinned.then_some(first))?;
        command.args(["run", "--config"]).arg(path("netd.toml"));
        let mut process = Background::spawn(&mut command, &path("netd.log"))?;
        let mut client = None;
        process.wait_until_ready(READY_LIMIT, |_| {
            client = Client::connect(path("netd.sock")).ok();
            Ok(client.as_ref().is_some_and(|client| client.status().is_ok()))
        })?;
        let client = client.ok_or_else(|| Error::Expectation("netd does not answer".to_owned()))?;
        Ok(Daemon { client, process, peer, processors, _directory: directory })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the daemon in order, then the peer.
    pub(super) fn stop(mut self) -> Result<()> {
        sched_setaffinity(None, &self.processors).attempt(|| "set the affinity back".to_owned())?;
        self.process.signal(Signal::TERM)?;
        self.process.finish(READY_LIMIT)?;
        self.peer.finish()
    }

    /// Lets each of `actors`, on a thread of its own, do something again and again: for `settle` without counting, then for
    /// `duration`.
    pub(super) fn count<A: Sync>(
        &self,
        actors: &[A],
        settle: Duration,
        duration: Duration,
        once: impl Fn(&A) -> Result<()> + Sync,
    ) -> Result<Count> {
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let work = |actor| {
            while !stop.load(Ordering::Relaxed) {
                once(actor).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let work = &work;
        thread::scope(|scope| {
            let workers: Vec<_> = actors.iter().map(|actor| scope.spawn(move || work(actor))).collect();
            let measured = self.watch(&done, &stop, settle, duration);
            stop.store(true, Ordering::Relaxed);
            for worker in workers {
                let ended = worker.join();
                ended.map_err(|_| Error::Expectation("a client of the benchmark panicked".to_owned()))??;
            }
            measured
        })
    }

    fn watch(
        &self,
        done: &AtomicU64,
        stop: &AtomicBool,
        settle: Duration,
        duration: Duration,
    ) -> Result<Count> {
        let failed = |limit| {
            let waited = wait_until("the end", limit, || Ok(stop.load(Ordering::Relaxed)));
            waited.is_ok()
        };
        if failed(settle) {
            return Ok(Count { done: 0, elapsed: settle, cpu: Duration::ZERO });
        }
        let (before, start, cpu) = (done.load(Ordering::Relaxed), Instant::now(), cpu_time_of(self.pid())?);
        failed(duration);
        let cpu = cpu_time_of(self.pid())?.saturating_sub(cpu);
        Ok(Count { done: done.load(Ordering::Relaxed) - before, elapsed: start.elapsed(), cpu })
    }
}

/// What happened in some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    done: u64,
    elapsed: Duration,
    /// Processor time of the daemon.
    cpu: Duration,
}

impl Count {
    pub(super) fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// For each second that the daemon used a processor.
    pub(super) fn per_cpu_second(&self) -> f64 {
        self.done as f64 / self.cpu.as_secs_f64().max(f64::EPSILON)
    }
}

/// The first processor of a set, and the rest.
fn divide(processors: &CpuSet) -> (usize, CpuSet) {
    let mut others = *processors;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| processors.is_set(*cpu)).unwrap_or_default();
    others.unset(first);
    (first, others)
}

/// The netd that was built with this program.
fn program(processor: Option<usize>) -> Result<Command> {
    let own = std::env::current_exe().attempt(|| "find this program".to_owned())?;
    let netd = own.with_file_name("netd");
    let Some(processor) = processor else { return Ok(Command::new(netd)) };
    let mut command = Command::new("taskset");
    command.args(["-c", &processor.to_string()]).arg(netd);
    Ok(command)
}

fn configuration(directory: &TempDir, setting: Setting) -> String {
    let path = |name: &str| directory.path().join(name).display().to_string();
    let Setting { poll, connections, .. } = setting;
    format!(
        "[network.devnet]\nenabled = true\n\n\
         [device]\nkind = \"software\"\nlink = {{ kind = \"socket\", path = \"{}\" }}\npoll = \"{poll}\"\n\n\
         [address]\nmode = \"static\"\ncidr = \"{}/24\"\n\n\
         [ipc]\nsocket = \"{}\"\n\n[state]\ndirectory = \"{}\"\n\n\
         [limits]\nsockets = {connections}\nmemory_mib = {MEMORY_MIB}\n\n\
         [limits.client]\nsockets = {connections}\nmemory_mib = {MEMORY_MIB}\nconnects_per_second = 10000000\n\n\
         {ANY_GRANT}",
        path("link.sock"),
        ENDS.daemon,
        path("netd.sock"),
        path("state"),
    )
}

/// Errors of the client library in words of the benchmark.
pub(super) trait AttemptClient<T> {
    /// Says what was tried.
    fn attempt_client(self, what: &str) -> Result<T>;
}

impl<T> AttemptClient<T> for Result<T, netd_ipc::Error> {
    fn attempt_client(self, what: &str) -> Result<T> {
        self.map_err(|error| Error::Expectation(format!("cannot {what}: {error}")))
    }
}
