//! The session machine. See the module above for its states.

mod steps;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use super::channel::{Channel, Kind};
use super::config::Config;
use super::identity::Identity;
use super::noise::{HASH_BYTES, Handshake};
use super::pairing::{Agreed, Exchange, Pin, Side};
use super::trust::{Standing, Trust};
use crate::config::Checked;
use crate::discovery::{Discovery, Transport};
use crate::error::Error;
use crate::key::PublicKey;
use crate::name::DeviceId;
use crate::random::Random;
use crate::time::Instant;
use steps::send_successor;

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
}
