//! The first process of a test guest, and the agent that runs programs there for the harness.
//!
//! As process 1 it mounts the pseudo file systems, loads the modules that `/etc/modules` lists, starts a second copy of
//! itself as the agent, and from then on only reaps orphans: the agent waits for its own children, and a process that
//! did both would steal their exit statuses from itself. When the agent ends, the machine is switched off.

#![forbid(unsafe_code)]

mod agent;
mod init;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = if std::process::id() == 1 { init::run() } else { agent::run() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
