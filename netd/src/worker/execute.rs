//! The control thread's commands, each handed to whom it concerns.

use netd_ipc::{ErrorKind, PollMode, RecordKind};
use netd_stack::Instant;
use netd_stack::dns::{Kind, Query};
use netd_virtqueue::Error;

use crate::command::{Command, Reply, Submission};
use crate::device::Backend;
use crate::worker::egress::TxEgress;
use crate::worker::report::About;
use crate::worker::slot::Slot;
use crate::worker::{Worker, report};

impl Worker {
    pub(super) fn take_commands(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Ok(submission) = self.submissions.try_recv() {
            any = true;
            self.execute(now, submission);
        }
        any
    }

    fn execute(&mut self, now: Instant, Submission { token, owner, command, decided }: Submission) {
        let Self { slot, clients, backend, about, taps, blueprint, history, clock, .. } = self;
        let caller = (token, owner);
        match command {
            Command::Status => {
                let status = report::status(about, slot, clients, clock, now);
                clients.completions.send(token, Reply::Status(status));
            }
            Command::Device => {
                let device = report::device(about, slot, backend);
                clients.completions.send(token, Reply::Device(device));
            }
            Command::SetOffload { name, on } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                let reply = match live.driver.set_offload(&name, on) {
                    Ok(()) => {
                        tracing::info!(uid = caller.1.uid, offload = %name, on, "an offload was switched");
                        blueprint.offloads.insert(name, on);
                        Reply::Device(report::device(about, slot, backend))
                    }
                    Err(error) => Reply::Failed(refusal(&error), error.to_string()),
                };
                clients.completions.send(token, reply);
            }
            Command::Interfaces => {
                let interfaces = report::interfaces(slot, history, now);
                clients.completions.send(token, Reply::Interfaces(interfaces));
            }
            Command::Sockets => {
                let sockets = report::sockets(slot, clients);
                clients.completions.send(token, Reply::Sockets(sockets));
            }
            Command::Neighbors => {
                clients.completions.send(token, Reply::Neighbors(report::neighbors(slot)));
            }
            Command::Statistics => {
                let statistics = report::statistics(about, slot, clients, clock, now);
                clients.completions.send(token, Reply::Statistics(statistics));
            }
            Command::Clients => {
                let report = report::clients(slot, clients, &blueprint.dns, &blueprint.tables, now);
                clients.completions.send(token, Reply::Clients(report));
            }
            Command::Outcome { id } => clients.outcome(token, id, caller.1.uid),
            Command::Connect { remote, timeout } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.connect(now, &mut live.stack, caller, (remote, decided), timeout);
            }
            Command::ConnectName { name, port, timeout } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                let asker = (token, caller.1.uid);
                if clients.charge_packet(now, &caller)
                    && clients.dial(now, caller, (name.clone(), port), decided.as_ref(), timeout)
                {
                    live.names.find(now, asker, &name);
                }
            }
            Command::Listen { address, port, backlog } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.listen(now, &mut live.stack, caller, (address, port), backlog);
            }
            Command::BindUdp { address, port } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.bind_udp(&mut live.stack, caller, (address, port));
            }
            Command::Ping { to, timeout, bytes } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                let mut egress = TxEgress(live.driver.queues().1, taps);
                clients.ping(now, (&mut live.stack, &mut egress), &caller, to, (bytes, timeout));
            }
            Command::TcpOptions { id, options } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.set_tcp_options(&mut live.stack, caller, id, options);
            }
            Command::UdpOptions { id, options } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.set_udp_options(now, &mut live.stack, caller, id, options);
            }
            Command::Resolve { name, kind } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                if clients.charge_packet(now, &caller) {
                    let query = Query { name, kind: record_kind(kind) };
                    live.names.start(now, (token, caller.1.uid), &query, &clients.completions);
                }
            }
            Command::SetPoll { mode } => {
                clients.completions.send(token, set_poll(backend, about, mode));
            }
            Command::Capture { filter, snap_bytes } => {
                clients.capture(taps, caller, (filter, snap_bytes));
            }
            Command::OpenFrames { ether_type } => {
                let Some(live) = slot.live_or_fail(clients, token) else { return };
                clients.open_frames(caller, ether_type, (live.mac, live.stack.mtu().into()));
            }
            Command::Cancel => {
                if let Slot::Live(live) = slot {
                    live.names.cancel(token);
                    clients.cancel(now, &mut live.stack, token);
                }
            }
        }
    }
}

fn set_poll(backend: &mut Backend, about: &mut About, mode: PollMode) -> Reply {
    let may = if mode == PollMode::Busy { Ok(true) } else { backend.prepare_to_wake() };
    match may {
        Ok(true) => Reply::Poll(about.spin.set_mode(mode)),
        Ok(false) => {
            let message = "the function has no MSI-X, so it can only be polled: busy";
            Reply::Failed(ErrorKind::Unsupported, message.to_owned())
        }
        Err(error) => Reply::Failed(ErrorKind::Internal, error.to_string()),
    }
}

/// Why an offload was not switched, in a word.
fn refusal(error: &Error) -> ErrorKind {
    match error {
        Error::UnknownOffload { .. } => ErrorKind::InvalidInput,
        Error::OffloadAbsent { .. } | Error::OffloadFixed { .. } => ErrorKind::Unsupported,
        // The device did not take its doorbell: it is about to be reset.
        _ => ErrorKind::DeviceUnavailable,
    }
}

/// The interface's word in the resolver's.
fn record_kind(kind: RecordKind) -> Kind {
    match kind {
        RecordKind::Addresses => Kind::Addresses,
        RecordKind::A => Kind::A,
        RecordKind::Aaaa => Kind::Aaaa,
        RecordKind::Cname => Kind::Cname,
        RecordKind::Ptr => Kind::Ptr,
        RecordKind::Srv => Kind::Srv,
        RecordKind::Txt => Kind::Txt,
    }
}
