//! The judge: tshark reads a capture, checksums included, and each of its warnings is explained, or the scenario fails.

use super::stream::Stream;
use super::{FRAMES_MAX, keep};
use crate::error::{Error, Result};
use crate::process::run;
use crate::{ensure, install};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

/// Of what is wrong, in a message.
const FINDINGS_SHOWN: usize = 20;
/// tshark's `expert` severities from a warning on (`epan/proto.h`): PI_WARN, PI_ERROR. Below are notes, such as retransmissions.
const WARNING: u32 = 0x0060_0000;
/// Ports over which the scenarios send bytes without meaning, and 5201 is iperf3's: tshark would guess some protocol from them.
const BULK_PORTS: &str = "7000-7100";
/// Between several values of one field; no remark has it.
pub(super) const AGGREGATOR: char = '|';

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

/// What tshark remarks on any wire.
const ALWAYS: &[Allowed] = &[
    Allowed {
        remark: "Decoded 19 bytes, but packet legnth is",
        on: "ssh",
        because: "what follows New Keys in the same segment is encrypted, and tshark reads on",
    },
    Allowed {
        remark: "TCP window specified by the receiver is now completely full",
        on: "",
        because: "flow control at work: the receiving program is slower than the sending one",
    },
    Allowed { remark: "TCP Zero Window segment", on: "", because: "the same, told by the receiver" },
    Allowed {
        remark: "Checksum 0xffff instead of 0x0000 (see RFC 1624)",
        on: "",
        because: "both are zero in one's complement, and Linux writes this one where it computes a checksum in software",
    },
    Allowed {
        remark: "Bad checksum",
        on: "(icmp.type == 3 && icmp.checksum.status == 1) || (icmpv6.type == 2 && icmpv6.checksum.status == 1)",
        because: "the error's own checksum is right; that of the segment which it quotes covers bytes that are not quoted",
    },
];

/// Reads a capture with tshark, checksums included: nothing malformed, nothing wrong, and no warning but those allowed and those
/// that the capture itself refutes. `of` is the MAC address of the machine in question, which must have sent and received.
pub fn examine(file: &Path, of: &str, allowed: &[Allowed]) -> Result<()> {
    install::ensure(install::PEERS)?;
    for direction in ["src", "dst"] {
        let mut first = Command::new("tcpdump");
        first.args(["-nn", "-c", "1", "-r"]).arg(file).args(["ether", direction, of]);
        let frames = run(&mut first)?;
        ensure!(!frames.is_empty(), "{} has no frame with {direction} {of}", file.display());
    }
    let mut explanations = Explanations { file, allowed, frames: HashMap::new(), streams: HashMap::new() };
    let mut unexplained = Vec::new();
    let columns = ["frame.number", "tcp.stream", "_ws.expert.severity", "_ws.expert.message", "_ws.col.Info"];
    let found = fields(file, &format!("_ws.expert.severity >= {WARNING}"), &columns)?;
    for line in found.lines() {
        let mut columns = line.split('\t');
        let mut column = || columns.next().unwrap_or_default();
        let (frame, stream, severities, remarks, info) = (column(), column(), column(), column(), column());
        let at = Place { frame, stream: stream.split(AGGREGATOR).next().unwrap_or_default() };
        let (severities, remarks) = (severities.split(AGGREGATOR), remarks.split(AGGREGATOR));
        ensure!(
            severities.clone().count() == remarks.clone().count(),
            "tshark's remarks on a frame of {} are not one for each severity: {line}",
            file.display()
        );
        for (severity, remark) in severities.zip(remarks) {
            let is_note = severity.parse::<u32>().is_ok_and(|severity| severity < WARNING);
            if !is_note && !explanations.explain(&at, remark)? {
                unexplained.push(format!("{frame}\t{remark}\t{info}"));
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

/// Where a remark was made.
struct Place<'a> {
    frame: &'a str,
    /// tshark's number of the TCP connection; empty for other frames.
    stream: &'a str,
}

/// Tells what is allowed or refuted, asking tshark for the frames of each filter and for each stream at most once.
struct Explanations<'a> {
    file: &'a Path,
    allowed: &'a [Allowed],
    frames: HashMap<&'static str, HashSet<String>>,
    streams: HashMap<String, Stream>,
}

impl Explanations<'_> {
    fn explain(&mut self, at: &Place<'_>, remark: &str) -> Result<bool> {
        Ok(self.is_allowed(at, remark)? || self.is_refuted(at, remark)?)
    }

    fn is_allowed(&mut self, at: &Place<'_>, remark: &str) -> Result<bool> {
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
            if self.frames.get(on).is_some_and(|frames| frames.contains(at.frame)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it is a claim that the octets of the stream show to be wrong, or harmless.
    fn is_refuted(&mut self, at: &Place<'_>, remark: &str) -> Result<bool> {
        let holds: fn(&Stream, u64) -> bool = if remark.contains("ACKed segment that wasn't captured") {
            Stream::has_what_is_acknowledged
        } else if remark.contains("D-SACK Sequence") {
            Stream::has_twice_what_is_reported
        } else if remark.contains("out-of-order segment") {
            Stream::has_nothing_late
        } else if remark.contains("Connection reset (RST)") {
            Stream::was_over
        } else {
            return Ok(false);
        };
        let Ok(frame) = at.frame.parse() else { return Ok(false) };
        if !self.streams.contains_key(at.stream) {
            self.streams.insert(at.stream.to_owned(), Stream::read(self.file, at.stream)?);
        }
        Ok(self.streams.get(at.stream).is_some_and(|stream| holds(stream, frame)))
    }
}

/// Some fields of the frames that fit a display filter, one line for each frame.
pub fn fields(file: &Path, filter: &str, names: &[&str]) -> Result<String> {
    fields_with(file, filter, names, &[])
}

/// The same, with preferences of tshark.
pub(super) fn fields_with(file: &Path, filter: &str, names: &[&str], preferences: &[&str]) -> Result<String> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-c", FRAMES_MAX, "-r"]).arg(file).args(["-Y", filter, "-T", "fields"]);
    tshark.args(["-d", &format!("tcp.port=={BULK_PORTS},data"), "-d", "tcp.port==5201,data"]);
    for check in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        tshark.args(["-o", &format!("{check}:TRUE")]);
    }
    for preference in preferences {
        tshark.args(["-o", preference]);
    }
    tshark.args(["-E", &format!("aggregator={AGGREGATOR}")]);
    for name in names {
        tshark.args(["-e", name]);
    }
    run(&mut tshark)
}
