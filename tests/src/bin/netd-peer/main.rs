//! Small programs for both sides of the wire, where no common program does the job.

#![forbid(unsafe_code)]

use netd_tests::digest;
use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    match arguments {
        ["generate", bytes, seed] => {
            let sum = digest::generate(number(bytes)?, number(seed)?, io::stdout().lock())?;
            writeln!(io::stderr(), "{sum}")
        }
        ["digest"] => {
            let (bytes, sum) = digest::of_reader(io::stdin().lock())?;
            writeln!(io::stdout(), "{sum} {bytes}")
        }
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: netd-peer generate BYTES SEED | digest"))
        }
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?}: {error}")))
}
