//! Frames of the mux, version 2:
//!
//! ```text
//!  kind u8 | flags u8 = 0 | length u16 | stream u32 | payload          all big-endian
//!
//!  0 OPEN           priority u8 (0..=7) | name                 the sender's initial credit and ours are fixed: 64 KiB
//!  1 OPEN_ACK       -
//!  2 DATA           1 to 32 KiB
//!  3 WINDOW_UPDATE  credit u32 (not 0)
//!  4 RST            code u8
//!  5 PING           u64                                        stream 0
//!  6 PONG           the same u64                               stream 0
//!  7 CLOSE          -                                          the sender's half is done; on stream 0: no new streams
//! ```

use alloc::vec::Vec;

use super::reject::Reject;
use crate::name::StreamName;

/// Of every frame.
pub const HEADER_BYTES: usize = 8;
/// The longest payload. Fixed.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;
/// The longest frame.
pub const MUX_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// Classes of priority: 0 is served before all others.
pub const PRIORITIES: u8 = 8;

/// A stream of one session. Whoever dialled opens odd ones, the other side even ones, counting up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u32);

impl StreamId {
    /// As on the wire.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// Its user gave it up.
    Cancelled,
    /// Nobody took it: there is no such service, or it is not for this peer.
    Refused,
    /// A frame was rejected.
    Rejected(Reject),
    /// A number that we do not know.
    Unknown(u8),
}

const CANCELLED: u8 = 0;
const REFUSED: u8 = 16;

impl ResetCode {
    fn to_u8(self) -> u8 {
        match self {
            ResetCode::Cancelled => CANCELLED,
            ResetCode::Refused => REFUSED,
            ResetCode::Rejected(reject) => reject as u8,
            ResetCode::Unknown(code) => code,
        }
    }

    fn from_u8(code: u8) -> ResetCode {
        match code {
            CANCELLED => ResetCode::Cancelled,
            REFUSED => ResetCode::Refused,
            code => Reject::ALL
                .into_iter()
                .find(|reject| *reject as u8 == code)
                .map_or(ResetCode::Unknown(code), ResetCode::Rejected),
        }
    }
}

/// A frame that makes sense by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Opens a stream. The name is checked, its uniqueness is not.
    Open {
        /// The new stream.
        stream: StreamId,
        /// Its class, 0 to 7.
        priority: u8,
        /// What it is for, or why that cannot be said.
        name: Result<StreamName, Reject>,
    },
    /// The stream was taken.
    OpenAck(StreamId),
    /// Bytes.
    Data(StreamId, &'a [u8]),
    /// The sender of this has room for so many bytes more.
    WindowUpdate(StreamId, u32),
    /// The stream ends here, in both directions.
    Reset(StreamId, ResetCode),
    /// Are you there?
    Ping(u64),
    /// Yes.
    Pong(u64),
    /// The sender sends no more on this stream.
    Close(StreamId),
    /// The sender wants no new streams.
    GoAway,
}

impl<'a> Frame<'a> {
    /// The frame in `bytes`, all of them.
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, Reject> {
        const MALFORMED: Reject = Reject::InvalidStreamStateTransition;
        if bytes.len() > MUX_BYTES_MAX {
            return Err(Reject::FrameOversize);
        }
        let Some((&[kind, flags, high, low, a, b, c, d], payload)) =
            bytes.split_first_chunk::<HEADER_BYTES>()
        else {
            return Err(MALFORMED);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > PAYLOAD_BYTES_MAX {
            return Err(Reject::FrameOversize);
        }
        let number = u32::from_be_bytes([a, b, c, d]);
        if len != payload.len() || flags != 0 || ((5..=6).contains(&kind) != (number == 0) && kind != 7) {
            return Err(MALFORMED);
        }
        let stream = StreamId(number);
        match (kind, payload) {
            (0, &[priority, ref name @ ..]) if priority < PRIORITIES => {
                let name = StreamName::from_bytes(name).map_err(|_| Reject::InvalidStreamName);
                Ok(Frame::Open { stream, priority, name })
            }
            (1, []) => Ok(Frame::OpenAck(stream)),
            (2, &[_, ..]) => Ok(Frame::Data(stream, payload)),
            (3, &[a, b, c, d]) => match u32::from_be_bytes([a, b, c, d]) {
                0 => Err(Reject::WindowCredit),
                credit => Ok(Frame::WindowUpdate(stream, credit)),
            },
            (4, &[code]) => Ok(Frame::Reset(stream, ResetCode::from_u8(code))),
            (5, _) => payload.try_into().map(u64::from_be_bytes).map(Frame::Ping).map_err(|_| MALFORMED),
            (6, _) => payload.try_into().map(u64::from_be_bytes).map(Frame::Pong).map_err(|_| MALFORMED),
            (7, []) if number == 0 => Ok(Frame::GoAway),
            (7, []) => Ok(Frame::Close(stream)),
            _ => Err(MALFORMED),
        }
    }

    /// The bytes of it. A name that could not be said is empty.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Frame::Open { stream, priority, name } => {
                let name = name.as_ref().map_or("", StreamName::as_str);
                encode(0, *stream, &[&[*priority], name.as_bytes()].concat())
            }
            Frame::OpenAck(stream) => encode(1, *stream, &[]),
            Frame::Data(stream, bytes) => encode(2, *stream, bytes),
            Frame::WindowUpdate(stream, credit) => encode(3, *stream, &credit.to_be_bytes()),
            Frame::Reset(stream, code) => encode(4, *stream, &[code.to_u8()]),
            Frame::Ping(number) => encode(5, StreamId(0), &number.to_be_bytes()),
            Frame::Pong(number) => encode(6, StreamId(0), &number.to_be_bytes()),
            Frame::Close(stream) => encode(7, *stream, &[]),
            Frame::GoAway => encode(7, StreamId(0), &[]),
        }
    }
}

/// Payloads are at most [`PAYLOAD_BYTES_MAX`] long, which fits: what the mux sends is cut to it.
fn encode(kind: u8, stream: StreamId, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend([kind, 0]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(stream.0.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = (u8, u32, Vec<u8>)> {
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            prop::collection::vec(any::<u8>(), 60..80)
        ];
        (0..10_u8, prop_oneof![Just(0), 1..4_u32, any::<u32>()], payload)
    }

    #[test]
    fn open_of_a_chat_is_these_bytes() {
        let name = "chat".parse().map_err(|_| Reject::InvalidStreamName);
        let open = Frame::Open { stream: StreamId(1), priority: 3, name };
        assert_eq!(open.to_bytes(), b"\x00\x00\x00\x05\x00\x00\x00\x01\x03chat");
        assert_eq!(Frame::parse(&open.to_bytes()), Ok(open));
    }

    #[test]
    fn frames_at_their_longest_are_taken_and_one_byte_more_is_oversize() {
        let stream = StreamId(1);
        let mut bytes = Frame::Data(stream, &[0; PAYLOAD_BYTES_MAX]).to_bytes();
        assert!(Frame::parse(&bytes).is_ok());
        bytes.push(0);
        assert_eq!(Frame::parse(&bytes), Err(Reject::FrameOversize));
        let claimed = b"\x02\x00\x80\x01\x00\x00\x00\x01";
        assert_eq!(Frame::parse(claimed), Err(Reject::FrameOversize), "by its length alone");
    }

    #[test]
    fn rejects_have_the_names_that_are_fixed_and_travel_by_number() {
        for reject in Reject::ALL {
            assert!(reject.as_str().starts_with("mux.reject."));
            let frame = Frame::Reset(StreamId(5), ResetCode::Rejected(reject));
            assert_eq!(Frame::parse(&frame.to_bytes()), Ok(frame));
        }
    }

    proptest! {
        /// Nothing but what we would have sent is understood.
        #[test]
        fn frames_read_are_printed_back((kind, stream, payload) in frames()) {
            let bytes = encode(kind, StreamId(stream), &payload);
            match Frame::parse(&bytes) {
                Ok(Frame::Open { name: Err(_), .. }) | Err(_) => {}
                Ok(frame) => prop_assert_eq!(frame.to_bytes(), bytes),
            }
        }

        #[test]
        fn bytes_of_strangers_are_understood_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _understood = Frame::parse(&bytes);
        }
    }
}
