//! The log: where it goes, and its filter, which can be changed while the daemon runs.

use std::fmt;
use std::sync::Mutex;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as format, reload};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Changes the filter of a running log.
pub struct LogLevel {
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    /// As it was given; the filter's own text differs.
    current: Mutex<String>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel").field("current", &self.current).finish_non_exhaustive()
    }
}

impl LogLevel {
    /// Starts the log, on standard error.
    ///
    /// # Errors
    /// `filter` is none.
    pub fn start(filter: &str, format: Format) -> Result<LogLevel, String> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        let lines = format::layer().with_writer(std::io::stderr);
        let lines = match format {
            Format::Text => lines.with_ansi(false).boxed(),
            Format::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry().with(layer).with(lines).init();
        Ok(LogLevel { filter: Some(handle), current: Mutex::new(filter.to_owned()) })
    }

    /// No log that could be changed: for tests.
    pub fn none() -> LogLevel {
        LogLevel { filter: None, current: Mutex::new(String::new()) }
    }

    /// Puts another filter in force; returns the one before.
    ///
    /// # Errors
    /// It is none, and the one before stays.
    pub fn set(&self, filter: &str) -> Result<String, String> {
        let parsed = parse(filter)?;
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(handle) = &self.filter {
            handle.reload(parsed).map_err(|error| format!("the log does not take a filter: {error}"))?;
        }
        Ok(std::mem::replace(&mut *current, filter.to_owned()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // The library takes any word for the name of a target, and would log nothing for a mistyped level.
    let known = ["error", "warn", "info", "debug", "trace", "off"];
    let bare = filter.split(',').find(|part| {
        let part = part.trim();
        !part.contains('=') && !part.contains('[') && !known.contains(&part.to_ascii_lowercase().as_str())
    });
    if let Some(bare) = bare {
        return Err(format!(
            "'{bare}' is no level: expected error, warn, info, debug, trace or off, or a target with one, such as netd=debug"
        ));
    }
    EnvFilter::try_new(filter).map_err(|error| format!("'{filter}' is not a log filter: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_to_nonsense_is_refused_and_changes_nothing() {
        let level = LogLevel::none();
        assert_eq!(level.set("info"), Ok(String::new()));
        for wrong in ["inof", "netd=loud", ""] {
            assert!(level.set(wrong).is_err(), "{wrong}");
        }
        assert_eq!(level.set("netd=debug,warn"), Ok("info".to_owned()));
    }
}
