//! What is done to a function while netd has it: its cable pulled, its driver unbound, the function itself taken out.
//!
//! Whoever takes a function away waits in the kernel, unkillably, until netd has closed it: so netd must, at once, and take it again when it
//! is back.

use crate::capture::Allowed;
use crate::ensure;
use crate::error::Result;
use crate::guest::Process;
use crate::lab::{Lab, scenario};
use crate::peers::Socat;
use crate::process::wait_until;
use crate::vm::Twin;
use std::time::Duration;

const PORT: u16 = 7100;
/// An answer from the other side, or netd's next look at the link.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
/// TCP repeats what was lost at ever longer intervals, up to a minute.
const REPEAT_LIMIT: Duration = Duration::from_secs(90);
/// netd tries every 10 s at most, and then waits for a lease.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
/// The peer has the connection still, of which netd knows no more.
const FORGOTTEN: Allowed = Allowed {
    remark: "Connection reset (RST)",
    on: "tcp.dstport == 7100",
    because: "the function was taken away with its connections, and nobody could tell the peer",
};

/// A connection outlives the time without a link, and what was sent meanwhile arrives.
pub fn cable_is_pulled_and_the_connection_lives_on_when_it_is_back(twin: Twin) -> Result<()> {
    scenario(twin, &[], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let (_echo, mut client) = connection(lab)?;
        lab.vm.set_link(0, false)?;
        wait_for_link(lab, false)?;
        client.write(b"while nobody listens\n")?;
        lab.vm.set_link(0, true)?;
        wait_for_link(lab, true)?;
        client.wait_for_text("while nobody listens", REPEAT_LIMIT)?;
        client.close_stdin()?;
        client.wait(EXCHANGE_LIMIT)?.success()?;
        let changes = lab.json("interfaces")?[0]["link_changes"].clone();
        ensure!(changes == 2, "the link changed twice, and netd says {changes}");
        netd.terminate().map(drop)
    })
}

/// Unbinding and taking out end within seconds although netd has the function; sockets fail by name, the memory is given back, and the same
/// netd takes the function again when it is there and bound.
pub fn function_taken_away_is_let_go_and_taken_again_when_it_is_back(twin: Twin) -> Result<()> {
    scenario(twin, &[FORGOTTEN], |lab| {
        lab.bind()?;
        let netd = lab.start_netd()?;
        let guest = lab.vm.guest();
        let bdf = lab.vm.bdf(0);

        let (_echo, client) = connection(lab)?;
        let unbind = format!("echo {bdf} > /sys/bus/pci/drivers/vfio-pci/unbind");
        guest.script(&unbind).limit(EXCHANGE_LIMIT).run()?;
        check_gone(lab, client)?;
        guest.script(&format!("echo {bdf} > /sys/bus/pci/drivers_probe")).run()?;
        wait_until_back(lab)?;

        let (_echo, client) = connection(lab)?;
        match twin {
            Twin::Gce => lab.vm.unplug(0)?,
            Twin::Viommu => {
                let remove = format!("echo 1 > /sys/bus/pci/devices/{bdf}/remove");
                guest.script(&remove).limit(EXCHANGE_LIMIT).run()?;
            }
        }
        wait_until("the function to be gone", EXCHANGE_LIMIT, || {
            Ok(!guest.script(&format!("test -e /sys/bus/pci/devices/{bdf}")).output()?.is_success())
        })?;
        check_gone(lab, client)?;
        match twin {
            Twin::Gce => lab.vm.plug(0)?,
            Twin::Viommu => drop(guest.script("echo 1 > /sys/bus/pci/rescan").run()?),
        }
        wait_until("the kernel's driver on the function", EXCHANGE_LIMIT, || {
            Ok(lab.driver().is_ok_and(|driver| driver == "virtio-pci"))
        })?;
        lab.bind()?;
        wait_until_back(lab)?;
        netd.terminate().map(drop)
    })
}

/// A client in the guest whose line came back from the host.
fn connection(lab: &Lab) -> Result<(Socat, Process)> {
    let listen = format!("TCP-LISTEN:{PORT},reuseaddr");
    let echo = Socat::listen(&lab.namespace, PORT, &[&listen, "EXEC:cat"])?;
    let port = PORT.to_string();
    let mut client = lab.vm.guest().command(&["netctl", "connect", lab.plan.gateway, &port]).spawn()?;
    client.write(b"a line\n")?;
    client.wait_for_text("a line", EXCHANGE_LIMIT)?;
    Ok((echo, client))
}

fn wait_for_link(lab: &Lab, up: bool) -> Result<()> {
    wait_until(&format!("a link that is up: {up}"), EXCHANGE_LIMIT, || {
        Ok(lab.json("status")?["link_up"] == up)
    })
}

/// Everybody is told that there is no device, and its memory is free.
fn check_gone(lab: &Lab, mut client: Process) -> Result<()> {
    let ended = client.wait(EXCHANGE_LIMIT)?;
    ensure!(!ended.is_success(), "the connection looked complete:\n{}", ended.text());
    ensure!(ended.text().contains("the device went away"), "why it ended is not said:\n{}", ended.text());
    let device = lab.json("device")?;
    let reason = device["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(lab.vm.bdf(0)), "netd does not say which function is gone:\n{device:#}");
    let refused = lab.netctl(&["ping", lab.plan.gateway])?;
    ensure!(!refused.is_success(), "a ping crossed a function that is gone:\n{}", refused.text());
    let left = lab.vm.guest().script("ls /dev/hugepages").run()?;
    ensure!(left.is_empty(), "memory that the function could reach is left: {left}");
    Ok(())
}

fn wait_until_back(lab: &Lab) -> Result<()> {
    wait_until("the function's return", RETURN_LIMIT, || {
        Ok(lab.json("device")?["state"] == "ready" && lab.json("status")?["address_source"] == "dhcp")
    })?;
    lab.netctl(&["ping", lab.plan.gateway])?.success().map(drop)
}
