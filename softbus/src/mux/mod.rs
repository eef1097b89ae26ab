//! The mux: many streams over one session.
//!
//! # Theory of operation
//!
//! A [`Mux`] sits on a session that is ready; each of its frames is one record. Order of calls: [`Mux::handle_frame`] for each frame that
//! arrives; then [`Mux::poll`] once, [`Mux::poll_event`] until it gives nothing, [`Mux::poll_transmit`] for as long as the session
//! [can send](crate::session::Session::can_send), and sleep until [`Mux::poll_timeout`]. After an error the session has to end.
//!
//! ```text
//!             open ->  asked  --OPEN_ACK-->  agreed        each half by itself:
//!   OPEN -> offered  --accept-------------->                  open --finish--> ending --CLOSE--> closed
//!                    --refuse--> RST                       RST ends both
//! ```
//!
//! **Credit.** A side sends only what the other has given credit for: 64 KiB when the stream is opened, more as the user reads. Credit is
//! checked where data arrives, so a stream never holds more than its buffer, whatever the peer does. A user who does not read stops
//! its own stream's sender, and nobody else.
//!
//! **Priorities.** Class 0 goes first, but after eight frames in a row lets one other go; the streams of the other classes take turns.
//!
//! **Rejects.** A frame that makes no sense by itself ends the session. One that breaks the rules of a stream resets that stream; a peer that goes
//! on so loses the session. Frames that cross our RST on the way are no fault of the peer's, and are dropped.

mod config;
mod frame;
mod receive;
mod reject;
mod stream;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

pub use config::{Config, INITIAL_CREDIT_BYTES, STREAM_BYTES_MAX, STREAMS_MAX};
pub use frame::{Frame, HEADER_BYTES, MUX_BYTES_MAX, PAYLOAD_BYTES_MAX, PRIORITIES, ResetCode, StreamId};
pub use reject::Reject;

use crate::config::Checked;
use crate::error::Error;
use crate::name::StreamName;
use crate::time::Instant;
use stream::{Agreement, Half, Stream};

/// Resets that wait to be sent. A peer that goes on opening streams without ever reading what becomes of them is dropped.
const RESETS_MAX: usize = 256;
/// Streams that we reset, whose frames may still be on their way: as many as there can be at once.
const FORGOTTEN_MAX: usize = STREAMS_MAX;

/// Which side of the session we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We dialled: our streams are odd.
    Dialer,
    /// We were dialled: our streams are even.
    Listener,
}

/// What happened. Each of these waits at most once per stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream: [`Mux::accept`] or [`Mux::refuse`] it.
    Opened {
        /// The stream.
        stream: StreamId,
        /// What for.
        name: StreamName,
        /// Its class.
        priority: u8,
    },
    /// The peer accepted a stream of ours.
    Accepted(StreamId),
    /// There is something to read: bytes, or the end.
    Readable(StreamId),
    /// There is room to write again.
    Writable(StreamId),
    /// The stream ended before its end; it is gone. Data that was not read is gone with it.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: ResetCode,
    },
    /// The peer takes no new streams.
    GoingAway,
}

/// What there was to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The peer's half is complete.
    End,
}

/// Frames besides data.
#[derive(Debug)]
enum Control {
    Open(StreamId),
    Accept(StreamId),
    Credit(StreamId),
    Reset(StreamId, ResetCode),
    Ping(u64),
    GoAway,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Mux {
    config: Checked<Config>,
    role: Role,
    streams: BTreeMap<StreamId, Stream>,
    next: u32,
    /// The last stream that the peer opened.
    last_offered: u32,
    forgotten: VecDeque<StreamId>,
    control: VecDeque<Control>,
    resets_waiting: usize,
    pong: Option<u64>,
    urgent: VecDeque<StreamId>,
    others: VecDeque<StreamId>,
    urgent_run: usize,
    events: VecDeque<Event>,
    violations: usize,
    rejected: [u64; Reject::ALL.len()],
    going_away: [bool; 2],
    heard: Instant,
    /// How many pings went unanswered since.
    pings: u32,
}

const OURS: usize = 0;
const THEIRS: usize = 1;

impl Mux {
    /// No streams.
    #[must_use]
    pub fn new(config: Checked<Config>, role: Role, now: Instant) -> Mux {
        Mux {
            config,
            role,
            streams: BTreeMap::new(),
            next: if role == Role::Dialer { 1 } else { 2 },
            last_offered: 0,
            forgotten: VecDeque::new(),
            control: VecDeque::new(),
            resets_waiting: 0,
            pong: None,
            urgent: VecDeque::new(),
            others: VecDeque::new(),
            urgent_run: 0,
            events: VecDeque::new(),
            violations: 0,
            rejected: [0; Reject::ALL.len()],
            going_away: [false; 2],
            heard: now,
            pings: 0,
        }
    }

    /// Opens a stream. It may be written to at once.
    pub fn open(&mut self, name: StreamName, priority: u8) -> Result<StreamId, Error> {
        if priority >= PRIORITIES {
            let (value, max) = (priority.into(), usize::from(PRIORITIES - 1));
            return Err(Error::Configuration { key: "priority", value, min: 0, max });
        }
        if self.going_away.contains(&true) || self.next > u32::MAX - 2 {
            return Err(Error::GoingAway);
        }
        if self.streams.len() >= self.config.streams {
            let count = self.streams.len() + 1;
            return Err(Error::TooMany { what: "streams", count, max: self.config.streams });
        }
        if self.is_named(&name, true) {
            return Err(Error::Rejected(Reject::DuplicateStreamName));
        }
        let id = StreamId(self.next);
        self.next += 2;
        self.streams.insert(id, Stream::new(name, priority, true));
        self.control.push_back(Control::Open(id));
        self.grant(id);
        Ok(id)
    }

    /// Names are unique among the streams that one side opened: so both may open "chat" at the same moment.
    fn is_named(&self, name: &StreamName, opened_here: bool) -> bool {
        self.streams.values().any(|stream| stream.opened_here == opened_here && stream.name == *name)
    }

    fn live(&mut self, id: StreamId) -> Result<&mut Stream, Error> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none());
        stream.ok_or(Error::UnknownStream { stream: id.0 })
    }

    /// Takes a stream that the peer opened.
    pub fn accept(&mut self, id: StreamId) -> Result<(), Error> {
        let stream = self.live(id)?;
        if stream.agreement == Agreement::Offered {
            stream.agreement = Agreement::Agreed;
            self.control.push_back(Control::Accept(id));
            self.grant(id);
        }
        Ok(())
    }

    /// Does not take a stream that the peer opened.
    pub fn refuse(&mut self, id: StreamId) -> Result<(), Error> {
        self.give_up(id, ResetCode::Refused)
    }

    /// Ends a stream in both directions, whatever is under way.
    pub fn reset(&mut self, id: StreamId) -> Result<(), Error> {
        self.give_up(id, ResetCode::Cancelled)
    }

    fn give_up(&mut self, id: StreamId, code: ResetCode) -> Result<(), Error> {
        self.live(id)?;
        self.streams.remove(&id);
        // What waited to be told or sent is void: the user has forgotten the stream.
        self.events.retain(|event| event.stream() != Some(id));
        self.forget(id, code);
        Ok(())
    }

    /// Our user, or a reject, ended the stream: the peer is told, and its frames on the way are expected.
    fn forget(&mut self, id: StreamId, code: ResetCode) {
        let unsent =
            self.control.iter().position(|frame| matches!(frame, Control::Open(open) if *open == id));
        if let Some(unsent) = unsent {
            // The peer never heard of it.
            self.control.remove(unsent);
            return;
        }
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
        self.resets_waiting += 1;
        self.control.push_back(Control::Reset(id, code));
    }

    /// Takes as many of the bytes as there is room for. If not all, [`Event::Writable`] follows.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, Error> {
        let config = self.config.clone();
        let stream = self.live(id)?;
        if stream.sending != Half::Open {
            return Err(Error::Finished { stream: id.0 });
        }
        let written = stream.write(bytes, &config);
        self.schedule(id);
        Ok(written)
    }

    /// Our half is complete.
    pub fn finish(&mut self, id: StreamId) -> Result<(), Error> {
        let stream = self.live(id)?;
        if stream.sending == Half::Open {
            stream.sending = Half::Ending;
            self.schedule(id);
        }
        Ok(())
    }

    /// Reads what there is, and makes room for as much.
    pub fn read(&mut self, id: StreamId, buffer: &mut [u8]) -> Result<Read, Error> {
        let stream = self.live(id)?;
        let len = stream.read(buffer);
        if len == 0 && stream.unread() == 0 && stream.receiving != Half::Open {
            stream.receiving = Half::Closed;
            self.retire(id);
            return Ok(Read::End);
        }
        self.grant(id);
        Ok(if len == 0 { Read::Nothing } else { Read::Bytes(len) })
    }

    /// Wants no new streams; those that are there go on.
    pub fn go_away(&mut self) {
        if !core::mem::replace(&mut self.going_away[OURS], true) {
            self.control.push_back(Control::GoAway);
        }
    }

    /// Streams that are there.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Frames that were rejected for this reason.
    #[must_use]
    pub fn rejected(&self, reason: Reject) -> u64 {
        let index = Reject::ALL.iter().position(|reject| *reject == reason);
        index.and_then(|index| self.rejected.get(index)).copied().unwrap_or_default()
    }

    /// Bytes in the buffers of all streams.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.streams.values().map(Stream::buffered).sum()
    }

    fn schedule(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.has_output() && !core::mem::replace(&mut stream.queued.data, true) {
            let queue = if stream.priority == 0 { &mut self.urgent } else { &mut self.others };
            queue.push_back(id);
        }
    }

    fn grant(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.credit_due(&self.config) > 0 && !core::mem::replace(&mut stream.queued.credit, true) {
            self.control.push_back(Control::Credit(id));
        }
    }

    fn retire(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| stream.is_done() && stream.reset.is_none()) {
            self.streams.remove(&id);
            self.events.retain(|event| event.stream() != Some(id));
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        match &event {
            Event::Readable(id) => self.streams.get_mut(id).map(|stream| stream.queued.readable = false),
            Event::Writable(id) => self.streams.get_mut(id).map(|stream| stream.queued.writable = false),
            Event::Reset { stream, .. } => self.streams.remove(stream).map(drop),
            Event::Opened { .. } | Event::Accepted(_) | Event::GoingAway => None,
        };
        Some(event)
    }

    /// The next frame for the session.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if let Some(number) = self.pong.take() {
            return Some(Frame::Pong(number).to_bytes());
        }
        while let Some(control) = self.control.pop_front() {
            if let Some(frame) = self.control_frame(&control) {
                return Some(frame);
            }
        }
        while let Some(id) = self.next_turn() {
            if let Some(frame) = self.data_frame(id) {
                return Some(frame);
            }
        }
        None
    }

    fn control_frame(&mut self, control: &Control) -> Option<Vec<u8>> {
        let frame = match *control {
            Control::Open(stream) => {
                let Stream { name, priority, .. } = self.streams.get(&stream)?;
                Frame::Open { stream, priority: *priority, name: Ok(name.clone()) }
            }
            Control::Accept(stream) => {
                self.streams.get(&stream)?;
                Frame::OpenAck(stream)
            }
            Control::Credit(id) => {
                let stream = self.streams.get_mut(&id)?;
                stream.queued.credit = false;
                let due = stream.credit_due(&self.config);
                stream.grant(due);
                // At most 256 KiB.
                Frame::WindowUpdate(id, u32::try_from(due).ok().filter(|due| *due > 0)?)
            }
            Control::Reset(stream, code) => {
                self.resets_waiting = self.resets_waiting.saturating_sub(1);
                Frame::Reset(stream, code)
            }
            Control::Ping(number) => Frame::Ping(number),
            Control::GoAway => Frame::GoAway,
        };
        Some(frame.to_bytes())
    }

    /// Whose turn it is: class 0, unless it had its burst and somebody else waits.
    fn next_turn(&mut self) -> Option<StreamId> {
        let may_go = self.urgent_run < self.config.urgent_burst || self.others.is_empty();
        if let Some(id) = self.urgent.pop_front_if(|_| may_go) {
            self.urgent_run += 1;
            return Some(id);
        }
        self.urgent_run = 0;
        self.others.pop_front()
    }

    fn data_frame(&mut self, id: StreamId) -> Option<Vec<u8>> {
        let stream = self.streams.get_mut(&id)?;
        stream.queued.data = false;
        let data = stream.next_data(&self.config);
        if data.is_empty() {
            if !stream.has_output() {
                return None;
            }
            stream.sending = Half::Closed;
            self.retire(id);
            return Some(Frame::Close(id).to_bytes());
        }
        if stream.relieved(&self.config) {
            stream.starved = false;
            if !core::mem::replace(&mut stream.queued.writable, true) {
                self.events.push_back(Event::Writable(id));
            }
        }
        self.schedule(id);
        Some(Frame::Data(id, &data).to_bytes())
    }
}

impl Event {
    fn stream(&self) -> Option<StreamId> {
        match self {
            Event::Opened { stream, .. } | Event::Reset { stream, .. } => Some(*stream),
            Event::Accepted(stream) | Event::Readable(stream) | Event::Writable(stream) => Some(*stream),
            Event::GoingAway => None,
        }
    }
}
