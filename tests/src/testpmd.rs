//! DPDK's testpmd: as a vhost-user device that forwards, answers, sends or swallows frames, and as a driver to compare ours with.
//!
//! It runs without huge pages and without any PCI device, on two cores: the first reads commands and sleeps, the second forwards.

use crate::ensure;
use crate::error::{Attempt, Error, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, wait_until};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::Duration;

/// DPDK takes a second or two to start; the rest is room for a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
const PROMPT: &str = "testpmd> ";
/// Megabytes of memory without huge pages: buffers of 2 KiB for both rings several times over.
const MEMORY_MEGABYTES: &str = "256";
const MBUFS: &str = "--total-num-mbufs=16384";

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Virtual devices in DPDK's words: one port each.
    pub devices: Vec<String>,
    /// The core that reads commands, and the one that forwards.
    pub cores: (u32, u32),
    /// testpmd's own arguments, the forwarding mode among them.
    pub arguments: Vec<String>,
}

impl Options {
    /// A vhost-user device with a forwarding mode, listening at `socket`.
    pub fn device(socket: &Path, mode: &str) -> Options {
        Options {
            devices: vec![format!("net_vhost0,iface={},queues=1", socket.display())],
            cores: (0, 1),
            arguments: vec![format!("--forward-mode={mode}")],
        }
    }
}

/// testpmd at work. Dropping it ends it.
#[derive(Debug)]
pub struct Testpmd {
    process: Background,
    input: ChildStdin,
    /// Output read so far.
    seen: usize,
}

impl Testpmd {
    /// Starts it inside a namespace, with its log in `directory`; ready at its first prompt.
    pub fn start_in(
        namespace: &Namespace,
        name: &str,
        directory: &Path,
        options: &Options,
    ) -> Result<Testpmd> {
        Testpmd::spawn(namespace.command("stdbuf"), name, directory, options)
    }

    fn spawn(mut command: Command, name: &str, directory: &Path, options: &Options) -> Result<Testpmd> {
        install::ensure(install::DPDK)?;
        // Its answers would otherwise be written long after the prompt that follows them.
        command.args(["-oL", "dpdk-testpmd"]);
        let (main, worker) = options.cores;
        command.args(["-l", &format!("{main},{worker}"), "--main-lcore", &main.to_string()]);
        command.args(["--no-huge", "-m", MEMORY_MEGABYTES, "--no-pci", "--no-shconf", "--no-telemetry"]);
        command.arg(format!("--file-prefix=netd-{}-{name}", std::process::id()));
        command.args(options.devices.iter().map(|device| format!("--vdev={device}")));
        command.args(["--", "-i", MBUFS]).args(&options.arguments);
        let log = directory.join(format!("{name}.log"));
        let (process, input) = Background::spawn_with_input(&mut command, &log)?;
        let mut testpmd = Testpmd { process, input, seen: 0 };
        testpmd.process.wait_until_ready(READY_LIMIT, |output| Ok(output.contains(PROMPT)))?;
        testpmd.seen = testpmd.process.output().len();
        Ok(testpmd)
    }

    /// Starts it on the machine itself.
    pub fn start(name: &str, directory: &Path, options: &Options) -> Result<Testpmd> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "stdbuf"]);
        Testpmd::spawn(command, name, directory, options)
    }

    /// Gives it a command, and returns what it printed until it asked for the next.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.seen = self.process.output().len();
        writeln!(self.input, "{line}").attempt(|| format!("tell testpmd {line:?}"))?;
        let mut printed = String::new();
        let waited = wait_until(&format!("testpmd's answer to {line:?}"), READY_LIMIT, || {
            ensure!(self.process.is_running(), "testpmd ended at {line:?}:\n{}", self.process.output());
            printed = self.process.output().get(self.seen..).unwrap_or_default().to_owned();
            Ok(printed.contains(PROMPT))
        });
        waited.map_err(|error| Error::Expectation(format!("{error}\n{}", self.process.output())))?;
        Ok(printed)
    }

    /// Waits until the link of a port is as wanted.
    pub fn wait_for_link(&mut self, port: u32, up: bool) -> Result<()> {
        let wanted = format!("Link status: {}", if up { "up" } else { "down" });
        wait_until(&format!("link {up} at testpmd's port {port}"), READY_LIMIT, || {
            Ok(self.command(&format!("show port info {port}"))?.contains(&wanted))
        })
    }

    /// Frames per second, received and sent by a port since the last time this was asked, by testpmd's own clock.
    pub fn rates(&mut self, port: u32) -> Result<Rates> {
        let text = self.command(&format!("show port stats {port}"))?;
        let number = |name: &str| {
            let rest = text.split(name).nth(1).unwrap_or_default();
            let digits = rest.split_whitespace().next().unwrap_or_default();
            digits
                .parse()
                .map_err(|_| Error::Expectation(format!("no {name} in testpmd's statistics:\n{text}")))
        };
        Ok(Rates { received: number("Rx-pps:")?, sent: number("Tx-pps:")? })
    }

    /// Its own end, by kill: as a crash looks to the other side.
    pub fn kill(self) {
        // The signal goes out before `Background` is dropped, which would first ask politely.
        let _already_gone = self.process.signal(rustix::process::Signal::KILL);
    }

    /// Everything it printed.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// Frames per second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Received by the port.
    pub received: u64,
    /// Sent by the port.
    pub sent: u64,
}

/// A directory for sockets and logs.
pub fn directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("netd-dpdk-").tempdir().attempt(|| "make a directory".to_owned())
}

/// The socket of a device in `directory`.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("vhost.sock")
}
