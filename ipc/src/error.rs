//! Errors: what netd answers by name, and what the client library adds around it.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::StreamEnd;

/// The errors of the interface `io.netd`, one for each `error` line of `io.netd.varlink`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The daemon does not do this (yet), for instance an address family.
    Unsupported,
    /// Nothing is there now; the request may be repeated.
    WouldBlock,
    /// The deadline passed.
    TimedOut,
    /// A parameter has a value that cannot be meant.
    InvalidInput,
    /// The port is taken.
    AddrInUse,
    /// The name, or a record of the kind asked for, does not exist.
    NotFound,
    /// The socket has no peer (any more).
    NotConnected,
    /// The socket ended before the request was done.
    Disconnected,
    /// A bounded buffer or table of the daemon is full.
    NoBufs,
    /// A fault of the daemon itself.
    Internal,
    /// There is no live device below the sockets.
    DeviceUnavailable,
    /// No such socket, or not the caller's.
    InvalidSocket,
    /// No such listener, or not the caller's.
    InvalidListener,
    /// The devnet switch is off, and the request would send something to a peer.
    DevnetDisabled,
    /// No grant allows this to the caller.
    PolicyDenied,
    /// The caller has as much of this as it may have.
    QuotaExceeded,
    /// The peer answered a connect with a reset.
    ConnectionRefused,
    /// The peer cut the connection off.
    ConnectionReset,
    /// No route, no address yet, or a router said so.
    Unreachable,
}

impl ErrorKind {
    /// Every error of the interface.
    pub const ALL: [ErrorKind; 19] = [
        ErrorKind::Unsupported,
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::InvalidInput,
        ErrorKind::AddrInUse,
        ErrorKind::NotFound,
        ErrorKind::NotConnected,
        ErrorKind::Disconnected,
        ErrorKind::NoBufs,
        ErrorKind::Internal,
        ErrorKind::DeviceUnavailable,
        ErrorKind::InvalidSocket,
        ErrorKind::InvalidListener,
        ErrorKind::DevnetDisabled,
        ErrorKind::PolicyDenied,
        ErrorKind::QuotaExceeded,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::Unreachable,
    ];

    /// The name as the interface file has it, without the interface.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Unsupported => "Unsupported",
            ErrorKind::WouldBlock => "WouldBlock",
            ErrorKind::TimedOut => "TimedOut",
            ErrorKind::InvalidInput => "InvalidInput",
            ErrorKind::AddrInUse => "AddrInUse",
            ErrorKind::NotFound => "NotFound",
            ErrorKind::NotConnected => "NotConnected",
            ErrorKind::Disconnected => "Disconnected",
            ErrorKind::NoBufs => "NoBufs",
            ErrorKind::Internal => "Internal",
            ErrorKind::DeviceUnavailable => "DeviceUnavailable",
            ErrorKind::InvalidSocket => "InvalidSocket",
            ErrorKind::InvalidListener => "InvalidListener",
            ErrorKind::DevnetDisabled => "DevnetDisabled",
            ErrorKind::PolicyDenied => "PolicyDenied",
            ErrorKind::QuotaExceeded => "QuotaExceeded",
            ErrorKind::ConnectionRefused => "ConnectionRefused",
            ErrorKind::ConnectionReset => "ConnectionReset",
            ErrorKind::Unreachable => "Unreachable",
        }
    }

    /// The error whose name this is, as `Name` or `io.netd.Name`.
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        let short = name.strip_prefix("io.netd.").unwrap_or(name);
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == short)
    }

    /// The kind of `std::io` that says nearly the same.
    pub const fn io_kind(self) -> io::ErrorKind {
        match self {
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::WouldBlock => io::ErrorKind::WouldBlock,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::AddrInUse => io::ErrorKind::AddrInUse,
            ErrorKind::NotConnected => io::ErrorKind::NotConnected,
            ErrorKind::Disconnected => io::ErrorKind::ConnectionAborted,
            ErrorKind::NoBufs => io::ErrorKind::OutOfMemory,
            ErrorKind::Internal => io::ErrorKind::Other,
            ErrorKind::DeviceUnavailable => io::ErrorKind::NetworkDown,
            ErrorKind::NotFound | ErrorKind::InvalidSocket | ErrorKind::InvalidListener => {
                io::ErrorKind::NotFound
            }
            ErrorKind::DevnetDisabled | ErrorKind::PolicyDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::QuotaExceeded => io::ErrorKind::QuotaExceeded,
            ErrorKind::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionReset => io::ErrorKind::ConnectionReset,
            ErrorKind::Unreachable => io::ErrorKind::HostUnreachable,
        }
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What can go wrong on the client's side of the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon answered with an error of the interface `io.netd`.
    #[error("{kind}: {message}")]
    Refused {
        /// Which one.
        kind: ErrorKind,
        /// The daemon's own words.
        message: String,
    },
    /// A stream ended in another way than by the peer's orderly end; what was read may be incomplete.
    #[error("the stream was cut short ({end}): what was read so far may be incomplete")]
    CutShort {
        /// How it ended, as far as the daemon could say.
        end: StreamEnd,
    },
    /// A stream ended, and the daemon that could say how is gone.
    #[error("the stream ended, and netd could not be asked whether it is complete: {0}")]
    OutcomeUnknown(String),
    /// No daemon listens at any of the paths tried.
    #[error("no netd answers at {}; start it with 'netd run --config FILE', or name its socket in NETD_SOCKET", list(.tried))]
    NotRunning {
        /// Each path, with what came of it.
        tried: Vec<(PathBuf, String)>,
    },
    /// The socket is there, and its permissions keep the caller out.
    #[error("permission denied at {}: the socket belongs to root and its group, so join that group or use sudo", path.display())]
    NoPermission {
        /// Where.
        path: PathBuf,
    },
    /// The daemon answered with an error of the Varlink service itself.
    #[error("netd does not understand the request: {name} {detail}")]
    Service {
        /// Full name, such as `org.varlink.service.MethodNotFound`.
        name: String,
        /// Its parameters.
        detail: String,
    },
    /// What came over the socket is not what the interface says.
    #[error("unexpected answer of netd: {0}")]
    Protocol(String),
    /// Reading or writing failed, on the connection to the daemon or on a socket of its.
    #[error("reading from or writing to netd failed")]
    Io(#[source] io::Error),
}

pub(crate) fn list(tried: &[(PathBuf, String)]) -> String {
    let parts: Vec<String> = tried.iter().map(|(path, why)| format!("{} ({why})", path.display())).collect();
    parts.join(" or ")
}

impl Error {
    /// The named error of the interface, if it is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Error::Refused { kind, .. } => Some(*kind),
            Error::CutShort { end } => end.error_kind(),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Error {
        Error::Io(source)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(source: rustix::io::Errno) -> Error {
        Error::Io(source.into())
    }
}

impl From<Error> for io::Error {
    /// Keeps the message; the kind is the nearest of `std::io`.
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io(source) => source.kind(),
            Error::Refused { kind, .. } => kind.io_kind(),
            Error::CutShort { end } => {
                end.error_kind().map_or(io::ErrorKind::ConnectionReset, ErrorKind::io_kind)
            }
            Error::OutcomeUnknown(_) => io::ErrorKind::ConnectionAborted,
            Error::NotRunning { .. } => io::ErrorKind::NotFound,
            Error::NoPermission { .. } => io::ErrorKind::PermissionDenied,
            Error::Service { .. } => io::ErrorKind::Unsupported,
            Error::Protocol(_) => io::ErrorKind::InvalidData,
        };
        match error {
            Error::Io(source) => source,
            error => io::Error::new(kind, error),
        }
    }
}
