//! A laboratory: one virtual machine whose NIC hangs on a bridge in a namespace, with a DHCP and DNS server there.
//!
//! ```text
//!   guest: netd - vfio-pci - virtio-net ==tap0== br0 (gateway, dnsmasq, peers) - lo (an address "behind the gateway")
//! ```

use crate::capture::{self, Allowed, Capture};
use crate::error::{Attempt, Error, Result};
use crate::guest::{Output, Process};
use crate::netns::Namespace;
use crate::peers::{self, Dnsmasq, LeasePlan};
use crate::process::wait_until;
use crate::vm::{Nic, System, Twin, Vm, Wire};
use crate::{ensure, install};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Emulated, netd starts within a second and a DHCP exchange takes another; the rest is room for a busy machine.
const LEASE_LIMIT: Duration = Duration::from_secs(30);
/// netd ends its sockets in order before it exits.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const BRIDGE: &str = "br0";
/// The tap that the machine's NIC hangs on.
pub const TAP: &str = "tap0";
const CONFIGURATION: &str = "/etc/netd.toml";
/// Where netd writes its proof.
pub const PROVIDER: &str = "/run/netd/provider.json";

/// The machine, the namespace and the servers of one scenario. Dropped from the inside out.
#[derive(Debug)]
pub struct Lab {
    /// The machine.
    pub vm: Vm,
    /// DHCP and DNS.
    pub dnsmasq: Dnsmasq,
    /// Where the programs of the other side run.
    pub namespace: Namespace,
    /// The addresses.
    pub plan: LeasePlan,
    judge: Option<Judge>,
}

/// Captures what passes the tap while a netd has the function, and lets tshark judge it.
///
/// The tap sees what the host sends before its own queue can overflow, and what the guest sends after QEMU took it from the ring. It
/// is listened to no longer than netd lives: what the kernel's driver sends has checksums that the host fills in after the tap.
#[derive(Debug)]
struct Judge {
    allowed: Vec<Allowed>,
    directory: TempDir,
    captures: AtomicU32,
}

impl Judge {
    fn new(allowed: &[Allowed]) -> Result<Judge> {
        Ok(Judge { allowed: allowed.to_vec(), directory: scratch()?, captures: AtomicU32::new(0) })
    }

    fn listen(&self, namespace: &Namespace) -> Result<Capture> {
        let number = self.captures.fetch_add(1, Ordering::Relaxed);
        Capture::start(namespace, TAP, &self.directory.path().join(format!("tap{number}.pcap")))
    }

    /// Copies the captures to where they outlive the laboratory, and names them.
    fn keep(&self) -> String {
        let files = (0..self.captures.load(Ordering::Relaxed)).filter_map(|number| {
            capture::keep(&self.directory.path().join(format!("tap{number}.pcap"))).ok()
        });
        files.map(|file| format!("captured: {}\n", file.display())).collect()
    }
}

impl Lab {
    /// Builds it: GCE's twin gets GCE's lease.
    pub fn new(twin: Twin) -> Result<Lab> {
        Lab::with(twin, System::Initramfs, &[])
    }

    /// The same with a Debian on the machine.
    pub fn debian(twin: Twin) -> Result<Lab> {
        Lab::debian_carrying(twin, &[])
    }

    /// The same with these files in the machine's /opt/netd-tests.
    pub fn debian_carrying(twin: Twin, files: &[&Path]) -> Result<Lab> {
        Lab::with(twin, System::Debian, files)
    }

    fn with(twin: Twin, system: System, files: &[&Path]) -> Result<Lab> {
        install::ensure(install::PEERS)?;
        let plan = match twin {
            Twin::Gce => peers::GCE,
            Twin::Viommu => peers::OFFICE,
        };
        let namespace = Namespace::new()?;
        let gateway = format!("{}/{}", plan.gateway, plan.prefix);
        let addresses: Vec<&str> =
            [gateway.as_str()].into_iter().chain(plan.further.iter().copied()).collect();
        namespace.bridge(BRIDGE, &addresses)?;
        namespace.tap(TAP, BRIDGE)?;
        namespace.ip(&format!("address add {}/32 dev lo", plan.remote))?;
        let dnsmasq = Dnsmasq::start(&namespace, BRIDGE, &plan)?;
        let nic = Nic::new(plan.mac, Wire::Tap(TAP.to_owned()));
        let machine = Vm::builder(twin).system(system).nic(nic).namespace(&namespace);
        let vm = files.iter().fold(machine, |machine, file| machine.carry(file)).boot()?;
        Ok(Lab { vm, dnsmasq, namespace, plan, judge: None })
    }

    /// Takes the NIC from the kernel.
    pub fn bind(&self) -> Result<()> {
        self.vm.guest().run(&["netd", "function", "bind", self.vm.bdf(0)])?;
        let driver = self.driver()?;
        ensure!(driver == "vfio-pci", "after `netd function bind` the driver is {driver:?}");
        Ok(())
    }

    /// Gives it back.
    pub fn release(&self) -> Result<()> {
        self.vm.guest().run(&["netd", "function", "release", self.vm.bdf(0)])?;
        let driver = self.driver()?;
        ensure!(driver == "virtio-pci", "after `netd function release` the driver is {driver:?}");
        Ok(())
    }

    /// The kernel driver that the NIC is bound to.
    pub fn driver(&self) -> Result<String> {
        let link = format!("basename $(readlink /sys/bus/pci/devices/{}/driver)", self.vm.bdf(0));
        Ok(self.vm.guest().script(&link).run()?.trim().to_owned())
    }

    /// Starts netd on the function and waits for its lease.
    pub fn start_netd(&self) -> Result<Daemon<'_>> {
        let daemon = self.launch(&configuration(self.vm.bdf(0), true))?;
        daemon.wait_for_lease()
    }

    /// Starts netd with a configuration, and waits for nothing.
    pub fn launch(&self, configuration: &str) -> Result<Daemon<'_>> {
        let guest = self.vm.guest();
        guest.write_file(CONFIGURATION, configuration.as_bytes())?;
        let capture = self.judge.as_ref().map(|judge| judge.listen(&self.namespace)).transpose()?;
        let process = guest.command(&["netd", "run", "--config", CONFIGURATION]).spawn()?;
        Ok(Daemon { lab: self, process, capture })
    }

    /// Runs netctl to its end.
    pub fn netctl(&self, arguments: &[&str]) -> Result<Output> {
        let argv: Vec<&str> = ["netctl"].into_iter().chain(arguments.iter().copied()).collect();
        self.vm.guest().command(&argv).output()
    }

    /// What a netctl command prints with `--json`.
    pub fn json(&self, command: &str) -> Result<Value> {
        let output = self.netctl(&["--json", command])?.success()?;
        let value = serde_json::from_str::<Value>(&output);
        value.map_err(|error| Error::Expectation(format!("netctl --json {command}: {error}:\n{output}")))
    }
}

/// A configuration for a function; every client may do everything that the devnet switch lets through. Every frame passes the tap as it
/// would pass a wire.
pub fn configuration(bdf: &str, devnet: bool) -> String {
    format!(
        "[network.devnet]\nenabled = {devnet}\n\n\
         [device]\nkind = \"vfio\"\nfunction = \"{bdf}\"\n{NO_OFFLOADS}poll = \"busy\"\n\n\
         [address]\nmode = \"dhcp\"\n\n{ANY_GRANT}"
    )
}

/// In a `[device]` table: checksums that are left to somebody else are wrong where they are captured.
pub const NO_OFFLOADS: &str = "features = { tx_checksum = false, rx_checksum = false }\n";

/// Everything to everyone.
pub const ANY_GRANT: &str = "[[grant]]\nsubject = \"any\"\n\
    allow = [\"net.tcp.connect\", \"net.tcp.listen\", \"net.udp.bind\", \"net.udp.send\", \"net.icmp.ping\"]\n";

/// netd in the guest.
#[derive(Debug)]
pub struct Daemon<'a> {
    lab: &'a Lab,
    /// The process.
    pub process: Process,
    capture: Option<Capture>,
}

impl<'a> Daemon<'a> {
    /// Waits until netd says that it has a lease from a DHCP server.
    pub fn wait_for_lease(mut self) -> Result<Daemon<'a>> {
        let waited = wait_until("a lease", LEASE_LIMIT, || {
            ensure!(self.process.is_running()?, "netd ended before it had a lease");
            let status = self.lab.netctl(&["--json", "status"])?;
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            Ok(status["address_source"] == "dhcp")
        });
        match waited {
            Ok(()) => Ok(self),
            Err(error) => Err(Error::Expectation(format!(
                "{error}\nnetd:\n{}\ndnsmasq:\n{}",
                self.process.output_so_far().map(Output::text).unwrap_or_default(),
                self.lab.dnsmasq.log()
            ))),
        }
    }

    /// Ends it with SIGTERM; it must return 0.
    pub fn terminate(mut self) -> Result<Output> {
        self.process.signal(rustix::process::Signal::TERM.as_raw())?;
        let output = self.process.wait(STOP_LIMIT)?;
        output.success()?;
        self.judge()?;
        Ok(output)
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(rustix::process::Signal::KILL.as_raw())?;
        self.process.wait(STOP_LIMIT)?;
        self.judge()
    }

    fn judge(&mut self) -> Result<()> {
        match (self.capture.take(), &self.lab.judge) {
            (Some(capture), Some(judge)) => {
                let file = capture.stop()?;
                // Kept elsewhere if it fails.
                let judged = capture::examine(&file, self.lab.plan.mac, &judge.allowed);
                fs::remove_file(&file).attempt(|| format!("remove {}", file.display()))?;
                judged
            }
            _ => Ok(()),
        }
    }
}

/// Runs a scenario in a fresh laboratory. Whatever it finds, the guest's kernel must have no complaint, and tshark none but those
/// allowed about what every netd has sent and received; a failure is shown with the logs.
pub fn scenario(twin: Twin, allowed: &[Allowed], body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    run(&Lab { judge: Some(Judge::new(allowed)?), ..Lab::new(twin)? }, body)
}

/// The same in a Debian.
pub fn debian_scenario(twin: Twin, allowed: &[Allowed], body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    run(&Lab { judge: Some(Judge::new(allowed)?), ..Lab::debian(twin)? }, body)
}

/// The same, with nobody to judge: for scenarios with offloads, whose frames pass the tap with checksums that nobody computed.
pub fn scenario_unjudged(twin: Twin, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    run(&Lab::new(twin)?, body)
}

fn run(lab: &Lab, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let result = body(lab).and_then(|()| {
        let warnings = lab.vm.kernel_warnings()?;
        ensure!(warnings.is_empty(), "the guest's kernel warned:\n{}", warnings.join("\n"));
        Ok(())
    });
    result.map_err(|error| {
        let captures = lab.judge.as_ref().map(Judge::keep).unwrap_or_default();
        Error::Expectation(format!("{error}\n{captures}{}", lab.vm.console_tail()))
    })
}

/// Runs a program of the other side to its end.
pub fn host_run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<String> {
    crate::process::run(namespace.command(program).args(arguments))
}

/// A directory for the files of one scenario.
pub fn scratch() -> Result<TempDir> {
    tempfile::Builder::new().prefix("netd-lab-").tempdir().attempt(|| "make a scratch directory".to_owned())
}
