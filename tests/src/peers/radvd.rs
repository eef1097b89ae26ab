//! radvd, which advertises an IPv6 router.

use super::temporary_directory;
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::Background;
use std::fs;
use tempfile::TempDir;

/// radvd on one interface. When it is dropped, it tells the hosts that it is no router any more.
#[derive(Debug)]
pub struct Radvd {
    _process: Background,
    _directory: TempDir,
}

impl Radvd {
    /// Starts it with the content of its `interface` block.
    pub fn start(namespace: &Namespace, interface: &str, block: &str) -> Result<Radvd> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let path = |name: &str| directory.path().join(name);
        // The shortest interval there is (RFC 4861, 6.2.1), lest scenarios wait for changes.
        let text = format!(
            "interface {interface} {{\n AdvSendAdvert on;\n MinRtrAdvInterval 3;\n MaxRtrAdvInterval 4;\n{block}\n}};\n"
        );
        fs::write(path("radvd.conf"), text).attempt(|| "write radvd.conf".to_owned())?;
        let mut command = namespace.command("radvd");
        command.args(["--nodaemon", "--logmethod", "stderr", "--debug", "1"]);
        command.arg("--config").arg(path("radvd.conf")).arg("--pidfile").arg(path("radvd.pid"));
        let mut process = Background::spawn(&mut command, &path("radvd.log"))?;
        process.wait_until_ready(crate::process::READY_LIMIT, |log| Ok(log.contains("version")))?;
        Ok(Radvd { _process: process, _directory: directory })
    }
}
