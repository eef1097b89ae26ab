//! Scripts in virtual time: two devices on a link that the test holds in its hands.

mod attacks;
mod keys;

use super::*;
use crate::discovery::Transport;
use crate::{DeviceId, Error, Instant, PublicKey};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// What is announced, and how often a peer was asked about.
#[derive(Default)]
struct Announced {
    keys: BTreeMap<DeviceId, PublicKey>,
    denied: bool,
}

impl Directory for Announced {
    fn announced(&self, device: &DeviceId) -> Option<PublicKey> {
        self.keys.get(device).copied()
    }

    fn accept(&mut self, _: Instant, _: &PublicKey, transport: Transport) -> Result<(), Error> {
        if !self.denied {
            return Ok(());
        }
        Err(Error::PeerDenied { device: device("one"), transport: transport.as_str() })
    }
}

/// A device.
struct Node {
    identity: Identity,
    trust: Trust,
    directory: Announced,
    random: fastrand::Rng,
}

impl Node {
    fn new(name: &str, seed: u64) -> Node {
        let mut random = fastrand::Rng::with_seed(seed);
        let key = StaticKey::generate(&mut |bytes: &mut [u8]| random.fill(bytes)).unwrap();
        let identity = Identity::new(device(name), key);
        Node { identity, trust: Trust::new(), directory: Announced::default(), random }
    }

    fn key(&self) -> PublicKey {
        self.identity.current().public()
    }

    fn name(&self) -> DeviceId {
        self.identity.device().clone()
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let random = &mut self.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        call(&mut Context {
            identity: &self.identity,
            trust: &mut self.trust,
            directory: &mut self.directory,
            random: &mut fill,
        })
    }

    fn hears(&mut self, other: &Node) {
        self.directory.keys.insert(other.name(), other.key());
    }

    fn pins(&mut self, other: &Node) {
        self.trust.pin(other.name(), other.key()).unwrap();
    }
}

/// Two devices that hear each other. "one" dials.
fn strangers() -> (Node, Node) {
    let (mut one, mut other) = (Node::new("one", 1), Node::new("other", 2));
    one.hears(&other);
    other.hears(&one);
    (one, other)
}

fn friends() -> (Node, Node) {
    let (mut one, mut other) = strangers();
    one.pins(&other);
    other.pins(&one);
    (one, other)
}

fn config() -> crate::Checked<Config> {
    Config::default().check().unwrap()
}

/// Both ends of a link, and what went over it.
struct Link {
    dialer: Session,
    listener: Session,
    /// Frames of the dialler, then of the listener.
    sent: [Vec<Vec<u8>>; 2],
}

impl Link {
    fn new(now: Instant, target: &Node) -> Link {
        Link::with(config(), now, Peer { device: target.name(), key: target.key() })
    }

    fn with(config: crate::Checked<Config>, now: Instant, target: Peer) -> Link {
        let mut dialer = Session::dial(config.clone(), Transport::Tcp, target);
        let mut listener = Session::listen(config, Transport::Tcp);
        assert_eq!(dialer.poll_event(), Some(Event::Dial));
        dialer.link_up(now).unwrap();
        listener.link_up(now).unwrap();
        assert_eq!([dialer.phase(), listener.phase()], [Phase::Connected, Phase::Accepting]);
        Link { dialer, listener, sent: Default::default() }
    }

    /// Carries frames both ways until nothing is left; the outcome of each side.
    fn carry(&mut self, now: Instant, one: &mut Node, other: &mut Node) -> [Result<(), Error>; 2] {
        let mut outcomes = [Ok(()), Ok(())];
        outcomes[0] = one.with(|context| self.dialer.poll(now, context));
        loop {
            let mut carried = false;
            while let Some(frame) = self.dialer.poll_transmit() {
                carried = true;
                if outcomes[1].is_ok() {
                    outcomes[1] = other.with(|context| self.listener.handle_frame(now, &frame, context));
                }
                self.sent[0].push(frame);
            }
            while let Some(frame) = self.listener.poll_transmit() {
                carried = true;
                if outcomes[0].is_ok() {
                    outcomes[0] = one.with(|context| self.dialer.handle_frame(now, &frame, context));
                }
                self.sent[1].push(frame);
            }
            if !carried {
                return outcomes;
            }
        }
    }

    /// The same, where nothing may fail.
    fn carried(&mut self, now: Instant, one: &mut Node, other: &mut Node) {
        assert_eq!(self.carry(now, one, other), [Ok(()), Ok(())]);
    }

    fn phases(&self) -> [Phase; 2] {
        [self.dialer.phase(), self.listener.phase()]
    }
}

fn events(session: &mut Session) -> Vec<Event> {
    core::iter::from_fn(|| session.poll_event()).collect()
}

const READY: [Phase; 2] = [Phase::Ready, Phase::Ready];
const UNPAIRED: [Phase; 2] = [Phase::Handshaking, Phase::Handshaking];

#[test]
fn devices_that_pinned_each_other_are_ready_and_carry_frames_both_ways() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    assert_eq!(link.carry(at(1), &mut one, &mut other), [Ok(()), Ok(())]);
    assert_eq!(link.phases(), READY);
    let lengths: Vec<_> = [&link.sent[0][0], &link.sent[1][0], &link.sent[0][1]].map(Vec::len).into();
    assert_eq!(lengths, [48, 48, 64], "any implementation of Noise can be the peer");
    let peer = |node: &Node| Peer { device: node.name(), key: node.key() };
    assert_eq!(events(&mut link.dialer), [Event::Ready(peer(&other))]);
    assert_eq!(events(&mut link.listener), [Event::Ready(peer(&one))]);
    link.dialer.send(at(2), b"there").unwrap();
    link.listener.send(at(2), b"and back").unwrap();
    link.carried(at(2), &mut one, &mut other);
    assert_eq!(events(&mut link.listener), [Event::Data(b"there".into())]);
    assert_eq!(events(&mut link.dialer), [Event::Data(b"and back".into())]);
}

#[test]
fn session_closed_in_order_says_so_and_one_that_is_lost_does_not() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    events(&mut link.listener);
    link.dialer.close(at(2)).unwrap();
    link.carried(at(2), &mut one, &mut other);
    assert_eq!(events(&mut link.listener), [Event::Closed]);
    assert_eq!(link.phases(), [Phase::Idle, Phase::Idle]);
    assert!(link.dialer.send(at(3), b"late").is_err());
}

#[test]
fn session_lost_is_dialled_again_when_it_may_be() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    events(&mut link.dialer);
    link.dialer.link_lost(Some(at(5)));
    link.listener.link_lost(None);
    assert_eq!(link.phases(), [Phase::Reconnect, Phase::Listening]);
    assert_eq!(link.dialer.poll_timeout(), Some(at(5)));
    one.with(|context| link.dialer.poll(at(4), context)).unwrap();
    assert_eq!(link.dialer.phase(), Phase::Reconnect);
    one.with(|context| link.dialer.poll(at(5), context)).unwrap();
    assert_eq!(events(&mut link.dialer), [Event::Dial]);
    link.dialer.link_up(at(5)).unwrap();
    link.listener.link_up(at(5)).unwrap();
    link.carried(at(5), &mut one, &mut other);
    assert_eq!(link.phases(), READY);
}

#[test]
fn handshake_left_half_done_ends_in_time() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    one.with(|context| link.dialer.poll(at(1), context)).unwrap();
    assert_eq!(link.dialer.poll_timeout(), Some(at(11)));
    let timed_out = one.with(|context| link.dialer.poll(at(11), context));
    assert_eq!(timed_out, Err(Error::TimedOut { phase: Phase::Handshaking }));
    let timed_out = other.with(|context| link.listener.poll(at(11), context));
    assert_eq!(timed_out, Err(Error::TimedOut { phase: Phase::Accepting }));
}

#[test]
fn device_that_announced_no_key_is_refused() {
    let (mut one, mut other) = friends();
    other.directory.keys.clear();
    let mut link = Link::new(at(1), &other);
    let [_, refused] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::NoAnnouncedKey { device: device("one") }));
    assert_eq!(link.listener.phase(), Phase::Idle);

    let (mut one, mut other) = friends();
    one.directory.keys.clear();
    let mut link = Link::new(at(1), &other);
    let [refused, _] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::NoAnnouncedKey { device: device("other") }));
}

#[test]
fn device_met_with_another_key_than_it_announces_is_refused() {
    let (mut one, mut other) = friends();
    let stranger = Node::new("one", 99);
    other.directory.keys.insert(device("one"), stranger.key());
    let mut link = Link::new(at(1), &other);
    let [_, refused] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::IdentityMismatch { device: device("one"), key: one.key() }));
}

#[test]
fn device_met_with_another_key_than_is_pinned_is_refused_whatever_it_announces() {
    let (mut one, mut other) = friends();
    other.trust.pin(device("one"), Node::new("one", 99).key()).unwrap();
    let mut link = Link::new(at(1), &other);
    let [_, refused] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::IdentityMismatch { device: device("one"), key: one.key() }));
}

#[test]
fn device_that_says_another_name_than_was_dialled_is_refused() {
    let (mut one, mut other) = friends();
    one.directory.keys.insert(device("third"), other.key());
    let target = Peer { device: device("third"), key: other.key() };
    let mut link = Link::with(config(), at(1), target);
    let [refused, _] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::IdentityMismatch { device: device("other"), key: other.key() }));
}

#[test]
fn device_without_a_rule_is_refused_when_it_has_proven_who_it_is() {
    let (mut one, mut other) = friends();
    other.directory.denied = true;
    let mut link = Link::new(at(1), &other);
    let [_, refused] = link.carry(at(1), &mut one, &mut other);
    assert_eq!(refused, Err(Error::PeerDenied { device: device("one"), transport: "tcp" }));
}

#[test]
fn device_that_dials_itself_is_told_so() {
    let (mut one, _) = strangers();
    let mut session = Session::dial(config(), Transport::Tcp, Peer { device: device("one"), key: one.key() });
    session.link_up(at(1)).unwrap();
    assert_eq!(one.with(|context| session.poll(at(1), context)), Err(Error::OwnKey));
}
