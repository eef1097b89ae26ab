//! A machine for tests: file trees in a temporary directory, and a kernel that acts on what is written to them.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rustix::process::Signal;
use tempfile::TempDir;
use vm_memory::MmapRegion;

use crate::netlink::Change;
use crate::sys::{Kernel, OpenFailure, OpenFunction, RegionInfo, VfioFunction};
use crate::{Bdf, Sysfs};

/// The huge pages of this machine are small, so that tests need no real ones.
pub(crate) const HUGE_PAGE_BYTES: usize = 64 << 10;
/// The address that every virtio network function's interface has here.
pub(crate) const MAC: &str = "42:01:0a:00:00:02";

/// A machine with the drivers virtio-pci and vfio-pci, no IOMMU, and no functions yet.
pub(crate) struct Machine {
    directory: TempDir,
    pub(crate) kernel: Arc<FakeKernel>,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let kernel = FakeKernel { root: directory.path().to_owned(), state: Mutex::default() };
        let machine = Machine { directory, kernel: Arc::new(kernel) };
        for driver in ["virtio-pci", "vfio-pci", "e1000"] {
            fs::create_dir_all(machine.driver(driver)).unwrap();
        }
        machine.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        machine.write("proc/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n");
        machine
    }

    /// With a virtio network function at 00:03.0.
    pub(crate) fn with_virtio_net() -> Machine {
        let machine = Machine::new();
        machine.add_function(nic(), 0x1af4, 0x1000, 0x02_0000, "virtio-pci");
        machine
    }

    /// As above, bound to vfio-pci since before anybody remembers.
    pub(crate) fn with_vfio_function(iommu: bool) -> Machine {
        let machine = Machine::with_virtio_net();
        if iommu {
            machine.add_group(7, &[nic()]);
        }
        crate::bind(&machine.sysfs(), nic(), &machine.bind_options()).unwrap();
        machine
    }

    pub(crate) fn sysfs(&self) -> Sysfs {
        Sysfs::with_kernel(self.directory.path(), Arc::<FakeKernel>::clone(&self.kernel))
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("run/netd")
    }

    pub(crate) fn bind_options(&self) -> crate::BindOptions {
        crate::BindOptions { allow_default_route: false, state_dir: self.state_dir(), pledged: None }
    }

    pub(crate) fn give_back_options(&self, wait: Duration) -> crate::GiveBackOptions {
        let (state_dir, hugetlbfs) = (self.state_dir(), self.path("dev/hugepages"));
        crate::GiveBackOptions { state_dir, wait, evict: false, hugetlbfs }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.kernel.state.lock().unwrap()
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn function(&self, bdf: Bdf) -> PathBuf {
        self.path("sys/bus/pci/devices").join(bdf.to_string())
    }

    pub(crate) fn driver(&self, driver: &str) -> PathBuf {
        self.path("sys/bus/pci/drivers").join(driver)
    }

    pub(crate) fn add_function(&self, bdf: Bdf, vendor: u16, device: u16, class: u32, driver: &str) {
        let write = |name: &str, text: &str| self.write(&format!("sys/bus/pci/devices/{bdf}/{name}"), text);
        write("vendor", &format!("{vendor:#06x}\n"));
        write("device", &format!("{device:#06x}\n"));
        write("class", &format!("{class:#08x}\n"));
        write("driver_override", "(null)\n");
        self.kernel.attach(&self.function(bdf), driver);
    }

    pub(crate) fn add_group(&self, number: u32, members: &[Bdf]) {
        let group = self.path("sys/kernel/iommu_groups").join(number.to_string());
        fs::create_dir_all(group.join("devices")).unwrap();
        for member in members {
            symlink(self.function(*member), group.join("devices").join(member.to_string())).unwrap();
            symlink(&group, self.function(*member).join("iommu_group")).unwrap();
        }
    }

    pub(crate) fn driver_of(&self, bdf: Bdf) -> Option<String> {
        self.sysfs().function(bdf).unwrap().driver
    }

    pub(crate) fn override_of(&self, bdf: Bdf) -> String {
        fs::read_to_string(self.function(bdf).join("driver_override")).unwrap().trim().to_owned()
    }

    pub(crate) fn record_exists(&self) -> bool {
        self.state_dir().join("function-0000:00:03.0.json").exists()
    }
}

/// The function that most tests are about.
pub(crate) fn nic() -> Bdf {
    "0000:00:03.0".parse().unwrap()
}

/// A kernel without hardware.
#[derive(Debug)]
pub(crate) struct FakeKernel {
    root: PathBuf,
    state: Mutex<State>,
}

/// How the kernel behaves, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Every attribute written, as "NAME=VALUE".
    pub(crate) writes: Vec<String>,
    /// Drivers that are loaded but take no function.
    pub(crate) refusing_drivers: Vec<&'static str>,
    /// Attributes that may not be written.
    pub(crate) read_only: bool,
    /// How many more times opening a group says EBUSY.
    pub(crate) busy_opens: u32,
    /// What opening the group or the function says instead of working.
    pub(crate) open_error: Option<io::ErrorKind>,
    /// Opening the function finds the group not viable.
    pub(crate) not_viable: bool,
    /// What the directory for huge pages is not, when set.
    pub(crate) no_hugetlbfs: bool,
    /// What allocating huge pages says instead of working.
    pub(crate) allocation_error: Option<io::ErrorKind>,
    /// Physical addresses of the huge pages, in the order of the pool; frame numbers are hidden when empty.
    pub(crate) physical_addresses: Vec<u64>,
    /// The function opened last.
    pub(crate) function: Option<Arc<FakeFunction>>,
    /// How the next function opened behaves.
    pub(crate) next_function: FakeFunctionOptions,
    /// The index that the next interface gets, less one.
    pub(crate) interfaces_made: u32,
    /// The name that the next interface gets, if not eth0.
    pub(crate) interface_name: Option<&'static str>,
    /// What the kernel's network has.
    pub(crate) addresses: Vec<AddressMessage>,
    pub(crate) routes: Vec<RouteMessage>,
    /// Every interface changed.
    pub(crate) links: Vec<LinkMessage>,
    /// Which write of attributes or change of the network fails, counted from 0.
    pub(crate) fails_at: Option<usize>,
    /// How many there were.
    steps: usize,
    /// From the failure on nothing works any more, as after SIGKILL.
    dies: bool,
    /// The processes that were sent signals; each of them lets the group go.
    pub(crate) signals: Vec<(u32, Signal)>,
    /// Whether the holder of the group does not end when it is asked to.
    pub(crate) ignores_sigterm: bool,
    /// The clock.
    pub(crate) since_boot: Duration,
}

impl State {
    /// Counts a step, and lets it fail when its turn has come.
    fn step(&mut self) -> io::Result<()> {
        let step = self.steps;
        self.steps += 1;
        match self.fails_at {
            Some(at) if step == at || (self.dies && step > at) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            _ => Ok(()),
        }
    }

    /// Lets the step after `steps` further ones fail, and with `dies` all that follow it.
    pub(crate) fn fail_at(&mut self, steps: usize, dies: bool) {
        (self.steps, self.fails_at, self.dies) = (0, Some(steps), dies);
    }

    /// Gives the interface an address and two routes, as a lease of GCE's does.
    pub(crate) fn configure(&mut self) {
        let index = self.interfaces_made;
        let host = IpAddr::from([10, 0, 0, 2]);
        let gateway = RouteAddress::Inet([10, 0, 0, 1].into());
        let mut address = AddressMessage::default();
        address.header.index = index;
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = 32;
        address.attributes = vec![AddressAttribute::Local(host), AddressAttribute::Label("eth0".to_owned())];
        self.addresses.push(address);
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Dhcp;
        route.header.kind = RouteType::Unicast;
        let mut default = route.clone();
        default.attributes = vec![RouteAttribute::Gateway(gateway.clone()), RouteAttribute::Oif(index)];
        route.header.destination_prefix_length = 32;
        route.attributes = vec![RouteAttribute::Destination(gateway), RouteAttribute::Oif(index)];
        self.routes.extend([default, route]);
    }
}

impl FakeKernel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A driver takes a function: virtio-pci makes an interface, vfio-pci a group where there is none.
    fn attach(&self, function: &Path, driver: &str) {
        symlink(self.root.join("sys/bus/pci/drivers").join(driver), function.join("driver")).unwrap();
        match driver {
            "virtio-pci" => {
                let mut state = self.state();
                state.interfaces_made += 1;
                let interface = function.join("virtio0/net").join(state.interface_name.unwrap_or("eth0"));
                fs::create_dir_all(&interface).unwrap();
                let write =
                    |name: &str, text: &str| fs::write(interface.join(name), format!("{text}\n")).unwrap();
                write("address", MAC);
                write("ifindex", &state.interfaces_made.to_string());
                write("mtu", "1460");
                write("flags", "0x1003");
            }
            "vfio-pci" if !function.join("iommu_group").exists() => {
                let group = self.root.join("sys/kernel/iommu_groups/0");
                fs::create_dir_all(&group).unwrap();
                fs::write(group.join("name"), "vfio-noiommu\n").unwrap();
                symlink(group, function.join("iommu_group")).unwrap();
            }
            _ => {}
        }
    }

    fn detach(&self, function: &Path, driver: &str) -> io::Result<()> {
        let link = fs::read_link(function.join("driver"))?;
        if !link.ends_with(driver) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if driver == "vfio-pci" {
            assert_eq!(self.state().busy_opens, 0, "unbind of a held function would block for ever");
            let _ = fs::remove_dir_all(self.root.join("sys/kernel/iommu_groups/0"));
            if !function.join("iommu_group").exists() {
                let _ = fs::remove_file(function.join("iommu_group"));
            }
        }
        let _ = fs::remove_dir_all(function.join("virtio0"));
        // With the interface goes what it had.
        let mut state = self.state();
        state.addresses.clear();
        state.routes.clear();
        fs::remove_file(function.join("driver"))
    }

    fn probe(&self, function: &Path) {
        let chosen = fs::read_to_string(function.join("driver_override")).unwrap();
        let driver = if chosen.trim() == "(null)" { "virtio-pci" } else { chosen.trim() };
        let loaded = self.root.join("sys/bus/pci/drivers").join(driver).exists();
        if loaded && !function.join("driver").exists() && !self.state().refusing_drivers.contains(&driver) {
            self.attach(function, driver);
        }
    }

    fn function(&self, name: &str) -> PathBuf {
        self.root.join("sys/bus/pci/devices").join(name)
    }
}

impl Kernel for FakeKernel {
    fn write_attribute(&self, path: &Path, value: &str) -> io::Result<()> {
        let name = path.file_name().unwrap().to_str().unwrap();
        if self.state().read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.state().step()?;
        self.state().writes.push(format!("{name}={}", value.trim()));
        match name {
            "driver_override" => {
                let function = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
                let record = self.root.join(format!("run/netd/function-{function}.json"));
                assert!(value.trim() != "vfio-pci" || record.exists(), "taken before it was remembered");
                let value = if value.trim().is_empty() { "(null)\n" } else { value };
                fs::write(path, value)
            }
            "unbind" => {
                let driver = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
                self.detach(&self.function(value), driver)
            }
            "drivers_probe" => {
                self.probe(&self.function(value));
                Ok(())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open_group(&self, _node: &Path) -> io::Result<OwnedFd> {
        let mut state = self.state();
        if state.busy_opens > 0 {
            state.busy_opens -= 1;
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        match state.open_error {
            Some(kind) => Err(kind.into()),
            None => Ok(tempfile::tempfile()?.into()),
        }
    }

    fn open_function(&self, what: &OpenFunction<'_>) -> Result<Arc<dyn VfioFunction>, OpenFailure> {
        let mut state = self.state();
        if let Some(kind) = state.open_error {
            return Err(OpenFailure::Group(kind.into()));
        }
        if state.not_viable {
            return Err(OpenFailure::NotViable);
        }
        let iommu = matches!(what, OpenFunction::Iommu { .. });
        let function = Arc::new(FakeFunction::new(iommu, state.next_function.clone()));
        state.function = Some(Arc::clone(&function));
        Ok(function)
    }

    fn huge_page_bytes(&self, directory: &Path) -> io::Result<Option<u64>> {
        fs::metadata(directory)?;
        Ok((!self.state().no_hugetlbfs).then_some(HUGE_PAGE_BYTES as u64))
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        match self.state().allocation_error {
            Some(kind) => Err(kind.into()),
            None => file.set_len(bytes),
        }
    }

    fn pagemap_entries(&self, addresses: &[usize]) -> io::Result<Vec<u64>> {
        const PRESENT: u64 = 1 << 63;
        let state = self.state();
        let page = rustix::param::page_size() as u64;
        let frame = |index| state.physical_addresses.get(index).map_or(0, |address| address / page);
        Ok((0..addresses.len()).map(|index| PRESENT | frame(index)).collect())
    }

    fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        Ok(self.state().addresses.clone())
    }

    fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        Ok(self.state().routes.clone())
    }

    fn change_network(&self, change: Change) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        match change {
            Change::Link(link) => state.links.push(link),
            Change::Address(address) if state.addresses.contains(&address) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Change::Address(address) => state.addresses.push(address),
            Change::Route(route) if state.routes.contains(&route) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Change::Route(route) => state.routes.push(route),
        }
        Ok(())
    }

    fn signal(&self, process: u32, signal: Signal) -> io::Result<()> {
        let mut state = self.state();
        state.signals.push((process, signal));
        if !(state.ignores_sigterm && signal == Signal::TERM) {
            state.busy_opens = 0;
        }
        Ok(())
    }

    fn since_boot(&self) -> Duration {
        self.state().since_boot
    }
}

/// How a function behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFunctionOptions {
    pub(crate) no_reset: bool,
    /// What mapping memory in the IOMMU says instead of working.
    pub(crate) map_error: Option<io::ErrorKind>,
}

/// A function whose regions are parts of a file: configuration space, BAR 0 with I/O ports, BAR 4 with memory, BAR 5
/// that is gone from the device.
#[derive(Debug)]
pub(crate) struct FakeFunction {
    file: File,
    iommu: bool,
    options: FakeFunctionOptions,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) was_reset: AtomicBool,
}

pub(crate) const CONFIG_OFFSET: u64 = 0;
const CONFIG_BYTES: u64 = 256;
const IO_BAR: RegionInfo = RegionInfo { size: 64, offset: 4096, mappable: false };
const MEMORY_BAR: RegionInfo = RegionInfo { size: 4096, offset: 8192, mappable: true };
const LOST_BAR: RegionInfo = RegionInfo { size: 4096, offset: FILE_BYTES - 2, mappable: false };
const FILE_BYTES: u64 = 12288;

impl FakeFunction {
    fn new(iommu: bool, options: FakeFunctionOptions) -> FakeFunction {
        let file = tempfile::tempfile().unwrap();
        file.set_len(FILE_BYTES).unwrap();
        let (log, was_reset) = (Mutex::default(), AtomicBool::new(false));
        FakeFunction { file, iommu, options, log, was_reset }
    }

    pub(crate) fn bytes_at<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn note(&self, event: String) {
        self.log.lock().unwrap().push(event);
    }
}

impl VfioFunction for FakeFunction {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        Ok(match index {
            0 => IO_BAR,
            4 => MEMORY_BAR,
            5 => LOST_BAR,
            7 => RegionInfo { size: CONFIG_BYTES, offset: CONFIG_OFFSET, mappable: false },
            _ => RegionInfo::default(),
        })
    }

    fn interrupt_count(&self, index: u32) -> io::Result<u32> {
        // MSI-X, and the wish to have the function back.
        Ok(match index {
            2 => 3,
            4 => 1,
            _ => 0,
        })
    }

    fn set_interrupts(&self, index: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> io::Result<()> {
        self.note(format!("interrupts {index}: {} eventfds", eventfds.len()));
        Ok(())
    }

    fn can_reset(&self) -> io::Result<bool> {
        Ok(!self.options.no_reset)
    }

    fn reset(&self) -> io::Result<()> {
        self.was_reset.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn map_dma(&self, memory: &MmapRegion, iova: u64) -> io::Result<()> {
        assert!(self.iommu, "no IOMMU to map in");
        if let Some(kind) = self.options.map_error {
            return Err(kind.into());
        }
        self.note(format!("map {:#x} at {iova:#x}", memory.size()));
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, bytes: usize) -> io::Result<()> {
        self.note(format!("unmap {bytes:#x} at {iova:#x}"));
        Ok(())
    }
}
