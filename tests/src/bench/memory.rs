//! What an idle connection costs in memory: the daemon's own, its page tables, and the kernel's for the descriptor.

use super::account::Memory;
use super::daemon::{AttemptClient as _, Daemon, Role, Setting};
use super::peer::ECHO;
use super::report::{Console, Report};
use crate::error::{Attempt, Error, Result};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

/// Connections, unless RLIMIT_NOFILE allows fewer: each is a descriptor of ours and one of the daemon's.
const CONNECTIONS: u64 = 10_000;
/// Descriptors for everything else.
const DESCRIPTORS_SPARE: u64 = 64;
/// Connections made before the first look, so that what is there once is there already.
const WARM_UP: usize = 64;
/// Until what ended is also accounted for.
const SETTLE: Duration = Duration::from_secs(1);
/// A kernel cache is shown when every other connection has an object there.
const SHARE_MIN: f64 = 0.5;

/// Bytes for each connection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Costs {
    /// What the connections have done.
    pub(super) state: &'static str,
    /// The daemon's resident memory.
    pub(super) process: f64,
    /// Its page tables.
    pub(super) page_tables: f64,
    /// The kernel's slab, of the whole machine.
    pub(super) slab: f64,
    /// Everything above.
    pub(super) total: f64,
    /// What is in the slab, as far as it is ours; both ends of the descriptor, that is, the client's as well.
    pub(super) caches: BTreeMap<String, f64>,
}

/// Measures connections that have carried nothing, and after they have carried one small request and its answer.
pub(super) fn run(console: &Console) -> Result<()> {
    let connections = getrlimit(Resource::Nofile)
        .current
        .map_or(CONNECTIONS, |limit| CONNECTIONS.min(limit.saturating_sub(DESCRIPTORS_SPARE)));
    console.progress(&format!("memory of {connections} idle connections with their descriptors"));
    let held = u32::try_from(connections).unwrap_or(u32::MAX) + WARM_UP as u32;
    let daemon =
        Daemon::start(Setting { poll: "adaptive", role: Role::Server, pinned: false, connections: held })?;
    let remote = SocketAddr::from((Daemon::PEER, ECHO));
    let connect = || daemon.client.tcp_connect(remote, None).attempt_client("connect");
    let _first = (0..WARM_UP).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let look = || {
        std::thread::sleep(SETTLE);
        Memory::of(daemon.pid())
    };
    let before = look()?;
    let mut streams = (0..connections).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let fresh = costs("carried nothing", &before, &look()?, connections);
    for stream in &mut streams {
        let mut answer = [0; 100];
        stream.write_all(&answer).attempt(|| "send a request".to_owned())?;
        stream.read_exact(&mut answer).attempt(|| "receive the answer".to_owned())?;
    }
    let used = costs("carried a request and its answer", &before, &look()?, connections);
    let sockets = daemon.client.sockets().attempt_client("list the sockets")?.len() as u64;
    crate::ensure!(sockets >= connections, "{sockets} of {connections} connections are still there");
    drop(streams);
    daemon.stop()?;
    show(console, &[fresh, used])
}

fn costs(state: &'static str, before: &Memory, after: &Memory, connections: u64) -> Costs {
    let each = |after: u64, before: u64| (after as f64 - before as f64) / connections as f64;
    let cache = |(name, (active, size)): (&String, &(u64, u64))| {
        let (had, _) = before.caches.get(name).copied().unwrap_or_default();
        let objects = each(*active, had);
        (objects >= SHARE_MIN).then(|| (name.clone(), objects * *size as f64))
    };
    let process = each(after.process, before.process);
    let page_tables = each(after.page_tables, before.page_tables);
    let slab = each(after.slab, before.slab);
    let caches = after.caches.iter().filter_map(cache).collect();
    Costs { state, process, page_tables, slab, total: process + page_tables + slab, caches }
}

fn show(console: &Console, all: &[Costs]) -> Result<()> {
    let titles = ["bytes per connection that ...    ", "process", "page tables", "slab", "total"];
    let table = console.table(&titles);
    for Costs { state, process, page_tables, slab, total, caches } in all {
        let figures = [process, page_tables, slab, total].map(|bytes| format!("{bytes:.0}"));
        let cells: Vec<String> = [(*state).to_owned()].into_iter().chain(figures).collect();
        table.row(&cells);
        for (name, bytes) in caches {
            table.row(&[format!("  slab: {name}"), String::new(), String::new(), format!("{bytes:.0}")]);
        }
    }
    let last = all.last().ok_or_else(|| Error::Expectation("nothing was measured".to_owned()))?;
    if last.caches.is_empty() {
        console.progress("the caches of the slab are root's to see");
    }
    console.finish(&Report::new("memory", all))
}
