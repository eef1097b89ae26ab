//! The Debian packages that tests and demo use, installed when they are missing and the user may.

use crate::error::{Attempt, Error, Result};
use crate::process::run;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// A program, and the package that brings it.
pub type Needed = (&'static str, &'static str);

/// For the demo on the embedded default.
pub const EMBEDDED: &[Needed] = &[
    ("/usr/bin/passt", "passt"),
    ("/sbin/ip", "iproute2"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/socat", "socat"),
];

/// To boot a guest.
pub const VIRTUAL_MACHINE: &[Needed] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/strip", "binutils"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// To make the guests' kernel, once.
pub const KERNEL_BUILD: &[Needed] = &[
    ("/usr/bin/dpkg", "dpkg"),
    ("/sbin/depmod", "kmod"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/gcc-12", "gcc-12"),
    ("/usr/bin/xz", "xz-utils"),
    // kbuild's objtool is linked with it.
    ("/usr/lib/x86_64-linux-gnu/libelf.so.1", "libelf1"),
];

/// To make the disk of a guest that is a whole Debian, once.
pub const DEBIAN_BUILD: &[Needed] = &[
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/sbin/mke2fs", "e2fsprogs"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
];

/// The programs on the other side of the wire.
pub const PEERS: &[Needed] = &[
    ("/sbin/ip", "iproute2"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/bin/socat", "socat"),
    ("/bin/nc.openbsd", "netcat-openbsd"),
    ("/bin/ping", "iputils-ping"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/tshark", "tshark"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/strace", "strace"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/brotli", "brotli"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/gnutls-serv", "gnutls-bin"),
    ("/usr/bin/iperf3", "iperf3"),
    ("/usr/sbin/kea-dhcp4", "kea-dhcp4-server"),
    ("/usr/sbin/kea-dhcp6", "kea-dhcp6-server"),
    ("/usr/sbin/radvd", "radvd"),
    ("/usr/sbin/unbound", "unbound"),
    ("/usr/sbin/avahi-daemon", "avahi-daemon"),
    ("/usr/sbin/chronyd", "chrony"),
    ("/usr/bin/ssh", "openssh-client"),
    ("/usr/sbin/sshd", "openssh-server"),
    // Its parser reads our metrics.
    ("/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py", "python3-prometheus-client"),
    // For clients from PyPI, in environments of their own.
    ("/usr/lib/python3.11/ensurepip/__init__.py", "python3-venv"),
];

/// DPDK: its testpmd with the drivers that it is used with.
pub const DPDK: &[Needed] = &[
    ("/usr/bin/dpdk-testpmd", "dpdk-dev"),
    ("/usr/bin/dpdk-hugepages.py", "dpdk"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// Open vSwitch with DPDK.
pub const OPEN_VSWITCH: &[Needed] = &[
    ("/usr/bin/ovs-vsctl", "openvswitch-switch"),
    ("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "openvswitch-switch-dpdk"),
];

/// To make the Debian package and look at it.
pub const PACKAGING: &[Needed] =
    &[("/usr/bin/dpkg-deb", "dpkg"), ("/usr/bin/strip", "binutils"), ("/usr/bin/lintian", "lintian")];

/// To judge the units.
pub const UNITS: &[Needed] = &[("/usr/bin/systemd-analyze", "systemd")];

/// To build the fuzz targets: libFuzzer is written in C++.
pub const FUZZING: &[Needed] = &[("/usr/bin/c++", "g++")];

/// To count instructions.
pub const COUNTING: &[Needed] = &[("/usr/bin/valgrind", "valgrind")];

/// Installs what of `needed` is missing; without the right to, says what to run.
pub fn ensure(needed: &[Needed]) -> Result<()> {
    let mut packages: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !Path::new(program).exists())
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_root() {
        let remedy = format!("run `sudo apt-get install --no-install-recommends {list}`, then try again");
        return Err(Error::Missing { what: format!("Debian package(s) {list}"), remedy });
    }
    eprintln!("  installing {list}");
    let installed = apt_install(&packages).or_else(|_| {
        // On a fresh machine the package lists are empty or old.
        update_package_lists()?;
        apt_install(&packages)
    });
    installed?;
    match needed.iter().find(|(program, _)| !Path::new(program).exists()) {
        None => Ok(()),
        Some((program, package)) => Err(Error::Missing {
            what: (*program).to_owned(),
            remedy: format!("the package {package} was installed but did not bring it"),
        }),
    }
}

/// Whether we run as root, which may install packages and make namespaces.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fetches the package lists.
pub fn update_package_lists() -> Result<()> {
    if !is_root() {
        let remedy = "run `sudo apt-get update`, then try again".to_owned();
        return Err(Error::Missing { what: "an up-to-date package list".to_owned(), remedy });
    }
    eprintln!("  fetching the package lists");
    run(Command::new("apt-get").args(["-q", "update"])).map(drop)
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let _quiet = ServicesStayOff::begin()?;
    let mut command = Command::new("apt-get");
    command.args(["-q", "install", "--yes", "--no-install-recommends"]).args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command).map(drop)
}

/// While this lives, an installed server is not started: it would listen on the host's own addresses. Debian's maintainer
/// scripts ask `policy-rc.d`, and 101 means "forbidden" (invoke-rc.d(8)).
struct ServicesStayOff {
    /// Ours to remove; `None` where the machine has a policy of its own.
    policy: Option<&'static Path>,
}

impl ServicesStayOff {
    fn begin() -> Result<ServicesStayOff> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(ServicesStayOff { policy: None });
        }
        fs::write(path, "#!/bin/sh\nexit 101\n").attempt(|| format!("write {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .attempt(|| format!("open {}", path.display()))?;
        Ok(ServicesStayOff { policy: Some(path) })
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        let _left_behind = self.policy.map(fs::remove_file);
    }
}
