//! Opening a function and reaching its registers, in both isolations.

use super::*;
use crate::fake::{CONFIG_OFFSET, FakeFunction, FakeFunctionOptions, Machine, nic};

fn open(machine: &Machine) -> Result<Device, Error> {
    Device::open(&machine.sysfs(), nic())
}

fn opened(iommu: bool) -> (Machine, Device, Arc<FakeFunction>) {
    let machine = Machine::with_vfio_function(iommu);
    let device = open(&machine).unwrap();
    let function = machine.state().function.clone().unwrap();
    (machine, device, function)
}

fn command(function: &FakeFunction) -> u16 {
    u16::from_le_bytes(function.bytes_at(CONFIG_OFFSET + PCI_COMMAND))
}

#[test]
fn opened_function_answers_but_does_not_reach_memory() {
    for (iommu, isolation) in [(true, Isolation::Iommu), (false, Isolation::NoIommu)] {
        let (_machine, device, function) = opened(iommu);
        assert_eq!(device.isolation(), isolation);
        assert_eq!(command(&function), PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
        device.set_bus_master(true).unwrap();
        assert_eq!(command(&function) & PCI_COMMAND_MASTER, PCI_COMMAND_MASTER);
        device.set_bus_master(false).unwrap();
        assert_eq!(command(&function), PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
    }
}

#[test]
fn function_with_a_kernel_driver_opened_is_refused() {
    let machine = Machine::with_virtio_net();
    let error = open(&machine).unwrap_err().to_string();
    assert!(error.contains("bound to virtio-pci") && error.contains("netd function bind"), "{error}");
}

#[test]
fn held_function_opened_says_who_may_have_it() {
    let machine = Machine::with_vfio_function(false);
    machine.state().open_error = Some(io::ErrorKind::ResourceBusy);
    let error = open(&machine).unwrap_err().to_string();
    assert!(error.contains("in use: another process holds") && error.contains("noiommu-0"), "{error}");
}

#[test]
fn function_opened_without_privilege_says_which() {
    let machine = Machine::with_vfio_function(false);
    machine.state().open_error = Some(io::ErrorKind::PermissionDenied);
    let error = open(&machine).unwrap_err().to_string();
    assert!(error.contains("no permission to open") && error.contains("CAP_SYS_RAWIO"), "{error}");
}

#[test]
fn group_that_became_shared_is_refused_by_name() {
    let machine = Machine::with_vfio_function(true);
    machine.state().not_viable = true;
    assert!(matches!(open(&machine), Err(Error::GroupShared { group: 7, .. })));
}

#[test]
fn registers_written_read_back_and_bounds_hold() {
    let (_machine, device, _function) = opened(true);
    assert_eq!((device.bar_size(0), device.bar_size(1), device.bar_size(9)), (Some(64), None, None));
    device.bar_write(0, 18, &[7]).unwrap();
    let mut status = [0; 2];
    device.bar_read(0, 17, &mut status).unwrap();
    assert_eq!(status, [0, 7]);
    let past_the_end = device.bar_read(0, 63, &mut status).unwrap_err().to_string();
    assert!(past_the_end.contains("BAR 0") && past_the_end.contains("0x3f"), "{past_the_end}");
    assert!(matches!(device.bar_write(0, u64::MAX, &[0]), Err(Error::BadAccess { .. })));
    assert!(matches!(device.bar_read(1, 0, &mut status), Err(Error::NoSuchBar { bar: 1, .. })));
    assert!(matches!(
        device.config_read(256, &mut status),
        Err(Error::BadAccess { region: Region::Config, .. })
    ));
}

#[test]
fn access_to_a_function_that_is_gone_reaches_the_caller() {
    let (_machine, device, _function) = opened(true);
    let error = device.bar_read(5, 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(error, Error::ShortAccess { region: Region::Bar(5), len: 4, done: 2, .. }), "{error}");
}

#[test]
fn memory_bar_maps_and_io_bar_does_not() {
    let (_machine, device, _function) = opened(true);
    assert!(device.bar_is_mappable(4) && !device.bar_is_mappable(0) && !device.bar_is_mappable(6));
    let mapping = device.map_bar(4).unwrap();
    mapping.write_u32(8, 0xdead_beef).unwrap();
    let mut bytes = [0; 4];
    device.bar_read(4, 8, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 0xdead_beef);
    let error = device.map_bar(0).unwrap_err().to_string();
    assert!(error.contains("BAR 0") && error.contains("I/O ports"), "{error}");
    assert!(matches!(device.map_bar(6), Err(Error::NoSuchBar { .. })));
}

#[test]
fn interrupts_enabled_are_as_many_as_eventfds() {
    let (_machine, device, function) = opened(false);
    let eventfd = || Some(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
    device.enable_msix(&[eventfd(), None]).unwrap();
    device.disable_msix().unwrap();
    device.disable_msix().unwrap();
    assert_eq!(*function.log.lock().unwrap(), ["interrupts 2: 2 eventfds", "interrupts 2: 0 eventfds"]);
    let four: Vec<_> = (0..4).map(|_| eventfd()).collect();
    let error = device.enable_msix(&four).unwrap_err().to_string();
    assert!(error.contains("has 3 MSI-X vectors, 4 were asked for"), "{error}");
    assert!(matches!(device.enable_msix(&four[..0]), Err(Error::Vectors { wanted: 0, .. })));
}

#[test]
fn removal_is_told_by_an_eventfd_of_its_own() {
    let (_machine, device, function) = opened(true);
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    assert!(device.watch_removal(&eventfd).unwrap());
    assert_eq!(*function.log.lock().unwrap(), ["interrupts 4: 1 eventfds"]);
}

#[test]
fn reset_reaches_the_function_or_says_that_it_has_none() {
    let (_machine, device, function) = opened(true);
    device.reset().unwrap();
    assert!(function.was_reset.load(Ordering::Relaxed));

    let machine = Machine::with_vfio_function(true);
    machine.state().next_function = FakeFunctionOptions { no_reset: true, map_error: None };
    let error = open(&machine).unwrap().reset().unwrap_err().to_string();
    assert!(error.contains("no reset") && error.contains("status"), "{error}");
}

#[test]
fn device_moves_between_threads() {
    fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Device>();
    assert_shareable::<DmaPool>();
    assert_shareable::<BarMapping>();
}
