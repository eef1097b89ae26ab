//! Audit records: what a line says, beside its place in the chain.

use std::time::{SystemTime, UNIX_EPOCH};

use netd_ipc::policy::TrustChange;
use netd_policy::{Denial, Effect, Origin, QuotaTable, Request, Rule, RuleConfig, Subject};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    /// RFC 3339, in UTC.
    time: String,
    #[serde(flatten)]
    event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The daemon begins to serve with these rules.
    Started { version: &'static str, pid: u32, devnet_enabled: bool, rules: usize },
    /// The daemon ends in order.
    Stopped,
    /// A request was denied.
    Denied(Decided),
    /// A flow was cut: the rules changed, or the reason says what was wrong with it.
    Cut(Decided),
    /// Events that were not written: too many came at once, or the log could not be written.
    Suppressed { count: u64 },
    /// A rule or a quota was put in force.
    RuleAdded(Written),
    /// A rule or a quota is in force no longer.
    RuleRemoved(Written),
    /// More rules changed than are written one by one.
    RulesChanged { added: usize, removed: usize },
    /// What was in force before this start cannot be told, so that everything that is now is recorded as added.
    RulesUnknown { reason: String },
    /// The devnet switch was turned.
    Devnet { enabled: bool },
    /// A root of trust was installed or removed, or a certificate's dates were not looked at.
    Trust { uid: u32, gid: u32, pid: u32, unit: Option<String>, change: TrustChange, detail: String },
    /// A value of the state that the bus's devices share was written or removed.
    State {
        uid: u32,
        gid: u32,
        pid: u32,
        unit: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        detail: String,
    },
    /// Whether the clock is trusted, and by whom, is not as it was.
    Clock { trusted: bool, by: Option<netd_ipc::ClockAuthority>, reason: String },
    /// The log that was found could not be continued; it was set aside and this one begun.
    Broken { reason: String, set_aside: String },
}

/// A decision, with who asked for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Decided {
    uid: u32,
    gid: u32,
    pid: u32,
    unit: Option<String>,
    capability: Option<&'static str>,
    target: Option<String>,
    error: Option<&'static str>,
    rule: String,
    file: Option<String>,
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Decided {
    pub(super) fn new(
        subject: &Subject,
        request: &Request,
        error: Option<Denial>,
        rule: &Rule,
        reason: Option<String>,
    ) -> Decided {
        let Subject { uid, gid, pid, unit } = subject.clone();
        let origin = rule.origin();
        Decided {
            uid,
            gid,
            pid,
            unit,
            capability: request.capability().map(|capability| capability.name()),
            target: request.target_text(),
            error: error.map(|error| match error {
                Denial::DevnetDisabled => "DevnetDisabled",
                Denial::PolicyDenied => "PolicyDenied",
            }),
            rule: rule.to_string(),
            file: origin.map(|origin| origin.file.to_string()),
            line: origin.map(|origin| origin.line),
            reason,
        }
    }
}

/// A rule or a quota, and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// "grant", "deny" or "quota".
    pub(super) effect: String,
    /// As a file has it.
    pub(super) text: String,
    pub(super) file: String,
    pub(super) line: usize,
}

impl Written {
    pub(super) fn rule(origin: &Origin, rule: &RuleConfig) -> Written {
        let effect = match rule.effect {
            Effect::Grant => "grant",
            Effect::Deny => "deny",
        };
        Written::new(effect, rule.to_string(), origin)
    }

    pub(super) fn quota(origin: &Origin, quota: &QuotaTable) -> Written {
        Written::new("quota", quota.to_string(), origin)
    }

    fn new(effect: &str, text: String, origin: &Origin) -> Written {
        Written { effect: effect.to_owned(), text, file: origin.file.to_string(), line: origin.line }
    }
}

impl Record {
    /// That it happened now.
    pub(super) fn now(event: Event) -> Record {
        Record { time: timestamp(SystemTime::now()), event }
    }
}

/// RFC 3339 with milliseconds, in UTC. Moments before 1970 are its beginning.
pub(super) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, milliseconds) = (since.as_secs(), since.subsec_millis());
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, after Howard Hinnant: years begin in March, so that a leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamp_is_rfc_3339_over_leap_days_and_centuries() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
