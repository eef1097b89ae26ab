//! The descriptor path on the software device, and what a daemon costs that has nothing to do.

use super::account::cpu_time_of;
use super::daemon::{Daemon, Role, Setting};
use super::load::{self, Network, RoundTrips};
use super::peer::{DISCARD, ECHO, SOURCE};
use super::report::{Console, Report, median};
use crate::error::Result;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Each direction is measured this often and this long; the median counts.
const ROUNDS: usize = 3;
const BULK: Duration = Duration::from_secs(3);
const ROUND_TRIPS: usize = 20_000;
/// How long the daemon is watched doing nothing, after what is going on at its start.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_SETTLE: Duration = Duration::from_secs(10);

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    /// For each way of waiting.
    pub(super) modes: Vec<Mode>,
    /// The part of one processor that an idle daemon uses in adaptive mode.
    pub(super) idle_cpu: f64,
}

/// With one way of waiting for frames.
#[derive(Debug, Serialize)]
pub(super) struct Mode {
    /// `poll` in the configuration.
    pub(super) poll: &'static str,
    /// From the client to the peer, bits per second.
    pub(super) sent: f64,
    /// From the peer to the client, bits per second.
    pub(super) received: f64,
    /// One byte to the peer and back.
    pub(super) round_trips: RoundTrips,
}

/// Measures it in both modes.
pub(super) fn run(console: &Console) -> Result<()> {
    let modes = vec![measure("adaptive", console)?, measure("busy", console)?];
    let idle_cpu = idle(console)?;
    let titles = ["poll    ", "Gbit/s out", "Gbit/s in", "p50 us", "p99 us", "p99.9 us"];
    let table = console.table(&titles);
    for Mode { poll, sent, received, round_trips: RoundTrips { p50, p99, p999 } } in &modes {
        let rates = [sent, received].map(|rate| format!("{:.2}", rate / 1e9));
        let times = [p50, p99, p999].map(|time| format!("{time:.1}"));
        table.row(&[(*poll).to_owned()].into_iter().chain(rates).chain(times).collect::<Vec<_>>());
    }
    let table = console.table(&["idle, adaptive", "% of a core"]);
    table.row(&["software device".to_owned(), format!("{:.2}", idle_cpu * 100.0)]);
    console.finish(&Report::new("descriptor", Results { modes, idle_cpu }))
}

fn measure(poll: &'static str, console: &Console) -> Result<Mode> {
    console.progress(&format!("client, descriptor, netd (poll = \"{poll}\"), software device, peer"));
    let daemon = Daemon::start(Setting { poll, role: Role::Server, pinned: false, connections: 64 })?;
    let network = Network::Netd(daemon.client.clone());
    let at = |port| SocketAddr::from((Daemon::PEER, port));
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        sent.push(load::send(&network, at(DISCARD), BULK)?);
        received.push(load::receive(&network, at(SOURCE), BULK)?);
    }
    let round_trips = load::round_trips(&network, at(ECHO), ROUND_TRIPS)?;
    daemon.stop()?;
    Ok(Mode { poll, sent: median(&sent), received: median(&received), round_trips })
}

fn idle(console: &Console) -> Result<f64> {
    console.progress("an idle daemon (poll = \"adaptive\") with one connection");
    let daemon =
        Daemon::start(Setting { poll: "adaptive", role: Role::Server, pinned: false, connections: 64 })?;
    let _stream = Network::Netd(daemon.client.clone()).connect((Daemon::PEER, ECHO).into())?;
    std::thread::sleep(IDLE_SETTLE);
    let (start, before) = (Instant::now(), cpu_time_of(daemon.pid())?);
    std::thread::sleep(IDLE);
    let used = cpu_time_of(daemon.pid())?.saturating_sub(before);
    let idle = used.as_secs_f64() / start.elapsed().as_secs_f64();
    daemon.stop()?;
    Ok(idle)
}
