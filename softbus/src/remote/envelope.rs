//! Envelopes: requests and replies as they are on the control stream. Numbers are big-endian, each envelope has its length, two bytes, in front.
//!
//! ```text
//! request:  id u32 | deadline u32, milliseconds | target u8 | head: length u8, bytes | payload
//! payload:  0 and the rest of the envelope, or 1, the carrier's number u32 and the payload's length u32
//! reply:    id u32 | outcome
//! outcome:  0 done:    the body
//!           1 carried: the carrier's number u32, the payload's length u64, the body
//!           2 event:   how many were lost before it u32, the body
//!           3 failed:  a status u8, its message
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::error::Error;
use crate::read::Reader;

/// The longest request. Fixed.
pub const REQUEST_BYTES_MAX: usize = 256;
/// The longest body of a reply. Fixed.
pub const BODY_BYTES_MAX: usize = 4096;
/// The longest reply: id, outcome, carrier and length stand before the body.
pub const REPLY_BYTES_MAX: usize = 4 + 1 + 4 + 8 + BODY_BYTES_MAX;
/// The longest payload of a request, and of a call's reply: half of what a stream may carry unasked, so a sender never waits for credit. What is
/// longer is for streams.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024;
/// The longest message of a failure: a sentence for people.
pub const MESSAGE_BYTES_MAX: usize = 256;

const REQUEST: &str = "request";
const REPLY: &str = "reply";
/// What stands before the head of a request, and the mark of its payload.
const REQUEST_FIXED_BYTES: usize = 4 + 4 + 1 + 1 + 1;
/// A carrier's number and the payload's length.
const CARRIED_BYTES: usize = 4 + 4;

macro_rules! numbered {
    ($(#[$doc:meta])* $type:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal, $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$item_doc])* $item,)*
        }

        impl $type {
            /// All there are.
            pub const ALL: &'static [$type] = &[$($type::$item),*];

            /// As it is on the wire.
            #[must_use]
            pub fn number(self) -> u8 {
                match self {
                    $($type::$item => $number,)*
                }
            }

            /// As people write it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$item => $name,)*
                }
            }

            fn from_number(message: &'static str, value: u8) -> Result<$type, Error> {
                let field = stringify!($type);
                let found = $type::ALL.iter().copied().find(|item| item.number() == value);
                found.ok_or(Error::UnknownValue { message, field, value })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

numbered!(
    /// What a request is for.
    Target {
        /// What there is: resolve, list.
        Gateway = 0, "gateway";
        /// A service's method.
        Call = 1, "call";
        /// What a service publishes.
        Topic = 2, "topic";
        /// Files that are shared.
        Share = 3, "share";
        /// Keys and values.
        State = 4, "state";
        /// The end of the request that has the same id; it has no reply of its own.
        Cancel = 5, "cancel";
    }
);

numbered!(
    /// Why a request came to nothing.
    Status {
        /// There is no such thing, or not for this device to know.
        NotFound = 1, "not found";
        /// The device may not.
        Denied = 2, "denied";
        /// More often, or more at once, than allowed.
        Busy = 3, "busy";
        /// There was no answer in time.
        DeadlinePassed = 4, "deadline passed";
        /// Whoever asked gave up.
        Cancelled = 5, "cancelled";
        /// What was asked cannot be meant.
        Invalid = 6, "invalid";
        /// It is not as the request supposes.
        Conflict = 7, "conflict";
        /// Whoever was to do it could not.
        Failed = 8, "failed";
        /// More bytes than may be.
        TooLarge = 9, "too large";
        /// Whoever was to do it went away.
        Gone = 10, "gone";
    }
);

/// What a user sends or gets, which this crate does not understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// In the envelope.
    Inline(Vec<u8>),
    /// On a carrier.
    Carried {
        /// Which.
        carrier: u32,
        /// How many bytes.
        length: u32,
    },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by whoever asks; each that is under way has its own.
    pub id: u32,
    /// How long it may take, in whole milliseconds; none leaves it to the server.
    pub deadline: Option<Duration>,
    /// What it is for.
    pub target: Target,
    /// What the target understands.
    pub head: Vec<u8>,
    /// What its users do.
    pub payload: Payload,
}

impl Request {
    /// Whether a payload of so many bytes goes into the envelope beside a head of so many; otherwise it needs a carrier.
    #[must_use]
    pub fn fits(head: usize, payload: usize) -> bool {
        REQUEST_FIXED_BYTES.saturating_add(head).saturating_add(payload) <= REQUEST_BYTES_MAX
    }

    /// With its length in front.
    ///
    /// # Errors
    /// It is longer than [`REQUEST_BYTES_MAX`], or its payload than [`PAYLOAD_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(2 + REQUEST_BYTES_MAX);
        bytes.extend([0; 2]);
        bytes.extend(self.id.to_be_bytes());
        let deadline = self.deadline.map_or(0, |deadline| deadline.as_millis().max(1));
        bytes.extend(u32::try_from(deadline).unwrap_or(u32::MAX).to_be_bytes());
        bytes.push(self.target.number());
        let head = u8::try_from(self.head.len());
        let head = head.map_err(|_| oversize("head of a request", self.head.len(), u8::MAX.into()))?;
        bytes.push(head);
        bytes.extend(&self.head);
        match &self.payload {
            Payload::Inline(payload) => {
                bytes.push(0);
                bytes.extend(payload);
            }
            Payload::Carried { carrier, length } => {
                check_payload(*length)?;
                bytes.push(1);
                bytes.extend(carrier.to_be_bytes());
                bytes.extend(length.to_be_bytes());
            }
        }
        finish(bytes, REQUEST, REQUEST_BYTES_MAX)
    }

    /// What a peer sent, without the length.
    ///
    /// # Errors
    /// It is no request, or one that is too long.
    pub fn parse(bytes: &[u8]) -> Result<Request, Error> {
        check_length(REQUEST, bytes.len(), REQUEST_BYTES_MAX)?;
        let mut reader = Reader::new(REQUEST, bytes);
        let id = reader.u32("id")?;
        let deadline = reader.u32("deadline")?;
        let deadline = (deadline > 0).then(|| Duration::from_millis(deadline.into()));
        let target = Target::from_number(REQUEST, reader.u8("target")?)?;
        let head = reader.short("head")?.to_vec();
        let payload = match reader.u8("payload")? {
            0 => Payload::Inline(reader.rest().to_vec()),
            1 => {
                let (carrier, length) = (reader.u32("carrier")?, reader.u32("payload's length")?);
                check_payload(length)?;
                reader.end()?;
                Payload::Carried { carrier, length }
            }
            value => return Err(Error::UnknownValue { message: REQUEST, field: "payload", value }),
        };
        Ok(Request { id, deadline, target, head, payload })
    }
}

/// How a request ended; or an event, after which it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it was asked. For a subscription: it has begun.
    Done(Vec<u8>),
    /// The same, and there is more on a carrier.
    Carried {
        /// Which.
        carrier: u32,
        /// How many bytes it brings.
        length: u64,
        /// What is said beside it.
        body: Vec<u8>,
    },
    /// Something was published.
    Event {
        /// Events that were dropped before it, since the subscriber was too slow.
        lost: u32,
        /// See [`topic::Event`](super::topic::Event).
        body: Vec<u8>,
    },
    /// It came to nothing.
    Failed {
        /// Why.
        status: Status,
        /// The same for people.
        message: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's.
    pub id: u32,
    /// How it ended.
    pub outcome: Outcome,
}

impl Reply {
    /// With its length in front. A message that is too long is cut.
    ///
    /// # Errors
    /// The body is longer than [`BODY_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        bytes.extend([0; 2]);
        bytes.extend(self.id.to_be_bytes());
        let body = match &self.outcome {
            Outcome::Done(body) => {
                bytes.push(0);
                body.as_slice()
            }
            Outcome::Carried { carrier, length, body } => {
                bytes.push(1);
                bytes.extend(carrier.to_be_bytes());
                bytes.extend(length.to_be_bytes());
                body
            }
            Outcome::Event { lost, body } => {
                bytes.push(2);
                bytes.extend(lost.to_be_bytes());
                body
            }
            Outcome::Failed { status, message } => {
                bytes.push(3);
                bytes.push(status.number());
                cut(message).as_bytes()
            }
        };
        check_length("body of a reply", body.len(), BODY_BYTES_MAX)?;
        bytes.extend(body);
        finish(bytes, REPLY, REPLY_BYTES_MAX)
    }

    /// What a peer sent, without the length.
    ///
    /// # Errors
    /// It is no reply, or one that is too long.
    pub fn parse(bytes: &[u8]) -> Result<Reply, Error> {
        check_length(REPLY, bytes.len(), REPLY_BYTES_MAX)?;
        let mut reader = Reader::new(REPLY, bytes);
        let id = reader.u32("id")?;
        let body = |reader: Reader<'_>| {
            let body = reader.rest();
            check_length("body of a reply", body.len(), BODY_BYTES_MAX).map(|()| body.to_vec())
        };
        let outcome = match reader.u8("outcome")? {
            0 => Outcome::Done(body(reader)?),
            1 => {
                let (carrier, length) = (reader.u32("carrier")?, reader.u64("payload's length")?);
                Outcome::Carried { carrier, length, body: body(reader)? }
            }
            2 => Outcome::Event { lost: reader.u32("lost")?, body: body(reader)? },
            3 => {
                let status = Status::from_number(REPLY, reader.u8("status")?)?;
                let message = reader.rest();
                check_length("message of a failure", message.len(), MESSAGE_BYTES_MAX)?;
                let message = core::str::from_utf8(message);
                let message = message.map_err(|_| Error::NotUtf8 { what: "the message of a failure" })?;
                Outcome::Failed { status, message: message.into() }
            }
            value => return Err(Error::UnknownValue { message: REPLY, field: "outcome", value }),
        };
        Ok(Reply { id, outcome })
    }
}

/// As much of a message as may be sent.
fn cut(message: &str) -> &str {
    let end = (0..=MESSAGE_BYTES_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn oversize(message: &'static str, len: usize, max: usize) -> Error {
    Error::Oversize { message, len, max }
}

fn check_length(message: &'static str, len: usize, max: usize) -> Result<(), Error> {
    if len > max { Err(oversize(message, len, max)) } else { Ok(()) }
}

fn check_payload(length: u32) -> Result<(), Error> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    check_length("payload of a request", length, PAYLOAD_BYTES_MAX)
}

/// Puts the length into the first two bytes, which were left for it.
fn finish(mut bytes: Vec<u8>, message: &'static str, max: usize) -> Result<Vec<u8>, Error> {
    let len = bytes.len().saturating_sub(2);
    check_length(message, len, max)?;
    let prefix = u16::try_from(len).map_err(|_| oversize(message, len, max))?;
    bytes[..2].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

const _: () = assert!(REQUEST_FIXED_BYTES + CARRIED_BYTES < REQUEST_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn any_payload() -> impl Strategy<Value = Payload> {
        let carried = (any::<u32>(), 0..=u32::try_from(PAYLOAD_BYTES_MAX).unwrap());
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100).prop_map(Payload::Inline),
            carried.prop_map(|(carrier, length)| Payload::Carried { carrier, length }),
        ]
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let deadline = prop::option::of((1..=u32::MAX).prop_map(|ms| Duration::from_millis(ms.into())));
        let target = prop::sample::select(Target::ALL);
        (any::<u32>(), deadline, target, prop::collection::vec(any::<u8>(), 0..140), any_payload())
            .prop_map(|(id, deadline, target, head, payload)| Request { id, deadline, target, head, payload })
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let body = || prop::collection::vec(any::<u8>(), 0..=BODY_BYTES_MAX);
        let status = prop::sample::select(Status::ALL);
        let outcome = prop_oneof![
            body().prop_map(Outcome::Done),
            (any::<u32>(), any::<u64>(), body()).prop_map(|(carrier, length, body)| Outcome::Carried {
                carrier,
                length,
                body
            }),
            (any::<u32>(), body()).prop_map(|(lost, body)| Outcome::Event { lost, body }),
            (status, "[a-z ]{0,256}").prop_map(|(status, message)| Outcome::Failed { status, message }),
        ];
        (any::<u32>(), outcome).prop_map(|(id, outcome)| Reply { id, outcome })
    }

    /// The envelope without its length, which is right.
    fn opened(bytes: &[u8]) -> &[u8] {
        let (prefix, rest) = bytes.split_first_chunk::<2>().unwrap();
        assert_eq!(usize::from(u16::from_be_bytes(*prefix)), rest.len());
        rest
    }

    proptest! {
        #[test]
        fn request_encoded_is_read_as_it_was(request in any_request()) {
            let encoded = request.encode().unwrap();
            prop_assert_eq!(Request::parse(opened(&encoded)), Ok(request));
        }

        #[test]
        fn reply_encoded_is_read_as_it_was(reply in any_reply()) {
            let encoded = reply.encode().unwrap();
            prop_assert_eq!(Reply::parse(opened(&encoded)), Ok(reply));
        }

        #[test]
        fn request_cut_anywhere_before_its_payload_is_refused(request in any_request(), at in any::<prop::sample::Index>()) {
            let encoded = request.encode().unwrap();
            let whole = opened(&encoded);
            let fixed = match &request.payload {
                Payload::Inline(payload) => whole.len() - payload.len(),
                Payload::Carried { .. } => whole.len(),
            };
            prop_assert!(Request::parse(&whole[..at.index(fixed)]).is_err());
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused_and_what_is_read_is_written_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(request) = Request::parse(&bytes) {
                let encoded = request.encode().unwrap();
                prop_assert_eq!(opened(&encoded), &bytes[..]);
            }
            if let Ok(reply) = Reply::parse(&bytes) {
                let encoded = reply.encode().unwrap();
                prop_assert_eq!(opened(&encoded), &bytes[..]);
            }
        }
    }

    fn request(head: usize, payload: usize) -> Request {
        let (head, payload) = (vec![7; head], Payload::Inline(vec![8; payload]));
        Request { id: 1, deadline: None, target: Target::Call, head, payload }
    }

    #[test]
    fn request_longer_than_its_bound_is_neither_sent_nor_read() {
        let room = REQUEST_BYTES_MAX - REQUEST_FIXED_BYTES;
        assert!(Request::fits(100, room - 100) && !Request::fits(100, room - 99));
        assert!(request(100, room - 100).encode().is_ok());
        let error = Error::Oversize { message: "request", len: 257, max: 256 };
        assert_eq!(request(100, room - 99).encode(), Err(error.clone()));
        assert_eq!(Request::parse(&[0; 257]), Err(error));
        assert!(request(256, 0).encode().is_err());
        let payload = Payload::Carried { carrier: 1, length: 32 * 1024 + 1 };
        assert!(Request { payload, ..request(0, 0) }.encode().is_err());
    }

    #[test]
    fn reply_longer_than_its_bound_is_neither_sent_nor_read_and_a_message_is_cut() {
        let reply = |outcome| Reply { id: 1, outcome };
        assert!(reply(Outcome::Done(vec![0; BODY_BYTES_MAX])).encode().is_ok());
        assert!(reply(Outcome::Done(vec![0; BODY_BYTES_MAX + 1])).encode().is_err());
        assert!(Reply::parse(&[0; REPLY_BYTES_MAX + 1]).is_err());
        // One byte more than a body may have, where the envelope would have room for it.
        assert!(Reply::parse(&[0; 5 + BODY_BYTES_MAX + 1]).is_err());
        let message = "\u{e9}".repeat(200);
        let told =
            reply(Outcome::Failed { status: Status::Failed, message: message.clone() }).encode().unwrap();
        let Outcome::Failed { message: cut, .. } = Reply::parse(opened(&told)).unwrap().outcome else {
            panic!()
        };
        assert_eq!(cut, message[..256]);
    }

    #[test]
    fn values_that_do_not_exist_are_named() {
        let mut bytes = request(0, 0).encode().unwrap();
        bytes[2 + 8] = 9;
        let error = Request::parse(&bytes[2..]).unwrap_err();
        assert_eq!(error.to_string(), "the request has a Target of 9, which does not exist");
        assert_eq!(Status::Busy.to_string(), "busy");
    }

    use alloc::string::ToString as _;
}
