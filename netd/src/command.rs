//! What the control thread and a worker say to each other.
//!
//! The control thread decides who may do what and speaks with the clients; a worker owns the device, the stack and the
//! sockets. They share nothing: a [`Submission`] goes one way and a [`Completion`] comes back, over bounded queues.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netd_policy::{EtherType, HostName, Rule, Subject, Terms, Tls};

use crate::capture::Filter;

/// A call that policy has let through.
#[derive(Debug)]
pub struct Submission {
    /// The control thread's name for the outstanding call; comes back in its [`Completion`]. Never used twice.
    pub token: u64,
    /// Who asked: what the call creates is charged to it, and `Outcome` is answered to its uid (and root) only.
    pub owner: Subject,
    /// What is to be done.
    pub command: Command,
    /// By what it was let through; without it, whoever carries it out asks again.
    pub decided: Option<Decided>,
}

/// That policy let a call through, and when: it need not be asked again while the same rules are in force.
#[derive(Debug, Clone)]
pub struct Decided {
    /// [`Rules::generation`](crate::rules::Rules::generation) before the rules were looked at, so that they are these or newer ones.
    pub generation: u64,
    /// The rule that it rests on.
    pub rule: Rule,
    /// On what terms.
    pub terms: Terms,
}

/// What a worker can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The daemon's state.
    Status,
    /// The device's state.
    Device,
    /// Switches an offload of the device.
    SetOffload {
        /// Its name in configuration.
        name: String,
        /// Whether it is to be used.
        on: bool,
    },
    /// The interfaces with their addresses.
    Interfaces,
    /// Every client's sockets.
    Sockets,
    /// The neighbours on the link.
    Neighbors,
    /// What was counted.
    Statistics,
    /// Every client's use of its bounds.
    Clients,
    /// Opens a TCP connection; completes once it is established or has failed.
    Connect {
        /// The peer.
        remote: SocketAddr,
        /// How long this may take.
        timeout: Duration,
    },
    /// Opens a TCP connection to an address that a name has; completes likewise.
    ConnectName {
        /// The name.
        name: HostName,
        /// The port.
        port: u16,
        /// How long all of it may take.
        timeout: Duration,
    },
    /// Opens a TCP listener.
    Listen {
        /// The one address; none is all of ours.
        address: Option<IpAddr>,
        /// The port; none lets the worker choose one.
        port: Option<u16>,
        /// Connections that may wait for the client.
        backlog: usize,
    },
    /// Opens a UDP socket.
    BindUdp {
        /// The one address; none is all of ours.
        address: Option<IpAddr>,
        /// The port; none lets the worker choose one.
        port: Option<u16>,
    },
    /// Sends one ICMP echo request and waits for its answer.
    Ping {
        /// The peer.
        to: IpAddr,
        /// How long to wait.
        timeout: Duration,
        /// Payload.
        bytes: usize,
    },
    /// Sets options of a TCP connection.
    TcpOptions {
        /// The id from [`Reply::Stream`].
        id: u64,
        /// What is to be set.
        options: netd_ipc::TcpOptions,
    },
    /// Sets options of a UDP socket.
    UdpOptions {
        /// The id from [`Reply::Udp`].
        id: u64,
        /// What is to be set.
        options: netd_ipc::UdpOptions,
    },
    /// Resolves a name.
    Resolve {
        /// A name, or an address.
        name: String,
        /// What of it.
        kind: netd_ipc::RecordKind,
    },
    /// Changes how the worker waits for frames.
    SetPoll {
        /// From now on.
        mode: netd_ipc::PollMode,
    },
    /// Copies frames to a descriptor.
    Capture {
        /// Which.
        filter: Filter,
        /// How much of each.
        snap_bytes: usize,
    },
    /// Opens raw frames.
    OpenFrames {
        /// Of which type.
        ether_type: EtherType,
    },
    /// Says how a stream ended.
    Outcome {
        /// The id from [`Reply::Stream`].
        id: u64,
    },
    /// The client of the outstanding call `token` is gone: stop it and release what it made. No completion is owed; one
    /// that is already under way is dropped by the control thread, and its descriptor closes with it.
    Cancel,
}

/// Why a command failed: an error of the interface, and a sentence for the person who reads it.
#[derive(Debug)]
pub struct Failure(pub netd_ipc::ErrorKind, pub String);

impl From<Failure> for Reply {
    fn from(Failure(kind, message): Failure) -> Reply {
        Reply::Failed(kind, message)
    }
}

/// What a worker answers.
#[derive(Debug)]
pub enum Reply {
    /// To [`Command::Status`].
    Status(netd_ipc::Status),
    /// To [`Command::Device`] and [`Command::SetOffload`].
    Device(netd_ipc::Device),
    /// To [`Command::Interfaces`].
    Interfaces(Vec<netd_ipc::Interface>),
    /// To [`Command::Sockets`].
    Sockets(Vec<netd_ipc::Socket>),
    /// To [`Command::Neighbors`].
    Neighbors(Vec<netd_ipc::Neighbor>),
    /// To [`Command::Statistics`].
    Statistics(netd_ipc::Statistics),
    /// To [`Command::Clients`]; the control thread adds its connections.
    Clients(netd_ipc::Clients),
    /// To [`Command::Connect`] and [`Command::ConnectName`]: an established connection.
    Stream {
        /// Its id, never used twice. Ids begin at a random number, so that a client whose stream ended with a former
        /// daemon is told `InvalidSocket`, and not the outcome of somebody else's stream. Below 2^53, which every reader
        /// of JSON can hold (RFC 8259, 6).
        id: u64,
        /// Its own end.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// What allowed it.
        rule: String,
        /// What it must begin with, if it was asked for by name.
        tls: Option<Tls>,
        /// The client's end of a SOCK_STREAM socketpair.
        descriptor: OwnedFd,
    },
    /// To [`Command::Listen`].
    Listener {
        /// Its id.
        id: u64,
        /// Where it listens.
        local: SocketAddr,
        /// The client's end of a SOCK_SEQPACKET socketpair that delivers [`netd_ipc::accepted`] records.
        descriptor: OwnedFd,
    },
    /// To [`Command::BindUdp`].
    Udp {
        /// Its id.
        id: u64,
        /// Where it is bound.
        local: SocketAddr,
        /// The client's end of a SOCK_SEQPACKET socketpair that carries [`netd_ipc::datagram`] messages.
        descriptor: OwnedFd,
    },
    /// To [`Command::Ping`].
    Ping(netd_ipc::Pong),
    /// To [`Command::TcpOptions`].
    Done,
    /// To [`Command::UdpOptions`]: of a socket that got a peer, its own end towards that one.
    UdpSet(Option<SocketAddr>),
    /// To [`Command::Resolve`].
    Resolved(Box<netd_ipc::Resolved>),
    /// To [`Command::SetPoll`]: the mode before.
    Poll(netd_ipc::PollMode),
    /// To [`Command::Capture`]: the client's end of a SOCK_STREAM socketpair that delivers pcapng.
    Capture(OwnedFd),
    /// To [`Command::OpenFrames`].
    Frames {
        /// Their id.
        id: u64,
        /// What they come from.
        mac: [u8; 6],
        /// What they carry at most.
        mtu: usize,
        /// The client's end of a SOCK_SEQPACKET socketpair that carries [`netd_ipc::frames`].
        descriptor: OwnedFd,
    },
    /// To [`Command::Outcome`].
    Outcome(netd_ipc::Outcome),
    /// The command failed, with an error of the interface and a sentence for the person who reads it.
    Failed(netd_ipc::ErrorKind, String),
}

/// An answer and the call it belongs to.
#[derive(Debug)]
pub struct Completion {
    /// From the [`Submission`].
    pub token: u64,
    /// The answer.
    pub reply: Reply,
}

/// A worker has as many submissions before it as it may have, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// The control thread's side of the queues between it and a worker.
///
/// Whoever implements it wakes the control thread after it queued completions, through a [`mio::Waker`] registered with
/// [`crate::control::WAKER`] on the poll that [`crate::control::run`] is given.
pub trait WorkerPort {
    /// Hands a submission over without blocking. The worker looks at it once it is [woken](WorkerPort::wake), if not before.
    ///
    /// # Errors
    /// The queue is full.
    fn submit(&self, submission: Submission) -> Result<(), QueueFull>;

    /// Wakes the worker, once for any number of submissions.
    fn wake(&self);

    /// Takes every completion that is there, without blocking.
    fn completions(&self) -> impl Iterator<Item = Completion>;
}
