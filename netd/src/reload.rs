//! SIGHUP: reads the configuration again and puts it in force, all of it or nothing.
//!
//! Grants, the devnet switch, the limits, addresses, routes and resolvers can change while the daemon runs. The rest of the file
//! needs a restart, and whoever changed it is told so. The hosts file is looked at by itself, every few seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::audit::Audit;
use crate::config::{Config, read_hosts};
use crate::rules::{Rules, Settings};

/// What a reload needs to know.
#[derive(Debug)]
pub struct Reload {
    path: PathBuf,
    started_with: Config,
    /// What the worker was given last.
    settings: Settings,
    hosts_seen: Option<Stamp>,
    rules: Arc<Rules>,
    audit: Arc<Audit>,
}

/// What changes with a file: another file of the name, another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino() })
    }
}

impl Reload {
    /// For the daemon that was started with this configuration, from this file.
    pub fn new(path: PathBuf, started_with: Config, rules: Arc<Rules>, audit: Arc<Audit>) -> Reload {
        let settings = started_with.settings();
        let hosts_seen = Stamp::of(&settings.dns.hosts_path);
        Reload { path, started_with, settings, hosts_seen, rules, audit }
    }

    /// Reads the file. If anything is wrong with it, what is in force stays as it is, and the log says why.
    pub fn reload(&mut self) {
        let path = self.path.display();
        let config = match Config::load(&self.path) {
            Ok(config) => config,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                return tracing::error!(%error, cause, "not reloaded: the old configuration stays in force");
            }
        };
        let waiting = self.started_with.needs_restart(&config);
        let in_force = self.rules.current();
        self.audit.changed(&in_force.policy, &config.policy);
        let (before, after) = (in_force.policy.devnet_enabled(), config.policy.devnet_enabled());
        let settings = config.settings();
        self.rules.replace(config.policy, config.limits);
        tracing::info!(%path, devnet_enabled = after, "grants, devnet switch and limits reloaded");
        if before != after {
            tracing::warn!(
                devnet_enabled = after,
                "the devnet switch was turned {}",
                if after { "on" } else { "off" }
            );
        }
        self.hosts_seen = Stamp::of(&settings.dns.hosts_path);
        if settings != self.settings {
            tracing::info!("addresses, routes or names changed and are put in force");
            self.settings = settings;
            self.rules.post(self.settings.clone());
        }
        if !waiting.is_empty() {
            tracing::warn!(tables = waiting.join(", "), "these changed as well, and need a restart");
        }
    }

    /// Reads the hosts file if it is another one than before. Returns whether it said something else.
    pub fn look_at_hosts(&mut self) -> bool {
        let stamp = Stamp::of(&self.settings.dns.hosts_path);
        if stamp == self.hosts_seen {
            return false;
        }
        self.hosts_seen = stamp;
        let hosts = read_hosts(&self.settings.dns.hosts_path);
        if hosts == self.settings.dns.hosts {
            return false;
        }
        tracing::info!(file = %self.settings.dns.hosts_path.display(), "the hosts file changed and was read again");
        self.settings.dns.hosts = hosts;
        self.rules.post(self.settings.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "[device]\nkind = \"vfio\"\nfunction = \"0000:00:03.0\"\n";

    fn reload_of(text: &str) -> (Reload, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let rules = Arc::new(Rules::new(config.policy.clone(), config.limits));
        (Reload::new(path, config, rules, Arc::default()), directory)
    }

    #[test]
    fn reload_of_a_good_file_changes_everything_at_once() {
        let (mut reload, _directory) = reload_of(DEVICE);
        let text = format!("[network.devnet]\nenabled = true\n[limits]\nsockets = 7\n{DEVICE}");
        std::fs::write(&reload.path, text).unwrap();
        reload.reload();
        let rules = reload.rules.current();
        assert!(rules.policy.devnet_enabled());
        assert_eq!((rules.limits.sockets, reload.rules.generation()), (7, 1));
    }

    #[test]
    fn reload_of_a_bad_file_changes_nothing() {
        let (mut reload, _directory) = reload_of(DEVICE);
        std::fs::write(
            &reload.path,
            format!("[network.devnet]\nenabled = true\n[limits]\nsockets = 0\n{DEVICE}"),
        )
        .unwrap();
        reload.reload();
        assert!(!reload.rules.current().policy.devnet_enabled());
        assert_eq!(reload.rules.generation(), 0);
    }

    #[test]
    fn needs_restart_names_the_tables_that_changed() {
        let (reload, _directory) = reload_of(DEVICE);
        let other = DEVICE.replace("03.0", "04.0") + "[tcp]\nconnections = 9\n[address]\nhostname = \"a\"\n";
        std::fs::write(&reload.path, other).unwrap();
        let config = Config::load(&reload.path).unwrap();
        assert_eq!(reload.started_with.needs_restart(&config), ["[device]", "[stack] and [tcp]"]);
        assert!(reload.started_with.needs_restart(&reload.started_with).is_empty());
    }

    #[test]
    fn reload_of_other_addresses_is_posted_to_the_worker_once() {
        let (mut reload, _directory) = reload_of(DEVICE);
        std::fs::write(&reload.path, format!("{DEVICE}[address]\nadditional = [\"10.0.0.9/24\"]\n")).unwrap();
        reload.reload();
        assert_eq!(reload.rules.take_posted().unwrap().network.additional.len(), 1);
        reload.reload();
        assert_eq!(reload.rules.take_posted(), None);
    }

    #[test]
    fn hosts_file_that_changed_is_posted_and_one_that_is_only_touched_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        std::fs::write(&hosts, "192.0.2.1 one\n").unwrap();
        let (mut reload, _directory) = reload_of(&format!("{DEVICE}[dns]\nhosts = {hosts:?}\n"));
        assert!(!reload.look_at_hosts());
        std::fs::write(&hosts, "192.0.2.1 one\n192.0.2.2 two\n").unwrap();
        assert!(reload.look_at_hosts());
        assert_ne!(reload.rules.take_posted().unwrap().dns.hosts, reload.started_with.dns.hosts);
        std::fs::write(&hosts, "192.0.2.1 one\n192.0.2.2 two\n# nothing new\n").unwrap();
        assert!(!reload.look_at_hosts());
        assert_eq!(reload.rules.take_posted(), None);
        std::fs::remove_file(&hosts).unwrap();
        assert!(reload.look_at_hosts());
    }
}
