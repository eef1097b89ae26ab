//! Captures, and tshark as their judge: an independent dissector that finds what is malformed, what has a wrong checksum, and what
//! is remarkable. What it may remark is listed with the reason why it is right; everything else fails the scenario.

use crate::error::{Attempt, Error, Result};
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT, run};
use crate::{ensure, install};
use rustix::process::Signal;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// tcpdump's buffer: what a busy machine lets pile up while tcpdump does not run.
const BUFFER_KIB: &str = "131072";
/// More than a frame has on these wires. What is longer takes more of the buffer for every frame.
const SNAP_BYTES: &str = "2048";
/// Of one capture: some seconds of bulk. More of the same would teach nothing, and tshark needs a tenth of a millisecond for each.
const FRAMES_MAX: &str = "20000";
/// tcpdump writes out what it has buffered.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Of what is wrong, in a message.
const FINDINGS_SHOWN: usize = 20;
/// tshark's `expert` severities from a warning on (`epan/proto.h`): PI_WARN, PI_ERROR.
const REMARKABLE: &str = "_ws.expert.severity >= 0x00600000";

/// tcpdump on an interface.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

impl Capture {
    /// Starts it; ready when the interface is being listened to.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path) -> Result<Capture> {
        install::ensure(install::PEERS)?;
        let mut command = namespace.command("tcpdump");
        // Without --immediate-mode, what came in the last moments would be left in the kernel.
        // -Z: as root, it would write as a user that may not enter our directory.
        command
            .args([
                "-i",
                interface,
                "--immediate-mode",
                "-s",
                SNAP_BYTES,
                "-B",
                BUFFER_KIB,
                "-c",
                FRAMES_MAX,
                "-Z",
                "root",
                "-w",
            ])
            .arg(file);
        let mut tcpdump = Background::spawn(&mut command, &file.with_extension("log"))?;
        tcpdump.wait_until_ready(READY_LIMIT, |output| Ok(output.contains("listening on")))?;
        Ok(Capture { tcpdump, file: file.to_owned() })
    }

    /// Ends it; no frame may be missing, but those after the last that it took. Returns the file.
    pub fn stop(mut self) -> Result<PathBuf> {
        if self.tcpdump.is_running() {
            self.tcpdump.signal(Signal::INT)?;
        }
        let told = self.tcpdump.finish(STOP_LIMIT)?;
        ensure!(told.contains("\n0 packets dropped by kernel"), "the capture has holes:\n{told}");
        Ok(self.file)
    }
}

/// A remark of tshark's that is right where it is made.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Part of the remark.
    pub remark: &'static str,
    /// A display filter for the frames on which it is right; empty for any.
    pub on: &'static str,
    /// Why it is right there.
    pub because: &'static str,
}

/// Reads a capture with tshark, checksums included: nothing malformed, nothing wrong, and no warning but those allowed. `of` is the
/// MAC address of the machine in question, which must have sent and received.
pub fn examine(file: &Path, of: &str, allowed: &[Allowed]) -> Result<()> {
    install::ensure(install::PEERS)?;
    for direction in ["src", "dst"] {
        let mut first = Command::new("tcpdump");
        first.args(["-nn", "-c", "1", "-r"]).arg(file).args(["ether", direction, of]);
        let frames = run(&mut first)?;
        ensure!(!frames.is_empty(), "{} has no frame with {direction} {of}", file.display());
    }
    let mut explanations = Explanations { file, allowed, frames: HashMap::new() };
    let mut unexplained = Vec::new();
    let found = fields(file, REMARKABLE, &["frame.number", "_ws.expert.message", "_ws.col.Info"])?;
    for line in found.lines() {
        let mut columns = line.split('\t');
        let (number, remarks) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        for remark in remarks.split(AGGREGATOR) {
            if !explanations.explain(number, remark)? {
                unexplained.push(line.replace(AGGREGATOR, "; "));
            }
        }
    }
    if unexplained.is_empty() {
        return Ok(());
    }
    let total = unexplained.len();
    unexplained.truncate(FINDINGS_SHOWN);
    let kept = keep(file)?;
    let list = unexplained.join("\n");
    Err(Error::Expectation(format!("tshark finds in {} ({total} times):\n{list}", kept.display())))
}

/// Ports over which the scenarios send bytes without meaning, and 5201 is iperf3's: tshark would guess some protocol from them.
const BULK_PORTS: &str = "7000-7100";
/// Between several values of one field; no remark has it.
const AGGREGATOR: char = '|';

/// Tells what is allowed, asking tshark for the frames of each filter at most once.
struct Explanations<'a> {
    file: &'a Path,
    allowed: &'a [Allowed],
    frames: HashMap<&'static str, HashSet<String>>,
}

impl Explanations<'_> {
    fn explain(&mut self, frame: &str, remark: &str) -> Result<bool> {
        for Allowed { remark: part, on, because: _ } in ALWAYS.iter().chain(self.allowed) {
            if !remark.contains(part) {
                continue;
            }
            if on.is_empty() {
                return Ok(true);
            }
            if !self.frames.contains_key(on) {
                let frames = fields(self.file, on, &["frame.number"])?;
                self.frames.insert(on, frames.lines().map(str::to_owned).collect());
            }
            if self.frames.get(on).is_some_and(|frames| frames.contains(frame)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What tshark remarks on any wire.
const ALWAYS: &[Allowed] = &[
    Allowed {
        remark: "TCP window specified by the receiver is now completely full",
        on: "",
        because: "flow control at work: the receiving program is slower than the sending one",
    },
    Allowed { remark: "TCP Zero Window segment", on: "", because: "the same, told by the receiver" },
    Allowed {
        remark: "Bad checksum",
        on: "(icmp.type == 3 && icmp.checksum.status == 1) || (icmpv6.type == 2 && icmpv6.checksum.status == 1)",
        because: "the error's own checksum is right; that of the segment which it quotes covers bytes that are not quoted",
    },
];

/// Some fields of the frames that fit a display filter, one line for each frame.
pub fn fields(file: &Path, filter: &str, names: &[&str]) -> Result<String> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-n").arg("-r").arg(file).args(["-Y", filter, "-T", "fields"]);
    tshark.args(["-d", &format!("tcp.port=={BULK_PORTS},data"), "-d", "tcp.port==5201,data"]);
    for check in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        tshark.args(["-o", &format!("{check}:TRUE")]);
    }
    tshark.args(["-E", &format!("aggregator={AGGREGATOR}")]);
    for name in names {
        tshark.args(["-e", name]);
    }
    run(&mut tshark)
}

/// Copies a capture of a scenario that failed to where it outlives it.
pub fn keep(file: &Path) -> Result<PathBuf> {
    let directory = crate::artifacts::cache_directory()?.join("logs");
    std::fs::create_dir_all(&directory).attempt(|| format!("make {}", directory.display()))?;
    let unique = format!("{}-{:08x}.pcap", std::process::id(), fastrand::u32(..));
    let kept = directory.join(unique);
    std::fs::copy(file, &kept).attempt(|| format!("keep {}", file.display()))?;
    Ok(kept)
}
