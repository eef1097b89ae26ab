//! netd on a vhost-user device, as an operator would run it: testpmd forwards between it and a tap in a namespace, where
//! a DHCP server and a web server are.
//!
//! ```text
//!   netctl - netd ==vhost-user== testpmd (io) ==tap== namespace: dnsmasq, nginx
//! ```

use netd_tests::binaries::Binaries;
use netd_tests::capture::{self, Capture};
use netd_tests::lab::ANY_GRANT;
use netd_tests::netns::{Namespace, wait_for_path};
use netd_tests::peers::{Dnsmasq, Nginx, OFFICE};
use netd_tests::process::{Background, converse, run, wait_until};
use netd_tests::testpmd::{self, Options, Testpmd};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(90);
const TAP: &str = "dtap0";
const PAGE: &[u8] = b"GET /hello.txt HTTP/1.0\r\n\r\n";

/// testpmd between the socket and a tap of its namespace; `connects`: it is the one that connects.
fn switch(namespace: &Namespace, directory: &Path, name: &str, connects: bool) -> Result<Testpmd> {
    let socket = testpmd::socket(directory);
    let client = if connects { ",client=1" } else { "" };
    let options = Options {
        devices: vec![
            format!("net_vhost0,iface={},queues=1{client}", socket.display()),
            format!("net_tap0,iface={TAP}"),
        ],
        cores: (0, 1),
        arguments: vec!["--forward-mode=io".to_owned()],
    };
    let mut device = Testpmd::start_in(namespace, name, directory, &options)?;
    namespace.ip(&format!("address add {}/{} dev {TAP}", OFFICE.gateway, OFFICE.prefix))?;
    namespace.ip(&format!("link set {TAP} up"))?;
    device.command("start")?;
    Ok(device)
}

struct Netd {
    process: Background,
    binaries: Binaries,
    directory: TempDir,
}

impl Netd {
    fn start(directory: TempDir, role: &str) -> Result<Netd> {
        let binaries = Binaries::build()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let configuration = format!(
            "[network.devnet]\nenabled = true\n\n\
             [device]\nkind = \"vhost-user\"\nsocket = \"{}\"\nrole = \"{role}\"\nmac = \"{}\"\npoll = \"adaptive\"\n\n\
             [address]\nmode = \"dhcp\"\n\n[ipc]\nsocket = \"{}\"\n\n[state]\ndirectory = \"{}\"\n\n{ANY_GRANT}",
            testpmd::socket(directory.path()).display(),
            OFFICE.mac,
            path("netd.sock"),
            path("state"),
        );
        let file = directory.path().join("netd.toml");
        std::fs::write(&file, configuration)
            .map_err(|source| Error::Io { action: "write netd.toml".to_owned(), source })?;
        let mut command = Command::new(binaries.path("netd"));
        command.args(["run", "--config"]).arg(&file);
        let process = Background::spawn(&mut command, &directory.path().join("netd.log"))?;
        let netd = Netd { process, binaries, directory };
        wait_for_path(&netd.directory.path().join("netd.sock"), LIMIT)
            .map_err(|error| Error::Expectation(format!("{error}\n{}", netd.process.output())))?;
        Ok(netd)
    }

    fn netctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.path("netctl"));
        command.args(arguments).env("NETD_SOCKET", self.directory.path().join("netd.sock"));
        command
    }

    fn json(&self, command: &str) -> Result<Value> {
        let text = run(&mut self.netctl(&["--json", command]))?;
        serde_json::from_str(&text).map_err(|error| Error::Expectation(format!("{error}:\n{text}")))
    }

    fn wait_for_lease(&mut self, resets: u64) -> Result<()> {
        let waited = wait_until("a lease", LIMIT, || {
            ensure!(self.process.is_running(), "netd ended");
            let bound = self.json("status").is_ok_and(|status| status["address_source"] == "dhcp");
            Ok(bound && self.json("device").is_ok_and(|device| device["resets"] == resets))
        });
        waited.map_err(|error| Error::Expectation(format!("{error}\n{}", self.process.output())))
    }

    /// DHCP went through already; now ping and a page over TCP.
    fn use_the_network(&self, nginx: &Nginx) -> Result<()> {
        let told = |error| Error::Expectation(format!("{error}\n{}", self.process.output()));
        run(&mut self.netctl(&["ping", OFFICE.gateway])).map_err(told)?;
        nginx.offer("hello.txt", b"hello from nginx\n")?;
        let mut connect = self.netctl(&["connect", OFFICE.gateway, &nginx.port.to_string()]);
        let page = converse(&mut connect, PAGE, "hello from nginx\n", LIMIT).map_err(told)?;
        ensure!(page.starts_with("HTTP/1.1 200"), "not the page:\n{page}");
        Ok(())
    }
}

#[test]
#[ignore = "installs DPDK, needs root for a namespace: cargo xtask test"]
fn lease_ping_and_page_come_through_testpmd_also_after_it_was_killed() -> Result<()> {
    let directory = testpmd::directory()?;
    let namespace = Namespace::new()?;
    let device = switch(&namespace, directory.path(), "first", false)?;
    let dnsmasq = Dnsmasq::start(&namespace, TAP, &OFFICE)?;
    let nginx = Nginx::start(&namespace, 8080)?;
    let capture = Capture::start(&namespace, TAP, &directory.path().join("first.pcap"))?;
    let mut netd = Netd::start(directory, "client")?;
    netd.wait_for_lease(0)?;
    netd.use_the_network(&nginx)?;
    let report = netd.json("device")?;
    ensure!(report["kind"] == "vhost_user" && report["backend"]["role"] == "client", "{report:#}");
    ensure!(report["features"].to_string().contains("VIRTIO_NET_F_MRG_RXBUF"), "{report:#}");
    ensure!(report["backend"]["protocol_features"].to_string().contains("REPLY_ACK"), "{report:#}");

    // The tap goes away with testpmd.
    capture::examine(&capture.stop()?, OFFICE.mac, &[])?;
    device.kill();
    wait_until("the loss of the device", LIMIT, || Ok(netd.json("device")?["state"] == "resetting"))?;
    drop(dnsmasq);
    let socket = testpmd::socket(netd.directory.path());
    std::fs::remove_file(&socket)
        .map_err(|source| Error::Io { action: "remove the socket".to_owned(), source })?;
    let path = netd.directory.path().to_owned();
    let _device = switch(&namespace, &path, "second", false)?;
    let capture = Capture::start(&namespace, TAP, &path.join("second.pcap"))?;
    let _dnsmasq = Dnsmasq::start(&namespace, TAP, &OFFICE)?;
    netd.wait_for_lease(1)?;
    netd.use_the_network(&nginx)?;
    capture::examine(&capture.stop()?, OFFICE.mac, &[])
}

#[test]
#[ignore = "installs DPDK, needs root for a namespace: cargo xtask test"]
fn netd_that_listens_waits_for_its_backend() -> Result<()> {
    let directory = testpmd::directory()?;
    let namespace = Namespace::new()?;
    let mut netd = Netd::start(directory, "server")?;
    let report = netd.json("device")?;
    ensure!(report["reason"].to_string().contains("has connected"), "{report:#}");
    let path = netd.directory.path().to_owned();
    let _device = switch(&namespace, &path, "device", true)?;
    let capture = Capture::start(&namespace, TAP, &path.join("tap.pcap"))?;
    let _dnsmasq = Dnsmasq::start(&namespace, TAP, &OFFICE)?;
    let nginx = Nginx::start(&namespace, 8080)?;
    netd.wait_for_lease(0)?;
    netd.use_the_network(&nginx)?;
    capture::examine(&capture.stop()?, OFFICE.mac, &[])
}
