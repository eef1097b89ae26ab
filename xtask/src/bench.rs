//! `cargo xtask bench`: builds the benchmarks with optimisation, and runs them.

use crate::checks::cargo;
use netd_tests::Result;

/// Cost per packet by the number of connections.
pub(crate) fn flows(json: bool) -> Result<()> {
    let mut arguments =
        vec!["run", "--release", "--quiet", "--package", "netd-tests", "--bin", "netd-bench", "--", "flows"];
    if json {
        arguments.push("--json");
    }
    cargo(&arguments)
}
