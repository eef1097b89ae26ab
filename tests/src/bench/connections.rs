//! How many connections can be set up and closed in a second: by the stack alone, and with descriptors through the daemon.
//!
//! In the stack alone, one thread plays both sides, and only processor time inside the stack counts: frames of the peers are made
//! while the clock stands still. A connection is opened, accepted where the peer opened it, and closed in order by both sides.

use super::account::thread_time;
use super::daemon::{AttemptClient as _, Daemon, Role, Setting};
use super::frames::{self, ETHERNET, NOW, Out, PORT, Peer, Sent, sent};
use super::report::{Console, Report, median};
use crate::ensure;
use crate::error::{Attempt, Error, Result};
use netd_ipc::Client;
use netd_stack::{FlowId, Limits, ListenerId, Stack};
use serde::Serialize;
use smoltcp::wire::TcpControl;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections whose frames arrive together: as many handshakes as the stack lets one listener have.
const BATCH: usize = 64;
/// Batches that are measured; the median of [`PARTS`] parts counts.
const BATCHES: usize = 500;
const PARTS: usize = 5;
/// Batches before: connections leave memory behind that later ones use, and it is the later ones that a daemon lives with.
const WARM_UP: usize = 50;

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    /// In the stack alone, opened and closed first by the peer.
    pub(super) stack_accepted: f64,
    /// In the stack alone, opened and closed first by us, which leaves each in TIME-WAIT.
    pub(super) stack_opened: f64,
    /// Through the daemon.
    pub(super) daemon: Vec<Through>,
}

/// Connections with descriptors.
#[derive(Debug, Serialize)]
pub(super) struct Through {
    /// Who opened them.
    pub(super) opened_by: &'static str,
    /// By the clock, with the daemon on one processor, and client and peer on the other.
    pub(super) per_second: f64,
    /// For each second that the daemon used a processor.
    pub(super) per_cpu_second: f64,
}

/// Measures all of it, and prints each row as it is there.
pub(super) fn run(console: &Console) -> Result<()> {
    console.progress("connections set up and closed per second");
    let table = console.table(&["                               ", "by the clock", "per CPU second"]);
    let alone = |name: &str, rate: f64| table.row(&[name.to_owned(), "-".to_owned(), format!("{rate:.0}")]);
    let stack_accepted = accepted()?;
    alone("stack alone, accepted", stack_accepted);
    let stack_opened = opened()?;
    alone("stack alone, opened", stack_opened);
    let show = |through: &Through| {
        let rates = [through.per_second, through.per_cpu_second].map(|rate| format!("{rate:.0}"));
        let name = format!("with descriptors, by the {}", through.opened_by);
        table.row(&[name].into_iter().chain(rates).collect::<Vec<_>>());
    };
    let by_peer = through_listener()?;
    show(&by_peer);
    let by_client = through_connect()?;
    show(&by_client);
    let results = Results { stack_accepted, stack_opened, daemon: vec![by_peer, by_client] };
    console.finish(&Report::new("connections", results))
}

// ---- the stack alone ------------------------------------------------------------------------------------------------

/// The stack with what goes in and out of it, and the time that was spent in it.
struct Bench {
    stack: Stack,
    out: Out,
    spent: Duration,
}

impl Bench {
    fn new() -> Result<Bench> {
        let limits = Limits { pending_per_source: BATCH, pending_per_listener: BATCH, ..Limits::default() };
        let mut out = Out::new(4 * BATCH);
        let stack = frames::stack(limits, &mut out).map_err(|error| Error::Expectation(error.to_string()))?;
        Ok(Bench { stack, out, spent: Duration::ZERO })
    }

    /// Frames that arrive together, and what the stack does about them; then `act`, and what comes of that.
    fn turn<T>(&mut self, incoming: &[Vec<u8>], act: impl FnOnce(&mut Stack) -> T) -> T {
        let start = thread_time();
        for frame in incoming {
            self.stack.handle_frame(NOW, frame, &mut self.out);
        }
        self.stack.poll(NOW, &mut self.out);
        while self.stack.next_ready().is_some() {}
        let done = act(&mut self.stack);
        self.stack.poll(NOW, &mut self.out);
        while self.stack.next_ready().is_some() {}
        self.spent += thread_time() - start;
        done
    }

    /// Lets every peer hear what the stack sent to it. `accept` says whether that was to be expected.
    fn tell(&mut self, peers: &mut [Peer], accept: impl Fn(&Sent) -> bool) -> Result<()> {
        let mut heard = 0;
        for segment in self.out.take().filter_map(|frame| sent(&frame[ETHERNET..])) {
            let to = peers.iter_mut().find(|peer| (peer.address, peer.port, peer.our_port) == key(&segment));
            if let Some(peer) = to.filter(|_| accept(&segment)) {
                peer.hear(&segment);
                heard += 1;
            }
        }
        ensure!(heard == peers.len(), "{heard} of {} connections were answered", peers.len());
        Ok(())
    }

    /// Connections per second over all batches, as the median of parts.
    fn measure(&mut self, mut batch: impl FnMut(&mut Bench, usize) -> Result<()>) -> Result<f64> {
        for number in 0..WARM_UP {
            batch(self, number)?;
        }
        let mut rates = Vec::new();
        for part in 0..PARTS {
            self.spent = Duration::ZERO;
            let batches = BATCHES / PARTS;
            for number in 0..batches {
                batch(self, WARM_UP + part * batches + number)?;
            }
            rates.push((batches * BATCH) as f64 / self.spent.as_secs_f64());
        }
        Ok(median(&rates))
    }
}

fn key(segment: &Sent) -> (std::net::Ipv4Addr, u16, u16) {
    (segment.to.0, segment.to.1, segment.from_port)
}

/// The peer opens, we accept; the peer closes first, then we.
fn accepted() -> Result<f64> {
    let mut bench = Bench::new()?;
    let listened = bench.stack.tcp_listen(Some(PORT), BATCH);
    let (listener, _) = listened.map_err(|error| Error::Expectation(error.to_string()))?;
    bench.measure(|bench, number| accepted_batch(bench, listener, number))
}

fn accepted_batch(bench: &mut Bench, listener: ListenerId, number: usize) -> Result<()> {
    let mut peers: Vec<Peer> = (0..BATCH).map(|index| Peer::new(number * BATCH + index)).collect();
    let frames =
        |peers: &[Peer], control| peers.iter().map(|peer| peer.frame(control, &[])).collect::<Vec<_>>();
    let syns = frames(&peers, TcpControl::Syn);
    bench.turn(&syns, |_| ());
    bench.tell(&mut peers, |segment| segment.syn)?;
    peers.iter_mut().for_each(|peer| peer.sequence = peer.sequence.wrapping_add(1));
    let acknowledgements = frames(&peers, TcpControl::None);
    let flows: Vec<FlowId> = bench.turn(&acknowledgements, |stack| {
        std::iter::from_fn(|| stack.tcp_accept(listener).ok().flatten()).collect()
    });
    ensure!(flows.len() == BATCH, "{} of {BATCH} connections were accepted", flows.len());
    let fins = frames(&peers, TcpControl::Fin);
    bench.turn(&fins, |stack| {
        for flow in &flows {
            stack.tcp_release(NOW, *flow);
        }
    });
    peers.iter_mut().for_each(|peer| peer.sequence = peer.sequence.wrapping_add(1));
    bench.tell(&mut peers, |segment| segment.fin)?;
    let last = frames(&peers, TcpControl::None);
    bench.turn(&last, |_| ());
    let left = bench.stack.sockets().filter(|socket| socket.kind == "tcp").count();
    ensure!(left == 0, "{left} connections did not come to their end");
    Ok(())
}

/// We open and close first; the peer follows.
fn opened() -> Result<f64> {
    let mut bench = Bench::new()?;
    bench.measure(opened_batch)
}

fn opened_batch(bench: &mut Bench, number: usize) -> Result<()> {
    let mut peers: Vec<Peer> = (0..BATCH).map(|index| Peer::new(number * BATCH + index)).collect();
    let remotes: Vec<SocketAddr> = peers.iter().map(|peer| (peer.address, peer.port).into()).collect();
    let opened = bench.turn(&[], |stack| {
        remotes.iter().map(|remote| stack.tcp_connect(NOW, *remote)).collect::<Result<Vec<FlowId>, _>>()
    });
    let flows = opened.map_err(|error| Error::Expectation(error.to_string()))?;
    for (peer, flow) in peers.iter_mut().zip(&flows) {
        let status = bench.stack.tcp_status(*flow).map_err(|error| Error::Expectation(error.to_string()))?;
        peer.our_port = status.local.port();
    }
    bench.tell(&mut peers, |segment| segment.syn)?;
    let answers: Vec<Vec<u8>> = peers.iter().map(Peer::syn_ack).collect();
    peers.iter_mut().for_each(|peer| peer.sequence = peer.sequence.wrapping_add(1));
    bench.turn(&answers, |stack| {
        for flow in &flows {
            stack.tcp_release(NOW, *flow);
        }
    });
    bench.tell(&mut peers, |segment| segment.fin)?;
    let fins: Vec<Vec<u8>> = peers.iter().map(|peer| peer.frame(TcpControl::Fin, &[])).collect();
    bench.turn(&fins, |_| ());
    let waiting = bench.stack.sockets().filter(|socket| socket.state == "TimeWait").count();
    ensure!(waiting >= BATCH, "{waiting} connections are in TIME-WAIT, and {BATCH} ended just now");
    bench.out.take().for_each(drop);
    Ok(())
}

// ---- with descriptors -----------------------------------------------------------------------------------------------

/// How long connections are made through the daemon.
const DURATION: Duration = Duration::from_secs(5);
/// Before, so that nothing is measured that happens once.
const SETTLE: Duration = Duration::from_millis(500);
/// Clients that wait for a connect each, with a connection of its own to the daemon.
const CONNECTORS: usize = 16;

/// The peer opens and closes; the client receives each descriptor from its listener, reads the end of file and closes it.
fn through_listener() -> Result<Through> {
    let daemon = Daemon::start(Setting {
        poll: "adaptive",
        role: Role::Opener(Daemon::OPENED_PORT),
        pinned: true,
        connections: 4_096,
    })?;
    let listener = daemon.client.tcp_listen(Some(Daemon::OPENED_PORT), Some(128)).attempt_client("listen")?;
    let count = daemon.count(&[listener], SETTLE, DURATION, |listener| {
        let (mut stream, _) = listener.accept().attempt_client("accept a connection")?;
        let mut rest = [0; 16];
        let end =
            std::io::Read::read(&mut stream, &mut rest).attempt(|| "read the end of file".to_owned())?;
        ensure!(end == 0, "the peer sent {end} bytes");
        Ok(())
    })?;
    daemon.stop()?;
    Ok(Through { opened_by: "peer", per_second: count.per_second(), per_cpu_second: count.per_cpu_second() })
}

/// Each client opens one after the other and closes it at once; the peer follows.
fn through_connect() -> Result<Through> {
    let daemon =
        Daemon::start(Setting { poll: "adaptive", role: Role::Server, pinned: true, connections: 4_096 })?;
    let remote = SocketAddr::from((Daemon::PEER, super::peer::DISCARD));
    let client = |_| Client::connect(daemon.client.path()).attempt_client("reach the daemon");
    let clients = (0..CONNECTORS).map(client).collect::<Result<Vec<Client>>>()?;
    let count = daemon.count(&clients, SETTLE, DURATION, |client| {
        client.tcp_connect(remote, None).attempt_client("connect").map(drop)
    })?;
    daemon.stop()?;
    Ok(Through {
        opened_by: "client",
        per_second: count.per_second(),
        per_cpu_second: count.per_cpu_second(),
    })
}
