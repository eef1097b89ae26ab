//! unbound, as the authority for some zones.

use super::{outside_apparmor, temporary_directory};
use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::Background;
use std::fmt::Write as _;
use std::fs;
use tempfile::TempDir;

/// unbound on some addresses of a namespace.
#[derive(Debug)]
pub struct Unbound {
    process: Background,
    _directory: TempDir,
}

impl Unbound {
    /// Starts it with zones, each a name and its records in the form of zone files; ready when the first address answers over TCP.
    pub fn start(namespace: &Namespace, addresses: &[&str], zones: &[(&str, &str)]) -> Result<Unbound> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let root = directory.path();
        let mut text = format!(
            "server:\n do-daemonize: no\n chroot: \"\"\n username: \"\"\n directory: \"{0}\"\n pidfile: \"{0}/pid\"\n \
             use-syslog: no\n logfile: \"\"\n log-queries: yes\n module-config: \"iterator\"\n \
             access-control: 0.0.0.0/0 allow\n access-control: ::/0 allow\n \
             local-zone: \"10.in-addr.arpa.\" nodefault\n",
            root.display()
        );
        for address in addresses {
            // A String takes everything.
            let _ = writeln!(text, " interface: {address}");
        }
        text.push_str("remote-control:\n control-enable: no\n");
        for (number, (name, records)) in zones.iter().enumerate() {
            let file = root.join(format!("zone-{number}"));
            let soa = "@ 60 IN SOA ns.netd.example. admin.netd.example. 1 3600 600 86400 60\n@ 60 IN NS ns.netd.example.\n";
            fs::write(&file, format!("$ORIGIN {name}\n{soa}{records}"))
                .attempt(|| format!("write {}", file.display()))?;
            let _ = writeln!(
                text,
                "auth-zone:\n name: \"{name}\"\n zonefile: \"{}\"\n for-downstream: yes\n for-upstream: no",
                file.display()
            );
        }
        let file = root.join("unbound.conf");
        fs::write(&file, text).attempt(|| format!("write {}", file.display()))?;
        let program = outside_apparmor("/usr/sbin/unbound", root)?;
        let mut command = namespace.command(&program.to_string_lossy());
        command.arg("-d").arg("-c").arg(&file);
        let mut process = Background::spawn(&mut command, &root.join("unbound.log"))?;
        namespace.wait_for_tcp(&mut process, addresses.first().copied().unwrap_or("127.0.0.1"), 53)?;
        Ok(Unbound { process, _directory: directory })
    }

    /// How often it was asked something, as `NAME. TYPE` in the spelling that arrived, letters of either case.
    pub fn questions(&self, question: &str) -> usize {
        let question = question.to_ascii_lowercase();
        let log = self.process.output().to_ascii_lowercase();
        log.lines().filter(|line| line.contains(&format!(" {question} in"))).count()
    }
}
