//! Process 1: from an empty initramfs to a machine on which programs can be started, or to the disk whose own process 1 takes over.

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, finit_module, reboot};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Every program of the guest lives in one of these.
const PATH: &str = "/bin:/sbin:/usr/bin";
/// Which modules to load, in order, one a line: path, then parameters.
const MODULES: &str = "/etc/modules";
/// The word on the kernel's command line that asks for a shell on the console instead of the agent.
const SHELL_WORD: &str = "netd.shell";
/// The word that names a disk (ext4) to go on from: its /sbin/init becomes process 1.
const DISK_WORD: &str = "netd.disk=";
/// Where the disk is mounted before it becomes the root.
const DISK: &str = "/sysroot";
/// What is copied from the initramfs to the disk, and where to.
const CARRIED: &str = "/carried";
const CARRIED_TO: &str = "/sysroot/opt/netd-tests";
/// How long the disk may take to appear.
const DISK_LIMIT: Duration = Duration::from_secs(10);

/// Runs the machine until the agent (or the shell) ends, then switches it off.
pub(crate) fn run() -> io::Result<()> {
    let result = bring_up().and_then(|mut main_child| reap_until_gone(&mut main_child));
    if let Err(error) = &result {
        println!("netd-guest: {error}");
    }
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff)?;
    result
}

fn bring_up() -> io::Result<Child> {
    mount_pseudo_file_systems()?;
    Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status()?;
    load_modules()?;
    // Programs expect a loopback interface, and a clock step would break their timeouts; nothing else is set up here.
    Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status()?;
    let kernel_line = fs::read_to_string("/proc/cmdline")?;
    if let Some(disk) = kernel_line.split_whitespace().find_map(|word| word.strip_prefix(DISK_WORD)) {
        return Err(go_on_from(disk));
    }
    let mut command = if kernel_line.split_whitespace().any(|word| word == SHELL_WORD) {
        let mut shell = Command::new("/bin/setsid");
        shell.args(["cttyhack", "/bin/sh"]);
        shell
    } else {
        let mut agent = Command::new("/proc/self/exe");
        agent.stdin(Stdio::null());
        agent
    };
    command.env("PATH", PATH).env("HOME", "/root").env("TERM", "vt100").current_dir("/").spawn()
}

fn mount_pseudo_file_systems() -> io::Result<()> {
    let file_systems = [
        ("proc", "/proc", "proc", ""),
        ("sysfs", "/sys", "sysfs", ""),
        ("devtmpfs", "/dev", "devtmpfs", ""),
        ("devpts", "/dev/pts", "devpts", "ptmxmode=0666"),
        ("tmpfs", "/run", "tmpfs", "mode=0755"),
        ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
        ("hugetlbfs", "/dev/hugepages", "hugetlbfs", "pagesize=2M"),
    ];
    for (source, target, kind, options) in file_systems {
        fs::create_dir_all(target)?;
        let options = CString::new(options)?;
        mount(source, target, kind, MountFlags::empty(), options.as_c_str())
            .map_err(|errno| io::Error::other(format!("cannot mount {kind} at {target}: {errno}")))?;
    }
    symlink("/proc/self/fd", "/dev/fd")
}

fn load_modules() -> io::Result<()> {
    for line in fs::read_to_string(MODULES)?.lines() {
        let (path, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let module = File::open(path)?;
        match finit_module(&module, &CString::new(parameters)?, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(io::Error::other(format!("cannot load {path}: {errno}"))),
        }
    }
    Ok(())
}

/// Makes the disk the root and its init process 1; returns only if that cannot be done.
fn go_on_from(disk: &str) -> io::Error {
    let prepared = mount_disk(disk).and_then(|()| copy_carried()).and_then(|()| move_pseudo_file_systems());
    if let Err(error) = prepared {
        return error;
    }
    // Frees the initramfs on its way.
    Command::new("/bin/busybox").args(["switch_root", "-c", "/dev/console", DISK, "/sbin/init"]).exec()
}

fn mount_disk(disk: &str) -> io::Result<()> {
    let deadline = Instant::now() + DISK_LIMIT;
    while !Path::new(disk).exists() {
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("no {disk} within {DISK_LIMIT:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    mount(disk, DISK, "ext4", MountFlags::empty(), c"")
        .map_err(|errno| io::Error::other(format!("cannot mount {disk} at {DISK}: {errno}")))
}

fn copy_carried() -> io::Result<()> {
    fs::create_dir_all(CARRIED_TO)?;
    for entry in fs::read_dir(CARRIED)? {
        let entry = entry?;
        // With its permissions.
        fs::copy(entry.path(), Path::new(CARRIED_TO).join(entry.file_name()))?;
    }
    Ok(())
}

/// systemd goes on with those that it finds, and mounts the others.
fn move_pseudo_file_systems() -> io::Result<()> {
    for path in ["/dev/hugepages", "/tmp", "/run"] {
        unmount(path, UnmountFlags::DETACH)?;
    }
    for path in ["/dev", "/proc", "/sys"] {
        mount_move(path, format!("{DISK}{path}"))
            .map_err(|errno| io::Error::other(format!("cannot move {path} to {DISK}: {errno}")))?;
    }
    Ok(())
}

fn reap_until_gone(main_child: &mut Child) -> io::Result<()> {
    let main_pid = main_child.id();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, _status))) if pid.as_raw_nonzero().get().cast_unsigned() == main_pid => {
                return Ok(());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
