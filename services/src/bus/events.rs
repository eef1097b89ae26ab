//! What happens on the bus, for those who watch, for the log, and for the console.

use std::io::Write as _;

use netd_ipc::services::BusEvent;
use netd_softbus::discovery::{Discovery, Event};
use netd_softbus::{DeviceId, PublicKey};

/// Events that a slow watcher may be behind; then it is told that it lost some.
pub(super) const BEHIND_MAX: usize = 256;

/// An event of a device.
pub(super) fn of(event: &str, device: Option<&DeviceId>, key: Option<&PublicKey>) -> BusEvent {
    BusEvent {
        event: event.to_owned(),
        device: device.map(ToString::to_string),
        key: key.map(ToString::to_string),
        service: None,
        detail: None,
    }
}

/// What discovery tells.
pub(super) fn of_discovery(event: Event, discovery: &Discovery) -> BusEvent {
    let known = |key: &PublicKey| discovery.peer(key).map(|peer| peer.device.clone());
    let service = |name: &str, key: PublicKey, service: netd_softbus::ServiceName| BusEvent {
        service: Some(service.to_string()),
        ..of(name, known(&key).as_ref(), Some(&key))
    };
    match event {
        Event::PeerAppeared { key, device, from } => {
            BusEvent { detail: Some(from.to_string()), ..of("peer_appeared", Some(&device), Some(&key)) }
        }
        Event::PeerChanged { key } => of("peer_changed", known(&key).as_ref(), Some(&key)),
        Event::PeerGone { key, device, displaced: _ } => of("peer_gone", Some(&device), Some(&key)),
        Event::ServiceAppeared { key, service: name } => service("service_appeared", key, name),
        Event::ServiceChanged { key, service: name } => service("service_changed", key, name),
        Event::ServiceGone { key, service: name } => service("service_gone", key, name),
        Event::IdentityMismatch { device, key, from } => {
            BusEvent { detail: Some(from.to_string()), ..of("identity_mismatch", Some(&device), Some(&key)) }
        }
        Event::Lagged => of("lagged", None, None),
    }
}

/// Prints a line of evidence to standard output. Whoever watches it may be gone; nothing depends on it.
pub(super) fn mark(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "dsoftbusd: {line}").and_then(|()| out.flush());
}
