//! netctl: looks at netd, and uses its sockets from a shell.

#![forbid(unsafe_code)]

mod capture;
mod cli;
mod error;
mod filter;
mod names;
mod observe;
mod operate;
mod output;
mod ping;
mod pipe;
mod selftest;
mod stream;
mod traceroute;
mod udp;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Udp};
use crate::error::Error;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match run(cli, &output) {
        Ok(code) => code,
        // Whoever read the output has read enough, as in `netctl sockets | head -1`.
        Err(Error::Output(source)) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<ExitCode, Error> {
    let client = match cli.socket {
        Some(path) => netd_ipc::Client::connect(path),
        None => netd_ipc::Client::connect_default(),
    }?;
    match cli.command {
        Command::Status => observe::status(&client, output),
        Command::Device => observe::device(&client, output),
        Command::Interfaces => observe::interfaces(&client, output),
        Command::Sockets(arguments) => observe::sockets(&client, output, &arguments),
        Command::Neighbors => operate::neighbors(&client, output),
        Command::Routes => operate::routes(&client, output),
        Command::Dhcp => operate::dhcp(&client, output),
        Command::Stats(arguments) => operate::stats(&client, output, &arguments),
        Command::Clients => operate::clients(&client, output),
        Command::Log(arguments) => operate::log(&client, output, &arguments),
        Command::Resolve(arguments) => names::resolve(&client, output, &arguments),
        Command::Traceroute(arguments) => traceroute::run(&client, output, &arguments),
        Command::Udp { command: Udp::Send(arguments) } => udp::send(&client, output, &arguments),
        Command::Udp { command: Udp::Recv(arguments) } => udp::receive_all(&client, output, &arguments),
        Command::Capture(arguments) => capture::run(&client, output, &arguments),
        Command::Ping(arguments) => ping::run(&client, output, &arguments),
        Command::Connect(arguments) => stream::connect(&client, output, &arguments),
        Command::Listen(arguments) => stream::listen(&client, output, &arguments),
        Command::Selftest(arguments) => selftest::run(&client, output, &arguments),
    }
}
