//! kill -9 of netd under load: no write after death, and the function can be taken again at once.

use netd_tests::vm::Twin;
use netd_tests::{Result, scenario};

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn viommu_netd_killed_under_load_leaves_freed_memory_alone() -> Result<()> {
    scenario::netd_killed_under_load_leaves_freed_memory_alone(Twin::Viommu)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn viommu_netd_killed_under_load_is_replaced_at_once() -> Result<()> {
    scenario::netd_killed_under_load_is_replaced_at_once(Twin::Viommu)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn gce_netd_killed_under_load_leaves_freed_memory_alone() -> Result<()> {
    scenario::netd_killed_under_load_leaves_freed_memory_alone(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn gce_netd_killed_under_load_is_replaced_at_once() -> Result<()> {
    scenario::netd_killed_under_load_is_replaced_at_once(Twin::Gce)
}
