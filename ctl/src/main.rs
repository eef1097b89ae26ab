//! netctl: looks at netd, and uses its sockets from a shell.

#![forbid(unsafe_code)]

mod audit;
mod bus;
mod capture;
mod cli;
mod doctor;
mod error;
mod fetch;
mod filter;
mod frames;
mod names;
mod observe;
mod operate;
mod output;
mod ping;
mod pipe;
mod policy;
mod published;
mod selftest;
mod stream;
mod takeover;
mod traceroute;
mod trust;
mod udp;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use netd_ipc::Client;
use netd_manual::Section;

use crate::cli::{Cli, Command, Frames, Udp};
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
    let connect = || -> Result<Client, Error> {
        Ok(match &cli.socket {
            Some(path) => Client::connect(path),
            None => Client::connect_default(),
        }?)
    };
    match cli.command {
        // Some of these need no daemon.
        Command::Audit { command } => audit::run(connect, output, &command),
        Command::Policy { command } => policy::run(connect, output, &command),
        Command::Doctor(arguments) => doctor::run(output, &arguments),
        Command::Takeover(arguments) => takeover::takeover(output, &arguments),
        Command::Confirm(arguments) => takeover::confirm(output, &arguments),
        Command::Release(arguments) => takeover::release(output, &arguments),
        Command::Generate { directory } => {
            let written = netd_manual::write(&Cli::command(), Section::User, &directory);
            written.map_err(|source| Error::File { path: directory, source })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Guard(arguments) => takeover::guard(&arguments),
        Command::Fetch(arguments) => fetch::run(output, &arguments),
        Command::Status => observe::status(&connect()?, output),
        Command::Device { command: None } => observe::device(&connect()?, output),
        Command::Device { command: Some(cli::Device::Offload { name, state }) } => {
            operate::offload(&connect()?, output, &name, state == cli::Switch::On)
        }
        Command::Interfaces => observe::interfaces(&connect()?, output),
        Command::Sockets(arguments) => observe::sockets(&connect()?, output, &arguments),
        Command::Neighbors => operate::neighbors(&connect()?, output),
        Command::Routes => operate::routes(&connect()?, output),
        Command::Dhcp => operate::dhcp(&connect()?, output),
        Command::Stats(arguments) => operate::stats(&connect()?, output, &arguments),
        Command::Clients => operate::clients(&connect()?, output),
        Command::Poll(arguments) => operate::poll(&connect()?, output, &arguments),
        Command::Log(arguments) => operate::log(&connect()?, output, &arguments),
        Command::Resolve(arguments) => names::resolve(&connect()?, output, &arguments),
        Command::Traceroute(arguments) => traceroute::run(&connect()?, output, &arguments),
        Command::Frames { command: Frames::Send(arguments) } => frames::send(&connect()?, output, &arguments),
        Command::Frames { command: Frames::Recv(arguments) } => {
            frames::receive_all(&connect()?, output, &arguments)
        }
        Command::Udp { command: Udp::Send(arguments) } => udp::send(&connect()?, output, &arguments),
        Command::Udp { command: Udp::Recv(arguments) } => udp::receive_all(&connect()?, output, &arguments),
        Command::Capture(arguments) => capture::run(&connect()?, output, &arguments),
        Command::Ping(arguments) => ping::run(&connect()?, output, &arguments),
        Command::Connect(arguments) => stream::connect(&connect()?, output, &arguments),
        Command::Listen(arguments) => stream::listen(&connect()?, output, &arguments),
        Command::Bus(arguments) => bus::run(output, &arguments),
        Command::Published(arguments) => published::run(output, &arguments),
        Command::Trust(arguments) => trust::run(output, &arguments),
        Command::Selftest(arguments) => selftest::run(&connect()?, output, &arguments),
    }
}
