//! `cargo xtask vm`: a shell or one command in a virtual machine.

use netd_tests::guest::Ending;
use netd_tests::lab::Lab;
use netd_tests::vm::{Nic, Twin, Vm, Wire};
use netd_tests::{Result, peers};
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::thread;

/// Room for what an interactive session types or pastes at once.
const INPUT_CHUNK_BYTES: usize = 4096;

/// Boots the machine; as root in a namespace with a DHCP server, otherwise on QEMU's user-mode network.
pub(crate) fn run(twin: Twin, command: &[String]) -> Result<ExitCode> {
    if command.is_empty() {
        let nic = Nic::new(peers::OFFICE.mac, Wire::User);
        eprintln!("a shell on the guest's console; `poweroff -f`, `exit` or Ctrl-A X ends the machine");
        let status = Vm::builder(twin).nic(nic).console()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if netd_tests::install::is_root() {
        let lab = Lab::new(twin)?;
        run_command(&lab.vm, command)
    } else {
        let vm = Vm::builder(twin).nic(Nic::new(peers::OFFICE.mac, Wire::User)).boot()?;
        run_command(&vm, command)
    }
}

fn run_command(vm: &Vm, command: &[String]) -> Result<ExitCode> {
    let mut process = vm.guest().command(command).spawn()?;
    let mut stdin = process.stdin_handle();
    // Ends with this process: a thread that waits for a terminal cannot be woken.
    thread::spawn(move || {
        let mut chunk = [0; INPUT_CHUNK_BYTES];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut chunk) {
            if stdin(Some(&chunk[..count])).is_err() {
                return;
            }
        }
        let _guest_gone = stdin(None);
    });
    let ending = process.forward(&mut io::stdout().lock(), &mut io::stderr().lock())?;
    Ok(match ending {
        Ending::Exited(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        // As a shell reports it.
        Ending::Signaled(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    })
}
