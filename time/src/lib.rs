//! Time for code that owns no clock: a point that the caller supplies with every call that needs one, and a token bucket that
//! is filled by it.
//!
//! So a test can run an hour in a millisecond, and a worker reads its clock once per batch.

#![no_std]
#![forbid(unsafe_code)]

mod bucket;
mod instant;

pub use bucket::Bucket;
pub use instant::Instant;
