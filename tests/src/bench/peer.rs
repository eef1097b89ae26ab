//! The other end of the software device's link: a stack of the same kind in the benchmark's own process, with the small servers
//! of old (echo, discard, source), or as a client that opens connections.
//!
//! ```text
//!   client ── descriptor ── netd: stack, driver, software device ── Unix socket ── this
//! ```

use crate::error::{Attempt, Error, Result};
use netd_stack::{Addressing, Cidr, Config, Egress, FlowId, Instant, Limits, Ready, Stack, Static};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

/// Sends back what it receives (RFC 862).
pub(super) const ECHO: u16 = 7;
/// Throws away what it receives (RFC 863), and closes after its client.
pub(super) const DISCARD: u16 = 9;
/// Sends without end (RFC 864, but for the pattern).
pub(super) const SOURCE: u16 = 19;

/// Frames that wait for the link: as much as netd's own end lets wait.
const OUTPUT_MAX: usize = 256 << 10;
const INPUT_BYTES: usize = 256 << 10;
/// Bytes before each frame: its length (QEMU's stream format).
const PREFIX: usize = 4;
/// How long it sleeps at most, so that it notices its end.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Connections that an opener has under way: as many unfinished handshakes as netd allows one host.
const UNDER_WAY: usize = 32;
/// After a connection was refused, until the next attempt: nobody listens yet.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// What the peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Serves the ports above.
    Server,
    /// Opens connections to this port of the daemon as fast as it answers, and closes each as soon as it is there.
    Opener(u16),
}

/// The peer at work on a thread of its own.
#[derive(Debug)]
pub(super) struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The two ends of the link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The peer's own address.
    pub(super) peer: Ipv4Addr,
    /// The daemon's.
    pub(super) daemon: Ipv4Addr,
}

impl Peer {
    /// Waits for the daemon's link at `listener`, then plays its role; `connections` at once at most.
    pub(super) fn start(listener: UnixListener, ends: Ends, role: Role, connections: usize) -> Result<Peer> {
        let stop = Arc::new(AtomicBool::new(false));
        let stack = stack(ends.peer, connections)?;
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                listener
                    .set_nonblocking(true)
                    .attempt(|| "make the link's listener non-blocking".to_owned())?;
                let Some(link) = accept(&listener, &stop)? else { return Ok(()) };
                let mut driver = Driver::new(link, stack, role, ends.daemon)?;
                while !stop.load(Ordering::Relaxed) && driver.turn()? {}
                Ok(())
            }
        });
        Ok(Peer { stop, thread: Some(thread) })
    }

    /// Ends it, and says what went wrong on the way.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Expectation("the peer of the benchmark panicked".to_owned())),
            None => Ok(()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &UnixListener, stop: &AtomicBool) -> Result<Option<UnixStream>> {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((link, _)) => return Ok(Some(link)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error).attempt(|| "accept the daemon's link".to_owned()),
        }
    }
    Ok(None)
}

fn stack(address: Ipv4Addr, connections: usize) -> Result<Stack> {
    let wrong = |error: netd_stack::Error| Error::Expectation(format!("the peer's stack: {error}"));
    let limits = Limits { flows: connections, ..Limits::default() };
    let cidr = Cidr::new(address, 24).unwrap_or(Cidr::host(address));
    let addressing = Addressing::Static(Static { cidr, gateway: None, mtu: None, dns: Vec::new() });
    let mac = [2, 0, 0, 0, 1, address.octets()[3]];
    let config = Config { mac, mtu: 1500, addressing, hostname: None, seed: [9; 32], limits };
    Stack::new(config, Instant::ZERO).map_err(wrong)
}

/// Frames on their way to the link.
struct Output(Vec<u8>);

impl Egress for Output {
    fn ready(&self) -> bool {
        self.0.len() < OUTPUT_MAX
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let start = self.0.len();
        self.0.extend_from_slice(&(len as u32).to_be_bytes());
        self.0.resize(start + PREFIX + len, 0);
        let filled = fill(&mut self.0[start + PREFIX..]);
        if !filled {
            self.0.truncate(start);
        }
        filled
    }
}

struct Driver {
    link: UnixStream,
    stack: Stack,
    role: Role,
    daemon: Ipv4Addr,
    started: Clock,
    input: Vec<u8>,
    filled: usize,
    output: Output,
    scratch: Vec<u8>,
    under_way: usize,
    refused_at: Option<Clock>,
}

impl Driver {
    fn new(link: UnixStream, mut stack: Stack, role: Role, daemon: Ipv4Addr) -> Result<Driver> {
        link.set_nonblocking(true).attempt(|| "make the link non-blocking".to_owned())?;
        for port in [ECHO, DISCARD, SOURCE] {
            let listened = stack.tcp_listen(Some(port), 128);
            listened.map_err(|error| Error::Expectation(format!("the peer's port {port}: {error}")))?;
        }
        Ok(Driver {
            link,
            stack,
            role,
            daemon,
            started: Clock::now(),
            input: vec![0; INPUT_BYTES],
            filled: 0,
            output: Output(Vec::with_capacity(OUTPUT_MAX)),
            scratch: vec![0; 1 << 16],
            under_way: 0,
            refused_at: None,
        })
    }

    /// One turn: what came in, what that means, what goes out; false once the link is closed.
    fn turn(&mut self) -> Result<bool> {
        let now = Instant::from_micros(self.started.elapsed().as_micros() as u64);
        let Some(received) = self.receive(now)? else { return Ok(false) };
        self.open(now);
        let mut worked = self.stack.poll(now, &mut self.output) | received;
        while let Some(ready) = self.stack.next_ready() {
            worked = true;
            self.serve(now, ready);
        }
        worked |= self.stack.poll(now, &mut self.output);
        self.flush()?;
        if !worked {
            self.sleep(now)?;
        }
        Ok(true)
    }

    /// Hands received frames to the stack: whether there were any, and `None` once the link is closed.
    fn receive(&mut self, now: Instant) -> Result<Option<bool>> {
        match self.link.read(&mut self.input[self.filled..]) {
            Ok(0) => return Ok(None),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(false)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).attempt(|| "read from the link".to_owned()),
        }
        let mut rest = &self.input[..self.filled];
        while let Some((prefix, frames)) = rest.split_first_chunk::<PREFIX>() {
            let len = u32::from_be_bytes(*prefix) as usize;
            let Some((frame, others)) = frames.split_at_checked(len) else { break };
            self.stack.handle_frame(now, frame, &mut self.output);
            rest = others;
        }
        let consumed = self.filled - rest.len();
        self.input.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
        Ok(Some(true))
    }

    fn flush(&mut self) -> Result<()> {
        let mut written = 0;
        while written < self.output.0.len() {
            match self.link.write(&self.output.0[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The daemon has gone; the next read says so.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => written = self.output.0.len(),
                Err(error) => return Err(error).attempt(|| "write to the link".to_owned()),
            }
        }
        self.output.0.drain(..written);
        Ok(())
    }

    fn sleep(&mut self, now: Instant) -> Result<()> {
        let due = self.stack.poll_timeout().map(|at| at.saturating_duration_since(now));
        // With a full output everything waits for the link alone.
        let due = due.filter(|_| self.output.0.is_empty()).unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        let mut flags = PollFlags::IN;
        if !self.output.0.is_empty() {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(due.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.link, flags)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).attempt(|| "wait for the link".to_owned()),
        }
    }

    /// As an opener, makes connections up to the number that may be under way.
    fn open(&mut self, now: Instant) {
        let Role::Opener(port) = self.role else { return };
        if self.refused_at.is_some_and(|at| at.elapsed() < REFUSED_PAUSE) {
            return;
        }
        self.refused_at = None;
        while self.under_way < UNDER_WAY && self.stack.tcp_connect(now, (self.daemon, port).into()).is_ok() {
            self.under_way += 1;
        }
    }

    fn serve(&mut self, now: Instant, ready: Ready) {
        match ready {
            Ready::Listener(listener) => while let Ok(Some(_)) = self.stack.tcp_accept(listener) {},
            Ready::Flow(flow) => self.pump(now, flow),
            Ready::Udp(_) | Ready::Ping(_) | Ready::Lease | Ready::Addresses => {}
        }
    }

    fn pump(&mut self, now: Instant, flow: FlowId) {
        let Ok(status) = self.stack.tcp_status(flow) else { return };
        let opened = matches!(self.role, Role::Opener(port) if status.remote.port() == port);
        // A flow that was given away answers no more calls, so each of these comes once.
        let done = match status.local.port() {
            _ if status.closed.is_some() => true,
            _ if opened => {
                if status.established {
                    // Also when it was done before.
                    let _ = self.stack.tcp_finish(flow);
                }
                status.receive_finished
            }
            ECHO => self.echo(flow),
            DISCARD => self.discard(flow),
            SOURCE => {
                while self.stack.tcp_send(flow, |room| room.len()).is_ok_and(|count| count > 0) {}
                status.receive_finished
            }
            _ => true,
        };
        if done {
            self.stack.tcp_release(now, flow);
            if opened {
                self.under_way -= 1;
                if status.closed.is_some() && !status.established {
                    self.refused_at = Some(Clock::now());
                }
            }
        }
    }

    /// Returns whether everything was sent back, and no more will come.
    fn echo(&mut self, flow: FlowId) -> bool {
        let Driver { stack, scratch, .. } = self;
        while let Ok(status) = stack.tcp_status(flow) {
            let room = status.writable.min(scratch.len());
            let taken = stack.tcp_receive(flow, |bytes| {
                let count = bytes.len().min(room);
                scratch[..count].copy_from_slice(&bytes[..count]);
                count
            });
            let Ok(mut left @ 1..) = taken else { return status.receive_finished };
            let taken = left;
            // The buffer is a ring, so it may take two calls.
            while left > 0 {
                let sent = stack.tcp_send(flow, |room| {
                    let count = room.len().min(left);
                    room[..count].copy_from_slice(&scratch[taken - left..taken - left + count]);
                    count
                });
                match sent {
                    Ok(count @ 1..) => left -= count,
                    _ => return true,
                }
            }
        }
        true
    }

    fn discard(&mut self, flow: FlowId) -> bool {
        while self.stack.tcp_receive(flow, <[u8]>::len).is_ok_and(|count| count > 0) {}
        self.stack.tcp_status(flow).is_ok_and(|status| status.receive_finished)
    }
}
