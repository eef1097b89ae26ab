//! SIGHUP: reads the configuration again and puts its rules in force, all of them or none.
//!
//! Grants, the devnet switch and the limits can change while the daemon runs. The rest of the file needs a restart, and
//! whoever changed it is told so.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::rules::Rules;

/// What a reload needs to know.
#[derive(Debug)]
pub struct Reload {
    path: PathBuf,
    started_with: Config,
    rules: Arc<Rules>,
}

impl Reload {
    /// For the daemon that was started with this configuration, from this file.
    pub fn new(path: PathBuf, started_with: Config, rules: Arc<Rules>) -> Reload {
        Reload { path, started_with, rules }
    }

    /// Reads the file. If anything is wrong with it, the rules in force stay as they are, and the log says why.
    pub fn reload(&self) {
        let path = self.path.display();
        let config = match Config::load(&self.path) {
            Ok(config) => config,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                return tracing::error!(%error, cause, "not reloaded: the old configuration stays in force");
            }
        };
        let waiting = self.started_with.needs_restart(&config);
        let (before, after) = (self.rules.current().policy.devnet_enabled(), config.policy.devnet_enabled());
        self.rules.replace(config.policy, config.limits);
        tracing::info!(%path, devnet_enabled = after, "grants, devnet switch and limits reloaded");
        if before != after {
            tracing::warn!(
                devnet_enabled = after,
                "the devnet switch was turned {}",
                if after { "on" } else { "off" }
            );
        }
        if !waiting.is_empty() {
            tracing::warn!(tables = waiting.join(", "), "these changed as well, and need a restart");
        }
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
        (Reload::new(path, config, rules), directory)
    }

    #[test]
    fn reload_of_a_good_file_changes_everything_at_once() {
        let (reload, _directory) = reload_of(DEVICE);
        let text = format!("[network.devnet]\nenabled = true\n[limits]\nsockets = 7\n{DEVICE}");
        std::fs::write(&reload.path, text).unwrap();
        reload.reload();
        let rules = reload.rules.current();
        assert!(rules.policy.devnet_enabled());
        assert_eq!((rules.limits.sockets, reload.rules.generation()), (7, 1));
    }

    #[test]
    fn reload_of_a_bad_file_changes_nothing() {
        let (reload, _directory) = reload_of(DEVICE);
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
        let other = DEVICE.replace("03.0", "04.0") + "[address]\nmode = \"dhcp\"\nhostname = \"a\"\n";
        std::fs::write(&reload.path, other).unwrap();
        let config = Config::load(&reload.path).unwrap();
        assert_eq!(reload.started_with.needs_restart(&config), ["[device]", "[address]"]);
        assert!(reload.started_with.needs_restart(&reload.started_with).is_empty());
    }
}
