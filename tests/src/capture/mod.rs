//! Captures of what the scenarios move, and tshark as their judge: an independent dissector that finds what is malformed, what has
//! a wrong checksum, and what is remarkable. What it may remark is listed with the reason why it is right; everything else fails
//! the scenario.

mod judge;
mod stream;

use crate::error::{Attempt, Result};
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT};
use crate::{ensure, install};
pub use judge::{Allowed, examine, fields};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// tcpdump's buffer: what a busy machine lets pile up while tcpdump does not run.
const BUFFER_KIB: &str = "131072";
/// More than a frame has on these wires. What is longer takes more of the buffer for every frame.
const SNAP_BYTES: &str = "2048";
/// Of one capture: some seconds of bulk. More of the same would teach nothing, and tshark needs a tenth of a millisecond for each.
const FRAMES_MAX: &str = "20000";
/// All but what scenarios send to the discard port (RFC 863) as fast as it goes, to make load: frames all alike, after whose first
/// second there would be no room for what netd says.
const FILTER: &str = "not (udp and dst port 9)";
/// tcpdump writes out what it has buffered.
const STOP_LIMIT: Duration = Duration::from_secs(30);

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
            .arg(file)
            .arg(FILTER);
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

/// Copies a capture of a scenario that failed to where it outlives it.
pub fn keep(file: &Path) -> Result<PathBuf> {
    let directory = crate::artifacts::cache_directory()?.join("logs");
    std::fs::create_dir_all(&directory).attempt(|| format!("make {}", directory.display()))?;
    let unique = format!("{}-{:08x}.pcap", std::process::id(), fastrand::u32(..));
    let kept = directory.join(unique);
    std::fs::copy(file, &kept).attempt(|| format!("keep {}", file.display()))?;
    Ok(kept)
}
