//! Why a server's certificate was refused: a sentence for each reason.

use std::path::PathBuf;

use netd_policy::{HostPattern, Pin};

use crate::certificate::RSA_BITS_MIN;
use crate::date::Date;
use crate::path::CHAIN_CERTIFICATES_MAX;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Dates count, and nobody knows what day it is.
    #[error(
        "this machine's clock is not trusted ({why}), so no certificate's dates can be checked: let it be synchronised, or set [clock] in netd.toml"
    )]
    ClockUntrusted {
        /// Why.
        why: String,
    },
    /// Nobody is trusted.
    #[error("no root is trusted here: add one with `netctl trust add FILE`")]
    NoRoots,
    /// It is somebody else's.
    #[error("the certificate is not for '{host}' but for {}", listed(names))]
    WrongHost {
        /// Who was asked for.
        host: String,
        /// Who it is for.
        names: Vec<String>,
    },
    /// Its dates are over.
    #[error("the certificate of '{subject}' expired on {not_after} (it is {now})")]
    Expired {
        /// Whose.
        subject: String,
        /// When.
        not_after: Date,
        /// The time that it was judged by.
        now: Date,
    },
    /// Its dates are to come.
    #[error("the certificate of '{subject}' is not valid before {not_before} (it is {now})")]
    NotYetValid {
        /// Whose.
        subject: String,
        /// When.
        not_before: Date,
        /// The time that it was judged by.
        now: Date,
    },
    /// The root's dates are over.
    #[error("the trusted root '{subject}' ({}) expired on {not_after} (it is {now})", file.display())]
    RootExpired {
        /// Which.
        subject: String,
        /// Where it stands.
        file: PathBuf,
        /// When.
        not_after: Date,
        /// The time that it was judged by.
        now: Date,
    },
    /// The root's dates are to come.
    #[error("the trusted root '{subject}' ({}) is not valid before {not_before} (it is {now})", file.display())]
    RootNotYetValid {
        /// Which.
        subject: String,
        /// Where it stands.
        file: PathBuf,
        /// When.
        not_before: Date,
        /// The time that it was judged by.
        now: Date,
    },
    /// Dates are ignored, but these exclude each other.
    #[error(
        "the certificates of this chain were never valid at the same time, so even without regard to today's date it does not hold"
    )]
    NeverTogether,
    /// Nobody vouches for it but itself.
    #[error("the certificate of '{subject}' is signed by itself, and by no trusted root")]
    SelfSigned {
        /// Whose.
        subject: String,
    },
    /// The server did not send what its certificate was signed with.
    #[error(
        "the server did not send the certificate of '{issuer}', which signed that of '{subject}', and it is no trusted root: the server's chain lacks an intermediate"
    )]
    MissingIntermediate {
        /// Whose.
        subject: String,
        /// Who signed it.
        issuer: String,
    },
    /// The chain is whole and ends at a stranger.
    #[error("the chain ends at '{issuer}', which is no trusted root (see `netctl trust list`)")]
    UnknownRoot {
        /// The stranger.
        issuer: String,
    },
    /// The chain ends at somebody with a root's name.
    #[error("the chain ends at a '{subject}' with another key than the trusted root of this name")]
    Impostor {
        /// The name.
        subject: String,
    },
    /// A signature does not hold.
    #[error(
        "the certificate of '{subject}' is not signed by '{issuer}', as it says it is: the signature does not fit"
    )]
    BadSignature {
        /// Whose.
        subject: String,
        /// Who is said to have signed.
        issuer: String,
    },
    /// Whoever wants may have the private key.
    #[error(
        "the certificate of '{subject}' has a weak key ({key}): RSA needs {RSA_BITS_MIN} bits or more, and curves 256"
    )]
    WeakKey {
        /// Whose.
        subject: String,
        /// Its key.
        key: String,
    },
    /// Whoever wants may forge such a certificate.
    #[error(
        "the certificate of '{subject}' is signed with {algorithm}, which can be forged: SHA-256 or better is needed"
    )]
    WeakSignature {
        /// Whose.
        subject: String,
        /// How.
        algorithm: String,
    },
    /// Nothing here understands it.
    #[error(
        "the certificate of '{subject}' is signed with {algorithm}, or by a key of {key}, which is not supported"
    )]
    UnsupportedSignature {
        /// Whose.
        subject: String,
        /// How.
        algorithm: String,
        /// By which kind of key.
        key: String,
    },
    /// The CA may not speak for this host.
    #[error("a CA in the chain may not vouch for '{host}': its name constraints leave it out")]
    NameConstraints {
        /// Who was asked for.
        host: String,
    },
    /// Too many below a CA that limits how many.
    #[error("a CA in the chain allows fewer CAs below it than there are (pathLenConstraint)")]
    PathLength,
    /// Who signed may not.
    #[error("'{subject}' signed a certificate of this chain, but is no CA")]
    NotACa {
        /// Who.
        subject: String,
    },
    /// A CA serves with its own certificate.
    #[error("the server shows the certificate of a CA ('{subject}') as its own")]
    CaAsServer {
        /// Which.
        subject: String,
    },
    /// For mail or code, say.
    #[error("a certificate of the chain is not for servers (extended key usage without serverAuth)")]
    NotForServers,
    /// Something that must be understood is not.
    #[error("a certificate of the chain has a critical extension that is not understood here")]
    CriticalExtension,
    /// No certificate at all, or a damaged one.
    #[error("certificate {number} that the server sent cannot be read: {why}")]
    Malformed {
        /// Counted from 1, the server's own.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// More than any honest server sends.
    #[error("the server sent {sent} certificates: more than {CHAIN_CERTIFICATES_MAX} are not looked at")]
    TooMany {
        /// How many.
        sent: usize,
    },
    /// Made to keep us busy.
    #[error("the server's certificates allow so many chains that the search was given up")]
    TooComplex,
    /// The chain holds, and the key is not one of those that the operator chose.
    #[error(
        "no certificate of the chain has a key that is pinned for '{pattern}' ({}); the server's own is {leaf}",
        listed(pins)
    )]
    WrongPin {
        /// The pattern that covers the host.
        pattern: String,
        /// The keys of which one is needed.
        pins: Vec<Pin>,
        /// The key of the server's own certificate.
        leaf: Pin,
    },
    /// Something else that webpki holds against it.
    #[error("the chain does not hold: {0}")]
    Other(String),
}

impl Refusal {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::ClockUntrusted { .. } => "clock_untrusted",
            Refusal::NoRoots => "no_roots",
            Refusal::WrongHost { .. } => "wrong_host",
            Refusal::Expired { .. } => "expired",
            Refusal::NotYetValid { .. } => "not_yet_valid",
            Refusal::RootExpired { .. } => "root_expired",
            Refusal::RootNotYetValid { .. } => "root_not_yet_valid",
            Refusal::NeverTogether => "never_together",
            Refusal::SelfSigned { .. } => "self_signed",
            Refusal::MissingIntermediate { .. } => "missing_intermediate",
            Refusal::UnknownRoot { .. } => "unknown_root",
            Refusal::Impostor { .. } => "impostor",
            Refusal::BadSignature { .. } => "bad_signature",
            Refusal::WeakKey { .. } => "weak_key",
            Refusal::WeakSignature { .. } => "weak_signature",
            Refusal::UnsupportedSignature { .. } => "unsupported_signature",
            Refusal::NameConstraints { .. } => "name_constraints",
            Refusal::PathLength => "path_length",
            Refusal::NotACa { .. } => "not_a_ca",
            Refusal::CaAsServer { .. } => "ca_as_server",
            Refusal::NotForServers => "not_for_servers",
            Refusal::CriticalExtension => "critical_extension",
            Refusal::Malformed { .. } => "malformed",
            Refusal::TooMany { .. } => "too_many",
            Refusal::TooComplex => "too_complex",
            Refusal::WrongPin { .. } => "wrong_pin",
            Refusal::Other(_) => "other",
        }
    }

    pub(crate) fn wrong_pin(pattern: &HostPattern, pins: &[Pin], leaf: Pin) -> Refusal {
        Refusal::WrongPin { pattern: pattern.to_string(), pins: pins.to_vec(), leaf }
    }
}

/// At most a few of a list.
fn listed<T: std::fmt::Display>(items: &[T]) -> String {
    const SHOWN_MAX: usize = 5;
    if items.is_empty() {
        return "nobody".to_owned();
    }
    let mut text =
        items.iter().take(SHOWN_MAX).map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN_MAX {
        text += &format!(" and {} more", items.len() - SHOWN_MAX);
    }
    text
}
