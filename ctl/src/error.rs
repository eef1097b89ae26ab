//! What can go wrong, and the exit code that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use netd_ipc::{ErrorKind, services};
use serde_json::{Value, json};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// netd said no, or cannot be asked.
    #[error(transparent)]
    Client(#[from] netd_ipc::Error),
    /// netd-services said no, or cannot be asked.
    #[error(transparent)]
    Services(#[from] services::Error),
    /// What came is not what was expected.
    #[error("the digest is {found}, and {expected} was expected: nothing was written")]
    Digest {
        /// What the operator gave.
        expected: String,
        /// What came.
        found: String,
    },
    /// Standard output failed.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// What came over the stream could not be passed on.
    #[error("cannot pass on to standard output what the stream brings: {0}")]
    Delivery(#[source] io::Error),
    /// A stream of the bus broke off.
    #[error("the stream broke off: {0}")]
    Stream(#[source] io::Error),
    /// Standard input failed.
    #[error("cannot read standard input: {0}")]
    Input(#[source] io::Error),
    /// What was sent is not known to have arrived.
    #[error("the peer did not acknowledge everything within {seconds} s: what was sent may not have arrived")]
    Unacknowledged {
        /// How long it had.
        seconds: u64,
    },
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(&'static str),
    /// A file could not be made.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a capture delivers broke off or is none.
    #[error("the capture broke off: {0}")]
    Capture(#[source] io::Error),
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Policy files that cannot be understood.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    /// A file of expectations that cannot be understood.
    #[error(transparent)]
    Expectations(#[from] netd_policy::file::FileError),
    /// A rule, subject, capability or target that cannot be understood.
    #[error(transparent)]
    Policy(#[from] netd_policy::Error),
    /// A user or group that does not exist.
    #[error("there is no {kind} '{name}' on this machine: give the number, as '{kind}:NUMBER'")]
    Nobody {
        /// "user" or "group".
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// An audit log that is not as netd wrote it.
    #[error("{file}: {source}")]
    Tampered {
        /// Which.
        file: String,
        /// What is wrong.
        source: netd_policy::audit::Broken,
    },
    /// A network function cannot be taken or given back.
    #[error(transparent)]
    Vfio(#[from] netd_vfio::Error),
    /// Nobody would give a function back; so it is not taken.
    #[error("nobody can be made to give the function back in time, so it is not taken: {0}")]
    Guard(String),
    /// The system refuses something that should always work.
    #[error("cannot {doing}: {source}")]
    System {
        /// What.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// As the help text lists them.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::Client(netd_ipc::Error::NotRunning { .. } | netd_ipc::Error::NoPermission { .. }) => {
                ExitCode::from(3)
            }
            Error::Client(error)
                if matches!(error.kind(), Some(ErrorKind::DevnetDisabled | ErrorKind::PolicyDenied)) =>
            {
                ExitCode::from(4)
            }
            Error::Services(services::Error::NotRunning { .. }) => ExitCode::from(3),
            Error::Services(error) => match error.kind() {
                Some(services::ErrorKind::DevnetDisabled | services::ErrorKind::PolicyDenied) => {
                    ExitCode::from(4)
                }
                Some(services::ErrorKind::NetdUnavailable) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            },
            _ => ExitCode::FAILURE,
        }
    }

    /// For `--json`: the error's name in the interface, or none, and the message.
    pub(crate) fn to_json(&self) -> Value {
        let kind = match self {
            Error::Client(error) => error.kind().map(ErrorKind::name),
            Error::Services(error) => error.kind().map(services::ErrorKind::name),
            _ => None,
        };
        match self {
            Error::Services(services::Error::Refused { reason: Some(reason), .. }) => {
                json!({ "error": kind, "reason": reason, "message": self.to_string() })
            }
            _ => json!({ "error": kind, "message": self.to_string() }),
        }
    }
}
