//! What can go wrong between an operator's wish and a driven function, one variant per cause.
//!
//! Every message says what was wrong, where, and what would be right; where a command mends it, the command is in
//! the text. Sources are chained, not repeated.

use std::io;
use std::path::PathBuf;

use crate::{Bdf, Selector};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not the address of a PCI function.
    #[error(
        "{text:?} is not a PCI function: write it as `netd function list` prints it, for example 0000:00:03.0"
    )]
    InvalidAddress {
        /// What was given.
        text: String,
    },

    /// The text is not an Ethernet address.
    #[error(
        "{text:?} is not an Ethernet address: six bytes in hexadecimal are, for example 42:01:0a:00:00:02"
    )]
    InvalidMac {
        /// What was given.
        text: String,
    },

    /// The text names no function.
    #[error(
        "{text:?} names no network function: give its PCI address (0000:00:03.0), its Ethernet address \
         (42:01:0a:00:00:02), or \"second\" for the second network function of the machine"
    )]
    InvalidSelector {
        /// What was given.
        text: String,
    },

    /// No function answers to a selector.
    #[error("no network function of this machine is {selector}; network functions here: {present}")]
    NothingSelected {
        /// What was asked for.
        selector: Selector,
        /// The network functions that there are, or "none".
        present: String,
    },

    /// The machine has no such function.
    #[error("there is no PCI function {function} on this machine; network functions here: {present}")]
    NoSuchFunction {
        /// The function asked for.
        function: Bdf,
        /// The network functions that there are, or "none".
        present: String,
    },

    /// The function is not a virtio network device.
    #[error(
        "PCI function {function} is {vendor_id:04x}:{device_id:04x} (class {class:06x}), not a virtio network \
         device (1af4:1000 or 1af4:1041): `netd function list` shows which functions are"
    )]
    NotVirtioNet {
        /// The function asked for.
        function: Bdf,
        /// Its PCI vendor id.
        vendor_id: u16,
        /// Its PCI device id.
        device_id: u16,
        /// Its PCI class code, 24 bits.
        class: u32,
    },

    /// Taking the function would cut the machine off.
    #[error(
        "PCI function {function} carries this machine's default route (interface {interface}): taking it would cut \
         the machine off. Choose another function, or allow it with --allow-default-route"
    )]
    DefaultRoute {
        /// The function asked for.
        function: Bdf,
        /// The interface that the route goes through.
        interface: String,
    },

    /// Other functions of the IOMMU group belong to kernel drivers.
    #[error(
        "PCI function {function} shares IOMMU group {group} with functions that kernel drivers use: {others}. VFIO \
         hands out whole groups only: unbind these drivers too, or move the function to a slot of its own"
    )]
    GroupShared {
        /// The function asked for.
        function: Bdf,
        /// Number of the IOMMU group.
        group: u32,
        /// The other functions, each with its driver.
        others: String,
    },

    /// There is no IOMMU, and no-IOMMU mode is not available.
    #[error(
        "PCI function {function} is in no IOMMU group and VFIO's no-IOMMU mode is {state}: either give the machine an \
         IOMMU (kernel line intel_iommu=on or amd_iommu=on), or, where the hypervisor has none, load \
         VFIO with `modprobe vfio enable_unsafe_noiommu_mode=1` or `echo Y > \
         /sys/module/vfio/parameters/enable_unsafe_noiommu_mode` (the kernel needs CONFIG_VFIO_NOIOMMU)"
    )]
    NoIommuDisabled {
        /// The function asked for.
        function: Bdf,
        /// "off", or "absent" when the kernel shows no such parameter.
        state: &'static str,
    },

    /// The kernel has no vfio-pci driver loaded.
    #[error(
        "the kernel driver vfio-pci, which PCI function {function} needs, is not loaded: `modprobe vfio-pci`"
    )]
    VfioPciMissing {
        /// The function asked for.
        function: Bdf,
    },

    /// The function is not bound to vfio-pci.
    #[error(
        "PCI function {function} is bound to {driver}, not to vfio-pci: `netd function bind {function}` first"
    )]
    NotBound {
        /// The function asked for.
        function: Bdf,
        /// The driver it has, or "no driver".
        driver: String,
    },

    /// Somebody else takes the function or gives it back.
    #[error(
        "PCI function {function} is being taken or given back by another process (it holds {path}): wait for it, or end it"
    )]
    Locked {
        /// The function.
        function: Bdf,
        /// The file that it holds.
        path: PathBuf,
    },

    /// The kernel's network could not be asked or told.
    #[error("cannot {action} the kernel's interface on PCI function {function}")]
    Network {
        /// The function.
        function: Bdf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },

    /// The kernel's driver made no interface.
    #[error(
        "PCI function {function} is back with its driver, which has not made the interface that it had ({interface}): \
         `dmesg` may say why; then give it back once more"
    )]
    NoInterface {
        /// The function.
        function: Bdf,
        /// The interface's name.
        interface: String,
    },

    /// Some of what the kernel had could not be put back.
    #[error(
        "PCI function {function} is back with its driver, but the kernel did not take back {refused}: add it by hand \
         (`ip address`, `ip route`), or give the function back once more"
    )]
    NotRestored {
        /// The function.
        function: Bdf,
        /// What, each with the reason.
        refused: String,
    },

    /// Nobody waits for a confirmation.
    #[error(
        "there is nothing to confirm: PCI function {function} was not taken with --confirm, is confirmed, or was given back"
    )]
    NothingToConfirm {
        /// The function.
        function: Bdf,
    },

    /// A take-over was slower than its time.
    #[error(
        "the time to confirm was over before PCI function {function} was taken, so it stays where it is: try again with a longer --confirm"
    )]
    PledgeOver {
        /// The function.
        function: Bdf,
    },

    /// Somebody else has the group open.
    #[error("PCI function {function} is in use: another process holds {group} ({holder}); stop it first")]
    InUse {
        /// The function asked for.
        function: Bdf,
        /// The VFIO group node.
        group: PathBuf,
        /// The process that holds it, as far as /proc shows it.
        holder: String,
    },

    /// The kernel refused for lack of privilege.
    #[error("no permission to {action} {path}: it needs {needs}")]
    PermissionDenied {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The privilege that would be enough.
        needs: &'static str,
    },

    /// A file could not be read, written or made.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// A sysfs or proc file holds what this crate does not understand.
    #[error("{path} holds {value:?}, where {expected} was expected")]
    Unintelligible {
        /// The file.
        path: PathBuf,
        /// What it holds.
        value: String,
        /// What would be right.
        expected: &'static str,
    },

    /// The state file cannot be understood.
    #[error(
        "{path} does not say which driver PCI function {function} had: delete it and give the function back with \
         `echo > /sys/bus/pci/devices/{function}/driver_override; echo {function} > \
         /sys/bus/pci/drivers/vfio-pci/unbind; echo {function} > /sys/bus/pci/drivers_probe`"
    )]
    BadRecord {
        /// The function asked for.
        function: Bdf,
        /// The state file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },

    /// vfio-pci did not take the function; it has its former driver back.
    #[error("vfio-pci did not take PCI function {function}; it is back with {restored}. `dmesg` says why")]
    BindFailed {
        /// The function asked for.
        function: Bdf,
        /// The driver it has again.
        restored: String,
        /// The step that failed, where one said so.
        source: Option<Box<Error>>,
    },

    /// A function could not be brought to the driver it should have.
    #[error(
        "PCI function {function} should be with driver {driver} but is with {actual}: load the driver (`modprobe \
         {driver}`), then `echo {function} > /sys/bus/pci/drivers_probe`"
    )]
    DriverDidNotReturn {
        /// The function asked for.
        function: Bdf,
        /// The driver that should have it.
        driver: String,
        /// The driver that has it, or "no driver".
        actual: String,
    },

    /// A step of VFIO failed.
    #[error("VFIO cannot {step} for PCI function {function}")]
    Vfio {
        /// The function.
        function: Bdf,
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },

    /// The function has no such BAR.
    #[error("PCI function {function} has no BAR {bar}")]
    NoSuchBar {
        /// The function.
        function: Bdf,
        /// The BAR asked for.
        bar: u8,
    },

    /// The BAR cannot be mapped.
    #[error(
        "BAR {bar} of PCI function {function} cannot be mapped (I/O ports never can): use reads and writes"
    )]
    BarNotMappable {
        /// The function.
        function: Bdf,
        /// The BAR asked for.
        bar: u8,
    },

    /// An access leaves its region, or is not aligned to its width.
    #[error("{len} bytes at offset {offset:#x} of {region} (size {size:#x}) are outside it or not aligned")]
    BadAccess {
        /// The region, for example "BAR 0".
        region: Region,
        /// Where the access starts.
        offset: u64,
        /// How long it is.
        len: usize,
        /// How long the region is.
        size: u64,
    },

    /// A region was read or written only in part.
    #[error(
        "only {done} of {len} bytes at offset {offset:#x} of {region} were transferred: the function may be gone"
    )]
    ShortAccess {
        /// The region.
        region: Region,
        /// Where the access started.
        offset: u64,
        /// How long it was to be.
        len: usize,
        /// How much was transferred.
        done: usize,
    },

    /// More or fewer interrupt vectors were asked for than the function has.
    #[error(
        "PCI function {function} has {available} MSI-X vectors, {wanted} were asked for: 1 to {available} can be"
    )]
    Vectors {
        /// The function.
        function: Bdf,
        /// Vectors asked for.
        wanted: usize,
        /// Vectors it has.
        available: u32,
    },

    /// The function cannot be reset through VFIO.
    #[error(
        "PCI function {function} has no reset that VFIO can use (no FLR, and not alone on its bus): write 0 to its \
         virtio device status instead"
    )]
    NoReset {
        /// The function.
        function: Bdf,
    },

    /// The function has its DMA pool already.
    #[error("PCI function {function} has a DMA pool already: release it first, or open the function anew")]
    PoolExists {
        /// The function.
        function: Bdf,
    },

    /// The directory for huge pages is not a hugetlbfs mount.
    #[error(
        "{path} is not a hugetlbfs mount: `mkdir -p {path} && mount -t hugetlbfs none {path}`, or set [dma] hugetlbfs \
         to the mount that there is"
    )]
    NotHugetlbfs {
        /// The directory.
        path: PathBuf,
    },

    /// There are not enough free huge pages.
    #[error(
        "not enough huge pages in {path}: {needed} of {page_kib} KiB are needed, {free} are free: `{mend}`"
    )]
    NoHugepages {
        /// The hugetlbfs mount.
        path: PathBuf,
        /// Pages that the pool needs.
        needed: u64,
        /// Pages that are free and not reserved.
        free: u64,
        /// Size of a page in KiB.
        page_kib: u64,
        /// The command that makes enough of them.
        mend: String,
    },

    /// There are free huge pages, but not for this mount or this process.
    #[error(
        "{needed} huge pages of {page_kib} KiB are needed and {free} are free, but {path} does not give them out: \
         its mount option size= or this process's hugetlb cgroup allows less. `mount -o remount,size={bytes} {path}`"
    )]
    HugepagesLimited {
        /// The hugetlbfs mount.
        path: PathBuf,
        /// Pages that the pool needs.
        needed: u64,
        /// Pages that are free and not reserved.
        free: u64,
        /// Size of a page in KiB.
        page_kib: u64,
        /// The size that the mount should have at least.
        bytes: u64,
    },

    /// The pool was asked for with no bytes.
    #[error("a DMA pool of 0 bytes holds nothing: ask for at least one frame buffer")]
    EmptyPool,

    /// The kernel hides physical addresses.
    #[error(
        "the kernel hides physical addresses (/proc/self/pagemap shows none), which the no-IOMMU mode needs: start \
         netd with CAP_SYS_ADMIN"
    )]
    PhysicalAddressesHidden,

    /// A page of the pool is not where it must be.
    #[error("the DMA pool's page at offset {offset:#x} is not in memory (pagemap entry {entry:#018x})")]
    PageNotPresent {
        /// Offset into the pool.
        offset: usize,
        /// The pagemap entry.
        entry: u64,
    },

    /// The pool is more locked memory than the process may have.
    #[error(
        "mapping a DMA pool of {bytes} bytes needs more locked memory: set LimitMEMLOCK=infinity (`ulimit -l`)"
    )]
    LockedMemory {
        /// Size of the pool.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A region of a function: configuration space, or a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// PCI configuration space.
    Config,
    /// A base address register's window.
    Bar(u8),
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Region::Config => f.write_str("PCI configuration space"),
            Region::Bar(bar) => write!(f, "BAR {bar}"),
        }
    }
}

impl Error {
    /// Turns an I/O error into the error of a file, telling lack of privilege apart: every file that this crate
    /// writes belongs to root.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                Error::PermissionDenied { action, path, needs: "root, or the rights of its owner" }
            }
            _ => Error::File { action, path, source },
        }
    }
}
