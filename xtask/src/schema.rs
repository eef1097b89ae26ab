//! `cargo xtask schema`: writes the JSON Schemas of the configuration files.

use crate::checks::{cargo, run_to_success};
use netd_tests::{Result, binaries};
use std::process::Command;

/// Builds and runs their generator. The whole workspace is built, since a part of it has other features and would be built once more.
pub(crate) fn run() -> Result<()> {
    cargo(&["build", "--workspace", "--quiet"])?;
    run_to_success(Command::new(binaries::target_directory()?.join("debug/netd-schemas")))
}
