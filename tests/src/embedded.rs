//! netd on the embedded default: the software device in netd's own process, passt as the wire, nobody with any privilege.
//!
//! passt needs a network with a default route, the right to open ICMP sockets, and a gateway that answers pings. Where the
//! machine has all three, everything runs right there; otherwise (and in every test) in a network namespace made for the
//! purpose, with a second one as its gateway. Either way passt maps TCP and UDP to the gateway's address to the loopback of
//! its network, so that is where netd's clients find the programs of the host.

use crate::binaries::{self, Binaries};
use crate::capture::{self, Allowed};
use crate::error::{Attempt, Error, Result};
use crate::install;
use crate::lab::ANY_GRANT;
use crate::netns::{Namespace, wait_for_path};
use crate::process::{Background, run, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A user that owns nothing: above the range that Debian gives to people, below that of dynamic service users (61184).
pub const UNPRIVILEGED_UID: u32 = 60999;
const READY_LIMIT: Duration = Duration::from_secs(15);
const CAPTURE: &str = "passt.pcap";
/// The network in which passt and the host's programs run.
#[derive(Debug)]
pub enum Network {
    /// The machine's own; as root, programs are started as this user.
    Own(Option<u32>),
    /// A namespace that root made; programs are started as [`UNPRIVILEGED_UID`].
    Namespace {
        /// Where passt and the programs run.
        inside: Namespace,
        /// Where its default route leads.
        gateway: Namespace,
    },
    /// Two such namespaces that an ordinary user made, kept by processes that sleep in them.
    UserNamespace(Background),
}

impl Network {
    /// For a person: the machine's own network where passt can do everything there.
    pub fn choose(scratch: &Path) -> Result<Network> {
        let root = install::is_root();
        if may_ping() && gateway_answers() {
            return Ok(Network::Own(root.then_some(UNPRIVILEGED_UID)));
        }
        if root { Network::isolated() } else { Network::of_user(scratch) }
    }

    /// For a test: a namespace. Needs root.
    pub fn isolated() -> Result<Network> {
        let (inside, gateway) = (Namespace::new()?, Namespace::new()?);
        inside.ip(&format!("link add uplink type veth peer name downlink netns {}", gateway.name()))?;
        for arguments in GATEWAY_LINK {
            gateway.ip(arguments)?;
        }
        for arguments in UPLINK {
            inside.ip(arguments)?;
        }
        run(inside.command("sh").args(["-c", &allow_ping()]))?;
        Ok(Network::Namespace { inside, gateway })
    }

    fn of_user(scratch: &Path) -> Result<Network> {
        let script = user_namespace_script();
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "--kill-child", "sh", "-ec", &script]);
        let mut holder = Background::spawn(&mut unshare, &scratch.join("namespace.log"))?;
        holder.wait_until_ready(READY_LIMIT, |output| Ok(output.contains("ready")))?;
        Ok(Network::UserNamespace(holder))
    }

    /// A program in this network, without privileges.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = match self {
            Network::Own(None) => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]);
                command
            }
            Network::Own(Some(uid)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
                command.args(["--clear-groups", "--no-new-privs", "--pdeathsig", "KILL", "--"]);
                command
            }
            Network::Namespace { inside, .. } => {
                return inside.command_as(UNPRIVILEGED_UID, &program.to_string_lossy());
            }
            Network::UserNamespace(holder) => {
                let mut command = Command::new("nsenter");
                command.args([
                    "--preserve-credentials",
                    "--user",
                    "--net",
                    "--target",
                    &holder.pid().to_string(),
                ]);
                command.arg("--");
                command
            }
        };
        command.arg(program);
        command
    }

    /// The user that programs run as, when it is not our own.
    fn uid(&self) -> Option<u32> {
        match self {
            Network::Own(uid) => *uid,
            Network::Namespace { .. } => Some(UNPRIVILEGED_UID),
            Network::UserNamespace(_) => None,
        }
    }

    /// A sentence for a person.
    pub fn describe(&self) -> String {
        match self {
            Network::Own(None) => "this machine's own network".to_owned(),
            Network::Own(Some(uid)) => format!("this machine's own network, as the unprivileged user {uid}"),
            Network::Namespace { .. } => {
                format!("a network namespace, as the unprivileged user {UNPRIVILEGED_UID}")
            }
            Network::UserNamespace(_) => "a user and network namespace of our own".to_owned(),
        }
    }
}

/// Which groups may open ICMP sockets, "FIRST LAST"; passt forwards pings through one. Closed in every new namespace.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// For root of a namespace, of which 0 may be the only group.
fn allow_ping() -> String {
    format!("{{ echo 0 {UNPRIVILEGED_UID} || echo 0 0; }} > {PING_GROUPS} 2>/dev/null")
}

/// Whether the machine lets the group that programs will run as open ICMP sockets.
fn may_ping() -> bool {
    let group = if install::is_root() { UNPRIVILEGED_UID } else { rustix::process::getegid().as_raw() };
    let range = fs::read_to_string(PING_GROUPS).unwrap_or_default();
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u32>().ok());
    matches!((bounds.next(), bounds.next()), (Some(first), Some(last)) if (first..=last).contains(&group))
}

/// Whether there is a default gateway, and one that answers (those of clouds often do not).
fn gateway_answers() -> bool {
    let routes = run(Command::new("ip").args(["-4", "route", "show", "default"])).unwrap_or_default();
    let gateway = routes.split_whitespace().skip_while(|word| *word != "via").nth(1);
    gateway.is_some_and(|gateway| run(Command::new("ping").args(["-c", "1", "-W", "1", gateway])).is_ok())
}

const UPLINK: [&str; 3] =
    ["address add 10.99.0.2/24 dev uplink", "link set uplink up", "route add default via 10.99.0.1"];
const GATEWAY_LINK: [&str; 2] = ["address add 10.99.0.1/24 dev downlink", "link set downlink up"];

/// What [`Network::isolated`] does, for a user who is root only in namespaces of their own.
fn user_namespace_script() -> String {
    let ip = |commands: &[&str], prefix: &str| {
        commands.iter().map(|command| format!("{prefix}ip {command}\n")).collect::<String>()
    };
    format!(
        "setpriv --pdeathsig KILL -- unshare --net --kill-child sleep infinity & gateway=$!\n\
         until [ \"$(readlink /proc/$gateway/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.05; done\n\
         ip link set lo up\n\
         ip link add uplink type veth peer name downlink netns $gateway\n\
         {}{}{}\necho ready\nexec sleep infinity\n",
        ip(&GATEWAY_LINK, "nsenter --net --target $gateway "),
        ip(&UPLINK, ""),
        allow_ping()
    )
}

/// netd and passt at work. Dropping it ends both and removes every file.
#[derive(Debug)]
pub struct Embedded {
    /// netd.
    pub netd: Background,
    /// passt.
    pub passt: Background,
    /// The network of passt and of the host's programs.
    pub network: Network,
    options: Options,
    directory: TempDir,
}

/// What to vary.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The devnet switch.
    pub devnet: bool,
    /// A TCP port of the network that passt forwards to netd.
    pub forwarded_port: u16,
    /// Whether passt writes down what it moves, for tshark to judge in the end, and what tshark may remark.
    pub judged: Option<&'static [Allowed]>,
}

impl Embedded {
    /// Starts passt, then netd, and waits for the lease.
    pub fn start(network: Network, directory: TempDir, options: Options) -> Result<Embedded> {
        install::ensure(install::EMBEDDED)?;
        let binaries = Binaries::build()?;
        prepare(&binaries, &network, &directory, options)?;
        let path = |name: &str| directory.path().join(name);

        let mut passt = network.command("passt");
        // In the foreground, one connection and then the end, which comes with netd's.
        passt.args(["--foreground", "--one-off", "--socket"]).arg(path("passt.sock"));
        passt.args(["--tcp-ports", &options.forwarded_port.to_string()]);
        if options.judged.is_some() {
            passt.arg("--pcap").arg(path(CAPTURE));
        }
        let mut passt = Background::spawn(&mut passt, &path("passt.log"))?;
        passt.wait_until_ready(READY_LIMIT, |_| listens(&network, &path("passt.sock")))?;

        let mut netd = network.command(path("netd"));
        netd.args(["run", "--config"]).arg(path("netd.toml"));
        let netd = Background::spawn(&mut netd, &path("netd.log"))?;
        let mut embedded = Embedded { netd, passt, network, options, directory };
        embedded.wait_for_lease()?;
        Ok(embedded)
    }

    /// A path in its private directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// netctl, as the unprivileged user.
    pub fn netctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.command(self.path("netctl"));
        command.args(arguments).env("NETD_SOCKET", self.path("netd.sock"));
        command
    }

    /// What a netctl command prints with `--json`.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = run(&mut self.netctl(&["--json", command]))?;
        let value = serde_json::from_str(&text);
        value.map_err(|error| Error::Expectation(format!("netctl --json {command}: {error}:\n{text}")))
    }

    /// The client in Python's standard library.
    pub fn python(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.command("/usr/bin/python3");
        command.arg(self.path("client.py")).args(arguments).env("NETD_SOCKET", self.path("netd.sock"));
        command
    }

    /// The address by which netd's clients reach the host's loopback: the gateway of the lease.
    pub fn host_address(&self) -> Result<String> {
        let status = self.json("status")?;
        let gateway = status["gateway"].as_str().map(str::to_owned);
        gateway.ok_or_else(|| Error::Expectation(format!("no gateway in the status:\n{status:#}")))
    }

    /// The namespace, where a test runs the programs of the other side.
    pub fn namespace(&self) -> Result<&Namespace> {
        match &self.network {
            Network::Namespace { inside, .. } => Ok(inside),
            other => Err(Error::Expectation(format!("not in a namespace of root's: {other:?}"))),
        }
    }

    /// Ends netd in order; it must return 0, and tshark must have nothing against what passed.
    pub fn terminate(mut self) -> Result<()> {
        let interfaces = self.json("interfaces")?;
        self.netd.signal(Signal::TERM)?;
        self.netd.finish(READY_LIMIT)?;
        let Some(allowed) = self.options.judged else { return Ok(()) };
        // Its last frame is written when it has ended.
        self.passt.wait(READY_LIMIT)?;
        let mac = interfaces[0]["mac"].as_str();
        let mac = mac.ok_or_else(|| Error::Expectation(format!("no MAC address:\n{interfaces:#}")))?;
        capture::examine(&self.path(CAPTURE), mac, allowed)
    }

    fn wait_for_lease(&mut self) -> Result<()> {
        wait_for_path(&self.path("netd.sock"), READY_LIMIT).map_err(|error| self.with_logs(&error))?;
        let waited = wait_until("a lease from passt", READY_LIMIT, || {
            crate::ensure!(self.netd.is_running(), "netd ended before it had a lease");
            Ok(self.json("status").is_ok_and(|status| status["address_source"] == "dhcp"))
        });
        waited.map_err(|error| self.with_logs(&error))
    }

    fn with_logs(&self, error: &Error) -> Error {
        Error::Expectation(format!("{error}\nnetd:\n{}\npasst:\n{}", self.netd.output(), self.passt.output()))
    }
}

/// Whether somebody listens on a Unix socket. That its file exists is not enough: it appears before anyone listens.
fn listens(network: &Network, socket: &Path) -> Result<bool> {
    let listing = run(network.command("ss").args(["-Hlx", "src"]).arg(socket))?;
    Ok(!listing.trim().is_empty())
}

/// The private directory: programs, the Python client, the configuration; owned by the user that will use it.
fn prepare(binaries: &Binaries, network: &Network, directory: &TempDir, options: Options) -> Result<()> {
    let path = |name: &str| directory.path().join(name);
    binaries.copy_to(directory.path(), &["netd", "netctl", "netd-peer"])?;
    let client = binaries::workspace().join("ipc/examples/client.py");
    fs::copy(&client, path("client.py")).attempt(|| format!("copy {}", client.display()))?;
    let configuration = configuration(directory.path(), options.devnet);
    fs::write(path("netd.toml"), configuration).attempt(|| "write netd.toml".to_owned())?;
    for name in ["netd.toml", "client.py"] {
        fs::set_permissions(path(name), Permissions::from_mode(0o644)).attempt(|| format!("open {name}"))?;
    }
    if let Some(uid) = network.uid() {
        chown(directory.path(), Some(uid), Some(uid))
            .attempt(|| format!("give the directory to user {uid}"))?;
    }
    Ok(())
}

/// A configuration of the software device.
pub fn configuration(directory: &Path, devnet: bool) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    format!(
        "[network.devnet]\nenabled = {devnet}\n\n\
         [device]\nkind = \"software\"\nlink = {{ kind = \"socket\", path = \"{}\" }}\npoll = \"adaptive\"\n\n\
         [address]\nmode = \"dhcp\"\n\n[ipc]\nsocket = \"{}\"\n\n[state]\ndirectory = \"{}\"\n\n{ANY_GRANT}",
        path("passt.sock"),
        path("netd.sock"),
        path("state"),
    )
}

/// A private directory for [`Embedded::start`].
pub fn private_directory() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("netd-embedded-")
        .tempdir()
        .attempt(|| "make a private directory".to_owned())
}

/// A TCP port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).attempt(|| "find a free port".to_owned())?;
    Ok(listener.local_addr().attempt(|| "find a free port".to_owned())?.port())
}
