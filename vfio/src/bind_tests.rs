//! Binding, on machines that allow it and on machines that do not.

use std::fs;

use super::*;
use crate::fake::{MAC, Machine, nic};

fn bind_nic(machine: &Machine) -> Result<Bound, Error> {
    bind(&machine.sysfs(), nic(), &machine.bind_options())
}

/// A refusal leaves no trace: nothing written to sysfs, no record, the driver as before.
fn refusal(machine: &Machine) -> Error {
    let error = bind_nic(machine).unwrap_err();
    assert_eq!(machine.state().writes, Vec::<String>::new());
    assert!(!machine.record_exists());
    error
}

#[test]
fn free_function_bound_is_with_vfio_and_remembered() {
    let machine = Machine::with_virtio_net();
    let bound = bind_nic(&machine).unwrap();
    assert_eq!(bound.previous_driver.as_deref(), Some("virtio-pci"));
    assert_eq!((bound.isolation, bound.mac), (Isolation::NoIommu, Some(MAC.parse().unwrap())));
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
    let steps = ["driver_override=vfio-pci", "unbind=0000:00:03.0", "drivers_probe=0000:00:03.0"];
    assert_eq!(machine.state().writes, steps);
    let record = state::load(&machine.state_dir(), nic()).unwrap().unwrap();
    assert_eq!(record.interface.as_deref(), Some("eth0"));
}

#[test]
fn function_in_an_iommu_group_bound_is_isolated() {
    let machine = Machine::with_virtio_net();
    machine.add_group(7, &[nic()]);
    // An IOMMU makes the no-IOMMU mode irrelevant.
    machine.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    let isolation = bind_nic(&machine).unwrap().isolation;
    assert_eq!(isolation, Isolation::Iommu);
    for isolation in [isolation, Isolation::NoIommu] {
        assert_eq!(serde_json::to_value(isolation).unwrap(), isolation.to_string());
    }
}

#[test]
fn bound_function_bound_again_changes_nothing_and_says_the_same() {
    let machine = Machine::with_virtio_net();
    let first = bind_nic(&machine).unwrap();
    machine.state().writes.clear();
    assert_eq!(bind_nic(&machine).unwrap(), first);
    assert_eq!(machine.state().writes, Vec::<String>::new());
}

#[test]
fn function_bound_by_somebody_else_is_remembered_without_a_driver() {
    let machine = Machine::with_vfio_function(false);
    state::remove(&machine.state_dir(), nic()).unwrap();
    assert_eq!(bind_nic(&machine).unwrap().previous_driver, None);
    assert!(machine.record_exists());
}

#[test]
fn absent_function_bound_is_refused_with_those_present() {
    let machine = Machine::with_virtio_net();
    let absent = "0000:00:09.0".parse().unwrap();
    let error = bind(&machine.sysfs(), absent, &machine.bind_options()).unwrap_err().to_string();
    assert!(
        error.contains("no PCI function 0000:00:09.0") && error.contains("here: 0000:00:03.0"),
        "{error}"
    );
}

#[test]
fn other_device_bound_is_refused_with_its_ids() {
    for (vendor, device, class) in
        [(0x8086, 0x100e, 0x02_0000), (0x1af4, 0x1001, 0x01_0000), (0x1af4, 0x1000, 0)]
    {
        let machine = Machine::new();
        machine.add_function(nic(), vendor, device, class, "e1000");
        let error = refusal(&machine).to_string();
        let ids = format!("{vendor:04x}:{device:04x} (class {class:06x})");
        assert!(error.contains(&ids) && error.contains("not a virtio network device"), "{error}");
    }
}

#[test]
fn default_route_function_bound_is_refused_unless_allowed() {
    let machine = Machine::with_virtio_net();
    machine.write("proc/net/route", "Iface\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
    let error = refusal(&machine).to_string();
    assert!(error.contains("interface eth0") && error.contains("--allow-default-route"), "{error}");
    let options = BindOptions { allow_default_route: true, ..machine.bind_options() };
    bind(&machine.sysfs(), nic(), &options).unwrap();
}

#[test]
fn default_route_over_a_bridge_or_ipv6_counts_too() {
    let machine = Machine::with_virtio_net();
    machine.write("sys/class/net/eth0/upper_bond0/ifindex", "3\n");
    machine.write("sys/class/net/bond0/upper_br0/ifindex", "4\n");
    let zero = "0".repeat(32);
    machine.write("proc/net/ipv6_route", &format!("{zero} 00 {zero} 00 {zero} 00000400 1 0 00000003 br0\n"));
    assert!(matches!(refusal(&machine), Error::DefaultRoute { interface, .. } if interface == "br0"));
    assert!(machine.sysfs().function(nic()).unwrap().default_route);
}

#[test]
fn shared_group_bound_is_refused_with_the_others() {
    let machine = Machine::with_virtio_net();
    let (used, free, bridge) = ("00:04.0", "00:05.0", "00:06.0");
    let parse = |text: &str| text.parse::<Bdf>().unwrap();
    machine.add_function(parse(used), 0x8086, 0x100e, 0x02_0000, "e1000");
    machine.add_function(parse(free), 0x8086, 0x100e, 0x02_0000, "vfio-pci");
    machine.add_function(parse(bridge), 0x8086, 0x244e, 0x06_0400, "pcieport");
    machine.add_group(7, &[nic(), parse(used), parse(bridge)]);
    let error = refusal(&machine).to_string();
    assert!(error.contains("IOMMU group 7") && error.contains("use: 0000:00:04.0 (e1000)."), "{error}");
    assert_eq!(machine.sysfs().function(nic()).unwrap().group_members, [parse(used)]);
}

#[test]
fn group_shared_with_vfio_functions_only_is_bound() {
    let machine = Machine::with_virtio_net();
    let other: Bdf = "00:05.0".parse().unwrap();
    machine.add_group(7, &[nic()]);
    machine.add_function(other, 0x8086, 0x100e, 0x02_0000, "pci-stub");
    let group = machine.path("sys/kernel/iommu_groups/7");
    std::os::unix::fs::symlink(machine.function(other), group.join("devices/0000:00:05.0")).unwrap();
    bind_nic(&machine).unwrap();
}

#[test]
fn vfio_pci_not_loaded_is_refused_with_the_command() {
    let machine = Machine::with_virtio_net();
    fs::remove_dir(machine.driver("vfio-pci")).unwrap();
    let error = refusal(&machine).to_string();
    assert!(error.contains("`modprobe vfio-pci`"), "{error}");
}

#[test]
fn no_iommu_and_no_unsafe_mode_is_refused_with_the_parameter() {
    let machine = Machine::with_virtio_net();
    let parameter = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    machine.write(parameter, "N\n");
    let error = refusal(&machine).to_string();
    assert!(
        error.contains("no-IOMMU mode is off") && error.contains("enable_unsafe_noiommu_mode"),
        "{error}"
    );
    fs::remove_file(machine.path(parameter)).unwrap();
    let error = refusal(&machine).to_string();
    assert!(error.contains("is absent") && error.contains("CONFIG_VFIO_NOIOMMU"), "{error}");
}

#[test]
fn bind_that_vfio_refuses_is_undone() {
    let machine = Machine::with_virtio_net();
    machine.state().refusing_drivers = vec!["vfio-pci"];
    let error = bind_nic(&machine).unwrap_err().to_string();
    assert!(error.contains("did not take") && error.contains("back with virtio-pci"), "{error}");
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("virtio-pci"));
    assert_eq!(machine.override_of(nic()), "(null)");
    assert!(!machine.record_exists());
    assert_eq!(machine.sysfs().function(nic()).unwrap().interfaces.len(), 1);
}

#[test]
fn bind_that_cannot_be_undone_says_how_and_keeps_the_record() {
    let machine = Machine::with_virtio_net();
    machine.state().refusing_drivers = vec!["vfio-pci", "virtio-pci"];
    let error = bind_nic(&machine).unwrap_err().to_string();
    assert!(error.contains("`modprobe virtio-pci`") && error.contains("is with no driver"), "{error}");
    assert!(machine.record_exists());
    // The next try still knows the driver that the function had before all this.
    machine.state().refusing_drivers.clear();
    let bound = bind_nic(&machine).unwrap();
    assert_eq!(bound.previous_driver.as_deref(), Some("virtio-pci"));
    assert_eq!(bound.mac, Some(MAC.parse().unwrap()));
}

#[test]
fn bind_without_privilege_says_so() {
    let machine = Machine::with_virtio_net();
    machine.state().read_only = true;
    let error = bind_nic(&machine).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { action: "write", .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("driver_override") && text.contains("needs root"), "{text}");
    assert!(!machine.record_exists());
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("virtio-pci"));
}

#[test]
fn damaged_record_stops_a_bind_before_anything_is_touched() {
    let machine = Machine::with_virtio_net();
    machine.write("run/netd/function-0000:00:03.0.json", "not json");
    assert!(matches!(bind_nic(&machine), Err(Error::BadRecord { .. })));
    assert_eq!(machine.state().writes, Vec::<String>::new());
}

#[test]
fn functions_listed_are_network_functions_in_order() {
    let machine = Machine::with_virtio_net();
    machine.add_function("00:02.0".parse().unwrap(), 0x8086, 0x100e, 0x02_0000, "e1000");
    machine.add_function("00:01.0".parse().unwrap(), 0x1af4, 0x1001, 0x01_0000, "virtio-blk");
    let functions = machine.sysfs().network_functions().unwrap();
    assert_eq!(functions.iter().map(Function::is_virtio_net).collect::<Vec<_>>(), [false, true]);
    let json = serde_json::to_value(&functions[1]).unwrap();
    assert_eq!((&json["bdf"], &json["mac"]), (&"0000:00:03.0".into(), &MAC.into()));
    assert_eq!(json["interfaces"][0]["name"], "eth0");
    assert_eq!(json["iommu_group"], serde_json::Value::Null);
}

#[test]
fn malformed_attribute_read_names_the_file() {
    let machine = Machine::with_virtio_net();
    machine.write("sys/bus/pci/devices/0000:00:03.0/vendor", "virtio\n");
    let error = machine.sysfs().function(nic()).unwrap_err().to_string();
    assert!(error.contains("0000:00:03.0/vendor") && error.contains("\"virtio\""), "{error}");
}
