//! The vIOMMU twin: modern virtio behind an IOMMU, an ordinary lease.

use netd_tests::vm::Twin;
use netd_tests::{Result, scenario};

const TWIN: Twin = Twin::Viommu;

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_driven_by_polling_gets_a_lease_without_interrupts() -> Result<()> {
    scenario::function_driven_by_polling_gets_a_lease_without_interrupts(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn interrupts_come_only_while_the_mode_asks_for_them() -> Result<()> {
    scenario::interrupts_come_only_while_the_mode_asks_for_them(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn ping_crosses_the_function_both_ways() -> Result<()> {
    scenario::ping_crosses_the_function_both_ways(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn tcp_reaches_programs_both_ways() -> Result<()> {
    scenario::tcp_reaches_programs_both_ways(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn bulk_received_has_the_digest_that_was_sent() -> Result<()> {
    scenario::bulk_received_has_the_digest_that_was_sent(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn bulk_sent_has_the_digest_that_was_received() -> Result<()> {
    scenario::bulk_sent_has_the_digest_that_was_received(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_given_back_works_under_the_kernel() -> Result<()> {
    scenario::function_given_back_works_under_the_kernel(TWIN)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn stream_cut_by_a_reset_fails_and_an_orderly_end_does_not() -> Result<()> {
    scenario::stream_cut_by_a_reset_fails_and_an_orderly_end_does_not(TWIN)
}
