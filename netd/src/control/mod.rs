//! The control thread: one thread that serves every client of the Unix socket.
//!
//! ```text
//!  client ── request ──> connection ──> call ──> policy ──> worker port ──┐
//!         <── reply ────────────────────────────────────────────────────┘
//! ```
//!
//! It never touches a packet and never blocks. A client is who the kernel says it is ([`subject`]); its request becomes
//! a typed call, `policy` decides on it, denials are audited ([`crate::audit`]), and the rest goes to the worker as a
//! [`Submission`](crate::command::Submission). Answers of the worker come back through the poll's waker.
//!
//! What one client can cost the others is bounded: see the constants in [`server`] and [`connection`]. Nothing that a
//! client sent is closed on this thread, since closing a stranger's descriptor can block ([`crate::disposal`]).

use std::io;
use std::path::PathBuf;

mod connection;
mod listen;
mod plan;
mod policy;
mod reply;
mod server;
mod share;
mod subject;

pub use listen::{default_path, listen};
pub use server::{Setup, run};

/// The token of the waker: the worker's after it queued completions, and whoever set the shutdown flag.
pub const WAKER: mio::Token = mio::Token(0);

/// What keeps the control thread from starting or going on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A live daemon has the path.
    #[error("another netd is serving at {}: stop it first, or give this one another path with '[ipc] socket'", .0.display())]
    AlreadyServing(PathBuf),
    /// Something else has the path.
    #[error("{} exists and is not a socket: remove it, or choose another path with '[ipc] socket'", .0.display())]
    NotASocket(PathBuf),
    /// A step of making the socket failed.
    #[error("cannot {step} {}: {source}{hint}", path.display())]
    Listen {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What may help, or nothing.
        hint: &'static str,
    },
    /// There is no path to listen at.
    #[error("no path for the socket: XDG_RUNTIME_DIR is not set, so give one with '[ipc] socket'")]
    NoDefaultPath,
    /// Waiting for events failed.
    #[error("the control thread cannot wait for events: {0}")]
    Poll(#[source] io::Error),
    /// The thread that closes descriptors did not start.
    #[error("the thread that closes descriptors did not start: {0}")]
    Thread(#[source] io::Error),
}

#[cfg(test)]
mod tests;
