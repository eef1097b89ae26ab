//! The mux: many streams over one session.

mod frame;
mod reject;

pub use frame::{Frame, HEADER_BYTES, MUX_BYTES_MAX, PAYLOAD_BYTES_MAX, PRIORITIES, ResetCode, StreamId};
pub use reject::Reject;
