//! learn: what a client is denied while it is tried out, and the smallest grant for it.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_ipc::Client;
use netd_ipc::policy::DeniedRequest;
use netd_policy::{Capability, Request, SubjectPattern, smallest_grants};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::output::Output;
use crate::policy::source::numbered;

pub(crate) fn run(client: &Client, output: &Output, arguments: &cli::Learn) -> Result<ExitCode, Error> {
    let cli::Learn { client: who, past, seconds } = arguments;
    let pattern: SubjectPattern = who.parse()?;
    let subject = numbered(&pattern)?.to_string();
    let since = match past {
        true => 0,
        false => client.denials(&subject, None)?.next,
    };
    if !past {
        output.note(&format!("recording what {who} is denied: try it out now, then press Enter here"));
        wait(*seconds)?;
    }
    let denials = client.denials(&subject, Some(since))?.denials;
    let grants = Learned::of(&pattern, &denials)?;
    let value = json!({ "denials": denials, "grants": grants.text, "notes": grants.notes });
    output.result(&value, || grants.file(who))?;
    Ok(ExitCode::SUCCESS)
}

/// Until a line or the end of standard input, or until the time is over.
fn wait(limit: Option<Duration>) -> Result<(), Error> {
    let end = limit.map(|limit| Instant::now() + limit);
    let stdin = io::stdin();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        // At most some minutes, which fit.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::Input(errno.into())),
        }
    }
}

/// What follows from denials.
struct Learned {
    /// Grants, as a policy file has them.
    text: String,
    /// What grants cannot change, or need not.
    notes: Vec<String>,
}

impl Learned {
    fn of(who: &SubjectPattern, denials: &[DeniedRequest]) -> Result<Learned, Error> {
        let (mut requests, mut notes) = (Vec::new(), Vec::new());
        for DeniedRequest { capability, target, decision, .. } in denials {
            let request = Request::parse(capability.parse::<Capability>()?, target.as_deref())?;
            match (decision.allowed, &decision.file) {
                (true, _) => {
                    notes.push(format!("{}; only the devnet switch was in the way", decision.reason));
                }
                (false, Some(_)) => notes.push(format!("{}, and no grant changes that", decision.reason)),
                (false, None) => requests.push(request),
            }
        }
        let text = netd_policy::file::print(&smallest_grants(who, &requests)).to_string();
        Ok(Learned { text, notes })
    }

    /// As a policy file.
    fn file(&self, who: &str) -> String {
        let mut file: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        if self.text.is_empty() && self.notes.is_empty() {
            file = format!("# {who} was denied nothing\n");
        }
        if !file.is_empty() && !self.text.is_empty() {
            file.push('\n');
        }
        file + &self.text
    }
}

#[cfg(test)]
mod tests {
    use netd_ipc::ErrorKind;
    use netd_ipc::policy::Decision;

    use super::*;

    fn denied(target: &str, allowed: bool, file: Option<&str>) -> DeniedRequest {
        let decision = Decision {
            allowed,
            error: (!allowed).then_some(ErrorKind::PolicyDenied),
            reason: format!("the reason of {target}"),
            rule: String::new(),
            tls: None,
            redirects: None,
            file: file.map(str::to_owned),
            line: file.map(|_| 1),
        };
        let (capability, target) = ("net.tcp.connect".to_owned(), Some(target.to_owned()));
        DeniedRequest { uid: 1, unit: None, capability, target, count: 1, decision }
    }

    #[test]
    fn learned_grants_leave_out_what_a_grant_does_not_change() {
        let denials = [
            denied("192.0.2.1:1", false, None),
            denied("192.0.2.2:2", false, Some("a.toml")),
            denied("192.0.2.3:3", true, Some("a.toml")),
        ];
        let learned = Learned::of(&"user:alice".parse().unwrap(), &denials).unwrap();
        let expected = "\
# the reason of 192.0.2.2:2, and no grant changes that
# the reason of 192.0.2.3:3; only the devnet switch was in the way

[[grant]]
subject = \"user:alice\"
allow = [\"net.tcp.connect\"]
ports = [\"1\"]
to = [\"192.0.2.1/32\"]
";
        assert_eq!(learned.file("user:alice"), expected);
        let nothing = Learned::of(&"user:alice".parse().unwrap(), &[]).unwrap();
        assert_eq!(nothing.file("user:alice"), "# user:alice was denied nothing\n");
    }
}
