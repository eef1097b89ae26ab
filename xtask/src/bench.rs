//! `cargo xtask bench`: builds everything with optimisation, and runs the benchmark.

use crate::checks::{cargo, run_to_success};
use netd_tests::{Result, binaries};
use std::process::Command;

/// The programs that benchmarks run, beside their own.
const PACKAGES: [&str; 4] = ["netd", "netd-services", "netctl", "netd-tests"];

/// Runs the benchmark `name` of netd-bench; `json` names a file for its figures, "-" standard output.
pub(crate) fn run(name: &str, json: Option<&str>) -> Result<()> {
    let mut build = vec!["build", "--release", "--quiet", "--bins"];
    for package in PACKAGES {
        build.extend(["--package", package]);
    }
    eprintln!("building with optimisation ...");
    cargo(&build)?;
    // Not by `cargo run`, which would build once more with the features of one package alone.
    let programs = binaries::target_directory()?.join("release");
    let mut bench = Command::new(programs.join("netd-bench"));
    bench.arg(name);
    if let Some(target) = json {
        bench.args(["--json", target]);
    }
    // Machines boot with the optimised programs too.
    bench.env(binaries::PREBUILT, programs);
    run_to_success(bench)
}
