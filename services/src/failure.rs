//! How a call fails: an error of the interface, with words for people.

use std::io;

use netd_ipc::services::ErrorKind;
use serde_json::{Value, json};

/// An error of the interface `io.netd.services`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    /// Which one.
    pub kind: ErrorKind,
    /// In a sentence.
    pub message: String,
    /// Of `TlsRefused`: a word for programs.
    pub reason: Option<&'static str>,
    /// Of `StatusRefused`.
    pub status: Option<u16>,
}

impl Failure {
    /// An error with nothing but words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), reason: None, status: None }
    }

    /// A server that is not trusted.
    pub fn tls(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { reason: Some(reason), ..Failure::new(ErrorKind::TlsRefused, message) }
    }

    /// What the error carries.
    pub(crate) fn parameters(&self) -> Value {
        let Failure { kind, message, reason, status } = self;
        match kind {
            ErrorKind::TlsRefused => json!({ "message": message, "reason": reason.unwrap_or("other") }),
            ErrorKind::StatusRefused => json!({ "message": message, "status": status.unwrap_or_default() }),
            _ => json!({ "message": message }),
        }
    }
}

impl From<netd_ipc::Error> for Failure {
    /// What netd said, as the client is told: its own errors keep their names, the rest is netd's absence.
    fn from(error: netd_ipc::Error) -> Failure {
        use netd_ipc::ErrorKind as Of;
        let kind = match error.kind() {
            Some(Of::DevnetDisabled) => ErrorKind::DevnetDisabled,
            // Of netd-services itself: a matter of how this machine is set up, and no answer to the client's own rights.
            Some(Of::PolicyDenied) => {
                let message =
                    format!("netd-services itself may not do this ({error}): its user needs a grant");
                return Failure::new(ErrorKind::PolicyDenied, message);
            }
            Some(Of::QuotaExceeded | Of::NoBufs) => ErrorKind::QuotaExceeded,
            Some(Of::NotFound) => ErrorKind::NotFound,
            Some(Of::TimedOut) => ErrorKind::TimedOut,
            Some(Of::InvalidInput) => ErrorKind::InvalidInput,
            Some(Of::ConnectionRefused | Of::ConnectionReset | Of::Unreachable | Of::Disconnected) => {
                ErrorKind::Unreachable
            }
            _ => ErrorKind::NetdUnavailable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Of a connection that netd made: keeps what netd said, if it is that.
    fn from(error: io::Error) -> Failure {
        match error.downcast::<netd_ipc::Error>() {
            Ok(said) => said.into(),
            Err(error) => Failure::new(ErrorKind::Unreachable, error.to_string()),
        }
    }
}
