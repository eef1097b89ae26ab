//! Where decisions come from: the daemon with the rules in force, or files.

use netd_ipc::Client;
use netd_ipc::policy::Asker;
use netd_policy::{Capability, Decision, Policy, Request, Subject, SubjectPattern, Terms};
use nix::unistd::{Uid, User};
use serde::Serialize;

use crate::cli;
use crate::error::Error;
use crate::policy::files;

/// A user that no rule names, for subjects without one: the kernel's "no user" (chown(2)).
const NOBODY_AT_ALL: u32 = u32::MAX;

/// Who decides.
pub(super) enum Source {
    /// The daemon, by the rules in force.
    Daemon(Client),
    /// The same function here, by the rules of files.
    Files(Box<Policy>),
}

/// A decision, wherever it came from.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    pub(super) reason: String,
    pub(super) rule: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<usize>,
}

/// What would be decided, what if the devnet switch were on, and the quotas of the subject.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    pub(super) decision: Verdict,
    pub(super) with_devnet_on: Verdict,
    pub(super) quotas: Vec<String>,
}

impl Verdict {
    /// File and line of the rule that decides, if one does.
    pub(super) fn place(&self) -> Option<String> {
        Some(format!("{}:{}", self.file.as_ref()?, self.line?))
    }

    fn of_daemon(decision: netd_ipc::policy::Decision) -> Verdict {
        let netd_ipc::policy::Decision { allowed, error: _, reason, rule, tls: _, redirects: _, file, line } =
            decision;
        Verdict { allowed, reason, rule, file, line }
    }

    fn of_files(request: &Request, decision: Decision) -> Verdict {
        let allowed = decision.is_allowed();
        let (reason, rule) = match decision {
            Decision::Allow { rule, terms: Terms::Free } => (format!("{request}: allowed by {rule}"), rule),
            Decision::Allow { rule, terms } => (format!("{request}: allowed by {rule}, {terms}"), rule),
            Decision::Deny { error: _, reason, rule } => (reason, rule),
        };
        let origin = rule.origin();
        Verdict {
            allowed,
            reason,
            file: origin.map(|origin| origin.file.to_string()),
            line: origin.map(|origin| origin.line),
            rule: rule.to_string(),
        }
    }
}

impl Source {
    /// The files named, or the daemon.
    pub(super) fn new(
        connect: impl FnOnce() -> Result<Client, Error>,
        rules: &cli::RuleFiles,
    ) -> Result<Source, Error> {
        if rules.files.is_empty() {
            return connect().map(Source::Daemon);
        }
        let policy = files::compile(files::find(&rules.files)?, !rules.devnet_off)?;
        Ok(Source::Files(Box::new(policy)))
    }

    /// What would be decided.
    pub(super) fn explain(
        &self,
        asker: &Asker,
        capability: &str,
        target: Option<&str>,
    ) -> Result<Explained, Error> {
        match self {
            Source::Daemon(client) => {
                let explained = client.explain(asker, capability, target)?;
                Ok(Explained {
                    decision: Verdict::of_daemon(explained.decision),
                    with_devnet_on: Verdict::of_daemon(explained.with_devnet_on),
                    quotas: explained.quotas,
                })
            }
            Source::Files(policy) => {
                let Asker { uid, gid, unit } = asker.clone();
                let subject = Subject { uid, gid, pid: 0, unit };
                let request = Request::parse(capability.parse::<Capability>()?, target)?;
                let now = policy.decide(&subject, &request);
                let with_devnet_on = policy.decide_with_devnet_on(&subject, &request);
                Ok(Explained {
                    decision: Verdict::of_files(&request, now),
                    with_devnet_on: Verdict::of_files(&request, with_devnet_on),
                    quotas: policy.quotas().describe(&subject),
                })
            }
        }
    }
}

/// Whoever the patterns describe together: a user with its primary group unless one is given, in a unit or in none.
pub(super) fn asker(patterns: &[SubjectPattern]) -> Result<Asker, Error> {
    let (mut user, mut gid, mut unit) = (None, None, None);
    for pattern in patterns {
        match pattern {
            SubjectPattern::Any => {}
            SubjectPattern::Uid(uid) => {
                let known = User::from_uid(Uid::from_raw(*uid)).ok().flatten();
                user = Some((*uid, known.map_or(*uid, |user| user.gid.as_raw())));
            }
            SubjectPattern::User(name) => {
                let known = User::from_name(name).ok().flatten();
                let known = known.ok_or_else(|| Error::Nobody { kind: "user", name: name.clone() })?;
                user = Some((known.uid.as_raw(), known.gid.as_raw()));
            }
            SubjectPattern::Gid(number) => gid = Some(*number),
            SubjectPattern::Group(name) => {
                let number = files::group(name);
                gid = Some(number.ok_or_else(|| Error::Nobody { kind: "group", name: name.clone() })?);
            }
            SubjectPattern::Unit(name) => unit = Some(name.clone()),
        }
    }
    let (uid, primary) = user.unwrap_or((NOBODY_AT_ALL, NOBODY_AT_ALL));
    Ok(Asker { uid, gid: gid.unwrap_or(primary), unit })
}

/// The pattern with its name as a number.
pub(super) fn numbered(pattern: &SubjectPattern) -> Result<SubjectPattern, Error> {
    Ok(match pattern {
        SubjectPattern::User(_) => SubjectPattern::Uid(asker(std::slice::from_ref(pattern))?.uid),
        SubjectPattern::Group(_) => SubjectPattern::Gid(asker(std::slice::from_ref(pattern))?.gid),
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asker_has_the_primary_group_of_the_user_unless_another_is_given() {
        let of = |text: &str| asker(&netd_policy::expect::patterns(text).unwrap()).unwrap();
        assert_eq!(of("user:root"), Asker { uid: 0, gid: 0, unit: None });
        let all = Asker { uid: 0, gid: 7, unit: Some("a.service".into()) };
        assert_eq!(of("user:0, group:7, unit:a.service"), all);
        assert_eq!(of("unit:a.service").uid, NOBODY_AT_ALL);
        let nobody = asker(&["user:no-such-user".parse().unwrap()]).unwrap_err().to_string();
        assert!(nobody.contains("no user 'no-such-user'"), "{nobody}");
    }
}
