//! What a frame does to a session: the handshake, the binding, the pairing, and records once it is ready.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::channel::{Channel, Kind};
use super::super::gate;
use super::super::identity::Identity;
use super::super::noise::{Established, Handshake};
use super::super::pairing::{Exchange, Side};
use super::super::trust::Standing;
use super::{Context, Event, Met, Peer, Phase, Secured, Session, State, Step};
use crate::error::Error;
use crate::key::PublicKey;
use crate::mux::Reject;
use crate::name::DeviceId;
use crate::read::Reader;
use crate::time::Instant;

/// Of HELLO; the first byte of it.
const HELLO_VERSION: u8 = 1;
/// A flag of HELLO: the sender has the receiver's key pinned.
const HELLO_PINNED: u8 = 1;

impl Session {
    /// We dialled: message 1.
    pub(super) fn begin(&mut self, until: Instant, context: &mut Context<'_>) -> Result<State, Error> {
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
    pub(super) fn answer(
        &mut self,
        until: Instant,
        frame: &[u8],
        context: &mut Context<'_>,
    ) -> Result<State, Error> {
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
    pub(super) fn second(
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
    pub(super) fn third(
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
    pub(super) fn hello(
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
    pub(super) fn pairing(
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

    pub(super) fn ready(
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

pub(super) fn send_successor(
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
