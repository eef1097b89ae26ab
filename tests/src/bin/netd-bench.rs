//! The benchmarks; `cargo xtask bench` builds it and what it needs with optimisation, and runs it.

#![forbid(unsafe_code)]

use netd_tests::bench::Benchmark;
use netd_tests::bench::report::Console;
use netd_tests::vm::Twin;
use std::process::ExitCode;

const USAGE: &str = "usage: netd-bench flows|driver|ring|policy|connections|memory|descriptor|machine-gce|machine-viommu|\
    fetch-gce[/PART]|fetch-viommu[/PART] [--json FILE|-]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, json) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => (name, None),
        [name, "--json", target] => (name, Some(target.to_owned())),
        _ => ("", None),
    };
    // A whole one, or one part in so many.
    let (name, part) = name.split_once('/').unwrap_or((name, "1"));
    let Some(part) = part.parse().ok().filter(|part| *part > 0) else {
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
        "fetch-gce" => Benchmark::Fetch(Twin::Gce, part),
        "fetch-viommu" => Benchmark::Fetch(Twin::Viommu, part),
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
