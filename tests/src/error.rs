//! What can go wrong while a test bed is built or a scenario runs, told so that the reader of a test log need not ask more.

use std::time::Duration;
use std::{fmt, io};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a test bed could not be built, or what a scenario found to be untrue.
#[derive(thiserror::Error)]
pub enum Error {
    /// A system call of the harness failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as an infinitive: "create the namespace netd-1-0".
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and did not succeed.
    #[error("`{command}` {status}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// "exited with 1", "was killed by signal 9".
        status: String,
        /// What it printed, both streams.
        output: String,
    },
    /// Something was waited for in vain.
    #[error("{what} did not happen within {limit:?}\n{detail}")]
    Timeout {
        /// The event, as a noun phrase.
        what: String,
        /// How long it was waited for.
        limit: Duration,
        /// What was seen meanwhile.
        detail: String,
    },
    /// A program or package is not there.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// The command that brings it.
        remedy: String,
    },
    /// The connection to the guest agent broke, or the agent refused a request.
    #[error("guest: {0}")]
    Guest(String),
    /// A scenario saw something else than it must.
    #[error("{0}")]
    Expectation(String),
}

/// Tests return this error, and the test runner prints it with `Debug`: say the same sentence there.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Says what was tried when a system call fails.
pub(crate) trait Attempt<T> {
    /// Wraps the error with `action`, an infinitive.
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { action: action(), source: source.into() })
    }
}

/// Returns an [`Error::Expectation`] from the enclosing function unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Error::Expectation(format!($($message)+)));
        }
    };
}
