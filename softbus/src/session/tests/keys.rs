//! Pairing, rotation, revocation, rekeying.

use super::*;

fn show_pin(node: &mut Node, now: Instant) -> Pin {
    let random = &mut node.random;
    node.trust.show_pin(now, Duration::from_secs(120), &mut |bytes: &mut [u8]| random.fill(bytes)).clone()
}

fn type_pin(session: &mut Session, node: &mut Node, now: Instant, pin: &Pin) -> Result<(), Error> {
    node.with(|context| session.type_pin(now, pin, context.random))
}

fn wrong(pin: &Pin) -> Pin {
    let last = pin.digits().as_bytes()[5];
    let other = char::from(if last == b'0' { b'1' } else { last - 1 });
    alloc::format!("{}{other}", &pin.digits()[..5]).parse().unwrap()
}

#[test]
fn strangers_with_the_right_pin_are_paired_and_need_none_the_next_time() {
    for typed_by_the_dialer in [true, false] {
        let (mut one, mut other) = strangers();
        let mut link = Link::new(at(1), &other);
        assert_eq!(link.carry(at(1), &mut one, &mut other), [Ok(()), Ok(())]);
        assert_eq!(link.phases(), UNPAIRED);
        assert!(matches!(events(&mut link.dialer)[..], [Event::PairingNeeded(_)]));
        assert!(link.dialer.send(at(1), b"early").is_err());
        if typed_by_the_dialer {
            let pin = show_pin(&mut other, at(2));
            type_pin(&mut link.dialer, &mut one, at(30), &pin).unwrap();
        } else {
            let pin = show_pin(&mut one, at(2));
            type_pin(&mut link.listener, &mut other, at(30), &pin).unwrap();
        }
        assert_eq!(link.carry(at(30), &mut one, &mut other), [Ok(()), Ok(())]);
        assert_eq!(link.phases(), READY);
        assert!(matches!(events(&mut link.dialer)[..], [Event::Paired(_), Event::Ready(_)]));
        assert_eq!((one.trust.tries_left(at(31)), other.trust.tries_left(at(31))), (None, None));

        let mut again = Link::new(at(60), &other);
        again.carried(at(60), &mut one, &mut other);
        assert_eq!(again.phases(), READY);
    }
}

#[test]
fn pin_guessed_wrongly_three_times_is_good_for_nothing() {
    let (mut one, mut other) = strangers();
    let pin = show_pin(&mut other, at(1));
    for tries_left in [2, 1, 0] {
        let mut link = Link::new(at(2), &other);
        link.carried(at(2), &mut one, &mut other);
        type_pin(&mut link.dialer, &mut one, at(2), &wrong(&pin)).unwrap();
        let [_, refused] = link.carry(at(2), &mut one, &mut other);
        assert_eq!(refused, Err(Error::WrongPin));
        assert_eq!(other.trust.tries_left(at(2)), Some(tries_left));
    }
    let mut link = Link::new(at(3), &other);
    link.carried(at(3), &mut one, &mut other);
    type_pin(&mut link.dialer, &mut one, at(3), &pin).unwrap();
    let [_, refused] = link.carry(at(3), &mut one, &mut other);
    assert_eq!(refused, Err(Error::PairingClosed));
    assert_eq!(other.trust.pins().count() + one.trust.pins().count(), 0);
}

#[test]
fn guess_that_is_abandoned_counts_as_well() {
    let (mut one, mut other) = strangers();
    let pin = show_pin(&mut other, at(1));
    let mut link = Link::new(at(2), &other);
    link.carried(at(2), &mut one, &mut other);
    type_pin(&mut link.dialer, &mut one, at(2), &wrong(&pin)).unwrap();
    let guess = link.dialer.poll_transmit().unwrap();
    other.with(|context| link.listener.handle_frame(at(2), &guess, context)).unwrap();
    link.listener.link_lost(None);
    assert_eq!(other.trust.tries_left(at(2)), Some(2));
}

#[test]
fn pin_typed_where_none_is_shown_or_too_late_pairs_nobody() {
    let (mut one, mut other) = strangers();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    type_pin(&mut link.dialer, &mut one, at(2), &"123456".parse().unwrap()).unwrap();
    assert_eq!(link.carry(at(2), &mut one, &mut other)[1], Err(Error::PairingClosed));

    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    let timed_out = one.with(|context| link.dialer.poll(at(121), context));
    assert_eq!(timed_out, Err(Error::TimedOut { phase: Phase::Handshaking }));
}

#[test]
fn pin_known_on_one_side_only_is_not_ready_on_either() {
    let (mut one, mut other) = strangers();
    one.pins(&other);
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    assert_eq!(link.phases(), UNPAIRED);
}

#[test]
fn key_rotated_is_followed_by_who_was_told() {
    let (mut one, mut other) = friends();
    let day = Duration::from_secs(86_400);
    let old = other.key();
    let next = StaticKey::from_bytes([42; 32]).unwrap();
    let new = next.public();
    other.identity.rotate(at(0), next, day);
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    let told = Event::Successor { peer: Peer { device: device("other"), key: old }, key: new };
    assert_eq!(events(&mut link.dialer)[1], told);

    // The day after: it announces the new key, and the old one still answers.
    assert!(!other.identity.poll(at(86_399)));
    assert!(other.identity.poll(at(86_400)));
    assert_eq!(other.key(), new);
    let mut late = Link::with(config(), at(86_401), Peer { device: device("other"), key: old });
    assert_eq!(late.carry(at(86_401), &mut one, &mut other), [Ok(()), Ok(())]);
    one.hears(&other);
    let mut link = Link::new(at(86_402), &other);
    link.carried(at(86_402), &mut one, &mut other);
    assert_eq!(link.phases(), READY);

    // Two days after: the old key is nobody's.
    other.identity.poll(at(172_801));
    one.trust.poll(at(172_802));
    let mut late = Link::with(config(), at(172_802), Peer { device: device("other"), key: old });
    let [_, refused] = late.carry(at(172_802), &mut one, &mut other);
    assert_eq!(refused, Err(Error::NotAuthentic { message: "handshake message 1" }));
    let mismatch = Error::IdentityMismatch { device: device("other"), key: old };
    assert_eq!(one.trust.standing(at(172_802), &device("other"), &old), Err(mismatch));
    assert_eq!(one.trust.standing(at(172_802), &device("other"), &new), Ok(Standing::Pinned));
}

#[test]
fn key_rotated_while_a_session_is_ready_is_told_in_it() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    events(&mut link.dialer);
    let next = StaticKey::from_bytes([43; 32]).unwrap();
    let new = next.public();
    other.identity.rotate(at(2), next, Duration::from_secs(60));
    link.listener.announce_successor(at(2), &other.identity).unwrap();
    link.carried(at(2), &mut one, &mut other);
    assert!(matches!(events(&mut link.dialer)[..], [Event::Successor { key, .. }] if key == new));
    assert_eq!(one.trust.standing(at(3), &device("other"), &new), Ok(Standing::Pinned));
}

#[test]
fn key_revoked_ends_its_session_and_never_comes_back() {
    let (mut one, mut other) = friends();
    let mut link = Link::new(at(1), &other);
    link.carried(at(1), &mut one, &mut other);
    events(&mut link.dialer);
    assert_eq!(link.listener.recheck(at(2), &other.trust), Ok(()));
    let key = one.key();
    assert_eq!(other.trust.revoke(&device("one")), Ok(alloc::vec![key]));
    assert_eq!(link.listener.recheck(at(2), &other.trust), Err(Error::Revoked { key }));
    link.carried(at(2), &mut one, &mut other);
    assert_eq!(events(&mut link.dialer), [Event::Closed]);

    let mut link = Link::new(at(3), &other);
    assert_eq!(link.carry(at(3), &mut one, &mut other)[1], Err(Error::Revoked { key }));
    assert_eq!(other.trust.pin(device("one"), key), Err(Error::Revoked { key }));
    assert_eq!(other.trust.pin(device("alias"), key), Err(Error::Revoked { key }));
}

#[test]
fn keys_change_by_volume_and_by_time_and_nothing_is_lost() {
    let (mut one, mut other) = friends();
    let small = Config { rekey_bytes: 1 << 16, ..Config::default() }.check().unwrap();
    let mut link = Link::with(small, at(1), Peer { device: other.name(), key: other.key() });
    link.carried(at(1), &mut one, &mut other);
    events(&mut link.listener);
    let before = link.sent[0].len();
    let mut received = Vec::new();
    for number in 0..40_u8 {
        link.dialer.send(at(2), &[number; 10_000]).unwrap();
        assert_eq!(link.carry(at(2), &mut one, &mut other), [Ok(()), Ok(())]);
        received.extend(events(&mut link.listener));
    }
    let expected: Vec<_> = (0..40_u8).map(|number| Event::Data(alloc::vec![number; 10_000])).collect();
    assert_eq!(received, expected);
    assert_eq!(link.sent[0].len() - before, 40 + 5, "a notice after each seven frames of 10,001 bytes");
    link.dialer.send(at(130), b"later").unwrap();
    link.carried(at(130), &mut one, &mut other);
    assert_eq!(link.sent[0].len() - before, 40 + 5 + 2, "two minutes");
}
