//! `cargo xtask`: what a person or a machine runs in this repository. All of the work is in `netd_tests`.

#![forbid(unsafe_code)]

mod bench;
mod checks;
mod machine;
mod schema;

use clap::{Parser, Subcommand, ValueEnum};
use netd_tests::demo;
use netd_tests::fuzzing::{self, Start};
use netd_tests::vm::Twin;
use netd_tests::{Result, package};
use std::process::ExitCode;
use std::time::Duration;

/// Tasks of the netd repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show step by step what netd does: on the embedded default, without any privilege.
    Demo {
        /// Show it on a real VFIO function in QEMU instead (needs root).
        #[arg(long)]
        vm: bool,
        /// Which machine to imitate with --vm.
        #[arg(long, value_enum, default_value_t = TwinName::Gce)]
        twin: TwinName,
    },
    /// Install what is missing, then check and test everything, virtual machines included (needs root).
    Test {
        /// Leave the virtual machines out.
        #[arg(long)]
        quick: bool,
        /// Ten times the seeds where tests roll dice, and minutes instead of seconds for each fuzz target.
        #[arg(long)]
        long: bool,
    },
    /// Measure, optimised: a table, or JSON. The figures that were kept are in docs/performance.md.
    Bench {
        /// What to measure.
        #[arg(value_enum, default_value_t = Benchmark::Flows)]
        what: Benchmark,
        /// Which machine to imitate, for `machine` and `fetch`.
        #[arg(long, value_enum, default_value_t = TwinName::Gce)]
        twin: TwinName,
        /// For `fetch`: one part in so many of the bytes and of the fetches, where an emulated machine would take hours.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        part: u32,
        /// For `fetch`: how often each side has its turn.
        #[arg(long, default_value_t = netd_tests::bench::FETCH_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Write the figures as JSON to this file as well; "-" is standard output.
        #[arg(long, value_name = "FILE")]
        json: Option<String>,
    },
    /// Make the Debian package, and have lintian look at it.
    Deb {
        /// From the programs that tests use: not optimised, but built already.
        #[arg(long)]
        debug_binaries: bool,
    },
    /// Fuzz what reads strangers' bytes: every target, or those named.
    Fuzz {
        /// The targets; `fuzz/fuzz_targets` has one file for each.
        targets: Vec<String>,
        /// How long each of them runs.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Keep what was found, minimised, in `fuzz/corpus`.
        #[arg(long)]
        keep: bool,
    },
    /// Write the JSON Schemas of the configuration files, after one of their types changed. A test of theirs fails until then.
    Schema,
    /// Boot a virtual machine with netd and netctl in it: a shell, or one command whose exit code is passed on.
    Vm {
        /// Which machine to imitate.
        #[arg(long, value_enum, default_value_t = TwinName::Gce)]
        twin: TwinName,
        /// The command to run; a shell on the console without one.
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Benchmark {
    /// The stack: cost per packet and per timer pass by the number of connections, beside one smoltcp socket set.
    Flows,
    /// The driver: frames of 64 bytes per second on a vhost-user device, beside DPDK's driver on the same device (installs DPDK).
    Driver,
    /// The driver alone: nanoseconds and instructions per packet, split and packed, sent and received.
    Ring,
    /// What a decision of the policy costs with 1, 100 and 10,000 rules.
    Policy,
    /// Connections set up and closed per second, in the stack alone and with descriptors through the daemon.
    Connections,
    /// Memory of an idle connection with its descriptor, the kernel's included (root also sees by what).
    Memory,
    /// The descriptor path on the software device: throughput, round trips, and the CPU of an idle daemon.
    Descriptor,
    /// One function of a virtual machine under netd and under the kernel's own driver, alternating (needs root).
    Machine,
    /// HTTPS by netd-services through a function of a virtual machine, beside curl over the kernel's own driver, alternating: 1 GiB, and
    /// 10,000 small fetches (needs root).
    Fetch,
}

impl Benchmark {
    /// As netd-bench calls it.
    fn name(self, twin: TwinName, part: u32, rounds: u32) -> String {
        let name = match (self, twin) {
            (Benchmark::Flows, _) => "flows",
            (Benchmark::Driver, _) => "driver",
            (Benchmark::Ring, _) => "ring",
            (Benchmark::Policy, _) => "policy",
            (Benchmark::Connections, _) => "connections",
            (Benchmark::Memory, _) => "memory",
            (Benchmark::Descriptor, _) => "descriptor",
            (Benchmark::Machine, TwinName::Gce) => "machine-gce",
            (Benchmark::Machine, TwinName::Viommu) => "machine-viommu",
            (Benchmark::Fetch, TwinName::Gce) => return format!("fetch-gce/{part}/{rounds}"),
            (Benchmark::Fetch, TwinName::Viommu) => return format!("fetch-viommu/{part}/{rounds}"),
        };
        name.to_owned()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TwinName {
    /// Legacy virtio, no IOMMU, VFIO's no-IOMMU mode.
    Gce,
    /// Modern virtio behind an Intel IOMMU.
    Viommu,
}

impl From<TwinName> for Twin {
    fn from(name: TwinName) -> Twin {
        match name {
            TwinName::Gce => Twin::Gce,
            TwinName::Viommu => Twin::Viommu,
        }
    }
}

fn deb(debug_binaries: bool) -> Result<ExitCode> {
    let package = package::build(debug_binaries)?;
    print!("{}", package::lint(&package)?);
    println!("{}", package.display());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo { vm: false, .. } => demo::embedded().map(|()| ExitCode::SUCCESS),
        Task::Demo { vm: true, twin } => demo::vm(twin.into()).map(|()| ExitCode::SUCCESS),
        Task::Test { quick, long } => checks::run(quick, long).map(|()| ExitCode::SUCCESS),
        Task::Bench { what, twin, part, rounds, json } => {
            bench::run(&what.name(twin, part, rounds), json.as_deref()).map(|()| ExitCode::SUCCESS)
        }
        Task::Deb { debug_binaries } => deb(debug_binaries),
        Task::Fuzz { targets, seconds, keep } => {
            let duration = Duration::from_secs(seconds);
            fuzzing::Run { targets, start: Start::Anywhere, duration, keep }
                .start()
                .map(|()| ExitCode::SUCCESS)
        }
        Task::Schema => schema::run().map(|()| ExitCode::SUCCESS),
        Task::Vm { twin, command } => machine::run(twin.into(), &command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("\nFAILED: {error}");
        ExitCode::FAILURE
    })
}
