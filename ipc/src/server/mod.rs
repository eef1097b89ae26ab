//! What a daemon needs to serve an interface: its socket, and who its clients are. netd and netd-services share it.

mod listen;
mod peer;

pub use listen::{ListenError, listen};
pub use peer::Peer;
