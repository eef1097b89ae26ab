//! Requests of other devices about files and state: what `[[bus.acl]]` shares with them, and nothing else.

use netd_softbus::DeviceId;
use netd_softbus::discovery::Transport;
use netd_softbus::remote::{Status, share, state};

use super::super::Bus;
use super::state::Asker;
use super::{Refusal, Reply, refusal};

fn invalid(error: &netd_softbus::Error) -> Refusal {
    refusal(Status::Invalid, error.to_string())
}

/// Answers a device about files.
pub(super) async fn share(bus: &Bus, device: &DeviceId, head: &[u8]) -> Reply {
    let request = share::Request::decode(head).map_err(|error| invalid(&error))?;
    let visible = bus.core().discovery.acl().shares(device, Transport::Tcp);
    bus.files.answer(&format!("device:{}", device.as_str()), &visible, request).await
}

/// Answers a device about state.
pub(super) async fn state(bus: &Bus, device: &DeviceId, head: &[u8], payload: Vec<u8>) -> Reply {
    let request = state::Request::decode(head).map_err(|error| invalid(&error))?;
    let (keys, write) = (request.keys(), request.is_write());
    if !bus.core().discovery.acl().state(device, Transport::Tcp, &keys, write) {
        let what = if write { "change" } else { "read" };
        let message = format!("no rule allows device {device} to {what} {keys} ([[bus.acl]])");
        return Err(refusal(Status::Denied, message));
    }
    let Ok(kept) = &bus.kept else {
        return Err(refusal(Status::NotFound, "this device keeps no state"));
    };
    kept.answer(&Asker::Device(device.clone()), request, payload).await
}
