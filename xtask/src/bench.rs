//! `cargo xtask bench`: builds the benchmarks with optimisation, and runs them.

use crate::checks::cargo;
use netd_tests::Result;

/// Runs the benchmark of this name.
pub(crate) fn run(name: &str, json: bool) -> Result<()> {
    let mut arguments =
        vec!["run", "--release", "--quiet", "--package", "netd-tests", "--bin", "netd-bench", "--", name];
    if json {
        arguments.push("--json");
    }
    cargo(&arguments)
}
