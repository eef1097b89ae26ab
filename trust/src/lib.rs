//! Whom netd's services believe: the roots that the operator chose, and what a server must show to be accepted by one of them.
//!
//! [`Directories::load`] reads the roots of `pkg://trust/` and `state:/trust/installed/` into a [`Store`], with a [`Problem`] for each file that
//! cannot be used. A [`Verifier`] judges servers by one store, on [`Terms`]; whatever it has against one is a [`Refusal`]. In a handshake rustls
//! asks it through a [`Witness`], which keeps what the server sent and what was thought of it. No other root is ever used, the host's name is
//! always checked, and no check that fails is made up for by another.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use netd_trust::{Clock, Directories, Terms, Verifier, Witness};
//! # use netd_policy::{Pins, TimePolicy};
//! let now = None; // the time, if the clock is trusted
//! let (store, problems) = Directories::default().load(now);
//! let terms = Terms::new(TimePolicy::Strict, Clock::Trusted, Arc::new(Pins::default()), true)?;
//! let verifier = Verifier::new(Arc::new(store), terms);
//! let witness = Witness::new(verifier);
//! let config = Arc::new(witness.client_config()?); // for rustls, with ALPN as its user likes
//! // After the handshake, whether it succeeded or not: witness.judged()
//! # Ok::<(), netd_trust::Error>(())
//! ```
//!
//! Nothing here knows of revocation: whoever issued a certificate is not asked about it.

#![forbid(unsafe_code)]

mod certificate;
mod chain;
mod date;
mod files;
mod path;
mod problem;
mod refusal;
mod store;
#[cfg(test)]
mod tests;
mod verifier;
mod witness;

use std::io;
use std::path::PathBuf;

pub use certificate::{Certificate, Fingerprint};
pub use chain::{Chain, Dates, PinMet};
pub use date::Date;
pub use files::{Directories, Removed, Stamp};
pub use problem::{Flaw, Problem};
pub use refusal::Refusal;
pub use store::{Origin, Root, Store};
pub use verifier::{Clock, Terms, Verifier};
pub use witness::Witness;

/// What went wrong, other than a server's certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was to be added cannot be a root.
    #[error("nothing was added: {0}")]
    Refused(#[source] Flaw),
    /// The disk.
    #[error("{} cannot be changed", path.display())]
    Write {
        /// The file or the directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing is called that.
    #[error(
        "no root is called '{id}': give the first digits of its SHA-256, four or more, or the name of its file (`netctl trust list`)"
    )]
    Unknown {
        /// As given.
        id: String,
    },
    /// Several are.
    #[error("{count} roots begin with '{id}': give more digits")]
    Ambiguous {
        /// As given.
        id: String,
        /// How many.
        count: usize,
    },
    /// It is the package's.
    #[error("'{subject}' came with the package ({}): take the file away there; only installed roots are removed here", file.display())]
    Packaged {
        /// Which.
        subject: String,
        /// Where.
        file: PathBuf,
    },
    /// Others would go with it.
    #[error("'{subject}' stands in {} with others, {count} in all: give the file's name to remove all of them", file.display())]
    InBundle {
        /// Which.
        subject: String,
        /// Where.
        file: PathBuf,
        /// How many in all.
        count: usize,
    },
    /// Dates are not to count, and devnet is off.
    #[error(
        "[trust] time = \"ignore-dates\" is accepted only while devnet is on: turn [network.devnet] on, or say \"strict\""
    )]
    DatesNeedDevnet,
    /// rustls does not accept what this crate sets.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}
