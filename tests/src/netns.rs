//! Network namespaces that the tests make for themselves: test traffic never leaves them.

use crate::error::{Attempt, Error, Result};
use crate::install;
use crate::process::{Background, READY_LIMIT, run, wait_until};
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Names are `netd-PID-NUMBER`: two runs at once do not collide, and what a killed run left behind can be told.
const PREFIX: &str = "netd-";
/// A network namespace with its loopback up; removed on drop, with every interface in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes an empty namespace. Needs root.
    pub fn new() -> Result<Namespace> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        install::ensure(&[("/sbin/ip", "iproute2"), ("/usr/bin/setpriv", "util-linux")])?;
        if !install::is_root() {
            let remedy = "network namespaces need it: run the same command with sudo".to_owned();
            return Err(Error::Missing { what: "root".to_owned(), remedy });
        }
        remove_abandoned();
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Namespace { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip ARGUMENTS` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-netns", &self.name]).args(arguments.split_whitespace()))
    }

    /// A program to run inside, as root. It is killed should the thread that starts it die without dropping it.
    pub fn command(&self, program: &str) -> Command {
        self.command_with(&[], program)
    }

    /// A program to run inside as an unprivileged user without any capability.
    pub fn command_as(&self, uid: u32, program: &str) -> Command {
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        self.command_with(&[&user, &group, "--clear-groups", "--no-new-privs"], program)
    }

    fn command_with(&self, privileges: &[&str], program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"]);
        command.args(privileges).arg("--").arg(program);
        command
    }

    /// Makes a bridge with addresses.
    pub fn bridge(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.ip(&format!("link add {name} type bridge"))?;
        for address in addresses {
            self.ip(&format!("address add {address} dev {name}"))?;
        }
        self.ip(&format!("link set {name} up"))?;
        Ok(())
    }

    /// Makes a tap on a bridge, with the headers that carry checksum and segmentation offloads.
    pub fn tap(&self, name: &str, bridge: &str) -> Result<()> {
        self.ip(&format!("tuntap add dev {name} mode tap vnet_hdr"))?;
        self.ip(&format!("link set {name} master {bridge} up"))?;
        Ok(())
    }

    /// Waits until a TCP port inside answers.
    pub fn wait_for_tcp(&self, peer: &mut Background, address: &str, port: u16) -> Result<()> {
        peer.wait_until_ready(READY_LIMIT, |_| {
            let mut probe = self.command("nc");
            Ok(run(probe.args(["-z", "-w1", address, &port.to_string()])).is_ok())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Taps vanish with the namespace, as do veth pairs of which one end is inside.
        let _left_behind = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

/// Removes the namespaces of runs whose process is gone.
fn remove_abandoned() {
    let Ok(listing) = run(Command::new("ip").args(["netns", "list"])) else { return };
    for name in listing.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _left_behind = run(Command::new("ip").args(["netns", "delete", name]));
        }
    }
}

/// Waits until a file or socket exists.
pub fn wait_for_path(path: &Path, limit: Duration) -> Result<()> {
    wait_until(&format!("{}", path.display()), limit, || {
        path.try_exists().attempt(|| format!("look for {}", path.display()))
    })
}
