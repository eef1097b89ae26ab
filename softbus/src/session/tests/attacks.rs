//! Peers and strangers that mean harm.

use super::super::channel::{Channel, Kind};
use super::super::noise::Handshake;
use super::*;
use crate::mux::Reject;
use alloc::collections::VecDeque;
use proptest::prelude::*;

/// A peer that does the handshake by the book, and then says what it wants.
struct Hostile {
    channel: Channel,
    frames: VecDeque<Vec<u8>>,
}

impl Hostile {
    /// Dials `victim` as `node`; gives the session of the victim, which waits for HELLO.
    fn dial(node: &mut Node, victim: &mut Node, config: &crate::Checked<Config>) -> (Hostile, Session) {
        let mut session = Session::listen(config.clone(), Transport::Tcp);
        session.link_up(at(1)).unwrap();
        let random = &mut node.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        let mut noise = Handshake::initiator(node.identity.current(), &victim.key(), &mut fill).unwrap();
        let first = noise.write().unwrap();
        victim.with(|context| session.handle_frame(at(1), &first, context)).unwrap();
        noise.read(&session.poll_transmit().unwrap()).unwrap();
        let third = noise.write().unwrap();
        victim.with(|context| session.handle_frame(at(1), &third, context)).unwrap();
        let channel = Channel::new(at(1), noise.finish().unwrap().ciphers, config);
        (Hostile { channel, frames: VecDeque::new() }, session)
    }

    fn say(
        &mut self,
        session: &mut Session,
        victim: &mut Node,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), Error> {
        self.channel.seal(at(2), kind, body, &mut self.frames).unwrap();
        let frames = core::mem::take(&mut self.frames);
        frames.iter().try_for_each(|frame| victim.with(|context| session.handle_frame(at(2), frame, context)))
    }
}

fn hello(name: &str) -> Vec<u8> {
    let mut body = alloc::vec![1, 1, u8::try_from(name.len()).unwrap()];
    body.extend(name.as_bytes());
    body
}

#[test]
fn handshake_replayed_gets_no_further_than_its_last_message() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    let mut session = Session::listen(config(), Transport::Tcp);
    session.link_up(at(2)).unwrap();
    let mut replay = |frame: &[u8]| other.with(|context| session.handle_frame(at(2), frame, context));
    assert_eq!(replay(&link.sent[0][0]), Ok(()), "the first message says nothing of who sends it");
    assert_eq!(replay(&link.sent[0][1]), Err(Error::NotAuthentic { message: "handshake message 3" }));
    assert_eq!(session.phase(), Phase::Idle);
}

#[test]
fn frames_replayed_reordered_or_reflected_end_the_session() {
    let replayed = |sent: &[Vec<Vec<u8>>; 2]| sent[0].last().unwrap().clone();
    let reflected = |sent: &[Vec<Vec<u8>>; 2]| sent[1].last().unwrap().clone();
    let earlier = |sent: &[Vec<Vec<u8>>; 2]| sent[0][2].clone();
    for pick in [&replayed as &dyn Fn(&[Vec<Vec<u8>>; 2]) -> Vec<u8>, &reflected, &earlier] {
        let (mut one, mut other) = friends();
        let mut link = Link::new(at(1), &other);
        link.carried(at(1), &mut one, &mut other);
        link.dialer.send(at(2), b"once").unwrap();
        link.listener.send(at(2), b"once").unwrap();
        link.carried(at(2), &mut one, &mut other);
        let frame = pick(&link.sent);
        let outcome = other.with(|context| link.listener.handle_frame(at(2), &frame, context));
        assert_eq!(outcome, Err(Error::NotAuthentic { message: "record" }));
        assert_eq!(link.listener.phase(), Phase::Idle);
    }
}

#[test]
fn first_message_reflected_is_for_nobody_here() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    one.with(|context| link.dialer.poll(at(1), context)).unwrap();
    let first = link.dialer.poll_transmit().unwrap();
    let mut own = Session::listen(config(), Transport::Tcp);
    own.link_up(at(1)).unwrap();
    let refused = one.with(|context| own.handle_frame(at(1), &first, context));
    assert_eq!(refused, Err(Error::NotAuthentic { message: "handshake message 1" }));
    let refused = one.with(|context| link.dialer.handle_frame(at(1), &first, context));
    assert_eq!(refused, Err(Error::NotAuthentic { message: "handshake message 2" }));
    other.hears(&one);
}

#[test]
fn data_before_the_session_is_ready_is_rejected_by_name() {
    let (mut one, mut other) = strangers();
    let unauthenticated = Err(Error::Rejected(Reject::UnauthenticatedSession));
    let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
    assert_eq!(hostile.say(&mut session, &mut other, Kind::Data, b"now"), unauthenticated);
    let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
    hostile.say(&mut session, &mut other, Kind::Hello, &hello("one")).unwrap();
    assert_eq!(session.phase(), Phase::Handshaking);
    assert_eq!(hostile.say(&mut session, &mut other, Kind::Data, b"now"), unauthenticated);
}

#[test]
fn device_that_claims_the_name_of_another_is_refused() {
    let (mut one, mut other) = friends();
    let third = Node::new("third", 3);
    other.hears(&third);
    other.pins(&third);
    let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
    let mismatch = Error::IdentityMismatch { device: device("third"), key: one.key() };
    assert_eq!(hostile.say(&mut session, &mut other, Kind::Hello, &hello("third")), Err(mismatch));
}

#[test]
fn records_that_are_not_due_or_do_not_exist_end_the_session() {
    for kind in [Kind::Pake, Kind::Confirm, Kind::Successor] {
        let (mut one, mut other) = friends();
        let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
        let refused = Err(Error::UnexpectedRecord { found: kind as u8 });
        assert_eq!(hostile.say(&mut session, &mut other, kind, &[0; 36]), refused);
    }
    for kind in [Kind::Hello, Kind::Pake, Kind::Confirm] {
        let (mut one, mut other) = friends();
        let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
        hostile.say(&mut session, &mut other, Kind::Hello, &hello("one")).unwrap();
        assert_eq!(session.phase(), Phase::Ready);
        let refused = Err(Error::UnexpectedRecord { found: kind as u8 });
        assert_eq!(hostile.say(&mut session, &mut other, kind, &hello("one")), refused);
    }
}

#[test]
fn peer_that_never_changes_its_key_is_dropped() {
    let (mut one, mut other) = friends();
    let strict = Config { rekey_bytes: 1 << 16, peer_rekey_bytes_max: 1 << 16, ..Config::default() };
    let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &strict.check().unwrap());
    hostile.channel.never_rekey();
    hostile.say(&mut session, &mut other, Kind::Hello, &hello("one")).unwrap();
    let outcomes: Vec<_> =
        (0..9).map(|_| hostile.say(&mut session, &mut other, Kind::Data, &[0; 10_000])).collect();
    assert!(outcomes[..7].iter().all(Result::is_ok));
    assert!(matches!(outcomes[7], Err(Error::RekeyOverdue { bytes }) if bytes > 1 << 16));
}

#[test]
fn successor_that_was_revoked_is_not_taken() {
    let (mut one, mut other) = friends();
    let key = Node::new("x", 77).key();
    other.trust.revoke_key(key).unwrap();
    let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
    hostile.say(&mut session, &mut other, Kind::Hello, &hello("one")).unwrap();
    let body = [&key.as_bytes()[..], &60_u32.to_be_bytes()].concat();
    assert_eq!(hostile.say(&mut session, &mut other, Kind::Successor, &body), Err(Error::Revoked { key }));
}

#[test]
fn flood_of_first_messages_leaves_the_gate_open_to_who_answers_its_cookie() {
    let (mut one, mut other) = friends();
    let mut seeded = fastrand::Rng::with_seed(6);
    let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
    let mut gate = Gate::new(config(), at(1), &mut random);
    let mut challenged = 0;
    for number in 0..10_000_u32 {
        let from = core::net::SocketAddr::new(number.to_be_bytes().into(), 34567);
        challenged += usize::from(matches!(
            gate.admit(at(1), from, &[1; 48], &mut random),
            Ok(Admission::Challenge(_))
        ));
    }
    assert_eq!((gate.half_open(), challenged), (32, 10_000 - 32));

    let from = core::net::SocketAddr::new([10, 0, 0, 1].into(), 40_000);
    let mut link = Link::new(at(2), &other);
    one.with(|context| link.dialer.poll(at(2), context)).unwrap();
    let first = link.dialer.poll_transmit().unwrap();
    let Ok(Admission::Challenge(challenge)) = gate.admit(at(2), from, &first, &mut random) else { panic!() };
    one.with(|context| link.dialer.handle_frame(at(2), &challenge, context)).unwrap();
    let second = link.dialer.poll_transmit().unwrap();
    let Ok(Admission::Proceed { ticket, message }) = gate.admit(at(2), from, &second, &mut random) else {
        panic!()
    };
    other.with(|context| link.listener.handle_frame(at(2), &message, context)).unwrap();
    link.carried(at(2), &mut one, &mut other);
    assert_eq!(link.phases(), READY);
    gate.done(ticket);

    let mut asked_twice = Link::new(at(3), &other);
    one.with(|context| asked_twice.dialer.poll(at(3), context)).unwrap();
    let mut ask = || one.with(|context| asked_twice.dialer.handle_frame(at(3), &challenge, context));
    assert_eq!(ask(), Ok(()));
    assert!(matches!(ask(), Err(Error::Length { .. })), "once is enough");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a link brings, at whatever point, it makes nobody trusted.
    #[test]
    fn frames_of_strangers_never_make_a_session_ready(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..6),
        lengths in prop::collection::vec(prop_oneof![Just(48_usize), Just(64), Just(20)], 1..6),
        dials in any::<bool>(),
    ) {
        let (mut one, other) = friends();
        let mut session = if dials {
            Session::dial(config(), Transport::Tcp, Peer { device: other.name(), key: other.key() })
        } else {
            Session::listen(config(), Transport::Tcp)
        };
        session.link_up(at(1)).unwrap();
        one.with(|context| session.poll(at(1), context)).unwrap();
        for (frame, len) in frames.iter().zip(lengths.iter().cycle()) {
            let mut frame = frame.clone();
            frame.resize(*len, 0x17);
            let _refused = one.with(|context| session.handle_frame(at(1), &frame, context));
            prop_assert_ne!(session.phase(), Phase::Ready);
        }
    }

    /// HELLO and its like with any body.
    #[test]
    fn records_with_any_body_are_taken_or_refused(kind in 0..7_u8, body in prop::collection::vec(any::<u8>(), 0..120)) {
        let kinds = [Kind::Data, Kind::Hello, Kind::Rekey, Kind::Pake, Kind::Confirm, Kind::Successor, Kind::Close];
        let (mut one, mut other) = friends();
        let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
        let _refused = hostile.say(&mut session, &mut other, kinds[usize::from(kind)], &body);
        prop_assert_ne!(session.phase(), Phase::Ready);
        let (mut hostile, mut session) = Hostile::dial(&mut one, &mut other, &config());
        hostile.say(&mut session, &mut other, Kind::Hello, &hello("one")).unwrap();
        let _refused = hostile.say(&mut session, &mut other, kinds[usize::from(kind)], &body);
    }
}
