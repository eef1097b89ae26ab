//! The audit: what was denied or cut, which rules changed, and whether the devnet switch was turned.
//!
//! Each is a record of a sealed chain ([`log`]), and a line for people under the `tracing` target `audit`; a denial by the devnet
//! switch also prints its marker. A client that is denied in a loop must not fill the disk, and must not keep the denials of
//! others from being written: each user has a rate of its own. What is beyond it is counted, and the count is written.

mod applied;
mod denied;
pub mod log;
mod record;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use netd_ipc::policy::TrustChange;
use netd_policy::{Denial, Policy, Request, Rule, Subject, SubjectPattern};
use netd_time::Bucket;

use self::applied::{Applied, Found};
pub use self::denied::Denied;
use self::denied::Memory;
pub use self::log::Log;
use self::record::{Decided, Event};

/// The line on standard output that tells a test, or a person at the console, of a denial by the devnet switch.
pub const DEVNET_MARKER: &str = "net: devnet off deny";

/// Denials of one user that are written at once: as many as a person reads on one screen.
const BURST: u32 = 20;
/// Denials of one user that are written per second after that; at 500 bytes a line, 200 MB a day at the very most.
const PER_SECOND: u32 = 5;
/// Users with a rate of their own; further ones share one.
const USERS_MAX: usize = 256;
/// Rules that changed in one reload and are written one by one.
const RULES_MAX: usize = 1000;

/// Where decisions are recorded. The control thread and the workers share one.
pub struct Audit {
    state: Mutex<State>,
    log: Option<Log>,
}

struct State {
    started: Instant,
    users: HashMap<u32, Rate>,
    others: Rate,
    suppressed: u64,
    memory: Memory,
    console: Box<dyn Write + Send>,
}

/// What one user may have written.
#[derive(Debug)]
struct Rate {
    bucket: Bucket,
    /// Denials since the last that was written.
    suppressed: u64,
}

impl Rate {
    fn new() -> Rate {
        Rate { bucket: Bucket::new(PER_SECOND, BURST), suppressed: 0 }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Default for Audit {
    fn default() -> Audit {
        Audit::new(Box::new(io::stdout()))
    }
}

impl Audit {
    /// An audit without a log, whose markers go to `console`.
    pub fn new(console: Box<dyn Write + Send>) -> Audit {
        let (started, users, others) = (Instant::now(), HashMap::new(), Rate::new());
        let state = State { started, users, others, suppressed: 0, memory: Memory::default(), console };
        Audit { state: Mutex::new(state), log: None }
    }

    /// The same with a log.
    #[must_use]
    pub fn with_log(self, log: Log) -> Audit {
        Audit { log: Some(log), ..self }
    }

    /// Records a denial.
    pub fn denied(&self, subject: &Subject, request: &Request, error: Denial, rule: &Rule) {
        // A panic elsewhere while the lock was held leaves buckets and counters, all whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.memory.add(subject, request);
        let Some(suppressed) = self.admit(state, subject.uid) else { return };
        let Subject { uid, gid, pid, unit } = subject;
        let unit = unit.as_deref().unwrap_or("-");
        tracing::warn!(target: "audit", uid, gid, pid, unit, %request, ?error, %rule, suppressed, "denied");
        self.record(Event::Denied(Decided::new(subject, request, Some(error), rule, None)));
        if error == Denial::DevnetDisabled {
            // Nobody may be reading standard output any more, and that is no reason to stop serving.
            let _ = writeln!(state.console, "{DEVNET_MARKER}").and_then(|()| state.console.flush());
        }
    }

    /// Whether one more record about a user is written, and how many were not since the last that was.
    fn admit(&self, state: &mut State, uid: u32) -> Option<u64> {
        let now = netd_time::Instant::ZERO + state.started.elapsed();
        let room = state.users.len() < USERS_MAX || state.users.contains_key(&uid);
        let rate = match room {
            true => state.users.entry(uid).or_insert_with(Rate::new),
            false => &mut state.others,
        };
        if rate.bucket.take(now) {
            return Some(std::mem::take(&mut rate.suppressed));
        }
        rate.suppressed += 1;
        state.suppressed += 1;
        if let Some(log) = &self.log {
            log.suppress();
        }
        None
    }

    /// Records that a flow was cut, since its first bytes are not what its grant demands. A client can have this happen as often as it
    /// likes, so it counts as a denial; no rule would allow it, so there is nothing to learn from it.
    pub fn refused(&self, subject: &Subject, request: &Request, rule: &Rule, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(suppressed) = self.admit(&mut state, subject.uid) else { return };
        let Subject { uid, gid, pid, unit } = subject;
        let unit = unit.as_deref().unwrap_or("-");
        tracing::warn!(target: "audit", uid, gid, pid, unit, %request, %rule, reason, suppressed, "cut");
        let error = Some(Denial::PolicyDenied);
        self.record(Event::Cut(Decided::new(subject, request, error, rule, Some(reason.to_owned()))));
    }

    /// What `who` was denied since the number `since`, the oldest first, and the number to go on with. Also what was not written.
    pub fn denied_since(&self, since: u64, who: &SubjectPattern) -> (Vec<Denied>, u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).memory.since(since, who)
    }

    /// Records that a flow was cut because the rules changed. All of these are written: there are never more than flows.
    pub fn cut(&self, subject: &Subject, request: &Request, rule: &Rule) {
        let Subject { uid, gid, pid, unit } = subject;
        let unit = unit.as_deref().unwrap_or("-");
        tracing::warn!(target: "audit", uid, gid, pid, unit, %request, %rule, "cut");
        self.record(Event::Cut(Decided::new(subject, request, None, rule, None)));
    }

    /// Records a change of what is trusted. All of these are written: each was allowed to somebody.
    pub fn trust(&self, subject: &Subject, change: TrustChange, detail: String) {
        let Subject { uid, gid, pid, unit } = subject.clone();
        tracing::info!(target: "audit", uid, gid, pid, unit = unit.as_deref().unwrap_or("-"), ?change, detail, "trust");
        self.record(Event::Trust { uid, gid, pid, unit, change, detail });
    }

    /// Records a change of the state that the bus's devices share. All of these are written: each was allowed to somebody, and whoever keeps
    /// the state bounds how often.
    pub fn state(&self, subject: &Subject, device: Option<String>, detail: String) {
        let Subject { uid, gid, pid, unit } = subject.clone();
        let of = device.as_deref().unwrap_or("-");
        tracing::info!(target: "audit", uid, gid, pid, unit = unit.as_deref().unwrap_or("-"), device = of, detail, "state");
        self.record(Event::State { uid, gid, pid, unit, device, detail });
    }

    /// Records the beginning, and what changed of the rules since the last one.
    pub fn started(&self, policy: &Policy) {
        self.record(Event::Started {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            devnet_enabled: policy.devnet_enabled(),
            rules: policy.rules().count(),
        });
        let Some(log) = &self.log else { return };
        let now = Applied::of(policy);
        match log.before() {
            Ok(Some(Found::Whole(before))) => self.differences(before, &now),
            Ok(Some(Found::Digest { devnet_enabled, count, digest })) => {
                if !log.has_digest(&now, digest) {
                    self.record(Event::RulesChanged { added: now.count(), removed: *count });
                }
                self.turned(*devnet_enabled, now.devnet_enabled);
            }
            Ok(None) => self.differences(&Applied::default(), &now),
            Err(reason) => {
                self.record(Event::RulesUnknown { reason: reason.clone() });
                self.differences(&Applied::default(), &now);
            }
        }
        log.keep(now);
    }

    /// Records that the clock is trusted from now on, or by somebody else, or not any more.
    pub fn clock(&self, clock: &netd_ipc::ClockStatus) {
        let netd_ipc::ClockStatus { trusted, by, reason } = clock.clone();
        self.record(Event::Clock { trusted, by, reason });
    }

    /// Records the end.
    pub fn stopped(&self) {
        self.record(Event::Stopped);
    }

    /// Records what another policy changes: each rule and quota that comes or goes, and the devnet switch. A rule that merely stands
    /// elsewhere is the same rule.
    pub fn changed(&self, before: &Policy, after: &Policy) {
        let after = Applied::of(after);
        self.differences(&Applied::of(before), &after);
        if let Some(log) = &self.log {
            log.keep(after);
        }
    }

    fn differences(&self, before: &Applied, after: &Applied) {
        let (removed, added) = (before.without(after), after.without(before));
        if removed.len() + added.len() > RULES_MAX {
            self.record(Event::RulesChanged { added: added.len(), removed: removed.len() });
        } else {
            removed.into_iter().for_each(|rule| self.record(Event::RuleRemoved(rule)));
            added.into_iter().for_each(|rule| self.record(Event::RuleAdded(rule)));
        }
        self.turned(before.devnet_enabled, after.devnet_enabled);
    }

    fn turned(&self, before: bool, after: bool) {
        if before != after {
            self.record(Event::Devnet { enabled: after });
        }
    }

    /// Where the log is and what became of the records; none without a log.
    pub fn report(&self) -> Option<netd_ipc::AuditReport> {
        let log = self.log.as_ref()?;
        let (written, waiting) = log.counts();
        let log::Setup { target, checkpoint, key, applied: _ } = log.setup();
        let suppressed = self.state.lock().unwrap_or_else(PoisonError::into_inner).suppressed;
        Some(netd_ipc::AuditReport {
            file: match target {
                log::Target::File { path, .. } => Some(path.display().to_string()),
                log::Target::Journal => None,
            },
            checkpoint: checkpoint.display().to_string(),
            key: key.display().to_string(),
            written,
            suppressed,
            waiting,
        })
    }

    fn record(&self, event: Event) {
        if let Some(log) = &self.log {
            log.record(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use netd_policy::audit::{Broken, Checkpoint, Key, Verifier};
    use serde_json::Value;

    use super::*;

    /// A console that the test can read.
    #[derive(Clone, Default)]
    struct Console(Arc<Mutex<Vec<u8>>>);

    impl Write for Console {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn deny(audit: &Audit, error: Denial) {
        let subject = Subject { uid: 1, gid: 1, pid: 1, unit: None };
        audit.denied(&subject, &Request::TcpListen { port: None }, error, &Rule::Devnet);
    }

    #[test]
    fn denied_by_devnet_prints_the_marker_once_and_other_denials_none() {
        let console = Console::default();
        let audit = Audit::new(Box::new(console.clone()));
        deny(&audit, Denial::PolicyDenied);
        deny(&audit, Denial::DevnetDisabled);
        assert_eq!(*console.0.lock().unwrap(), b"net: devnet off deny\n");
    }

    #[test]
    fn denied_in_a_loop_prints_a_burst_and_counts_the_rest() {
        let console = Console::default();
        let audit = Audit::new(Box::new(console.clone()));
        (0..1000).for_each(|_| deny(&audit, Denial::DevnetDisabled));
        let lines = console.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        // A slow machine may refill a few within the loop.
        assert!((BURST as usize..100).contains(&lines), "{lines}");
        assert_eq!(audit.state.lock().unwrap().suppressed as usize, 1000 - lines);
    }

    #[test]
    fn one_user_in_a_loop_keeps_no_other_users_denial_from_being_written() {
        let console = Console::default();
        let audit = Audit::new(Box::new(console.clone()));
        (0..1000).for_each(|_| deny(&audit, Denial::PolicyDenied));
        let other = Subject { uid: 2, gid: 2, pid: 2, unit: None };
        audit.denied(&other, &Request::Capture, Denial::DevnetDisabled, &Rule::Devnet);
        assert_eq!(*console.0.lock().unwrap(), b"net: devnet off deny\n");
    }

    fn setup(directory: &Path, bytes_max: u64, kept: u32) -> log::Setup {
        log::Setup {
            target: log::Target::File { path: directory.join("log/audit.jsonl"), bytes_max, kept },
            checkpoint: directory.join("audit-head.json"),
            key: directory.join("audit-key"),
            applied: directory.join("audit-rules.json"),
        }
    }

    fn open(directory: &Path, bytes_max: u64, kept: u32) -> Audit {
        let log = Log::open(setup(directory, bytes_max, kept)).unwrap();
        Audit::new(Box::new(Console::default())).with_log(log)
    }

    /// The events of the log's files, from the oldest on, if all of it is as it was written.
    fn events(directory: &Path, files: &[&str]) -> Result<Vec<Value>, Broken> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        let key = Key::parse(&read("audit-key")).unwrap();
        let checkpoint = Checkpoint::parse(&key, &read("audit-head.json"))?;
        let text: String = files.iter().map(|name| read(&format!("log/{name}"))).collect();
        let mut verifier = Verifier::new(&key, Some(checkpoint));
        text.lines().try_for_each(|line| verifier.line(line))?;
        verifier.finish()?;
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn policy(devnet: bool, grants: &[&str]) -> Policy {
        let rules = |capability: &&str| format!("[[grant]]\nsubject = \"any\"\nallow = [\"{capability}\"]\n");
        let text: String = grants.iter().map(rules).collect();
        Policy::new(devnet, netd_policy::file::parse("p.toml", &text).unwrap(), |_| None, |_| None).unwrap()
    }

    #[test]
    fn records_make_a_chain_that_goes_on_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let audit = open(directory.path(), 1 << 20, 2);
            audit.started(&policy(false, &["net.capture"]));
            deny(&audit, Denial::DevnetDisabled);
            audit.changed(
                &policy(false, &["net.udp.bind", "net.capture"]),
                &policy(true, &["net.capture", "net.udp.send"]),
            );
            audit.stopped();
        }
        let events = events(directory.path(), &["audit.jsonl"]).unwrap();
        let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
        let reloaded = ["denied", "rule_removed", "rule_added", "devnet", "stopped"];
        // The second start is with other rules than the first one left.
        let started = [&["started", "rule_added"][..], &["started", "rule_removed", "devnet"]];
        assert_eq!(names, started.map(|started| [started, &reloaded].concat()).concat());
        assert_eq!(
            (&events[2]["error"], &events[2]["capability"]),
            (&"DevnetDisabled".into(), &"net.tcp.listen".into())
        );
        assert_eq!((&events[4]["file"], &events[4]["line"]), (&"p.toml".into(), &4.into()));
        assert_eq!(events[14]["number"], 15);
    }

    /// What starts with these policies, one after the other, record beside their beginning.
    fn starts(directory: &Path, policies: &[&Policy]) -> Vec<String> {
        for policy in policies {
            open(directory, 1 << 20, 2).started(policy);
        }
        let events = events(directory, &["audit.jsonl"]).unwrap();
        let short = |event: &Value| {
            let text = event["text"].as_str().unwrap_or_default().lines().nth(2).unwrap_or_default();
            let detail = event["enabled"].as_bool().map(|on| on.to_string());
            let detail =
                detail.or(event["reason"].as_str().map(|reason| reason[reason.len() - 12..].to_owned()));
            format!("{} {}", event["event"].as_str().unwrap(), detail.unwrap_or(text.to_owned()))
                .trim()
                .to_owned()
        };
        events.iter().map(short).filter(|event| event != "started").collect()
    }

    #[test]
    fn rules_quotas_and_switch_changed_while_stopped_are_recorded_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let quota = |sockets: u32| {
            let text = format!("[[quota]]\nsubject = \"any\"\nsockets = {sockets}\n");
            let quotas = netd_policy::file::read("q.toml", &text).unwrap().quotas;
            let quotas = netd_policy::Quotas::new(&quotas, |_| None, |_| None).unwrap();
            policy(true, &["net.capture"]).with_quotas(quotas)
        };
        let one = policy(true, &["net.capture"]);
        let told = starts(directory.path(), &[&one, &one, &quota(7), &quota(8), &policy(false, &[])]);
        let expected = [
            "rule_added allow = [\"net.capture\"]",
            "devnet true",
            "rule_added sockets = 7",
            "rule_removed sockets = 7",
            "rule_added sockets = 8",
            "rule_removed allow = [\"net.capture\"]",
            "rule_removed sockets = 8",
            "devnet false",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn start_with_an_edited_file_of_what_was_says_so_and_records_all_that_is() {
        let directory = tempfile::tempdir().unwrap();
        starts(directory.path(), &[&policy(false, &["net.capture"])]);
        let path = directory.path().join("audit-rules.json");
        let edited = fs::read_to_string(&path).unwrap().replace("net.capture", "net.udp.send");
        fs::write(&path, edited).unwrap();
        let told = starts(directory.path(), &[&policy(false, &["net.udp.send"])]);
        let expected = ["rules_unknown s not fit it", "rule_added allow = [\"net.udp.send\"]"];
        assert_eq!(told[1..], expected);
    }

    #[test]
    fn more_changes_than_are_written_one_by_one_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let rules: String = (1..=RULES_MAX + 1)
            .map(|port| {
                format!("[[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.listen\"]\nports = [\"{port}\"]\n")
            })
            .collect();
        let rules = netd_policy::file::parse("p.toml", &rules).unwrap();
        let many = Policy::new(false, rules, |_| None, |_| None).unwrap();
        assert_eq!(starts(directory.path(), &[&many, &many]), ["rules_changed"]);
    }

    #[test]
    fn denials_beyond_the_rate_are_counted_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let audit = open(directory.path(), 1 << 20, 2);
        (0..500).for_each(|_| deny(&audit, Denial::PolicyDenied));
        audit.stopped();
        drop(audit);
        let events = events(directory.path(), &["audit.jsonl"]).unwrap();
        let denied = events.iter().filter(|event| event["event"] == "denied").count() as u64;
        let suppressed: u64 = events.iter().filter_map(|event| event["count"].as_u64()).sum();
        assert_eq!(denied + suppressed, 500, "{events:?}");
        assert!(suppressed > 300);
    }

    #[test]
    fn log_is_rotated_and_its_oldest_file_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let audit = open(directory.path(), 1, 2);
            audit.stopped();
        }
        let events = events(directory.path(), &["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"]).unwrap();
        let numbers: Vec<u64> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [3, 4, 5]);
    }

    #[test]
    fn log_that_was_tampered_with_is_set_aside_and_told_of_at_the_next_start() {
        for tamper in [
            |text: &str| text.replace("stopped", "started"),
            |text: &str| text.lines().take(1).map(|line| format!("{line}\n")).collect(),
            |_: &str| String::new(),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let audit = open(directory.path(), 1 << 20, 2);
            audit.started(&policy(false, &[]));
            audit.stopped();
            drop(audit);
            let path = directory.path().join("log/audit.jsonl");
            fs::write(&path, tamper(&fs::read_to_string(&path).unwrap())).unwrap();
            drop(open(directory.path(), 1 << 20, 2));
            let events = events(directory.path(), &["audit.jsonl"]).unwrap();
            assert_eq!((&events[0]["event"], &events[0]["number"]), (&"broken".into(), &3.into()));
            assert!(Path::new(events[0]["set_aside"].as_str().unwrap()).exists());
        }
    }

    #[test]
    fn line_torn_by_a_crash_is_taken_off_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), 1 << 20, 2).stopped();
        let path = directory.path().join("log/audit.jsonl");
        let torn = fs::read_to_string(&path).unwrap() + "{\"time\":\"20";
        fs::write(&path, torn).unwrap();
        open(directory.path(), 1 << 20, 2).stopped();
        assert_eq!(events(directory.path(), &["audit.jsonl"]).unwrap().len(), 2);
    }

    #[test]
    fn log_of_a_running_daemon_is_not_opened_twice() {
        let directory = tempfile::tempdir().unwrap();
        let _running = open(directory.path(), 1 << 20, 2);
        let error = Log::open(setup(directory.path(), 1 << 20, 2)).unwrap_err().to_string();
        assert!(error.contains("is written by another netd"), "{error}");
    }
}
