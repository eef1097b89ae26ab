//! Offloads of real devices in virtual machines, legacy and modern.

use netd_tests::vm::Twin;
use netd_tests::{Result, offloads};

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn segments_cross_the_tap_of_a_legacy_device_uncut_until_they_are_switched_off() -> Result<()> {
    offloads::segments_cross_the_tap_uncut_until_they_are_switched_off(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn segments_cross_the_tap_of_a_modern_device_uncut_until_they_are_switched_off() -> Result<()> {
    offloads::segments_cross_the_tap_uncut_until_they_are_switched_off(Twin::Viommu)
}
