//! Announcements over netd's UDP: those of others to discovery, ours to everybody.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use netd_ipc::services::BusEvent;
use netd_ipc::tokio::UdpSocket;
use netd_softbus::discovery::{Destination, Event, GROUP, PACKET_BYTES_MAX};

use super::Bus;
use super::clock::random;
use super::events::{mark, of_discovery};
use crate::Failure;

/// A socket that hears announcements.
pub(super) async fn bind(bus: &Bus) -> Result<UdpSocket, Failure> {
    let (port, multicast, broadcast) =
        (bus.config.discovery_port, bus.config.multicast, bus.config.broadcast);
    let socket = bus
        .netd
        .call(move |netd| {
            let socket = netd.udp_bind(Some(port))?;
            if multicast {
                socket.join_multicast(GROUP.into())?;
            }
            if broadcast {
                socket.set_broadcast(true)?;
            }
            Ok(socket)
        })
        .await?;
    Ok(UdpSocket::new(socket)?)
}

/// Until the socket fails: netd ended, or its device did.
pub(super) async fn run(bus: Arc<Bus>, socket: UdpSocket) -> Result<(), Failure> {
    // One byte more than the longest, so that a longer one does not look like one.
    let mut packet = [0; PACKET_BYTES_MAX + 1];
    let mut announced = false;
    loop {
        announced |= announce(&bus, &socket, announced).await?;
        tell(&bus);
        let due = bus.core().discovery.poll_timeout();
        tokio::select! {
            received = socket.recv_from(&mut packet) => match received {
                Ok((length, from)) => {
                    let now = bus.clock.now();
                    let bytes = packet.get(..length).unwrap_or_default();
                    // Counted by reason, and told by an event where it matters.
                    let _ = bus.core().discovery.handle_packet(now, from, bytes, &mut random);
                }
                Err(error) if is_about_a_peer(&error) => {}
                Err(error) => return Err(error.into()),
            },
            () = tokio::time::sleep_until(bus.clock.wake_at(due)) => {}
            () = bus.announce.notified() => {
                let now = bus.clock.now();
                bus.core().announce(&bus.config, now).map_err(|error| {
                    Failure::new(netd_ipc::services::ErrorKind::Internal, error.to_string())
                })?;
            }
        }
        let now = bus.clock.now();
        let mut core = bus.core();
        core.trust.poll(now);
        core.discovery.poll(now);
    }
}

/// An answer of the network to something that was sent, such as that nobody listens there.
fn is_about_a_peer(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// Sends the announcements that are due; whether one went out.
async fn announce(bus: &Bus, socket: &UdpSocket, before: bool) -> Result<bool, Failure> {
    let mut sent = false;
    loop {
        let now = bus.clock.now();
        let Some((destination, bytes)) = bus.core().discovery.poll_transmit(now, &mut random) else { break };
        let port = bus.config.discovery_port;
        let to = match destination {
            Destination::Multicast => SocketAddr::new(GROUP.into(), port),
            Destination::Broadcast => SocketAddr::new(Ipv4Addr::BROADCAST.into(), port),
            Destination::Unicast(peer) => peer,
        };
        match socket.send_to(&bytes, to).await {
            Ok(()) => sent = true,
            Err(error) => {
                // One way may be closed to us while another is open.
                tracing::debug!(%error, %to, "an announcement was not sent");
            }
        }
    }
    if sent && !before {
        mark("discovery up");
        tracing::info!(port = bus.config.discovery_port, "the bus announces this machine");
    }
    Ok(sent)
}

/// What happened, to those who watch.
pub(super) fn tell(bus: &Bus) {
    loop {
        let told: BusEvent = {
            let mut core = bus.core();
            let Some(event) = core.discovery.poll_event() else { return };
            if let Event::IdentityMismatch { device, .. } = &event {
                bus.mismatch(device);
            }
            of_discovery(event, &core.discovery)
        };
        bus.tell(told);
    }
}
