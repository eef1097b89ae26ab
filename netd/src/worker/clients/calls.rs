//! What clients ask for: each call makes a socket, or waits for the network, or fails by name.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netd_ipc::{ErrorKind, Pong, StreamEnd};
use netd_policy::{Decision, Denial, HostName, Request, Rule, Subject, Terms};
use netd_stack::{Egress, FlowId, Instant, Stack};
use rustix::net::SocketType;

use crate::capture::{Filter, Taps};
use crate::command::{Decided, Failure, Reply};
use crate::worker::clients::{
    Agreed, Clients, Connecting, LISTENER_BYTES, STREAM_BYTES, Socket, out_of_descriptors,
};
use crate::worker::datagram::Datagrams;
use crate::worker::ledger::Exceeded;
use crate::worker::listener::Listener;
use crate::worker::reply::{error_reply, failure};
use crate::worker::socketpair;

impl Clients {
    pub(in crate::worker) fn connect(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        (remote, decided): (SocketAddr, Option<Decided>),
        timeout: Duration,
    ) {
        let deadline = now + timeout;
        let permitted = match decided.filter(|decided| self.still_holds(decided)) {
            Some(Decided { generation: _, rule, terms }) => Ok(Agreed { name: None, rule, terms }),
            None => self.permit(&owner, None, remote),
        };
        let begun = permitted
            .and_then(|agreed| self.attempt(now, stack, (token, &owner), (remote, agreed), deadline));
        match begun {
            Ok(flow) => drop(self.connect_deadlines.insert((deadline, flow))),
            Err(failure) => self.completions.send(token, failure.into()),
        }
    }

    /// Whether the rules are still those that it was decided by. If they change a moment later, the flow is among those that
    /// [`rules_changed`](Self::rules_changed) asks about.
    pub(super) fn still_holds(&self, decided: &Decided) -> bool {
        decided.generation == self.gate.rules.generation()
    }

    /// Asks policy about a connection, by the rules that are in force now.
    pub(super) fn permit(
        &self,
        owner: &Subject,
        name: Option<&HostName>,
        remote: SocketAddr,
    ) -> Result<Agreed, Failure> {
        let agreed = |rule, terms| Agreed { name: name.cloned(), rule, terms };
        let request = agreed(Rule::Default, Terms::Free).request(remote);
        match self.gate.rules.current().policy.decide(owner, &request) {
            Decision::Allow { rule, terms } => Ok(agreed(rule, terms)),
            Decision::Deny { error, reason, rule } => {
                Err(self.denied(owner, &request, (error, reason), &rule))
            }
        }
    }

    /// Records a denial, and says it.
    pub(super) fn denied(
        &self,
        owner: &Subject,
        request: &Request,
        (error, reason): (Denial, String),
        rule: &Rule,
    ) -> Failure {
        self.gate.audit.denied(owner, request, error, rule);
        Failure(denial_kind(error), reason)
    }

    /// Sends the first segment of a connection that was permitted.
    pub(super) fn attempt(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, &Subject),
        (remote, agreed): (SocketAddr, Agreed),
        deadline: Instant,
    ) -> Result<FlowId, Failure> {
        let charged = self.ledger.connect(now, owner).and_then(|()| self.ledger.reserve(owner, STREAM_BYTES));
        charged.map_err(|exceeded| Failure(ErrorKind::QuotaExceeded, exceeded.to_string()))?;
        match stack.tcp_connect(now, remote) {
            Ok(flow) => {
                // It was made just now, so it is there.
                let _ = stack.tcp_set_owner(flow, owner.uid);
                let owner = owner.clone();
                self.connecting.insert(flow, Connecting { token, owner, remote, deadline, agreed });
                Ok(flow)
            }
            Err(error) => {
                self.release(owner, STREAM_BYTES);
                Err(failure(&error))
            }
        }
    }

    pub(in crate::worker) fn listen(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        (address, port): (Option<IpAddr>, Option<u16>),
        backlog: usize,
    ) {
        if self.by_listener.len() >= self.listeners_max {
            let limit = format!(
                "there are {} listeners already, as many as this daemon's descriptors allow",
                self.listeners_max
            );
            return self.completions.send(token, Reply::Failed(ErrorKind::QuotaExceeded, limit));
        }
        if let Err(exceeded) = self.ledger.reserve(&owner, LISTENER_BYTES) {
            return self.completions.send(token, quota(&exceeded));
        }
        let (id, local) = match stack.tcp_listen_on(address, port, backlog) {
            Ok(listener) => listener,
            Err(error) => {
                self.release(&owner, LISTENER_BYTES);
                return self.completions.send(token, error_reply(&error));
            }
        };
        let made = socketpair(SocketType::SEQPACKET)
            .and_then(|(ours, theirs)| Ok((Listener::new(ours, id, local)?, theirs)));
        let Ok((listener, descriptor)) = made else {
            stack.tcp_close_listener(now, id);
            self.release(&owner, LISTENER_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        let Some(key) = self.add(owner.clone(), Socket::Listener(listener), None) else {
            stack.tcp_close_listener(now, id);
            self.release(&owner, LISTENER_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        self.by_listener.insert(id, key);
        let id = self.sockets[key].id;
        self.completions.send(token, Reply::Listener { id, local, descriptor });
    }

    pub(in crate::worker) fn bind_udp(
        &mut self,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        (address, port): (Option<IpAddr>, Option<u16>),
    ) {
        if let Err(exceeded) = self.ledger.reserve(&owner, self.datagrams_bytes) {
            return self.completions.send(token, quota(&exceeded));
        }
        let (udp, local) = match stack.udp_bind_on(address, port) {
            Ok(bound) => bound,
            Err(error) => {
                self.release(&owner, self.datagrams_bytes);
                return self.completions.send(token, error_reply(&error));
            }
        };
        let added = socketpair(SocketType::SEQPACKET).ok().and_then(|(ours, theirs)| {
            let datagrams = Box::new(Datagrams::new(ours, udp, local, owner.clone()));
            Some((self.add(owner.clone(), Socket::Datagrams(datagrams), None)?, theirs))
        });
        let Some((key, descriptor)) = added else {
            stack.udp_close(udp);
            self.release(&owner, self.datagrams_bytes);
            return self.completions.send(token, out_of_descriptors());
        };
        self.by_udp.insert(udp, key);
        let id = self.sockets[key].id;
        self.completions.send(token, Reply::Udp { id, local, descriptor });
    }

    pub(in crate::worker) fn ping<E: Egress>(
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
    pub(in crate::worker) fn charge_packet(&mut self, now: Instant, (token, owner): &(u64, Subject)) -> bool {
        let charged = self.ledger.packet(now, owner);
        if let Err(exceeded) = &charged {
            self.completions.send(*token, quota(exceeded));
        }
        charged.is_ok()
    }

    /// Starts a capture.
    pub(in crate::worker) fn capture(
        &mut self,
        taps: &mut Taps,
        (token, owner): (u64, Subject),
        (filter, snap_bytes): (Filter, usize),
    ) {
        if let Err(exceeded) = self.ledger.reserve_capture(owner.uid) {
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
    pub(in crate::worker) fn outcome(&self, token: u64, id: u64, uid: u32) {
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
    pub(in crate::worker) fn cancel(&mut self, now: Instant, stack: &mut Stack, token: u64) {
        self.drop_dial(now, stack, token);
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
}

/// The error that a denied client is told.
pub(super) fn denial_kind(error: Denial) -> ErrorKind {
    match error {
        Denial::DevnetDisabled => ErrorKind::DevnetDisabled,
        Denial::PolicyDenied => ErrorKind::PolicyDenied,
    }
}

pub(super) fn quota(exceeded: &Exceeded) -> Reply {
    Reply::Failed(ErrorKind::QuotaExceeded, exceeded.to_string())
}

pub(super) fn ping_reply(result: Result<netd_stack::PingReply, netd_stack::Error>) -> Reply {
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
