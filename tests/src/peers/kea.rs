//! Kea, ISC's DHCP servers.

use super::{outside_apparmor, temporary_directory};
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// kea-dhcp4 or kea-dhcp6, with leases that are forgotten with it.
#[derive(Debug)]
pub struct Kea {
    process: Background,
    _directory: TempDir,
}

impl Kea {
    /// kea-dhcp4 on `interface`, with further keys of its `Dhcp4`.
    pub fn dhcp4(namespace: &Namespace, interface: &str, keys: Value) -> Result<Kea> {
        Kea::start(namespace, "kea-dhcp4", "Dhcp4", interface, keys)
    }

    /// kea-dhcp6 on `interface`, with further keys of its `Dhcp6`.
    pub fn dhcp6(namespace: &Namespace, interface: &str, keys: Value) -> Result<Kea> {
        Kea::start(namespace, "kea-dhcp6", "Dhcp6", interface, keys)
    }

    fn start(
        namespace: &Namespace,
        program: &str,
        section: &str,
        interface: &str,
        mut keys: Value,
    ) -> Result<Kea> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let path = directory.path();
        keys["interfaces-config"] = json!({ "interfaces": [interface] });
        keys["lease-database"] = json!({ "type": "memfile", "persist": false });
        let log = json!([{ "output": "stdout", "flush": true }]);
        keys["loggers"] =
            json!([{ "name": program, "severity": "DEBUG", "debuglevel": 55, "output_options": log }]);
        if section == "Dhcp6" {
            // Its DUID is kept there.
            keys["data-directory"] = json!(path);
        }
        let file = path.join("kea.json");
        fs::write(&file, json!({ section: keys }).to_string()).attempt(|| "write kea.json".to_owned())?;
        let program = outside_apparmor(&format!("/usr/sbin/{program}"), path)?;
        let mut command = namespace.command(&program.to_string_lossy());
        command.arg("-c").arg(&file);
        command.env("KEA_LOCKFILE_DIR", path).env("KEA_PIDFILE_DIR", path);
        let mut process = Background::spawn(&mut command, &path.join("kea.log"))?;
        process.wait_until_ready(READY_LIMIT, |log| {
            Ok(log.contains("DHCP4_STARTED") || log.contains("DHCP6_STARTED"))
        })?;
        Ok(Kea { process, _directory: directory })
    }

    /// Its log: every exchange, by the names of its messages.
    pub fn log(&self) -> String {
        self.process.output()
    }
}
