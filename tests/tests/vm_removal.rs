//! Functions that are taken away while netd has them, in virtual machines.

use netd_tests::vm::Twin;
use netd_tests::{Result, removal};

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn cable_of_a_legacy_device_is_pulled_and_the_connection_lives_on_when_it_is_back() -> Result<()> {
    removal::cable_is_pulled_and_the_connection_lives_on_when_it_is_back(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn legacy_function_without_an_iommu_is_unplugged_and_taken_again_when_it_is_back() -> Result<()> {
    removal::function_taken_away_is_let_go_and_taken_again_when_it_is_back(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn modern_function_behind_an_iommu_is_removed_and_taken_again_when_it_is_back() -> Result<()> {
    removal::function_taken_away_is_let_go_and_taken_again_when_it_is_back(Twin::Viommu)
}
