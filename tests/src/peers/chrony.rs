//! chrony, as a time server that sets no clock.

use super::{outside_apparmor, temporary_directory};
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT, run};
use std::fs;
use tempfile::TempDir;

/// chronyd with the machine's own clock, which it calls synchronised, and does not touch.
#[derive(Debug)]
pub struct Chrony {
    _process: Background,
    _directory: TempDir,
}

impl Chrony {
    /// Starts it on an address of a namespace; ready when the kernel lists its port.
    pub fn start(namespace: &Namespace, address: &str) -> Result<Chrony> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let root = directory.path();
        let text = format!(
            "local stratum 3\nallow all\nbindaddress {address}\nport 123\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
            root.join("pid").display()
        );
        let file = root.join("chrony.conf");
        fs::write(&file, text).attempt(|| format!("write {}", file.display()))?;
        let program = outside_apparmor("/usr/sbin/chronyd", root)?;
        let mut command = namespace.command(&program.to_string_lossy());
        command.args(["-d", "-x", "-u", "root", "-f"]).arg(&file);
        let mut process = Background::spawn(&mut command, &root.join("chrony.log"))?;
        process.wait_until_ready(READY_LIMIT, |_| {
            let listing = run(namespace.command("ss").args(["-Hlun", "sport = :123"]))?;
            Ok(!listing.trim().is_empty())
        })?;
        Ok(Chrony { _process: process, _directory: directory })
    }
}
