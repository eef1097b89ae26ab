//! One question and the servers that it is put to, one at a time, until one of them answers.
//!
//! ```text
//!            +-- time-out, unreachable: penalty --+
//!            v                                    |          response in the same case
//!   next server --> UDP, mixed case, EDNS --------+--------> records, NODATA, NXDOMAIN: done
//!            ^        | FORMERR, NOTIMP, BADVERS: the same without EDNS
//!            |        | truncated, or another case: the same question over TCP
//!            +--------+ SERVFAIL, REFUSED, referral: not this server again
//! ```
//!
//! Against forgers (RFC 5452): every transaction has its own random id, its own socket and port, and the case of its letters
//! (draft-vixie-dnsext-dns0x20). A datagram that fails one of these is counted and ignored, so that it cannot end the wait
//! for the true one. If only the case is wrong, either the server is a simple one or someone guessed the rest: TCP, which
//! nobody off the path can forge, tells which. A server without TCP is then asked in plain case.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;

use hickory_proto::op::ResponseCode;

use super::error::Error;
use super::finding::{Finding, Question, conclude};
use super::name::Name;
use super::server::Form;
use super::shared::Shared;
use super::statistics::Reason;
use super::types::{SocketKey, TcpEvent, Transmit};
use super::wire::{self, Body, Envelope, TCP_RECEIVED_MAX};
use crate::time::Instant;

/// The longest that one server is waited for, however many rounds there are.
const TRY_SECONDS_MAX: u64 = 30;
/// Doublings of the time-out after which the cap rules anyway.
const DOUBLINGS_MAX: u32 = 8;

pub(super) struct Exchange {
    id: u64,
    question: Question,
    round: u32,
    /// Servers still to be asked in this round.
    queue: VecDeque<SocketAddr>,
    /// Servers whose answer to this question was no answer; asking again would not change it.
    refused: Vec<SocketAddr>,
    transaction: Option<Transaction>,
    sockets_made: u32,
    /// The server asked last.
    server: Option<SocketAddr>,
    /// What the last of `refused` said.
    failure: Option<Error>,
}

struct Transaction {
    socket: SocketKey,
    server: SocketAddr,
    id: u16,
    /// As sent: in mixed case, perhaps.
    name: Name,
    form: Form,
    transport: Transport,
    deadline: Instant,
}

enum Transport {
    Udp,
    Tcp { because: Because, received: Vec<u8> },
}

/// Why TCP is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    Truncated,
    CaseDiffers,
}

impl Exchange {
    pub(super) fn new(id: u64, question: Question) -> Exchange {
        Exchange {
            id,
            question,
            round: 0,
            queue: VecDeque::new(),
            refused: Vec::new(),
            transaction: None,
            sockets_made: 0,
            server: None,
            failure: None,
        }
    }

    /// When [`Exchange::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.transaction.as_ref().map(|transaction| transaction.deadline)
    }

    /// The server asked last: the one that a finding came from, unless it is a failure.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// Begins, or begins anew with other servers. Here and below: `Some` ends the exchange.
    pub(super) fn start(&mut self, now: Instant, shared: &mut Shared) -> Option<Finding> {
        self.close(shared);
        self.round = 0;
        self.refused.clear();
        self.failure = None;
        self.queue = shared.servers.order(now).into();
        if self.queue.is_empty() {
            return Some(Finding::failed(Error::NoServers));
        }
        self.ask_next(now, shared)
    }

    /// Closes what is open.
    pub(super) fn close(&mut self, shared: &mut Shared) {
        if let Some(transaction) = self.transaction.take() {
            shared.close(transaction.socket);
        }
    }

    /// The server did not answer in time.
    pub(super) fn expire(&mut self, now: Instant, shared: &mut Shared) -> Option<Finding> {
        shared.statistics.timeouts += 1;
        self.unanswered(now, shared)
    }

    /// The datagram could not be sent, or an ICMP error came back.
    pub(super) fn handle_udp_error(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: SocketKey,
    ) -> Option<Finding> {
        let is_current = |transaction: &Transaction| {
            transaction.socket == key && matches!(transaction.transport, Transport::Udp)
        };
        if !self.transaction.as_ref().is_some_and(is_current) {
            shared.statistics.drop_socket += 1;
            return None;
        }
        shared.statistics.transport_failures += 1;
        self.unanswered(now, shared)
    }

    pub(super) fn handle_udp(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: SocketKey,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Finding> {
        let envelope = match self.screen(key, from, bytes) {
            Ok(envelope) => envelope,
            Err(reason) => {
                *reason(&mut shared.statistics) += 1;
                return None;
            }
        };
        if self.transaction.as_ref().is_some_and(|sent| sent.form.mixed_case && sent.is_altered(&envelope)) {
            shared.statistics.drop_case += 1;
            self.ask_over_tcp(now, shared, Because::CaseDiffers);
            return None;
        }
        if envelope.is_truncated() {
            // RFC 2181, 9: what a truncated response holds is not used.
            shared.statistics.responses_truncated += 1;
            self.ask_over_tcp(now, shared, Because::Truncated);
            return None;
        }
        let Ok(reply) = envelope.reply() else {
            shared.statistics.drop_malformed += 1;
            return None;
        };
        self.accept(now, shared, reply)
    }

    /// Reads a datagram, unless it is none that the server sent in answer to the question, as far as anyone can tell.
    fn screen<'a>(&self, key: SocketKey, from: SocketAddr, bytes: &'a [u8]) -> Result<Envelope<'a>, Reason> {
        let current = self.transaction.as_ref().filter(|transaction| transaction.socket == key);
        let Some(transaction) = current.filter(|current| matches!(current.transport, Transport::Udp)) else {
            return Err(|statistics| &mut statistics.drop_socket);
        };
        // Scope and flow label of an IPv6 address are no part of who it is.
        if (from.ip(), from.port()) != (transaction.server.ip(), transaction.server.port()) {
            return Err(|statistics| &mut statistics.drop_source);
        }
        let Ok(envelope) = Envelope::read(bytes) else {
            return Err(|statistics| &mut statistics.drop_malformed);
        };
        if !envelope.is_response() {
            return Err(|statistics| &mut statistics.drop_not_response);
        }
        if envelope.id() != transaction.id {
            return Err(|statistics| &mut statistics.drop_id);
        }
        if !envelope.asks(&self.question.name, self.question.kind) && !is_bare_rejection(&envelope) {
            return Err(|statistics| &mut statistics.drop_question);
        }
        Ok(envelope)
    }

    pub(super) fn handle_tcp(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        key: SocketKey,
        event: TcpEvent<'_>,
    ) -> Option<Finding> {
        let current = self.transaction.as_mut().filter(|transaction| transaction.socket == key);
        let Some(Transaction { transport: Transport::Tcp { because, received }, .. }) = current else {
            shared.statistics.drop_socket += 1;
            return None;
        };
        let because = *because;
        let TcpEvent::Bytes(bytes) = event else {
            shared.statistics.transport_failures += 1;
            return self.tcp_failed(now, shared, because);
        };
        // The length before it bounds the message at 64 KiB; what follows is not ours to read.
        received.extend(bytes.iter().take(TCP_RECEIVED_MAX - received.len()));
        let (prefix, rest) = received.split_first_chunk()?;
        let message = rest.get(..u16::from_be_bytes(*prefix).into())?.to_vec();
        self.handle_tcp_message(now, shared, because, &message)
    }

    fn handle_tcp_message(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        because: Because,
        message: &[u8],
    ) -> Option<Finding> {
        let transaction = self.transaction.as_ref()?;
        let fits = |envelope: &Envelope<'_>| {
            envelope.is_response()
                && envelope.id() == transaction.id
                && !envelope.is_truncated()
                && (envelope.asks(&self.question.name, self.question.kind) || is_bare_rejection(envelope))
        };
        let Some(envelope) = Envelope::read(message).ok().filter(fits) else {
            // Nobody but the server can have said this: it will not say better.
            shared.statistics.drop_malformed += 1;
            return self.tcp_failed(now, shared, because);
        };
        if because == Because::CaseDiffers && transaction.is_altered(&envelope) {
            shared.servers.lacks_mixed_case(now, transaction.server);
            shared.statistics.fallbacks_without_mixed_case += 1;
        }
        let Ok(body) = envelope.reply() else {
            shared.statistics.drop_malformed += 1;
            return self.tcp_failed(now, shared, because);
        };
        self.accept(now, shared, body)
    }

    /// A message that is the server's.
    fn accept(&mut self, now: Instant, shared: &mut Shared, reply: Reply) -> Option<Finding> {
        let transaction = self.transaction.as_ref()?;
        let (server, form) = (transaction.server, transaction.form);
        shared.statistics.responses_accepted += 1;
        shared.servers.answered(server);
        match reply {
            Reply::Answer(mut body) => {
                body.restore_case(&self.question.name);
                self.close(shared);
                let exists = body.code == ResponseCode::NoError;
                Some(conclude(&self.question, exists, &body.answers, body.soa.as_ref()))
            }
            // RFC 6891, 7: such servers do not know of OPT records.
            Reply::Refusal(ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
                if form.edns =>
            {
                shared.servers.lacks_edns(now, server);
                shared.statistics.fallbacks_without_edns += 1;
                self.ask(now, shared, server, Form { edns: false, ..form });
                None
            }
            Reply::Refusal(code) => self.refused(now, shared, wire::code_name(code)),
            Reply::Referral => self.refused(now, shared, "with a referral"),
        }
    }

    /// The current server will not answer this question.
    fn refused(&mut self, now: Instant, shared: &mut Shared, code: &'static str) -> Option<Finding> {
        shared.statistics.server_failures += 1;
        if let Some(transaction) = &self.transaction {
            let server = transaction.server;
            self.refused.push(server);
            let name = self.question.name.clone();
            self.failure = Some(Error::ServerFailure { name, server, code });
        }
        self.ask_next(now, shared)
    }

    /// The current server is silent or out of reach.
    fn unanswered(&mut self, now: Instant, shared: &mut Shared) -> Option<Finding> {
        let transaction = self.transaction.as_ref()?;
        if let Transport::Tcp { because, .. } = transaction.transport {
            return self.tcp_failed(now, shared, because);
        }
        shared.servers.failed(now, transaction.server);
        self.ask_next(now, shared)
    }

    /// TCP did not work; UDP did before, so the server lives.
    fn tcp_failed(&mut self, now: Instant, shared: &mut Shared, because: Because) -> Option<Finding> {
        let transaction = self.transaction.as_ref()?;
        let (server, form) = (transaction.server, transaction.form);
        match because {
            Because::Truncated => self.refused(now, shared, "with a truncated response, and takes no TCP,"),
            Because::CaseDiffers => {
                shared.servers.lacks_mixed_case(now, server);
                shared.statistics.fallbacks_without_mixed_case += 1;
                self.ask(now, shared, server, Form { mixed_case: false, ..form });
                None
            }
        }
    }

    fn ask_next(&mut self, now: Instant, shared: &mut Shared) -> Option<Finding> {
        self.close(shared);
        loop {
            if let Some(server) = self.queue.pop_front() {
                let form = shared.servers.form(now, server);
                self.ask(now, shared, server, form);
                return None;
            }
            self.round += 1;
            if self.round >= shared.attempts {
                break;
            }
            let refused = &self.refused;
            let order = shared.servers.order(now).into_iter();
            self.queue = order.filter(|server| !refused.contains(server)).collect();
            if self.queue.is_empty() {
                break;
            }
        }
        let timed_out = || Error::TimedOut { name: self.question.name.clone() };
        Some(Finding::failed(self.failure.take().unwrap_or_else(timed_out)))
    }

    fn ask(&mut self, now: Instant, shared: &mut Shared, server: SocketAddr, form: Form) {
        let (transaction, payload) = self.transaction(now, shared, server, form, Transport::Udp);
        let socket = transaction.socket;
        self.close(shared);
        self.transaction = Some(transaction);
        shared.statistics.udp_sent += 1;
        shared.transmits.push_back(Transmit::Udp { socket, server, payload });
    }

    fn ask_over_tcp(&mut self, now: Instant, shared: &mut Shared, because: Because) {
        let Some(Transaction { server, form, .. }) = self.transaction else { return };
        let transport = Transport::Tcp { because, received: Vec::new() };
        let (transaction, payload) = self.transaction(now, shared, server, form, transport);
        let socket = transaction.socket;
        self.close(shared);
        self.transaction = Some(transaction);
        shared.statistics.tcp_sent += 1;
        let payload = wire::with_length(&payload);
        shared.transmits.push_back(Transmit::Tcp { socket, server, payload });
    }

    /// A transaction with an id, a socket and a case of its own, and its message.
    fn transaction(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        server: SocketAddr,
        form: Form,
        transport: Transport,
    ) -> (Transaction, Vec<u8>) {
        self.server = Some(server);
        let random = &mut shared.random;
        let id = random.next_u16();
        let name = if form.mixed_case {
            self.question.name.with_case(|| random.below(2) == 1)
        } else {
            self.question.name.clone()
        };
        let payload = wire::query(id, &name, self.question.kind, true, form.edns);
        let socket = SocketKey { exchange: self.id, serial: self.sockets_made };
        self.sockets_made += 1;
        let doubled = shared.timeout * (1 << self.round.min(DOUBLINGS_MAX));
        let deadline = now + doubled.min(Duration::from_secs(TRY_SECONDS_MAX));
        (Transaction { socket, server, id, name, form, transport, deadline }, payload)
    }
}

impl Transaction {
    /// Whether the question came back with letters in another case.
    fn is_altered(&self, envelope: &Envelope<'_>) -> bool {
        envelope.question.as_ref().is_some_and(|(name, _)| !name.is_identical(&self.name))
    }
}

/// What a server said.
enum Reply {
    /// Records, or that there are none.
    Answer(Body),
    /// It cannot, or does not want to.
    Refusal(ResponseCode),
    /// Ask someone else.
    Referral,
}

impl Envelope<'_> {
    fn reply(self) -> Result<Reply, wire::Malformed> {
        let is_lame = self.is_lame();
        let body = self.body()?;
        Ok(match body.code {
            ResponseCode::NXDomain => Reply::Answer(body),
            ResponseCode::NoError if is_lame && body.answers.is_empty() && body.soa.is_none() => {
                Reply::Referral
            }
            ResponseCode::NoError => Reply::Answer(body),
            code => Reply::Refusal(code),
        })
    }
}

/// Some servers leave the question away when they refuse. That can only make us ask elsewhere or more simply.
fn is_bare_rejection(envelope: &Envelope<'_>) -> bool {
    let refuses = !matches!(envelope.code(), ResponseCode::NoError | ResponseCode::NXDomain);
    envelope.question_count() == 0 && refuses
}
