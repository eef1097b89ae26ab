//! What outlives the daemon, and what changes while it runs: a lease kept over a restart, addresses, routes and hosts by SIGHUP.
//!
//! netd's tap hangs on a bridge in a namespace, where dnsmasq hands out leases and the kernel is a neighbour.

use netd_tests::binaries::Binaries;
use netd_tests::capture::{self, Allowed, Capture};
use netd_tests::embedded::private_directory;
use netd_tests::lab::NO_OFFLOADS;
use netd_tests::netns::Namespace;
use netd_tests::peers::{Dnsmasq, OFFICE};
use netd_tests::process::{Background, run, wait_until};
use netd_tests::{Error, Result, ensure, install};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Generous: the daemon itself takes a second, and its longest wait for a server that is gone about ten.
const LIMIT: Duration = Duration::from_secs(60);

/// What was tried when the system said no.
fn io(action: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action: action.to_owned(), source }
}

/// A bridge with a DHCP server, and a netd that is started and stopped on it.
struct Lab {
    daemon: Option<Background>,
    dnsmasq: Option<Dnsmasq>,
    capture: Capture,
    namespace: Namespace,
    binaries: Binaries,
    directory: TempDir,
}

impl Lab {
    fn new() -> Result<Lab> {
        install::ensure(install::PEERS)?;
        let (binaries, directory, namespace) = (Binaries::build()?, private_directory()?, Namespace::new()?);
        namespace.bridge("br0", &[&format!("{}/{}", OFFICE.gateway, OFFICE.prefix)])?;
        namespace.tap("tap0", "br0")?;
        let dnsmasq = Some(Dnsmasq::start(&namespace, "br0", &OFFICE)?);
        let capture = Capture::start(&namespace, "tap0", &directory.path().join("tap.pcap"))?;
        Ok(Lab { daemon: None, dnsmasq, capture, namespace, binaries, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration, with `address` in its table.
    fn configure(&self, address: &str) -> Result<()> {
        let text = format!(
            "[device]\nkind = \"software\"\nlink = {{ kind = \"tap\", interface = \"tap0\" }}\nmac = \"{}\"\n{NO_OFFLOADS}\
             [address]\n{address}\n[dns]\nhosts = {:?}\n[ipc]\nsocket = {:?}\n[state]\ndirectory = {:?}\n\
             [[grant]]\nsubject = \"any\"\nallow = [\"net.dns.resolve\"]\n[network.devnet]\nenabled = true\n",
            OFFICE.mac,
            self.path("hosts"),
            self.path("netd.sock"),
            self.path("state"),
        );
        fs::write(self.path("netd.toml"), text).map_err(io("write the configuration"))
    }

    fn start(&mut self) -> Result<()> {
        let mut netd = self.namespace.command(&self.binaries.path("netd").to_string_lossy());
        netd.args(["run", "--config"]).arg(self.path("netd.toml"));
        self.daemon = Some(Background::spawn(&mut netd, &self.path("netd.log"))?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::TERM)?;
        let status = daemon.wait(LIMIT)?;
        ensure!(status.success(), "netd ended with {status}:\n{}", daemon.output());
        Ok(())
    }

    /// Stops the daemon, and lets tshark judge what passed the tap.
    fn finish(mut self, allowed: &[Allowed]) -> Result<()> {
        self.stop()?;
        capture::examine(&self.capture.stop()?, OFFICE.mac, allowed)
    }

    fn reload(&self) -> Result<()> {
        self.daemon.as_ref().map_or(Ok(()), |daemon| daemon.signal(Signal::HUP))
    }

    fn netctl(&self, arguments: &[&str]) -> Result<String> {
        let mut netctl = self.namespace.command(&self.binaries.path("netctl").to_string_lossy());
        run(netctl.env("NETD_SOCKET", self.path("netd.sock")).args(arguments))
    }

    /// The interface as netctl shows it; nothing while the daemon does not answer yet.
    fn interface(&self) -> Option<Value> {
        let shown = self.netctl(&["interfaces", "--json"]).ok()?;
        serde_json::from_str::<Value>(&shown).ok()?.get(0).cloned()
    }

    /// Waits until the interface is as it should be.
    fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let waited = wait_until(what, LIMIT, || Ok(self.interface().as_ref().is_some_and(&condition)));
        let log = self.daemon.as_ref().map(Background::output).unwrap_or_default();
        waited.map_err(|error| Error::Expectation(format!("{error}\n{:#?}\n{log}", self.interface())))
    }

    fn wait_for_address(&self, address: &str, status: &str) -> Result<()> {
        self.wait_for(&format!("{address} {status}"), |interface| has_address(interface, address, status))
    }

    /// How often the DHCP server was asked so.
    fn asked(&self, message: &str) -> usize {
        let log = self.dnsmasq.as_ref().map(Dnsmasq::log).unwrap_or_default();
        log.lines().filter(|line| line.contains(message)).count()
    }
}

fn has_address(interface: &Value, address: &str, status: &str) -> bool {
    let details = interface["address_details"].as_array();
    details.is_some_and(|details| {
        details.iter().any(|detail| detail["address"] == *address && detail["status"] == *status)
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn lease_is_asked_for_again_after_a_restart_and_used_without_a_server() -> Result<()> {
    let mut lab = Lab::new()?;
    let address = format!("{}/{}", OFFICE.client, OFFICE.client_prefix);
    lab.configure("mode = \"dhcp\"")?;
    lab.start()?;
    lab.wait_for_address(&address, "preferred")?;
    lab.stop()?;
    let discovered = lab.asked("DHCPDISCOVER");
    ensure!(discovered > 0, "the first start found its server without looking for one");
    // INIT-REBOOT: the server is asked for the address at once, and not looked for.
    let acknowledged = lab.asked("DHCPACK");
    lab.start()?;
    lab.wait_for_address(&address, "preferred")?;
    lab.stop()?;
    ensure!(
        (lab.asked("DHCPDISCOVER"), lab.asked("DHCPACK")) == (discovered, acknowledged + 1),
        "the second start did not ask for its lease"
    );
    // Without a server the lease goes on, and an outsider sees the address at work.
    lab.dnsmasq = None;
    lab.start()?;
    lab.wait_for_address(&address, "preferred")?;
    run(lab.namespace.command("ping").args(["-c", "1", "-W", "10", OFFICE.client]))?;
    let interface = lab.interface().unwrap_or_default();
    ensure!(interface["dhcp_server"] == OFFICE.gateway, "{interface}");
    lab.stop()?;
    // A file that is none is ignored, and said so; the daemon starts all the same.
    let directory = lab.path("state");
    let entries = fs::read_dir(&directory).map_err(io("list the state directory"))?;
    let is_lease = |path: &PathBuf| path.to_string_lossy().contains("/lease-");
    let file = entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_lease);
    let Some(file) = file else {
        return Err(Error::Expectation("no lease file".to_owned()));
    };
    fs::write(&file, "{ \"version\": 1").map_err(io("spoil the lease file"))?;
    lab.start()?;
    lab.wait_for("searching", |interface| interface["address_source"] == "searching")?;
    let log = lab.daemon.as_ref().map(Background::output).unwrap_or_default();
    ensure!(log.contains("an earlier lease is ignored") && log.contains("malformed"), "{log}");
    lab.finish(&[])
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn addresses_and_routes_change_by_sighup_and_one_that_the_kernel_has_is_left_alone() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.configure("mode = \"static\"\ncidr = \"10.77.0.60/24\"")?;
    lab.start()?;
    lab.wait_for_address("10.77.0.60/24", "preferred")?;
    lab.namespace.ip("address add 10.77.0.62/24 dev br0")?;
    lab.namespace.ip("address add 192.168.7.1/24 dev br0")?;
    lab.configure(
        "mode = \"static\"\ncidr = \"10.77.0.60/24\"\ngateway = \"10.77.0.1\"\n\
         additional = [\"10.77.0.61/24\", \"10.77.0.62/24\", \"192.168.7.2/24\"]\n\
         routes = [{ to = \"172.16.0.0/12\", gateway = \"192.168.7.1\" }]",
    )?;
    lab.reload()?;
    lab.wait_for_address("10.77.0.62/24", "duplicated")?;
    lab.wait_for_address("192.168.7.2/24", "preferred")?;
    for address in ["10.77.0.60", "10.77.0.61", "192.168.7.2"] {
        run(lab.namespace.command("ping").args(["-c", "1", "-W", "10", address]))?;
    }
    lab.wait_for("the routes and the conflict", |interface| {
        let routes = interface["routes"].to_string();
        let events = interface["events"].to_string();
        interface["gateway"] == "10.77.0.1"
            && routes.contains("172.16.0.0/12")
            && events.contains("another host claims an address of ours")
    })?;
    lab.configure("mode = \"static\"\ncidr = \"10.77.0.63/24\"")?;
    lab.reload()?;
    lab.wait_for("one address", |interface| {
        interface["addresses"].as_array().is_some_and(|all| all.iter().any(|one| one == "10.77.0.63/24"))
            && !has_address(interface, "10.77.0.61/24", "preferred")
    })?;
    lab.finish(&[])
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn hosts_file_that_changes_is_read_again_without_being_told() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.configure("mode = \"static\"\ncidr = \"10.77.0.60/24\"\nhostname = \"a\"")?;
    let write = |lab: &Lab, text: &str| fs::write(lab.path("hosts"), text).map_err(io("write hosts"));
    write(&lab, "192.0.2.1 printer\n")?;
    lab.start()?;
    let resolves = |lab: &Lab, name: &str, to: &str| {
        wait_until(name, LIMIT, || Ok(lab.netctl(&["resolve", name]).is_ok_and(|shown| shown.contains(to))))
    };
    resolves(&lab, "printer", "192.0.2.1")?;
    write(&lab, "192.0.2.1 printer\n192.0.2.22 scanner\n")?;
    resolves(&lab, "scanner", "192.0.2.22")?;
    // Nobody on the wire was asked: there is no exchange to judge.
    lab.stop()
}
