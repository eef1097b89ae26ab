//! A program that answers a call: it is given the payload on standard input, and what it prints is the answer.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use netd_ipc::services::{BusCall, BusCallEnd, BusCallError, CALL_BYTES_MAX, Client};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::Error;

/// What shells end with when there is no such command: there is no such method.
const NO_SUCH: i32 = 127;
/// Of what the program says of its failure, as much as a caller is told.
const MESSAGE_BYTES_MAX: u64 = 256;
/// How often it is tried to learn that a call is over, once netd-services could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What the call is answered with.
pub(super) type Answer = Result<Vec<u8>, (BusCallError, String)>;

/// Runs the program for one call; it ends when the call does.
pub(super) fn run(client: &Client, command: &[String], call: &BusCall) -> Result<Answer, Error> {
    let (program, arguments) = command.split_first().ok_or(Error::Usage("no program was given"))?;
    let started = Command::new(program)
        .args(arguments)
        .env("NETD_BUS_DEVICE", &call.device)
        .env("NETD_BUS_METHOD", &call.method)
        .env("NETD_BUS_TIMEOUT_MS", call.timeout_ms.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that what it starts ends with it.
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            return Ok(Err((BusCallError::Failed, format!("'{program}' cannot be started: {error}"))));
        }
    };
    let group = Arc::new(Group::of(&child));
    // On its own, since it learns that the call is over from the answer, as a rule.
    let (watching, client, id) = (Arc::clone(&group), client.clone(), call.id);
    thread::spawn(move || watching.end_with(&client, id));
    let (out, told) = converse(&mut child, &call.payload);
    // Before it is waited for: its number is its own until then.
    group.forget();
    let status = child.wait().map_err(|source| Error::System { doing: "wait for a program", source })?;
    Ok(match status.code() {
        Some(0) => Ok(out),
        Some(NO_SUCH) => Err((BusCallError::NotFound, or(&told, "there is no such method"))),
        _ => Err((BusCallError::Failed, or(&told, &format!("the program ended with {status}")))),
    })
}

fn or(told: &str, otherwise: &str) -> String {
    if told.trim().is_empty() { otherwise.to_owned() } else { told.trim().to_owned() }
}

/// Gives the program its input, and takes what it prints: as much as an answer may have, one byte more, and what it says of errors.
fn converse(child: &mut Child, payload: &[u8]) -> (Vec<u8>, String) {
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut input) = input {
                // A program that does not read its input needs none.
                let _ = input.write_all(payload);
            }
        });
        let told = scope.spawn(move || {
            let mut told = Vec::new();
            if let Some(mut errors) = errors {
                // What cannot be read is not told; the rest is taken, so that nobody waits.
                let _ = errors.by_ref().take(MESSAGE_BYTES_MAX).read_to_end(&mut told);
                let _ = std::io::copy(&mut errors, &mut std::io::sink());
            }
            String::from_utf8_lossy(&told).into_owned()
        });
        let mut out = Vec::new();
        if let Some(mut output) = output {
            let most = u64::try_from(CALL_BYTES_MAX + 1).unwrap_or(u64::MAX);
            let _ = output.by_ref().take(most).read_to_end(&mut out);
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        }
        (out, told.join().unwrap_or_default())
    })
}

/// The processes of a program that is still running.
struct Group(Mutex<Option<Pid>>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(Mutex::new(i32::try_from(child.id()).ok().and_then(Pid::from_raw)))
    }

    /// It is not to be signalled any more.
    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Ends it if its call is over without it.
    fn end_with(&self, client: &Client, id: u64) {
        while self.is_running() {
            match client.await_bus_call(id) {
                Ok(Some(BusCallEnd::Answered)) => return,
                Ok(Some(BusCallEnd::Cancelled | BusCallEnd::DeadlinePassed) | None) => {
                    if let Some(group) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                        // It may have ended by itself.
                        let _ = kill_process_group(group, Signal::KILL);
                    }
                    return;
                }
                Err(_) => thread::sleep(RETRY),
            }
        }
    }
}
