//! Debian's disk: a whole system with systemd, made by mmdebstrap and put on an ext4 without mounting anything.
//!
//! Our programs are not part of it, so that it outlives their builds: the initramfs carries them, and puts them on the disk at every
//! boot (`/opt/netd-tests`, the last directory of the harness's PATH: what a package installs comes before it).

use super::kernel::Kernel;
use crate::error::{Attempt, Result};
use crate::process::run;
use crate::{digest, install};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";
/// Beside what is essential: what runs services, takes and serves connections, and installs packages with what they depend on.
const PACKAGES: [&str; 16] = [
    "adduser",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "openssl",
    "procps",
    "python3-minimal",
    "systemd",
    "systemd-sysv",
    "udev",
];
/// People, by name and number.
const PEOPLE: [(&str, &str); 2] = [("alice", "2001"), ("bob", "2002")];
/// Installed and not started: who wants one starts it.
const DISABLED: [&str; 2] = ["nginx.service", "ssh.service"];
/// They would work while something else is measured.
const MASKED: [&str; 7] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
];
/// Sparse: half a gigabyte of it is used.
const DISK_SIZE: &str = "2500M";
/// Without one systemd takes a boot for the machine's first, and starts what was disabled.
const MACHINE_ID: &str = "6e657464207465737420646562696100\n";
/// The harness's agent. What it starts is in its control group, and ends with it.
const AGENT_UNIT: &str = "[Unit]\nDescription=Agent of the test bed\n\n\
    [Service]\nExecStart=/opt/netd-tests/netd-guest\n\
    Environment=HOME=/root TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/netd-tests\n\
    LimitMEMLOCK=infinity\nTasksMax=infinity\n\n\
    [Install]\nWantedBy=multi-user.target\n";
const AGENT: &str = "netd-tests-agent.service";
/// Part of the cache key: raise it when this file makes something else of the same constants.
const RECIPE_VERSION: &str = "1";

/// Takes the disk from the cache, or makes it.
pub(super) fn disk(cache: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let recipe = format!(
        "{RECIPE_VERSION} {SUITE} {PACKAGES:?} {PEOPLE:?} {DISABLED:?} {MASKED:?} {DISK_SIZE} {MACHINE_ID} {AGENT_UNIT} {}",
        kernel.modules().display()
    );
    let disk = cache.join(format!("debian-{}.ext4", &digest::hex(recipe.as_bytes())[..16]));
    if !disk.exists() {
        install::ensure(install::DEBIAN_BUILD)?;
        eprintln!("  making the guests' Debian (90 MB of packages, once)");
        remove_others(cache);
        let scratch = tempfile::Builder::new().prefix("debian-partial-").tempdir_in(cache);
        let scratch = scratch.attempt(|| format!("make a directory in {}", cache.display()))?;
        let root = scratch.path().join("root");
        install_packages(&root)?;
        configure(&root, kernel)?;
        let partial = scratch.path().join("disk");
        run(Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=0", "-d"])
            .args([&root, &partial])
            .arg(DISK_SIZE))?;
        fs::rename(&partial, &disk).attempt(|| format!("put the disk at {}", disk.display()))?;
    }
    Ok(disk)
}

/// Those of other recipes and kernels. Failing to tidy up is no reason to fail.
fn remove_others(cache: &Path) {
    let Ok(listing) = fs::read_dir(cache) else { return };
    for entry in listing.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "ext4") {
            let _left_behind = fs::remove_file(entry.path());
        }
    }
}

fn install_packages(root: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--format=directory", "--variant=minbase"]);
    mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
    for (name, number) in PEOPLE {
        mmdebstrap.arg(format!(
            "--customize-hook=chroot \"$1\" useradd --create-home --user-group --uid {number} {name}"
        ));
    }
    run(mmdebstrap.arg(SUITE).arg(root)).map(drop)
}

fn configure(root: &Path, kernel: &Kernel) -> Result<()> {
    let units = root.join("etc/systemd/system");
    for (path, content) in [
        (root.join("etc/machine-id"), MACHINE_ID),
        (root.join("etc/hostname"), "netd-test\n"),
        (root.join("etc/hosts"), "127.0.0.1 localhost netd-test\n::1 localhost\n"),
        // The initramfs has mounted the root, for writing.
        (root.join("etc/fstab"), ""),
        (units.join(AGENT), AGENT_UNIT),
    ] {
        fs::write(&path, content).attempt(|| format!("write {}", path.display()))?;
    }
    for unit in MASKED {
        let link = units.join(unit);
        symlink("/dev/null", &link).attempt(|| format!("mask {}", link.display()))?;
    }
    run(Command::new("chroot").arg(root).args(["systemctl", "--quiet", "disable"]).args(DISABLED))?;
    run(Command::new("chroot").arg(root).args(["systemctl", "--quiet", "enable", AGENT]))?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules).attempt(|| format!("make {}", modules.display()))?;
    run(Command::new("cp").arg("-a").arg(kernel.modules()).arg(modules.join(kernel.release()))).map(drop)
}
