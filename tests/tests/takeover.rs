//! Take-overs with a fault in each, in virtual machines.

use netd_tests::vm::Twin;
use netd_tests::{Result, takeover};

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn legacy_function_without_an_iommu_is_never_lost_whatever_goes_wrong() -> Result<()> {
    takeover::function_is_never_lost_whatever_goes_wrong(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn modern_function_behind_an_iommu_is_never_lost_whatever_goes_wrong() -> Result<()> {
    takeover::function_is_never_lost_whatever_goes_wrong(Twin::Viommu)
}
