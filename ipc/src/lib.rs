//! What clients of netd see: the interface `io.netd`, its types and errors, and a blocking client library.

#![forbid(unsafe_code)]

pub mod accepted;
pub mod call;
pub mod datagram;
pub mod error;
pub mod framing;
pub mod passing;
pub mod types;

pub use error::{Error, ErrorKind};
pub use types::*;
