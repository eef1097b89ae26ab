//! One connection as its owner sees it: how far it is, how it ended, and when it may be forgotten.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use serde::Serialize;
use smoltcp::socket::tcp::State;

use super::engine::Connection;
use super::segment::Tuple;
use crate::config::Limits;
use crate::icmp::IcmpError;
use crate::ip;
use crate::time::Instant;
use crate::timers::Armed;

/// How long unacknowledged octets are retransmitted without hearing anything from the peer (RFC 9293, 3.8.3: R2 of at least
/// 100 seconds).
pub(crate) const GIVE_UP: Duration = Duration::from_secs(120);
/// How long a SYN is retransmitted (RFC 9293, 3.8.3: R2 of at least 3 minutes); whoever connects may give up sooner.
const GIVE_UP_CONNECT: Duration = Duration::from_secs(180);
/// How long a connection without an owner may take to finish closing: Linux's `tcp_fin_timeout`.
pub(crate) const LINGER: Duration = Duration::from_secs(60);
/// The shortest time between two keepalives.
const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The engine discards unread data when its TIME-WAIT ends, 10 seconds after it began; it is not driven beyond this.
const TIME_WAIT_DRIVEN: Duration = Duration::from_millis(9_900);

/// RFC 9293, 3.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[expect(missing_docs, reason = "the states have the names of RFC 9293")]
pub enum FlowState {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Outcome {
    /// Both sides finished and acknowledged it: everything sent arrived, and everything received was complete.
    Finished,
    /// The peer answered our SYN with a reset.
    ConnectionRefused,
    /// The peer reset the connection: what was in flight either way may be lost.
    ConnectionReset,
    /// The peer stopped answering.
    TimedOut,
    /// The network said that there is no way, or our address is gone.
    Unreachable,
    /// By our own side.
    Aborted,
    /// A contained defect of the TCP engine.
    EngineFault,
    /// The device is gone.
    DeviceUnavailable,
}

/// What can be said about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowStatus {
    /// Where it is.
    pub state: FlowState,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Whether the handshake has completed, however it ended since.
    pub established: bool,
    /// Octets that can be received now.
    pub readable: usize,
    /// Octets that can be sent now.
    pub writable: usize,
    /// Octets that the peer has not acknowledged yet.
    pub unacknowledged: usize,
    /// End of file: the peer finished, and everything it sent was received.
    pub receive_finished: bool,
    /// How it ended, once it has.
    pub closed: Option<Outcome>,
    /// What the network said last about something that was sent, and who said so: why a connection is not established, or what was
    /// in its way for a while (RFC 1122, 4.2.3.9).
    pub error: Option<(IcmpError, IpAddr)>,
}

/// Who is responsible for a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// A listener, while the handshake goes on and until it is accepted.
    Handshake {
        listener: u64,
    },
    Backlog {
        listener: u64,
    },
    Owned,
    /// Nobody: it finishes closing and vanishes.
    Released,
}

/// Asking an idle peer whether it is there (RFC 9293, 3.8.4).
pub(crate) struct Keepalive {
    idle: Option<Duration>,
    interval: Duration,
    probes: u8,
    /// How many have been sent since the peer was heard.
    sent: u8,
    last: Instant,
}

impl Keepalive {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Keepalive {
        let Limits { keepalive, keepalive_interval, keepalive_probes, .. } = *limits;
        Keepalive {
            idle: keepalive,
            interval: keepalive_interval.max(KEEPALIVE_INTERVAL_MIN),
            probes: keepalive_probes,
            sent: 0,
            last: now,
        }
    }
}

pub(crate) struct Flow {
    /// Who is charged for it, also when it closes alone.
    pub(crate) owner: u32,
    pub(crate) tuple: Tuple,
    /// `None` once there is nothing left to drive or to read.
    pub(crate) connection: Option<Connection>,
    pub(crate) stage: Stage,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) established: bool,
    /// The owner finished before the handshake did.
    pub(crate) finish_wanted: bool,
    /// The owner finished its sending side.
    pub(crate) finished: bool,
    /// Whether the flow is in the table by its tuple.
    pub(crate) linked: bool,
    /// Whether the flow is in the queue of those to be driven.
    pub(crate) dirty: bool,
    /// Whether the engine was aborted and has not sent its reset yet.
    pub(crate) owes_reset: bool,
    /// Whether the flow is in the queue of those in TIME-WAIT.
    pub(crate) queued_time_wait: bool,
    pub(crate) armed: Armed,
    /// When the handshake of a listener's flow, or the closing of a released one, has taken too long.
    pub(crate) expires: Option<Instant>,
    /// How long the flow may take to finish closing once it is released.
    pub(crate) linger: Duration,
    /// Of what is sent for it.
    pub(crate) hop_limit: u8,
    /// What the network said last about something that was sent, and who said so.
    pub(crate) error: Option<(IcmpError, IpAddr)>,
    keepalive: Keepalive,
    last_heard: Instant,
    waiting_since: Option<Instant>,
    time_wait_since: Option<Instant>,
    /// What the owner was told last.
    told: Option<(State, usize, usize, Option<Outcome>)>,
}

impl Flow {
    pub(crate) fn new(connection: Connection, stage: Stage, keepalive: Keepalive, now: Instant) -> Flow {
        Flow {
            owner: 0,
            tuple: connection.tuple(),
            connection: Some(connection),
            stage,
            outcome: None,
            established: false,
            finish_wanted: false,
            finished: false,
            linked: true,
            dirty: false,
            owes_reset: false,
            queued_time_wait: false,
            armed: Armed::default(),
            expires: None,
            linger: LINGER,
            hop_limit: ip::TTL,
            error: None,
            keepalive,
            last_heard: now,
            waiting_since: None,
            time_wait_since: None,
            told: None,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.connection.as_ref().map_or(State::Closed, Connection::state)
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.keepalive.sent = 0;
    }

    pub(crate) fn set_keepalive(&mut self, idle: Option<Duration>) {
        self.keepalive.idle = idle;
        self.keepalive.sent = 0;
    }

    /// When the next keepalive is due, or has been given up: only while nothing else would find out about a dead peer.
    pub(crate) fn keepalive_due(&self) -> Option<Instant> {
        let idle = self.keepalive.idle?;
        let connection = self.connection.as_ref().filter(|connection| connection.unacknowledged() == 0)?;
        let open = matches!(connection.state(), State::Established | State::CloseWait | State::FinWait2);
        let due = match self.keepalive.sent {
            0 => self.last_heard + idle,
            _ => self.keepalive.last + self.keepalive.interval,
        };
        (open && self.outcome.is_none()).then_some(due)
    }

    pub(crate) fn keepalive_sent(&mut self, now: Instant) {
        self.keepalive.sent += 1;
        self.keepalive.last = now;
    }

    /// Whether the peer has left every keepalive unanswered.
    pub(crate) fn is_keepalive_exhausted(&self, now: Instant) -> bool {
        self.keepalive.sent >= self.keepalive.probes && self.keepalive_due().is_some_and(|due| now >= due)
    }

    /// Draws the conclusions from a change of the engine's state since `before`; `reset` if a RST was the cause.
    pub(crate) fn observe(&mut self, now: Instant, before: State, reset: bool) {
        let after = self.state();
        if !matches!(after, State::Listen | State::SynSent | State::SynReceived | State::Closed) {
            self.established = true;
        }
        if after == before {
            return;
        }
        let ended = match (before, after) {
            (_, State::TimeWait) => Some(Outcome::Finished),
            (State::SynSent | State::SynReceived, State::Closed | State::Listen) => {
                Some(Outcome::ConnectionRefused)
            }
            (State::LastAck, State::Closed) if !reset => Some(Outcome::Finished),
            (_, State::Closed) => Some(Outcome::ConnectionReset),
            _ => None,
        };
        if let Some(outcome) = ended {
            self.outcome.get_or_insert(outcome);
        }
        if after == State::TimeWait {
            self.time_wait_since.get_or_insert(now);
        }
        if self.established && self.finish_wanted {
            self.finish_wanted = false;
            if let Some(connection) = &mut self.connection {
                connection.finish();
            }
        }
    }

    /// Whether the peer has left something unanswered for too long. Called whenever one of the flow's timers fires, and the
    /// engine's retransmission timer fires at least once a minute.
    pub(crate) fn is_given_up(&mut self, now: Instant) -> bool {
        let Some(connection) = &self.connection else { return false };
        let waits_for_control = matches!(
            connection.state(),
            State::SynSent | State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
        );
        if !waits_for_control && connection.unacknowledged() == 0 {
            self.waiting_since = None;
            return false;
        }
        let limit = if connection.state() == State::SynSent { GIVE_UP_CONNECT } else { GIVE_UP };
        let since = *self.waiting_since.get_or_insert(now);
        now >= since.max(self.last_heard) + limit
    }

    /// Whether driving the engine would lose data that the owner has not read: its TIME-WAIT is over.
    pub(crate) fn is_time_wait_over(&self, now: Instant) -> bool {
        let unread = self.connection.as_ref().is_some_and(|connection| connection.readable() > 0);
        unread && self.time_wait_since.is_some_and(|since| now >= since + TIME_WAIT_DRIVEN)
    }

    /// Ends the flow with a reset; in SYN-SENT there is nothing to reset (RFC 9293, 3.10.5).
    pub(crate) fn abort(&mut self, outcome: Outcome) {
        if self.state() == State::SynSent {
            return self.kill(outcome);
        }
        self.outcome.get_or_insert(outcome);
        if let Some(connection) = &mut self.connection {
            connection.abort();
            self.owes_reset = true;
        }
    }

    /// Ends the flow at once and in silence.
    pub(crate) fn kill(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.connection = None;
    }

    /// Whether anything changed that the owner has not been told.
    pub(crate) fn has_news(&mut self) -> bool {
        let (readable, writable) = self
            .connection
            .as_ref()
            .map_or((0, 0), |connection| (connection.readable(), connection.writable()));
        let current = Some((self.state(), readable, writable, self.outcome));
        core::mem::replace(&mut self.told, current) != current
    }

    pub(crate) fn status(&self) -> FlowStatus {
        let state = match self.state() {
            State::Closed | State::Listen => FlowState::Closed,
            State::SynSent => FlowState::SynSent,
            State::SynReceived => FlowState::SynReceived,
            State::Established => FlowState::Established,
            State::FinWait1 => FlowState::FinWait1,
            State::FinWait2 => FlowState::FinWait2,
            State::CloseWait => FlowState::CloseWait,
            State::Closing => FlowState::Closing,
            State::LastAck => FlowState::LastAck,
            State::TimeWait => FlowState::TimeWait,
        };
        let (readable, writable, fin) = self.connection.as_ref().map_or((0, 0, false), |connection| {
            (connection.readable(), connection.writable(), connection.fin_received())
        });
        FlowStatus {
            state,
            local: self.tuple.local.into(),
            remote: self.tuple.remote.into(),
            established: self.established,
            readable,
            writable: if self.finished || self.finish_wanted { 0 } else { writable },
            unacknowledged: self.connection.as_ref().map_or(0, Connection::unacknowledged),
            receive_finished: fin && readable == 0,
            closed: self.outcome,
            error: self.error,
        }
    }
}
