//! How sessions end, in words that clients are told.

use std::io;

use netd_ipc::services::ErrorKind;
use netd_softbus::Error;

use crate::Failure;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(in crate::bus) enum Ended {
    #[error("it was closed here")]
    Closed,
    #[error("the peer ended it")]
    PeerLeft,
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    #[error("the peer did not prove itself in time")]
    Slow,
    #[error(
        "this machine and the peer are not paired: show a PIN on one of them (netctl bus pair), and type it on the other"
    )]
    NotPaired,
    #[error(transparent)]
    Bus(#[from] Error),
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// What a client is told.
pub(in crate::bus) type Why = Failure;

impl Ended {
    pub(in crate::bus) fn why(&self) -> Why {
        let kind = match self {
            Ended::Closed | Ended::PeerLeft | Ended::Lost(_) => ErrorKind::Unreachable,
            Ended::Slow => ErrorKind::TimedOut,
            Ended::NotPaired => ErrorKind::NotPaired,
            Ended::Bus(error) => kind(error),
            Ended::Refused(failure) => return failure.clone(),
        };
        Failure::new(kind, self.to_string())
    }
}

/// The error of the interface for one of the bus.
pub(in crate::bus) fn kind(error: &Error) -> ErrorKind {
    match error {
        Error::IdentityMismatch { .. } => ErrorKind::IdentityMismatch,
        Error::PeerDenied { .. } | Error::ServiceDenied { .. } => ErrorKind::PolicyDenied,
        Error::NoAnnouncedKey { .. } | Error::UnknownPeer { .. } | Error::NoPort { .. } => {
            ErrorKind::NotFound
        }
        Error::NotPinned { .. }
        | Error::Revoked { .. }
        | Error::WrongPin
        | Error::PairingClosed
        | Error::InvalidPin => ErrorKind::NotPaired,
        Error::BackingOff { .. } | Error::ClosedByPeer | Error::PeerSilent { .. } | Error::GoingAway => {
            ErrorKind::Unreachable
        }
        Error::TimedOut { .. } => ErrorKind::TimedOut,
        Error::RateLimited { .. } | Error::TooMany { .. } => ErrorKind::QuotaExceeded,
        Error::NameLength { .. }
        | Error::NotUtf8 { .. }
        | Error::InvalidKey
        | Error::Text { .. }
        | Error::Configuration { .. } => ErrorKind::InvalidInput,
        _ => ErrorKind::ProtocolError,
    }
}
