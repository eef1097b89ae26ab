//! Devices of the bus in one namespace: each a netd on a tap of a common bridge, with netd-services beside it, run by an unprivileged user.
//!
//! ```text
//! alpha: netctl ── netd-services ── netd ── tap-alpha ─┐
//!                                                      br0
//! beta:  netctl ── netd-services ── netd ── tap-beta ──┘
//! ```

use crate::binaries::Binaries;
use crate::embedded::UNPRIVILEGED_UID;
use crate::error::{Attempt, Error, Result};
use crate::netns::{Namespace, wait_for_path};
use crate::process::{Background, wait_until};
use crate::{ensure, install};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// What is waited for comes within moments; the rest is room for a busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);
const BRIDGE: &str = "br0";
/// The namespace itself, to the devices.
pub const HOST: &str = "10.78.0.1";

/// A network for devices.
#[derive(Debug)]
pub struct Network {
    namespace: Namespace,
}

impl Network {
    /// A namespace with a bridge.
    pub fn new() -> Result<Network> {
        install::ensure(install::PEERS)?;
        let namespace = Namespace::new()?;
        namespace.bridge(BRIDGE, &[&format!("{HOST}/24")])?;
        Ok(Network { namespace })
    }

    /// Whose address on the bridge is [`HOST`].
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// What a device is told.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Its id on the bus, and of its directory and tap.
    pub name: &'a str,
    /// What it calls itself, if that is another name.
    pub claims: &'a str,
    /// The last byte of its address.
    pub number: u8,
    /// Its grants.
    pub rules: &'a str,
    /// What `[bus]` of services.toml says beside its device and its state.
    pub bus: &'a str,
}

/// A device at work.
#[derive(Debug)]
pub struct Node<'a> {
    network: &'a Network,
    plan: Plan<'a>,
    directory: TempDir,
    netd: Option<Background>,
    services: Option<Background>,
    /// How often netd-services was started: each has a log of its own.
    starts: u32,
}

impl<'a> Node<'a> {
    /// Starts netd and netd-services.
    pub fn start(network: &'a Network, plan: Plan<'a>) -> Result<Node<'a>> {
        let directory = tempfile::Builder::new().prefix("netd-bus-").tempdir();
        let directory = directory.attempt(|| "make a directory for a device".to_owned())?;
        chown(directory.path(), Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID))
            .attempt(|| "give a directory away".to_owned())?;
        Binaries::build()?.copy_to(directory.path(), &["netd", "netd-services", "netctl"])?;
        let tap = format!("tap-{}", plan.name);
        network.namespace.ip(&format!("tuntap add dev {tap} mode tap user {UNPRIVILEGED_UID}"))?;
        network.namespace.ip(&format!("link set {tap} master {BRIDGE} up"))?;
        let mut node = Node { network, plan, directory, netd: None, services: None, starts: 0 };
        node.configure(true)?;
        node.start_netd()?;
        node.start_services()?;
        Ok(node)
    }

    /// A path in the device's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).attempt(|| format!("write {name}"))
    }

    fn configure(&self, devnet: bool) -> Result<()> {
        let Plan { name, claims, number, rules, bus } = self.plan;
        let path = |name: &str| self.path(name).display().to_string();
        self.write(
            "netd.toml",
            &format!(
                "[network.devnet]\nenabled = {devnet}\n[device]\nkind = \"software\"\n\
                 link = {{ kind = \"tap\", interface = \"tap-{name}\" }}\nmac = \"52:54:00:78:00:{number:02x}\"\n\
                 [address]\nmode = \"static\"\ncidr = \"10.78.0.{number}/24\"\ngateway = \"10.78.0.1\"\n\
                 [ipc]\nsocket = \"{}\"\n[state]\ndirectory = \"{}\"\n{rules}",
                path("netd.sock"),
                path("state"),
            ),
        )?;
        self.write(
            "services.toml",
            &format!(
                "[ipc]\nsocket = \"{}\"\n[netd]\nsocket = \"{}\"\n\
                 [bus]\ndevice = \"{claims}\"\nstate = \"{}\"\n{bus}",
                path("services.sock"),
                path("netd.sock"),
                path("bus"),
            ),
        )
    }

    /// Starts netd; ready when it serves.
    pub fn start_netd(&mut self) -> Result<()> {
        let mut command = self.command(self.path("netd"));
        command.args(["run", "--config"]).arg(self.path("netd.toml"));
        let netd =
            self.netd.insert(Background::spawn(&mut command, &self.directory.path().join("netd.log"))?);
        let socket = self.directory.path().join("netd.sock");
        netd.wait_until_ready(LIMIT, |_| Ok(socket.exists()))
    }

    /// Starts netd-services; ready when it serves.
    pub fn start_services(&mut self) -> Result<()> {
        self.starts += 1;
        let log = self.path(&format!("services-{}.log", self.starts));
        let mut command = self.command(self.path("netd-services"));
        command.args(["run", "--config"]).arg(self.path("services.toml"));
        self.services = Some(Background::spawn(&mut command, &log)?);
        wait_for_path(&self.path("services.sock"), LIMIT)
    }

    /// Ends netd-services as a crash does.
    pub fn kill_services(&mut self) -> Result<()> {
        if let Some(mut services) = self.services.take() {
            services.signal(Signal::KILL)?;
            services.wait(LIMIT)?;
        }
        fs::remove_file(self.path("services.sock")).attempt(|| "remove a dead socket".to_owned())
    }

    /// Turns devnet on or off, by the configuration and SIGHUP.
    pub fn set_devnet(&self, on: bool) -> Result<()> {
        self.configure(on)?;
        self.netd.as_ref().map_or(Ok(()), |netd| netd.signal(Signal::HUP))
    }

    /// Puts other grants in force, by the configuration and SIGHUP.
    pub fn set_rules(&mut self, rules: &'a str) -> Result<()> {
        let generation = |node: &Node<'a>| {
            let status = run(&mut node.netctl(&["status"]))?;
            Ok::<_, Error>(parse(&status.stdout)?["rules_generation"].clone())
        };
        let before = generation(self)?;
        self.plan.rules = rules;
        self.set_devnet(true)?;
        self.wait("the rules", |node| Ok(generation(node)? != before))
    }

    /// Ends netd as a crash does, and starts it anew.
    pub fn restart_netd(&mut self) -> Result<()> {
        if let Some(mut netd) = self.netd.take() {
            netd.signal(Signal::KILL)?;
            netd.wait(LIMIT)?;
        }
        fs::remove_file(self.path("netd.sock")).attempt(|| "remove a dead socket".to_owned())?;
        self.start_netd()
    }

    /// A program in the namespace, without privileges.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref().to_string_lossy().into_owned();
        let mut command = self.network.namespace.command_as(UNPRIVILEGED_UID, &program);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env("NETD_SOCKET", self.path("netd.sock"));
        command.env("NETD_SERVICES_SOCKET", self.path("services.sock"));
    }

    /// `netctl --json bus ...`
    pub fn netctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("netctl"));
        command.arg("--json").args(arguments);
        command
    }

    /// The same as root, whom no rule names.
    pub fn netctl_as_root(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.namespace.command(&self.path("netctl").to_string_lossy());
        self.environment(&mut command);
        command.arg("--json").args(arguments);
        command
    }

    /// What `netctl --json bus ...` tells.
    pub fn bus(&self, arguments: &[&str]) -> Result<Value> {
        let output = run(self.netctl(&["bus"]).args(arguments))?;
        ensure!(output.status.success(), "{} bus {arguments:?}: {}", self.plan.name, text(&output.stderr));
        parse(&output.stdout)
    }

    /// `netctl --json bus ...` must fail by this name; gives the message.
    pub fn refused(&self, arguments: &[&str], name: &str) -> Result<String> {
        expect_refusal(self.netctl(&["bus"]).args(arguments), name)
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut(&Node<'a>) -> Result<bool>) -> Result<()> {
        wait_until(&format!("{what} at {}", self.plan.name), LIMIT, || so(self))
    }

    /// What `peers` tells of a device; none if it tells nothing.
    pub fn peer(&self, device: &str) -> Result<Option<Value>> {
        let peers = self.bus(&["peers"])?;
        Ok(peers.as_array().into_iter().flatten().find(|peer| peer["device"] == device).cloned())
    }

    /// Begins to offer a service: what is in `input` is sent, and what comes is written to `output`.
    pub fn serve(&self, service: &str, input: &Path, output: &str) -> Result<Background> {
        let input = fs::File::open(input).attempt(|| format!("open {}", input.display()))?;
        let mut command = self.netctl(&["bus", "serve", service]);
        let background = Background::spawn_from(&mut command, input, &self.path(output))?;
        self.wait("the service", |node| {
            let status = node.bus(&["status"])?;
            Ok(status["services"].as_array().into_iter().flatten().any(|name| name == service))
        })?;
        Ok(background)
    }

    /// What netd-services has logged and marked since its last start.
    pub fn log(&self) -> String {
        self.services.as_ref().map(Background::output).unwrap_or_default()
    }

    /// All logs, for a failure.
    pub fn logs(&self) -> String {
        let netd = self.netd.as_ref().map(Background::output).unwrap_or_default();
        format!("--- {}: netd\n{netd}--- {}: netd-services\n{}", self.plan.name, self.plan.name, self.log())
    }
}

/// Runs a program to its end, with nothing to read.
pub fn run(command: &mut Command) -> Result<Output> {
    command.stdin(std::process::Stdio::null()).output().attempt(|| "run a program".to_owned())
}

/// A netctl that must fail by this name; gives the message.
pub fn expect_refusal(command: &mut Command, name: &str) -> Result<String> {
    let output = run(command)?;
    let told = text(&output.stderr);
    let what = crate::process::describe(command);
    ensure!(!output.status.success(), "{what} succeeded");
    let error = parse(told.lines().last().unwrap_or_default().as_bytes())?;
    ensure!(error["error"] == name, "{what}: expected {name}: {told}");
    Ok(error["message"].as_str().unwrap_or_default().to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Expectation(format!("no JSON ({error}): {}", text(bytes))))
}
