//! Errors of the interface `io.netd.services`, and what the client adds.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One for each `error` line of `io.netd.services.varlink`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The devnet switch is off.
    DevnetDisabled,
    /// No grant allows it.
    PolicyDenied,
    /// A parameter that cannot be meant.
    InvalidInput,
    /// The caller has as much as it may have.
    QuotaExceeded,
    /// The name does not exist.
    NotFound,
    /// The server does not answer.
    Unreachable,
    /// A deadline passed.
    TimedOut,
    /// netd cannot be asked, or has no device.
    NetdUnavailable,
    /// The server is not trusted.
    TlsRefused,
    /// No HTTP, or too much of it.
    ProtocolError,
    /// The server refuses.
    StatusRefused,
    /// A redirect that is not followed.
    RedirectRefused,
    /// More than is taken.
    TooLarge,
    /// The body broke off.
    Truncated,
    /// The device is not who it has to be.
    IdentityMismatch,
    /// The device is not paired with this one.
    NotPaired,
    /// The device, or the service's client, does not take the stream.
    StreamRefused,
    /// The name is taken already.
    AlreadyOffered,
    /// It is not as the caller supposes.
    Conflict,
    /// Whoever answers the call could not do it.
    CallFailed,
    /// Whoever was to answer went away.
    Gone,
    /// A fault of netd-services itself.
    Internal,
}

impl ErrorKind {
    /// Every error of the interface.
    pub const ALL: [ErrorKind; 22] = [
        ErrorKind::DevnetDisabled,
        ErrorKind::PolicyDenied,
        ErrorKind::InvalidInput,
        ErrorKind::QuotaExceeded,
        ErrorKind::NotFound,
        ErrorKind::Unreachable,
        ErrorKind::TimedOut,
        ErrorKind::NetdUnavailable,
        ErrorKind::TlsRefused,
        ErrorKind::ProtocolError,
        ErrorKind::StatusRefused,
        ErrorKind::RedirectRefused,
        ErrorKind::TooLarge,
        ErrorKind::Truncated,
        ErrorKind::IdentityMismatch,
        ErrorKind::NotPaired,
        ErrorKind::StreamRefused,
        ErrorKind::AlreadyOffered,
        ErrorKind::Conflict,
        ErrorKind::CallFailed,
        ErrorKind::Gone,
        ErrorKind::Internal,
    ];

    /// The name as the interface file has it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::DevnetDisabled => "DevnetDisabled",
            ErrorKind::PolicyDenied => "PolicyDenied",
            ErrorKind::InvalidInput => "InvalidInput",
            ErrorKind::QuotaExceeded => "QuotaExceeded",
            ErrorKind::NotFound => "NotFound",
            ErrorKind::Unreachable => "Unreachable",
            ErrorKind::TimedOut => "TimedOut",
            ErrorKind::NetdUnavailable => "NetdUnavailable",
            ErrorKind::TlsRefused => "TlsRefused",
            ErrorKind::ProtocolError => "ProtocolError",
            ErrorKind::StatusRefused => "StatusRefused",
            ErrorKind::RedirectRefused => "RedirectRefused",
            ErrorKind::TooLarge => "TooLarge",
            ErrorKind::Truncated => "Truncated",
            ErrorKind::IdentityMismatch => "IdentityMismatch",
            ErrorKind::NotPaired => "NotPaired",
            ErrorKind::StreamRefused => "StreamRefused",
            ErrorKind::AlreadyOffered => "AlreadyOffered",
            ErrorKind::Conflict => "Conflict",
            ErrorKind::CallFailed => "CallFailed",
            ErrorKind::Gone => "Gone",
            ErrorKind::Internal => "Internal",
        }
    }

    /// The error whose name this is, without the interface.
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What can go wrong on the client's side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// netd-services answered with an error of its interface.
    #[error("{kind}: {message}")]
    Refused {
        /// Which one.
        kind: ErrorKind,
        /// Its own words.
        message: String,
        /// Of `TlsRefused`: a word for programs.
        reason: Option<String>,
    },
    /// Nobody answers at any of the paths tried.
    #[error("no netd-services answers at {}; start it, or name its socket in NETD_SERVICES_SOCKET", crate::error::list(.tried))]
    NotRunning {
        /// Each path, with what came of it.
        tried: Vec<(PathBuf, String)>,
    },
    /// What came over the socket is not what the interface says, or nothing came.
    #[error(transparent)]
    Call(#[from] crate::Error),
    /// Reading the body failed.
    #[error("reading the body failed: {0}")]
    Body(#[source] io::Error),
}

impl Error {
    /// The named error of the interface, if it is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Error::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}
