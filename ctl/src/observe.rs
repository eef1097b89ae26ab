//! status, device, interfaces, sockets: what netd says about itself.

use std::process::ExitCode;

use netd_ipc::{
    Address, Client, ClockStatus, Device, DeviceState, Interface, Isolation, PollMode, Queue, Socket, Status,
    Traffic,
};

use crate::cli;
use crate::error::Error;
use crate::operate::offloads_text;
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

pub(crate) fn sockets(client: &Client, output: &Output, filter: &cli::Sockets) -> Result<ExitCode, Error> {
    let mut sockets = client.sockets()?;
    sockets.retain(|socket| filter.takes(socket));
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
        ("clock", clock_text(&status.clock)),
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

fn clock_text(clock: &ClockStatus) -> String {
    match clock.by {
        Some(by) => format!("trusted by {}: {}", name(&by), clock.reason),
        None => format!("untrusted: {}", clock.reason),
    }
}

fn polling(device: &Device) -> String {
    match (device.poll, device.spin_us) {
        (PollMode::Adaptive, Some(spin)) => format!("adaptive (looks for work for {spin} µs, then sleeps)"),
        (mode, _) => name(&mode),
    }
}

fn device_text(device: &Device) -> String {
    let isolation = match device.isolation {
        Some(Isolation::Iommu) => "iommu".to_owned(),
        Some(Isolation::NoIommu) => "no-iommu (whoever takes netd over owns the machine)".to_owned(),
        None if device.backend.is_some() => {
            "shared memory: the backend sees rings and frames, nothing else".to_owned()
        }
        None => "none needed: the device does no DMA".to_owned(),
    };
    let state = match (&device.reason, device.state) {
        (Some(reason), DeviceState::Resetting | DeviceState::Unavailable) => {
            format!("{}: {reason}", name(&device.state))
        }
        _ => name(&device.state),
    };
    let mut lines = vec![
        ("kind", name(&device.kind)),
        ("state", state),
        ("function", or_dash(device.function.as_ref())),
        ("isolation", isolation),
        ("transport", name(&device.transport)),
        ("polling", polling(device)),
        ("MAC", device.mac.clone()),
        ("MTU", format!("{} bytes", device.mtu)),
        ("link", up(device.link_up).to_owned()),
        ("resets", device.resets.to_string()),
        ("features", list(&device.features)),
    ];
    if let Some(backend) = &device.backend {
        lines.push(("backend", format!("{} ({})", backend.socket, name(&backend.role))));
        lines.push(("protocol", list(&backend.protocol_features)));
    }
    let mut text = fields(&lines);
    if !device.absent_features.is_empty() {
        text.push_str("\nfeatures not in use\n");
        let rows: Vec<_> = device
            .absent_features
            .iter()
            .map(|feature| [format!("  {}", feature.name), feature.reason.clone()])
            .collect();
        text.extend(table(["", ""], &rows).lines().skip(1).map(|line| format!("{line}\n")));
    }
    if !device.offloads.is_empty() {
        text.push('\n');
        text.push_str(&offloads_text(&device.offloads));
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
        ("interface", format!("{}, link {}{}", interface.name, up(interface.link_up), changes(interface))),
        ("MAC", interface.mac.clone()),
        ("MTU", format!("{} bytes", interface.mtu)),
        ("addresses", format!("{} ({})", list(&interface.addresses), name(&interface.address_source))),
    ];
    for detail in &interface.address_details {
        lines.push(("address", address_text(detail)));
    }
    lines.push(("gateway", or_dash(interface.gateway)));
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
    for event in &interface.events {
        lines.push(("event", format!("{} ago: {}", span(event.seconds_ago), event.text)));
    }
    fields(&lines)
}

/// How often the link went down or came back, if it ever did.
fn changes(interface: &Interface) -> String {
    match interface.link_changes {
        0 => String::new(),
        times => format!(" (changed {times} times)"),
    }
}

fn address_text(address: &Address) -> String {
    let Address { address, status, origin, preferred_seconds: _, valid_seconds } = address;
    let valid = valid_seconds.map(|seconds| format!(", for {}", span(seconds))).unwrap_or_default();
    format!("{address} {status} ({origin}{valid})")
}

fn sockets_text(sockets: &[Socket]) -> String {
    let row = |socket: &Socket| {
        [
            socket.id.to_string(),
            name(&socket.kind),
            socket.state.clone(),
            socket.ether_type.map_or_else(|| socket.local.to_string(), |number| format!("{number:#06x}")),
            or_dash(socket.remote),
            or_dash(socket.name.as_ref()),
            bytes(socket.received_bytes),
            bytes(socket.sent_bytes),
            socket.uid.to_string(),
            socket.pid.to_string(),
            or_dash(socket.unit.as_ref()),
        ]
    };
    let rows: Vec<_> = sockets.iter().map(row).collect();
    let headings =
        [">ID", "KIND", "STATE", "LOCAL", "REMOTE", "NAME", ">RECEIVED", ">SENT", ">UID", ">PID", "UNIT"];
    table(headings, &rows)
}

fn traffic(traffic: Traffic) -> String {
    format!("{} frames, {}", traffic.frames, bytes(traffic.bytes))
}

fn up(link_up: bool) -> &'static str {
    if link_up { "up" } else { "down" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device() -> Device {
        let queue = |index, direction| {
            json!({
                "index": index, "direction": direction, "size": 256, "frames": 12, "bytes": 4096, "interrupts": 0
            })
        };
        serde_json::from_value(json!({
            "kind": "vfio", "state": "ready", "reason": null, "function": "0000:00:03.0", "isolation": "no_iommu",
            "transport": "legacy", "poll": "adaptive", "spin_us": 50, "mac": "42:01:0a:00:00:05", "mtu": 1460, "link_up": true,
            "features": ["VIRTIO_NET_F_MAC", "VIRTIO_NET_F_STATUS"],
            "absent_features": [{ "name": "VIRTIO_NET_F_MQ", "reason": "one queue pair is used" }],
            "offloads": [
                { "name": "tx_checksum", "on": true, "switchable": true, "reason": "in use" },
                { "name": "rx_tso4", "on": false, "switchable": false, "reason": "not offered by the device" },
                { "name": "rx_checksum", "on": true, "switchable": false, "reason": "in use" },
            ],
            "queues": [queue(0, "receive"), queue(1, "transmit")], "resets": 0, "backend": null,
        }))
        .unwrap()
    }

    #[test]
    fn device_text_shows_isolation_features_and_queues() {
        let expected = "\
kind       vfio
state      ready
function   0000:00:03.0
isolation  no-iommu (whoever takes netd over owns the machine)
transport  legacy
polling    adaptive (looks for work for 50 µs, then sleeps)
MAC        42:01:0a:00:00:05
MTU        1460 bytes
link       up
resets     0
features   VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS

features not in use
  VIRTIO_NET_F_MQ  one queue pair is used

OFFLOAD      STATE  REASON
tx_checksum  on     in use
rx_tso4      off    not offered by the device
rx_checksum  on     in use (cannot be switched while the device runs)

QUEUE  DIRECTION  SIZE  FRAMES    BYTES  INTERRUPTS
    0  receive     256      12  4.0 KiB           0
    1  transmit    256      12  4.0 KiB           0
";
        assert_eq!(device_text(&device()), expected);
    }

    #[test]
    fn device_text_of_a_failed_device_says_why() {
        let broken = Device { state: DeviceState::Resetting, reason: Some("it lied".into()), ..device() };
        assert!(device_text(&broken).contains("state      resetting: it lied\n"));
    }

    #[test]
    fn interface_text_shows_the_lease_with_its_routes() {
        let interface: Interface = serde_json::from_value(json!({
            "name": "net0", "mac": "42:01:0a:00:00:05", "mtu": 1460, "link_up": true, "link_changes": 2,
            "address_source": "dhcp",
            "address_details": [{ "address": "10.0.0.5/32", "status": "preferred", "origin": "dhcp",
                                  "preferred_seconds": 86_400, "valid_seconds": 86_400 }],
            "events": [{ "seconds_ago": 61, "text": "the link is up" }],
            "addresses": ["10.0.0.5/32"], "gateway": "10.0.0.1",
            "routes": [{ "destination": "10.0.0.1/32", "gateway": null },
                       { "destination": "0.0.0.0/0", "gateway": "10.0.0.1" }],
            "dns": ["169.254.169.254"], "ntp": [], "hostname": "vm", "domain": null, "search": [],
            "dhcp_server": "169.254.169.254", "lease_seconds": 86_400, "renew_in_seconds": 43_200,
            "rebind_in_seconds": 75_600, "expires_in_seconds": 86_400,
        }))
        .unwrap();
        let expected = "\
interface  net0, link up (changed 2 times)
MAC        42:01:0a:00:00:05
MTU        1460 bytes
addresses  10.0.0.5/32 (dhcp)
address    10.0.0.5/32 preferred (dhcp, for 1 d 0 h)
gateway    10.0.0.1
route      10.0.0.1/32 on the link
route      0.0.0.0/0 via 10.0.0.1
DNS        169.254.169.254
NTP        -
host name  vm
domain     -
lease      1 d 0 h from 169.254.169.254, renewed in 12 h 0 min
event      1 min 1 s ago: the link is up
";
        assert_eq!(interface_text(&interface), expected);
    }

    #[test]
    fn sockets_text_is_a_table() {
        let socket: Socket = serde_json::from_value(json!({
            "id": 7, "kind": "tcp_listener", "state": "listen", "local": { "address": "10.0.0.5", "port": 80 },
            "remote": null, "ether_type": null, "uid": 1000, "pid": 42, "unit": "web.service", "receive_queued_bytes": 0,
            "send_queued_bytes": 0, "received_bytes": 0, "sent_bytes": 2048,
        }))
        .unwrap();
        let expected = "\
ID  KIND          STATE   LOCAL        REMOTE  NAME  RECEIVED     SENT   UID  PID  UNIT
 7  tcp-listener  listen  10.0.0.5:80  -       -          0 B  2.0 KiB  1000   42  web.service
";
        assert_eq!(sockets_text(std::slice::from_ref(&socket)), expected);
        let frames = Socket { kind: netd_ipc::SocketKind::Frames, ether_type: Some(0x88b5), ..socket };
        assert!(sockets_text(&[frames]).contains("frames  listen  0x88b5"));
    }
}
