//! Benchmarks: `cargo xtask bench`. Absolute figures belong to the machine; ratios are measured side by side in one run.

mod account;
mod connections;
mod daemon;
mod descriptor;
mod driver;
mod fetch;
mod flows;
mod frames;
pub mod load;
mod machine;
mod memory;
mod one_set;
mod peer;
mod policy;
pub mod report;
mod ring;

pub use fetch::ROUNDS as FETCH_ROUNDS;

use crate::error::Result;
use crate::vm::Twin;
use report::Console;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Benchmark {
    /// The stack: cost per packet and per timer pass by the number of connections, beside one smoltcp socket set.
    Flows,
    /// Connections set up and closed per second, in the stack alone and with descriptors.
    Connections,
    /// Memory of an idle connection with its descriptor.
    Memory,
    /// The driver on a vhost-user device, beside DPDK's driver.
    Driver,
    /// A decision of the policy, by the number of rules.
    Policy,
    /// The driver alone: what a packet costs it, by ring format and direction.
    Ring,
    /// The descriptor path on the software device, and the CPU of an idle daemon.
    Descriptor,
    /// A machine's function under netd and under the kernel's own driver, alternating.
    Machine(Twin),
    /// HTTPS through netd-services and netd on a machine's function, beside curl over the kernel's driver: one part in so many of the
    /// bytes and fetches, in so many rounds.
    Fetch(Twin, u32, u32),
}

impl Benchmark {
    /// Measures it, with tables on the console.
    pub fn run(self, console: &Console) -> Result<()> {
        match self {
            Benchmark::Flows => flows::run(console),
            Benchmark::Connections => connections::run(console),
            Benchmark::Memory => memory::run(console),
            Benchmark::Driver => driver::run(console),
            Benchmark::Policy => policy::run(console),
            Benchmark::Ring => ring::run(console),
            Benchmark::Descriptor => descriptor::run(console),
            Benchmark::Machine(twin) => machine::run(twin, console),
            Benchmark::Fetch(twin, part, rounds) => fetch::run(twin, part, rounds, console),
        }
    }
}
