//! Sessions: two devices that know, and have proven to each other, who they are.
//!
//! # Theory of operation
//!
//! A [`Session`] sits on one reliable link (a TCP connection, say), which the driver makes, cuts into frames ([`Deframer`], [`frame`])
//! and ends. Order of calls: [`Session::handle_frame`] whenever a frame arrives; then [`Session::poll`] once, [`Session::poll_transmit`] and
//! [`Session::poll_event`] until they give nothing, and sleep until [`Session::poll_timeout`]. When a call fails, the session is over:
//! send what [`Session::poll_transmit`] still gives, end the link, and say so with [`Session::link_lost`].
//!
//! ```text
//!  dialling:   Idle -> Dialing -> Connected -> Handshaking -> Ready -> Reconnect -> Dialing ...
//!  listening:  Listening -> Accepting -> Handshaking -> Ready -> Listening
//!
//!  Handshaking:  Noise XK  ->  HELLO both ways  ->  bound?  ->  pinned on both sides? Ready
//!                                                           ->  otherwise: a PIN, within its time
//! ```
//!
//! **Identity binding.** After the handshake, each side says in its HELLO which device it is. The static key that the handshake proved
//! must be the one that this device announces, and a device that announces none is refused; a pinned device must have its pinned key.
//!
//! The listening side is protected by a [`Gate`], which sees the first frame of a link before the session does.

mod channel;
mod config;
mod framing;
mod gate;
mod identity;
mod machine;
mod noise;
mod pairing;
#[cfg(test)]
mod tests;
mod trust;

pub use channel::RECORD_BYTES_MAX;
pub use config::Config;
pub use framing::{Deframer, frame};
pub use gate::{Admission, Gate, Ticket};
pub use identity::{Identity, StaticKey};
pub use machine::{Context, Directory, Event, Peer, Phase, Session};
pub use noise::{LAST_MESSAGE_BYTES, SHORT_MESSAGE_BYTES};
pub use pairing::Pin;
pub use trust::{PIN_TRIES, PINNED_MAX, REVOKED_MAX, Standing, Trust};
