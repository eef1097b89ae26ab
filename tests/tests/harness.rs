//! The test bed itself: both twins boot, programs run in them, and VFIO takes their functions.

use netd_tests::guest::Ending;
use netd_tests::lab::Lab;
use netd_tests::vm::{Nic, Twin, Vm, Wire};
use netd_tests::{Result, ensure};
use std::time::Duration;

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

/// udhcpc, an independent client, says what dnsmasq offers.
fn lease_as_udhcpc_sees_it(twin: Twin, expected: &[&str]) -> Result<()> {
    let lab = Lab::new(twin)?;
    let guest = lab.vm.guest();
    let interface = guest.script(&format!("ls /sys/bus/pci/devices/{}/virtio*/net", lab.vm.bdf(0))).run()?;
    let interface = interface.trim();
    guest.write_file("/tmp/show", b"#!/bin/sh\nenv\n")?;
    guest.run(&["chmod", "755", "/tmp/show"])?;
    let ask = format!(
        "ip link set {interface} up && udhcpc -i {interface} -n -q -t 10 -T 1 -s /tmp/show -O staticroutes -O mtu \
         -O ntpsrv"
    );
    let lease = guest.script(&ask).run()?;
    for line in expected {
        ensure!(lease.lines().any(|found| found == *line), "no {line:?} in the lease:\n{lease}");
    }
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn gce_twin_is_offered_the_lease_that_was_captured_on_gce() -> Result<()> {
    let expected = [
        "ip=10.128.0.2",
        "mask=32",
        "router=10.128.0.1",
        "dns=169.254.169.254",
        "ntpsrv=169.254.169.254",
        "mtu=1460",
        "staticroutes=10.128.0.1/32 0.0.0.0 0.0.0.0/0 10.128.0.1",
    ];
    lease_as_udhcpc_sees_it(Twin::Gce, &expected)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn viommu_twin_is_offered_an_ordinary_lease() -> Result<()> {
    lease_as_udhcpc_sees_it(Twin::Viommu, &["ip=10.77.0.50", "mask=24", "router=10.77.0.1", "dns=10.77.0.1"])
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn free_hugepages_filled_in_a_guest_hold_their_pattern() -> Result<()> {
    let vm = Vm::builder(Twin::Viommu).hugepages(32).boot()?;
    let mut watch = vm.guest().command(&["netd-peer", "hugefill", "1"]).spawn()?;
    watch.wait_for_text("filled 32", Duration::from_secs(20))?;
    let verdict = watch.wait(Duration::from_secs(30))?.success()?;
    ensure!(verdict.contains("holds"), "no verdict: {verdict}");
    let free = vm.guest().script("grep HugePages_Free /proc/meminfo").run()?;
    ensure!(free.contains("32"), "the pages were not given back: {free}");
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn programs_in_a_guest_report_status_signal_and_both_streams() -> Result<()> {
    let vm = Vm::builder(Twin::Gce).boot()?;
    let guest = vm.guest();
    let output = guest.script("echo out; echo err >&2; exit 3").output()?;
    ensure!(output.ending == Ending::Exited(3), "{output:?}");
    ensure!(output.stdout == b"out\n" && output.stderr == b"err\n", "{output:?}");
    let echoed = guest.command(&["cat"]).stdin(&[7; 300_000]).output()?;
    ensure!(echoed.stdout == [7; 300_000], "{} bytes of 300000 came back", echoed.stdout.len());
    let mut sleeper = guest.command(&["sleep", "60"]).spawn()?;
    sleeper.signal(15)?;
    ensure!(sleeper.wait(Duration::from_secs(10))?.ending == Ending::Signaled(15), "not ended by its signal");
    let who = guest.command(&["id", "-u"]).uid(65534).env("X", "1").run()?;
    ensure!(who.trim() == "65534", "ran as {who}");
    ensure!(guest.run(&["no-such-program"]).is_err(), "a program that is not there ran");
    Ok(())
}
