//! The session machine. See the module above for its states.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::channel::{Channel, Kind};
use super::config::Config;
use super::gate;
use super::identity::Identity;
use super::noise::{Established, HASH_BYTES, Handshake};
use super::pairing::{Agreed, Exchange, Pin, Side};
use super::trust::{Standing, Trust};
use crate::config::Checked;
use crate::discovery::{Discovery, Transport};
use crate::error::Error;
use crate::key::PublicKey;
use crate::mux::Reject;
use crate::name::DeviceId;
use crate::random::Random;
use crate::read::Reader;
use crate::time::Instant;

/// Of HELLO; the first byte of it.
const HELLO_VERSION: u8 = 1;
/// A flag of HELLO: the sender has the receiver's key pinned.
const HELLO_PINNED: u8 = 1;
/// Frames that wait for the link. A driver that does not take them must not send more.
const OUTBOX_MAX: usize = 64;

/// What a session has to ask others about peers.
pub trait Directory {
    /// The key that the device announces.
    fn announced(&self, device: &DeviceId) -> Option<PublicKey>;

    /// A peer dialled us, and has proven its key: whether it may go on.
    fn accept(&mut self, now: Instant, key: &PublicKey, transport: Transport) -> Result<(), Error>;
}

impl Directory for Discovery {
    fn announced(&self, device: &DeviceId) -> Option<PublicKey> {
        Discovery::announced(self, device)
    }

    fn accept(&mut self, now: Instant, key: &PublicKey, transport: Transport) -> Result<(), Error> {
        Discovery::accept(self, now, key, transport)
    }
}

/// Everything around a session that calls need.
pub struct Context<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// Whom we trust.
    pub trust: &'a mut Trust,
    /// Who announces what.
    pub directory: &'a mut dyn Directory,
    /// Where randomness comes from.
    pub random: &'a mut dyn Random,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The device.
    pub device: DeviceId,
    /// Its key, proven.
    pub key: PublicKey,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Make a link to the peer, then call [`Session::link_up`] or [`Session::link_lost`].
    Dial,
    /// The peer has proven its key, and it or we do not know it: type its PIN here, or show ours there.
    PairingNeeded(Peer),
    /// The PIN was right: the peer's key is pinned. Keep it.
    Paired(Peer),
    /// The peer is who it has to be. Frames of the mux may go both ways.
    Ready(Peer),
    /// A frame of the mux.
    Data(Vec<u8>),
    /// The peer's key will be another one. Keep it, and pin it for discovery.
    Successor {
        /// The peer.
        peer: Peer,
        /// The key that follows.
        key: PublicKey,
    },
    /// The peer ended the session, in order.
    Closed,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun, or over.
    Idle,
    /// Waits for a link from outside.
    Listening,
    /// Waits for a link to be made.
    Dialing,
    /// A link from outside is there; its first message is not.
    Accepting,
    /// The link that we wanted is there.
    Connected,
    /// Proving who is who.
    Handshaking,
    /// Proven. Frames go both ways.
    Ready,
    /// Lost; it will be dialled again.
    Reconnect,
}

enum State {
    Idle,
    Listening,
    Dialing,
    Accepting { until: Instant },
    Connected { until: Instant },
    Handshaking { until: Instant, step: Box<Step> },
    Ready(Box<Met>),
    Reconnect { at: Instant },
}

/// How far the proof is.
enum Step {
    /// We sent message 1, which is kept for the case that a cookie is asked for; once.
    Second { noise: Handshake, first: Option<Vec<u8>> },
    /// We sent message 2.
    Third { noise: Handshake },
    /// The handshake is done, and our HELLO sent.
    Hello(Secured),
    /// One of us does not know the other.
    Unpaired(Met),
    /// Our PIN was typed; the peer's half of the exchange is due.
    Typed { met: Met, exchange: Exchange },
    /// The peer tries our PIN; its proof is due.
    Tried { met: Met, agreed: Agreed },
    /// We have sent our proof; the peer's is due.
    Proven { met: Met, agreed: Agreed },
}

/// The handshake's outcome.
struct Secured {
    channel: Channel,
    remote: PublicKey,
    hash: [u8; HASH_BYTES],
    /// What our HELLO said.
    pinned_here: bool,
}

/// The outcome of the binding.
struct Met {
    channel: Channel,
    hash: [u8; HASH_BYTES],
    peer: Peer,
}

/// One session. See the module's documentation.
pub struct Session {
    config: Checked<Config>,
    transport: Transport,
    /// Whom to dial; nobody, if we listen.
    target: Option<Peer>,
    state: State,
    outbox: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Session {
    /// A session that dials. It is [`Phase::Dialing`] at once, and asks for the link by an event.
    #[must_use]
    pub fn dial(config: Checked<Config>, transport: Transport, target: Peer) -> Session {
        let mut session = Session::new(config, transport, Some(target), State::Dialing);
        session.events.push_back(Event::Dial);
        session
    }

    /// A session that is dialled.
    #[must_use]
    pub fn listen(config: Checked<Config>, transport: Transport) -> Session {
        Session::new(config, transport, None, State::Listening)
    }

    fn new(config: Checked<Config>, transport: Transport, target: Option<Peer>, state: State) -> Session {
        Session { config, transport, target, state, outbox: VecDeque::new(), events: VecDeque::new() }
    }

    /// Where the session is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Idle => Phase::Idle,
            State::Listening => Phase::Listening,
            State::Dialing => Phase::Dialing,
            State::Accepting { .. } => Phase::Accepting,
            State::Connected { .. } => Phase::Connected,
            State::Handshaking { .. } => Phase::Handshaking,
            State::Ready(_) => Phase::Ready,
            State::Reconnect { .. } => Phase::Reconnect,
        }
    }

    /// Who is on the other side, once that is proven.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Ready(met) => Some(&met.peer),
            _ => None,
        }
    }

    /// The link is there.
    pub fn link_up(&mut self, now: Instant) -> Result<(), Error> {
        let until = now + self.config.handshake_timeout;
        self.state = match (&self.state, &self.target) {
            (State::Dialing, Some(_)) => State::Connected { until },
            (State::Listening, None) => State::Accepting { until },
            _ => return Err(Error::WrongPhase { phase: self.phase(), what: "a link" }),
        };
        Ok(())
    }

    /// The link is gone, or could not be made. A session that dials tries again at `retry`, or is over.
    pub fn link_lost(&mut self, retry: Option<Instant>) {
        self.outbox.clear();
        self.state = match (&self.target, retry) {
            (None, _) => State::Listening,
            (Some(_), Some(at)) => State::Reconnect { at },
            (Some(_), None) => State::Idle,
        };
    }

    /// Ends the session in order: what was sent before is complete.
    pub fn close(&mut self, now: Instant) -> Result<(), Error> {
        match mem::replace(&mut self.state, State::Idle) {
            State::Ready(mut met) => met.channel.seal(now, Kind::Close, &[], &mut self.outbox),
            _ => Ok(()),
        }
    }

    /// Ends the session if its peer is no longer trusted.
    pub fn recheck(&mut self, now: Instant, trust: &Trust) -> Result<(), Error> {
        let State::Ready(met) = &self.state else { return Ok(()) };
        let Peer { device, key } = &met.peer;
        let outcome = match trust.standing(now, device, key) {
            Ok(Standing::Pinned) => return Ok(()),
            Ok(Standing::Unknown) => Error::NotPinned { device: device.clone() },
            Err(error) => error,
        };
        self.close(now)?;
        Err(outcome)
    }

    /// Sends a frame of the mux.
    pub fn send(&mut self, now: Instant, frame: &[u8]) -> Result<(), Error> {
        if !self.can_send() {
            return Err(Error::WrongPhase { phase: self.phase(), what: "a frame to send" });
        }
        let State::Ready(met) = &mut self.state else { return Ok(()) };
        met.channel.seal(now, Kind::Data, frame, &mut self.outbox)
    }

    /// Whether [`Session::send`] takes a frame: the session is ready, and the link keeps up.
    #[must_use]
    pub fn can_send(&self) -> bool {
        matches!(self.state, State::Ready(_)) && self.outbox.len() < OUTBOX_MAX
    }

    /// Tells the peer of the key that will follow ours. Sessions that become ready later do so by themselves.
    pub fn announce_successor(&mut self, now: Instant, identity: &Identity) -> Result<(), Error> {
        match &mut self.state {
            State::Ready(met) => send_successor(now, met, identity, &mut self.outbox),
            _ => Ok(()),
        }
    }

    /// What is due.
    pub fn poll(&mut self, now: Instant, context: &mut Context<'_>) -> Result<(), Error> {
        match &self.state {
            State::Connected { until } => {
                let until = *until;
                self.state = State::Idle;
                self.state = self.begin(until, context)?;
            }
            State::Reconnect { at } if *at <= now => {
                self.state = State::Dialing;
                self.events.push_back(Event::Dial);
            }
            State::Handshaking { until, .. } | State::Accepting { until } if *until <= now => {
                let phase = self.phase();
                self.state = State::Idle;
                return Err(Error::TimedOut { phase });
            }
            _ => {}
        }
        Ok(())
    }

    /// When to call [`Session::poll`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Handshaking { until, .. } | State::Accepting { until } => Some(*until),
            State::Connected { .. } => Some(Instant::ZERO),
            State::Reconnect { at } => Some(*at),
            State::Idle | State::Listening | State::Dialing | State::Ready(_) => None,
        }
    }

    /// The next frame for the link.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The peer's PIN was typed here: try it.
    pub fn type_pin(&mut self, now: Instant, pin: &Pin, random: &mut dyn Random) -> Result<(), Error> {
        let phase = self.phase();
        let wrong = Error::WrongPhase { phase, what: "a PIN" };
        let State::Handshaking { step, .. } = &mut self.state else { return Err(wrong) };
        if !matches!(**step, Step::Unpaired(_)) {
            return Err(wrong);
        }
        let State::Handshaking { until, step } = mem::replace(&mut self.state, State::Idle) else {
            return Err(wrong);
        };
        let Step::Unpaired(mut met) = *step else { return Err(wrong) };
        let (exchange, message) = Exchange::begin(Side::Typed, pin, met.hash, random);
        met.channel.seal(now, Kind::Pake, &message, &mut self.outbox)?;
        self.state = State::Handshaking { until, step: Box::new(Step::Typed { met, exchange }) };
        Ok(())
    }

    /// A frame arrived. After an error the session is over.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        self.state = match mem::replace(&mut self.state, State::Idle) {
            State::Accepting { until } => self.answer(until, frame, context)?,
            State::Handshaking { until, step } => match *step {
                Step::Second { noise, first } => self.second(now, until, noise, first, frame, context)?,
                Step::Third { noise } => self.third(now, until, noise, frame, context)?,
                Step::Hello(secured) => self.hello(now, until, secured, frame, context)?,
                step => self.pairing(now, until, step, frame, context)?,
            },
            State::Ready(met) => self.ready(now, met, frame, context)?,
            state @ (State::Idle
            | State::Listening
            | State::Dialing
            | State::Connected { .. }
            | State::Reconnect { .. }) => {
                self.state = state;
                return Err(Error::WrongPhase { phase: self.phase(), what: "a frame" });
            }
        };
        Ok(())
    }

    /// We dialled: message 1.
    fn begin(&mut self, until: Instant, context: &mut Context<'_>) -> Result<State, Error> {
        let Some(target) = &self.target else { return Ok(State::Listening) };
        if target.key == context.identity.current().public() {
            return Err(Error::OwnKey);
        }
        let mut noise = Handshake::initiator(context.identity.current(), &target.key, context.random)?;
        let first = noise.write()?;
        self.outbox.push_back(first.clone());
        Ok(State::Handshaking { until, step: Box::new(Step::Second { noise, first: Some(first) }) })
    }

    /// We were dialled: message 1 is for one of our keys, or for nobody here. Message 2.
    fn answer(&mut self, until: Instant, frame: &[u8], context: &mut Context<'_>) -> Result<State, Error> {
        let mut outcome = Err(Error::NotAuthentic { message: "handshake message 1" });
        for key in context.identity.answering() {
            let mut noise = Handshake::responder(key, context.random)?;
            outcome = noise.read(frame).map(|()| noise);
            if outcome.is_ok() {
                break;
            }
        }
        let mut noise = outcome?;
        self.outbox.push_back(noise.write()?);
        Ok(State::Handshaking { until, step: Box::new(Step::Third { noise }) })
    }

    /// Message 2, or a cookie; message 3.
    fn second(
        &mut self,
        now: Instant,
        until: Instant,
        mut noise: Handshake,
        first: Option<Vec<u8>>,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        if let Some((cookie, first)) = gate::cookie(frame).zip(first) {
            // Once: a peer that asks again does not mean us.
            self.outbox.push_back([&first, cookie].concat());
            let step = Box::new(Step::Second { noise, first: None });
            return Ok(State::Handshaking { until, step });
        }
        noise.read(frame)?;
        self.outbox.push_back(noise.write()?);
        self.secure(now, until, noise.finish()?, context)
    }

    /// Message 3: now we know who dialled.
    fn third(
        &mut self,
        now: Instant,
        until: Instant,
        mut noise: Handshake,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        noise.read(frame)?;
        self.secure(now, until, noise.finish()?, context)
    }

    /// The handshake is done: our HELLO.
    fn secure(
        &mut self,
        now: Instant,
        until: Instant,
        established: Established,
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        let Established { ciphers, remote, hash } = established;
        if context.identity.answering().any(|own| own.public() == remote) {
            return Err(Error::OwnKey);
        }
        let is_pinned =
            |device: &DeviceId| context.trust.standing(now, device, &remote) == Ok(Standing::Pinned);
        let pinned_here = context.trust.pins().any(|(device, ..)| is_pinned(device));
        let name = context.identity.device().as_str().as_bytes();
        let flags = if pinned_here { HELLO_PINNED } else { 0 };
        // A name has at most 64 bytes.
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let mut channel = Channel::new(now, ciphers, &self.config);
        channel.seal(now, Kind::Hello, &[&[HELLO_VERSION, flags, len], name].concat(), &mut self.outbox)?;
        let step = Step::Hello(Secured { channel, remote, hash, pinned_here });
        Ok(State::Handshaking { until, step: Box::new(step) })
    }

    /// The peer's HELLO: the binding.
    fn hello(
        &mut self,
        now: Instant,
        until: Instant,
        secured: Secured,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        let Secured { mut channel, remote, hash, pinned_here } = secured;
        let Some((kind, body)) = channel.open(now, frame)? else {
            let step = Step::Hello(Secured { channel, remote, hash, pinned_here });
            return Ok(State::Handshaking { until, step: Box::new(step) });
        };
        expect(kind, Kind::Hello)?;
        let (device, pinned_there) = parse_hello(&body)?;
        let standing = self.bind(now, &device, &remote, context)?;
        let met = Met { channel, hash, peer: Peer { device, key: remote } };
        if standing == Standing::Pinned && pinned_here && pinned_there {
            return self.become_ready(now, met, context);
        }
        self.events.push_back(Event::PairingNeeded(met.peer.clone()));
        let until = now + self.config.pairing_timeout;
        Ok(State::Handshaking { until, step: Box::new(Step::Unpaired(met)) })
    }

    /// The static key met must be the one announced; without an announced one there is no session.
    fn bind(
        &self,
        now: Instant,
        device: &DeviceId,
        remote: &PublicKey,
        context: &mut Context<'_>,
    ) -> Result<Standing, Error> {
        let mismatch = || Err(Error::IdentityMismatch { device: device.clone(), key: *remote });
        match context.directory.announced(device) {
            None => return Err(Error::NoAnnouncedKey { device: device.clone() }),
            Some(announced) if announced != *remote => return mismatch(),
            Some(_) => {}
        }
        match &self.target {
            Some(target) if target.device != *device || target.key != *remote => return mismatch(),
            Some(_) => {}
            // Who dials was asked beforehand; who is dialled can ask only now.
            None => context.directory.accept(now, remote, self.transport)?,
        }
        context.trust.standing(now, device, remote)
    }

    fn become_ready(
        &mut self,
        now: Instant,
        mut met: Met,
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        send_successor(now, &mut met, context.identity, &mut self.outbox)?;
        self.events.push_back(Event::Ready(met.peer.clone()));
        Ok(State::Ready(Box::new(met)))
    }

    /// A record while we do not trust each other yet.
    fn pairing(
        &mut self,
        now: Instant,
        until: Instant,
        mut step: Step,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        let (Step::Unpaired(met)
        | Step::Typed { met, .. }
        | Step::Tried { met, .. }
        | Step::Proven { met, .. }) = &mut step
        else {
            return Err(Error::WrongPhase { phase: Phase::Handshaking, what: "a record" });
        };
        let Some((kind, body)) = met.channel.open(now, frame)? else {
            return Ok(State::Handshaking { until, step: Box::new(step) });
        };
        let step = match step {
            Step::Unpaired(mut met) => {
                expect(kind, Kind::Pake)?;
                let pin = context.trust.take_try(now)?;
                let (exchange, message) = Exchange::begin(Side::Shown, &pin, met.hash, context.random);
                let agreed = exchange.finish(&body)?;
                met.channel.seal(now, Kind::Pake, &message, &mut self.outbox)?;
                Step::Tried { met, agreed }
            }
            Step::Typed { mut met, exchange } => {
                expect(kind, Kind::Pake)?;
                let agreed = exchange.finish(&body)?;
                met.channel.seal(now, Kind::Confirm, &agreed.proof()?, &mut self.outbox)?;
                Step::Proven { met, agreed }
            }
            Step::Tried { mut met, agreed } => {
                expect(kind, Kind::Confirm)?;
                agreed.check(&body)?;
                context.trust.hide_pin();
                met.channel.seal(now, Kind::Confirm, &agreed.proof()?, &mut self.outbox)?;
                return self.paired(now, met, context);
            }
            Step::Proven { met, agreed } => {
                expect(kind, Kind::Confirm)?;
                agreed.check(&body)?;
                return self.paired(now, met, context);
            }
            step => step,
        };
        Ok(State::Handshaking { until, step: Box::new(step) })
    }

    fn paired(&mut self, now: Instant, met: Met, context: &mut Context<'_>) -> Result<State, Error> {
        context.trust.pin(met.peer.device.clone(), met.peer.key)?;
        self.events.push_back(Event::Paired(met.peer.clone()));
        self.become_ready(now, met, context)
    }

    fn ready(
        &mut self,
        now: Instant,
        mut met: Box<Met>,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
        let Some((kind, body)) = met.channel.open(now, frame)? else { return Ok(State::Ready(met)) };
        match kind {
            Kind::Data => self.events.push_back(Event::Data(body)),
            Kind::Successor => {
                let (key, grace) = parse_successor(&body)?;
                context.trust.succeed(now, &met.peer.device, key, grace)?;
                self.events.push_back(Event::Successor { peer: met.peer.clone(), key });
            }
            Kind::Close => {
                self.events.push_back(Event::Closed);
                return Ok(State::Idle);
            }
            Kind::Hello | Kind::Rekey | Kind::Pake | Kind::Confirm => {
                return Err(Error::UnexpectedRecord { found: kind as u8 });
            }
        }
        Ok(State::Ready(met))
    }
}

/// Fails unless the record is of the kind that is due. Data before the session is ready has a name of its own.
fn expect(found: Kind, due: Kind) -> Result<(), Error> {
    match found {
        found if found == due => Ok(()),
        Kind::Data => Err(Error::Rejected(Reject::UnauthenticatedSession)),
        Kind::Close => Err(Error::ClosedByPeer),
        found => Err(Error::UnexpectedRecord { found: found as u8 }),
    }
}

/// HELLO: version u8, flags u8, length u8, device id.
fn parse_hello(body: &[u8]) -> Result<(DeviceId, bool), Error> {
    let mut reader = Reader::new("HELLO", body);
    let version = reader.u8("version")?;
    if version != HELLO_VERSION {
        return Err(Error::UnsupportedVersion { message: "HELLO", found: version, known: HELLO_VERSION });
    }
    let flags = reader.u8("flags")?;
    let device = DeviceId::from_bytes(reader.short("device id")?)?;
    reader.end()?;
    Ok((device, flags & HELLO_PINNED != 0))
}

/// SUCCESSOR: key [32], grace in seconds u32.
fn parse_successor(body: &[u8]) -> Result<(PublicKey, Duration), Error> {
    let mut reader = Reader::new("SUCCESSOR", body);
    let key = PublicKey::new(reader.array("key")?).ok_or(Error::InvalidKey)?;
    let grace = u32::from_be_bytes(reader.array("grace period")?);
    reader.end()?;
    Ok((key, Duration::from_secs(grace.into())))
}

fn send_successor(
    now: Instant,
    met: &mut Met,
    identity: &Identity,
    outbox: &mut VecDeque<Vec<u8>>,
) -> Result<(), Error> {
    let Some((key, grace)) = identity.successor(now) else { return Ok(()) };
    let seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
    let body = [&key.as_bytes()[..], &seconds.to_be_bytes()].concat();
    met.channel.seal(now, Kind::Successor, &body, outbox)
}
