//! What the worker tells about itself: the answers of the interface's status methods.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use netd_ipc::{
    AbsentFeature, Address, AddressSource, Copies, Device, DeviceState, Direction, Endpoint, Interface,
    Isolation, Neighbor, Offload, Queue, Route, Socket, SocketKind, SocketRole, Statistics, Status, Table,
    Traffic, Transport, Use, VhostUserBackend,
};
use netd_stack::{
    AddressInfo, AddressOrigin, AddressState, AddressStatus, Cidr, FlowState, Instant, Limits, Stack,
    TableInfo,
};
use netd_virtqueue::{DeviceInfo, OffloadInfo, QueueCounters, TransportKind, VhostUserRole};
use serde::Serialize;

use crate::config::Dns;
use crate::device::{Backend, VhostUser};
use crate::rules::Rules;
use crate::worker::carried::Carried;
use crate::worker::clients::{self, Clients, Entry};
use crate::worker::clock::Clock;
use crate::worker::history::{self, History};
use crate::worker::names::Names;
use crate::worker::slot::{Live, Slot};
use crate::worker::spin::Spin;

/// The name of the one interface.
const INTERFACE: &str = "net0";

/// What the reports need to know beside the device, the stack and the clients.
#[derive(Debug)]
pub(super) struct About {
    pub(super) rules: Arc<Rules>,
    pub(super) spin: Spin,
    pub(super) resets: u64,
    /// Frames that a device held when it failed.
    pub(super) lost_in_flight: u64,
}

pub(super) fn status(
    about: &About,
    slot: &Slot,
    clients: &Clients,
    clock: &mut Clock,
    now: Instant,
) -> Status {
    let live = slot.live();
    let address = live.map(|live| live.stack.lease());
    let (rx, tx) = live.map(|live| live.driver.counters()).unwrap_or_default();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: now.as_micros() / 1_000_000,
        devnet_enabled: about.rules.current().policy.devnet_enabled(),
        rules_generation: about.rules.generation(),
        device: state(slot),
        link_up: live.is_some_and(|live| live.link_up),
        address_source: source(address.as_ref()),
        addresses: live.map(|live| addresses(&live.stack)).unwrap_or_default(),
        gateway: address.as_ref().and_then(gateway),
        sockets: u32::try_from(clients.len()).unwrap_or(u32::MAX),
        received: traffic(rx),
        sent: traffic(tx),
        clock: clock.status(now),
        counters: live.map(|live| counters(about, live, clients, clock)).unwrap_or_default(),
    }
}

pub(super) fn device(about: &About, slot: &Slot, backend: &mut Backend) -> Device {
    let interrupts = backend.interrupts().unwrap_or(0);
    let live = slot.live();
    let info = live.map(|live| live.driver.info());
    let function = backend.function();
    let (accepted, declined): (Vec<_>, Vec<_>) = info
        .map(|info| info.features.choices.iter().cloned().partition(|choice| choice.accepted))
        .unwrap_or_default();
    Device {
        kind: backend.kind(),
        state: state(slot),
        reason: slot.reason().map(ToOwned::to_owned),
        function: function.map(|vfio| vfio.bdf().to_string()),
        isolation: function.map(|vfio| match vfio.isolation() {
            netd_vfio::Isolation::Iommu => Isolation::Iommu,
            netd_vfio::Isolation::NoIommu => Isolation::NoIommu,
        }),
        transport: info.map_or(Transport::Direct, |info| transport(info.transport)),
        poll: about.spin.mode(),
        spin_us: about.spin.budget().map(|budget| u64::try_from(budget.as_micros()).unwrap_or(u64::MAX)),
        mac: live.map(|live| mac(live.mac)).unwrap_or_default(),
        mtu: info.map_or(0, |info| info.mtu),
        link_up: live.is_some_and(|live| live.link_up),
        features: accepted.into_iter().map(|choice| choice.name).collect(),
        absent_features: declined
            .into_iter()
            .map(|choice| AbsentFeature { name: choice.name, reason: choice.reason.to_owned() })
            .collect(),
        offloads: live.map(|live| live.driver.offloads().iter().map(offload).collect()).unwrap_or_default(),
        queues: live
            .map(|live| queues(live.driver.info(), live.driver.counters(), interrupts))
            .unwrap_or_default(),
        resets: about.resets,
        backend: backend.vhost_user().map(vhost_user),
    }
}

fn offload(info: &OffloadInfo) -> Offload {
    let OffloadInfo { name, on, switchable, reason } = *info;
    Offload { name: name.to_owned(), on, switchable, reason: reason.to_owned() }
}

pub(super) fn interfaces(slot: &Slot, history: &History, now: Instant) -> Vec<Interface> {
    let Some(live) = slot.live() else { return Vec::new() };
    let address = live.stack.lease();
    let mut interface = Interface {
        name: INTERFACE.to_owned(),
        mac: mac(live.mac),
        mtu: live.stack.mtu(),
        link_up: live.link_up,
        link_changes: history.link_changes,
        address_source: source(Some(&address)),
        addresses: addresses(&live.stack),
        address_details: address_details(&live.stack, now),
        events: history.report(now),
        gateway: gateway(&address),
        routes: routes(&live.stack),
        dns: live.stack.name_servers(),
        ntp: Vec::new(),
        hostname: None,
        domain: None,
        search: live.stack.search_domains(),
        dhcp_server: None,
        lease_seconds: None,
        renew_in_seconds: None,
        rebind_in_seconds: None,
        expires_in_seconds: None,
    };
    match address {
        AddressState::Searching | AddressState::Static(_) | AddressState::Fallback(_) => {}
        AddressState::Bound(lease) => {
            interface.ntp = lease.ntp.iter().copied().map(IpAddr::V4).collect();
            interface.hostname = lease.hostname;
            interface.domain = lease.domain;
            interface.dhcp_server = Some(lease.server.into());
            interface.lease_seconds = Some(lease.lease_seconds.into());
            let until = |at: Instant| Some(at.saturating_duration_since(now).as_secs());
            interface.renew_in_seconds = until(lease.renew_at);
            interface.rebind_in_seconds = until(lease.rebind_at);
            interface.expires_in_seconds = until(lease.expires_at);
        }
    }
    vec![interface]
}

/// Every route as the stack follows it.
fn routes(stack: &Stack) -> Vec<Route> {
    let mut routes: Vec<Route> = stack
        .routes()
        .filter_map(|route| {
            let destination = IpNet::new(route.destination, route.prefix_len).ok()?;
            Some(Route { destination, gateway: route.via })
        })
        .collect();
    routes.sort_by_key(|route| Reverse(route.destination.prefix_len()));
    routes
}

/// The addresses in use, with their prefixes.
fn addresses(stack: &Stack) -> Vec<IpNet> {
    let used = |status| matches!(status, AddressStatus::Preferred | AddressStatus::Deprecated);
    let in_use = stack.addresses().filter(|info| used(info.status));
    in_use.filter_map(|info| IpNet::new(info.address, info.prefix_len).ok()).collect()
}

/// Every address, in use or not.
fn address_details(stack: &Stack, now: Instant) -> Vec<Address> {
    let left = |until: Option<Instant>| until.map(|at| at.saturating_duration_since(now).as_secs());
    let detail = |info: AddressInfo| {
        let address = IpNet::new(info.address, info.prefix_len).ok()?;
        Some(Address {
            address,
            status: history::status(info.status).to_owned(),
            origin: origin(info.origin).to_owned(),
            preferred_seconds: left(info.preferred_until),
            valid_seconds: left(info.valid_until),
        })
    };
    stack.addresses().filter_map(detail).collect()
}

fn origin(origin: AddressOrigin) -> &'static str {
    match origin {
        AddressOrigin::Static => "static",
        AddressOrigin::Fallback => "fallback",
        AddressOrigin::Dhcp => "dhcp",
        AddressOrigin::LinkLocal => "link-local",
        AddressOrigin::Slaac => "slaac",
    }
}

/// Everybody's use of what is bounded, and how full the tables are.
pub(super) fn clients(
    slot: &Slot,
    clients: &mut Clients,
    dns: &Dns,
    tables: &Limits,
    now: Instant,
) -> netd_ipc::Clients {
    let mut report = clients.ledger.report(now);
    let Some(Live { stack, names, .. }) = slot.live() else { return report };
    let closing = stack.tcp_closing_by_owner();
    for client in &mut report.clients {
        let of_user = closing.get(&client.uid).copied().unwrap_or(0);
        client.closing = usage(of_user, tables.closing_per_owner, 0);
        let (under_way, refused) = names.of_user(client.uid);
        client.names = usage(under_way, dns.queries_per_user, refused);
    }
    report.tables = stack.tables().iter().map(table).collect();
    let (_, resolver) = names.report();
    for (key, used, limit, refused) in [
        ("[dns] queries", resolver.queries, dns.limits.queries, names.refused()),
        ("[dns] cache_entries", resolver.cache_entries, dns.limits.cache_entries, 0),
        ("[dns] cache_kib", resolver.cache_bytes.div_ceil(1024), dns.limits.cache_bytes / 1024, 0),
    ] {
        report.tables.push(Table { key: key.to_owned(), usage: usage(used, limit, refused) });
    }
    report
}

fn usage(used: usize, limit: usize, refused: u64) -> Use {
    Use { used: used as u64, limit: limit as u64, refused }
}

/// A table of the stack's under the name of its bound in netd.toml.
fn table(info: &TableInfo) -> Table {
    let TableInfo { name, used, limit, refused } = *info;
    let (key, used, limit) = match name {
        "connections" | "closing" | "pending" | "listeners" => (format!("[tcp] {name}"), used, limit),
        "fragment_bytes" => ("[stack] fragment_kib".to_owned(), used.div_ceil(1024), limit / 1024),
        _ => (format!("[stack] {name}"), used, limit),
    };
    Table { key, usage: usage(used, limit, refused) }
}

pub(super) fn neighbors(slot: &Slot) -> Vec<Neighbor> {
    let Some(live) = slot.live() else { return Vec::new() };
    let mut neighbors: Vec<Neighbor> = live
        .stack
        .neighbors()
        .map(|neighbor| Neighbor {
            interface: INTERFACE.to_owned(),
            address: neighbor.address,
            mac: neighbor.mac.map(mac),
            state: neighbor.state.to_owned(),
        })
        .collect();
    neighbors.sort_by_key(|neighbor| neighbor.address);
    neighbors
}

pub(super) fn statistics(
    about: &About,
    slot: &Slot,
    clients: &Clients,
    clock: &Clock,
    now: Instant,
) -> Statistics {
    let live = slot.live();
    let Carried { received, sent } = clients.carried();
    let (rx, tx) = live.map(|live| live.driver.counters()).unwrap_or_default();
    // Frames of a vhost-user backend are copied out of the memory that it shares, and into it.
    let shared = live.is_some_and(|live| live.driver.info().transport == TransportKind::VhostUser);
    let in_bytes = if shared { tx.bytes } else { 0 };
    Statistics {
        uptime_seconds: now.as_micros() / 1_000_000,
        counters: live.map(|live| counters(about, live, clients, clock)).unwrap_or_default(),
        dns: live.map(|live| resolver(&live.names)).unwrap_or_default(),
        received: Copies {
            carried_bytes: received.payload_bytes,
            // What a client takes was copied once, from its frame to the socket's buffer; some frames were put together before.
            user_copied_bytes: received.payload_bytes + rx.copied,
            kernel_copied_bytes: received.descriptor_bytes,
        },
        sent: Copies {
            carried_bytes: sent.payload_bytes,
            // Every byte of a frame is written once, in place: payload, headers, and again what is retransmitted.
            user_copied_bytes: tx.bytes + in_bytes,
            kernel_copied_bytes: sent.descriptor_bytes,
        },
    }
}

pub(super) fn sockets(slot: &Slot, clients: &Clients) -> Vec<Socket> {
    let Some(live) = slot.live() else { return Vec::new() };
    clients.entries().filter_map(|entry| socket(&live.stack, entry)).collect()
}

fn socket(stack: &Stack, entry: &Entry) -> Option<Socket> {
    let bare = |kind, state: &str, local: Endpoint| Socket {
        id: entry.id,
        kind,
        state: state.to_owned(),
        local,
        remote: None,
        ether_type: None,
        name: entry.name().map(ToString::to_string),
        uid: entry.owner.uid,
        pid: entry.owner.pid,
        unit: entry.owner.unit.clone(),
        receive_queued_bytes: 0,
        send_queued_bytes: 0,
        received_bytes: 0,
        sent_bytes: 0,
    };
    match &entry.socket {
        clients::Socket::Stream(stream) => {
            let status = stack.tcp_status(stream.flow).ok()?;
            Some(Socket {
                remote: Some(status.remote.into()),
                receive_queued_bytes: status.readable as u64,
                send_queued_bytes: status.unacknowledged as u64,
                received_bytes: stream.received_bytes,
                sent_bytes: stream.sent_bytes,
                ..bare(SocketKind::Tcp, flow_state(status.state), status.local.into())
            })
        }
        clients::Socket::Listener(listener) => {
            let waiting = stack.tcp_waiting(listener.id).ok()? as u64;
            Some(Socket {
                send_queued_bytes: waiting,
                ..bare(SocketKind::TcpListener, "listen", listener.local.into())
            })
        }
        clients::Socket::Datagrams(datagrams) => Some(Socket {
            received_bytes: datagrams.received_bytes,
            sent_bytes: datagrams.sent_bytes,
            ..bare(SocketKind::Udp, "bound", datagrams.local.into())
        }),
        clients::Socket::Frames(frames) => Some(Socket {
            ether_type: Some(frames.ether_type.number()),
            received_bytes: frames.received_bytes,
            sent_bytes: frames.sent_bytes,
            ..bare(SocketKind::Frames, "bound", Endpoint { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 })
        }),
    }
}

fn state(slot: &Slot) -> DeviceState {
    match slot {
        Slot::Live(_) => DeviceState::Ready,
        Slot::Down(_) => DeviceState::Resetting,
    }
}

fn source(address: Option<&AddressState>) -> AddressSource {
    match address {
        None => AddressSource::None,
        Some(AddressState::Searching) => AddressSource::Searching,
        Some(AddressState::Bound(_)) => AddressSource::Dhcp,
        Some(AddressState::Static(_)) => AddressSource::Static,
        Some(AddressState::Fallback(_)) => AddressSource::Fallback,
    }
}

/// The address in force with its prefix length.
pub(super) fn cidr(address: &AddressState) -> Option<IpNet> {
    match address {
        AddressState::Searching => None,
        AddressState::Bound(lease) => net(lease.cidr),
        AddressState::Static(fixed) | AddressState::Fallback(fixed) => net(fixed.cidr),
    }
}

/// The default gateway in force.
pub(super) fn gateway(address: &AddressState) -> Option<IpAddr> {
    match address {
        AddressState::Searching => None,
        AddressState::Bound(lease) => lease.gateway.map(IpAddr::V4),
        AddressState::Static(fixed) | AddressState::Fallback(fixed) => fixed.gateway.map(IpAddr::V4),
    }
}

fn net(cidr: Cidr) -> Option<IpNet> {
    Ipv4Net::new(cidr.address(), cidr.prefix_len()).ok().map(IpNet::V4)
}

fn traffic(counters: QueueCounters) -> Traffic {
    Traffic { frames: counters.frames, bytes: counters.bytes }
}

/// Both queues share one vector, so each shows what was delivered for either.
fn queues(info: &DeviceInfo, (rx, tx): (QueueCounters, QueueCounters), interrupts: u64) -> Vec<Queue> {
    let directions = [(Direction::Receive, rx), (Direction::Transmit, tx)];
    info.queues
        .iter()
        .zip(directions)
        .map(|(queue, (direction, counters))| Queue {
            index: queue.index,
            direction,
            size: queue.size.into(),
            frames: counters.frames,
            bytes: counters.bytes,
            interrupts,
        })
        .collect()
}

/// The stack's counters, and those of the driver and the clients, under one roof.
fn counters(about: &About, live: &Live, clients: &Clients, clock: &Clock) -> BTreeMap<String, u64> {
    let mut all = flatten(live.stack.counters());
    let (rx, tx) = live.driver.counters();
    all.insert("device_frames_merged".to_owned(), rx.merged);
    all.insert("device_segments_joined".to_owned(), rx.segments_joined);
    all.insert("device_segments_to_cut".to_owned(), tx.segments_joined);
    all.insert("drop_device_header".to_owned(), rx.bad_headers);
    all.insert("device_doorbells".to_owned(), rx.doorbells + tx.doorbells);
    all.insert("worker_sleeps".to_owned(), about.spin.sleeps());
    all.insert("drop_device_transmit_full".to_owned(), tx.exhausted);
    all.insert("drop_device_failed_in_flight".to_owned(), about.lost_in_flight);
    all.insert("drop_client_datagram_overflow".to_owned(), clients.overflowed());
    all.extend(flatten(&clock.statistics()).into_iter().map(|(name, count)| (format!("ntp_{name}"), count)));
    all
}

/// What the resolver did, and what its cache holds.
fn resolver(names: &Names) -> BTreeMap<String, u64> {
    let (statistics, usage) = names.report();
    let mut all = flatten(statistics);
    all.extend([
        ("queries_under_way".to_owned(), usage.queries as u64),
        ("cache_entries".to_owned(), usage.cache_entries as u64),
        ("cache_bytes".to_owned(), usage.cache_bytes as u64),
    ]);
    all
}

/// A struct of numbers as a map.
fn flatten(counters: &impl Serialize) -> BTreeMap<String, u64> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(counters) else {
        return BTreeMap::new();
    };
    fields.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}

fn vhost_user(backend: &VhostUser) -> VhostUserBackend {
    let device = backend.device();
    VhostUserBackend {
        socket: device.socket.display().to_string(),
        role: match device.role {
            VhostUserRole::Client => SocketRole::Client,
            VhostUserRole::Server => SocketRole::Server,
        },
        protocol_features: backend.protocol_features().to_vec(),
    }
}

fn transport(kind: TransportKind) -> Transport {
    match kind {
        TransportKind::LegacyPci => Transport::Legacy,
        TransportKind::ModernPci => Transport::Modern,
        TransportKind::Software | TransportKind::VhostUser => Transport::Direct,
    }
}

/// As people write it.
pub(super) fn mac(mac: [u8; 6]) -> String {
    netd_vfio::Mac(mac).to_string()
}

/// The names of RFC 9293, 3.3.2, in lower case.
fn flow_state(state: FlowState) -> &'static str {
    match state {
        FlowState::SynSent => "syn_sent",
        FlowState::SynReceived => "syn_received",
        FlowState::Established => "established",
        FlowState::FinWait1 => "fin_wait_1",
        FlowState::FinWait2 => "fin_wait_2",
        FlowState::CloseWait => "close_wait",
        FlowState::Closing => "closing",
        FlowState::LastAck => "last_ack",
        FlowState::TimeWait => "time_wait",
        FlowState::Closed => "closed",
    }
}
