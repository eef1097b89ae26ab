//! What happens to clients' sockets: descriptors that are ready, news of the stack, and what falls due.

use std::time::Duration;

use mio::event::Event;
use netd_ipc::ErrorKind;
use netd_ipc::accepted::Accepted;
use netd_stack::{Egress, FlowId, Instant, ListenerId, Ready, Stack};

use crate::command::{Failure, Reply};
use crate::worker::TOKEN_FIRST;
use crate::worker::clients::calls::ping_reply;
use crate::worker::clients::{Clients, Entry, STREAM_BYTES, Socket, out_of_descriptors};
use crate::worker::listener::Delivery;
use crate::worker::messages::State;
use crate::worker::stream::stream_end;

/// How often the last bytes of streams that hung up are looked at, beside whenever they move.
const HUNG_UP_CHECK: Duration = Duration::from_secs(1);

impl Clients {
    /// A client's descriptor is ready.
    pub(in crate::worker) fn on_event<E: Egress>(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        egress: &mut E,
        event: &Event,
    ) {
        let Some(key) = event.token().0.checked_sub(TOKEN_FIRST) else { return };
        let hung_up = event.is_read_closed() && event.is_write_closed();
        let Some(entry) = self.sockets.get_mut(key) else { return };
        match &mut entry.socket {
            Socket::Stream(stream) => {
                stream.on_event(
                    now,
                    event.is_readable() || event.is_read_closed(),
                    event.is_writable(),
                    hung_up,
                );
                if hung_up {
                    self.hung_up.insert(key);
                }
                self.pump_stream(now, stack, key);
            }
            Socket::Listener(listener) => {
                listener.writable |= event.is_writable();
                let id = listener.id;
                if hung_up {
                    stack.tcp_close_listener(now, id);
                    self.remove(key);
                } else {
                    self.accept(now, stack, id);
                }
            }
            Socket::Datagrams(datagrams) => {
                datagrams.messages.on_event(event.is_readable() || hung_up);
                self.pump_messages(now, stack, egress, key);
            }
            Socket::Frames(frames) => {
                frames.messages.on_event(event.is_readable() || hung_up);
                self.pump_messages(now, stack, egress, key);
            }
        }
    }

    /// The stack has news.
    pub(in crate::worker) fn on_ready(&mut self, now: Instant, stack: &mut Stack, ready: Ready) {
        match ready {
            Ready::Flow(flow) => {
                if self.connecting.contains_key(&flow) {
                    self.connect_progress(now, stack, flow);
                } else if let Some(key) = self.by_flow.get(&flow).copied() {
                    self.pump_stream(now, stack, key);
                }
            }
            Ready::Listener(listener) => self.accept(now, stack, listener),
            Ready::Udp(udp) => {
                if let Some(key) = self.by_udp.get(&udp)
                    && let Some(Entry { socket: Socket::Datagrams(datagrams), .. }) =
                        self.sockets.get_mut(*key)
                {
                    datagrams.deliver(stack);
                }
            }
            Ready::Ping(ping) => {
                if let Some(result) = stack.ping_result(ping)
                    && let Some(token) = self.pinging.remove(&ping)
                {
                    self.completions.send(token, ping_reply(result));
                }
            }
            Ready::Lease | Ready::Addresses => {}
        }
    }

    /// What is due: connects that took too long, and the bytes of clients that are gone.
    pub(in crate::worker) fn on_time(&mut self, now: Instant, stack: &mut Stack) {
        while let Some((deadline, flow)) = self.connect_deadlines.first().copied()
            && deadline <= now
        {
            if let Some(call) = self.abandon_connect(flow) {
                let message = "the peer did not answer in time".to_owned();
                self.completions.send(call.token, Reply::Failed(ErrorKind::TimedOut, message));
            }
            stack.tcp_abort(flow);
            stack.tcp_release(now, flow);
        }
        self.dials_on_time(now, stack);
        // They move by events; this only notices the ones that do not move, and must not cost a busy worker every turn.
        if now >= self.hung_up_check_at {
            self.hung_up_check_at = now + HUNG_UP_CHECK;
            for key in self.hung_up.clone() {
                self.pump_stream(now, stack, key);
            }
        }
        while let Some((at, key)) = self.throttled.first().copied()
            && at <= now
        {
            self.throttled.pop_first();
            self.unfinished.push(key);
        }
        if std::mem::take(&mut self.released) {
            for listener in std::mem::take(&mut self.starved) {
                self.accept(now, stack, listener);
            }
        }
        if self.generation != self.gate.rules.generation() {
            self.rules_changed(now, stack);
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(in crate::worker) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let connect = self.connect_deadlines.first().map(|(deadline, _)| *deadline);
        let dial = self.dial_timers.first().map(|(at, _)| *at);
        let hung_up = (!self.hung_up.is_empty()).then_some(self.hung_up_check_at);
        let throttled = self.throttled.first().map(|(at, _)| *at);
        let unfinished = (!self.unfinished.is_empty() || self.released).then_some(now);
        connect.into_iter().chain(dial).chain(hung_up).chain(throttled).chain(unfinished).min()
    }

    fn connect_progress(&mut self, now: Instant, stack: &mut Stack, flow: FlowId) {
        let Ok(status) = stack.tcp_status(flow) else { return };
        if let Some(end) = status.closed.filter(|_| !status.established) {
            stack.tcp_release(now, flow);
            let Some(call) = self.abandon_connect(flow) else { return };
            let end = stream_end(end);
            let kind = end.error_kind().unwrap_or(ErrorKind::Disconnected);
            let message = match status.error {
                Some((error, offender)) => format!("{end}: {error}, says {offender}"),
                None => end.to_string(),
            };
            self.attempt_failed(now, stack, call.token, flow, Failure(kind, message));
        } else if status.established
            && let Some(call) = self.forget_connect(flow)
        {
            self.attempt_won(now, stack, call.token, flow);
            let owner = call.owner.clone();
            let (rule, tls) = (call.agreed.rule.to_string(), call.agreed.tls());
            match self.add_stream(call.owner, flow, Some(call.agreed)) {
                Some((key, descriptor)) => {
                    let id = self.sockets[key].id;
                    let (local, remote) = (status.local, status.remote);
                    let reply = Reply::Stream { id, local, remote, rule, tls, descriptor };
                    self.completions.send(call.token, reply);
                    self.pump_stream(now, stack, key);
                }
                None => {
                    stack.tcp_abort(flow);
                    stack.tcp_release(now, flow);
                    self.release(&owner, STREAM_BYTES);
                    self.completions.send(call.token, out_of_descriptors());
                }
            }
        }
    }

    /// Hands waiting connections to the listener's client, as many as it may have under way.
    fn accept(&mut self, now: Instant, stack: &mut Stack, id: ListenerId) {
        let Some(listener_key) = self.by_listener.get(&id).copied() else { return };
        loop {
            let Some(Entry { owner, socket: Socket::Listener(listener), .. }) =
                self.sockets.get_mut(listener_key)
            else {
                return;
            };
            match listener.deliver_parked() {
                Delivery::Sent => {}
                // Its hang-up is an event of its own.
                Delivery::Full | Delivery::Gone => return,
            }
            let owner = owner.clone();
            if !stack.tcp_waiting(id).is_ok_and(|waiting| waiting > 0) {
                return;
            }
            // They wait in the backlog for as long as their client may have no more sockets.
            if self.ledger.reserve(&owner, STREAM_BYTES).is_err() {
                self.starved.insert(id);
                return;
            }
            let uid = owner.uid;
            let Ok(Some(flow)) = stack.tcp_accept(id) else { return self.release(&owner, STREAM_BYTES) };
            let (Some((key, descriptor)), Ok(status)) =
                (self.add_stream(owner.clone(), flow, None), stack.tcp_status(flow))
            else {
                stack.tcp_abort(flow);
                stack.tcp_release(now, flow);
                return self.release(&owner, STREAM_BYTES);
            };
            // It was taken just now, so it is there.
            let _ = stack.tcp_set_owner(flow, uid);
            let accepted = Accepted { id: self.sockets[key].id, remote: status.remote, local: status.local };
            if let Some(Entry { socket: Socket::Listener(listener), .. }) = self.sockets.get_mut(listener_key)
            {
                listener.park(accepted, descriptor);
            }
            self.pump_stream(now, stack, key);
        }
    }

    pub(super) fn pump_stream(&mut self, now: Instant, stack: &mut Stack, key: usize) {
        let Some(Entry { socket: Socket::Stream(stream), owner, .. }) = self.sockets.get_mut(key) else {
            self.hung_up.remove(&key);
            return;
        };
        let flow = stream.flow;
        // Used up, it may still end; what would move waits, and with it the peer's window or the client's descriptor.
        let (most, pause) = match self.ledger.bytes(now, owner) {
            Ok(None) => (usize::MAX, None),
            Ok(Some(most)) => (most, Some(now)),
            Err(next) => (0, Some(next)),
        };
        let before = stream.received_bytes + stream.sent_bytes;
        let ended = stream.pump(now, stack, most);
        let moved = stream.received_bytes + stream.sent_bytes - before;
        if let Some(next) = pause {
            self.ledger.spend_bytes(owner, moved);
            if moved >= most as u64 && ended.is_none() {
                self.throttled.insert((next, key));
            }
        }
        if let Some(outcome) = ended {
            if let Some(refusal) = stream.refusal.take() {
                self.refused(stack, key, &refusal);
            }
            self.record(key, outcome);
            stack.tcp_release(now, flow);
            self.remove(key);
        }
    }

    /// Sends the messages that a client wrote, datagrams or raw frames, as many as it may now.
    fn pump_messages<E: Egress>(&mut self, now: Instant, stack: &mut Stack, egress: &mut E, key: usize) {
        let Some(Entry { owner, socket, .. }) = self.sockets.get_mut(key) else { return };
        let Some(messages) = socket.messages() else { return };
        let budget = match self.ledger.messages(now, owner) {
            Ok(budget) => budget,
            Err(next) => {
                if messages.is_readable() {
                    self.throttled.insert((next, key));
                }
                return;
            }
        };
        let before = socket.carried().sent.payload_bytes;
        let (taken, state) = match socket {
            Socket::Datagrams(datagrams) => {
                datagrams.collect(now, &self.gate, (&mut *stack, egress), &mut self.buffer, budget)
            }
            Socket::Frames(frames) => frames.collect(&self.gate, egress, &mut self.buffer, budget),
            Socket::Stream(_) | Socket::Listener(_) => return,
        };
        self.ledger.spend_packets(owner, taken);
        self.ledger.spend_bytes(owner, socket.carried().sent.payload_bytes - before);
        match state {
            State::Idle => {}
            State::Busy => self.unfinished.push(key),
            State::Gone => self.cut_socket(now, stack, key),
        }
    }

    /// Goes on with what had to make room for others. Returns whether there was any.
    pub(in crate::worker) fn resume<E: Egress>(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        egress: &mut E,
    ) -> bool {
        let unfinished = std::mem::take(&mut self.unfinished);
        for key in &unfinished {
            match self.sockets.get(*key).map(|entry| &entry.socket) {
                Some(Socket::Stream(_)) => self.pump_stream(now, stack, *key),
                _ => self.pump_messages(now, stack, egress, *key),
            }
        }
        !unfinished.is_empty()
    }
}
