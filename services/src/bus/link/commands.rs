//! What a session's task is asked to do: open and take streams, type a PIN, look again at whom we trust, end.

use std::task::{Context as Waking, Poll};

use netd_ipc::services::ErrorKind;
use netd_softbus::mux::{Reject, ResetCode, Role, StreamId};
use netd_softbus::session::{Peer, Pin, Session};
use netd_softbus::{Error, StreamName};
use tokio::io::DuplexStream;
use tokio::sync::oneshot;

use super::super::clock::random;
use super::super::events::of;
use super::super::pump::{End, Pump};
use super::super::remote::Handle;
use super::super::streams::{Claim, Made, pair};
use super::{Ended, Link, NUMBERED, Why};
use crate::Failure;

/// Commands that wait for a session to be ready; more fail.
const WAITING_MAX: usize = 64;
/// Names that are tried for a stream whose service has one already: more than there can be streams.
const NAMES_MAX: usize = 256;

/// For whom a stream is.
#[derive(Debug)]
pub(in crate::bus) struct Owner {
    pub(in crate::bus) claim: Claim,
    pub(in crate::bus) reply: oneshot::Sender<Result<Made, Failure>>,
}

#[derive(Debug)]
pub(in crate::bus) enum Command {
    /// Open a stream.
    Open { service: String, priority: u8, owner: Owner },
    /// A client takes a stream of the peer's.
    Accept { stream: StreamId, owner: Owner },
    /// Nobody takes it.
    Refuse { stream: StreamId },
    /// Somebody wants to ask the peer something.
    Control { reply: oneshot::Sender<Result<Handle, Failure>> },
    /// Somebody has a payload for the peer.
    OpenCarrier { reply: oneshot::Sender<Result<(u32, DuplexStream), Failure>> },
    /// The peer told of a payload. If it sent none, there is no answer.
    TakeCarrier { number: u32, reply: oneshot::Sender<DuplexStream> },
    /// Nobody waits for it.
    RefuseCarrier { number: u32 },
    /// The peer's PIN was typed here.
    Type { pin: Pin, reply: oneshot::Sender<Result<Peer, Failure>> },
    /// Somebody was revoked.
    Recheck,
    /// End.
    Close,
}

/// A stream that we opened, and the peer has not taken yet.
#[derive(Debug)]
pub(super) struct Opening(Owner);

impl Opening {
    pub(super) fn refused(self, code: ResetCode) {
        let message = match code {
            ResetCode::Refused => {
                "the device does not take the stream: nobody offers the service there, or it is not for this device".to_owned()
            }
            ResetCode::Rejected(reject) => format!("the device does not take the stream: {reject}"),
            other => format!("the device does not take the stream: {other:?}"),
        };
        self.failed(&Failure::new(ErrorKind::StreamRefused, message));
    }

    pub(super) fn failed(self, why: &Why) {
        // Whoever asked may be gone.
        let _ = self.0.reply.send(Err(why.clone()));
    }
}

impl Command {
    /// The session is over, or never came to be.
    pub(in crate::bus) fn failed(self, why: &Why) {
        match self {
            Command::Open { owner, .. } | Command::Accept { owner, .. } => {
                drop(owner.reply.send(Err(why.clone())));
            }
            Command::Type { reply, .. } => drop(reply.send(Err(why.clone()))),
            Command::Control { reply } => drop(reply.send(Err(why.clone()))),
            Command::OpenCarrier { reply } => drop(reply.send(Err(why.clone()))),
            Command::Refuse { .. }
            | Command::TakeCarrier { .. }
            | Command::RefuseCarrier { .. }
            | Command::Recheck
            | Command::Close => {}
        }
    }
}

impl Link {
    pub(super) fn take_commands(&mut self, cx: &mut Waking<'_>) -> Result<bool, Ended> {
        let mut moved = false;
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            self.command(command)?;
            moved = true;
        }
        Ok(moved)
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), Ended> {
        match command {
            Command::Close => {
                let now = self.bus.clock.now();
                self.closing = true;
                Ok(self.session.close(now)?)
            }
            Command::Recheck => {
                let now = self.bus.clock.now();
                let core = self.bus.core();
                Ok(self.session.recheck(now, &core.trust)?)
            }
            Command::Refuse { stream } => {
                if let Some(mux) = &mut self.mux {
                    // It may be over by itself.
                    let _ = mux.refuse(stream);
                }
                Ok(())
            }
            Command::Type { reply, .. } if self.session.peer().is_some() => {
                if let Some(peer) = self.session.peer() {
                    let _ = reply.send(Ok(peer.clone()));
                }
                Ok(())
            }
            command @ (Command::Open { .. }
            | Command::Accept { .. }
            | Command::Control { .. }
            | Command::Type { .. })
                if self.mux.is_none() =>
            {
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.push(command);
                } else {
                    let message = "too many streams wait for this session";
                    command.failed(&Failure::new(ErrorKind::QuotaExceeded, message));
                }
                Ok(())
            }
            Command::Open { service, priority, owner } => {
                self.open(&service, priority, owner);
                Ok(())
            }
            Command::Accept { stream, owner } => {
                let taken = match &mut self.mux {
                    Some(mux) => mux.accept(stream),
                    None => Err(Error::GoingAway),
                };
                match taken {
                    Ok(()) => self.hand_out(stream, owner),
                    Err(error) => drop(owner.reply.send(Err(Ended::from(error).why()))),
                }
                Ok(())
            }
            Command::Control { reply } => {
                // Whoever asked may be gone; so for the next.
                let _ = reply.send(self.control());
                Ok(())
            }
            Command::OpenCarrier { reply } => {
                let _ = reply.send(self.open_carrier());
                Ok(())
            }
            Command::TakeCarrier { number, reply } => {
                if let Some(pipe) = self.take_carrier(number) {
                    let _ = reply.send(pipe);
                }
                Ok(())
            }
            Command::RefuseCarrier { number } => {
                self.refuse_carrier(number);
                Ok(())
            }
            // Handled above: there is no mux before the session is ready.
            Command::Type { .. } => Ok(()),
        }
    }

    fn open(&mut self, service: &str, priority: u8, owner: Owner) {
        let Some(mux) = &mut self.mux else { return };
        let mut named = service.parse::<StreamName>();
        let mut opened = Err(Error::GoingAway);
        for _ in 0..NAMES_MAX {
            opened = named.and_then(|name| mux.open(name, priority));
            if !matches!(opened, Err(Error::Rejected(Reject::DuplicateStreamName))) {
                break;
            }
            // Streams to one service differ in what stands behind its name.
            self.names = self.names.wrapping_add(1);
            named = format!("{service}{NUMBERED}{}", self.names).parse();
        }
        match opened {
            Ok(stream) => drop(self.opening.insert(stream, Opening(owner))),
            Err(error) => drop(owner.reply.send(Err(Ended::from(error).why()))),
        }
    }

    /// The peer took a stream of ours.
    pub(super) fn accepted(&mut self, stream: StreamId) {
        if let Some(Opening(owner)) = self.opening.remove(&stream) {
            self.hand_out(stream, owner);
        }
    }

    /// Makes the client's end of a stream that both sides want.
    fn hand_out(&mut self, stream: StreamId, Owner { claim, reply }: Owner) {
        let made = pair().map(|(ours, socket)| {
            let (id, received) = self.bus.core().outcomes.begin(claim.uid);
            self.pumps.insert(stream, (id, Pump::new(stream, End::Client(ours), received, Some(claim))));
            Made { id, socket }
        });
        if let Err(unsent) = reply.send(made) {
            // Whoever asked is gone.
            if let Ok(Made { id, .. }) = unsent {
                self.bus.core().outcomes.end(id, netd_ipc::services::BusOutcome::Reset);
            }
            self.pumps.remove(&stream);
            if let Some(mux) = &mut self.mux {
                let _ = mux.reset(stream);
            }
        }
    }

    /// One of us does not know the other: a PIN was typed here, or one is shown here, or the session is over.
    pub(super) fn pairing_needed(&mut self, _peer: &Peer) -> Result<(), Ended> {
        let now = self.bus.clock.now();
        if self.role == Role::Listener {
            let shown = self.bus.core().trust.tries_left(now).is_some_and(|tries| tries > 0);
            return if shown { Ok(()) } else { Err(Ended::NotPaired) };
        }
        let typed = self.waiting.iter().find_map(|command| match command {
            Command::Type { pin, .. } => Some(pin.clone()),
            _ => None,
        });
        let Some(pin) = typed else { return Err(Ended::NotPaired) };
        Ok(Session::type_pin(&mut self.session, now, &pin, &mut random)?)
    }

    /// The PIN was right: the key is pinned, kept, and whoever typed it is told once it is.
    pub(super) fn paired(&mut self, peer: &Peer) {
        let now = self.bus.clock.now();
        // Where there is no room among the pinned, it is found as a stranger is.
        let _ = self.bus.core().discovery.pin(now, peer.device.clone(), peer.key);
        self.bus.tell(of("paired", Some(&peer.device), Some(&peer.key)));
        tracing::info!(peer = %peer.device, key = %peer.key, "a device was paired");
        let (typed, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|command| matches!(command, Command::Type { .. }));
        self.waiting = others;
        let typed: Vec<Command> = typed;
        let (bus, peer) = (std::sync::Arc::clone(&self.bus), peer.clone());
        tokio::spawn(async move {
            let saved = bus.save().await;
            for command in typed {
                if let Command::Type { reply, .. } = command {
                    let _ = reply.send(saved.clone().map(|()| peer.clone()));
                }
            }
        });
    }
}
