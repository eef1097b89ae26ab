//! status, device, interfaces, sockets: what netd says about itself.

use std::process::ExitCode;

use netd_ipc::{Client, Device, DeviceState, Interface, Isolation, Queue, Socket, Status, Traffic};

use crate::error::Error;
use crate::output::{Output, bytes, fields, list, name, or_dash, span, table};

pub(crate) fn status(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let status = client.status()?;
    output.result(&status, || status_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn device(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let device = client.device()?;
    output.result(&device, || device_text(&device))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn interfaces(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let interfaces = client.interfaces()?;
    output.result(&interfaces, || {
        if interfaces.is_empty() {
            return "no interfaces: there is no live device (see netctl device)\n".to_owned();
        }
        interfaces.iter().map(interface_text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn sockets(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let sockets = client.sockets()?;
    output.result(&sockets, || {
        if sockets.is_empty() { "no sockets\n".to_owned() } else { sockets_text(&sockets) }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &Status) -> String {
    let devnet = if status.devnet_enabled {
        "on: clients reach peers as grants allow"
    } else {
        "off: no client reaches a peer ([network.devnet] enabled = false in netd.toml)"
    };
    let mut text = fields(&[
        ("netd", format!("{}, process {}, up {}", status.version, status.pid, span(status.uptime_seconds))),
        ("device", format!("{}, link {}", name(&status.device), up(status.link_up))),
        ("addresses", format!("{} ({})", list(&status.addresses), name(&status.address_source))),
        ("gateway", or_dash(status.gateway)),
        ("devnet", devnet.to_owned()),
        ("sockets", status.sockets.to_string()),
        ("received", traffic(status.received)),
        ("sent", traffic(status.sent)),
    ]);
    let counted: Vec<_> = status.counters.iter().filter(|(_, count)| **count != 0).collect();
    if !counted.is_empty() {
        text.push_str("\ncounters that are not 0\n");
        let counted: Vec<_> =
            counted.iter().map(|(name, count)| [format!("  {name}"), count.to_string()]).collect();
        // A table without its heading.
        text.extend(table(["", ">"], &counted).lines().skip(1).map(|line| format!("{line}\n")));
    }
    text
}

fn device_text(device: &Device) -> String {
    let isolation = match device.isolation {
        Some(Isolation::Iommu) => "iommu".to_owned(),
        Some(Isolation::NoIommu) => "no-iommu (whoever takes netd over owns the machine)".to_owned(),
        None => "none needed: the device does no DMA".to_owned(),
    };
    let state = match (&device.reason, device.state) {
        (Some(reason), DeviceState::Resetting | DeviceState::Unavailable) => {
            format!("{}: {reason}", name(&device.state))
        }
        _ => name(&device.state),
    };
    let mut text = fields(&[
        ("kind", name(&device.kind)),
        ("state", state),
        ("function", or_dash(device.function.as_ref())),
        ("isolation", isolation),
        ("transport", name(&device.transport)),
        ("polling", name(&device.poll)),
        ("MAC", device.mac.clone()),
        ("MTU", format!("{} bytes", device.mtu)),
        ("link", up(device.link_up).to_owned()),
        ("resets", device.resets.to_string()),
        ("features", list(&device.features)),
    ]);
    if !device.absent_features.is_empty() {
        text.push_str("\nfeatures not in use\n");
        let rows: Vec<_> = device
            .absent_features
            .iter()
            .map(|feature| [format!("  {}", feature.name), feature.reason.clone()])
            .collect();
        text.extend(table(["", ""], &rows).lines().skip(1).map(|line| format!("{line}\n")));
    }
    text.push('\n');
    let row = |queue: &Queue| {
        [
            queue.index.to_string(),
            name(&queue.direction),
            queue.size.to_string(),
            queue.frames.to_string(),
            bytes(queue.bytes),
            queue.interrupts.to_string(),
        ]
    };
    let rows: Vec<_> = device.queues.iter().map(row).collect();
    text + &table([">QUEUE", "DIRECTION", ">SIZE", ">FRAMES", ">BYTES", ">INTERRUPTS"], &rows)
}

fn interface_text(interface: &Interface) -> String {
    let mut lines = vec![
        ("interface", format!("{}, link {}", interface.name, up(interface.link_up))),
        ("MAC", interface.mac.clone()),
        ("MTU", format!("{} bytes", interface.mtu)),
        ("addresses", format!("{} ({})", list(&interface.addresses), name(&interface.address_source))),
        ("gateway", or_dash(interface.gateway)),
    ];
    for route in &interface.routes {
        let via = route.gateway.map_or_else(|| "on the link".to_owned(), |gateway| format!("via {gateway}"));
        lines.push(("route", format!("{} {via}", route.destination)));
    }
    lines.push(("DNS", list(&interface.dns)));
    lines.push(("NTP", list(&interface.ntp)));
    lines.push(("host name", or_dash(interface.hostname.as_ref())));
    lines.push(("domain", or_dash(interface.domain.as_ref())));
    if let Some(server) = interface.dhcp_server {
        let length = interface.lease_seconds.map_or_else(|| "a lease".to_owned(), span);
        let renewal = interface.renew_in_seconds.map(|seconds| format!(", renewed in {}", span(seconds)));
        lines.push(("lease", format!("{length} from {server}{}", renewal.unwrap_or_default())));
    }
    fields(&lines)
}

fn sockets_text(sockets: &[Socket]) -> String {
    let row = |socket: &Socket| {
        [
            socket.id.to_string(),
            name(&socket.kind),
            socket.state.clone(),
            socket.local.to_string(),
            or_dash(socket.remote),
            bytes(socket.received_bytes),
            bytes(socket.sent_bytes),
            socket.uid.to_string(),
            socket.pid.to_string(),
            or_dash(socket.unit.as_ref()),
        ]
    };
    let rows: Vec<_> = sockets.iter().map(row).collect();
    let headings = [">ID", "KIND", "STATE", "LOCAL", "REMOTE", ">RECEIVED", ">SENT", ">UID", ">PID", "UNIT"];
    table(headings, &rows)
}

fn traffic(traffic: Traffic) -> String {
    format!("{} frames, {}", traffic.frames, bytes(traffic.bytes))
}

fn up(link_up: bool) -> &'static str {
    if link_up { "up" } else { "down" }
}
