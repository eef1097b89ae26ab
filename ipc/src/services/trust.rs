//! Types of the calls about roots of trust.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Certificate;
use crate::types::Endpoint;

/// A root that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// What it says.
    pub certificate: Certificate,
    /// Its digest, in hexadecimal digits.
    pub sha256: String,
    /// Its key, such as `RSA 2048`.
    pub key: String,
    /// Its file.
    pub file: String,
    /// `pkg://trust/` or `state:/trust/installed/`.
    pub origin: String,
}

/// A file of roots, or a certificate in it, that is not used as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustProblem {
    /// Which file.
    pub file: String,
    /// What is wrong.
    pub what: String,
}

/// Answer of `ListTrust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustList {
    /// Those that are trusted.
    pub roots: Vec<Root>,
    /// What is not used as it stands.
    pub problems: Vec<TrustProblem>,
    /// `strict` or `ignore-dates`.
    pub time: String,
    /// The pins, by pattern of hosts.
    pub pins: BTreeMap<String, Vec<String>>,
}

/// Answer of `RemoveTrust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRemoval {
    /// The file that is gone.
    pub file: String,
    /// The roots that it gave.
    pub roots: Vec<Root>,
}

/// Answer of `CheckTrust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustCheck {
    /// Whether the server would be spoken with.
    pub accepted: bool,
    /// If not: a word for programs.
    pub reason: Option<String>,
    /// The same for people.
    pub message: String,
    /// The rule that allowed the look.
    pub rule: String,
    /// The server's address.
    pub peer: Endpoint,
    /// Such as `TLSv1_3`.
    pub version: Option<String>,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: Option<String>,
    /// What the server sent, its own certificate first.
    pub sent: Vec<Certificate>,
    /// The chain that was found, without the root.
    pub chain: Vec<Certificate>,
    /// The root that it leads to.
    pub root: Option<Root>,
    /// The pin that it has, if the host needs one.
    pub pin: Option<String>,
    /// What became of the dates.
    pub dates: Option<String>,
}
