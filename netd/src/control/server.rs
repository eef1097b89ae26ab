//! The loop: accepts clients, drives their connections, and carries calls to the worker and replies back.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use netd_ipc::ErrorKind;
use netd_ipc::call::{BadCall, Call, Request};
use netd_ipc::passing;
use netd_ipc::server::Peer;
use netd_policy::{Decision, Subject};

use super::connection::{Connection, Gone, Outstanding};
use super::plan::{Plan, Todo, plan};
use super::policy::{self, Wrong};
use super::reply::{self, Message};
use super::share::{Held, Share, idle_client};
use super::{Error, WAKER};
use crate::audit::Audit;
use crate::command::{Command, Completion, Decided, Reply, Submission, WorkerPort};
use crate::disposal::Disposal;
use crate::log::LogLevel;
use crate::rules::Rules;

/// Connections that were turned away and are not closed yet; beyond, they wait in the listener's backlog. They count towards
/// nothing else: a user that floods must not use up what others may have.
const TURNED_AWAY_MAX: usize = 64;
/// Requests that one connection is served before it is another one's turn.
const REQUESTS_PER_TURN: usize = 16;
/// Events per wait.
const EVENTS: usize = 256;
/// How often stalled clients are looked at, and accepting is tried again after the process ran out of descriptors.
const TICK: Duration = Duration::from_secs(1);

/// The listener's token. Connections have the numbers after it, each used once.
const LISTENER: Token = Token(WAKER.0 + 1);

/// What the control thread is made from.
pub struct Setup {
    /// Where clients connect.
    pub listener: UnixListener,
    /// Who may do what, and how much.
    pub rules: Arc<Rules>,
    /// Told of what was denied.
    pub audit: Arc<Audit>,
    /// The log, whose filter a client may change.
    pub log: LogLevel,
    /// The poll on which the caller registered the worker's waker with [`WAKER`].
    pub poll: mio::Poll,
    /// That waker.
    pub waker: Arc<mio::Waker>,
}

/// Serves clients until `shutdown` is set (and the waker called). The socket's file is removed at the end.
///
/// # Errors
/// The listener cannot be watched, or waiting fails; no client can cause that.
pub fn run(setup: Setup, port: impl WorkerPort, shutdown: &AtomicBool) -> Result<(), Error> {
    let Setup { listener, rules, audit, log, poll, waker } = setup;
    listener.set_nonblocking(true).map_err(Error::Poll)?;
    poll.registry()
        .register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)
        .map_err(Error::Poll)?;
    let disposal = Disposal::start(waker).map_err(Error::Thread)?;
    let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(ToOwned::to_owned));
    let mut server = Server {
        listener,
        rules,
        audit,
        log,
        port,
        poll,
        disposal,
        connections: HashMap::new(),
        calls: HashMap::new(),
        per_uid: HashMap::new(),
        total: Share::default(),
        next_connection: LISTENER.0 + 1,
        next_call: 0,
        ready: Vec::new(),
        submitted: false,
        stalled: false,
        stalls_checked: Instant::now(),
        accepting: Accepting::WhenTold,
    };
    let result = server.serve(shutdown);
    server.close_all();
    if let Some(path) = path {
        // Somebody else may have removed it; there is nothing to be done about it now.
        let _ = std::fs::remove_file(path);
    }
    result
}

/// When to call accept(2) next. Events tell of a new client only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    /// At the next event of the listener.
    WhenTold,
    /// Some may wait already.
    Now,
    /// Some wait; at the next tick, or once a connection was closed.
    Later,
}

struct Server<P> {
    listener: UnixListener,
    rules: Arc<Rules>,
    audit: Arc<Audit>,
    log: LogLevel,
    port: P,
    poll: mio::Poll,
    disposal: Disposal<Held>,
    connections: HashMap<Token, Connection>,
    /// Calls that the worker has, with the connection of each.
    calls: HashMap<u64, Token>,
    /// What each user has that is not closed yet.
    per_uid: HashMap<u32, Share>,
    /// The sum of that.
    total: Share,
    next_connection: usize,
    next_call: u64,
    /// Connections that have more to do than one turn allows.
    ready: Vec<Token>,
    /// The worker has not been woken for what it was given.
    submitted: bool,
    /// Some client has not taken its reply.
    stalled: bool,
    /// When those were looked at.
    stalls_checked: Instant,
    accepting: Accepting,
}

impl<P: WorkerPort> Server<P> {
    fn serve(&mut self, shutdown: &AtomicBool) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS);
        while !shutdown.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Poll(error)),
            }
            self.count_closed();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.accepting = Accepting::Now,
                    // EPOLLHUP: the client's end is closed, and not merely its writing side shut.
                    token if event.is_write_closed() => self.retire(token, Gone::Closed),
                    token => {
                        if let Some(connection) = self.connections.get_mut(&token) {
                            connection.on_event(event.is_readable(), event.is_read_closed());
                        }
                        self.drive(token);
                    }
                }
            }
            self.take_completions();
            for token in std::mem::take(&mut self.ready) {
                self.drive(token);
            }
            self.check_stalls();
            self.wake_worker();
            if self.accepting != Accepting::WhenTold {
                self.accept();
            }
        }
        Ok(())
    }

    /// Tells the worker of everything that a turn has given it.
    fn wake_worker(&mut self) {
        if std::mem::take(&mut self.submitted) {
            self.port.wake();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || self.accepting == Accepting::Now {
            return Some(Duration::ZERO);
        }
        let ticking = self.accepting == Accepting::Later || self.stalled;
        ticking.then_some(TICK)
    }

    fn accept(&mut self) {
        self.accepting = Accepting::WhenTold;
        loop {
            if self.total.turned_away >= TURNED_AWAY_MAX {
                self.accepting = Accepting::Later;
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; trying again");
                    self.accepting = Accepting::Later;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let subject = match Peer::of(&stream) {
            Ok(peer) => policy::subject(peer),
            Err(error) => return tracing::warn!(%error, "a client without credentials is turned away"),
        };
        let uid = subject.uid;
        if let Err(error) = passing::take_urgent_inline(&stream) {
            return tracing::warn!(%error, uid, "a client's socket cannot be set up, and it is turned away");
        }
        let limits = self.rules.current().limits;
        let share = self.per_uid.entry(uid).or_default();
        let full = share.is_full(limits.client.connections) || self.total.is_full(limits.connections);
        let connection = Connection::new(stream, subject);
        if full {
            share.refused += 1;
            return self.turn_away(connection);
        }
        share.open += 1;
        self.total.open += 1;
        let token = Token(self.next_connection);
        self.next_connection += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut SourceFd(&connection.stream.as_raw_fd()), token, interest) {
            Ok(()) => drop(self.connections.insert(token, connection)),
            Err(error) => {
                tracing::warn!(%error, uid, "a client cannot be watched and is turned away");
                self.dispose(connection);
            }
        }
    }

    /// Answers the call that the client is about to make, so that it learns why.
    fn turn_away(&mut self, mut connection: Connection) {
        let uid = connection.subject.uid;
        tracing::debug!(uid, "too many connections");
        let limits = self.rules.current().limits;
        let message = format!(
            "too many connections to netd: {} for one user ('[limits.client] connections') and {} in all ('[limits] \
             connections'); close some, or wait for calls to return",
            limits.client.connections, limits.connections
        );
        let (bytes, descriptors) = reply::failed(ErrorKind::QuotaExceeded, &message);
        connection.reply(bytes, descriptors, Instant::now());
        // A new socket's buffer takes it; if not, the client sees the end of the connection.
        let _ = connection.flush();
        for share in self.shares(uid) {
            share.turned_away += 1;
        }
        self.disposal.close(uid, Held::TurnedAway, connection.into_descriptors());
    }

    /// Writes, reads and serves until there is nothing to do or the turn is over.
    fn drive(&mut self, token: Token) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            let request = match connection.flush() {
                Ok(true) if connection.outstanding.is_none() => connection.next_request(),
                Ok(true) => return,
                Ok(false) => {
                    self.stalled = true;
                    return;
                }
                Err(gone) => Err(gone),
            };
            let served = match request {
                Ok(Some(bytes)) => self.serve_request(token, &bytes),
                Ok(None) => return,
                Err(gone) => Err(gone),
            };
            if let Err(gone) = served {
                return self.retire(token, gone);
            }
        }
        self.ready.push(token);
    }

    fn serve_request(&mut self, token: Token, bytes: &[u8]) -> Result<(), Gone> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        let Ok(request) = serde_json::from_slice::<Request>(bytes) else {
            let (bytes, descriptors) =
                reply::of_response(&BadCall::InvalidParameter("request".to_owned()).response());
            connection.reply(bytes, descriptors, Instant::now());
            return connection.violation();
        };
        let oneway = request.oneway;
        match self.answer(token, request) {
            Answer::Now((bytes, descriptors)) if !oneway => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.reply(bytes, descriptors, Instant::now());
                }
            }
            Answer::Now(_) => {}
            Answer::Later(call) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.outstanding = Some(Outstanding { token: call, oneway });
                }
            }
        }
        Ok(())
    }

    /// Answers a request, or hands it to the worker.
    fn answer(&mut self, token: Token, request: Request) -> Answer {
        let call = match Call::parse(request) {
            Ok(call) => call,
            Err(bad) => return Answer::Now(reply::of_response(&bad.response())),
        };
        let Some(connection) = self.connections.get(&token) else {
            return Answer::Now(reply::failed(ErrorKind::Internal, "the connection is gone"));
        };
        let owner = connection.subject.clone();
        let (asked, todo) = match plan(call, &owner) {
            Plan::Local(message) => return Answer::Now(message),
            Plan::Decided(asked, todo) => (asked, todo),
        };
        let generation = self.rules.generation();
        let decided = match self.rules.current().policy.decide(&owner, &asked) {
            Decision::Allow { rule, terms } => Decided { generation, rule, terms },
            Decision::Deny { error, reason, rule } => {
                self.audit.denied(&owner, &asked, error, &rule);
                return Answer::Now(reply::failed(policy::kind(error), &reason));
            }
        };
        let command = match todo {
            Todo::SetLogLevel(filter) => return Answer::Now(self.set_log_level(&owner, &filter)),
            Todo::GetAudit => {
                return Answer::Now(match self.audit.report() {
                    Some(report) => reply::returns(&serde_json::json!({ "audit": report })),
                    None => reply::failed(ErrorKind::Unsupported, "this daemon keeps no audit log"),
                });
            }
            Todo::ListRules { from } => {
                return Answer::Now(reply::returns(&policy::rules(&self.rules.current().policy, from)));
            }
            Todo::Explain { asker, capability, target } => {
                let rules = self.rules.current();
                return Answer::Now(
                    match policy::explain(&rules.policy, asker, &capability, target.as_deref()) {
                        Ok(explanation) => reply::returns(&explanation),
                        Err(Wrong(message)) => reply::failed(ErrorKind::InvalidInput, &message),
                    },
                );
            }
            Todo::Decide { client, capability, target } => {
                let rules = self.rules.current();
                let client = policy::subject(client);
                return Answer::Now(
                    match policy::decide(&rules.policy, &self.audit, &client, &capability, target.as_deref())
                    {
                        Ok(decision) => reply::returns(&serde_json::json!({ "decision": decision })),
                        Err(Wrong(message)) => reply::failed(ErrorKind::InvalidInput, &message),
                    },
                );
            }
            Todo::RecordTrust { client, change, detail } => {
                self.audit.trust(&policy::subject(client), change, detail);
                return Answer::Now(reply::returns(&serde_json::json!({})));
            }
            Todo::RecordState { client, device, detail } => {
                self.audit.state(&policy::subject(client), device, detail);
                return Answer::Now(reply::returns(&serde_json::json!({})));
            }
            Todo::ListDenials { who, since } => {
                let rules = self.rules.current();
                let denials = policy::denials(&rules.policy, &self.audit, &who, since);
                return Answer::Now(reply::returns(&denials));
            }
            Todo::Submit(command) => command,
        };
        let call = self.next_call;
        self.next_call += 1;
        match self.port.submit(Submission { token: call, owner, command, decided: Some(decided) }) {
            Ok(()) => {
                self.submitted = true;
                self.calls.insert(call, token);
                Answer::Later(call)
            }
            Err(_) => Answer::Now(reply::failed(
                ErrorKind::NoBufs,
                "netd has too many calls under way: try again later",
            )),
        }
    }

    fn set_log_level(&self, owner: &Subject, filter: &str) -> Message {
        match self.log.set(filter) {
            Ok(previous) => {
                tracing::info!(uid = owner.uid, previous, filter, "the log's filter was changed");
                reply::previous(&previous)
            }
            Err(message) => reply::failed(ErrorKind::InvalidInput, &message),
        }
    }

    /// Adds to the worker's report what only this thread knows.
    fn add_connections(&self, report: &mut netd_ipc::Clients) {
        let limits = self.rules.current().limits;
        for (uid, share) in &self.per_uid {
            let limit = limits.client.connections.into();
            let used = netd_ipc::Use { used: share.used(), limit, refused: share.refused };
            match report.clients.iter_mut().find(|client| client.uid == *uid) {
                Some(client) => client.connections = used,
                None => report.clients.push(idle_client(*uid, used, &limits)),
            }
        }
        report.total.connections.used = self.total.used();
        report.total.connections.refused = self.per_uid.values().map(|share| share.refused).sum();
        report.clients.sort_by_key(|client| client.uid);
    }

    fn take_completions(&mut self) {
        let completions: Vec<Completion> = self.port.completions().collect();
        for Completion { token: call, mut reply } in completions {
            if let Reply::Clients(report) = &mut reply {
                self.add_connections(report);
            }
            // Not found: cancelled, and the reply's descriptor closes here. It is netd's own, so that cannot block.
            let Some(token) = self.calls.remove(&call) else { continue };
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            let oneway = connection.outstanding.take().is_some_and(|call| call.oneway);
            if !oneway {
                let (bytes, descriptors) = reply::of_worker(reply);
                connection.reply(bytes, descriptors, Instant::now());
            }
            self.drive(token);
        }
    }

    /// Once per tick, and only while somebody is stalled.
    fn check_stalls(&mut self) {
        let now = Instant::now();
        if !self.stalled || now.saturating_duration_since(self.stalls_checked) < TICK {
            return;
        }
        self.stalls_checked = now;
        self.stalled = self.connections.values().any(Connection::is_stalled);
        let stalled: Vec<(Token, Gone)> = self
            .connections
            .iter()
            .filter_map(|(token, connection)| connection.check_stall(now).err().map(|gone| (*token, gone)))
            .collect();
        for (token, gone) in stalled {
            self.retire(token, gone);
        }
    }

    /// Ends a connection: cancels its call and hands what it held to a closing thread.
    fn retire(&mut self, token: Token, gone: Gone) {
        let Some(connection) = self.connections.remove(&token) else { return };
        let uid = connection.subject.uid;
        match gone {
            Gone::Closed => tracing::trace!(uid, "client gone"),
            _ => tracing::info!(uid, pid = connection.subject.pid, reason = %gone, "connection closed"),
        }
        if let Some(Outstanding { token: call, oneway: _ }) = connection.outstanding {
            self.calls.remove(&call);
            let cancel = Submission {
                token: call,
                owner: connection.subject.clone(),
                command: Command::Cancel,
                decided: None,
            };
            // With a full queue the call runs to its end, and its reply is dropped when it comes.
            self.submitted |= self.port.submit(cancel).is_ok();
        }
        // A descriptor that is not watched any more cannot be unregistered; closing would do it as well.
        let _ = self.poll.registry().deregister(&mut SourceFd(&connection.stream.as_raw_fd()));
        self.dispose(connection);
    }

    /// Hands an admitted connection to a closing thread.
    fn dispose(&mut self, connection: Connection) {
        let uid = connection.subject.uid;
        for share in self.shares(uid) {
            share.open = share.open.saturating_sub(1);
            share.closing += 1;
        }
        self.disposal.close(uid, Held::Admitted, connection.into_descriptors());
    }

    /// A user's share, and everybody's.
    fn shares(&mut self, uid: u32) -> [&mut Share; 2] {
        [self.per_uid.entry(uid).or_default(), &mut self.total]
    }

    fn count_closed(&mut self) {
        while let Some((uid, held)) = self.disposal.next_closed() {
            for share in self.shares(uid) {
                let count = match held {
                    Held::Admitted => &mut share.closing,
                    Held::TurnedAway => &mut share.turned_away,
                };
                *count = count.saturating_sub(1);
            }
            if self.per_uid.get(&uid).is_some_and(Share::is_nothing) {
                self.per_uid.remove(&uid);
            }
        }
    }

    fn close_all(&mut self) {
        let tokens: Vec<Token> = self.connections.keys().copied().collect();
        for token in tokens {
            self.retire(token, Gone::Closed);
        }
        self.wake_worker();
    }
}

enum Answer {
    Now(Message),
    /// The worker has it under this token.
    Later(u64),
}
