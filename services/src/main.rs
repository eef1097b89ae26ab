//! `netd-services`: the command line of the daemon.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use netd_manual::Section;
use netd_services::config::{self, Config};
use netd_services::daemon;
use tracing_subscriber::EnvFilter;

/// Fetches over HTTP and HTTPS for local programs, on netd's sockets, each only what netd's rules grant it.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log: error, warn, info, debug, trace, or a filter such as `netd_services=debug`. NETD_LOG does the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// How to write the log to standard error.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run, in the foreground, until SIGTERM.
    Run {
        /// The configuration; the default one need not exist.
        #[arg(long, value_name = "FILE", default_value = config::PATH_DEFAULT)]
        config: PathBuf,
    },
    /// Check a configuration without running it.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = config::PATH_DEFAULT)]
        config: PathBuf,
    },
    /// Write manual pages and shell completions, for the package.
    #[command(hide = true)]
    Generate {
        /// Where to.
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let Arguments { command, log, log_format } = Arguments::parse();
    let done = start_log(log, log_format).and_then(|()| match command {
        Command::Run { config } => {
            load(&config).and_then(|config| daemon::run(config).map_err(|error| error.to_string()))
        }
        Command::Check { config } => load(&config).map(|_| println!("{}: fine", config.display())),
        Command::Generate { directory } => {
            netd_manual::write(&Arguments::command().name("netd-services"), Section::System, &directory)
                .map_err(|error| error.to_string())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("netd-services: {message}");
            ExitCode::FAILURE
        }
    }
}

fn load(path: &Path) -> Result<Config, String> {
    Config::load(path).map_err(|error| error.to_string())
}

fn start_log(filter: Option<String>, format: LogFormat) -> Result<(), String> {
    let filter = filter.or_else(|| std::env::var("NETD_LOG").ok()).unwrap_or_else(|| "info".to_owned());
    let filter =
        EnvFilter::try_new(&filter).map_err(|error| format!("'{filter}' is no log filter: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
