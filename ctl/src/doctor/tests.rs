//! Each finding, on machines made of files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const RELEASE: &str = "6.1.0-18-amd64";

/// A VM where everything is right: two virtio functions, the default route on the first.
struct Files {
    directory: TempDir,
    clock: Option<bool>,
}

impl Files {
    fn good() -> Files {
        let files = Files { directory: tempfile::tempdir().unwrap(), clock: Some(true) };
        files.write("sys/class/dmi/id/sys_vendor", "QEMU\n");
        files.write("sys/class/dmi/id/product_name", "Standard PC\n");
        files.write("proc/sys/kernel/osrelease", &format!("{RELEASE}\n"));
        files.directory("sys/bus/pci/drivers/vfio-pci");
        files.directory("sys/bus/pci/drivers/virtio-pci");
        files.write("proc/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n");
        files.function("0000:00:03.0", "0x1000", "ens3");
        files.function("0000:00:04.0", "0x1000", "ens4");
        files.group("0000:00:04.0", 9, &["0000:00:04.0"]);
        files.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "16\n");
        files.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "16\n");
        files.write("proc/mounts", "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n");
        files.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
        files
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn directory(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn function(&self, bdf: &str, device: &str, interface: &str) {
        let below = format!("sys/bus/pci/devices/{bdf}");
        self.write(&format!("{below}/vendor"), "0x1af4\n");
        self.write(&format!("{below}/device"), &format!("{device}\n"));
        self.write(&format!("{below}/class"), "0x020000\n");
        self.write(&format!("{below}/virtio0/net/{interface}/address"), "42:01:0a:00:00:02\n");
        symlink(self.path("sys/bus/pci/drivers/virtio-pci"), self.path(&format!("{below}/driver"))).unwrap();
    }

    fn group(&self, bdf: &str, number: u32, members: &[&str]) {
        let group = format!("sys/kernel/iommu_groups/{number}");
        for member in members {
            self.directory(&format!("{group}/devices/{member}"));
        }
        symlink(self.path(&group), self.path(&format!("sys/bus/pci/devices/{bdf}/iommu_group"))).unwrap();
    }

    fn without_iommu() -> Files {
        let files = Files::good();
        files.remove("sys/bus/pci/devices/0000:00:04.0/iommu_group");
        files
    }

    fn examine(&self, function: &str) -> Report {
        let machine = Machine::new(self.directory.path(), self.clock);
        super::examine(&machine, function.parse().unwrap(), &self.path("run/netd"))
    }

    /// The one finding of a check about the second function.
    fn finding(&self, check: &str) -> Finding {
        let report = self.examine("second");
        let mut found = report.findings.into_iter().filter(|finding| finding.check == check);
        let finding = found.next().unwrap();
        assert_eq!(found.next(), None);
        finding
    }

    #[track_caller]
    fn expect(&self, check: &str, verdict: Verdict, text: &str, mend: &str) {
        let finding = self.finding(check);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.text.contains(text), "{finding:?}");
        assert!(finding.mend.clone().unwrap_or_default().contains(mend), "{finding:?}");
        assert!(!mend.is_empty() || finding.mend.is_none(), "{finding:?}");
    }
}

#[test]
fn good_machine_examined_has_nothing_to_mend() {
    let report = Files::good().examine("second");
    assert_eq!(report.verdict, Verdict::Ok, "{report:?}");
    assert!(report.findings.iter().all(|finding| finding.mend.is_none()) && report.unread.is_empty());
    let checks: Vec<&str> = report.findings.iter().map(|finding| finding.check).collect();
    let all = [
        "machine",
        "kernel",
        "vfio",
        "function",
        "driver",
        "route",
        "isolation",
        "hugepages",
        "lockdown",
        "clock",
    ];
    assert_eq!(checks, all);
}

#[test]
fn report_printed_has_a_line_for_each_finding_and_its_command() {
    let mut files = Files::good();
    files.clock = Some(false);
    let report = files.examine("second");
    let text = text(&report);
    assert_eq!(text.lines().count(), report.findings.len() + 1, "{text}");
    assert!(text.contains("warn  clock") && text.contains("-> timedatectl"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["verdict"], &json["findings"][9]["verdict"]), (&"warn".into(), &"warn".into()));
}

#[test]
fn machine_is_named_and_gce_is_known() {
    let files = Files::good();
    files.expect("machine", Verdict::Ok, "QEMU Standard PC, not GCE", "");
    files.write("sys/class/dmi/id/product_name", "Google Compute Engine\n");
    files.expect("machine", Verdict::Ok, "Google Compute Engine", "");
}

#[test]
fn kernel_too_old_fails_and_an_unmaintained_one_warns() {
    let files = Files::good();
    files.expect("kernel", Verdict::Ok, RELEASE, "");
    files.write("proc/sys/kernel/osrelease", "4.19.0-27-amd64\n");
    files.expect("kernel", Verdict::Warn, "4.19", "current kernel");
    files.write("proc/sys/kernel/osrelease", "3.10.0-1160.el7.x86_64\n");
    files.expect("kernel", Verdict::Fail, "needs 4.5", "current kernel");
    files.write("proc/sys/kernel/osrelease", "mainline\n");
    files.expect("kernel", Verdict::Warn, "unknown form", "");
    files.remove("proc/sys/kernel/osrelease");
    files.expect("kernel", Verdict::Warn, "cannot be read", "");
}

#[test]
fn vfio_not_loaded_is_loaded_and_absent_is_installed() {
    let files = Files::good();
    files.remove("sys/bus/pci/drivers/vfio-pci");
    files.expect("vfio", Verdict::Fail, "no vfio-pci", "linux-image-amd64");
    let list = format!("lib/modules/{RELEASE}/modules.dep");
    files.write(&list, "kernel/drivers/vfio/pci/vfio-pci-core.ko: x\n");
    files.expect("vfio", Verdict::Fail, "no vfio-pci", "linux-image-amd64");
    files.write(&list, "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n");
    files.expect("vfio", Verdict::Fail, "not loaded", "modprobe vfio-pci");
}

#[test]
fn function_that_is_not_there_or_of_another_kind_fails_with_the_list() {
    let files = Files::good();
    files.expect(
        "function",
        Verdict::Ok,
        "0000:00:04.0 is a virtio network function (1af4:1000, transitional)",
        "",
    );
    files.write("sys/bus/pci/devices/0000:00:04.0/device", "0x1041\n");
    files.expect("function", Verdict::Ok, "modern", "");
    files.write("sys/bus/pci/devices/0000:00:04.0/vendor", "0x8086\n");
    files.expect("function", Verdict::Fail, "no virtio network function", "netd function list");
    files.remove("sys/bus/pci/devices/0000:00:04.0");
    files.expect("function", Verdict::Fail, "here: 0000:00:03.0", "netd function list");
    let report = files.examine("0000:00:04.0");
    assert_eq!(report.verdict, Verdict::Fail);
}

#[test]
fn gvnic_on_gce_is_explained() {
    let files = Files::good();
    files.write("sys/class/dmi/id/product_name", "Google Compute Engine\n");
    files.write("sys/bus/pci/devices/0000:00:04.0/vendor", "0x1ae0\n");
    files.expect("function", Verdict::Fail, "gVNIC", "netd function list");
}

#[test]
fn driver_is_named_and_its_absence_is_a_cut_short_takeover() {
    let files = Files::good();
    files.expect("driver", Verdict::Ok, "virtio-pci has it, interface ens4", "");
    files.remove("sys/bus/pci/devices/0000:00:04.0/driver");
    files.expect("driver", Verdict::Warn, "cut short", "netctl release 0000:00:04.0");
    let driver = files.path("sys/bus/pci/devices/0000:00:04.0/driver");
    symlink(files.path("sys/bus/pci/drivers/vfio-pci"), driver).unwrap();
    files.expect("driver", Verdict::Ok, "taken already", "");
}

#[test]
fn function_with_the_default_route_fails() {
    let files = Files::good();
    let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                 ens4\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
    files.write("proc/net/route", table);
    files.expect("route", Verdict::Fail, "cut you off", "--allow-default-route --confirm 60s");
}

#[test]
fn group_shared_with_a_driver_in_use_fails() {
    let files = Files::without_iommu();
    files.group("0000:00:04.0", 5, &["0000:00:03.0", "0000:00:04.0"]);
    files.expect("isolation", Verdict::Fail, "0000:00:03.0 (virtio-pci)", "slot of its own");
}

#[test]
fn no_iommu_mode_on_warns_and_off_or_absent_fails_with_what_mends_it() {
    let files = Files::without_iommu();
    files.expect("isolation", Verdict::Fail, "not loaded", "modprobe vfio enable_unsafe_noiommu_mode=1");
    files.write(&format!("boot/config-{RELEASE}"), "# CONFIG_VFIO_NOIOMMU is not set\n");
    files.expect("isolation", Verdict::Fail, "built without", "CONFIG_VFIO_NOIOMMU");
    files.write(&format!("boot/config-{RELEASE}"), "CONFIG_VFIO_NOIOMMU=y\n");
    files.expect("isolation", Verdict::Fail, "not loaded", "modprobe vfio");
    files.directory("sys/module/vfio/parameters");
    files.expect("isolation", Verdict::Fail, "built without", "CONFIG_VFIO_NOIOMMU");
    files.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    files.expect("isolation", Verdict::Fail, "is off", "echo Y >");
    files.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    files.expect("isolation", Verdict::Warn, "owns the machine", "");
    files.write("sys/firmware/acpi/tables/DMAR", "");
    files.expect("isolation", Verdict::Fail, "does not use it", "intel_iommu=on");
}

#[test]
fn hugepages_too_few_unmounted_or_absent_fail() {
    let files = Files::good();
    files.expect("hugepages", Verdict::Ok, "16 of 16", "");
    files.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "2\n");
    files.expect("hugepages", Verdict::Fail, "2 of 16 are free", "vm.nr_hugepages=17");
    files.write("dev/hugepages/netd-0000:00:04.0", "");
    files.expect("hugepages", Verdict::Ok, "netd has its own", "");
    files.write("proc/mounts", "none /huge hugetlbfs rw,pagesize=1024M 0 0\n");
    files.expect("hugepages", Verdict::Fail, "no hugetlbfs", "mount -t hugetlbfs");
    files.remove("sys/kernel/mm/hugepages");
    files.expect("hugepages", Verdict::Fail, "no huge pages", "kernel");
}

#[test]
fn lockdown_in_force_warns() {
    let files = Files::good();
    files.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    files.expect("lockdown", Verdict::Warn, "integrity", "Secure Boot");
    files.remove("sys/kernel/security/lockdown");
    files.expect("lockdown", Verdict::Ok, "off", "");
}

#[test]
fn clock_that_nobody_vouches_for_warns() {
    let mut files = Files::good();
    files.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "kvm-clock\n");
    files.expect("clock", Verdict::Ok, "kvm-clock", "");
    files.clock = Some(false);
    files.expect("clock", Verdict::Warn, "nobody has told", "timedatectl");
    files.clock = None;
    files.expect("clock", Verdict::Warn, "does not say", "");
}

#[test]
fn file_that_cannot_be_read_is_reported_and_not_guessed() {
    let files = Files::good();
    files.remove("sys/kernel/security/lockdown");
    // Reading a directory fails for root, too.
    files.directory("sys/kernel/security/lockdown");
    files.expect("lockdown", Verdict::Warn, "cannot be read", "");
    let report = files.examine("second");
    assert!(
        matches!(&report.unread[..], [line] if line.starts_with("/sys/kernel/security/lockdown: ")),
        "{report:?}"
    );
}
