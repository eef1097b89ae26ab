//! One function of one virtual machine under netd and under the kernel's own driver, against the same peer, alternating.
//!
//! ```text
//!   guest: netd-load ─ netd (poll = "busy") ─ vfio-pci ─┐
//!          netd-load ─ kernel ─ virtio-net ─────────────┴─ virtio-net-pci ══ tap ══ bridge ─ netd-load serve (kernel)
//! ```
//!
//! The same program makes the same load through either; the function changes hands between two rounds.

use super::account::cpu_time;
use super::load::{self, RoundTrips};
use super::report::{Console, Report, median};
use crate::binaries::Binaries;
use crate::ensure;
use crate::error::{Attempt, Result};
use crate::lab::{Lab, configuration, scratch};
use crate::peers::wait_for_listener;
use crate::process::Background;
use crate::vm::Twin;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Rounds of each, the one that begins alternating too.
const ROUNDS: usize = 5;
const BULK_SECONDS: &str = "3";
const ROUND_TRIPS: &str = "3000";
const CONNECTION_SECONDS: &str = "2";
/// As many as the client library keeps connections to the daemon.
const CONNECTION_THREADS: &str = "4";
const PORT: u16 = 7200;
/// The kernel keeps each in TIME-WAIT for a minute: the rounds before must not have used them up.
const LOCAL_PORTS: &str = "10000 65000";
/// For any single measurement, emulated on a busy host.
const LIMIT: Duration = Duration::from_secs(90);
/// How long netd is watched doing nothing, after what goes on when it has just begun.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_SETTLE: Duration = Duration::from_secs(12);
/// Linux's USER_HZ on every architecture that netd runs on.
const TICKS_PER_SECOND: u64 = 100;

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    /// Which machine.
    pub(super) twin: &'static str,
    /// "Kvm" or "Tcg": under the latter everything is emulated, and only ratios mean something.
    pub(super) accelerator: String,
    /// The medians of netd's rounds.
    pub(super) netd: Figures,
    /// The medians of the kernel's.
    pub(super) kernel: Figures,
    /// netd's through the kernel's.
    pub(super) ratio: Figures,
    /// The part of one of the guest's processors that netd uses with nothing to do, in adaptive mode.
    pub(super) idle_cpu: f64,
}

/// What one round measures.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Figures {
    /// Bits per second from the guest.
    pub(super) sent: f64,
    /// Bits per second to the guest.
    pub(super) received: f64,
    /// Microseconds.
    pub(super) round_trips: RoundTrips,
    /// Set up and closed per second.
    pub(super) connections: f64,
}

/// Boots the machine, lets both have their rounds, and states the ratios.
pub(super) fn run(twin: Twin, console: &Console) -> Result<()> {
    console.progress(&format!("a {} machine", twin.name()));
    let lab = Lab::new(twin)?;
    let directory = scratch()?;
    let mut server = lab.namespace.command(&Binaries::build()?.path("netd-load").to_string_lossy());
    server.args(["serve", &PORT.to_string()]);
    let mut server = Background::spawn(&mut server, &directory.path().join("serve.log"))?;
    wait_for_listener(&lab.namespace, &mut server, PORT + load::SOURCE)?;
    let accelerator = format!("{:?}", lab.vm.accelerator());
    let (mut netd, mut kernel) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Whoever comes second in a round comes first in the next, so that a host that slows down meanwhile is fair to both.
        let order =
            if round % 2 == 0 { [Driver::Netd, Driver::Kernel] } else { [Driver::Kernel, Driver::Netd] };
        for driver in order {
            console.progress(&format!("round {} of {ROUNDS}: {driver:?}", round + 1));
            match driver {
                Driver::Netd => netd.push(under_netd(&lab)?),
                Driver::Kernel => kernel.push(under_kernel(&lab)?),
            }
        }
    }
    console.progress("an idle netd (poll = \"adaptive\")");
    let idle_cpu = idle(&lab)?;
    let (netd, kernel) = (Figures::median(&netd), Figures::median(&kernel));
    let results =
        Results { twin: twin.name(), accelerator, netd, kernel, ratio: netd.through(&kernel), idle_cpu };
    show(console, &results);
    console.finish(&Report::new("machine", results))
}

#[derive(Clone, Copy, Debug)]
enum Driver {
    Netd,
    Kernel,
}

fn under_netd(lab: &Lab) -> Result<Figures> {
    if lab.driver()? != "vfio-pci" {
        lab.bind()?;
    }
    let netd = lab.launch(&unbounded(lab))?.wait_for_lease()?;
    let figures = measure(lab, "netd")?;
    netd.terminate()?;
    Ok(figures)
}

/// Everything to everyone, and as many connections as they can make.
fn unbounded(lab: &Lab) -> String {
    configuration(lab.vm.bdf(0), true) + "\n[limits.client]\nconnects_per_second = 1000000\n"
}

fn under_kernel(lab: &Lab) -> Result<Figures> {
    let interface = give_to_kernel(lab)?;
    let figures = measure(lab, "kernel")?;
    lab.vm.guest().run(&["ip", "link", "set", &interface, "down"])?;
    Ok(figures)
}

/// Has the kernel's driver take the function, with the address and the default route that DHCP would give; returns the interface.
pub(super) fn give_to_kernel(lab: &Lab) -> Result<String> {
    if lab.driver()? == "vfio-pci" {
        lab.release()?;
    }
    let find = format!("ls /sys/bus/pci/devices/{}/virtio*/net", lab.vm.bdf(0));
    let interface = lab.vm.guest().script(&find).run()?.trim().to_owned();
    let plan = &lab.plan;
    let mtu = plan.mtu();
    let configure = format!(
        "ip link set {interface} mtu {mtu} up && ip address flush dev {interface} && \
         ip address add {}/{} dev {interface} && ip route add default via {gateway} && \
         ping -c 1 -w 10 {gateway} >/dev/null && \
         echo '{LOCAL_PORTS}' > /proc/sys/net/ipv4/ip_local_port_range",
        plan.client,
        plan.prefix,
        gateway = plan.gateway
    );
    lab.vm.guest().script(&configure).run()?;
    Ok(interface)
}

fn measure(lab: &Lab, network: &str) -> Result<Figures> {
    let at = |port: u16| format!("{}:{}", lab.plan.gateway, PORT + port);
    let (discard, source, echo) = (at(load::DISCARD), at(load::SOURCE), at(load::ECHO));
    Ok(Figures {
        sent: ask(lab, &[network, "send", &discard, BULK_SECONDS])?,
        received: ask(lab, &[network, "receive", &source, BULK_SECONDS])?,
        round_trips: ask(lab, &[network, "round-trips", &echo, ROUND_TRIPS])?,
        connections: ask(lab, &[network, "connections", &discard, CONNECTION_SECONDS, CONNECTION_THREADS])?,
    })
}

fn ask<T: DeserializeOwned>(lab: &Lab, arguments: &[&str]) -> Result<T> {
    let argv: Vec<&str> = ["netd-load"].into_iter().chain(arguments.iter().copied()).collect();
    let answer = lab.vm.guest().command(&argv).limit(LIMIT).run()?;
    serde_json::from_str(&answer).attempt(|| format!("understand netd-load's {answer:?}"))
}

fn idle(lab: &Lab) -> Result<f64> {
    if lab.driver()? != "vfio-pci" {
        lab.bind()?;
    }
    let busy = unbounded(lab);
    let adaptive = busy.replace("poll = \"busy\"", "poll = \"adaptive\"");
    ensure!(busy != adaptive, "the configuration does not say how to wait");
    let netd = lab.launch(&adaptive)?.wait_for_lease()?;
    let stat = format!("/proc/{}/stat", netd.process.pid());
    let used = || cpu_time(&lab.vm.guest().read_file(&stat)?, TICKS_PER_SECOND);
    std::thread::sleep(IDLE_SETTLE);
    let before = used()?;
    std::thread::sleep(IDLE);
    let idle = used()?.saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64();
    netd.terminate()?;
    Ok(idle)
}

impl Figures {
    fn median(rounds: &[Figures]) -> Figures {
        Figures::each(|of| median(&rounds.iter().map(of).collect::<Vec<_>>()))
    }

    fn through(&self, other: &Figures) -> Figures {
        Figures::each(|of| of(self) / of(other))
    }

    /// Every figure by the same rule.
    fn each(figure: impl Fn(fn(&Figures) -> f64) -> f64) -> Figures {
        Figures {
            sent: figure(|figures| figures.sent),
            received: figure(|figures| figures.received),
            round_trips: RoundTrips {
                p50: figure(|figures| figures.round_trips.p50),
                p99: figure(|figures| figures.round_trips.p99),
                p999: figure(|figures| figures.round_trips.p999),
            },
            connections: figure(|figures| figures.connections),
        }
    }
}

fn show(console: &Console, results: &Results) {
    let Results { twin, accelerator, netd, kernel, ratio, idle_cpu } = results;
    let table = console.table(&["                     ", "netd", "kernel", "ratio"]);
    let row = |name: &str, of: fn(&Figures) -> f64, unit: f64| {
        let values = [of(netd) / unit, of(kernel) / unit, of(ratio)].map(|value| format!("{value:.2}"));
        table.row(&[name.to_owned()].into_iter().chain(values).collect::<Vec<_>>());
    };
    row("bulk out, Gbit/s", |figures| figures.sent, 1e9);
    row("bulk in, Gbit/s", |figures| figures.received, 1e9);
    row("round trip p50, us", |figures| figures.round_trips.p50, 1.0);
    row("round trip p99, us", |figures| figures.round_trips.p99, 1.0);
    row("round trip p99.9, us", |figures| figures.round_trips.p999, 1.0);
    row("connections/s", |figures| figures.connections, 1.0);
    let table = console.table(&["idle netd, adaptive", "% of a core"]);
    table.row(&[format!("{twin}, {accelerator}"), format!("{:.2}", idle_cpu * 100.0)]);
}

impl crate::peers::LeasePlan {
    /// What the client is told by DHCP.
    fn mtu(&self) -> &'static str {
        let told = self.options.iter().find_map(|option| option.strip_prefix("--dhcp-option=26,"));
        told.unwrap_or("1500")
    }
}
