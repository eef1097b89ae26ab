//! Programs on the host: run to completion, or kept in the background and ended by their own process id.

use crate::ensure;
use crate::error::{Attempt, Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a condition that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A peer in a namespace answers within moments; the rest is room for a busy machine.
pub const READY_LIMIT: Duration = Duration::from_secs(15);
/// A peer that got SIGTERM and still runs after this long is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Set by SIGINT once [`clean_up_on_interrupt`] was called.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Runs a command to completion and returns what it wrote to standard output; a failure carries both streams.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().attempt(|| format!("run {}", describe(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Command {
        command: describe(command),
        status: describe_status(output.status),
        output: text.trim_end().to_owned(),
    })
}

/// The command line, for messages.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn describe_status(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Turns Ctrl-C into an error of whatever is waited for, so that everything is cleaned up on the way out. Programs that were
/// started get the signal too, and end by it.
pub fn clean_up_on_interrupt() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    let registered = signal_hook::flag::register(Signal::INT.as_raw(), Arc::clone(flag));
    registered.map(drop).attempt(|| "handle SIGINT".to_owned())
}

fn is_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Looks at `condition` until it holds; `Err` of the condition ends the wait at once.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        ensure!(!is_interrupted(), "interrupted while waiting for {what}");
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), limit, detail: String::new() });
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Gives a program something to read, keeps its input open until it has printed `until`, and expects it to succeed.
///
/// A client that closes its side at once would do as well, were it not for Debian 12's passt, which after that sends what the peer
/// says again and again, or loses its end.
pub fn converse(command: &mut Command, input: &[u8], until: &str, limit: Duration) -> Result<String> {
    let log = tempfile::NamedTempFile::new().attempt(|| "make a temporary file".to_owned())?;
    let (mut program, mut stdin) = Background::spawn_with_input(command, log.path())?;
    // A program that ends without reading tells why by its exit status.
    let _not_read = stdin.write_all(input);
    wait_until(&format!("the text {until:?}"), limit, || {
        Ok(program.output().contains(until) || !program.is_running())
    })?;
    drop(stdin);
    let output = program.finish(limit)?;
    ensure!(output.contains(until), "`{}` did not print {until:?}:\n{output}", program.command);
    Ok(output)
}

/// A program in the background. Its output goes to a log file; dropping it kills and reaps it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    command: String,
    log: PathBuf,
}

impl Background {
    /// Starts `command` with both output streams in `log`, and nothing to read.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Background> {
        Background::spawn_with(command, Stdio::null(), log)
    }

    /// Starts `command` with both output streams in `log`, and a file to read.
    pub fn spawn_from(command: &mut Command, input: File, log: &Path) -> Result<Background> {
        Background::spawn_with(command, Stdio::from(input), log)
    }

    /// Starts `command` with both output streams in `log`, and returns what feeds its standard input.
    pub fn spawn_with_input(command: &mut Command, log: &Path) -> Result<(Background, ChildStdin)> {
        let mut program = Background::spawn_with(command, Stdio::piped(), log)?;
        let stdin = program.child.stdin.take();
        let stdin = stdin.ok_or_else(|| Error::Expectation("a piped input is there".to_owned()))?;
        Ok((program, stdin))
    }

    fn spawn_with(command: &mut Command, stdin: Stdio, log: &Path) -> Result<Background> {
        let file = File::create(log).attempt(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().attempt(|| format!("share {}", log.display()))?;
        let child = command
            .stdin(stdin)
            .stdout(file)
            .stderr(errors)
            .spawn()
            .attempt(|| format!("start {}", describe(command)))?;
        Ok(Background { child, command: describe(command), log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program has printed so far.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready` holds; a program that ends first is an error that shows its output.
    pub fn wait_until_ready(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let waited = wait_until("readiness", limit, || {
            if !self.is_running() {
                return Err(self.failure("ended before it was ready"));
            }
            ready(&self.output())
        });
        waited.map_err(|error| match error {
            Error::Timeout { limit, .. } => Error::Timeout {
                what: format!("readiness of `{}`", self.command),
                limit,
                detail: self.output(),
            },
            other => other,
        })
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).attempt(|| format!("signal {}", self.command))
    }

    /// Waits for the program's own end and returns its exit status.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let what = format!("the end of `{}`", self.command);
        wait_until(&what, limit, || {
            status = self.child.try_wait().attempt(|| format!("wait for {}", self.command))?;
            Ok(status.is_some())
        })?;
        status.ok_or_else(|| self.failure("has no exit status"))
    }

    /// Waits for the program's own end, which must be a success, and returns its output.
    pub fn finish(&mut self, limit: Duration) -> Result<String> {
        let status = self.wait(limit)?;
        if status.success() { Ok(self.output()) } else { Err(self.failure(&describe_status(status))) }
    }

    fn failure(&self, status: &str) -> Error {
        Error::Command { command: self.command.clone(), status: status.to_owned(), output: self.output() }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            // Programs such as nginx end their children only when asked politely.
            let _already_gone = self.signal(Signal::TERM);
            let deadline = Instant::now() + STOP_GRACE;
            while self.is_running() && Instant::now() < deadline {
                thread::sleep(POLL_INTERVAL);
            }
        }
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}
