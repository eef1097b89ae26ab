//! What netd does, shown to a person step by step; a step that fails ends the demo with an error.

use crate::embedded::{self, Embedded, Network, Options};
use crate::ensure;
use crate::error::{Attempt as _, Error, Result};
use crate::install;
use crate::lab::Lab;
use crate::peers::Nginx;
use crate::process::{Background, clean_up_on_interrupt, converse, run};
use crate::vm::Twin;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// What the host's web server offers in the demo.
const PAGE: &str = "hello from a program of the host\n";
const REQUEST: &[u8] = b"GET /hello.txt HTTP/1.0\r\n\r\n";
const WEB_PORT: u16 = 80;
const STEP_LIMIT: Duration = Duration::from_secs(15);

/// Numbers the steps and prints what each brought.
#[derive(Debug, Default)]
struct Narrator {
    step: u32,
}

impl Narrator {
    fn step(&mut self, title: &str) {
        self.step += 1;
        println!("\n{}. {title}", self.step);
    }

    fn show(text: &str) {
        for line in text.trim_end().lines() {
            println!("     {line}");
        }
    }

    /// Runs a command in front of the person; it must succeed.
    fn run(shown: &str, command: &mut Command) -> Result<String> {
        println!("   $ {shown}");
        let output = run(command)?;
        Narrator::show(&output);
        Ok(output)
    }
}

/// The embedded default: nobody needs a privilege, nothing is left behind.
pub fn embedded() -> Result<()> {
    clean_up_on_interrupt()?;
    let mut narrator = Narrator::default();
    println!("netd on the embedded default: a software virtio-net device, with passt as its wire.");
    narrator.step("What is needed: programs of Debian, and netd itself");
    install::ensure(install::EMBEDDED)?;
    let directory = embedded::private_directory()?;
    let network = Network::choose(directory.path())?;
    let port = embedded::free_port()?;

    narrator.step(&format!("passt and netd start, in {}", network.describe()));
    let options = Options { devnet: true, forwarded_port: port, judged: None };
    let embedded = Embedded::start(network, directory, options)?;
    println!("     netd is process {}, passt is process {}", embedded.netd.pid(), embedded.passt.pid());
    Narrator::show(&embedded.netd.output());

    narrator.step("The device that netd drives");
    Narrator::run("netctl device", &mut embedded.netctl(&["device"]))?;
    narrator.step("The lease that DHCP brought");
    Narrator::run("netctl interfaces", &mut embedded.netctl(&["interfaces"]))?;
    let gateway = embedded.host_address()?;
    narrator.step("A ping to the gateway");
    Narrator::run(&format!("netctl ping {gateway}"), &mut embedded.netctl(&["ping", &gateway]))?;

    narrator.step("A web server on the host (python3 -m http.server), reached through netd's TCP");
    let (web, web_port) = python_web_server(&embedded)?;
    let fetch = ["connect", gateway.as_str(), &web_port.to_string()];
    let mut netctl = embedded.netctl(&fetch);
    exchange(&format!("netctl {}", fetch.join(" ")), &mut netctl)?;

    narrator.step("The same from Python, with its standard library alone");
    exchange(&format!("client.py {}", fetch[1..].join(" ")), &mut embedded.python(&fetch[1..]))?;
    drop(web);

    narrator.step("A program of the host connects to a port that a client of netd listens on");
    inbound(&embedded, port)?;

    narrator.step("The daemon's account of it");
    Narrator::run("netctl status", &mut embedded.netctl(&["status"]))?;
    narrator.step("SIGTERM ends netd in order; passt ends with it, and every file is removed");
    embedded.terminate()?;
    println!("\nAll {} steps succeeded.", narrator.step);
    Ok(())
}

/// http.server on the loopback of the network, which passt maps the gateway's address to.
fn python_web_server(embedded: &Embedded) -> Result<(Background, u16)> {
    let files = embedded.path("files");
    fs::create_dir(&files).attempt(|| format!("make {}", files.display()))?;
    fs::write(files.join("hello.txt"), PAGE).attempt(|| "write the page".to_owned())?;
    let mut command = embedded.network.command("/usr/bin/python3");
    // Port 0: the server chooses one and prints it.
    command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(&files).arg("0");
    let mut server = Background::spawn(&mut command, &embedded.path("web.log"))?;
    let mut port = None;
    server.wait_until_ready(STEP_LIMIT, |output| {
        // "Serving HTTP on 127.0.0.1 port 41234 (http://127.0.0.1:41234/) ..."
        let words = output.split_whitespace().skip_while(|word| *word != "port");
        port = words.skip(1).find_map(|word| word.parse::<u16>().ok());
        Ok(port.is_some())
    })?;
    port.map(|port| (server, port)).ok_or_else(|| Error::Expectation("http.server named no port".to_owned()))
}

/// Types the request into a client and shows what comes back.
fn exchange(shown: &str, command: &mut Command) -> Result<()> {
    println!("   $ {shown}");
    println!("   > {}", String::from_utf8_lossy(REQUEST).trim_end());
    // Fails unless the page comes.
    let output = converse(command, REQUEST, PAGE, STEP_LIMIT)?;
    Narrator::show(&output);
    Ok(())
}

fn inbound(embedded: &Embedded, port: u16) -> Result<()> {
    println!("   $ netctl listen {port}     (and on the host: socat - TCP:127.0.0.1:{port})");
    let mut listen = embedded.netctl(&["listen", &port.to_string()]);
    let mut listener = Background::spawn(&mut listen, &embedded.path("listen.log"))?;
    crate::process::wait_until("the listener", STEP_LIMIT, || {
        Ok(embedded.json("sockets")?.to_string().contains("tcp_listener"))
    })?;
    let mut socat = embedded.network.command("socat");
    socat.args(["-t", "5", "-", &format!("TCP:127.0.0.1:{port}")]);
    converse(&mut socat, b"hello from socat on the host\n", "", STEP_LIMIT)?;
    let heard = listener.finish(STEP_LIMIT)?;
    Narrator::show(&heard);
    ensure!(heard.contains("hello from socat on the host"), "netctl listen heard {heard:?}");
    Ok(())
}

/// The same on a PCI function that VFIO takes from a guest's kernel.
pub fn vm(twin: Twin) -> Result<()> {
    ensure!(
        install::is_root(),
        "the demo in a machine needs root for its network namespace: sudo cargo xtask demo --vm"
    );
    clean_up_on_interrupt()?;
    let mut narrator = Narrator::default();
    println!(
        "netd on a virtio-net PCI function in QEMU ({} twin), taken from the kernel by VFIO.",
        twin.name()
    );
    narrator.step(
        "A namespace with a bridge, a DHCP server and a web server; a virtual machine with its NIC there",
    );
    let lab = Lab::new(twin)?;
    let nginx = Nginx::start(&lab.namespace, WEB_PORT)?;
    nginx.offer("hello.txt", PAGE.as_bytes())?;
    let bdf = lab.vm.bdf(0).to_owned();
    let show = |command: &[&str]| -> Result<String> {
        println!("   guest# {}", command.join(" "));
        let output = lab.vm.guest().run(command)?;
        Narrator::show(&output);
        Ok(output)
    };

    narrator.step("The function, still with the kernel");
    show(&["netd", "function", "list"])?;
    narrator.step("VFIO takes it");
    show(&["netd", "function", "bind", &bdf])?;
    show(&["ls", "/dev/vfio"])?;
    narrator.step("netd starts and gets a lease");
    let mut netd = lab.start_netd()?;
    Narrator::show(&netd.process.output_so_far()?.text());
    show(&["netctl", "device"])?;
    show(&["netctl", "interfaces"])?;
    narrator.step("Pings, to the gateway and from the host");
    show(&["netctl", "ping", lab.plan.gateway])?;
    let mut ping = lab.namespace.command("ping");
    Narrator::run(&format!("ping -c 2 {}", lab.plan.client), ping.args(["-c", "2", lab.plan.client]))?;
    narrator.step("A page from nginx on the other side");
    println!("   guest# netctl connect {} {WEB_PORT}", lab.plan.remote);
    let fetch = ["netctl", "connect", lab.plan.remote, &WEB_PORT.to_string()];
    let page = lab.vm.guest().command(&fetch).stdin(REQUEST).run()?;
    Narrator::show(&page);
    ensure!(page.ends_with(PAGE), "that is not the page");
    narrator.step("No interrupt was used");
    show(&["sh", "-c", "grep -c vfio /proc/interrupts || true"])?;
    narrator.step("SIGTERM, and the function goes back to the kernel");
    netd.terminate()?;
    show(&["netd", "function", "release", &bdf])?;
    let driver = lab.driver()?;
    Narrator::show(&format!("driver: {driver}"));
    ensure!(driver == "virtio-pci", "the driver is {driver}");
    println!("\nAll {} steps succeeded.", narrator.step);
    Ok(())
}
