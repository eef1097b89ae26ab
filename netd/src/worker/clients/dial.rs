//! Connections by name: netd resolves, asks policy about each address, and races those that are left (RFC 8305).
//!
//! ```text
//!   name ──> addresses ──> policy, one by one ──> attempts: a new one every 250 ms, families in turn ──> the first that is established
//!                                                           (at once, when the last one failed)          the others are aborted
//! ```
//!
//! Each attempt is a connection like any other in the books ([`Connecting`]); a [`Dial`] holds them together under one call. The
//! call is answered once, with a stream, the last attempt's error, or that time ran out.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netd_ipc::ErrorKind;
use netd_policy::hello::Refusal;
use netd_policy::{Decision, HostName, Policy, Request, Subject};
use netd_stack::{FlowId, Instant, Stack};

use crate::command::{Decided, Failure};
use crate::worker::clients::calls::denial_kind;
use crate::worker::clients::{Agreed, Clients, Connecting};

/// Between the beginnings of two attempts: "Connection Attempt Delay" (RFC 8305, 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried. One call must not make hundreds of strangers hear from us; with the delay between them, these
/// take two seconds to begin.
const ATTEMPTS_MAX: usize = 8;

/// A connection by name that is not there yet.
#[derive(Debug)]
pub(super) struct Dial {
    owner: Subject,
    name: HostName,
    port: u16,
    /// When all of it is given up.
    deadline: Instant,
    /// When it has something to do next: the next attempt, or giving up.
    timer: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Resolving,
    Racing {
        /// What is still to be tried.
        waiting: VecDeque<(SocketAddr, Agreed)>,
        /// What is being tried.
        flows: Vec<FlowId>,
    },
}

impl Dial {
    /// What policy is asked before the name is resolved.
    fn request(&self) -> Request {
        Request::TcpConnectName { name: self.name.clone(), port: self.port, address: None }
    }
}

impl Clients {
    /// Begins a call for a connection by name. True if the name is to be resolved.
    pub(in crate::worker) fn dial(
        &mut self,
        now: Instant,
        (token, owner): (u64, Subject),
        (name, port): (HostName, u16),
        decided: Option<&Decided>,
        timeout: Duration,
    ) -> bool {
        let deadline = now + timeout;
        let dial = Dial { owner, name, port, deadline, timer: deadline, stage: Stage::Resolving };
        let request = dial.request();
        if !decided.is_some_and(|decided| self.still_holds(decided))
            && let Decision::Deny { error, reason, rule } =
                self.gate.rules.current().policy.decide(&dial.owner, &request)
        {
            let failure = self.denied(&dial.owner, &request, (error, reason), &rule);
            self.completions.send(token, failure.into());
            return false;
        }
        self.dial_timers.insert((deadline, token));
        self.dials.insert(token, dial);
        true
    }

    /// The resolver has an answer.
    pub(in crate::worker) fn dial_found(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        token: u64,
        found: Result<Vec<IpAddr>, Failure>,
    ) {
        let Some(Dial { owner, name, port, .. }) = self.dials.get(&token) else { return };
        let addresses = match found {
            Ok(addresses) => in_turn(addresses),
            Err(failure) => return self.end_dial(now, stack, token, failure),
        };
        let mut refused = Failure(ErrorKind::NotFound, format!("'{name}' has no address to connect to"));
        let mut waiting = VecDeque::new();
        for remote in addresses.into_iter().take(ATTEMPTS_MAX).map(|address| SocketAddr::new(address, *port))
        {
            match self.permit(owner, Some(name), remote) {
                Ok(agreed) => waiting.push_back((remote, agreed)),
                Err(failure) => refused = failure,
            }
        }
        if let Some(dial) = self.dials.get_mut(&token) {
            dial.stage = Stage::Racing { waiting, flows: Vec::new() };
        }
        self.dial_next(now, stack, token, refused);
    }

    /// Begins the next attempt, or ends the call with `error` when there is none, and none under way.
    fn dial_next(&mut self, now: Instant, stack: &mut Stack, token: u64, mut error: Failure) {
        loop {
            let Some(Dial { owner, deadline, stage: Stage::Racing { waiting, flows }, .. }) =
                self.dials.get_mut(&token)
            else {
                return;
            };
            let Some(next) = waiting.pop_front() else {
                if flows.is_empty() {
                    return self.end_dial(now, stack, token, error);
                }
                return self.set_dial_timer(token, None);
            };
            let (owner, deadline) = (owner.clone(), *deadline);
            match self.attempt(now, stack, (token, &owner), next, deadline) {
                Ok(flow) => {
                    if let Some(Dial { stage: Stage::Racing { flows, .. }, .. }) = self.dials.get_mut(&token)
                    {
                        flows.push(flow);
                    }
                    return self.set_dial_timer(token, Some(now + ATTEMPT_DELAY));
                }
                Err(failure) => error = failure,
            }
        }
    }

    /// An attempt failed: the next one begins at once (RFC 8305, 5), and a call for one address is over.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        token: u64,
        flow: FlowId,
        failure: Failure,
    ) {
        let Some(dial) = self.dials.get_mut(&token) else {
            return self.completions.send(token, failure.into());
        };
        if let Stage::Racing { flows, .. } = &mut dial.stage {
            flows.retain(|other| *other != flow);
        }
        self.dial_next(now, stack, token, failure);
    }

    /// An attempt is established: the others, if there are any, are not needed.
    pub(super) fn attempt_won(&mut self, now: Instant, stack: &mut Stack, token: u64, winner: FlowId) {
        if let Some(Dial { stage: Stage::Racing { flows, .. }, .. }) = self.dials.get_mut(&token) {
            flows.retain(|flow| *flow != winner);
        }
        self.drop_dial(now, stack, token);
    }

    /// What is due: the next attempt of some, the end of others.
    pub(super) fn dials_on_time(&mut self, now: Instant, stack: &mut Stack) {
        while let Some((at, token)) = self.dial_timers.first().copied()
            && at <= now
        {
            let failure = || Failure(ErrorKind::TimedOut, "the peer did not answer in time".to_owned());
            match self.dials.get(&token) {
                Some(dial) if dial.deadline > now => self.dial_next(now, stack, token, failure()),
                Some(Dial { stage: Stage::Resolving, name, .. }) => {
                    let message = format!("'{name}' was not resolved in time");
                    self.end_dial(now, stack, token, Failure(ErrorKind::TimedOut, message));
                }
                Some(_) => self.end_dial(now, stack, token, failure()),
                None => drop(self.dial_timers.remove(&(at, token))),
            }
        }
    }

    /// Calls that ended while their names were being resolved.
    pub(in crate::worker) fn take_given_up(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.given_up)
    }

    /// At `next`, and no later than the deadline.
    fn set_dial_timer(&mut self, token: u64, next: Option<Instant>) {
        let Some(dial) = self.dials.get_mut(&token) else { return };
        self.dial_timers.remove(&(dial.timer, token));
        dial.timer = next.map_or(dial.deadline, |next| next.min(dial.deadline));
        self.dial_timers.insert((dial.timer, token));
    }

    fn end_dial(&mut self, now: Instant, stack: &mut Stack, token: u64, failure: Failure) {
        self.drop_dial(now, stack, token);
        self.completions.send(token, failure.into());
    }

    /// Takes a dial off the books, and aborts its attempts.
    pub(super) fn drop_dial(&mut self, now: Instant, stack: &mut Stack, token: u64) {
        let Some(dial) = self.dials.remove(&token) else { return };
        self.dial_timers.remove(&(dial.timer, token));
        match dial.stage {
            Stage::Resolving => self.given_up.push(token),
            Stage::Racing { waiting: _, flows } => {
                for flow in flows {
                    self.abandon_connect(flow);
                    stack.tcp_abort(flow);
                    stack.tcp_release(now, flow);
                }
            }
        }
    }

    /// The device is gone, and with it every attempt; the calls are answered once each.
    pub(super) fn fail_dials(&mut self, reason: &str) {
        self.dial_timers.clear();
        for (token, _) in std::mem::take(&mut self.dials) {
            let failure = Failure(ErrorKind::DeviceUnavailable, reason.to_owned());
            self.completions.send(token, failure.into());
        }
    }

    /// Other rules are in force: names that may not be connected to any more are given up, addresses not tried.
    pub(super) fn dials_under(&mut self, now: Instant, stack: &mut Stack, policy: &Policy) {
        let mut denied = Vec::new();
        for (token, dial) in &mut self.dials {
            let request = dial.request();
            if let Stage::Racing { waiting, .. } = &mut dial.stage {
                let still_allowed = |(remote, agreed): &mut (SocketAddr, Agreed)| {
                    let decision = policy.decide(&dial.owner, &agreed.request(*remote));
                    let Decision::Allow { rule, terms } = decision else { return false };
                    (agreed.rule, agreed.terms) = (rule, terms);
                    true
                };
                waiting.retain_mut(still_allowed);
            }
            if let Decision::Deny { error, reason, rule } = policy.decide(&dial.owner, &request) {
                self.gate.audit.cut(&dial.owner, &request, &rule);
                denied.push((
                    *token,
                    Failure(denial_kind(error), format!("{reason} (the rules changed meanwhile)")),
                ));
            }
        }
        for (token, failure) in denied {
            self.end_dial(now, stack, token, failure);
        }
    }

    /// A stream's first bytes were not what its grant demands.
    pub(super) fn refused(&self, stack: &Stack, key: usize, refusal: &Refusal) {
        let Some(entry) = self.sockets.get(key) else { return };
        if let (Some(request), Some(agreed)) = (entry.request(stack), &entry.outbound) {
            self.gate.audit.refused(&entry.owner, &request, &agreed.rule, &refusal.to_string());
        }
    }
}

impl Connecting {
    /// What policy is asked about it.
    pub(super) fn request(&self) -> Request {
        self.agreed.request(self.remote)
    }
}

/// Addresses with the families in turn, beginning with that of the first: what "First Address Family Count" of 1 says (RFC 8305, 4).
fn in_turn(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut all = Vec::new();
    while !(first.is_empty() && second.is_empty()) {
        all.extend(first.pop_front().into_iter().chain(second.pop_front()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_their_families_in_turn_and_the_first_first() {
        let text = |addresses: &str| {
            let addresses = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
            in_turn(addresses).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text("::1 ::2 ::3 1.1.1.1 2.2.2.2"), "::1 1.1.1.1 ::2 2.2.2.2 ::3");
        assert_eq!(text("1.1.1.1 2.2.2.2 ::1"), "1.1.1.1 ::1 2.2.2.2");
        assert_eq!(text("1.1.1.1"), "1.1.1.1");
    }
}
