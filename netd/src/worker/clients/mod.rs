//! Everything that clients own: their sockets, and their calls that wait for the network.
//!
//! A socket lives here under a key (its token in the worker's poll), and is found by the stack's id for it as well. It
//! ends when its client's last descriptor is closed, when its connection ends, or with the device. This file keeps the books;
//! `calls` is what clients ask for, `dial` connections that are asked for by name, `events` what happens to their sockets, `cut` how they
//! end otherwise.

mod calls;
mod cut;
mod dial;
mod events;
mod frames;
mod options;

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, mpsc};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netd_ipc::{ErrorKind, Outcome, StreamEnd};
use netd_policy::{EtherType, HostName, Request, Rule, Subject, Terms, Tls};
use netd_stack::{FlowId, Instant, ListenerId, PingId, Stack, UdpId};
use rustix::net::SocketType;
use slab::Slab;

use crate::command::{Completion, Reply};
use crate::disposal::Disposal;
use crate::worker::carried::{Carried, Flow};
use crate::worker::clients::dial::Dial;
use crate::worker::datagram::{Datagrams, Gate, MESSAGE_BYTES_MAX};
use crate::worker::frames::Frames;
use crate::worker::ledger::Ledger;
use crate::worker::listener::Listener;
use crate::worker::messages::Messages;
use crate::worker::outcome::Outcomes;
use crate::worker::stream::Stream;
use crate::worker::{KERNEL_BUFFER_BYTES, TOKEN_FIRST, socketpair};

/// A socket and who made it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) owner: Subject,
    pub(super) socket: Socket,
    /// The client asked for it by naming a peer, and may have it because of this; otherwise a listener accepted it.
    outbound: Option<Agreed>,
}

/// What a connection is allowed by.
#[derive(Debug, Clone)]
struct Agreed {
    /// The name, if that is what the client asked for.
    name: Option<HostName>,
    rule: Rule,
    terms: Terms,
}

impl Agreed {
    /// What policy is asked about the connection to `remote`.
    fn request(&self, remote: SocketAddr) -> Request {
        match &self.name {
            None => Request::TcpConnect { remote },
            Some(name) => Request::TcpConnectName {
                name: name.clone(),
                port: remote.port(),
                address: Some(remote.ip()),
            },
        }
    }

    /// The name that its first bytes must be for.
    fn shown(&self) -> Option<HostName> {
        self.name.clone().filter(|_| self.terms == Terms::Tls)
    }

    /// In the words of the interface.
    fn tls(&self) -> Option<Tls> {
        let tls = if self.terms == Terms::Tls { Tls::Required } else { Tls::Any };
        self.name.as_ref().map(|_| tls)
    }
}

impl Entry {
    /// The name that its connection was asked for by.
    pub(super) fn name(&self) -> Option<&HostName> {
        self.outbound.as_ref()?.name.as_ref()
    }

    /// What policy would be asked if it were opened now; none for a connection that is over.
    fn request(&self, stack: &Stack) -> Option<Request> {
        Some(match &self.socket {
            Socket::Stream(stream) => {
                let status = stack.tcp_status(stream.flow).ok()?;
                match &self.outbound {
                    Some(agreed) => agreed.request(status.remote),
                    None => Request::TcpListen { port: Some(status.local.port()) },
                }
            }
            Socket::Listener(listener) => Request::TcpListen { port: Some(listener.local.port()) },
            Socket::Datagrams(datagrams) => Request::UdpBind { port: Some(datagrams.local.port()) },
            Socket::Frames(frames) => Request::Raw { ether_type: frames.ether_type },
        })
    }
}

/// A socket in a client's hands.
#[derive(Debug)]
pub(super) enum Socket {
    Stream(Stream),
    Listener(Listener),
    Datagrams(Box<Datagrams>),
    Frames(Box<Frames>),
}

impl Socket {
    fn descriptor(&self) -> &OwnedFd {
        match self {
            Socket::Stream(stream) => stream.descriptor(),
            Socket::Listener(listener) => listener.descriptor(),
            Socket::Datagrams(datagrams) => datagrams.messages.descriptor(),
            Socket::Frames(frames) => frames.messages.descriptor(),
        }
    }

    /// Whether there is nothing in it, and can be nothing, whose closing may block.
    fn is_drained(&self) -> bool {
        match self {
            Socket::Stream(stream) => stream.is_drained(),
            // Rare enough for the closing thread.
            Socket::Listener(_) | Socket::Datagrams(_) | Socket::Frames(_) => false,
        }
    }

    /// Everything that is to be closed.
    fn into_descriptors(self) -> Vec<OwnedFd> {
        match self {
            Socket::Stream(stream) => stream.into_descriptors(),
            Socket::Listener(listener) => listener.into_descriptors(),
            Socket::Datagrams(datagrams) => datagrams.messages.into_descriptors(),
            Socket::Frames(frames) => frames.messages.into_descriptors(),
        }
    }

    /// What the client writes to it, if that is whole messages.
    fn messages(&self) -> Option<&Messages> {
        match self {
            Socket::Datagrams(datagrams) => Some(&datagrams.messages),
            Socket::Frames(frames) => Some(&frames.messages),
            Socket::Stream(_) | Socket::Listener(_) => None,
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
            Socket::Frames(frames) => Carried {
                received: Flow::frames(frames.received_bytes, frames.received),
                sent: Flow::frames(frames.sent_bytes, frames.sent),
            },
        }
    }

    /// What it can take at the very most.
    fn memory_bytes(&self, datagrams_bytes: u64) -> u64 {
        match self {
            Socket::Stream(_) => STREAM_BYTES,
            Socket::Listener(_) => LISTENER_BYTES,
            Socket::Datagrams(_) => datagrams_bytes,
            Socket::Frames(_) => FRAMES_BYTES,
        }
    }
}

/// A connection that waits for its handshake, for a Connect or, with others, for a [`dial::Dial`].
#[derive(Debug)]
struct Connecting {
    token: u64,
    owner: Subject,
    remote: SocketAddr,
    deadline: Instant,
    agreed: Agreed,
}

/// The way back to the control thread.
#[derive(Debug)]
pub(super) struct Completions {
    sender: mpsc::Sender<Completion>,
    waker: Arc<mio::Waker>,
    /// Some were sent since the control thread was woken.
    unannounced: Cell<bool>,
}

impl Completions {
    /// The queue holds at most one completion per outstanding call, whose number the control thread bounds.
    pub(super) fn new(sender: mpsc::Sender<Completion>, waker: Arc<mio::Waker>) -> Self {
        Self { sender, waker, unannounced: Cell::new(false) }
    }

    pub(super) fn send(&self, token: u64, reply: Reply) {
        // Fails only when the control thread is gone, and with it whoever would be interested.
        if self.sender.send(Completion { token, reply }).is_ok() {
            self.unannounced.set(true);
        }
    }

    /// Wakes the control thread, once for everything that a turn has completed: it would take the processor, if it has the same
    /// one, after each of them.
    pub(super) fn announce(&self) {
        if self.unannounced.replace(false) {
            // Fails as above.
            let _ = self.waker.wake();
        }
    }
}

/// What is given back once a socket is closed.
#[derive(Debug)]
pub(super) struct Charge {
    owner: Subject,
    memory_bytes: u64,
}

/// All clients' sockets and calls.
#[derive(Debug)]
pub(super) struct Clients {
    registry: Registry,
    gate: Gate,
    generation: u64,
    pub(super) ledger: Ledger,
    pub(super) completions: Completions,
    /// Closes our ends of what clients held; the charge is a socket's memory.
    disposal: Disposal<Charge>,
    sockets: Slab<Entry>,
    by_flow: HashMap<FlowId, usize>,
    by_listener: HashMap<ListenerId, usize>,
    by_udp: HashMap<UdpId, usize>,
    /// By the types of raw frames that somebody has.
    by_type: HashMap<EtherType, usize>,
    connecting: HashMap<FlowId, Connecting>,
    connect_deadlines: BTreeSet<(Instant, FlowId)>,
    /// Calls for connections by name, by their tokens.
    dials: HashMap<u64, Dial>,
    /// When each of them has something to do.
    dial_timers: BTreeSet<(Instant, u64)>,
    /// Those that ended while their name was being resolved.
    given_up: Vec<u64>,
    pinging: HashMap<PingId, u64>,
    /// Streams whose descriptor has hung up and whose last bytes are on their way.
    hung_up: BTreeSet<usize>,
    /// When they are looked at next.
    hung_up_check_at: Instant,
    /// Sockets whose client had more to move than one turn allows.
    unfinished: Vec<usize>,
    /// Sockets whose client has moved as much as it may, and when it may go on.
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
    /// What a UDP socket can take at the very most: what the stack and the kernel queue for it.
    datagrams_bytes: u64,
    buffer: Vec<u8>,
}

impl Clients {
    /// `first_id` is where the ids of sockets begin. A random number, so that a client of a daemon that was restarted is
    /// never told the end of somebody else's stream.
    pub(super) fn new(
        registry: Registry,
        gate: Gate,
        completions: Completions,
        disposal: Disposal<Charge>,
        (listeners_max, udp_queue_bytes): (usize, usize),
        first_id: u64,
    ) -> Self {
        let generation = gate.rules.generation();
        let rules = gate.rules.current();
        let mut ledger = Ledger::new(rules.limits);
        ledger.set_quotas(rules.policy.quotas().clone());
        Self {
            registry,
            gate,
            generation,
            ledger,
            completions,
            disposal,
            sockets: Slab::new(),
            by_flow: HashMap::new(),
            by_listener: HashMap::new(),
            by_udp: HashMap::new(),
            by_type: HashMap::new(),
            connecting: HashMap::new(),
            connect_deadlines: BTreeSet::new(),
            dials: HashMap::new(),
            dial_timers: BTreeSet::new(),
            given_up: Vec::new(),
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
            datagrams_bytes: udp_queue_bytes as u64 + 2 * KERNEL_BUFFER_BYTES,
            buffer: vec![0; MESSAGE_BYTES_MAX],
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.sockets.iter().map(|(_, entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Datagrams and frames that clients did not take in time, or that made no sense.
    pub(super) fn overflowed(&self) -> u64 {
        let lost = |entry: &Entry| match &entry.socket {
            Socket::Datagrams(datagrams) => datagrams.overflowed,
            Socket::Frames(frames) => frames.dropped,
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

    fn forget_connect(&mut self, flow: FlowId) -> Option<Connecting> {
        let call = self.connecting.remove(&flow)?;
        self.connect_deadlines.remove(&(call.deadline, flow));
        Some(call)
    }

    /// Takes a connect off the books that came to nothing.
    fn abandon_connect(&mut self, flow: FlowId) -> Option<Connecting> {
        let call = self.forget_connect(flow)?;
        self.release(&call.owner, STREAM_BYTES);
        Some(call)
    }

    fn release(&mut self, owner: &Subject, memory_bytes: u64) {
        self.ledger.release(owner, memory_bytes);
        self.released = true;
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
    fn add_stream(
        &mut self,
        owner: Subject,
        flow: FlowId,
        outbound: Option<Agreed>,
    ) -> Option<(usize, OwnedFd)> {
        let (ours, theirs) = socketpair(SocketType::STREAM).ok()?;
        let stream = Stream::new(ours, flow, outbound.as_ref().and_then(Agreed::shown));
        let key = self.add(owner, Socket::Stream(stream), outbound)?;
        self.by_flow.insert(flow, key);
        Some((key, theirs))
    }

    /// Takes a socket in and watches its descriptor. The caller has charged it.
    fn add(&mut self, owner: Subject, socket: Socket, outbound: Option<Agreed>) -> Option<usize> {
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

    /// Lets a socket go. What cannot block is closed at once; for the rest a closing thread does it, and until then the socket stays
    /// charged to its owner.
    fn remove(&mut self, key: usize) {
        self.hung_up.remove(&key);
        if let Some(Entry { owner, socket, .. }) = self.sockets.try_remove(key) {
            self.carried += socket.carried();
            match &socket {
                Socket::Stream(stream) => self.by_flow.remove(&stream.flow),
                Socket::Listener(listener) => self.by_listener.remove(&listener.id),
                Socket::Datagrams(datagrams) => self.by_udp.remove(&datagrams.id),
                Socket::Frames(frames) => self.by_type.remove(&frames.ether_type),
            };
            let memory_bytes = socket.memory_bytes(self.datagrams_bytes);
            if socket.is_drained() {
                // Its last copy is ours, so that closing takes it out of the poll as well (epoll(7)).
                drop(socket);
                return self.release(&owner, memory_bytes);
            }
            // Before the key is another socket's. Closing will do it again, should this fail.
            let _ = self.registry.deregister(&mut SourceFd(&socket.descriptor().as_raw_fd()));
            self.disposal.close(owner.uid, Charge { owner, memory_bytes }, socket.into_descriptors());
        }
    }

    /// Gives back what was charged for sockets that are closed by now.
    pub(super) fn settle(&mut self) {
        while let Some((_, Charge { owner, memory_bytes })) = self.disposal.next_closed() {
            self.release(&owner, memory_bytes);
        }
    }
}

/// What a connection can take at the very most: the stack's buffers (`netd_stack::Limits`: 128 KiB), and the kernel's on both
/// ends of the descriptor.
const STREAM_BYTES: u64 = 128 * 1024 + 2 * KERNEL_BUFFER_BYTES;
/// A few records with descriptors, and a client's end that it never writes to.
const LISTENER_BYTES: u64 = 2 * KERNEL_BUFFER_BYTES;
/// What the kernel queues on both ends of the descriptor.
const FRAMES_BYTES: u64 = 2 * KERNEL_BUFFER_BYTES;

fn out_of_descriptors() -> Reply {
    Reply::Failed(ErrorKind::NoBufs, "netd has no descriptor left for another socket".to_owned())
}
