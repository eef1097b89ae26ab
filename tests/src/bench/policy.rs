//! What a decision of the policy costs by the number of rules: `policy/examples/decision-bench.rs`.

use std::io;
use std::process::Command;

use super::report::{Console, Report};
use crate::binaries::{cargo, target_directory};
use crate::error::{Attempt, Result};
use crate::{ensure, process};
use serde::Serialize;

/// One case.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// How many rules there are.
    pub(super) rules: u32,
    /// `load` (parsing and compiling all of them); `allow` or `deny` (one decision; a denial with its reason in words); `stranger` (one about
    /// somebody for whom there is no rule); `name` (one about a
    /// connection by name at the address that was found).
    pub(super) case: String,
    /// How long it takes.
    pub(super) nanoseconds: f64,
}

/// Builds the benchmark with optimisation and runs it.
pub(super) fn run(console: &Console) -> Result<()> {
    console.progress("nanoseconds per decision by the number of rules");
    let build = ["build", "--release", "--quiet", "--package", "netd-policy", "--example", "decision-bench"];
    process::run(cargo().args(build))?;
    let measured =
        process::run(&mut Command::new(target_directory()?.join("release/examples/decision-bench")))?;
    let rows = measured.lines().map(row).collect::<Result<Vec<Row>>>()?;
    let table = console.table(&["rules ", "case", "nanoseconds"]);
    for Row { rules, case, nanoseconds } in &rows {
        table.row(&[rules.to_string(), case.clone(), format!("{nanoseconds:.0}")]);
    }
    console.finish(&Report::new("policy", rows))
}

/// Understands a line such as `100 allow 81.5`.
fn row(line: &str) -> Result<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.len() == 3, "decision-bench printed {line:?}");
    let understand = || format!("understand {line:?}");
    let rules = words[0].parse::<u32>().map_err(io::Error::other).attempt(understand)?;
    let nanoseconds = words[2].parse::<f64>().map_err(io::Error::other).attempt(understand)?;
    Ok(Row { rules, case: words[1].to_owned(), nanoseconds })
}
