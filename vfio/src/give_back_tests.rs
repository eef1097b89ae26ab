//! Giving back, with and without somebody in the way.

use super::*;
use crate::bind::bind;
use crate::fake::{MAC, Machine, nic};

const NO_WAIT: Duration = Duration::ZERO;

fn give_back_nic(machine: &Machine, wait: Duration) -> Result<GivenBack, Error> {
    give_back(&machine.sysfs(), nic(), &machine.give_back_options(wait))
}

#[test]
fn bound_function_given_back_is_with_its_driver_and_forgotten() {
    for iommu in [true, false] {
        let machine = Machine::with_vfio_function(iommu);
        let given = give_back_nic(&machine, NO_WAIT).unwrap();
        assert_eq!(given.driver.as_deref(), Some("virtio-pci"));
        let interface = Interface { name: "eth0".to_owned(), mac: Some(MAC.parse().unwrap()) };
        assert_eq!(given.interfaces, [interface]);
        assert_eq!(machine.override_of(nic()), "(null)");
        assert!(!machine.record_exists());
    }
}

#[test]
fn override_of_the_operator_is_there_again_afterwards() {
    let machine = Machine::with_virtio_net();
    machine.write("sys/bus/pci/devices/0000:00:03.0/driver_override", "virtio-pci\n");
    bind(&machine.sysfs(), nic(), &machine.bind_options()).unwrap();
    give_back_nic(&machine, NO_WAIT).unwrap();
    assert_eq!(machine.override_of(nic()), "virtio-pci");
}

#[test]
fn held_function_given_back_is_waited_for() {
    let machine = Machine::with_vfio_function(false);
    machine.state().busy_opens = 3;
    // The fake kernel panics on an unbind while the group is held.
    give_back_nic(&machine, Duration::from_secs(10)).unwrap();
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("virtio-pci"));
}

#[test]
fn function_held_for_too_long_is_left_alone_and_its_holder_named() {
    let machine = Machine::with_vfio_function(true);
    machine.state().busy_opens = u32::MAX;
    machine.write("proc/4711/comm", "qemu\n");
    std::fs::create_dir_all(machine.path("proc/4711/fd")).unwrap();
    std::os::unix::fs::symlink(machine.path("dev/vfio/7"), machine.path("proc/4711/fd/5")).unwrap();
    machine.state().writes.clear();
    let started = Instant::now();
    let error = give_back_nic(&machine, Duration::from_millis(60)).unwrap_err().to_string();
    assert!(started.elapsed() >= Duration::from_millis(60));
    assert!(error.contains("another process holds") && error.contains("dev/vfio/7"), "{error}");
    assert!(error.contains("(process 4711 qemu)"), "{error}");
    assert_eq!(machine.state().writes, Vec::<String>::new());
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
    assert!(machine.record_exists());
}

#[test]
fn group_that_may_not_be_opened_is_no_proof() {
    let machine = Machine::with_vfio_function(false);
    machine.state().open_error = Some(io::ErrorKind::PermissionDenied);
    let error = give_back_nic(&machine, NO_WAIT).unwrap_err().to_string();
    assert!(error.contains("noiommu-0") && error.contains("CAP_SYS_RAWIO"), "{error}");
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
}

#[test]
fn driver_that_does_not_return_is_named_and_the_record_kept() {
    let machine = Machine::with_vfio_function(false);
    machine.state().refusing_drivers = vec!["virtio-pci"];
    let error = give_back_nic(&machine, NO_WAIT).unwrap_err().to_string();
    assert!(error.contains("`modprobe virtio-pci`") && error.contains("is with no driver"), "{error}");
    assert!(machine.record_exists());
    machine.state().refusing_drivers.clear();
    assert_eq!(give_back_nic(&machine, NO_WAIT).unwrap().driver.as_deref(), Some("virtio-pci"));
}

#[test]
fn function_given_back_twice_stays_with_its_driver() {
    let machine = Machine::with_vfio_function(true);
    let first = give_back_nic(&machine, NO_WAIT).unwrap();
    machine.state().writes.clear();
    assert_eq!(give_back_nic(&machine, NO_WAIT).unwrap(), first);
    assert_eq!(machine.state().writes, Vec::<String>::new());
}

#[test]
fn function_left_without_a_driver_given_back_gets_the_remembered_one() {
    // As a run leaves it that died between unbind and probe.
    let machine = Machine::with_vfio_function(true);
    std::fs::remove_file(machine.function(nic()).join("driver")).unwrap();
    assert_eq!(give_back_nic(&machine, NO_WAIT).unwrap().driver.as_deref(), Some("virtio-pci"));
    assert!(!machine.record_exists());
}

#[test]
fn function_without_a_record_given_back_gets_the_kernels_choice() {
    let machine = Machine::with_vfio_function(false);
    state::remove(&machine.state_dir(), nic()).unwrap();
    assert_eq!(give_back_nic(&machine, NO_WAIT).unwrap().driver.as_deref(), Some("virtio-pci"));
}

#[test]
fn held_function_given_back_by_force_ends_its_holder() {
    for ignores_sigterm in [false, true] {
        let machine = Machine::with_vfio_function(true);
        machine.state().busy_opens = u32::MAX;
        machine.state().ignores_sigterm = ignores_sigterm;
        machine.write("proc/4711/comm", "netd\n");
        std::fs::create_dir_all(machine.path("proc/4711/fd")).unwrap();
        std::os::unix::fs::symlink(machine.path("dev/vfio/7"), machine.path("proc/4711/fd/5")).unwrap();
        let options =
            GiveBackOptions { evict: true, ..machine.give_back_options(Duration::from_millis(400)) };
        give_back(&machine.sysfs(), nic(), &options).unwrap();
        let signals = if ignores_sigterm { &[Signal::TERM, Signal::KILL][..] } else { &[Signal::TERM] };
        assert_eq!(machine.state().signals, signals.iter().map(|signal| (4711, *signal)).collect::<Vec<_>>());
        assert_eq!(machine.driver_of(nic()).as_deref(), Some("virtio-pci"));
    }
}

#[test]
fn function_given_back_has_no_memory_of_a_killed_daemon_any_more() {
    let machine = Machine::with_vfio_function(false);
    machine.write("dev/hugepages/netd-0000:00:03.0", "");
    give_back_nic(&machine, NO_WAIT).unwrap();
    assert!(!machine.path("dev/hugepages/netd-0000:00:03.0").exists());
}
