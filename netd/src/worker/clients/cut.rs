//! How clients' sockets end other than by themselves: by other rules, with the device, with the daemon.

use netd_ipc::{ErrorKind, StreamEnd};
use netd_policy::{Decision, Denial, Policy, Request, Rule, Terms};
use netd_stack::{FlowId, Instant, Stack};

use crate::command::{Failure, Reply};
use crate::worker::clients::calls::denial_kind;
use crate::worker::clients::{Agreed, Clients, Entry, STREAM_BYTES, Socket};
use crate::worker::slot::size_flows;

impl Entry {
    /// What denies it under other rules; if nothing does, it goes on under these. A connection that is to begin with a ClientHello from now
    /// on, and began without one being looked for, cannot be looked at any more.
    fn no_longer_allowed(&mut self, policy: &Policy, request: &Request) -> Option<Rule> {
        let (rule, terms) = match policy.decide(&self.owner, request) {
            Decision::Allow { rule, terms } => (rule, terms),
            Decision::Deny { error: _, reason: _, rule } => return Some(rule),
        };
        let (Socket::Stream(stream), Some(agreed)) = (&self.socket, &mut self.outbound) else { return None };
        if terms == Terms::Tls && !stream.is_shown() {
            return Some(rule);
        }
        *agreed = Agreed { rule, terms, ..agreed.clone() };
        None
    }
}

impl Clients {
    /// A reload put other rules in force: what they no longer allow is refused from now on, and what is open and no longer allowed
    /// is cut.
    pub(super) fn rules_changed(&mut self, now: Instant, stack: &mut Stack) {
        self.generation = self.gate.rules.generation();
        let rules = self.gate.rules.current();
        self.ledger.set_limits(rules.limits);
        self.ledger.set_quotas(rules.policy.quotas().clone());
        size_flows(stack, &rules.limits);
        self.dials_under(now, stack, &rules.policy);
        let mut denied = Vec::new();
        for (flow, call) in &mut self.connecting {
            let request = call.request();
            match rules.policy.decide(&call.owner, &request) {
                Decision::Allow { rule, terms } => {
                    call.agreed = Agreed { rule, terms, ..call.agreed.clone() }
                }
                Decision::Deny { error, reason: _, rule } => denied.push((*flow, error, request, rule)),
            }
        }
        for (flow, error, request, rule) in denied {
            self.cut_connecting(now, stack, flow, error, (&request, &rule));
        }
        let sockets = self.sockets.iter_mut().filter_map(|(key, entry)| {
            let request = entry.request(stack)?;
            let rule = entry.no_longer_allowed(&rules.policy, &request)?;
            Some((key, request, rule))
        });
        for (key, request, rule) in sockets.collect::<Vec<_>>() {
            if let Some(entry) = self.sockets.get(key) {
                self.gate.audit.cut(&entry.owner, &request, &rule);
            }
            self.cut_socket(now, stack, key);
        }
        for (_, entry) in &mut self.sockets {
            if let Socket::Datagrams(datagrams) = &mut entry.socket {
                datagrams.forget_permissions();
            }
        }
    }

    fn cut_connecting(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        flow: FlowId,
        error: Denial,
        (request, rule): (&Request, &Rule),
    ) {
        let Some(call) = self.abandon_connect(flow) else { return };
        self.gate.audit.cut(&call.owner, request, rule);
        let kind = denial_kind(error);
        let message = match error {
            Denial::DevnetDisabled => format!("{request}: the devnet switch was turned off meanwhile"),
            Denial::PolicyDenied => format!("{request}: the rules changed meanwhile, and deny it: {rule}"),
        };
        stack.tcp_abort(flow);
        stack.tcp_release(now, flow);
        self.attempt_failed(now, stack, call.token, flow, Failure(kind, message));
    }

    pub(super) fn cut_socket(&mut self, now: Instant, stack: &mut Stack, key: usize) {
        match self.sockets.get(key).map(|entry| &entry.socket) {
            Some(Socket::Stream(stream)) => {
                let flow = stream.flow;
                self.end_stream(key, StreamEnd::Aborted);
                stack.tcp_abort(flow);
                stack.tcp_release(now, flow);
            }
            Some(Socket::Listener(listener)) => stack.tcp_close_listener(now, listener.id),
            Some(Socket::Datagrams(datagrams)) => stack.udp_close(datagrams.id),
            Some(Socket::Frames(_)) => {}
            None => return,
        }
        self.remove(key);
    }

    /// The device went away, and every socket with it.
    pub(in crate::worker) fn fail_all(&mut self, reason: &str) {
        for (_, call) in std::mem::take(&mut self.connecting) {
            self.release(&call.owner, STREAM_BYTES);
            if !self.dials.contains_key(&call.token) {
                let reply = Reply::Failed(ErrorKind::DeviceUnavailable, reason.to_owned());
                self.completions.send(call.token, reply);
            }
        }
        self.fail_dials(reason);
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
    pub(in crate::worker) fn close_all(&mut self, stack: &mut Stack) {
        for flow in self.by_flow.keys().chain(self.connecting.keys()) {
            stack.tcp_abort(*flow);
        }
        self.fail_all("netd is stopping");
    }
}
