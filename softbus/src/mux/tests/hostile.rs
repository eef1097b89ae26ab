//! A peer that breaks the rules, one by one and at random.

use super::*;

fn data(id: u32, len: usize) -> Vec<u8> {
    Frame::Data(StreamId(id), &alloc::vec![0; len]).to_bytes()
}

fn open(id: u32, called: &str) -> Vec<u8> {
    let name = Ok(name(called));
    Frame::Open { stream: StreamId(id), priority: 1, name }.to_bytes()
}

/// What the victim, who listens, does with the frames; it has accepted stream 1, unless `frames` opens it.
fn victim(frames: &[Vec<u8>]) -> (Mux, Result<(), Error>) {
    let mut mux = mux(Role::Listener);
    let outcome = frames.iter().try_for_each(|frame| {
        mux.handle_frame(at(0), frame)?;
        for event in events(&mut mux) {
            if let Event::Opened { stream, .. } = event {
                mux.accept(stream)?;
            }
        }
        Ok(())
    });
    (mux, outcome)
}

fn resets(mux: &mut Mux) -> Vec<(u32, ResetCode)> {
    let frames: Vec<_> = core::iter::from_fn(|| mux.poll_transmit()).collect();
    let reset = |frame: &Vec<u8>| match Frame::parse(frame) {
        Ok(Frame::Reset(stream, code)) => Some((stream.get(), code)),
        _ => None,
    };
    frames.iter().filter_map(reset).collect()
}

#[test]
fn frames_that_break_the_rules_of_a_stream_reset_it_by_name() {
    let credit = |id, bytes| Frame::WindowUpdate(StreamId(id), bytes).to_bytes();
    let close = |id| Frame::Close(StreamId(id)).to_bytes();
    let ack = |id| Frame::OpenAck(StreamId(id)).to_bytes();
    let mut nameless = open(1, "x");
    nameless.truncate(HEADER_BYTES + 1);
    nameless[3] = 1;
    let transition = Reject::InvalidStreamStateTransition;
    let scripts: [(Reject, Vec<Vec<u8>>); 12] = [
        (Reject::UnknownStreamFrame, alloc::vec![data(1, 1)]),
        (Reject::UnknownStreamFrame, alloc::vec![credit(1, 1)]),
        (Reject::UnknownStreamFrame, alloc::vec![close(1)]),
        (transition, alloc::vec![open(1, "a"), close(1), data(1, 1)]),
        (transition, alloc::vec![open(1, "a"), close(1), close(1)]),
        (transition, alloc::vec![open(1, "a"), open(1, "b")]),
        (transition, alloc::vec![open(1, "a"), ack(1)]),
        (transition, alloc::vec![open(2, "ours to open")]),
        (Reject::WindowCredit, alloc::vec![open(1, "a"), credit(1, u32::MAX)]),
        (Reject::WindowCredit, alloc::vec![open(1, "a"), credit(1, 196_609)]),
        (Reject::DuplicateStreamName, alloc::vec![open(1, "a"), open(3, "a")]),
        (Reject::InvalidStreamName, alloc::vec![nameless]),
    ];
    for (reason, frames) in scripts {
        let (mut mux, outcome) = victim(&frames);
        assert_eq!(outcome, Ok(()), "{reason}");
        assert_eq!(mux.rejected(reason), 1, "{reason} {frames:?}");
        assert!(resets(&mut mux).iter().any(|(_, code)| *code == ResetCode::Rejected(reason)), "{reason}");
    }
}

#[test]
fn data_beyond_its_credit_resets_its_stream_and_frees_what_it_held() {
    let mut mux = mux(Role::Listener);
    mux.handle_frame(at(0), &open(1, "a")).unwrap();
    mux.handle_frame(at(0), &data(1, 32 * 1024)).unwrap();
    mux.handle_frame(at(0), &data(1, 32 * 1024)).unwrap();
    assert_eq!(mux.buffered(), INITIAL_CREDIT_BYTES);
    mux.handle_frame(at(0), &data(1, 1)).unwrap();
    assert_eq!((mux.buffered(), mux.rejected(Reject::WindowCredit)), (0, 1));
    let code = ResetCode::Rejected(Reject::WindowCredit);
    assert_eq!(events(&mut mux), [Event::Reset { stream: StreamId(1), code }]);
    assert_eq!(mux.streams(), 0);
}

#[test]
fn frames_that_make_no_sense_end_the_session() {
    let mut long = data(1, PAYLOAD_BYTES_MAX);
    long.push(0);
    assert_eq!(victim(&[long]).1, Err(Error::Rejected(Reject::FrameOversize)));
    let transition = Err(Error::Rejected(Reject::InvalidStreamStateTransition));
    let cut = data(1, 5)[..HEADER_BYTES + 4].to_vec();
    for frame in [Vec::new(), cut, alloc::vec![99, 0, 0, 0, 0, 0, 0, 1], alloc::vec![1, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert_eq!(victim(&[frame]).1, transition);
    }
}

#[test]
fn peer_that_goes_on_breaking_rules_loses_the_session() {
    let mut mux = mux(Role::Listener);
    for id in 0..8 {
        assert_eq!(mux.handle_frame(at(0), &data(2 * id + 1, 1)), Ok(()));
    }
    let ended = Err(Error::Rejected(Reject::UnknownStreamFrame));
    assert_eq!(mux.handle_frame(at(0), &data(17, 1)), ended);
}

#[test]
fn peer_that_opens_streams_without_end_and_never_reads_is_dropped() {
    let mut mux = mux(Role::Listener);
    let mut opened = 0;
    let outcome = loop {
        opened += 1;
        if let Err(error) = mux.handle_frame(at(0), &open(2 * opened + 1, &opened.to_string())) {
            break error;
        }
        while let Some(Event::Opened { stream, .. }) = mux.poll_event() {
            mux.refuse(stream).unwrap();
        }
    };
    assert!(matches!(outcome, Error::TooMany { max: RESETS_MAX, .. }));
    assert_eq!(mux.streams(), 0);
}

#[test]
fn streams_reset_by_the_peer_count_until_the_user_was_told() {
    let mut mux = mux(Role::Listener);
    for number in 0..1000 {
        let id = 2 * number + 1;
        mux.handle_frame(at(0), &open(id, &number.to_string())).unwrap();
        mux.handle_frame(at(0), &Frame::Reset(StreamId(id), ResetCode::Cancelled).to_bytes()).unwrap();
        assert!(mux.streams() <= STREAMS_MAX);
        let _sent = mux.poll_transmit();
    }
    assert_eq!(events(&mut mux).len(), STREAMS_MAX, "one event for each, and no more");
    assert_eq!(mux.streams(), 0);
}

#[test]
fn pings_without_end_are_answered_by_one_pong() {
    let mut mux = mux(Role::Listener);
    for number in 0..1000 {
        mux.handle_frame(at(0), &Frame::Ping(number).to_bytes()).unwrap();
    }
    assert_eq!(mux.poll_transmit(), Some(Frame::Pong(999).to_bytes()));
    assert_eq!(mux.poll_transmit(), None);
}

proptest! {
    /// Frames that are well formed and otherwise anything: the bounds hold, and the user's side of it stays whole.
    #[test]
    fn frames_at_random_keep_every_bound(
        frames in prop::collection::vec((0..9_u8, 0..8_u32, prop::collection::vec(any::<u8>(), 0..12)), 1..200),
        accepts in any::<bool>(),
    ) {
        let mut mux = mux(Role::Listener);
        let ours = mux.open(name("ours"), 1).unwrap();
        let _unsent = mux.write(ours, b"something");
        for (kind, stream, payload) in frames {
            let mut frame = alloc::vec![kind, 0];
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            frame.extend(stream.to_be_bytes());
            frame.extend(&payload);
            if mux.handle_frame(at(0), &frame).is_err() {
                break;
            }
            while let Some(event) = mux.poll_event() {
                if let Event::Opened { stream, .. } = event && accepts {
                    mux.accept(stream).unwrap();
                }
            }
            let _sent = mux.poll_transmit();
            prop_assert!(mux.streams() <= STREAMS_MAX);
            prop_assert!(mux.buffered() <= mux.streams() * 2 * STREAM_BYTES_MAX);
        }
    }
}
