//! Whether KVM works here. `/dev/kvm` may exist and still never run a guest's first instruction, so it is tried.

use crate::artifacts::cache_directory;
use crate::error::{Attempt, Result};
use crate::process::Background;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A kernel under working KVM says its first word within one second; one that hangs says nothing at all.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The first words of every Linux kernel.
const FIRST_WORDS: &str = "Linux version";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator, with one thread a CPU.
    Tcg,
}

impl Accelerator {
    /// The fastest that works. The answer is kept until the host reboots.
    pub(crate) fn detect(kernel: &Path) -> Result<Accelerator> {
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Accelerator::Tcg);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let cache = cache_directory()?;
        let known = cache.join(format!("accelerator-{}", boot_id.trim()));
        match fs::read_to_string(&known).as_deref() {
            Ok("kvm") => return Ok(Accelerator::Kvm),
            Ok("tcg") => return Ok(Accelerator::Tcg),
            _ => {}
        }
        let (found, word) = match probe(kernel, &cache) {
            Ok(()) => (Accelerator::Kvm, "kvm"),
            Err(_) => (Accelerator::Tcg, "tcg"),
        };
        fs::write(&known, word).attempt(|| format!("write {}", known.display()))?;
        Ok(found)
    }

    /// QEMU's arguments.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

fn probe(kernel: &Path, cache: &Path) -> Result<()> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "pc", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(Accelerator::Kvm.arguments());
    qemu.args(["-serial", "stdio", "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1", "-kernel"])
        .arg(kernel);
    // Without an initramfs the kernel panics after its first words, which ends QEMU: look before readiness is given up.
    let log = cache.join(format!("accelerator-probe-{}.log", std::process::id()));
    let mut machine = Background::spawn(&mut qemu, &log)?;
    let result = machine.wait_until_ready(PROBE_LIMIT, |output| Ok(output.contains(FIRST_WORDS)));
    let spoke = machine.output().contains(FIRST_WORDS);
    let _left_behind = fs::remove_file(&log);
    if spoke { Ok(()) } else { result }
}
