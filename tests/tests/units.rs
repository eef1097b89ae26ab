//! The units: systemd finds nothing wrong with them, and they expose little. No machine is needed, only systemd's own tools.

use netd_tests::process::run;
use netd_tests::{Error, Result, binaries, ensure, install};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// What `systemd-analyze security` may say at most, in tenths: 2.0.
const EXPOSURE_MAX: u32 = 20;
const UNITS: [&str; 3] = ["netd.service", "netd-services.service", "netd-function@.service"];
/// What the units run.
const PROGRAMS: [&str; 5] =
    ["usr/bin/netd", "usr/bin/netd-services", "usr/bin/udevadm", "usr/sbin/modprobe", "bin/kill"];

#[test]
#[ignore = "needs systemd's tools: cargo xtask test"]
fn units_verified_are_without_fault() -> Result<()> {
    let root = root()?;
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(format!("--root={}", root.path().display()));
    // An instance stands for its template.
    verify.args(["netd.service", "netd-services.service", "netd-function@second.service"]);
    let output =
        verify.output().map_err(|source| Error::Io { action: "run systemd-analyze".to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Of the host's own units it may say what it likes.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("netd")).collect();
    ensure!(output.status.success() && ours.is_empty(), "systemd-analyze verify: {}\n{said}", output.status);
    Ok(())
}

#[test]
#[ignore = "needs systemd's tools: cargo xtask test"]
fn daemons_are_exposed_little() -> Result<()> {
    install::ensure(install::UNITS)?;
    for unit in ["netd.service", "netd-services.service"] {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}")]);
        // It fails above the threshold, and says why.
        run(security.arg(binaries::workspace().join("systemd").join(unit)))?;
    }
    Ok(())
}

/// With `[audit] to = "journal"` what journald dropped would look as if somebody had removed it.
#[test]
fn daemon_whose_audit_may_be_in_the_journal_is_not_limited_by_it() -> Result<()> {
    let unit = binaries::workspace().join("systemd/netd.service");
    let unit = fs::read_to_string(unit)
        .map_err(|source| Error::Io { action: "read netd.service".to_owned(), source })?;
    let (_, service) = unit.split_once("[Service]").unwrap_or_default();
    let limits: Vec<&str> = service.lines().filter(|line| line.starts_with("LogRateLimit")).collect();
    ensure!(limits == ["LogRateLimitIntervalSec=0"], "netd.service limits its journal: {limits:?}");
    Ok(())
}

/// A file system with the host's units, ours, and something at every path that ours run.
fn root() -> Result<TempDir> {
    install::ensure(install::UNITS)?;
    let root = tempfile::tempdir();
    let filled = root.and_then(|root| {
        let units = root.path().join("usr/lib/systemd/system");
        copy_files(Path::new("/usr/lib/systemd/system"), &units)?;
        for unit in UNITS {
            fs::copy(binaries::workspace().join("systemd").join(unit), units.join(unit))?;
        }
        for program in PROGRAMS {
            let path = root.path().join(program);
            fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
            fs::write(&path, "#!/bin/sh\n")?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        Ok(root)
    });
    filled.map_err(|source| Error::Io { action: "lay out a root for systemd-analyze".to_owned(), source })
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // Aliases and drop-ins are not needed: names that nothing has are no fault of ours.
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
