//! The Debian package: staged from built programs, made by cargo-deb, and looked at by lintian.

use crate::binaries;
use crate::ensure;
use crate::error::{Attempt, Error, Result};
use crate::install;
use crate::process::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the package brings.
const PROGRAMS: [&str; 3] = ["netd", "netd-services", "netctl"];
/// The release whose fields of `[package.metadata.deb]` are known to work.
const CARGO_DEB_VERSION: &str = "3.8.0";
/// Where `[package.metadata.deb]` looks for what is staged, below the target directory.
const STAGE: &str = "release/package";

/// Makes the package from optimised programs, or from those that tests use, which are there sooner; says where it is.
pub fn build(debug_binaries: bool) -> Result<PathBuf> {
    install::ensure(install::PACKAGING)?;
    let target = binaries::target_directory()?;
    let programs = if debug_binaries {
        binaries::Binaries::build()?
    } else {
        let mut build = binaries::cargo();
        build.args(["build", "--workspace", "--release", "--bins", "--quiet"]);
        run(&mut build)?;
        binaries::Binaries::in_directory(target.join("release"))
    };
    stage(&programs, &target.join(STAGE))?;
    let package = target.join("debian").join("netd.deb");
    make_directory(&target.join("debian"))?;
    // What is staged is stripped already.
    let mut deb = Command::new(cargo_deb(&target)?);
    deb.current_dir(binaries::workspace()).env("CARGO_TARGET_DIR", &target);
    deb.args(["--package", "netd", "--no-build", "--no-strip", "--quiet", "--output"]).arg(&package);
    run(&mut deb)?;
    Ok(package)
}

/// lintian's findings; an error among them is one of ours.
pub fn lint(package: &Path) -> Result<String> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error", "--allow-root", "--tag-display-limit", "0"]).arg(package);
    let output = lintian.output().attempt(|| "run lintian".to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "lintian found errors:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn stage(programs: &binaries::Binaries, stage: &Path) -> Result<()> {
    if stage.exists() {
        fs::remove_dir_all(stage).attempt(|| format!("empty {}", stage.display()))?;
    }
    make_directory(&stage.join("bin"))?;
    for name in PROGRAMS {
        let mut strip = Command::new("strip");
        strip.arg("--strip-unneeded").arg("--remove-section=.comment").arg("-o");
        run(strip.arg(stage.join("bin").join(name)).arg(programs.path(name)))?;
        run(Command::new(programs.path(name)).arg("generate").arg(stage))?;
    }
    let pages = fs::read_dir(stage.join("man")).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let pages = pages.attempt(|| "list the manual pages".to_owned())?;
    run(Command::new("gzip").args(["-9", "-n"]).args(pages.iter().map(fs::DirEntry::path)))?;
    // Each shell has a directory of its own, and names of its own in it.
    let completions = stage.join("completions");
    for name in PROGRAMS {
        for (shell, generated, installed) in [
            ("bash", format!("{name}.bash"), name.to_owned()),
            ("zsh", format!("_{name}"), format!("_{name}")),
            ("fish", format!("{name}.fish"), format!("{name}.fish")),
        ] {
            make_directory(&completions.join(shell))?;
            let (from, to) = (completions.join(generated), completions.join(shell).join(installed));
            fs::rename(&from, &to).attempt(|| format!("move {}", from.display()))?;
        }
    }
    Ok(())
}

fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).attempt(|| format!("make {}", directory.display()))
}

/// cargo-deb as cargo installed it for its user, or for us below the target directory, once.
fn cargo_deb(target: &Path) -> Result<PathBuf> {
    let ours = target.join("tools/bin/cargo-deb");
    if ours.exists() {
        return Ok(ours);
    }
    eprintln!("  building cargo-deb {CARGO_DEB_VERSION}");
    let mut install = binaries::cargo();
    install.args(["install", "cargo-deb", "--version", CARGO_DEB_VERSION, "--locked", "--quiet", "--root"]);
    run(install.arg(target.join("tools")))?;
    if ours.exists() {
        Ok(ours)
    } else {
        Err(Error::Expectation("cargo install brought no cargo-deb".to_owned()))
    }
}
