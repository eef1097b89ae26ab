//! A peer of a session, who has proven who it is and sends what it wants.

use core::time::Duration;

use netd_softbus::Instant;
use netd_softbus::mux::{
    Config, Event, Frame, Mux, Read, Reject, Role, STREAM_BYTES_MAX, STREAMS_MAX, StreamId,
};

use crate::input::Input;

/// Steps: a frame as it is `{ len u16, bytes }`, a frame with a right header `{ kind u8, stream u8, len u8, payload }`, and what the user
/// does: open, write, read, finish, reset, each of stream `u8`; time passes. The bounds hold, and what was understood is printed as it
/// was read.
pub fn mux(data: &[u8]) {
    run(data);
}

/// A side with a user who accepts every other stream.
struct Script {
    mux: Mux,
    now: Instant,
    known: Vec<StreamId>,
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let now = Instant::ZERO;
    let mux = Mux::new(Config::default().check().ok()?, Role::Listener, now);
    let mut script = Script { mux, now, known: Vec::new() };
    loop {
        if input.u8().map(|step| script.step(step % 8, &mut input))??.is_err() {
            // The session is over, with everything that it held.
            return Some(());
        }
        script.after();
    }
}

impl Script {
    fn step(&mut self, step: u8, input: &mut Input<'_>) -> Option<Result<(), netd_softbus::Error>> {
        match step {
            0 => return Some(self.frame(input.long()?)),
            1 | 2 => {
                let (kind, stream, payload) = (input.u8()? % 9, input.u8()?, input.short()?);
                let len = u8::try_from(payload.len()).ok()?;
                let header = [kind, 0, 0, len, 0, 0, 0, stream % 16];
                return Some(self.frame(&[&header, payload].concat()));
            }
            3 => {
                if let Ok(id) = self.mux.open(format!("{}", input.u8()? % 8).parse().ok()?, 0) {
                    self.known.push(id);
                }
            }
            4 => {
                self.now = self.now + Duration::from_millis(input.u16()?.into());
                return Some(self.mux.poll(self.now));
            }
            _ => self.use_stream(step, input.u8()?),
        }
        Some(Ok(()))
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), netd_softbus::Error> {
        match Frame::parse(bytes) {
            Ok(Frame::Open { name: Err(reason), .. }) => assert_eq!(reason, Reject::InvalidStreamName),
            Ok(frame) => assert_eq!(frame.to_bytes(), bytes, "what was read is not what is printed"),
            Err(_) => {}
        }
        self.mux.handle_frame(self.now, bytes)
    }

    fn use_stream(&mut self, step: u8, which: u8) {
        let Some(id) = self.known.get(usize::from(which) % self.known.len().max(1)).copied() else { return };
        let _gone = match step {
            5 => self.mux.write(id, &[which; 3000]).map(drop),
            6 => self.mux.finish(id),
            _ if which < 16 => self.mux.reset(id),
            _ => {
                let read = self.mux.read(id, &mut [0; 4096]);
                assert_ne!(read, Ok(Read::Bytes(0)), "nothing is not some bytes");
                read.map(drop)
            }
        };
    }

    fn after(&mut self) {
        while let Some(event) = self.mux.poll_event() {
            if let Event::Opened { stream, .. } = event {
                let answer =
                    if self.known.len() % 2 == 0 { self.mux.accept(stream) } else { self.mux.refuse(stream) };
                assert_eq!(answer, Ok(()), "a stream that is offered can be answered");
                self.known.push(stream);
            }
        }
        if let Some(frame) = self.mux.poll_transmit() {
            assert!(Frame::parse(&frame).is_ok(), "we sent what we would not take");
        }
        assert!(self.mux.streams() <= STREAMS_MAX);
        assert!(self.mux.buffered() <= self.mux.streams() * 2 * STREAM_BYTES_MAX);
    }
}
