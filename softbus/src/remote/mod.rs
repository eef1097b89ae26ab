//! Remote services: what one device asks of another beside plain streams - what there is, calls, topics, files, state.
//!
//! # Theory of operation
//!
//! Whoever asks opens a stream of the mux named [`CONTROL_STREAM`], of class 0, and keeps it for as long as the session lasts; so there are at
//! most two in a session, one for each direction of asking. On it stand envelopes with their lengths in front ([`encode`](Request::encode)): a
//! [`Request`] of at most [`REQUEST_BYTES_MAX`] bytes one way, [`Reply`]s the other. A request has an id, a deadline, and a [`Target`]; what the
//! target makes of its *head* is in the module of that target, and its *payload* is the users' own.
//!
//! ```text
//!  asker                                     server
//!    │ request 7 ───────────────────────────>  │  the gateway: who may, how often
//!    │ <─────────────────────────── reply 7    │  done, or failed with a status
//!    │ subscribe 8 ─────────────────────────>  │
//!    │ <────────────────────── done, event 8 … │  until it is cancelled, or the service is gone
//!    │ cancel 8 ────────────────────────────>  │
//! ```
//!
//! A payload that does not fit into its envelope goes over a stream of its own, a *carrier*, named [`carrier_name`] and opened by its sender
//! before the envelope that tells its number: the mux delivers frames in order, so the receiver has met the stream when it reads the number.
//!
//! Each request ends with exactly one [`Outcome`] that is no event, whatever happens: its answer, its deadline (both sides count), or its
//! cancellation. An asker that has given up ignores what still comes.

mod asker;
pub mod call;
mod envelope;
pub mod gateway;
pub mod share;
pub mod state;
pub mod topic;

pub use asker::{Answered, Asker};
pub use envelope::{
    BODY_BYTES_MAX, MESSAGE_BYTES_MAX, Outcome, PAYLOAD_BYTES_MAX, Payload, REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX, Reply, Request, Status, Target,
};

use alloc::format;

use crate::name::StreamName;

/// Begins the names of streams that are no client's: no service can be called so.
pub const RESERVED: char = '\u{1f}';
/// The name of the stream on which a side asks.
pub const CONTROL_STREAM: &str = "\u{1f}control";
/// Begins the names of streams that carry a payload; a number follows.
const CARRIER: &str = "\u{1f}carrier ";
/// Requests of one peer that are being answered, subscriptions not among them; more are [`Status::Busy`]. Each holds a payload of up to
/// 32 KiB, so a peer holds 1 MiB.
pub const OUTSTANDING_MAX: usize = 32;
/// Subscriptions of one peer. Each holds up to [`topic::BACKLOG_MAX`] events of 4 KiB, so a peer holds 2 MiB.
pub const SUBSCRIPTIONS_MAX: usize = 16;
/// Carriers of one peer that no envelope has told of yet. The envelope is right behind, so no more than there are requests under way; the oldest
/// gives way to one more.
pub const CARRIERS_MAX: usize = OUTSTANDING_MAX;

/// The name of the stream that carries payload `number`.
pub fn carrier_name(number: u32) -> Result<StreamName, crate::Error> {
    format!("{CARRIER}{number}").parse()
}

/// The number of the payload that a stream of this name carries.
#[must_use]
pub fn carrier_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(CARRIER)?;
    let number = digits.parse().ok()?;
    // Each number has one spelling, so two streams never carry the same.
    (format!("{number}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carrier_has_one_name_and_other_names_have_no_number() {
        assert_eq!(carrier_number(carrier_name(7).unwrap().as_str()), Some(7));
        assert_eq!(carrier_number(carrier_name(u32::MAX).unwrap().as_str()), Some(u32::MAX));
        for other in [
            CONTROL_STREAM,
            "\u{1f}carrier ",
            "\u{1f}carrier 07",
            "\u{1f}carrier +7",
            "\u{1f}carrier 4294967296",
            "7",
        ] {
            assert_eq!(carrier_number(other), None, "{other:?}");
        }
        for name in [CONTROL_STREAM, CARRIER] {
            assert!(name.starts_with(RESERVED));
        }
    }
}
