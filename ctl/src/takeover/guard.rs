//! Who keeps the time of a take-over, and gives the function back when it is over.
//!
//! Where systemd runs it is a timer of systemd's: no process waits, so there is none to be killed, and a service that is killed
//! while it gives back is started again. Elsewhere it is two processes in a session of their own, so that neither the end of the
//! caller nor of its terminal reaches them: one keeps the time and gives back, the other starts it anew if it is killed; it goes on
//! alone if the other is. What both rest on is the pledge on disk (`netd_vfio::deadman`), which makes every try the same.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use netd_vfio::deadman::{self, Fired, Pledge};
use netd_vfio::{Bdf, GiveBackOptions, Sysfs};

use crate::cli;
use crate::error::Error;

/// Exists while systemd is the machine's first process (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// The daemon's unit, which would start netd again while the function is given back.
const DAEMON: &str = "netd.service";
/// What a guard says once it keeps the time.
const ARMED: &str = "armed";
/// Between two looks at whether the take-over was confirmed: nobody should find a guard that has nothing to guard.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries to give back. There is no last one: the function is wanted back as long as the pledge stands.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the guard of a pledge, and says who it is. When this returns, the function will be given back.
pub(super) fn start(pledge: &Pledge, time: Duration, state: &Path) -> Result<String, Error> {
    if Path::new(SYSTEMD_RUNS).exists() {
        start_timer(pledge, time, state)
    } else {
        start_processes(pledge, state)
    }
}

/// The guard of a confirmed pledge is not needed any more. Where it stays, it finds nothing to do at its time.
pub(super) fn stop(pledge: &Pledge) {
    if Path::new(SYSTEMD_RUNS).exists() {
        let _ = systemctl(&["stop", &format!("{}.timer", unit(pledge))]);
    }
}

fn unit(pledge: &Pledge) -> String {
    format!("netd-deadman-{}", pledge.token)
}

fn start_timer(pledge: &Pledge, time: Duration, state: &Path) -> Result<String, Error> {
    let unit = unit(pledge);
    let mut command = Command::new("systemd-run");
    command.args([
        "--quiet",
        "--collect",
        &format!("--unit={unit}"),
        &format!("--on-active={}s", time.as_secs()),
    ]);
    command.arg(format!(
        "--description=Give {} back to the kernel unless the take-over is confirmed",
        pledge.function
    ));
    command.args(["--timer-property=AccuracySec=100ms", "--service-type=oneshot"]);
    command.args(["--property=Restart=on-failure", "--property=RestartSec=1s"]);
    command.args(["--property=StartLimitIntervalSec=0", "--property=TimeoutStartSec=infinity", "--"]);
    command.arg(program()?).args(arguments(pledge, state));
    let output = command.stdin(Stdio::null()).output().map_err(failed("run systemd-run"))?;
    if !output.status.success() {
        return Err(Error::Guard(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(format!("the timer {unit}"))
}

fn start_processes(pledge: &Pledge, state: &Path) -> Result<String, Error> {
    let log = state.join(format!("takeover-{}.log", pledge.function));
    let log = OpenOptions::new().create(true).append(true).open(&log);
    let log = log.map_err(failed("open the guard's log"))?;
    let mut supervisor = Command::new(program()?);
    supervisor.args(arguments(pledge, state)).arg("--supervise").current_dir("/");
    supervisor.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut supervisor = supervisor.spawn().map_err(failed("start the guard"))?;
    let mut said = String::new();
    if let Some(output) = supervisor.stdout.take() {
        BufReader::new(output).read_line(&mut said).map_err(failed("hear the guard"))?;
    }
    if said.trim_end() != ARMED {
        return Err(Error::Guard("the guard ended before it kept the time".to_owned()));
    }
    Ok(format!("process {}", supervisor.id()))
}

fn program() -> Result<std::path::PathBuf, Error> {
    std::env::current_exe().map_err(failed("find netctl's own program"))
}

fn arguments(pledge: &Pledge, state: &Path) -> Vec<std::ffi::OsString> {
    let Pledge { function, token, deadline_ms: _ } = pledge;
    let words: [&str; 5] = ["guard", &function.to_string(), "--token", token, "--state"];
    words.iter().map(Into::into).chain([state.into()]).collect()
}

fn failed(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { doing, source }
}

/// `netctl guard`: keeps the time, or sees to it that somebody does.
pub(crate) fn run(arguments: &cli::Guard) -> Result<ExitCode, Error> {
    if arguments.supervise {
        rustix::process::setsid().map_err(|errno| failed("leave the caller's session")(errno.into()))?;
        supervise(arguments)
    } else {
        let options =
            GiveBackOptions { state_dir: arguments.state.clone(), evict: true, ..GiveBackOptions::default() };
        // Whoever started us may be gone by now.
        let _ = writeln!(std::io::stdout(), "{ARMED}").and_then(|()| std::io::stdout().flush());
        keep(arguments.function, &arguments.token, &options);
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts the one that keeps the time, until it has done its work.
fn supervise(arguments: &cli::Guard) -> Result<ExitCode, Error> {
    let program = program()?;
    let pledge = Pledge { function: arguments.function, token: arguments.token.clone(), deadline_ms: 0 };
    loop {
        let worker = Command::new(&program).args(self::arguments(&pledge, &arguments.state)).spawn();
        match worker.and_then(|mut worker: Child| worker.wait()) {
            Ok(status) if status.success() => return Ok(ExitCode::SUCCESS),
            Ok(status) => eprintln!("netctl: the guard ended ({status}); it is started again"),
            Err(error) => eprintln!("netctl: the guard cannot be started: {error}"),
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Waits for the deadline and gives back; returns when nothing is left to do.
fn keep(function: Bdf, token: &str, options: &GiveBackOptions) {
    let sysfs = Sysfs::system();
    let mut stopped = false;
    loop {
        // Looked at without the function's lock, which somebody who confirms needs.
        let fired = match deadman::left(&sysfs, function, token, &options.state_dir) {
            Ok(None) => Ok(Fired::Nothing),
            Ok(Some(left)) if !left.is_zero() => Ok(Fired::Early(left)),
            Ok(Some(_over)) => {
                stopped |= stop_daemon();
                deadman::fire(&sysfs, function, token, options)
            }
            Err(error) => Err(error),
        };
        match fired {
            Ok(Fired::Early(left)) => thread::sleep(left.min(LOOK_INTERVAL)),
            Ok(Fired::GivenBack(_)) => {
                eprintln!("netctl: {function}: not confirmed, given back");
                return;
            }
            Ok(Fired::Nothing) => {
                // Confirmed in the last moment.
                if stopped {
                    let _ = systemctl(&["start", "--no-block", DAEMON]);
                }
                return;
            }
            Err(error) => {
                eprintln!("netctl: {function} cannot be given back, trying again: {error}");
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }
}

/// Ends the daemon in order, where systemd would start it again; whether it ran.
fn stop_daemon() -> bool {
    let ran = Path::new(SYSTEMD_RUNS).exists() && systemctl(&["is-active", "--quiet", DAEMON]);
    ran && systemctl(&["stop", DAEMON])
}

fn systemctl(arguments: &[&str]) -> bool {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
