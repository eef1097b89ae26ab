//! Virtual machines with a real virtio-net PCI function for VFIO to take.
//!
//! The two twins are the two worlds that netd lives in: [`Twin::Gce`] is Google's legacy device without an IOMMU, [`Twin::Viommu`]
//! a modern device behind an emulated VT-d.

mod accelerator;
mod qmp;

use crate::artifacts::{Artifacts, cache_directory};
use crate::ensure;
use crate::error::{Attempt, Error, Result};
use crate::guest::{Guest, protocol};
use crate::netns::Namespace;
use crate::process::{Background, wait_until};
pub use accelerator::Accelerator;
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A boot takes 3 to 5 s emulated on two idle cores; a minute means that it hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// With systemd it takes some 15 s on idle cores.
const DEBIAN_BOOT_LIMIT: Duration = Duration::from_secs(240);
/// Of the serial log, in messages.
const LOG_LINES_SHOWN: usize = 40;
/// Where the first NIC sits on the root bus; the following ones come after it.
const FIRST_NIC_SLOT: u8 = 3;
/// Behind every slot that a NIC may take.
const SERIAL_SLOT: u8 = 0x10;
const BRIDGE_SLOT: u8 = 0x11;
const DISK_SLOT: u8 = 0x12;

/// Which machine to imitate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Legacy virtio 0.9 on i440FX, no IOMMU, and a kernel with VFIO no-IOMMU mode.
    Gce,
    /// Modern virtio on Q35 behind an Intel IOMMU.
    Viommu,
}

impl Twin {
    /// As in `cargo xtask vm --twin NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Twin::Gce => "gce",
            Twin::Viommu => "viommu",
        }
    }

    /// What a virtio device needs beside its own properties.
    fn virtio_properties(self) -> &'static str {
        match self {
            Twin::Gce => "",
            Twin::Viommu => ",iommu_platform=on,disable-legacy=on",
        }
    }

    fn machine(self) -> &'static [&'static str] {
        match self {
            Twin::Gce => &["-machine", "pc"],
            Twin::Viommu => &[
                "-machine",
                "q35,kernel-irqchip=split",
                "-device",
                "intel-iommu,intremap=on,caching-mode=on",
            ],
        }
    }

    fn kernel_words(self) -> &'static str {
        match self {
            Twin::Gce => "",
            Twin::Viommu => "intel_iommu=on",
        }
    }

    /// What makes QEMU's virtio-net the machine's own: for GCE the features that were seen there, and no others.
    fn nic_properties(self) -> &'static str {
        match self {
            Twin::Gce => {
                "disable-modern=on,indirect_desc=off,any_layout=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,\
                 ctrl_mac_addr=off,guest_announce=off,host_ecn=off,guest_ecn=off,host_ufo=off,guest_ufo=off,\
                 rx_queue_size=1024"
            }
            Twin::Viommu => "iommu_platform=on,disable-legacy=on,packed=on",
        }
    }
}

/// What runs on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum System {
    /// busybox and our programs in memory: there within seconds.
    #[default]
    Initramfs,
    /// A whole Debian with systemd, users alice (2001) and bob (2002), nginx and sshd (not started), on a disk that forgets everything
    /// with the machine. Our programs are in /opt/netd-tests, the last directory of the harness's PATH.
    Debian,
}

/// Where a NIC's other end is.
#[derive(Clone, Debug)]
pub enum Wire {
    /// A tap of this name, in the namespace that the machine runs in.
    Tap(String),
    /// QEMU's own user-mode network.
    User,
    /// Nothing is connected.
    Nothing,
}

/// One network function of the machine.
#[derive(Clone, Debug)]
pub struct Nic {
    /// Its MAC address.
    pub mac: String,
    /// Where its other end is.
    pub wire: Wire,
    /// Whether it sits behind a conventional PCI bridge, where all functions share one IOMMU group (Q35 only).
    pub shares_group: bool,
}

impl Nic {
    /// A NIC of its own slot and group.
    pub fn new(mac: &str, wire: Wire) -> Nic {
        Nic { mac: mac.to_owned(), wire, shares_group: false }
    }
}

/// A machine that is not yet switched on.
#[derive(Debug)]
pub struct VmBuilder<'a> {
    twin: Twin,
    system: System,
    carried: Vec<PathBuf>,
    memory_mib: u32,
    hugepages: u32,
    nics: Vec<Nic>,
    namespace: Option<&'a Namespace>,
    extra: Vec<String>,
}

impl<'a> VmBuilder<'a> {
    /// What runs on it (an initramfs unless set).
    #[must_use]
    pub fn system(mut self, system: System) -> Self {
        self.system = system;
        self
    }

    /// Puts this file into a Debian's /opt/netd-tests, beside our programs.
    #[must_use]
    pub fn carry(mut self, file: &Path) -> Self {
        self.carried.push(file.to_owned());
        self
    }

    /// The size of the guest's memory (1024 MiB unless set).
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// How many hugepages of 2 MiB the guest's kernel sets aside (64 unless set).
    #[must_use]
    pub fn hugepages(mut self, hugepages: u32) -> Self {
        self.hugepages = hugepages;
        self
    }

    /// Adds a network function.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Runs QEMU in this namespace, where its taps are.
    #[must_use]
    pub fn namespace(mut self, namespace: &'a Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Adds arguments of QEMU.
    #[must_use]
    pub fn qemu_arguments(mut self, arguments: &[&str]) -> Self {
        self.extra.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Boots the machine and waits for its agent, and for everything that a Debian starts by itself.
    pub fn boot(self) -> Result<Vm> {
        let artifacts = Artifacts::obtain(self.twin, self.system, &self.carried)?;
        let boot_limit = self.system.boot_limit();
        let accelerator = Accelerator::detect(&artifacts.kernel)?;
        let directory = tempfile::Builder::new().prefix("netd-vm-").tempdir();
        let directory = directory.attempt(|| "make a directory for the machine's socket".to_owned())?;
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).attempt(|| format!("listen at {}", socket.display()))?;
        listener.set_nonblocking(true).attempt(|| "make the agent's socket non-blocking".to_owned())?;
        let logs = log_paths(self.twin)?;

        let mut qemu = self.qemu(&artifacts, accelerator, "");
        qemu.args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            &format!("file:{}", logs.serial.display()),
        ]);
        let control = directory.path().join("qmp.sock");
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
        qemu.args([
            "-device",
            &format!("virtio-serial-pci,id=agents,addr={SERIAL_SLOT:#x}"),
            "-chardev",
            &format!("socket,id=agent,path={}", socket.display()),
            "-device",
            &format!("virtserialport,chardev=agent,bus=agents.0,name={}", protocol::PORT_NAME),
        ]);
        let mut qemu = Background::spawn(&mut qemu, &logs.qemu)?;
        let mut connection = None;
        wait_until("QEMU's connection", boot_limit, || {
            if !qemu.is_running() {
                return Err(Error::Guest(format!("QEMU ended at once: {}", qemu.output())));
            }
            connection = listener.accept().ok().map(|(stream, _)| stream);
            Ok(connection.is_some())
        })?;
        let stream = connection.ok_or_else(|| Error::Guest("QEMU did not connect".to_owned()))?;
        stream.set_nonblocking(false).attempt(|| "make the agent's connection blocking".to_owned())?;
        let guest = Guest::greet(stream, boot_limit)
            .map_err(|error| Error::Guest(format!("{error}\n{}", tail(&logs.serial))))?;
        if self.system == System::Debian {
            wait_for_systemd(&guest, boot_limit)?;
        }
        let boot_messages = guest.run(&["dmesg", "-r"])?.lines().count();
        Ok(Vm {
            guest,
            boot_messages,
            twin: self.twin,
            accelerator,
            serial_log: logs.serial,
            bdfs: self.bdfs(),
            nics: self.nics,
            control,
            qemu,
            _directory: directory,
        })
    }

    /// Gives the machine's serial console to the terminal that we run on, until its shell ends.
    pub fn console(self) -> Result<process::ExitStatus> {
        let artifacts = Artifacts::obtain(self.twin, self.system, &self.carried)?;
        let accelerator = Accelerator::detect(&artifacts.kernel)?;
        let mut qemu = self.qemu(&artifacts, accelerator, "netd.shell");
        qemu.args(["-nographic", "-serial", "mon:stdio"]);
        qemu.status().attempt(|| "run qemu-system-x86_64".to_owned())
    }

    fn qemu(&self, artifacts: &Artifacts, accelerator: Accelerator, words: &str) -> Command {
        let mut qemu = match self.namespace {
            Some(namespace) => namespace.command("qemu-system-x86_64"),
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
                command
            }
        };
        qemu.args(self.twin.machine()).args(accelerator.arguments());
        qemu.args(["-smp", "2", "-m", &self.memory_mib.to_string(), "-nodefaults", "-no-reboot"]);
        qemu.arg("-kernel").arg(&artifacts.kernel).arg("-initrd").arg(&artifacts.initramfs);
        // no_timer_check: the kernel counts ticks at boot to see whether the timer works, and panics when a busy host delays them.
        let kernel_line = format!(
            "console=ttyS0 panic=-1 quiet no_timer_check hugepages={} {} {} {words}",
            self.hugepages,
            self.twin.kernel_words(),
            self.system.kernel_words()
        );
        qemu.args(["-append", kernel_line.trim_end()]);
        if self.nics.iter().any(|nic| nic.shares_group) {
            qemu.args(["-device", &format!("pcie-pci-bridge,id=shared,addr={BRIDGE_SLOT:#x}")]);
        }
        for (number, nic) in self.nics.iter().enumerate() {
            add_nic(&mut qemu, self.twin, number, nic);
        }
        if let Some(disk) = &artifacts.disk {
            // What the guest writes goes to a file that nobody else sees, and that ends with QEMU.
            let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}", disk.display());
            let properties = self.twin.virtio_properties();
            let device = format!("virtio-blk-pci,drive=disk,addr={DISK_SLOT:#x}{properties}");
            qemu.args(["-drive", &drive, "-device", &device]);
        }
        qemu.args(&self.extra);
        qemu
    }

    /// The addresses that [`add_nic`] gives.
    fn bdfs(&self) -> Vec<String> {
        let place = |(number, nic): (usize, &Nic)| {
            if nic.shares_group {
                format!("0000:01:{:02x}.0", number + 1)
            } else {
                format!("0000:00:{:02x}.0", usize::from(FIRST_NIC_SLOT) + number)
            }
        };
        self.nics.iter().enumerate().map(place).collect()
    }
}

impl System {
    fn boot_limit(self) -> Duration {
        match self {
            System::Initramfs => BOOT_LIMIT,
            System::Debian => DEBIAN_BOOT_LIMIT,
        }
    }

    fn kernel_words(self) -> &'static str {
        match self {
            System::Initramfs => "",
            System::Debian => "netd.disk=/dev/vda",
        }
    }
}

/// Until nothing is left to be started; a unit that failed is an error.
fn wait_for_systemd(guest: &Guest, limit: Duration) -> Result<()> {
    let wait = ["systemctl", "is-system-running", "--wait"];
    let state = guest.command(&wait).limit(limit).output()?.stdout_text();
    if state.trim() == "running" {
        return Ok(());
    }
    let failed = guest.script("systemctl --failed; journalctl --boot --priority=warning --no-pager").run()?;
    Err(Error::Guest(format!("the system is {}:\n{failed}", state.trim())))
}

fn add_nic(qemu: &mut Command, twin: Twin, number: usize, nic: &Nic) {
    match &nic.wire {
        Wire::Tap(name) => {
            let tap = format!("tap,id=net{number},ifname={name},script=no,downscript=no,vhost=off");
            qemu.args(["-netdev", &tap]);
        }
        Wire::User => {
            qemu.args(["-netdev", &format!("user,id=net{number}")]);
        }
        Wire::Nothing => {
            qemu.args(["-netdev", &format!("hubport,id=net{number},hubid={number}")]);
        }
    }
    qemu.args(["-device", &nic_device(twin, number, nic)]);
}

/// Its driver and properties, as QEMU's command line has them.
fn nic_device(twin: Twin, number: usize, nic: &Nic) -> String {
    let place = if nic.shares_group {
        format!("bus=shared,addr={:#x}", number + 1)
    } else {
        format!("addr={:#x}", usize::from(FIRST_NIC_SLOT) + number)
    };
    format!(
        "virtio-net-pci,id=nic{number},netdev=net{number},mac={},{place},{}",
        nic.mac,
        twin.nic_properties()
    )
}

/// A machine that runs; switched off on drop.
#[derive(Debug)]
pub struct Vm {
    guest: Guest,
    /// Lines in the kernel's log when the machine was up.
    boot_messages: usize,
    twin: Twin,
    accelerator: Accelerator,
    serial_log: PathBuf,
    nics: Vec<Nic>,
    bdfs: Vec<String>,
    control: PathBuf,
    qemu: Background,
    /// Holds the sockets as long as QEMU runs: fields are dropped in this order.
    _directory: tempfile::TempDir,
}

impl Vm {
    /// Describes a machine.
    pub fn builder<'a>(twin: Twin) -> VmBuilder<'a> {
        VmBuilder {
            twin,
            system: System::default(),
            carried: Vec::new(),
            memory_mib: 1024,
            hugepages: 64,
            nics: Vec::new(),
            namespace: None,
            extra: Vec::new(),
        }
    }

    /// Its inside.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Which machine it imitates.
    pub fn twin(&self) -> Twin {
        self.twin
    }

    /// How it runs.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The PCI address of a NIC, in the order in which they were added.
    pub fn bdf(&self, nic: usize) -> &str {
        &self.bdfs[nic]
    }

    /// Plugs the cable of a NIC in or out.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        let arguments = json!({ "name": format!("nic{nic}"), "up": up });
        qmp::execute(&self.control, "set_link", &arguments).map(drop)
    }

    /// Asks the guest to let a NIC go, and takes it out when the guest did (GCE's twin only: Q35's root bus has no slots to unplug from).
    pub fn unplug(&self, nic: usize) -> Result<()> {
        qmp::execute(&self.control, "device_del", &json!({ "id": format!("nic{nic}") })).map(drop)
    }

    /// Puts a NIC that was taken out back into its slot.
    pub fn plug(&self, nic: usize) -> Result<()> {
        let line = format!("device_add {}", nic_device(self.twin, nic, &self.nics[nic]));
        // The human's command takes what QEMU's command line has; it says nothing if all is well.
        let said = qmp::execute(&self.control, "human-monitor-command", &json!({ "command-line": line }))?;
        ensure!(said == "", "QEMU refused {line:?}: {said}");
        Ok(())
    }

    /// The process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// The end of what the kernel wrote to its console.
    pub fn console_tail(&self) -> String {
        tail(&self.serial_log)
    }

    /// What the kernel has warned of since the machine was up, but for what no-IOMMU mode always says.
    pub fn kernel_warnings(&self) -> Result<Vec<String>> {
        let log = self.guest.run(&["dmesg", "-r"])?;
        let since_boot = log.lines().skip(self.boot_messages);
        Ok(since_boot.filter(|line| is_warning(line) && !is_expected(line)).map(str::to_owned).collect())
    }
}

/// In raw form every line begins with its priority, "<4>": facility x 8 + level, of which 4 is a warning and less is worse.
fn is_warning(line: &str) -> bool {
    let priority = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    priority.and_then(|(number, _)| number.parse::<u32>().ok()).is_some_and(|number| number % 8 <= 4)
}

/// What says nothing about netd: what the kernel warns of whenever a function is used without an IOMMU, and of a host that was too
/// busy to run the guest for a moment.
fn is_expected(line: &str) -> bool {
    const EXPECTED: [&str; 3] = [
        "Adding kernel taint for vfio-noiommu group on device",
        "vfio-noiommu device opened by user",
        "hrtimer: interrupt took",
    ];
    EXPECTED.iter().any(|expected| line.contains(expected))
}

struct LogPaths {
    serial: PathBuf,
    qemu: PathBuf,
}

fn log_paths(twin: Twin) -> Result<LogPaths> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let directory = cache_directory()?.join("logs");
    fs::create_dir_all(&directory).attempt(|| format!("make {}", directory.display()))?;
    let name = format!("{}-{}-{}", twin.name(), process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Ok(LogPaths {
        serial: directory.join(format!("{name}.console")),
        qemu: directory.join(format!("{name}.qemu")),
    })
}

fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    format!("end of the console ({}):\n{}", path.display(), shown.join("\n"))
}
