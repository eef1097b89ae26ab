//! The benchmarks that run in one process; `cargo xtask bench` builds it with optimisation and runs it.

#![forbid(unsafe_code)]

use netd_tests::bench::{driver, flows};
use std::process::ExitCode;

/// Established connections.
const FLOWS: [usize; 5] = [1, 100, 1_000, 10_000, 100_000];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["flows"] => flow_table(false),
        ["flows", "--json"] => flow_table(true),
        ["driver"] => return report(driver::run(false)),
        ["driver", "--json"] => return report(driver::run(true)),
        _ => {
            eprintln!("usage: netd-bench flows|driver [--json]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn report(result: netd_tests::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn flow_table(json: bool) {
    if !json {
        println!("nanoseconds per one-byte segment with its acknowledgement, and per pass over the timers");
        println!(
            "{:>8} {:>10} {:>10} {:>14} {:>14} {:>8}",
            "flows", "packet", "timers", "one set packet", "one set timers", "ratio"
        );
    }
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let rows = flows::run(&FLOWS, |row| {
        if !json {
            let ratio = row
                .one_set_packet
                .map_or_else(|| "-".to_owned(), |other| format!("{:.1}", other / row.packet));
            let (packet, timers) = (show(row.one_set_packet), show(row.one_set_timers));
            println!(
                "{:>8} {:>10.0} {:>10.1} {packet:>14} {timers:>14} {ratio:>8}",
                row.flows, row.packet, row.timers
            );
        }
    });
    if json {
        match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("netd-bench: {error}"),
        }
    }
}
