//! Wrong input around a PCI function: each is refused with a message that says what would be right.

use netd_tests::guest::Output;
use netd_tests::lab::{configuration, scenario};
use netd_tests::vm::{Nic, Twin, Vm, Wire};
use netd_tests::{Result, ensure};

const CONFIGURATION: &str = "/etc/netd.toml";
/// Part of a configuration: paths that nobody else uses, and that anybody may make.
const ELSEWHERE: &str = "[ipc]\nsocket = \"/tmp/other.sock\"\n[state]\ndirectory = \"/tmp/other\"\n";
const NOBODY: u32 = 65534;
const FIRST_MAC: &str = "52:54:00:00:00:01";
const SECOND_MAC: &str = "52:54:00:00:00:02";

fn machine(twin: Twin) -> Result<Vm> {
    Vm::builder(twin).nic(Nic::new(FIRST_MAC, Wire::Nothing)).boot()
}

/// The program must fail, and say all of this on standard error (its log may say more).
fn expect_refusal(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(!output.is_success(), "`{}` succeeded:\n{}", output.command, output.text());
    let text = output.text();
    for word in words {
        ensure!(text.contains(word), "`{}` does not say {word:?}:\n{text}", output.command);
    }
    ensure!(!text.contains("panicked"), "`{}` panicked:\n{text}", output.command);
    Ok(())
}

fn bind(vm: &Vm, bdf: &str) -> Result<Output> {
    vm.guest().command(&["netd", "function", "bind", bdf]).output()
}

fn driver(vm: &Vm, bdf: &str) -> Result<String> {
    let link = format!("basename $(readlink /sys/bus/pci/devices/{bdf}/driver)");
    Ok(vm.guest().script(&link).run()?.trim().to_owned())
}

fn run_netd(vm: &Vm, configuration: &str) -> Result<Output> {
    vm.guest().write_file(CONFIGURATION, configuration.as_bytes())?;
    vm.guest().command(&["netd", "run", "--config", CONFIGURATION]).output()
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_that_does_not_exist_is_refused_with_those_that_do() -> Result<()> {
    let vm = machine(Twin::Viommu)?;
    expect_refusal(&bind(&vm, "0000:00:1e.0")?, &["no PCI function 0000:00:1e.0", vm.bdf(0)])?;
    expect_refusal(&bind(&vm, "eth0")?, &["eth0", "0000:00:03.0"])
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_of_another_kind_is_refused_and_keeps_its_driver() -> Result<()> {
    let vm = machine(Twin::Gce)?;
    // The virtio-serial function through which this very harness talks to the guest.
    expect_refusal(
        &bind(&vm, "0000:00:10.0")?,
        &["0000:00:10.0", "1af4:1003", "not a virtio network device"],
    )?;
    ensure!(driver(&vm, "0000:00:10.0")? == "virtio-pci", "the function lost its driver");
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_that_another_netd_drives_is_refused_as_in_use() -> Result<()> {
    scenario(Twin::Viommu, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let second = format!("{}\n{ELSEWHERE}", configuration(lab.vm.bdf(0), true));
        expect_refusal(&run_netd(&lab.vm, &second)?, &[lab.vm.bdf(0), "in use", "another process holds"])?;

        let release = lab.vm.guest().command(&["netd", "function", "release", lab.vm.bdf(0)]).output()?;
        expect_refusal(&release, &[lab.vm.bdf(0), "in use"])?;
        lab.netctl(&["ping", lab.plan.gateway])?.success()?;
        netd.terminate().map(drop)
    })
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn second_netd_is_refused_and_the_first_serves_on() -> Result<()> {
    scenario(Twin::Gce, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        expect_refusal(&run_netd(&lab.vm, &configuration(lab.vm.bdf(0), true))?, &["netd"])?;
        lab.netctl(&["ping", lab.plan.gateway])?.success()?;
        netd.terminate().map(drop)
    })
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_that_shares_its_group_is_refused_with_the_others_named() -> Result<()> {
    let shared = |mac| Nic { shares_group: true, ..Nic::new(mac, Wire::Nothing) };
    let vm = Vm::builder(Twin::Viommu).nic(shared(FIRST_MAC)).nic(shared(SECOND_MAC)).boot()?;
    let group = format!("basename $(readlink /sys/bus/pci/devices/{}/iommu_group)", vm.bdf(0));
    let group = vm.guest().script(&group).run()?;
    expect_refusal(
        &bind(&vm, vm.bdf(0))?,
        &[vm.bdf(0), &format!("shares IOMMU group {}", group.trim()), vm.bdf(1)],
    )?;
    ensure!(driver(&vm, vm.bdf(0))? == "virtio-pci", "the function lost its driver");
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn user_without_rights_is_refused_and_told_what_it_needs() -> Result<()> {
    let vm = machine(Twin::Viommu)?;
    let attempt = vm.guest().command(&["netd", "function", "bind", vm.bdf(0)]).uid(NOBODY).output()?;
    expect_refusal(&attempt, &["permission", "root"])?;
    ensure!(driver(&vm, vm.bdf(0))? == "virtio-pci", "the function lost its driver");
    bind(&vm, vm.bdf(0))?.success()?;
    let own_paths = format!("{}\n{ELSEWHERE}", configuration(vm.bdf(0), true));
    vm.guest().write_file(CONFIGURATION, own_paths.as_bytes())?;
    let run = vm.guest().command(&["netd", "run", "--config", CONFIGURATION]).uid(NOBODY).output()?;
    expect_refusal(&run, &["permission", "/dev/vfio/"])
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn machine_without_hugepages_is_told_how_many_and_how() -> Result<()> {
    for twin in [Twin::Viommu, Twin::Gce] {
        let vm = Vm::builder(twin).hugepages(0).nic(Nic::new(FIRST_MAC, Wire::Nothing)).boot()?;
        bind(&vm, vm.bdf(0))?.success()?;
        let refused = run_netd(&vm, &configuration(vm.bdf(0), true))?;
        expect_refusal(&refused, &["huge pages", "0 are free", "sysctl"])?;
    }
    Ok(())
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn no_iommu_mode_switched_off_is_refused_with_the_switch() -> Result<()> {
    let vm = machine(Twin::Gce)?;
    let switch = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    vm.guest().write_file(switch, b"N")?;
    expect_refusal(&bind(&vm, vm.bdf(0))?, &[vm.bdf(0), "no-IOMMU", switch])?;
    ensure!(driver(&vm, vm.bdf(0))? == "virtio-pci", "the function lost its driver");
    vm.guest().write_file(switch, b"Y")?;
    bind(&vm, vm.bdf(0))?.success().map(drop)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn function_with_the_default_route_is_taken_only_when_allowed() -> Result<()> {
    let vm = machine(Twin::Viommu)?;
    let interface = vm.guest().script(&format!("ls /sys/bus/pci/devices/{}/virtio*/net", vm.bdf(0))).run()?;
    let interface = interface.trim();
    let route = format!(
        "ip link set {interface} up && ip address add 192.0.2.2/24 dev {interface} && \
         ip route add default via 192.0.2.1"
    );
    vm.guest().script(&route).run()?;
    expect_refusal(
        &bind(&vm, vm.bdf(0))?,
        &[vm.bdf(0), "default route", interface, "--allow-default-route"],
    )?;
    ensure!(driver(&vm, vm.bdf(0))? == "virtio-pci", "the function lost its driver");
    vm.guest().run(&["netd", "function", "bind", "--allow-default-route", vm.bdf(0)])?;
    ensure!(driver(&vm, vm.bdf(0))? == "vfio-pci", "the flag did not help");
    Ok(())
}
