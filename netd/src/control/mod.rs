//! The control thread: serves clients on the Unix socket.

/// The token under which the worker's waker is registered.
pub const WAKER: mio::Token = mio::Token(0);
