//! What a packet costs the driver, without stack and without a machine below: `virtqueue/examples/ring-bench.rs`, timed as it is and once
//! more under callgrind, which counts instructions where a machine has no counters to read.

use std::io;
use std::path::Path;
use std::process::Command;

use super::report::{Console, Report};
use crate::binaries::{cargo, target_directory};
use crate::error::{Attempt, Result};
use crate::{ensure, install, process};
use serde::Serialize;

/// Frames in a counted run: set-up is not counted, so a few thousand would do.
const COUNTED_FRAMES: u32 = 100_000;

/// One format and direction.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// `split` or `packed`.
    pub(super) format: String,
    /// `transmit` or `receive`.
    pub(super) direction: String,
    /// The driver's part of one frame of 60 bytes, in bursts of 32.
    pub(super) nanoseconds: f64,
    /// The same in instructions.
    pub(super) instructions: f64,
}

/// Builds the benchmark with optimisation, runs it, and counts each case.
pub(super) fn run(console: &Console) -> Result<()> {
    console.progress("nanoseconds and instructions per packet of the driver alone");
    let rows = measure()?;
    let table = console.table(&["ring  ", "direction", "ns/packet", "instructions"]);
    for Row { format, direction, nanoseconds, instructions } in &rows {
        let figures = [format!("{nanoseconds:.1}"), format!("{instructions:.0}")];
        table.row(&[format.clone(), direction.clone()].into_iter().chain(figures).collect::<Vec<_>>());
    }
    console.finish(&Report::new("ring", rows))
}

fn measure() -> Result<Vec<Row>> {
    install::ensure(install::COUNTING)?;
    let build = ["build", "--release", "--quiet", "--package", "netd-virtqueue", "--example", "ring-bench"];
    process::run(cargo().args(build))?;
    let program = target_directory()?.join("release/examples/ring-bench");
    let measured = process::run(&mut Command::new(&program))?;
    measured.lines().map(|line| row(&program, line)).collect()
}

/// Completes a line such as `packed transmit 21.5`.
fn row(program: &Path, line: &str) -> Result<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.len() == 3, "ring-bench printed {line:?}");
    let nanoseconds = words[2].parse::<f64>();
    let nanoseconds = nanoseconds.map_err(io::Error::other).attempt(|| format!("understand {line:?}"))?;
    let instructions = count(program, words[0], words[1])?;
    Ok(Row { format: words[0].to_owned(), direction: words[1].to_owned(), nanoseconds, instructions })
}

/// Instructions per frame within the function that is the driver's part.
fn count(program: &Path, format: &str, direction: &str) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
    valgrind.arg(format!("--toggle-collect=*ring_bench::{direction}*"));
    valgrind.arg(program).args(["count", format, direction, &COUNTED_FRAMES.to_string()]);
    let output = process::run(&mut valgrind)?;
    // "==123== Collected : 27824875"
    let collected = output.lines().find_map(|line| line.split_once("Collected :"));
    let number = collected.and_then(|(_, number)| number.trim().parse::<f64>().ok());
    ensure!(number.is_some_and(|number| number > 0.0), "callgrind counted nothing:\n{output}");
    Ok(number.unwrap_or_default() / f64::from(COUNTED_FRAMES))
}
