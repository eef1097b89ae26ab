//! How clients' sockets end other than by themselves: by other rules, with the device, with the daemon.

use netd_ipc::{ErrorKind, StreamEnd};
use netd_policy::{Request, Rule};
use netd_stack::{Instant, Stack};

use crate::command::Reply;
use crate::worker::clients::{Clients, Entry, STREAM_BYTES, Socket};

impl Clients {
    /// A reload put other rules in force. What they no longer allow is refused from now on; what is open stays open, unless
    /// the devnet switch was turned off: then every connection to a peer that a client chose is cut.
    pub(super) fn rules_changed(&mut self, now: Instant, stack: &mut Stack) {
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
    pub(in crate::worker) fn fail_all(&mut self, reason: &str) {
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
    pub(in crate::worker) fn close_all(&mut self, stack: &mut Stack) {
        for flow in self.by_flow.keys().chain(self.connecting.keys()) {
            stack.tcp_abort(*flow);
        }
        self.fail_all("netd is stopping");
    }
}
