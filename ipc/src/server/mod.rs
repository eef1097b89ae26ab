//! What a daemon needs to serve an interface: its socket, who its clients are, and what it bears from them. netd and netd-services share it.

mod listen;
mod peer;

use std::time::Duration;

pub use listen::{ListenError, listen, own_path};
pub use peer::Peer;

/// Bytes per read of a connection. Requests are a few hundred bytes.
pub const READ_BYTES: usize = 4096;
/// Malformed requests until the connection is closed: enough to see the errors of a client under development.
pub const VIOLATIONS_MAX: u32 = 8;
/// How long a client may leave a reply unread that does not fit its socket buffer.
pub const STALL_MAX: Duration = Duration::from_secs(10);
