//! The test bed itself: both twins boot, programs run in them, and VFIO takes their functions.

use netd_tests::vm::{Nic, Twin, Vm, Wire};
use netd_tests::{Result, ensure};

/// By hand what `netd function bind` does.
fn function_bound_by_hand_appears_as(twin: Twin, node: &str) -> Result<()> {
    let vm = Vm::builder(twin).nic(Nic::new("52:54:00:00:00:01", Wire::User)).boot()?;
    let bdf = vm.bdf(0);
    let bind = format!(
        "set -e; d=/sys/bus/pci/devices/{bdf}; cat $d/vendor $d/device; echo vfio-pci > $d/driver_override;
         echo {bdf} > $d/driver/unbind; echo {bdf} > /sys/bus/pci/drivers_probe; readlink $d/driver; ls /dev/vfio"
    );
    let output = vm.guest().script(&bind).run()?;
    println!("{:?}\n{output}{:?}", vm.accelerator(), vm.kernel_warnings()?);
    ensure!(output.contains("drivers/vfio-pci"), "the function is not bound:\n{output}");
    ensure!(output.lines().any(|line| line == node), "no {node} in /dev/vfio:\n{output}");
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn viommu_twin_function_bound_by_hand_has_an_iommu_group() -> Result<()> {
    function_bound_by_hand_appears_as(Twin::Viommu, "1")
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn gce_twin_function_bound_by_hand_has_a_no_iommu_group() -> Result<()> {
    function_bound_by_hand_appears_as(Twin::Gce, "noiommu-0")
}
