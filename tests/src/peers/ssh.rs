//! OpenSSH: a key, a client that has it, and a server that accepts it.

use super::{temporary_directory, wait_for_listener};
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, run};
use std::fs;
use std::process::Command;
use tempfile::TempDir;

/// A client's key.
#[derive(Debug)]
pub struct SshKey {
    directory: TempDir,
}

impl SshKey {
    /// Makes one.
    pub fn new() -> Result<SshKey> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(directory.path().join("key")))?;
        Ok(SshKey { directory })
    }

    /// A line of `authorized_keys`.
    pub fn public(&self) -> Result<String> {
        let path = self.directory.path().join("key.pub");
        fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))
    }

    /// `ssh` to root at an address, from a namespace; what is to be run there follows.
    pub fn client(&self, namespace: &Namespace, address: &str, port: u16) -> Command {
        let mut command = namespace.command("ssh");
        command.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        // tshark, which reads along, takes the key of OpenSSH's own choice for one that is too long.
        command.args([
            "-o",
            "KexAlgorithms=curve25519-sha256",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-i",
        ]);
        command.arg(self.directory.path().join("key")).args(["-p", &port.to_string()]);
        command.arg(format!("root@{address}"));
        command
    }
}

/// sshd in a namespace.
#[derive(Debug)]
pub struct Sshd {
    _process: Background,
    _directory: TempDir,
}

impl Sshd {
    /// Starts it at one address; ready when it listens. Who has the key is root.
    pub fn start(namespace: &Namespace, address: &str, port: u16, key: &SshKey) -> Result<Sshd> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let path = |name: &str| directory.path().join(name);
        let write =
            |name: &str, text: &str| fs::write(path(name), text).attempt(|| format!("write sshd's {name}"));
        // Where every sshd of Debian's keeps whom it does not trust yet; its unit makes it.
        fs::create_dir_all("/run/sshd").attempt(|| "make /run/sshd".to_owned())?;
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path("host")))?;
        write("authorized", &key.public()?)?;
        write(
            "config",
            &format!(
                "ListenAddress {address}:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n",
                path("host").display(),
                path("authorized").display()
            ),
        )?;
        let mut command = namespace.command("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(path("config"));
        let mut process = Background::spawn(&mut command, &path("log"))?;
        wait_for_listener(namespace, &mut process, port)?;
        Ok(Sshd { _process: process, _directory: directory })
    }
}
