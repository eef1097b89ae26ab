//! Load for benchmarks, through the kernel's sockets or through netd's, and the servers on the other side. Prints JSON.

#![forbid(unsafe_code)]

use netd_ipc::Client;
use netd_tests::bench::load::{self, Network};
use netd_tests::{Error, Result};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

const USAGE: &str = "usage: netd-load kernel|netd COMMAND, or netd-load serve PORT
  send ADDRESS:PORT SECONDS                   bits per second to a server that discards
  receive ADDRESS:PORT SECONDS                bits per second from a server that sends without end
  round-trips ADDRESS:PORT COUNT              of one byte, in microseconds: p50, p99, p999
  connections ADDRESS:PORT SECONDS THREADS    set up and closed in order, per second
  fetch URL COUNT                             one after the other, by netd-services; the bytes of all (netd alone)
  serve PORT                                  echo on PORT, discard on PORT + 1, a source on PORT + 2";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("netd-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<Value> {
    match arguments {
        ["serve", port] => load::serve(number(port)?).map(|()| Value::Null),
        ["kernel", command @ ..] => measure(&Network::Kernel, command),
        ["netd", "fetch", url, count] => load::fetch(url, number(count)?).map(|bytes| json!(bytes)),
        ["netd", command @ ..] => {
            let client = Client::connect_default();
            measure(&Network::Netd(client.map_err(|error| Error::Expectation(error.to_string()))?), command)
        }
        _ => Err(Error::Expectation(USAGE.to_owned())),
    }
}

fn measure(network: &Network, command: &[&str]) -> Result<Value> {
    match command {
        ["send", to, seconds] => load::send(network, number(to)?, duration(seconds)?).map(|rate| json!(rate)),
        ["receive", from, seconds] => {
            load::receive(network, number(from)?, duration(seconds)?).map(|rate| json!(rate))
        }
        ["round-trips", to, count] => {
            load::round_trips(network, number(to)?, number(count)?).map(|times| json!(times))
        }
        ["connections", to, seconds, threads] => {
            load::connections(network, number(to)?, duration(seconds)?, number(threads)?)
                .map(|rate| json!(rate))
        }
        _ => Err(Error::Expectation(USAGE.to_owned())),
    }
}

fn number<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::Expectation(format!("{text:?}: {error}\n{USAGE}")))
}

fn duration(text: &str) -> Result<Duration> {
    number(text).map(Duration::from_secs)
}
