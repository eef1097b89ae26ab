//! The workspace's own programs: built with the caller's target directory, found there, and made fit for a guest.

use crate::error::{Attempt, Error, Result};
use crate::process::run;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages whose programs tests and demo use.
const PACKAGES: [&str; 4] = ["netd", "netd-services", "netctl", "netd-tests"];

/// Names a directory with programs built elsewhere, to be tested instead of building.
pub const PREBUILT: &str = "NETD_BINARIES";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The cargo that runs us, or the one in PATH.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace());
    command
}

/// Cargo's target directory, `CARGO_TARGET_DIR` honoured.
pub fn target_directory() -> Result<PathBuf> {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(directory) = DIRECTORY.get() {
        return Ok(directory.clone());
    }
    let metadata = run(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).attempt(|| "understand cargo metadata".to_owned())?;
    let directory = metadata["target_directory"].as_str().unwrap_or("target");
    Ok(DIRECTORY.get_or_init(|| workspace().join(directory)).clone())
}

/// Built programs, by name.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Builds all programs (once in the life of this process) and says where they are; `NETD_BINARIES` names programs that
    /// were built elsewhere.
    pub fn build() -> Result<Binaries> {
        static BUILT: OnceLock<Binaries> = OnceLock::new();
        if let Some(built) = BUILT.get() {
            return Ok(built.clone());
        }
        if let Some(directory) = std::env::var_os(PREBUILT) {
            return Ok(Binaries { directory: PathBuf::from(directory) });
        }
        let mut build = cargo();
        build.args(["build", "--bins", "--quiet"]);
        for package in PACKAGES {
            build.args(["--package", package]);
        }
        run(&mut build)?;
        let built = Binaries { directory: target_directory()?.join("debug") };
        Ok(BUILT.get_or_init(|| built).clone())
    }

    /// Those of a directory.
    pub fn in_directory(directory: PathBuf) -> Binaries {
        Binaries { directory }
    }

    /// The path of a program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Copies programs to a directory that any user may enter (the target directory may lie in a private home).
    pub fn copy_to(&self, directory: &Path, names: &[&str]) -> Result<()> {
        for name in names {
            let target = directory.join(name);
            fs::copy(self.path(name), &target).attempt(|| format!("copy {name} to {}", target.display()))?;
        }
        Ok(())
    }
}

/// A program's content without its debug sections: those are nine tenths of it, and the guest's memory holds it all.
pub(crate) fn stripped(program: &Path) -> Result<Vec<u8>> {
    let scratch = tempfile::NamedTempFile::new().attempt(|| "make a temporary file".to_owned())?;
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(scratch.path()).arg(program))?;
    fs::read(scratch.path()).attempt(|| format!("read the stripped {}", program.display()))
}

/// The shared libraries that a program is linked with, the loader included, by ldd.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = run(Command::new("ldd").arg(program))?;
    let mut libraries = Vec::new();
    for line in listing.lines() {
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)", "linux-vdso.so.1 (0x…)"
        if line.contains("not found") {
            return Err(Error::Expectation(format!("{} needs {}", program.display(), line.trim())));
        }
        let location = line.split("=>").last().unwrap_or(line).trim();
        if let Some(path) = location.split_whitespace().next().filter(|path| path.starts_with('/')) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}
