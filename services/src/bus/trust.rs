//! Whom this machine trusts, changed by clients: a PIN shown or typed, a key pinned, a device revoked. Each change is recorded in netd's
//! audit first, kept second, and in force third.

use std::sync::Arc;

use netd_ipc::policy::TrustChange;
use netd_ipc::server::Peer as ClientPeer;
use netd_ipc::services::{BusDevice, BusMode, BusPin, ErrorKind};
use netd_softbus::session::{PIN_TRIES, Pin};
use netd_softbus::{DeviceId, PublicKey};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Bus;
use super::clock::random;
use super::events::of;
use super::link::{Command, Ended};
use crate::Failure;

/// What changing trust takes, as for the roots of certificates.
const MANAGE: &str = "net.trust.manage";
/// What having a session made takes.
pub(super) const SESSION: &str = "dsoftbus.session.open";
/// How long pairing may take: a connection, a handshake, and the exchange.
const PAIRING: std::time::Duration = std::time::Duration::from_secs(30);

impl Bus {
    fn needs_network(&self) -> Result<(), Failure> {
        match &self.store {
            Ok(_) => Ok(()),
            Err(why) => {
                let message = format!("there is nobody to trust: {why}");
                Err(Failure::new(ErrorKind::InvalidInput, message))
            }
        }
    }

    /// Shows a PIN.
    pub(super) async fn show_pin(&self, client: &ClientPeer) -> Result<BusPin, Failure> {
        self.netd.permit(client, MANAGE, None).await?;
        self.needs_network()?;
        if self.state().mode != BusMode::Network {
            let why = self.state().problem.unwrap_or_default();
            let message = format!("no device could be paired with, since the bus is in loopback mode: {why}");
            return Err(Failure::new(ErrorKind::Unreachable, message));
        }
        let detail = "bus: a PIN is shown".to_owned();
        self.netd.record_trust(client, TrustChange::Added, detail).await?;
        let window = self.config.pairing;
        let now = self.clock.now();
        let mut core = self.core();
        let pin = core.trust.show_pin(now, window, &mut random).digits().to_owned();
        Ok(BusPin { pin, tries: PIN_TRIES, seconds: window.as_secs() })
    }

    /// Tries a PIN that a device shows.
    pub(super) async fn pair(
        self: &Arc<Self>,
        client: &ClientPeer,
        device: &DeviceId,
        pin: &str,
    ) -> Result<BusDevice, Failure> {
        self.netd.permit(client, MANAGE, None).await?;
        self.netd.permit(client, SESSION, Some(device.as_str().to_owned())).await?;
        self.needs_network()?;
        let pin: Pin = pin
            .parse()
            .map_err(|error: netd_softbus::Error| Failure::new(ErrorKind::InvalidInput, error.to_string()))?;
        let detail = format!("bus: pairing with {device} by PIN");
        self.netd.record_trust(client, TrustChange::Added, detail).await?;
        let (reply, paired) = oneshot::channel();
        let late = || Failure::new(ErrorKind::TimedOut, format!("'{device}' took too long to pair"));
        let ended = || Failure::new(ErrorKind::Unreachable, "the session ended without a word");
        let pairing = async {
            self.ask(device, Command::Type { pin, reply }).await?;
            paired.await.map_err(|_| ended())?
        };
        let peer = timeout(PAIRING, pairing).await.map_err(|_| late())??;
        Ok(BusDevice { device: peer.device.to_string(), keys: vec![peer.key.to_string()] })
    }

    /// Pins a key.
    pub(super) async fn pin(
        self: &Arc<Self>,
        client: &ClientPeer,
        device: &DeviceId,
        key: &str,
    ) -> Result<BusDevice, Failure> {
        self.netd.permit(client, MANAGE, None).await?;
        self.needs_network()?;
        let wrong = |error: netd_softbus::Error| Ended::from(error).why();
        let key: PublicKey = key.parse().map_err(wrong)?;
        self.netd
            .record_trust(client, TrustChange::Added, format!("bus: {device} has the key {key}"))
            .await?;
        let now = self.clock.now();
        let previous: Vec<PublicKey> = {
            let mut core = self.core();
            let of_device = |(pinned, key, successor): (&DeviceId, PublicKey, Option<PublicKey>)| {
                (pinned == device).then_some([Some(key), successor])
            };
            let previous = core.trust.pins().find_map(of_device).into_iter().flatten().flatten().collect();
            core.trust.pin(device.clone(), key).map_err(wrong)?;
            previous
        };
        for old in previous.iter().filter(|old| **old != key) {
            self.core().discovery.unpin(now, old);
        }
        self.core().discovery.pin(now, device.clone(), key).map_err(wrong)?;
        self.recheck();
        self.save().await?;
        self.tell(of("paired", Some(device), Some(&key)));
        Ok(BusDevice { device: device.to_string(), keys: vec![key.to_string()] })
    }

    /// Revokes a device.
    pub(super) async fn revoke(
        self: &Arc<Self>,
        client: &ClientPeer,
        device: &DeviceId,
    ) -> Result<BusDevice, Failure> {
        self.netd.permit(client, MANAGE, None).await?;
        self.needs_network()?;
        self.netd.record_trust(client, TrustChange::Removed, format!("bus: {device} is revoked")).await?;
        let now = self.clock.now();
        let keys = {
            let mut core = self.core();
            let keys = core.trust.revoke(device).map_err(|error| match error {
                netd_softbus::Error::NotPinned { .. } => Failure::new(ErrorKind::NotFound, error.to_string()),
                error => Ended::from(error).why(),
            })?;
            for key in &keys {
                core.discovery.unpin(now, key);
            }
            keys
        };
        self.recheck();
        tracing::info!(peer = %device, uid = client.uid, "a device was revoked");
        self.save().await?;
        Ok(BusDevice { device: device.to_string(), keys: keys.iter().map(ToString::to_string).collect() })
    }

    /// Ends the sessions of those who are not trusted any more.
    fn recheck(self: &Arc<Self>) {
        for session in self.core().all_sessions() {
            tokio::spawn(async move { drop(session.send(Command::Recheck).await) });
        }
    }
}
