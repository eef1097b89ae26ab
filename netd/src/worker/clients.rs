//! Everything that clients own: their sockets, and their calls that wait for the network.
//!
//! A socket lives here under a key (its token in the worker's poll), and is found by the stack's id for it as well. It
//! ends when its client's last descriptor is closed, when its connection ends, or with the device.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netd_ipc::accepted::Accepted;
use netd_ipc::{ErrorKind, Outcome, Pong, StreamEnd};
use netd_policy::{Request, Rule, Subject};
use netd_stack::{Egress, FlowId, Instant, ListenerId, PingId, Ready, Stack, UdpId};
use rustix::net::SocketType;
use slab::Slab;

use crate::capture::{Filter, Taps};
use crate::command::{Completion, Reply};
use crate::worker::carried::{Carried, Flow};
use crate::worker::datagram::{Datagrams, Gate, MESSAGE_BYTES_MAX, State};
use crate::worker::ledger::{Exceeded, Ledger};
use crate::worker::listener::{Delivery, Listener};
use crate::worker::outcome::Outcomes;
use crate::worker::stream::{Stream, stream_end};
use crate::worker::{KERNEL_BUFFER_BYTES, TOKEN_FIRST, error_reply, socketpair};

/// A socket and who made it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) owner: Subject,
    pub(super) socket: Socket,
    /// The client asked for it by naming a peer, so that the devnet switch governs it.
    pub(super) outbound: bool,
}

/// A socket in a client's hands.
#[derive(Debug)]
pub(super) enum Socket {
    Stream(Stream),
    Listener(Listener),
    Datagrams(Box<Datagrams>),
}

impl Socket {
    fn descriptor(&self) -> &OwnedFd {
        match self {
            Socket::Stream(stream) => stream.descriptor(),
            Socket::Listener(listener) => listener.descriptor(),
            Socket::Datagrams(datagrams) => datagrams.descriptor(),
        }
    }

    /// What it has carried.
    fn carried(&self) -> Carried {
        match self {
            Socket::Stream(stream) => Carried {
                received: Flow::stream(stream.received_bytes),
                sent: Flow::stream(stream.sent_bytes),
            },
            Socket::Listener(_) => Carried::default(),
            Socket::Datagrams(datagrams) => Carried {
                received: Flow::datagrams(datagrams.received_bytes, datagrams.received),
                sent: Flow::datagrams(datagrams.sent_bytes, datagrams.sent),
            },
        }
    }

    /// What it can take at the very most.
    fn memory_bytes(&self) -> u64 {
        match self {
            Socket::Stream(_) => STREAM_BYTES,
            Socket::Listener(_) => LISTENER_BYTES,
            Socket::Datagrams(_) => DATAGRAMS_BYTES,
        }
    }
}

/// A Connect that waits for its handshake.
#[derive(Debug)]
struct Connecting {
    token: u64,
    owner: Subject,
    remote: SocketAddr,
    deadline: Instant,
}

/// The way back to the control thread.
#[derive(Debug)]
pub(super) struct Completions {
    sender: mpsc::Sender<Completion>,
    waker: Arc<mio::Waker>,
}

impl Completions {
    /// The queue holds at most one completion per outstanding call, whose number the control thread bounds.
    pub(super) fn new(sender: mpsc::Sender<Completion>, waker: Arc<mio::Waker>) -> Self {
        Self { sender, waker }
    }

    pub(super) fn send(&self, token: u64, reply: Reply) {
        // Both fail only when the control thread is gone, and with it whoever would be interested.
        if self.sender.send(Completion { token, reply }).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

/// All clients' sockets and calls.
#[derive(Debug)]
pub(super) struct Clients {
    registry: Registry,
    gate: Gate,
    generation: u64,
    pub(super) ledger: Ledger,
    pub(super) completions: Completions,
    sockets: Slab<Entry>,
    by_flow: HashMap<FlowId, usize>,
    by_listener: HashMap<ListenerId, usize>,
    by_udp: HashMap<UdpId, usize>,
    connecting: HashMap<FlowId, Connecting>,
    connect_deadlines: BTreeSet<(Instant, FlowId)>,
    pinging: HashMap<PingId, u64>,
    /// Streams whose descriptor has hung up and whose last bytes are on their way.
    hung_up: BTreeSet<usize>,
    /// When they are looked at next.
    hung_up_check_at: Instant,
    /// UDP sockets whose client had more to send than one turn allows.
    unfinished: Vec<usize>,
    /// UDP sockets whose client has sent as much as it may, and when it may go on.
    throttled: BTreeSet<(Instant, usize)>,
    /// Listeners whose client may have no more sockets for now.
    starved: BTreeSet<ListenerId>,
    /// Something was given back since the starved were looked at.
    released: bool,
    outcomes: Outcomes,
    /// By sockets that are no more.
    carried: Carried,
    next_id: u64,
    listeners_max: usize,
    buffer: Vec<u8>,
}

impl Clients {
    /// `first_id` is where the ids of sockets begin. A random number, so that a client of a daemon that was restarted is
    /// never told the end of somebody else's stream.
    pub(super) fn new(
        registry: Registry,
        gate: Gate,
        completions: Completions,
        listeners_max: usize,
        first_id: u64,
    ) -> Self {
        let generation = gate.rules.generation();
        let ledger = Ledger::new(gate.rules.current().limits);
        Self {
            registry,
            gate,
            generation,
            ledger,
            completions,
            sockets: Slab::new(),
            by_flow: HashMap::new(),
            by_listener: HashMap::new(),
            by_udp: HashMap::new(),
            connecting: HashMap::new(),
            connect_deadlines: BTreeSet::new(),
            pinging: HashMap::new(),
            hung_up: BTreeSet::new(),
            hung_up_check_at: Instant::ZERO,
            unfinished: Vec::new(),
            throttled: BTreeSet::new(),
            starved: BTreeSet::new(),
            released: false,
            outcomes: Outcomes::default(),
            carried: Carried::default(),
            next_id: first_id,
            listeners_max,
            buffer: vec![0; MESSAGE_BYTES_MAX],
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.sockets.iter().map(|(_, entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Datagrams that clients did not take in time.
    pub(super) fn overflowed(&self) -> u64 {
        let lost = |entry: &Entry| match &entry.socket {
            Socket::Datagrams(datagrams) => datagrams.overflowed,
            Socket::Stream(_) | Socket::Listener(_) => 0,
        };
        self.entries().map(lost).sum()
    }

    /// What all sockets have carried so far.
    pub(super) fn carried(&self) -> Carried {
        self.entries().fold(self.carried, |mut all, entry| {
            all += entry.socket.carried();
            all
        })
    }

    // ---- calls ---------------------------------------------------------------------------------------------------

    pub(super) fn connect(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        remote: SocketAddr,
        timeout: Duration,
    ) {
        let uid = owner.uid;
        let charged =
            self.ledger.connect(now, uid).and_then(|()| self.ledger.reserve(now, uid, STREAM_BYTES));
        if let Err(exceeded) = charged {
            return self.completions.send(token, quota(&exceeded));
        }
        match stack.tcp_connect(now, remote) {
            Ok(flow) => {
                let deadline = now + timeout;
                self.connect_deadlines.insert((deadline, flow));
                self.connecting.insert(flow, Connecting { token, owner, remote, deadline });
            }
            Err(error) => {
                self.release(uid, STREAM_BYTES);
                self.completions.send(token, error_reply(&error));
            }
        }
    }

    pub(super) fn listen(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        port: Option<u16>,
        backlog: usize,
    ) {
        if self.by_listener.len() >= self.listeners_max {
            let limit = format!(
                "there are {} listeners already, as many as this daemon's descriptors allow",
                self.listeners_max
            );
            return self.completions.send(token, Reply::Failed(ErrorKind::QuotaExceeded, limit));
        }
        if let Err(exceeded) = self.ledger.reserve(now, owner.uid, LISTENER_BYTES) {
            return self.completions.send(token, quota(&exceeded));
        }
        let uid = owner.uid;
        let (id, local) = match stack.tcp_listen(port, backlog) {
            Ok(listener) => listener,
            Err(error) => {
                self.release(uid, LISTENER_BYTES);
                return self.completions.send(token, error_reply(&error));
            }
        };
        let made = socketpair(SocketType::SEQPACKET)
            .and_then(|(ours, theirs)| Ok((Listener::new(ours, id, local)?, theirs)));
        let Ok((listener, descriptor)) = made else {
            stack.tcp_close_listener(now, id);
            self.release(uid, LISTENER_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        let Some(key) = self.add(owner, Socket::Listener(listener), false) else {
            stack.tcp_close_listener(now, id);
            self.release(uid, LISTENER_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        self.by_listener.insert(id, key);
        let id = self.sockets[key].id;
        self.completions.send(token, Reply::Listener { id, local, descriptor });
    }

    pub(super) fn bind_udp(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        port: Option<u16>,
    ) {
        let uid = owner.uid;
        if let Err(exceeded) = self.ledger.reserve(now, uid, DATAGRAMS_BYTES) {
            return self.completions.send(token, quota(&exceeded));
        }
        let (udp, local) = match stack.udp_bind(port) {
            Ok(bound) => bound,
            Err(error) => {
                self.release(uid, DATAGRAMS_BYTES);
                return self.completions.send(token, error_reply(&error));
            }
        };
        let added = socketpair(SocketType::SEQPACKET).ok().and_then(|(ours, theirs)| {
            let datagrams = Box::new(Datagrams::new(ours, udp, local, owner.clone()));
            Some((self.add(owner, Socket::Datagrams(datagrams), false)?, theirs))
        });
        let Some((key, descriptor)) = added else {
            stack.udp_close(udp);
            self.release(uid, DATAGRAMS_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        self.by_udp.insert(udp, key);
        let id = self.sockets[key].id;
        self.completions.send(token, Reply::Udp { id, local, descriptor });
    }

    pub(super) fn ping<E: Egress>(
        &mut self,
        now: Instant,
        (stack, egress): (&mut Stack, &mut E),
        caller: &(u64, Subject),
        to: IpAddr,
        (bytes, timeout): (usize, Duration),
    ) {
        if !self.charge_packet(now, caller) {
            return;
        }
        let token = caller.0;
        match stack.ping(now, to, bytes, timeout, egress) {
            Ok(ping) => {
                self.pinging.insert(ping, token);
            }
            Err(error) => self.completions.send(token, error_reply(&error)),
        }
    }

    /// Charges one packet; false if the caller was told that it may send none now.
    pub(super) fn charge_packet(&mut self, now: Instant, (token, owner): &(u64, Subject)) -> bool {
        let charged = self.ledger.packet(now, owner.uid);
        if let Err(exceeded) = &charged {
            self.completions.send(*token, quota(exceeded));
        }
        charged.is_ok()
    }

    /// Starts a capture.
    pub(super) fn capture(
        &mut self,
        now: Instant,
        taps: &mut Taps,
        (token, owner): (u64, Subject),
        (filter, snap_bytes): (Filter, usize),
    ) {
        if let Err(exceeded) = self.ledger.reserve_capture(now, owner.uid) {
            return self.completions.send(token, quota(&exceeded));
        }
        let added = socketpair(SocketType::STREAM)
            .map_err(std::io::Error::from)
            .and_then(|(ours, theirs)| taps.add(owner.uid, filter, snap_bytes, ours).map(|()| theirs));
        match added {
            Ok(descriptor) => {
                tracing::info!(%owner, "a capture begins");
                self.completions.send(token, Reply::Capture(descriptor));
            }
            Err(error) => {
                self.ledger.release_capture(owner.uid);
                let message = format!("netd has no means for another capture: {error}");
                self.completions.send(token, Reply::Failed(ErrorKind::NoBufs, message));
            }
        }
    }

    /// How a stream ended, or that it has not.
    pub(super) fn outcome(&self, token: u64, id: u64, uid: u32) {
        let open = self.sockets.iter().find_map(|(_, entry)| match &entry.socket {
            Socket::Stream(stream) if entry.id == id && (uid == 0 || uid == entry.owner.uid) => {
                Some(stream.outcome(StreamEnd::Open))
            }
            _ => None,
        });
        let reply = match self.outcomes.of(id, uid).or(open) {
            Some(outcome) => Reply::Outcome(outcome),
            None => Reply::Failed(
                ErrorKind::InvalidSocket,
                format!("there is no stream {id} of yours, or it ended too long ago to be remembered"),
            ),
        };
        self.completions.send(token, reply);
    }

    /// Ends the outstanding call `token`: its client is gone.
    pub(super) fn cancel(&mut self, now: Instant, stack: &mut Stack, token: u64) {
        let flow = self.connecting.iter().find(|(_, call)| call.token == token).map(|(flow, _)| *flow);
        if let Some(flow) = flow {
            self.abandon_connect(flow);
            stack.tcp_abort(flow);
            stack.tcp_release(now, flow);
        }
        let ping = self.pinging.iter().find(|(_, waiting)| **waiting == token).map(|(ping, _)| *ping);
        if let Some(ping) = ping {
            self.pinging.remove(&ping);
            stack.ping_cancel(ping);
        }
    }

    // ---- what happens --------------------------------------------------------------------------------------------

    /// A client's descriptor is ready.
    pub(super) fn on_event<E: Egress>(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        egress: &mut E,
        event: &Event,
    ) {
        let Some(key) = event.token().0.checked_sub(TOKEN_FIRST) else { return };
        let hung_up = event.is_read_closed() && event.is_write_closed();
        let Some(entry) = self.sockets.get_mut(key) else { return };
        match &mut entry.socket {
            Socket::Stream(stream) => {
                stream.on_event(
                    now,
                    event.is_readable() || event.is_read_closed(),
                    event.is_writable(),
                    hung_up,
                );
                if hung_up {
                    self.hung_up.insert(key);
                }
                self.pump_stream(now, stack, key);
            }
            Socket::Listener(listener) => {
                listener.writable |= event.is_writable();
                let id = listener.id;
                if hung_up {
                    stack.tcp_close_listener(now, id);
                    self.remove(key);
                } else {
                    self.accept(now, stack, id);
                }
            }
            Socket::Datagrams(datagrams) => {
                datagrams.on_event(event.is_readable() || hung_up);
                self.pump_datagrams(now, stack, egress, key);
            }
        }
    }

    /// The stack has news.
    pub(super) fn on_ready(&mut self, now: Instant, stack: &mut Stack, ready: Ready) {
        match ready {
            Ready::Flow(flow) => {
                if self.connecting.contains_key(&flow) {
                    self.connect_progress(now, stack, flow);
                } else if let Some(key) = self.by_flow.get(&flow).copied() {
                    self.pump_stream(now, stack, key);
                }
            }
            Ready::Listener(listener) => self.accept(now, stack, listener),
            Ready::Udp(udp) => {
                if let Some(key) = self.by_udp.get(&udp)
                    && let Some(Entry { socket: Socket::Datagrams(datagrams), .. }) =
                        self.sockets.get_mut(*key)
                {
                    datagrams.deliver(stack);
                }
            }
            Ready::Ping(ping) => {
                if let Some(result) = stack.ping_result(ping)
                    && let Some(token) = self.pinging.remove(&ping)
                {
                    self.completions.send(token, ping_reply(result));
                }
            }
            Ready::Lease | Ready::Addresses => {}
        }
    }

    /// What is due: connects that took too long, and the bytes of clients that are gone.
    pub(super) fn on_time(&mut self, now: Instant, stack: &mut Stack) {
        while let Some((deadline, flow)) = self.connect_deadlines.first().copied()
            && deadline <= now
        {
            if let Some(call) = self.abandon_connect(flow) {
                let message = "the peer did not answer in time".to_owned();
                self.completions.send(call.token, Reply::Failed(ErrorKind::TimedOut, message));
            }
            stack.tcp_abort(flow);
            stack.tcp_release(now, flow);
        }
        // They move by events; this only notices the ones that do not move, and must not cost a busy worker every turn.
        if now >= self.hung_up_check_at {
            self.hung_up_check_at = now + HUNG_UP_CHECK;
            for key in self.hung_up.clone() {
                self.pump_stream(now, stack, key);
            }
        }
        while let Some((at, key)) = self.throttled.first().copied()
            && at <= now
        {
            self.throttled.pop_first();
            self.unfinished.push(key);
        }
        if std::mem::take(&mut self.released) {
            for listener in std::mem::take(&mut self.starved) {
                self.accept(now, stack, listener);
            }
        }
        if self.generation != self.gate.rules.generation() {
            self.rules_changed(now, stack);
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let connect = self.connect_deadlines.first().map(|(deadline, _)| *deadline);
        let hung_up = (!self.hung_up.is_empty()).then_some(self.hung_up_check_at);
        let throttled = self.throttled.first().map(|(at, _)| *at);
        let unfinished = (!self.unfinished.is_empty() || self.released).then_some(now);
        connect.into_iter().chain(hung_up).chain(throttled).chain(unfinished).min()
    }

    /// A reload put other rules in force. What they no longer allow is refused from now on; what is open stays open, unless
    /// the devnet switch was turned off: then every connection to a peer that a client chose is cut.
    fn rules_changed(&mut self, now: Instant, stack: &mut Stack) {
        self.generation = self.gate.rules.generation();
        let rules = self.gate.rules.current();
        self.ledger.set_limits(rules.limits);
        for (_, entry) in &mut self.sockets {
            if let Socket::Datagrams(datagrams) = &mut entry.socket {
                datagrams.forget_permissions();
            }
        }
        if rules.policy.devnet_enabled() {
            return;
        }
        for (flow, call) in self.connecting.drain().collect::<Vec<_>>() {
            self.connect_deadlines.remove(&(call.deadline, flow));
            self.release(call.owner.uid, STREAM_BYTES);
            self.gate.audit.cut(&call.owner, &Request::TcpConnect { remote: call.remote }, &Rule::Devnet);
            let message = format!("the devnet switch was turned off while connecting to {}", call.remote);
            self.completions.send(call.token, Reply::Failed(ErrorKind::DevnetDisabled, message));
            stack.tcp_abort(flow);
            stack.tcp_release(now, flow);
        }
        let outbound = self.sockets.iter().filter(|(_, entry)| entry.outbound).map(|(key, _)| key);
        for key in outbound.collect::<Vec<_>>() {
            let Some(Entry { owner, socket: Socket::Stream(stream), .. }) = self.sockets.get(key) else {
                continue;
            };
            let flow = stream.flow;
            if let Ok(status) = stack.tcp_status(flow) {
                let request = Request::TcpConnect { remote: status.remote };
                self.gate.audit.cut(owner, &request, &Rule::Devnet);
            }
            self.end_stream(key, StreamEnd::Aborted);
            stack.tcp_abort(flow);
            stack.tcp_release(now, flow);
            self.remove(key);
        }
    }

    /// The device went away, and every socket with it.
    pub(super) fn fail_all(&mut self, reason: &str) {
        for (_, call) in std::mem::take(&mut self.connecting) {
            self.release(call.owner.uid, STREAM_BYTES);
            let reply = Reply::Failed(ErrorKind::DeviceUnavailable, reason.to_owned());
            self.completions.send(call.token, reply);
        }
        self.connect_deadlines.clear();
        for (_, token) in self.pinging.drain() {
            self.completions.send(token, Reply::Failed(ErrorKind::DeviceUnavailable, reason.to_owned()));
        }
        let keys: Vec<usize> = self.sockets.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end_stream(key, StreamEnd::DeviceUnavailable);
            self.remove(key);
        }
    }

    /// The daemon stops: every connection is cut, and told so.
    pub(super) fn close_all(&mut self, stack: &mut Stack) {
        for flow in self.by_flow.keys().chain(self.connecting.keys()) {
            stack.tcp_abort(*flow);
        }
        self.fail_all("netd is stopping");
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    fn connect_progress(&mut self, now: Instant, stack: &mut Stack, flow: FlowId) {
        let Ok(status) = stack.tcp_status(flow) else { return };
        if let Some(end) = status.closed.filter(|_| !status.established) {
            if let Some(call) = self.abandon_connect(flow) {
                let end = stream_end(end);
                let kind = end.error_kind().unwrap_or(ErrorKind::Disconnected);
                self.completions.send(call.token, Reply::Failed(kind, end.to_string()));
            }
            stack.tcp_release(now, flow);
        } else if status.established
            && let Some(call) = self.forget_connect(flow)
        {
            let uid = call.owner.uid;
            match self.add_stream(call.owner, flow, true) {
                Some((key, descriptor)) => {
                    let id = self.sockets[key].id;
                    let (local, remote) = (status.local, status.remote);
                    self.completions.send(call.token, Reply::Stream { id, local, remote, descriptor });
                    self.pump_stream(now, stack, key);
                }
                None => {
                    stack.tcp_abort(flow);
                    stack.tcp_release(now, flow);
                    self.release(uid, STREAM_BYTES);
                    self.completions.send(call.token, out_of_descriptors());
                }
            }
        }
    }

    fn forget_connect(&mut self, flow: FlowId) -> Option<Connecting> {
        let call = self.connecting.remove(&flow)?;
        self.connect_deadlines.remove(&(call.deadline, flow));
        Some(call)
    }

    /// Takes a connect off the books that came to nothing.
    fn abandon_connect(&mut self, flow: FlowId) -> Option<Connecting> {
        let call = self.forget_connect(flow)?;
        self.release(call.owner.uid, STREAM_BYTES);
        Some(call)
    }

    fn release(&mut self, uid: u32, memory_bytes: u64) {
        self.ledger.release(uid, memory_bytes);
        self.released = true;
    }

    /// Hands waiting connections to the listener's client, as many as it may have under way.
    fn accept(&mut self, now: Instant, stack: &mut Stack, id: ListenerId) {
        let Some(listener_key) = self.by_listener.get(&id).copied() else { return };
        loop {
            let Some(Entry { owner, socket: Socket::Listener(listener), .. }) =
                self.sockets.get_mut(listener_key)
            else {
                return;
            };
            match listener.deliver_parked() {
                Delivery::Sent => {}
                // Its hang-up is an event of its own.
                Delivery::Full | Delivery::Gone => return,
            }
            let owner = owner.clone();
            if !stack.tcp_waiting(id).is_ok_and(|waiting| waiting > 0) {
                return;
            }
            // They wait in the backlog for as long as their client may have no more sockets.
            if self.ledger.reserve(now, owner.uid, STREAM_BYTES).is_err() {
                self.starved.insert(id);
                return;
            }
            let uid = owner.uid;
            let Ok(Some(flow)) = stack.tcp_accept(id) else { return self.release(uid, STREAM_BYTES) };
            let (Some((key, descriptor)), Ok(status)) =
                (self.add_stream(owner, flow, false), stack.tcp_status(flow))
            else {
                stack.tcp_abort(flow);
                stack.tcp_release(now, flow);
                return self.release(uid, STREAM_BYTES);
            };
            let accepted =
                Accepted { id: self.sockets[key].id, remote: status.remote, local_port: status.local.port() };
            if let Some(Entry { socket: Socket::Listener(listener), .. }) = self.sockets.get_mut(listener_key)
            {
                listener.park(accepted, descriptor);
            }
            self.pump_stream(now, stack, key);
        }
    }

    fn pump_stream(&mut self, now: Instant, stack: &mut Stack, key: usize) {
        let Some(Entry { socket: Socket::Stream(stream), .. }) = self.sockets.get_mut(key) else {
            self.hung_up.remove(&key);
            return;
        };
        let flow = stream.flow;
        if let Some(outcome) = stream.pump(now, stack) {
            self.record(key, outcome);
            stack.tcp_release(now, flow);
            self.remove(key);
        }
    }

    fn pump_datagrams<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E, key: usize) {
        let Some(Entry { socket: Socket::Datagrams(datagrams), .. }) = self.sockets.get_mut(key) else {
            return;
        };
        let uid = datagrams.owner().uid;
        let budget = match self.ledger.packets(now, uid) {
            Ok(budget) => budget,
            Err(next) => {
                if datagrams.is_readable() {
                    self.throttled.insert((next, key));
                }
                return;
            }
        };
        let (taken, state) = datagrams.collect(now, &self.gate, (stack, egress), &mut self.buffer, budget);
        self.ledger.spend_packets(uid, taken);
        match state {
            State::Idle => {}
            State::Busy => {
                self.unfinished.push(key);
            }
            State::Gone => {
                stack.udp_close(datagrams.id);
                self.remove(key);
            }
        }
    }

    /// Goes on with what had to make room for others. Returns whether there was any.
    pub(super) fn resume<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E) -> bool {
        let unfinished = std::mem::take(&mut self.unfinished);
        for key in &unfinished {
            self.pump_datagrams(now, stack, egress, *key);
        }
        !unfinished.is_empty()
    }

    fn record(&mut self, key: usize, outcome: Outcome) {
        if let Some(entry) = self.sockets.get(key) {
            self.outcomes.record(entry.id, entry.owner.uid, outcome);
        }
    }

    fn end_stream(&mut self, key: usize, end: StreamEnd) {
        if let Some(Entry { socket: Socket::Stream(stream), .. }) = self.sockets.get(key) {
            self.record(key, stream.outcome(end));
        }
    }

    /// The caller has charged it.
    fn add_stream(&mut self, owner: Subject, flow: FlowId, outbound: bool) -> Option<(usize, OwnedFd)> {
        let (ours, theirs) = socketpair(SocketType::STREAM).ok()?;
        let key = self.add(owner, Socket::Stream(Stream::new(ours, flow)), outbound)?;
        self.by_flow.insert(flow, key);
        Some((key, theirs))
    }

    /// Takes a socket in and watches its descriptor. The caller has charged it.
    fn add(&mut self, owner: Subject, socket: Socket, outbound: bool) -> Option<usize> {
        let id = self.next_id;
        self.next_id += 1;
        let key = self.sockets.insert(Entry { id, owner, socket, outbound });
        let descriptor = self.sockets[key].socket.descriptor().as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut SourceFd(&descriptor), Token(TOKEN_FIRST + key), interest).is_err() {
            self.sockets.remove(key);
            return None;
        }
        Some(key)
    }

    /// Lets a socket go; its descriptor closes, which also ends its registration.
    fn remove(&mut self, key: usize) {
        self.hung_up.remove(&key);
        if let Some(entry) = self.sockets.try_remove(key) {
            self.release(entry.owner.uid, entry.socket.memory_bytes());
            self.carried += entry.socket.carried();
            match entry.socket {
                Socket::Stream(stream) => self.by_flow.remove(&stream.flow),
                Socket::Listener(listener) => self.by_listener.remove(&listener.id),
                Socket::Datagrams(datagrams) => self.by_udp.remove(&datagrams.id),
            };
        }
    }
}

/// How often the last bytes of streams that hung up are looked at, beside whenever they move.
const HUNG_UP_CHECK: Duration = Duration::from_secs(1);

/// What sockets can take at the very most: the stack's buffers (`netd_stack::Limits`: 128 KiB per connection, and per UDP
/// socket what it may queue), and the kernel's on both ends of the descriptor.
const STREAM_BYTES: u64 = 128 * 1024 + 2 * KERNEL_BUFFER_BYTES;
const DATAGRAMS_BYTES: u64 = 256 * 1024 + 2 * KERNEL_BUFFER_BYTES;
/// A few records with descriptors, and a client's end that it never writes to.
const LISTENER_BYTES: u64 = 2 * KERNEL_BUFFER_BYTES;

fn quota(exceeded: &Exceeded) -> Reply {
    Reply::Failed(ErrorKind::QuotaExceeded, exceeded.to_string())
}

fn out_of_descriptors() -> Reply {
    Reply::Failed(ErrorKind::NoBufs, "netd has no descriptor left for another socket".to_owned())
}

fn ping_reply(result: Result<netd_stack::PingReply, netd_stack::Error>) -> Reply {
    match result {
        Ok(reply) => Reply::Ping(Pong {
            from: reply.from,
            rtt_us: u64::try_from(reply.rtt.as_micros()).unwrap_or(u64::MAX),
            ttl: reply.ttl,
            bytes: u32::try_from(reply.bytes).unwrap_or(u32::MAX),
        }),
        Err(error) => error_reply(&error),
    }
}
