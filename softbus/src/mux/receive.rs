//! What arrives: every frame is checked against the stream that it names, and silence against the clock.

use super::frame::{Frame, ResetCode, StreamId};
use super::reject::Reject;
use super::stream::{Agreement, Half, Stream};
use super::{Control, Event, Mux, OURS, RESETS_MAX, Role, THEIRS};
use crate::error::Error;
use crate::name::StreamName;
use crate::time::Instant;

impl Mux {
    /// A frame arrived. After an error the session has to end.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Error> {
        let frame = match Frame::parse(bytes) {
            Ok(frame) => frame,
            Err(reason) => {
                self.count(reason);
                return Err(Error::Rejected(reason));
            }
        };
        self.heard = now;
        self.pings = 0;
        match frame {
            Frame::Open { stream, priority, name } => self.opened(stream, priority, name),
            Frame::OpenAck(id) => self.on_stream(id, Stream::agreed).map(|agreed| {
                if agreed.is_some() {
                    self.events.push_back(Event::Accepted(id));
                }
            }),
            Frame::Data(id, bytes) => {
                self.on_stream(id, |stream| stream.receive(bytes)).map(|_| self.readable(id))
            }
            Frame::Close(id) => self.on_stream(id, Stream::peer_finished).map(|_| self.readable(id)),
            Frame::WindowUpdate(id, credit) => {
                self.on_open_or_past(id, |stream| stream.add_credit(credit)).map(|()| self.schedule(id))
            }
            Frame::Reset(id, code) => self.reset_by_peer(id, code),
            Frame::Ping(number) => {
                self.pong = Some(number);
                Ok(())
            }
            // Whatever it answers: the peer is there, which is all that we wanted to know.
            Frame::Pong(_) => Ok(()),
            Frame::GoAway => {
                if !core::mem::replace(&mut self.going_away[THEIRS], true) {
                    self.events.push_back(Event::GoingAway);
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, reason: Reject) {
        let index = Reject::ALL.iter().position(|reject| *reject == reason);
        if let Some(counter) = index.and_then(|index| self.rejected.get_mut(index)) {
            *counter += 1;
        }
    }

    fn is_theirs(&self, id: StreamId) -> bool {
        let odd = !id.0.is_multiple_of(2);
        odd != (self.role == Role::Dialer)
    }

    /// A stream that was there once.
    fn is_past(&self, id: StreamId) -> bool {
        if self.is_theirs(id) { id.0 <= self.last_offered } else { id.0 < self.next }
    }

    fn opened(&mut self, id: StreamId, priority: u8, name: Result<StreamName, Reject>) -> Result<(), Error> {
        if !self.is_theirs(id) || id.0 <= self.last_offered {
            return self.violated(id, Reject::InvalidStreamStateTransition);
        }
        if self.resets_waiting >= RESETS_MAX {
            let (what, count) = ("resets that the peer does not take", self.resets_waiting);
            return Err(Error::TooMany { what, count, max: RESETS_MAX });
        }
        self.last_offered = id.0;
        let name = match name {
            Ok(name) => name,
            Err(reason) => return self.refuse_open(id, ResetCode::Rejected(reason)),
        };
        if self.streams.len() >= self.config.streams {
            return self.refuse_open(id, ResetCode::Rejected(Reject::StreamLimitExceeded));
        }
        if self.is_named(&name, false) {
            return self.refuse_open(id, ResetCode::Rejected(Reject::DuplicateStreamName));
        }
        if self.going_away[OURS] {
            return self.refuse_open(id, ResetCode::Refused);
        }
        self.streams.insert(id, Stream::new(name.clone(), priority, false));
        self.events.push_back(Event::Opened { stream: id, name, priority });
        Ok(())
    }

    /// A stream that does not come to be. That is no violation.
    fn refuse_open(&mut self, id: StreamId, code: ResetCode) -> Result<(), Error> {
        if let ResetCode::Rejected(reason) = code {
            self.count(reason);
        }
        self.forget(id, code);
        Ok(())
    }

    /// Does it to a stream that is there. Frames of one that we reset are dropped: they crossed our RST.
    fn on_stream<R>(
        &mut self,
        id: StreamId,
        call: impl FnOnce(&mut Stream) -> Result<R, Reject>,
    ) -> Result<Option<R>, Error> {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) else {
            if self.forgotten.contains(&id) || self.streams.contains_key(&id) {
                return Ok(None);
            }
            return self.violated(id, Reject::UnknownStreamFrame).map(|()| None);
        };
        match call(stream) {
            Ok(done) => Ok(Some(done)),
            Err(reason) => self.violated(id, reason).map(|()| None),
        }
    }

    /// The same for what may come late without fault: credit for a stream that is complete.
    fn on_open_or_past(
        &mut self,
        id: StreamId,
        call: impl FnOnce(&mut Stream) -> Result<(), Reject>,
    ) -> Result<(), Error> {
        if self.is_past(id) && !self.streams.contains_key(&id) {
            return Ok(());
        }
        self.on_stream(id, call).map(drop)
    }

    fn readable(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) else { return };
        if !core::mem::replace(&mut stream.queued.readable, true) {
            self.events.push_back(Event::Readable(id));
        }
    }

    fn reset_by_peer(&mut self, id: StreamId, code: ResetCode) -> Result<(), Error> {
        if self.is_past(id) && !self.streams.contains_key(&id) {
            return Ok(());
        }
        let aborted = self.on_stream(id, |stream| {
            stream.abort(code);
            Ok(())
        })?;
        if aborted.is_some() {
            self.tell_reset(id, code);
        }
        Ok(())
    }

    /// The user learns of it once; until then the stream counts as one that is there.
    fn tell_reset(&mut self, id: StreamId, code: ResetCode) {
        self.events.retain(|event| event.stream() != Some(id));
        self.events.push_back(Event::Reset { stream: id, code });
    }

    /// The peer broke a rule: the stream ends, and if that goes on, the session.
    fn violated(&mut self, id: StreamId, reason: Reject) -> Result<(), Error> {
        self.count(reason);
        self.violations += 1;
        if self.violations > self.config.violations {
            return Err(Error::Rejected(reason));
        }
        let code = ResetCode::Rejected(reason);
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) {
            stream.abort(code);
            self.tell_reset(id, code);
        }
        self.forget(id, code);
        Ok(())
    }

    /// Asks a silent peer whether it is there; fails when it was silent for too long.
    pub fn poll(&mut self, now: Instant) -> Result<(), Error> {
        if now >= self.heard + self.config.tick * self.config.timeout_ticks {
            let seconds = now.saturating_duration_since(self.heard).as_secs();
            return Err(Error::PeerSilent { seconds });
        }
        if now >= self.next_ping() {
            self.pings += 1;
            let waiting = self.control.iter().any(|frame| matches!(frame, Control::Ping(_)));
            if !waiting {
                self.control.push_back(Control::Ping(now.as_micros()));
            }
        }
        Ok(())
    }

    fn next_ping(&self) -> Instant {
        let ticks = self.config.keepalive_ticks.saturating_mul(self.pings.saturating_add(1));
        self.heard + self.config.tick * ticks
    }

    /// When to call [`Mux::poll`].
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_ping().min(self.heard + self.config.tick * self.config.timeout_ticks)
    }
}

impl Stream {
    fn agreed(&mut self) -> Result<(), Reject> {
        if self.agreement != Agreement::Asked {
            return Err(Reject::InvalidStreamStateTransition);
        }
        self.agreement = Agreement::Agreed;
        Ok(())
    }

    fn peer_finished(&mut self) -> Result<(), Reject> {
        if self.receiving != Half::Open {
            return Err(Reject::InvalidStreamStateTransition);
        }
        self.receiving = Half::Ending;
        Ok(())
    }
}
