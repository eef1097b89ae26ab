//! netd on the software device with a tap as its link, run by an unprivileged user; behind the tap, a namespace in which real servers
//! of Debian run. Everything that passes the tap is captured, and tshark judges it at the end.
//!
//! ```text
//! netd ── tap0 ── br0 (10.77.0.1/24, fd77::1/64) ── what a scenario adds
//! ```

use crate::binaries::{self, Binaries};
use crate::capture::{self, Allowed, Capture};
use crate::embedded::UNPRIVILEGED_UID;
use crate::error::{Attempt, Error, Result};
use crate::lab::NO_OFFLOADS;
use crate::netns::{Namespace, wait_for_path};
use crate::process::{Background, run, wait_until};
use crate::{ensure, install};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// netd's MAC address.
pub const MAC: &str = "52:54:00:77:00:32";
/// The bridge that the servers listen on.
pub const BRIDGE: &str = "br0";
/// Its addresses.
pub const GATEWAY: &str = "10.77.0.1";
/// See [`GATEWAY`].
pub const GATEWAY6: &str = "fd77::1";
/// An `[address]` table for scenarios that are not about addresses.
pub const STATIC: &str =
    "mode = \"static\"\ncidr = \"10.77.0.50/24\"\ngateway = \"10.77.0.1\"\ndns = [\"10.77.0.1\"]\n";
/// netd's address by [`STATIC`].
pub const ADDRESS: &str = "10.77.0.50";
/// An `[address]` table for scenarios with a DHCP server.
pub const DHCP: &str = "mode = \"dhcp\"\n";
/// What is waited for comes within moments, or after some seconds of a server's own; the rest is room for a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const TAP: &str = "tap0";
const GRANTS: &str = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\", \"net.tcp.listen\", \"net.udp.bind\", \
    \"net.udp.send\", \"net.icmp.ping\", \"net.dns.resolve\", \"net.capture\"]\n";

/// The namespace, the capture and netd. Dropped from the inside out.
#[derive(Debug)]
pub struct Tapped {
    netd: Option<Background>,
    capture: Option<Capture>,
    /// Where the servers run.
    pub namespace: Namespace,
    directory: TempDir,
}

/// Runs a scenario, and lets tshark judge its capture. A failure is shown with netd's log.
pub fn scenario(allowed: &[Allowed], body: impl FnOnce(&mut Tapped) -> Result<()>) -> Result<()> {
    let mut tapped = Tapped::new()?;
    let done = body(&mut tapped).and_then(|()| tapped.finish(allowed).map(drop));
    done.map_err(|error| {
        let log = tapped.netd.as_ref().map(Background::output).unwrap_or_default();
        let capture = tapped.capture.take().and_then(|capture| capture::keep(&capture.stop().ok()?).ok());
        let capture = capture.map(|file| format!("\ncaptured: {}", file.display())).unwrap_or_default();
        Error::Expectation(format!("{error}{capture}\nnetd:\n{log}"))
    })
}

impl Tapped {
    /// Makes the namespace with the bridge and the tap, and starts the capture.
    fn new() -> Result<Tapped> {
        install::ensure(install::PEERS)?;
        let directory = tempfile::Builder::new().prefix("netd-tapped-").tempdir();
        let directory = directory.attempt(|| "make a directory for netd".to_owned())?;
        chown(directory.path(), Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID))
            .attempt(|| format!("give the directory to user {UNPRIVILEGED_UID}"))?;
        Binaries::build()?.copy_to(directory.path(), &["netd", "netd-services", "netctl", "netd-peer"])?;
        let client = binaries::workspace().join("ipc/examples/client.py");
        fs::copy(&client, directory.path().join("client.py"))
            .attempt(|| format!("copy {}", client.display()))?;

        let namespace = Namespace::new()?;
        // Routers forward, and nobody on this wire has the same address.
        let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; cd /proc/sys/net/ipv6/conf
                        echo 1 > all/forwarding; echo 0 > default/accept_dad; echo 0 > all/accept_dad";
        run(namespace.command("sh").args(["-ec", settings]))?;
        namespace.bridge(BRIDGE, &[&format!("{GATEWAY}/24"), &format!("{GATEWAY6}/64")])?;
        // The servers want an interface with a carrier, also before netd has attached to the tap.
        namespace.ip("link add name port0 type veth peer name port1")?;
        namespace.ip(&format!("link set port0 master {BRIDGE} up"))?;
        // It is there for the carrier alone, and answers nobody.
        namespace.ip("link set port1 arp off up")?;
        namespace.ip(&format!("tuntap add dev {TAP} mode tap user {UNPRIVILEGED_UID}"))?;
        namespace.ip(&format!("link set {TAP} master {BRIDGE} up"))?;
        // Kea takes no interface without one, and the kernel tells of it a moment late.
        wait_until("the bridge's carrier", LIMIT, || {
            Ok(namespace.ip(&format!("link show {BRIDGE}"))?.contains("state UP"))
        })?;
        let capture = Capture::start(&namespace, TAP, &directory.path().join("tap.pcap"))?;
        Ok(Tapped { netd: None, capture: Some(capture), namespace, directory })
    }

    /// Starts netd with an `[address]` table and, after it, what else the configuration should say; ready when it serves.
    pub fn start(&mut self, address: &str, more: &str) -> Result<()> {
        self.start_granting(address, more, GRANTS)
    }

    /// The same with these rules, instead of everything to everyone.
    pub fn start_granting(&mut self, address: &str, more: &str, rules: &str) -> Result<()> {
        let path = |name: &str| self.path(name).display().to_string();
        let configuration = format!(
            "[network.devnet]\nenabled = true\n\n\
             [device]\nkind = \"software\"\nlink = {{ kind = \"tap\", interface = \"{TAP}\" }}\nmac = \"{MAC}\"\n{NO_OFFLOADS}\n\
             [address]\n{address}\n[ipc]\nsocket = \"{}\"\n\n[state]\ndirectory = \"{}\"\n\n{more}\n{rules}",
            path("netd.sock"),
            path("state"),
        );
        fs::write(self.path("netd.toml"), configuration).attempt(|| "write netd.toml".to_owned())?;
        let mut netd = self.command(self.path("netd"));
        netd.args(["run", "--config"]).arg(self.path("netd.toml"));
        let netd = self.netd.insert(Background::spawn(&mut netd, &self.directory.path().join("netd.log"))?);
        let socket = self.directory.path().join("netd.sock");
        wait_for_path(&socket, LIMIT)?;
        ensure!(netd.is_running(), "netd ended at once:\n{}", netd.output());
        Ok(())
    }

    /// Starts netd with a DHCP client, and waits for the lease.
    pub fn start_with_lease(&mut self, more: &str) -> Result<()> {
        self.start(DHCP, more)?;
        self.wait("a lease", |tapped| Ok(tapped.json(&["status"])?["address_source"] == "dhcp"))
    }

    /// Has netd read its configuration again.
    pub fn reload(&self) -> Result<()> {
        self.netd.as_ref().map_or(Ok(()), |netd| netd.signal(Signal::HUP))
    }

    /// Starts netd-services beside netd, with what else its configuration should say; ready when it serves at `services.sock`.
    pub fn start_services(&self, more: &str) -> Result<Background> {
        let configuration = format!(
            "[ipc]\nsocket = {:?}\n[netd]\nsocket = {:?}\n{more}",
            self.path("services.sock"),
            self.path("netd.sock")
        );
        fs::write(self.path("services.toml"), configuration).attempt(|| "write services.toml".to_owned())?;
        let mut command = self.command(self.path("netd-services"));
        command.args(["run", "--config"]).arg(self.path("services.toml"));
        let services = Background::spawn(&mut command, &self.path("services.log"))?;
        wait_for_path(&self.path("services.sock"), LIMIT)?;
        Ok(services)
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut(&Tapped) -> Result<bool>) -> Result<()> {
        wait_until(what, LIMIT, || so(self))
    }

    /// A path in netd's private directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program in the namespace, without privileges.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespace.command_as(UNPRIVILEGED_UID, &program.as_ref().to_string_lossy());
        command.env("NETD_SOCKET", self.path("netd.sock"));
        command
    }

    /// netctl, as the unprivileged user.
    pub fn netctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("netctl"));
        command.args(arguments);
        command
    }

    /// What a netctl command prints with `--json`, also when it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.netctl(&["--json"]);
        command.args(arguments);
        let output = command.output().attempt(|| "run netctl".to_owned())?;
        let told = if output.status.success() { &output.stdout } else { &output.stderr };
        serde_json::from_slice(told).map_err(|error| {
            let text = String::from_utf8_lossy(told);
            Error::Expectation(format!("netctl --json {}: {error}:\n{text}", arguments.join(" ")))
        })
    }

    /// netd's one interface.
    pub fn interface(&self) -> Result<Value> {
        let interfaces = self.json(&["interfaces"])?;
        let first = interfaces.get(0).cloned();
        first.ok_or_else(|| Error::Expectation(format!("no interface: {interfaces:#}")))
    }

    /// Runs a program of the other side to its end.
    pub fn peer(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.namespace.command(program).args(arguments))
    }

    /// Ends netd in order; it must return 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(netd) = &mut self.netd else { return Ok(()) };
        if netd.is_running() {
            netd.signal(Signal::TERM)?;
        }
        netd.finish(LIMIT).map(drop)
    }

    /// Ends netd and the capture, lets tshark judge it, and returns its file; nothing if that was done already.
    pub fn finish(&mut self, allowed: &[Allowed]) -> Result<Option<PathBuf>> {
        self.stop()?;
        let Some(capture) = self.capture.take() else { return Ok(None) };
        let file = capture.stop()?;
        capture::examine(&file, MAC, allowed)?;
        Ok(Some(file))
    }
}
