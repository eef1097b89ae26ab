//! How clients' sockets end other than by themselves: by other rules, with the device, with the daemon.

use netd_ipc::{ErrorKind, StreamEnd};
use netd_policy::{Decision, Denial, Request, Rule, Subject};
use netd_stack::{FlowId, Instant, Stack};

use crate::command::Reply;
use crate::worker::clients::{Clients, STREAM_BYTES, Socket};
use crate::worker::slot::size_flows;

impl Clients {
    /// A reload put other rules in force: what they no longer allow is refused from now on, and what is open and no longer allowed
    /// is cut.
    pub(super) fn rules_changed(&mut self, now: Instant, stack: &mut Stack) {
        self.generation = self.gate.rules.generation();
        let rules = self.gate.rules.current();
        self.ledger.set_limits(rules.limits);
        self.ledger.set_quotas(rules.policy.quotas().clone());
        size_flows(stack, &rules.limits);
        let denied = |subject: &Subject, request: &Request| match rules.policy.decide(subject, request) {
            Decision::Allow { rule: _ } => None,
            Decision::Deny { error, reason: _, rule } => Some((error, rule)),
        };
        let connecting = self.connecting.iter().filter_map(|(flow, call)| {
            let request = Request::TcpConnect { remote: call.remote };
            let (error, rule) = denied(&call.owner, &request)?;
            Some((*flow, error, request, rule))
        });
        for (flow, error, request, rule) in connecting.collect::<Vec<_>>() {
            self.cut_connecting(now, stack, flow, error, (&request, &rule));
        }
        let sockets = self.sockets.iter().filter_map(|(key, entry)| {
            let request = entry.request(stack)?;
            let (_, rule) = denied(&entry.owner, &request)?;
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
        let (kind, message) = match error {
            Denial::DevnetDisabled => {
                (ErrorKind::DevnetDisabled, format!("{request}: the devnet switch was turned off meanwhile"))
            }
            Denial::PolicyDenied => (
                ErrorKind::PolicyDenied,
                format!("{request}: the rules changed meanwhile, and deny it: {rule}"),
            ),
        };
        self.completions.send(call.token, Reply::Failed(kind, message));
        stack.tcp_abort(flow);
        stack.tcp_release(now, flow);
    }

    fn cut_socket(&mut self, now: Instant, stack: &mut Stack, key: usize) {
        match self.sockets.get(key).map(|entry| &entry.socket) {
            Some(Socket::Stream(stream)) => {
                let flow = stream.flow;
                self.end_stream(key, StreamEnd::Aborted);
                stack.tcp_abort(flow);
                stack.tcp_release(now, flow);
            }
            Some(Socket::Listener(listener)) => stack.tcp_close_listener(now, listener.id),
            Some(Socket::Datagrams(datagrams)) => stack.udp_close(datagrams.id),
            None => return,
        }
        self.remove(key);
    }

    /// The device went away, and every socket with it.
    pub(in crate::worker) fn fail_all(&mut self, reason: &str) {
        for (_, call) in std::mem::take(&mut self.connecting) {
            self.release(&call.owner, STREAM_BYTES);
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
    pub(in crate::worker) fn close_all(&mut self, stack: &mut Stack) {
        for flow in self.by_flow.keys().chain(self.connecting.keys()) {
            stack.tcp_abort(*flow);
        }
        self.fail_all("netd is stopping");
    }
}
