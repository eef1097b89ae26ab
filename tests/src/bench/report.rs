//! How a benchmark tells what it found: a table for people, JSON for programs, and what machine it was.

use crate::error::{Attempt, Result};
use serde::Serialize;
use std::fs;

/// The figures of one benchmark, with what they belong to.
#[derive(Debug, Serialize)]
pub struct Report<T> {
    /// Its name: `cargo xtask bench NAME`.
    pub benchmark: &'static str,
    /// The machine that it ran on.
    pub host: Host,
    /// What was measured; each benchmark describes its own.
    pub results: T,
}

/// A machine, as far as its speed depends on it.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Processes that wanted to run in the minute before: with more than about one, somebody else was at work.
    pub load: f64,
}

impl Host {
    /// This machine, now.
    pub fn here() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = text("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok());
        Host {
            processor: name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.unwrap_or_default(),
        }
    }
}

impl<T> Report<T> {
    /// What `benchmark` found on this machine.
    pub fn new(benchmark: &'static str, results: T) -> Report<T> {
        Report { benchmark, host: Host::here(), results }
    }
}

/// Where a benchmark says what it does and finds.
#[derive(Debug)]
pub struct Console {
    json: Option<String>,
}

impl Console {
    /// With `json`, the report is written there as well: to a file, or to standard output for "-", which then carries nothing else.
    pub fn new(json: Option<String>) -> Console {
        Console { json }
    }

    /// Says what is going on.
    pub fn progress(&self, what: &str) {
        eprintln!("{what} ...");
    }

    /// Begins a table; its rows are printed as they come.
    pub fn table(&self, titles: &[&str]) -> Table {
        let widths = titles.iter().map(|title| title.len().max(WIDTH_MIN)).collect();
        let table = Table { widths, to_stderr: self.json.as_deref() == Some("-") };
        table.row(&titles.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
        table
    }

    /// Writes the report, if it is wanted.
    pub fn finish<T: Serialize>(&self, report: &Report<T>) -> Result<()> {
        let Some(target) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(report).attempt(|| "write the figures as JSON".to_owned())?;
        if target == "-" {
            println!("{text}");
            return Ok(());
        }
        fs::write(target, text + "\n").attempt(|| format!("write {target}"))
    }
}

/// A table whose rows are printed as they come.
#[derive(Debug)]
pub struct Table {
    widths: Vec<usize>,
    to_stderr: bool,
}

/// A column is at least this wide, so that figures fit below a short title.
const WIDTH_MIN: usize = 10;

impl Table {
    /// Prints a row: the first cell to the left, as it names the row, the figures to the right.
    pub fn row(&self, cells: &[String]) {
        let cells = cells.iter().zip(&self.widths).enumerate();
        let line: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        match self.to_stderr {
            true => eprintln!("{}", line.join("  ")),
            false => println!("{}", line.join("  ")),
        }
    }
}

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `percent` of them lie; 0 of none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_of_few_values_is_one_of_them() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0], 99.9), 4.0);
        assert_eq!(percentile(&[7.0], 1.0), 7.0);
        assert_eq!(median(&[]), 0.0);
    }
}
