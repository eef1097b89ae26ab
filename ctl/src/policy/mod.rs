//! policy: the rules, what they say and what they denied; of the daemon, or of files that are not in force yet.

mod files;
mod learn;
mod source;

use std::path::Path;
use std::process::ExitCode;

use netd_ipc::Client;
use netd_ipc::policy::{Rule, Rules};
use netd_policy::expect::{self, Expectation};
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, fields, table};
use crate::policy::source::{Explained, Source, Verdict};

/// Runs one of the commands; `connect` finds the daemon, for those that need it.
pub(crate) fn run(
    connect: impl FnOnce() -> Result<Client, Error>,
    output: &Output,
    command: &cli::Policy,
) -> Result<ExitCode, Error> {
    match command {
        cli::Policy::Check { files } => check(output, files),
        cli::Policy::Show => show(&connect()?, output),
        cli::Policy::Explain { subject, capability, target, rules } => {
            let source = Source::new(connect, rules)?;
            explain(&source, output, subject, (capability, target.as_deref()))
        }
        cli::Policy::Learn(arguments) => learn::run(&connect()?, output, arguments),
        cli::Policy::Test { file, rules } => test(&Source::new(connect, rules)?, output, file),
    }
}

fn check(output: &Output, paths: &[std::path::PathBuf]) -> Result<ExitCode, Error> {
    let files = files::find(paths)?;
    let count = files.len();
    let policy = files::compile(files, true)?;
    let rules = policy.rules().count();
    output.result(&json!({ "files": count, "rules": rules }), || {
        format!("{count} files with {rules} rules: fine\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let rules = client.rules()?;
    output.result(&rules, || rules_text(&rules))?;
    Ok(ExitCode::SUCCESS)
}

fn rules_text(rules: &Rules) -> String {
    let switch = match rules.devnet_enabled {
        true => "devnet is on\n",
        false => "devnet is off: no client reaches a peer, whatever these rules say\n",
    };
    if rules.rules.is_empty() {
        return format!("{switch}no rules: nobody may do anything\n");
    }
    let row = |rule: &Rule| {
        let Rule { effect, subject, capabilities, file, line, .. } = rule;
        [effect.clone(), subject.clone(), capabilities.join(" "), scope(rule), format!("{file}:{line}")]
    };
    let rows: Vec<_> = rules.rules.iter().map(row).collect();
    format!("{switch}\n{}", table(["EFFECT", "SUBJECT", "CAPABILITIES", "SCOPE", "WHERE"], &rows))
}

fn scope(rule: &Rule) -> String {
    let part = |what: &str, values: &Option<Vec<String>>| {
        values.as_ref().map(|values| format!("{what} {}", values.join(" ")))
    };
    let parts = [
        part("ports", &rule.ports),
        part("to", &rule.to),
        part("hosts", &rule.hosts),
        part("devices", &rule.devices),
        part("services", &rule.services),
        part("types", &rule.ether_types),
    ];
    let tls = rule.tls.as_ref().map(|tls| format!("tls {tls}"));
    let redirects = rule.redirects.as_ref().map(|redirects| format!("redirects {redirects}"));
    let parts: Vec<String> = parts.into_iter().flatten().chain(tls).chain(redirects).collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join("; ") }
}

/// Exit code 4 if it is denied, as if it had been tried.
fn explain(
    source: &Source,
    output: &Output,
    subject: &str,
    (capability, target): (&str, Option<&str>),
) -> Result<ExitCode, Error> {
    let patterns = expect::patterns(subject)?;
    let asker = source::asker(&patterns)?;
    let explained = source.explain(&asker, capability, target)?;
    output.result(&explained, || {
        let Explained { decision: verdict, with_devnet_on, quotas } = &explained;
        let mut lines = vec![
            ("decision", if verdict.allowed { "allow" } else { "deny" }.to_owned()),
            ("reason", verdict.reason.clone()),
            ("rule", verdict.rule.clone()),
        ];
        if verdict.rule != with_devnet_on.rule {
            lines.push(("with devnet on", with_devnet_on.reason.clone()));
        }
        lines.extend(quotas.iter().map(|quota| ("quota", quota.clone())));
        fields(&lines)
    })?;
    Ok(if explained.decision.allowed { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

fn test(source: &Source, output: &Output, path: &Path) -> Result<ExitCode, Error> {
    let expectations = expect::parse(&path.to_string_lossy(), &files::read(path)?)?;
    let mut failed = Vec::new();
    for expectation in &expectations {
        let asker = source::asker(&expectation.subject)?;
        let explained =
            source.explain(&asker, expectation.capability.name(), expectation.target.as_deref())?;
        failed.extend(complaint(expectation, &explained.decision));
    }
    let (all, wrong) = (expectations.len(), failed.len());
    output.result(&json!({ "expectations": all, "failed": failed }), || {
        let lines: String = failed.iter().map(|line| format!("{line}\n")).collect();
        match wrong {
            0 => format!("{all} expectations hold\n"),
            _ => format!("{lines}{wrong} of {all} expectations do not hold\n"),
        }
    })?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong, if the verdict is not as expected.
fn complaint(expectation: &Expectation, verdict: &Verdict) -> Option<String> {
    let Expectation { origin, allowed, rule, .. } = expectation;
    let said = &verdict.reason;
    if *allowed != verdict.allowed {
        let expected = if *allowed { "allow" } else { "deny" };
        return Some(format!("{origin}: expected {expected}, but {said}"));
    }
    let place = verdict.place().unwrap_or_else(|| verdict.rule.clone());
    match rule {
        Some(rule) if !place.ends_with(rule.as_str()) => {
            Some(format!("{origin}: expected rule {rule}, but it was {place}: {said}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_text_shows_the_scope_and_the_place() {
        let some = |text: &str| Some(vec![text.to_owned()]);
        let rule = Rule {
            effect: "deny".into(),
            subject: "any".into(),
            capabilities: vec!["net.tcp.connect".into(), "net.udp.send".into()],
            ports: some("443"),
            to: some("10.0.0.0/8"),
            hosts: None,
            devices: None,
            services: None,
            ether_types: None,
            tls: None,
            redirects: None,
            file: "a.toml".into(),
            line: 7,
        };
        let everything = Rule { ports: None, to: None, effect: "grant".into(), ..rule.clone() };
        let by_name = Rule { hosts: some("*.a.org"), tls: Some("any".into()), ..everything.clone() };
        let rules = Rules { devnet_enabled: false, total: 3, rules: vec![rule, everything, by_name] };
        let expected = "\
devnet is off: no client reaches a peer, whatever these rules say

EFFECT  SUBJECT  CAPABILITIES                  SCOPE                     WHERE
deny    any      net.tcp.connect net.udp.send  ports 443; to 10.0.0.0/8  a.toml:7
grant   any      net.tcp.connect net.udp.send  all                       a.toml:7
grant   any      net.tcp.connect net.udp.send  hosts *.a.org; tls any    a.toml:7
";
        assert_eq!(rules_text(&rules), expected);
    }
}
