//! `netd`: the command line of the daemon.

#![forbid(unsafe_code)]

mod function;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use netd::config::{self, Config};
use netd::daemon;
use netd::log::{Format, LogLevel};
use netd_manual::Section;
use tikv_jemallocator::Jemalloc;

/// Keeps its books apart from what it hands out, and takes zeroed pages from the system instead of writing zeros: a connection's
/// buffers (64 KiB each way) take no memory until they are used. What is freed goes back to the system (.cargo/config.toml).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Network sockets for local programs, over a network function that the kernel does not have.
///
/// netd takes a virtio-net PCI function through VFIO (or a software device), runs a TCP/IP stack on it in user space, and
/// hands sockets to local programs over a Unix socket: each only what the configuration grants.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log: error, warn, info, debug, trace, or a filter such as `netd=debug`. NETD_LOG does the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// How to write the log to standard error.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon, in the foreground, until SIGTERM.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = config::PATH_DEFAULT)]
        config: PathBuf,
    },
    /// Check a configuration without running it.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = config::PATH_DEFAULT)]
        config: PathBuf,
    },
    /// Find network functions, take one from the kernel, give it back.
    Function {
        #[command(subcommand)]
        command: function::Command,
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
    let log = match start_log(log, log_format) {
        Ok(log) => log,
        Err(message) => return fail(&message),
    };
    let done = match command {
        Command::Run { config } => {
            load(&config).and_then(|read| daemon::run(read, &config, log).map_err(|error| chain(&error)))
        }
        Command::Check { config } => load(&config).map(|_| println!("{}: fine", config.display())),
        Command::Function { command } => function::run(&command).map_err(|error| chain(&error)),
        Command::Generate { directory } => {
            netd_manual::write(&Arguments::command().name("netd"), Section::System, &directory)
                .map_err(|error| chain(&error))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn load(path: &Path) -> Result<Config, String> {
    Config::load(path).map_err(|error| chain(&error))
}

fn start_log(filter: Option<String>, format: LogFormat) -> Result<LogLevel, String> {
    let filter = filter.or_else(|| std::env::var("NETD_LOG").ok()).unwrap_or_else(|| "info".to_owned());
    let format = match format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    LogLevel::start(&filter, format)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("netd: {message}");
    ExitCode::FAILURE
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    message
}
