//! `[audit]`: where records of decisions go.

use std::path::{Path, PathBuf};

use netd_policy::file::Spanned;
use serde::Deserialize;

use crate::audit::log::{Setup, Target};
use crate::config::complaint::{Complaint, within};

/// The log and what is kept apart from it, below the state directory.
const FILE: &str = "audit/audit.jsonl";
const CHECKPOINT: &str = "audit-head.json";
const KEY: &str = "audit-key";
/// Beside the checkpoint: what was in force when it was last recorded.
const APPLIED: &str = "audit-rules.json";

/// Where records go. A change needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    to: RawTarget,
    file: Option<PathBuf>,
    checkpoint: Option<PathBuf>,
    bytes_max: u64,
    kept: u32,
}

impl Audit {
    /// With what stands in the state directory unless the configuration says otherwise.
    pub fn setup(&self, state: &Path) -> Setup {
        let Audit { to, file, checkpoint, bytes_max, kept } = self;
        let below = |file: &Option<PathBuf>, name: &str| file.clone().unwrap_or_else(|| state.join(name));
        let target = match to {
            RawTarget::File => Target::File { path: below(file, FILE), bytes_max: *bytes_max, kept: *kept },
            RawTarget::Journal => Target::Journal,
        };
        let checkpoint = below(checkpoint, CHECKPOINT);
        Setup { target, applied: checkpoint.with_file_name(APPLIED), checkpoint, key: state.join(KEY) }
    }
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAudit {
    /// Where records go.
    to: RawTarget,
    /// The log, with `to = "file"`; `audit/audit.jsonl` in the state directory unless given.
    file: Option<Spanned<PathBuf>>,
    /// Names the last record; better on another disk than the log. `audit-head.json` in the state directory unless given.
    checkpoint: Option<PathBuf>,
    /// How long the log may become before another one is begun.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4096), extend("default" = 64)))]
    file_mib: Option<Spanned<u64>>,
    /// How many older ones are kept.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000), extend("default" = 8)))]
    files: Option<Spanned<u64>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawTarget {
    /// A file of lines.
    #[default]
    File,
    /// journald, as netd-audit.
    Journal,
}

pub(super) fn check(audit: RawAudit) -> Result<Audit, Complaint> {
    let RawAudit { to, file, checkpoint, file_mib, files } = audit;
    if let (RawTarget::Journal, Some(file)) = (to, &file) {
        return Err(Complaint::at(file.span(), "file belongs to to = \"file\": remove it"));
    }
    // 64 MiB are some 120,000 records, and nine such files fit any disk that netd runs on.
    let mib = within("file_mib", file_mib, 64, 1..=4096)?;
    let kept = within("files", files, 8, 1..=1000)?;
    Ok(Audit {
        to,
        file: file.map(Spanned::into_inner),
        checkpoint,
        bytes_max: mib << 20,
        kept: u32::try_from(kept).unwrap_or(u32::MAX),
    })
}
