//! The rules in force, decisions and denials, as `io.netd.varlink` has them.

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

/// A rule in force, in the answer of `ListRules`. Absent lists mean every port, peer or name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `grant` or `deny`.
    pub effect: String,
    /// Whom it is for.
    pub subject: String,
    /// What it gives or takes.
    pub capabilities: Vec<String>,
    /// Ports and ranges.
    pub ports: Option<Vec<String>>,
    /// Prefixes.
    pub to: Option<Vec<String>>,
    /// Names and patterns of them.
    pub hosts: Option<Vec<String>>,
    /// Devices of the bus and patterns of them.
    pub devices: Option<Vec<String>>,
    /// Services of the bus.
    pub services: Option<Vec<String>>,
    /// Types of raw frames.
    pub ether_types: Option<Vec<String>>,
    /// `required` or `any`, if the rule says it.
    pub tls: Option<String>,
    /// `same-host` or `granted`, if the rule says it.
    pub redirects: Option<String>,
    /// Where it stands.
    pub file: String,
    /// Its line, counted from 1.
    pub line: usize,
}

/// Answer of `ListRules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The devnet switch: while false, no client reaches a peer, whatever the rules say.
    pub devnet_enabled: bool,
    /// How many rules there are.
    pub total: usize,
    /// Those from the number asked for on, as many as fit one reply.
    pub rules: Vec<Rule>,
}

/// A decision of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The error that the client is told, if it may not.
    pub error: Option<ErrorKind>,
    /// In a sentence.
    pub reason: String,
    /// What it rests on: a rule with its place, or the devnet switch, or that nothing allows it.
    pub rule: String,
    /// Of a connection by name that is allowed: `required` if it must begin with a ClientHello for the name, otherwise `any`.
    pub tls: Option<String>,
    /// Of a fetch that is allowed: `granted` if it may be redirected to other hosts that are, otherwise `same-host`.
    pub redirects: Option<String>,
    /// The file that the rule stands in.
    pub file: Option<String>,
    /// Its line, counted from 1.
    pub line: Option<usize>,
}

/// Answer of `Explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// What netd would do now.
    pub decision: Decision,
    /// What it would do if the devnet switch were on.
    pub with_devnet_on: Decision,
    /// The bounds of quotas that hold for the subject, in sentences.
    pub quotas: Vec<String>,
}

/// Something that was denied, in the answer of `ListDenials`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedRequest {
    /// The user who asked.
    pub uid: u32,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// With which right.
    pub capability: String,
    /// About what, as `Explain` takes it.
    pub target: Option<String>,
    /// How often.
    pub count: u64,
    /// What the rules say of it now, the devnet switch aside.
    pub decision: Decision,
}

/// Answer of `ListDenials`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denials {
    /// The oldest first.
    pub denials: Vec<DeniedRequest>,
    /// What to give as `since`, to be told what is denied from now on.
    pub next: u64,
}

/// Answer of `GetAudit`: where the audit is, and what became of its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditReport {
    /// The log; none if records go to the journal.
    pub file: Option<String>,
    /// The file that names its last record.
    pub checkpoint: String,
    /// The file with the key.
    pub key: String,
    /// Records written since the daemon started.
    pub written: u64,
    /// Denials that were not written, since too many came at once.
    pub suppressed: u64,
    /// Of these and of what could not be written, how many the log has not been told of.
    pub waiting: u64,
}

/// What changed about the roots of trust, in `RecordTrust`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustChange {
    /// A root was installed.
    Added,
    /// A root was removed.
    Removed,
    /// A certificate was accepted without regard to its dates.
    DatesIgnored,
}

/// Who asks, for `Explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// systemd unit.
    pub unit: Option<String>,
}
