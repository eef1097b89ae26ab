//! DMA pools, in both isolations and on machines that have no memory for them.

use vm_memory::{Bytes, VolatileMemory};

use super::*;
use crate::Device;
use crate::fake::{FakeFunction, FakeFunctionOptions, HUGE_PAGE_BYTES, Machine, nic};

fn open(machine: &Machine) -> (Device, Arc<FakeFunction>, DmaPoolOptions) {
    let hugetlbfs = machine.path("dev/hugepages");
    fs::create_dir_all(&hugetlbfs).unwrap();
    let device = Device::open(&machine.sysfs(), nic()).unwrap();
    let function = machine.state().function.clone().unwrap();
    (device, function, DmaPoolOptions { hugetlbfs })
}

fn pool_file(options: &DmaPoolOptions) -> PathBuf {
    options.hugetlbfs.join("netd-0000:00:03.0")
}

#[test]
fn pool_behind_an_iommu_is_one_segment_and_unmapped_on_release() {
    let machine = Machine::with_vfio_function(true);
    let (device, function, options) = open(&machine);
    let pool = device.create_dma_pool(HUGE_PAGE_BYTES + 1, &options).unwrap();
    let len = 2 * HUGE_PAGE_BYTES;
    assert_eq!(pool.segments(), [DmaSegment { offset: 0, len, device_address: DMA_IOVA_BASE }]);
    assert_eq!(pool.region().size(), len);
    assert!(pool_file(&options).exists());
    pool.release().unwrap();
    assert!(!pool_file(&options).exists());
    assert_eq!(*function.log.lock().unwrap(), ["map 0x20000 at 0x100000000", "unmap 0x20000 at 0x100000000"]);
}

#[test]
fn pool_without_an_iommu_is_cut_where_physical_memory_is() {
    let machine = Machine::with_vfio_function(false);
    let page = HUGE_PAGE_BYTES as u64;
    machine.state().physical_addresses = vec![16 * page, 17 * page, 40 * page];
    let (device, function, options) = open(&machine);
    let pool = device.create_dma_pool(3 * HUGE_PAGE_BYTES, &options).unwrap();
    let expected = [
        DmaSegment { offset: 0, len: 2 * HUGE_PAGE_BYTES, device_address: 16 * page },
        DmaSegment { offset: 2 * HUGE_PAGE_BYTES, len: HUGE_PAGE_BYTES, device_address: 40 * page },
    ];
    assert_eq!(pool.segments(), expected);
    let shown = format!("{pool:?}");
    assert!(!shown.contains("device_address"), "{shown}");
    pool.release().unwrap();
    assert!(function.log.lock().unwrap().is_empty());
}

#[test]
fn pool_of_a_dead_predecessor_is_replaced_by_a_zeroed_one() {
    let machine = Machine::with_vfio_function(true);
    let (device, _function, options) = open(&machine);
    fs::write(pool_file(&options), [0xff; 100]).unwrap();
    let pool = device.create_dma_pool(1, &options).unwrap();
    let first: u64 = pool.region().as_volatile_slice().read_obj(0).unwrap();
    assert_eq!(first, 0);
}

#[test]
fn dropped_pool_keeps_its_file_and_its_place() {
    let machine = Machine::with_vfio_function(true);
    let (device, _function, options) = open(&machine);
    drop(device.create_dma_pool(1, &options).unwrap());
    assert!(pool_file(&options).exists());
    assert!(matches!(device.create_dma_pool(1, &options), Err(Error::PoolExists { .. })));
    DmaPool::remove_stale(nic(), &options).unwrap();
    assert!(!pool_file(&options).exists());
    DmaPool::remove_stale(nic(), &options).unwrap();
}

#[test]
fn released_pool_can_be_made_again() {
    let machine = Machine::with_vfio_function(true);
    let (device, _function, options) = open(&machine);
    device.create_dma_pool(1, &options).unwrap().release().unwrap();
    device.create_dma_pool(1, &options).unwrap();
}

#[test]
fn huge_pages_missing_says_how_many_and_the_sysctl() {
    let machine = Machine::with_vfio_function(true);
    let counters = "sys/kernel/mm/hugepages/hugepages-64kB";
    for (name, count) in [("nr_hugepages", 5), ("free_hugepages", 3), ("resv_hugepages", 2)] {
        machine.write(&format!("{counters}/{name}"), &format!("{count}\n"));
    }
    machine.write("proc/meminfo", "MemTotal: 1024 kB\nHugepagesize:      64 kB\n");
    machine.state().allocation_error = Some(io::ErrorKind::StorageFull);
    let (device, _function, options) = open(&machine);
    let error = device.create_dma_pool(8 * HUGE_PAGE_BYTES, &options).unwrap_err().to_string();
    assert!(error.contains("8 of 64 KiB are needed, 1 are free"), "{error}");
    // Five there are, four of them taken; eight more are needed.
    assert!(error.contains("`sysctl -w vm.nr_hugepages=12`"), "{error}");
    assert!(!pool_file(&options).exists());

    // A page size that is not the default one has no sysctl.
    machine.write("proc/meminfo", "Hugepagesize:    2048 kB\n");
    let error = device.create_dma_pool(8 * HUGE_PAGE_BYTES, &options).unwrap_err().to_string();
    assert!(error.contains("`echo 12 > /sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages`"), "{error}");
}

#[test]
fn free_huge_pages_that_the_mount_withholds_are_told_apart() {
    let machine = Machine::with_vfio_function(true);
    machine.write("sys/kernel/mm/hugepages/hugepages-64kB/free_hugepages", "9\n");
    machine.state().allocation_error = Some(io::ErrorKind::StorageFull);
    let (device, _function, options) = open(&machine);
    let error = device.create_dma_pool(8 * HUGE_PAGE_BYTES, &options).unwrap_err().to_string();
    assert!(error.contains("9 are free") && error.contains("remount,size=524288"), "{error}");
}

#[test]
fn absurd_size_is_refused_and_zero_too() {
    let machine = Machine::with_vfio_function(true);
    let (device, _function, options) = open(&machine);
    assert!(matches!(device.create_dma_pool(usize::MAX, &options), Err(Error::NoHugepages { .. })));
    assert!(matches!(device.create_dma_pool(0, &options), Err(Error::EmptyPool)));
}

#[test]
fn directory_that_is_no_hugetlbfs_is_refused_with_the_mount() {
    let machine = Machine::with_vfio_function(true);
    machine.state().no_hugetlbfs = true;
    let (device, _function, options) = open(&machine);
    let error = device.create_dma_pool(1, &options).unwrap_err().to_string();
    assert!(error.contains("mount -t hugetlbfs"), "{error}");
    let absent = DmaPoolOptions { hugetlbfs: machine.path("nowhere") };
    assert!(matches!(device.create_dma_pool(1, &absent), Err(Error::NotHugetlbfs { .. })));
}

#[test]
fn hidden_physical_addresses_are_refused_and_the_file_removed() {
    let machine = Machine::with_vfio_function(false);
    let (device, _function, options) = open(&machine);
    assert!(matches!(device.create_dma_pool(1, &options), Err(Error::PhysicalAddressesHidden)));
    assert!(!pool_file(&options).exists());
    // A failure takes no place.
    assert!(matches!(device.create_dma_pool(1, &options), Err(Error::PhysicalAddressesHidden)));
}

#[test]
fn locked_memory_limit_is_named() {
    let machine = Machine::with_vfio_function(true);
    machine.state().next_function =
        FakeFunctionOptions { no_reset: false, map_error: Some(io::ErrorKind::OutOfMemory) };
    let (device, _function, options) = open(&machine);
    let error = device.create_dma_pool(1, &options).unwrap_err().to_string();
    assert!(error.contains("LimitMEMLOCK"), "{error}");
}
