//! doctor: whether this machine lets netd take a network function, and what mends it where it does not. Needs no daemon and no root.

mod checks;
mod machine;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use netd_vfio::{Selector, kernel_is_synchronised};
use serde::Serialize;

use crate::cli;
use crate::error::Error;
use crate::output::Output;

use machine::Machine;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// netd can run; the operator should know.
    Warn,
    /// netd cannot take the function, or should not.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
    /// The command that mends it.
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, text: text.into(), mend: None }
    }

    fn warn(check: &'static str, text: impl Into<String>, mend: impl Into<Option<String>>) -> Finding {
        Finding { check, verdict: Verdict::Warn, text: text.into(), mend: mend.into() }
    }

    fn fail(check: &'static str, text: impl Into<String>, mend: impl Into<Option<String>>) -> Finding {
        Finding { check, verdict: Verdict::Fail, text: text.into(), mend: mend.into() }
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst of the findings.
    verdict: Verdict,
    findings: Vec<Finding>,
    /// What could not be read, and so was not judged.
    unread: Vec<String>,
}

pub(crate) fn run(output: &Output, arguments: &cli::Doctor) -> Result<ExitCode, Error> {
    let machine = Machine::new("/", kernel_is_synchronised().ok());
    let report = examine(&machine, arguments.function, &arguments.state);
    output.result(&report, || text(&report))?;
    Ok(if report.verdict == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All checks, in the order in which an operator mends them.
fn examine(machine: &Machine, function: Selector, state: &std::path::Path) -> Report {
    let mut findings = vec![checks::platform(machine), checks::kernel(machine), checks::vfio(machine)];
    match checks::function(machine, function, state) {
        Ok((found, finding)) => {
            findings.push(finding);
            findings.push(checks::driver(&found));
            findings.push(checks::default_route(&found));
            findings.push(checks::isolation(machine, Some(&found)));
            findings.push(checks::hugepages(machine, Some(&found)));
        }
        Err(finding) => {
            findings.push(finding);
            findings.push(checks::isolation(machine, None));
            findings.push(checks::hugepages(machine, None));
        }
    }
    findings.extend([checks::lockdown(machine), checks::clock(machine)]);
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    Report { verdict, findings, unread: machine.unread() }
}

fn text(report: &Report) -> String {
    let width = report.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, verdict, text: said, mend } in &report.findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text.push_str(&format!("{verdict:<4}  {check:<width$}  {said}\n"));
        if let Some(mend) = mend {
            text.push_str(&format!("      {:width$}  -> {mend}\n", ""));
        }
    }
    for path in &report.unread {
        text.push_str(&format!("not judged: {path} (as root more can be read)\n"));
    }
    text
}
