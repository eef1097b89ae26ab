//! The checks: each looks at one thing and says how it is, and which command mends it.

use std::path::Path;

use netd_vfio::{Bdf, Function, Selector, VFIO_PCI, check_group};

use super::machine::{Built, Machine};
use super::{Finding, Verdict};
use crate::output::list;

/// VFIO's no-IOMMU mode came with this release of Linux.
const KERNEL_OLDEST: (u32, u32) = (4, 5);
/// The oldest long-term release that its maintainers still mend.
const KERNEL_KEPT: (u32, u32) = (5, 10);
/// Of 2 MiB: what netd's rings and frames take with their default sizes.
const HUGEPAGES_NEEDED: u64 = 3;
const HUGEPAGES: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
/// What Compute Engine's firmware says of itself.
const GCE_PRODUCT: &str = "Google Compute Engine";

/// GCE or not: what is normal there differs.
pub(super) fn platform(machine: &Machine) -> Finding {
    if is_gce(machine) {
        return Finding::ok("machine", "a VM of Google Compute Engine: no IOMMU is to be expected");
    }
    let named = |path: &str| machine.read(path).filter(|text| !text.is_empty());
    let vendor = named("sys/class/dmi/id/sys_vendor");
    let product = named("sys/class/dmi/id/product_name");
    let name: Vec<String> = vendor.into_iter().chain(product).collect();
    let name =
        if name.is_empty() { "a machine that does not name itself".to_owned() } else { name.join(" ") };
    Finding::ok("machine", format!("{name}, not GCE"))
}

fn is_gce(machine: &Machine) -> bool {
    machine.read("sys/class/dmi/id/product_name").is_some_and(|product| product == GCE_PRODUCT)
}

pub(super) fn kernel(machine: &Machine) -> Finding {
    let Some(release) = machine.release() else {
        return Finding::warn("kernel", "its release cannot be read", None);
    };
    match version(&release) {
        Some(version) if version < KERNEL_OLDEST => {
            let (major, minor) = KERNEL_OLDEST;
            Finding::fail(
                "kernel",
                format!("Linux {release}: VFIO without an IOMMU needs {major}.{minor}"),
                update(),
            )
        }
        Some(version) if version < KERNEL_KEPT => {
            Finding::warn("kernel", format!("Linux {release} is not maintained any more"), update())
        }
        Some(_) => Finding::ok("kernel", format!("Linux {release}")),
        None => Finding::warn("kernel", format!("Linux {release}: a release of an unknown form"), None),
    }
}

fn update() -> Option<String> {
    Some("install the distribution's current kernel, and reboot".to_owned())
}

/// "6.1.0-18-cloud-amd64" is 6.1.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn vfio(machine: &Machine) -> Finding {
    if machine.sysfs().vfio_pci_loaded() {
        return Finding::ok("vfio", format!("{VFIO_PCI} is loaded"));
    }
    if machine.has_module(VFIO_PCI) {
        return Finding::fail("vfio", format!("{VFIO_PCI} is not loaded"), format!("modprobe {VFIO_PCI}"));
    }
    let mend = "install a kernel with VFIO: on Debian `apt-get install linux-image-amd64`, on Ubuntu `apt-get install \
                linux-modules-extra-$(uname -r)`";
    Finding::fail("vfio", format!("this kernel has no {VFIO_PCI}"), mend.to_owned())
}

/// The function that is meant, or why there is none.
pub(super) fn function(
    machine: &Machine,
    selector: Selector,
    state: &Path,
) -> Result<(Function, Finding), Finding> {
    const LIST: &str = "netd function list";
    let failed = |error: netd_vfio::Error| Finding::fail("function", error.to_string(), LIST.to_owned());
    let sysfs = machine.sysfs();
    let bdf = selector.resolve(sysfs, state).map_err(failed)?;
    let found = sysfs.function(bdf).map_err(failed)?;
    let Function { vendor_id, device_id, .. } = found;
    let finding = if found.is_virtio_net() {
        let kind = if device_id == 0x1000 { "transitional" } else { "modern" };
        Finding::ok(
            "function",
            format!("{bdf} is a virtio network function ({vendor_id:04x}:{device_id:04x}, {kind})"),
        )
    } else {
        let why = match (vendor_id, is_gce(machine)) {
            (0x1ae0, true) => {
                ": it is a gVNIC; choose VirtIO-Net when the VM is made (first and second generation series)"
            }
            _ => "",
        };
        let text = format!("{bdf} is {vendor_id:04x}:{device_id:04x}, and no virtio network function{why}");
        Finding::fail("function", text, LIST.to_owned())
    };
    Ok((found, finding))
}

pub(super) fn driver(found: &Function) -> Finding {
    let Function { bdf, driver, .. } = found;
    match driver.as_deref() {
        Some(VFIO_PCI) => Finding::ok("driver", format!("{VFIO_PCI} has it: it is taken already")),
        Some(driver) => {
            let names: Vec<&str> = found.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            Finding::ok("driver", format!("{driver} has it, interface {}", list(&names)))
        }
        None => Finding::warn(
            "driver",
            "no driver has it: a take-over or a release was cut short".to_owned(),
            format!("netctl release {bdf}"),
        ),
    }
}

pub(super) fn default_route(found: &Function) -> Finding {
    if !found.default_route {
        return Finding::ok("route", "no default route goes through it");
    }
    let mend = format!(
        "choose another function (netd function list), or: netctl takeover {} --allow-default-route --confirm 60s",
        found.bdf
    );
    Finding::fail("route", "the default route goes through it: taking it may cut you off", mend)
}

pub(super) fn isolation(machine: &Machine, found: Option<&Function>) -> Finding {
    match found {
        Some(function) if function.iommu_group.is_some() => group(machine, function),
        // Without a function, what the machine has for any of them.
        None if machine.entries("sys/class/iommu") > 0 => {
            Finding::ok("isolation", "the machine has an IOMMU")
        }
        _ => no_iommu(machine),
    }
}

fn group(machine: &Machine, function: &Function) -> Finding {
    let group = function.iommu_group.map_or_else(String::new, |group| format!("IOMMU group {group}"));
    match check_group(machine.sysfs(), function) {
        Ok(()) => Finding::ok("isolation", format!("{group}: the IOMMU confines the function")),
        Err(error) => {
            let mend = "netd function list, and unbind the others, or move the function to a slot of its own";
            Finding::fail("isolation", error.to_string(), mend.to_owned())
        }
    }
}

fn no_iommu(machine: &Machine) -> Finding {
    let firmware_has_one =
        ["DMAR", "IVRS"].iter().any(|table| machine.exists(format!("sys/firmware/acpi/tables/{table}")));
    if firmware_has_one {
        let mend = "add intel_iommu=on (AMD: amd_iommu=on) to GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub and reboot";
        return Finding::fail(
            "isolation",
            "the machine has an IOMMU, and the kernel does not use it",
            mend.to_owned(),
        );
    }
    const MODE: &str = "VFIO's no-IOMMU mode";
    let kernel =
        "boot a kernel with CONFIG_VFIO_NOIOMMU (Ubuntu's and Rocky's have it, Debian's have not)".to_owned();
    match machine.sysfs().no_iommu_enabled() {
        Ok(Some(true)) => Finding::warn(
            "isolation",
            format!("none: {MODE} is on, so whoever takes over netd owns the machine"),
            None,
        ),
        Ok(Some(false)) => Finding::fail(
            "isolation",
            format!("no IOMMU, and {MODE} is off"),
            "echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode; for good: echo 'options vfio \
             enable_unsafe_noiommu_mode=1' > /etc/modprobe.d/netd-vfio.conf"
                .to_owned(),
        ),
        Ok(None)
            if machine.exists("sys/module/vfio")
                || machine.built_with("CONFIG_VFIO_NOIOMMU") == Built::No =>
        {
            Finding::fail("isolation", format!("no IOMMU, and this kernel is built without {MODE}"), kernel)
        }
        Ok(None) => Finding::fail(
            "isolation",
            format!("no IOMMU, and {MODE} is off: VFIO is not loaded"),
            mode_command(),
        ),
        Err(error) => Finding::warn(
            "isolation",
            format!("no IOMMU, and whether {MODE} is on cannot be read: {error}"),
            None,
        ),
    }
}

fn mode_command() -> String {
    "modprobe vfio enable_unsafe_noiommu_mode=1 && modprobe vfio-pci".to_owned()
}

pub(super) fn hugepages(machine: &Machine, found: Option<&Function>) -> Finding {
    let (Some(total), Some(free)) = (
        machine.number(&format!("{HUGEPAGES}/nr_hugepages")),
        machine.number(&format!("{HUGEPAGES}/free_hugepages")),
    ) else {
        return Finding::fail("hugepages", "this kernel has no huge pages of 2 MiB", update());
    };
    let mounts = machine.read("proc/mounts").unwrap_or_default();
    let Some(mount) = mounts.lines().find_map(hugetlbfs_mount) else {
        let mend =
            "mkdir -p /dev/hugepages && mount -t hugetlbfs -o pagesize=2M none /dev/hugepages".to_owned();
        return Finding::fail("hugepages", "no hugetlbfs is mounted", mend);
    };
    // netd's own file keeps its pages while it runs, and after it was killed.
    let in_use = found.is_some_and(|Function { bdf, .. }| machine.exists(pool(mount, *bdf)));
    if in_use {
        return Finding::ok(
            "hugepages",
            format!("netd has its own in {mount}; {free} of {total} are free beside them"),
        );
    }
    if free >= HUGEPAGES_NEEDED {
        return Finding::ok(
            "hugepages",
            format!("{free} of {total} are free ({HUGEPAGES_NEEDED} are needed), {mount}"),
        );
    }
    let wanted = total + HUGEPAGES_NEEDED - free;
    let mend = format!(
        "sysctl -w vm.nr_hugepages={wanted}; for good: echo vm.nr_hugepages={wanted} > /etc/sysctl.d/60-netd.conf"
    );
    Finding::fail(
        "hugepages",
        format!("{HUGEPAGES_NEEDED} of 2 MiB are needed, {free} of {total} are free"),
        mend,
    )
}

/// The file of a function's memory.
fn pool(mount: &str, function: Bdf) -> String {
    format!("{}/netd-{function}", mount.trim_start_matches('/'))
}

/// Where a line of /proc/mounts says that huge pages of 2 MiB are mounted.
fn hugetlbfs_mount(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let (_source, target, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
    (kind == "hugetlbfs" && !options.contains("pagesize=1024M")).then_some(target)
}

pub(super) fn lockdown(machine: &Machine) -> Finding {
    // "none [integrity] confidentiality": the brackets are around what is in force.
    let modes = machine.read("sys/kernel/security/lockdown");
    let mode =
        modes.as_deref().and_then(|text| text.split_once('[')?.1.split_once(']')).map(|(mode, _)| mode);
    match mode {
        None if machine.is_hidden("sys/kernel/security/lockdown") => {
            Finding::warn("lockdown", "whether the kernel is locked down cannot be read", None)
        }
        None | Some("none") => Finding::ok("lockdown", "off"),
        Some(mode) => {
            let mend = "switch Secure Boot off, if VFIO's modules or their parameters are refused (`dmesg | grep -i lockdown`)";
            let text = format!("{mode}: modules that the distribution has not signed are refused");
            Finding::warn("lockdown", text, mend.to_owned())
        }
    }
}

pub(super) fn clock(machine: &Machine) -> Finding {
    let source = machine
        .read("sys/devices/system/clocksource/clocksource0/current_clocksource")
        .map_or_else(String::new, |source| format!(" (clock source {source})"));
    let (verdict, text, mend) = match machine.clock() {
        Some(true) => (Verdict::Ok, format!("synchronised{source}"), None),
        Some(false) => (
            Verdict::Warn,
            format!(
                "nobody has told the kernel that it is right{source}: until a time server confirms it, HTTPS is refused"
            ),
            Some("timedatectl set-ntp true, or apt-get install chrony".to_owned()),
        ),
        None => (Verdict::Warn, format!("the kernel does not say whether it is right{source}"), None),
    };
    Finding { check: "clock", verdict, text, mend }
}
