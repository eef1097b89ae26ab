//! avahi, which answers for `.local` names by multicast DNS.

use super::temporary_directory;
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT};
use std::fs;
use tempfile::TempDir;

/// avahi-daemon on one interface, without D-Bus.
#[derive(Debug)]
pub struct Avahi {
    _process: Background,
    _directory: TempDir,
}

impl Avahi {
    /// Starts it for `NAME.local`; ready when it knows that the name is its own.
    pub fn start(namespace: &Namespace, interface: &str, name: &str) -> Result<Avahi> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let file = directory.path().join("avahi.conf");
        let text = format!(
            "[server]\nhost-name={name}\nallow-interfaces={interface}\nenable-dbus=no\nuse-ipv4=yes\nuse-ipv6=yes\n\
             [wide-area]\nenable-wide-area=no\n[publish]\npublish-workstation=no\npublish-hinfo=no\n"
        );
        fs::write(&file, text).attempt(|| format!("write {}", file.display()))?;
        // Its pid file has one place on a machine. `ip netns exec` has given us mounts of our own.
        let script = format!(
            "mount -t tmpfs tmpfs /run && exec avahi-daemon --file {} --no-drop-root --no-chroot --no-rlimits",
            file.display()
        );
        let mut command = namespace.command("sh");
        command.args(["-ec", &script]);
        let mut process = Background::spawn(&mut command, &directory.path().join("avahi.log"))?;
        let ready = format!("Host name is {name}.local");
        process.wait_until_ready(READY_LIMIT, |log| Ok(log.contains(&ready)))?;
        Ok(Avahi { _process: process, _directory: directory })
    }
}
