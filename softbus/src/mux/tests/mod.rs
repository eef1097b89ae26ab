//! Two muxes on a pipe that loses nothing.

mod hostile;

use super::*;
use alloc::string::ToString as _;
use proptest::prelude::*;

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn mux(role: Role) -> Mux {
    Mux::new(Config::default().check().unwrap(), role, at(0))
}

fn name(name: &str) -> StreamName {
    name.parse().unwrap()
}

fn events(mux: &mut Mux) -> Vec<Event> {
    core::iter::from_fn(|| mux.poll_event()).collect()
}

/// Everything that there is to read, in pieces, and whether it is complete.
fn drain(mux: &mut Mux, id: StreamId) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 10_000];
    loop {
        match mux.read(id, &mut buffer).unwrap() {
            Read::Bytes(len) => bytes.extend(&buffer[..len]),
            Read::Nothing => return (bytes, false),
            Read::End => return (bytes, true),
        }
    }
}

/// Carries frames both ways until nothing is left.
fn carry(one: &mut Mux, other: &mut Mux) {
    loop {
        let frames: Vec<_> = core::iter::from_fn(|| one.poll_transmit()).collect();
        frames.iter().for_each(|frame| other.handle_frame(at(0), frame).unwrap());
        let answers: Vec<_> = core::iter::from_fn(|| other.poll_transmit()).collect();
        answers.iter().for_each(|frame| one.handle_frame(at(0), frame).unwrap());
        if frames.is_empty() && answers.is_empty() {
            return;
        }
    }
}

/// Both sides, and a stream that both want.
fn connected(priority: u8) -> (Mux, Mux, StreamId) {
    let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
    let id = one.open(name("chat"), priority).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut other), [Event::Opened { stream: id, name: name("chat"), priority }]);
    other.accept(id).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut one), [Event::Accepted(id)]);
    (one, other, id)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn stream_carries_both_ways_and_is_gone_when_both_halves_are_complete() {
    let (mut one, mut other, id) = connected(3);
    assert_eq!(one.write(id, b"question"), Ok(8));
    one.finish(id).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut other), [Event::Readable(id)]);
    assert_eq!(drain(&mut other, id), (b"question".into(), true));
    assert_eq!(one.write(id, b"more"), Err(Error::Finished { stream: 1 }));
    assert_eq!(other.write(id, b"answer after the other half was closed"), Ok(38));
    other.finish(id).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(drain(&mut one, id), (b"answer after the other half was closed".into(), true));
    assert_eq!((one.streams(), other.streams()), (0, 0));
    assert_eq!((events(&mut one), events(&mut other)), (Vec::new(), Vec::new()));
    assert_eq!(one.read(id, &mut [0; 8]), Err(Error::UnknownStream { stream: 1 }));
}

#[test]
fn stream_asked_for_may_be_written_to_before_the_answer() {
    let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
    let id = one.open(name("chat"), 1).unwrap();
    one.write(id, &pattern(100_000)).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(other.buffered(), INITIAL_CREDIT_BYTES, "as far as the initial credit reaches");
    other.accept(id).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(drain(&mut other, id), (pattern(100_000), false));
}

#[test]
fn reader_that_is_slow_stops_its_own_stream_and_nobody_else() {
    let (mut one, mut other, id) = connected(3);
    let data = pattern(2_000_000);
    let mut written = 0;
    for _ in 0..100 {
        written += one.write(id, &data[written..]).unwrap();
        carry(&mut one, &mut other);
    }
    assert_eq!(written, 2 * STREAM_BYTES_MAX, "one buffer on each side");
    assert_eq!((one.buffered(), other.buffered()), (STREAM_BYTES_MAX, STREAM_BYTES_MAX));

    let second = one.open(name("second"), 3).unwrap();
    carry(&mut one, &mut other);
    other.accept(second).unwrap();
    one.write(second, b"passes").unwrap();
    carry(&mut one, &mut other);
    assert_eq!(drain(&mut other, second).0, b"passes");

    let mut read = Vec::new();
    let mut waits = 0;
    while written < data.len() {
        read.extend(drain(&mut other, id).0);
        carry(&mut one, &mut other);
        if events(&mut one).contains(&Event::Writable(id)) {
            waits += 1;
            written += one.write(id, &data[written..]).unwrap();
        }
        carry(&mut one, &mut other);
    }
    one.finish(id).unwrap();
    carry(&mut one, &mut other);
    while read.len() < data.len() {
        read.extend(drain(&mut other, id).0);
        carry(&mut one, &mut other);
    }
    assert!(read == data && waits >= 4, "{} bytes, {waits} waits", read.len());
}

/// Streams of the frames that come next.
fn order(mux: &mut Mux) -> Vec<u32> {
    let frames = core::iter::from_fn(|| mux.poll_transmit());
    frames.map(|frame| u32::from_be_bytes(frame[4..8].try_into().unwrap())).collect()
}

#[test]
fn urgent_stream_goes_first_and_lets_one_of_the_others_go_after_its_burst() {
    let (mut one, mut other, bulk) = connected(7);
    let urgent = one.open(name("urgent"), 0).unwrap();
    carry(&mut one, &mut other);
    other.accept(urgent).unwrap();
    carry(&mut one, &mut other);
    one.write(bulk, &[0; 3 * 16_384]).unwrap();
    one.write(urgent, &[0; 12 * 16_384]).unwrap();
    let (bulk, urgent) = (bulk.get(), urgent.get());
    let mut expected = alloc::vec![urgent; 8];
    expected.push(bulk);
    expected.extend([urgent; 4]);
    expected.extend([bulk; 2]);
    assert_eq!(order(&mut one), expected);
}

#[test]
fn streams_of_the_other_classes_take_turns() {
    let (mut one, mut other, first) = connected(7);
    let second = one.open(name("second"), 1).unwrap();
    carry(&mut one, &mut other);
    other.accept(second).unwrap();
    carry(&mut one, &mut other);
    one.write(first, &[0; 3 * 16_384]).unwrap();
    one.write(second, &[0; 3 * 16_384]).unwrap();
    assert_eq!(order(&mut one), [1, 3, 1, 3, 1, 3]);
}

#[test]
fn peer_that_is_silent_is_asked_after_three_ticks_and_given_up_after_nine() {
    let mut one = mux(Role::Dialer);
    assert_eq!(one.poll_timeout(), at(3));
    one.poll(at(2)).unwrap();
    assert_eq!(one.poll_transmit(), None);
    one.poll(at(3)).unwrap();
    let ping = one.poll_transmit().unwrap();
    assert!(matches!(Frame::parse(&ping), Ok(Frame::Ping(_))));
    one.poll(at(4)).unwrap();
    assert_eq!(one.poll_transmit(), None);
    one.poll(at(6)).unwrap();
    assert!(one.poll_transmit().is_some());
    assert_eq!(one.poll_timeout(), at(9));
    assert_eq!(one.poll(at(9)), Err(Error::PeerSilent { seconds: 9 }));

    let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
    one.poll(at(3)).unwrap();
    other.handle_frame(at(3), &one.poll_transmit().unwrap()).unwrap();
    one.handle_frame(at(4), &other.poll_transmit().unwrap()).unwrap();
    one.poll(at(12)).unwrap();
    assert_eq!(one.poll(at(13)), Err(Error::PeerSilent { seconds: 9 }));
}

#[test]
fn stream_given_up_ends_on_both_sides_and_what_crosses_is_dropped() {
    let (mut one, mut other, id) = connected(3);
    other.write(id, &[0; 1000]).unwrap();
    let crossing = other.poll_transmit().unwrap();
    one.reset(id).unwrap();
    one.handle_frame(at(0), &crossing).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut other), [Event::Reset { stream: id, code: ResetCode::Cancelled }]);
    assert_eq!((one.streams(), other.streams(), one.buffered()), (0, 0, 0));
    assert_eq!(one.rejected(Reject::UnknownStreamFrame), 0);
    assert_eq!(other.write(id, b"late"), Err(Error::UnknownStream { stream: 1 }));
}

#[test]
fn stream_nobody_wants_is_refused() {
    let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
    let id = one.open(name("nothing"), 1).unwrap();
    carry(&mut one, &mut other);
    events(&mut other);
    other.refuse(id).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut one), [Event::Reset { stream: id, code: ResetCode::Refused }]);
    assert_eq!((one.streams(), other.streams()), (0, 0));
}

#[test]
fn stream_given_up_before_it_was_asked_for_is_never_heard_of() {
    let mut one = mux(Role::Dialer);
    let id = one.open(name("nothing"), 1).unwrap();
    one.write(id, b"never").unwrap();
    one.reset(id).unwrap();
    assert_eq!(one.poll_transmit(), None);
}

#[test]
fn streams_beyond_the_limit_are_refused_here_and_there() {
    let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
    for number in 0..STREAMS_MAX {
        one.open(name(&number.to_string()), 1).unwrap();
    }
    let many = Error::TooMany { what: "streams", count: 129, max: 128 };
    assert_eq!(one.open(name("more"), 1), Err(many));
    other.open(name("other side's"), 1).unwrap();
    carry(&mut one, &mut other);
    assert_eq!(other.streams(), STREAMS_MAX);
    assert_eq!(one.rejected(Reject::StreamLimitExceeded), 1);
    let refused = events(&mut other).pop();
    let code = ResetCode::Rejected(Reject::StreamLimitExceeded);
    assert_eq!(refused, Some(Event::Reset { stream: StreamId(2), code }));
}

#[test]
fn names_are_unique_among_the_streams_of_one_side() {
    let (mut one, mut other, _) = connected(3);
    let duplicate = Err(Error::Rejected(Reject::DuplicateStreamName));
    assert_eq!(one.open(name("chat"), 1), duplicate);
    assert!(other.open(name("chat"), 1).is_ok(), "both may have the same thought at the same time");
    carry(&mut one, &mut other);
    assert_eq!(one.streams(), 2);
}

#[test]
fn side_that_goes_away_takes_no_new_streams_and_finishes_the_old_ones() {
    let (mut one, mut other, id) = connected(3);
    other.go_away();
    carry(&mut one, &mut other);
    assert_eq!(events(&mut one), [Event::GoingAway]);
    assert_eq!(one.open(name("late"), 1), Err(Error::GoingAway));
    one.write(id, b"still").unwrap();
    carry(&mut one, &mut other);
    assert_eq!(drain(&mut other, id).0, b"still");
}

/// What users do, on either side, to one of three streams.
#[derive(Clone, Debug)]
enum Step {
    Write(bool, usize, usize),
    Read(bool, usize),
    Finish(bool, usize),
    Carry(bool, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), 0..3_usize, 1..200_000_usize).prop_map(|(side, stream, len)| Step::Write(side, stream, len)),
        3 => (any::<bool>(), 0..3_usize).prop_map(|(side, stream)| Step::Read(side, stream)),
        1 => (any::<bool>(), 0..3_usize).prop_map(|(side, stream)| Step::Finish(side, stream)),
        4 => (any::<bool>(), 1..20_usize).prop_map(|(side, frames)| Step::Carry(side, frames)),
    ];
    prop::collection::vec(step, 1..80)
}

/// One direction of one stream.
#[derive(Default)]
struct Direction {
    written: u64,
    read: u64,
    finished: bool,
    ended: bool,
}

/// The byte at a place of a stream: long enough a period that no shift goes unnoticed.
fn byte(at: u64) -> u8 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

struct Model {
    sides: [Mux; 2],
    streams: [StreamId; 3],
    /// By stream, then by the side that writes.
    directions: [[Direction; 2]; 3],
}

impl Model {
    fn new() -> Model {
        let (mut one, mut other) = (mux(Role::Dialer), mux(Role::Listener));
        let streams = [0, 1, 5].map(|class| one.open(name(&class.to_string()), class).unwrap());
        carry(&mut one, &mut other);
        streams.iter().for_each(|id| other.accept(*id).unwrap());
        Model { sides: [one, other], streams, directions: Default::default() }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(side, stream, len) => {
                let direction = &mut self.directions[stream][usize::from(side)];
                if direction.finished {
                    return;
                }
                let end = direction.written + u64::try_from(len).unwrap();
                let bytes: Vec<u8> = (direction.written..end).map(byte).collect();
                let written = self.sides[usize::from(side)].write(self.streams[stream], &bytes).unwrap();
                direction.written += u64::try_from(written).unwrap();
            }
            Step::Read(side, stream) => {
                let direction = &mut self.directions[stream][usize::from(!side)];
                if direction.ended {
                    return;
                }
                let (bytes, ended) = drain(&mut self.sides[usize::from(side)], self.streams[stream]);
                let expected = direction.read..direction.read + u64::try_from(bytes.len()).unwrap();
                assert!(expected.clone().map(byte).eq(bytes), "another byte than was written");
                direction.read = expected.end;
                assert!(
                    !ended || (direction.finished && direction.read == direction.written),
                    "an early end"
                );
                direction.ended = ended;
            }
            Step::Finish(side, stream) => {
                let direction = &mut self.directions[stream][usize::from(side)];
                if !core::mem::replace(&mut direction.finished, true) {
                    self.sides[usize::from(side)].finish(self.streams[stream]).unwrap();
                }
            }
            Step::Carry(side, frames) => {
                for _ in 0..frames {
                    let Some(frame) = self.sides[usize::from(side)].poll_transmit() else { return };
                    self.sides[usize::from(!side)].handle_frame(at(0), &frame).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever users do in whatever order, every byte arrives once and in its place, and the end after the last.
    #[test]
    fn streams_used_at_random_lose_and_repeat_nothing(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            for side in &model.sides {
                prop_assert!(side.buffered() <= 2 * 3 * STREAM_BYTES_MAX);
            }
        }
        for side in [true, false] {
            (0..3).for_each(|stream| model.step(&Step::Finish(side, stream)));
        }
        for _ in 0..40 {
            for side in [true, false] {
                model.step(&Step::Carry(side, 1000));
                (0..3).for_each(|stream| model.step(&Step::Read(side, stream)));
            }
        }
        prop_assert!(model.directions.iter().flatten().all(|direction| direction.ended), "a stream is stuck");
        prop_assert!(model.sides.iter().all(|side| side.streams() == 0 && side.buffered() == 0));
    }
}
