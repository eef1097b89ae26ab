//! Devices that a DNS zone lists (`[bus] dns_sd`), asked for through netd: the names below `_dsoftbus._udp.DOMAIN`, and of each its port,
//! texts and addresses, which together are an announcement.
//!
//! What a zone says is kept by netd for as long as its TTL says, so asking often costs the name server nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netd_ipc::services::ErrorKind;
use netd_ipc::{RecordKind, Resolved};
use netd_softbus::discovery::{ADDRESSES_MAX, Announcement, SERVICE_TYPE};
use tokio::time::{Instant, sleep, sleep_until};

use super::clock::random;
use super::{Bus, discover};
use crate::Failure;

/// Devices that are looked up of one domain; as many strangers as the table has room for.
const DEVICES_MAX: usize = 256;
/// Between two devices: discovery looks at ten strangers a second.
const PACE: Duration = Duration::from_millis(100);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again and again, as often as this machine announces itself.
pub(super) async fn run(bus: Arc<Bus>) -> Result<(), Failure> {
    // What went wrong with whom at the last time: it is told once.
    let mut wrong = BTreeMap::new();
    loop {
        let next = Instant::now() + bus.config.announce;
        let mut still_wrong = BTreeMap::new();
        for domain in &bus.config.dns_sd {
            browse(&bus, domain, &mut still_wrong).await;
        }
        for (name, why) in still_wrong.iter().filter(|(name, why)| wrong.get(*name) != Some(*why)) {
            tracing::warn!(%name, why, "devices cannot be found by DNS");
        }
        wrong = still_wrong;
        sleep_until(next).await;
    }
}

/// Looks up all devices of a domain.
async fn browse(bus: &Arc<Bus>, domain: &str, wrong: &mut BTreeMap<String, String>) {
    let list = format!("{SERVICE_TYPE}.{domain}");
    let mut names = match records(bus, &list, RecordKind::Ptr).await {
        Ok(listed) => listed.names,
        Err(failure) => {
            wrong.insert(list, failure.message);
            return;
        }
    };
    if names.len() > DEVICES_MAX {
        wrong.insert(list, format!("it lists {} devices, and {DEVICES_MAX} are looked up", names.len()));
        names.truncate(DEVICES_MAX);
    }
    for name in names {
        if let Err(failure) = device(bus, &name).await {
            wrong.insert(name, failure.message);
        }
        sleep(PACE).await;
    }
}

/// Looks up a device, and has discovery hear of it.
async fn device(bus: &Arc<Bus>, name: &str) -> Result<(), Failure> {
    let services = records(bus, name, RecordKind::Srv).await?.services;
    let Some(service) = services.first() else {
        return Err(Failure::new(ErrorKind::NotFound, "it has no SRV record"));
    };
    let texts = records(bus, name, RecordKind::Txt).await?.strings;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let announcement = Announcement::from_txt(service.port, &texts)
        .map_err(|error| Failure::new(ErrorKind::InvalidInput, error.to_string()))?;
    if *announcement.device() == bus.config.device {
        return Ok(());
    }
    let addresses = records(bus, &service.target, RecordKind::Addresses).await?.addresses;
    hear(bus, &announcement, &addresses);
    Ok(())
}

fn hear(bus: &Arc<Bus>, announcement: &Announcement, addresses: &[IpAddr]) {
    let now = bus.clock.now();
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let from = SocketAddr::new(*address, bus.config.discovery_port);
        // Counted by reason, and told by an event where it matters, as one that came by itself.
        let _ = bus.core().discovery.handle_announcement(now, from, announcement, &mut random);
    }
    discover::tell(bus);
    // One whom we trust is answered, so that it hears of us.
    bus.announce();
}

async fn records(bus: &Bus, name: &str, kind: RecordKind) -> Result<Resolved, Failure> {
    let name = name.to_owned();
    let deadline = std::time::Instant::now() + PATIENCE;
    bus.netd.call(move |netd| netd.resolve_records(&name, kind, Some(deadline))).await
}
