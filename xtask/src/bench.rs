//! `cargo xtask bench`: builds the benchmarks with optimisation, and runs them.

use crate::checks::cargo;
use netd_tests::Result;
use netd_tests::bench::ring as rings;

/// Runs the benchmark of this name.
pub(crate) fn run(name: &str, json: bool) -> Result<()> {
    let mut arguments =
        vec!["run", "--release", "--quiet", "--package", "netd-tests", "--bin", "netd-bench", "--", name];
    if json {
        arguments.push("--json");
    }
    cargo(&arguments)
}

/// Cost per packet of the driver alone, by ring format and direction.
pub(crate) fn ring(json: bool) -> Result<()> {
    print!("{}", rings::show(&rings::run()?, json)?);
    Ok(())
}
