//! The benchmarks; `cargo xtask bench` builds it and what it needs with optimisation, and runs it.

#![forbid(unsafe_code)]

use netd_tests::bench::report::Console;
use netd_tests::bench::{Benchmark, FETCH_ROUNDS};
use netd_tests::vm::Twin;
use std::process::ExitCode;

const USAGE: &str = "usage: netd-bench flows|driver|ring|policy|connections|memory|descriptor|machine-gce|machine-viommu|\
    fetch-gce[/PART[/ROUNDS]]|fetch-viommu[/PART[/ROUNDS]] [--json FILE|-]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, json) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => (name, None),
        [name, "--json", target] => (name, Some(target.to_owned())),
        _ => ("", None),
    };
    // A whole one, or one part in so many; as often as usual, or so often.
    let mut parts = name.split('/');
    let name = parts.next().unwrap_or_default();
    let mut number = |usual: u32| match parts.next() {
        None => Some(usual),
        Some(text) => text.parse().ok().filter(|number| *number > 0),
    };
    let (Some(part), Some(rounds), None) = (number(1), number(FETCH_ROUNDS), parts.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let benchmark = match name {
        "flows" => Benchmark::Flows,
        "driver" => Benchmark::Driver,
        "ring" => Benchmark::Ring,
        "policy" => Benchmark::Policy,
        "connections" => Benchmark::Connections,
        "memory" => Benchmark::Memory,
        "descriptor" => Benchmark::Descriptor,
        "machine-gce" => Benchmark::Machine(Twin::Gce),
        "machine-viommu" => Benchmark::Machine(Twin::Viommu),
        "fetch-gce" => Benchmark::Fetch(Twin::Gce, part, rounds),
        "fetch-viommu" => Benchmark::Fetch(Twin::Viommu, part, rounds),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match benchmark.run(&Console::new(json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
