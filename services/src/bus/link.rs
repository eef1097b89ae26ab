//! One session on its TCP connection: a task that turns the session machine, the mux and the pumps of its streams.
//!
//! A turn takes commands, reads, advances the machines, moves bytes and writes; when nothing moves any more, the task sleeps until a
//! descriptor, a command or a timer wakes it. A peer that goes wrong ends its own task, and nothing else.

mod commands;
mod end;
mod remote;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};
use std::time::Duration;

use netd_ipc::services::{BusEvent, BusOutcome};
use netd_ipc::tokio::TcpStream;
use netd_softbus::discovery::Transport;
use netd_softbus::mux::{self, Mux, Role, StreamId};
use netd_softbus::remote::RESERVED;
use netd_softbus::session::{Context, Deframer, Event, Session, Ticket, frame};
use netd_softbus::{Error, Instant};
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use self::commands::Opening;
pub(super) use self::commands::{Command, Owner};
pub(super) use self::end::{Ended, Why};
use super::clock::random;
use super::events::{mark, of};
use super::pump::{Pump, Turn};
use super::registry::{Offer, Origin};
use super::remote::Handle;
use super::{Bus, Core};

/// Bytes that wait for the connection before the mux is asked for more: two records of the longest, so that one is always there.
const OUT_MAX: usize = 72 * 1024;
/// Bytes read at a time.
const READ_BYTES: usize = 32 * 1024;
/// Turns before other tasks get their share of the thread.
const TURNS_MAX: usize = 32;
/// How long the last words of a session may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between a service and a number in a stream's name, since a name can be used once at a time. No service has it in its name.
const NUMBERED: char = RESERVED;

/// See the module's documentation.
pub(super) struct Link {
    bus: Arc<Bus>,
    /// Under which the sessions' table has it.
    number: u64,
    session: Session,
    role: Role,
    mux: Option<Mux>,
    tcp: TcpStream,
    remote: SocketAddr,
    deframer: Deframer,
    out: Vec<u8>,
    written: usize,
    pumps: BTreeMap<StreamId, (u64, Pump)>,
    opening: BTreeMap<StreamId, Opening>,
    /// What came before the session was ready.
    waiting: Vec<Command>,
    commands: mpsc::Receiver<Command>,
    /// What the peer's streams are answered with.
    own_commands: mpsc::Sender<Command>,
    timer: Pin<Box<Sleep>>,
    ticket: Option<Ticket>,
    names: u32,
    /// Where clients ask the peer, once one does.
    asker: Option<Handle>,
    /// Streams with payloads of the peer's, of which no envelope has told yet: the oldest first.
    carriers: VecDeque<(u32, StreamId)>,
    /// The number of our last.
    carrier: u32,
    closing: bool,
}

/// What a link is made of.
pub(super) struct Parts {
    pub(super) number: u64,
    pub(super) session: Session,
    pub(super) role: Role,
    pub(super) tcp: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) deframer: Deframer,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) own_commands: mpsc::Sender<Command>,
    pub(super) ticket: Option<Ticket>,
}

impl Link {
    pub(super) fn new(bus: &Arc<Bus>, parts: Parts) -> Link {
        let Parts { number, session, role, tcp, remote, deframer, commands, own_commands, ticket } = parts;
        Link {
            bus: Arc::clone(bus),
            number,
            session,
            role,
            mux: None,
            tcp,
            remote,
            deframer,
            out: Vec::new(),
            written: 0,
            pumps: BTreeMap::new(),
            opening: BTreeMap::new(),
            waiting: Vec::new(),
            commands,
            own_commands,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            ticket,
            names: 0,
            asker: None,
            carriers: VecDeque::new(),
            carrier: 0,
            closing: false,
        }
    }

    /// Until the session is over.
    pub(super) async fn run(mut self) {
        let ended = poll_fn(|cx| self.poll(cx)).await;
        // What tells the peer why, if it still listens.
        while let Some(last) = self.session.poll_transmit() {
            if let Ok(bytes) = frame(&last) {
                self.out.extend(bytes);
            }
        }
        let rest = self.out.split_off(self.written.min(self.out.len()));
        let farewell = async {
            self.tcp.write_all(&rest).await?;
            self.tcp.shutdown().await
        };
        // It was over anyway.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        self.over(&ended);
    }

    fn poll(&mut self, cx: &mut Waking<'_>) -> Poll<Ended> {
        for _ in 0..TURNS_MAX {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => {
                    let deadline = self.deadline();
                    self.timer.as_mut().reset(self.bus.clock.wake_at(deadline));
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(why) => return Poll::Ready(why),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn; whether anything moved.
    fn turn(&mut self, cx: &mut Waking<'_>) -> Result<bool, Ended> {
        let commanded = self.take_commands(cx)?;
        let received = self.receive(cx)?;
        self.advance()?;
        let pumped = self.pump(cx);
        self.fill();
        let sent = self.send(cx)?;
        if self.closing && self.written == self.out.len() {
            return Err(Ended::Closed);
        }
        Ok(commanded || received || pumped || sent)
    }

    fn deadline(&self) -> Instant {
        // Without either there is nothing to wait for but the peer; a minute is as good as any.
        let idle = self.bus.clock.now() + Duration::from_secs(60);
        let session = self.session.poll_timeout().unwrap_or(idle);
        self.mux.as_ref().map_or(session, |mux| mux.poll_timeout().min(session))
    }

    /// Calls the session with everything around it.
    fn with_session<T>(
        &mut self,
        call: impl FnOnce(&mut Session, Instant, &mut Context<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let now = self.bus.clock.now();
        let mut core = self.bus.core();
        let Core { identity, trust, discovery, .. } = &mut *core;
        let mut random = random;
        let mut context = Context { identity, trust, directory: discovery, random: &mut random };
        call(&mut self.session, now, &mut context)
    }

    /// Gives the session a first frame that came before the link was there.
    pub(super) fn begin(&mut self, message: &[u8]) -> Result<(), Error> {
        self.with_session(|session, now, context| session.handle_frame(now, message, context))
    }

    fn receive(&mut self, cx: &mut Waking<'_>) -> Result<bool, Ended> {
        let mut chunk = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut chunk);
        // What the gate's first read brought besides its frame is there already.
        let mut moved = self.take_frames()?;
        match Pin::new(&mut self.tcp).poll_read(cx, &mut buffer) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Err(Ended::PeerLeft),
            Poll::Ready(Ok(())) => {
                self.deframer.push(buffer.filled());
                self.take_frames()?;
                moved = true;
            }
            Poll::Ready(Err(error)) => return Err(Ended::Lost(error)),
        }
        Ok(moved)
    }

    fn take_frames(&mut self) -> Result<bool, Ended> {
        let mut moved = false;
        while let Some(frame) = self.deframer.next_frame()?.map(<[u8]>::to_vec) {
            self.with_session(|session, now, context| session.handle_frame(now, &frame, context))?;
            self.take_events()?;
            moved = true;
        }
        Ok(moved)
    }

    /// What is due, and what came of it.
    fn advance(&mut self) -> Result<(), Ended> {
        self.with_session(Session::poll)?;
        self.take_events()?;
        let now = self.bus.clock.now();
        if let Some(mux) = &mut self.mux {
            mux.poll(now)?;
        }
        while let Some(event) = self.mux.as_mut().and_then(Mux::poll_event) {
            self.take_mux_event(event);
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), Ended> {
        while let Some(event) = self.session.poll_event() {
            match event {
                // The driver made the link before the session asked for it.
                Event::Dial => {}
                Event::Data(bytes) => {
                    let now = self.bus.clock.now();
                    if let Some(mux) = &mut self.mux {
                        mux.handle_frame(now, &bytes)?;
                    }
                }
                Event::PairingNeeded(peer) => self.pairing_needed(&peer)?,
                Event::Paired(peer) => self.paired(&peer),
                Event::Ready(peer) => self.ready(&peer)?,
                Event::Successor { peer, key } => {
                    let now = self.bus.clock.now();
                    // Where there is no room for it, the peer is found by its old key for as long as that is good.
                    let _ = self.bus.core().discovery.pin(now, peer.device, key);
                    self.bus.save_later();
                }
                Event::Closed => return Err(Ended::PeerLeft),
            }
        }
        Ok(())
    }

    fn ready(&mut self, peer: &netd_softbus::session::Peer) -> Result<(), Ended> {
        let now = self.bus.clock.now();
        {
            let mut core = self.bus.core();
            if let Some(ticket) = self.ticket.take() {
                core.gate.done(ticket);
            }
            let heard = core.discovery.peer(&peer.key).and_then(|known| {
                known.addresses.iter().copied().find(|address| address.ip() == self.remote.ip())
            });
            core.session_ready(self.number, peer)?;
            core.discovery.session_opened(now, &peer.key, heard)?;
        }
        mark("auth ok");
        mark(&format!("identity bound peer={}", peer.device));
        tracing::info!(peer = %peer.device, remote = %self.remote, "a bus session is ready");
        self.bus.tell(of("session_ready", Some(&peer.device), Some(&peer.key)));
        self.mux = Some(Mux::new(self.bus.mux_config.clone(), self.role, now));
        for command in std::mem::take(&mut self.waiting) {
            self.command(command)?;
        }
        Ok(())
    }

    fn take_mux_event(&mut self, event: mux::Event) {
        match event {
            mux::Event::Opened { stream, name, priority } => self.offered(stream, name.as_str(), priority),
            mux::Event::Accepted(stream) => self.accepted(stream),
            mux::Event::Reset { stream, code } => {
                if let Some((id, _)) = self.pumps.remove(&stream) {
                    self.bus.core().outcomes.end(id, BusOutcome::Reset);
                }
                if let Some(opening) = self.opening.remove(&stream) {
                    opening.refused(code);
                }
                self.carriers.retain(|(_, carrier)| *carrier != stream);
            }
            // All pumps have their turn anyway.
            mux::Event::Readable(_) | mux::Event::Writable(_) | mux::Event::GoingAway => {}
        }
    }

    /// The peer opened a stream: it is offered to the service's client, if the peer may reach the service.
    fn offered(&mut self, stream: StreamId, name: &str, priority: u8) {
        if name.starts_with(RESERVED) {
            return self.offered_reserved(stream, name);
        }
        let service = name.split_once(NUMBERED).map_or(name, |(service, _)| service);
        let Some(peer) = self.session.peer() else { return };
        let origin = Some(Origin::Peer { session: self.own_commands.clone(), stream });
        let offer = Offer { device: peer.device.as_str().to_owned(), priority, origin };
        let core = self.bus.core();
        let outcome = service.parse().map_err(|_| "no service has such a name").and_then(|named| {
            core.discovery
                .acl()
                .service(&peer.device, Transport::Tcp, &named)
                .map_err(|_| "no rule of [[bus.acl]] allows it")
        });
        let outcome = outcome.and_then(|_| core.registry.offer(service, offer));
        drop(core);
        // An offer that was not taken has refused the stream by itself.
        if let Err(why) = outcome {
            tracing::info!(peer = %peer.device, service = %service.escape_debug(), why, "a bus stream is refused");
        }
    }

    fn pump(&mut self, cx: &mut Waking<'_>) -> bool {
        let Some(mux) = &mut self.mux else { return false };
        let (mut moved, mut over) = (false, Vec::new());
        for (stream, (id, pump)) in &mut self.pumps {
            match pump.turn(mux, cx) {
                Turn::Idle => {}
                Turn::Moved => moved = true,
                Turn::Finished => over.push((*stream, *id, BusOutcome::Finished)),
                Turn::Broken => over.push((*stream, *id, BusOutcome::Reset)),
            }
        }
        for (stream, id, outcome) in over {
            if outcome == BusOutcome::Reset {
                // It may be over on the other side already.
                let _ = mux.reset(stream);
            }
            self.bus.core().outcomes.end(id, outcome);
            self.pumps.remove(&stream);
            moved = true;
        }
        moved
    }

    /// Takes from the machines what the connection has room for.
    fn fill(&mut self) {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        let now = self.bus.clock.now();
        while self.out.len() - self.written < OUT_MAX {
            if self.session.can_send()
                && let Some(bytes) = self.mux.as_mut().and_then(Mux::poll_transmit)
                && self.session.send(now, &bytes).is_err()
            {
                return;
            }
            let Some(record) = self.session.poll_transmit() else { return };
            // A record is never longer than a frame.
            self.out.extend(frame(&record).unwrap_or_default());
        }
    }

    fn send(&mut self, cx: &mut Waking<'_>) -> Result<bool, Ended> {
        let mut moved = false;
        while self.written < self.out.len() {
            let waiting = self.out.get(self.written..).unwrap_or_default();
            match Pin::new(&mut self.tcp).poll_write(cx, waiting) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(Ended::Lost(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(Ended::Lost(error)),
            }
        }
        Ok(moved)
    }

    /// It is over before it began.
    pub(super) fn abandon(mut self, ended: &Ended) {
        self.over(ended);
    }

    /// The session is over: everybody who has something to do with it is told.
    fn over(&mut self, ended: &Ended) {
        let now = self.bus.clock.now();
        let why = ended.why();
        {
            let mut core = self.bus.core();
            if let Some(ticket) = self.ticket.take() {
                core.gate.done(ticket);
            }
            if let Some(peer) = core.session_over(self.number) {
                // It is gone from the table only if it was unpinned meanwhile.
                let _ = core.discovery.session_closed(now, &peer.key);
                // If it was started anew, it has to hear of us before it can dial.
                core.discovery.announce_again(now);
                self.bus.announce();
                let event = of("session_ended", Some(&peer.device), Some(&peer.key));
                self.bus.tell(BusEvent { detail: Some(why.message.clone()), ..event });
            } else if self.role == Role::Dialer
                && let Some(key) = core.dialled(self.number)
            {
                let _ = core.discovery.dial_failed(now, &key, &mut random);
            }
            core.forget(self.number);
            for (id, _) in std::mem::take(&mut self.pumps).into_values() {
                core.outcomes.end(id, BusOutcome::Reset);
            }
        }
        if let Ended::Bus(Error::IdentityMismatch { device, .. }) = ended {
            self.bus.mismatch(device);
        }
        tracing::info!(remote = %self.remote, why = %why.message, "a bus session is over");
        for opening in std::mem::take(&mut self.opening).into_values() {
            opening.failed(&why);
        }
        self.commands.close();
        let queued = std::iter::from_fn(|| self.commands.try_recv().ok());
        for command in std::mem::take(&mut self.waiting).into_iter().chain(queued) {
            command.failed(&why);
        }
    }
}
