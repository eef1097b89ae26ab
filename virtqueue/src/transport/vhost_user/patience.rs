//! A bound on how long a backend may take to answer.
//!
//! The protocol's library waits for an answer for as long as the connection stands, whatever time-outs its socket has. So a
//! thread, which lives as long as a few requests, closes the connection when they take too long: that ends every wait.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use vhost::vhost_user::Error as Protocol;

use crate::Error;

/// While it lives, the connection is open for a bounded time only.
pub(super) struct Patience {
    limit: Duration,
    exhausted: Arc<AtomicBool>,
    /// Dropped, it ends the thread.
    _in_time: mpsc::Sender<()>,
}

impl Patience {
    /// From now on the peer has `limit` for everything together.
    pub(super) fn begin(socket: &UnixStream, limit: Duration) -> Result<Self, Error> {
        let failed = |source| Error::VhostUserSystem { step: "watch the connection", source };
        let socket = socket.try_clone().map_err(failed)?;
        let exhausted = Arc::new(AtomicBool::new(false));
        let (in_time, done) = mpsc::channel::<()>();
        let flag = Arc::clone(&exhausted);
        let watch = move || {
            if done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::Relaxed);
                // Fails only where the connection has ended by itself.
                let _ = socket.shutdown(Shutdown::Both);
            }
        };
        thread::Builder::new().name("netd-vhost-wait".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Self { limit, exhausted, _in_time: in_time })
    }

    /// Names what went wrong with a request; `what` is what the backend was to do.
    pub(super) fn check<T>(&self, what: &'static str, result: vhost::Result<T>) -> Result<T, Error> {
        result.map_err(|error| match error {
            _ if self.is_exhausted() => self.silence(what),
            vhost::Error::VhostUserProtocol(error) => protocol(what, &error),
            other => Error::BackendProtocol { what, why: other.to_string() },
        })
    }

    /// The same for a request of our own making.
    pub(super) fn check_io<T>(&self, what: &'static str, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| match error.kind() {
            _ if self.is_exhausted() => self.silence(what),
            io::ErrorKind::InvalidData => Error::BackendProtocol { what, why: error.to_string() },
            io::ErrorKind::PermissionDenied => Error::BackendRefused { what },
            _ => Error::BackendClosed { what },
        })
    }

    fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    fn silence(&self, what: &'static str) -> Error {
        Error::BackendSilent { what, seconds: self.limit.as_secs() }
    }
}

fn protocol(what: &'static str, error: &Protocol) -> Error {
    match error {
        Protocol::BackendInternalError => Error::BackendRefused { what },
        Protocol::Disconnected
        | Protocol::PartialMessage
        | Protocol::SocketBroken(_)
        | Protocol::SocketError(_) => Error::BackendClosed { what },
        Protocol::InvalidMessage => {
            Error::BackendProtocol { what, why: "its answer is none of vhost-user, version 1".to_owned() }
        }
        other => Error::BackendProtocol { what, why: other.to_string() },
    }
}
