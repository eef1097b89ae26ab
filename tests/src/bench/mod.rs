//! Benchmarks. Absolute figures belong to the machine; ratios are measured side by side in one run.

pub mod driver;
pub mod flows;
pub mod ring;
