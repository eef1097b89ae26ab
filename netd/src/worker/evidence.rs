//! Markers and provider.json: what was seen to happen, told after it happened and not before.

use std::io::{self, Write};
use std::path::PathBuf;

use netd_stack::AddressState;
use netd_vfio::{Function, Isolation, Sysfs};
use netd_virtqueue::{NetDevice, TransportKind};
use serde::Serialize;

use crate::device::{self, Backend, Vfio};
use crate::worker::report;

/// The file in the state directory.
const FILE: &str = "provider.json";
const FILE_MODE: u32 = 0o644;

/// What has been shown so far.
#[derive(Debug)]
pub(super) struct Evidence {
    directory: PathBuf,
    /// The device exchanged frames in both directions, and it was said.
    exchanged: bool,
}

/// `provider.json`.
#[derive(Serialize)]
struct Provider<'a> {
    provider_nic_proof: Proof<'a>,
    enumerated_device_classes: Vec<String>,
    enumerated_device_inventory: Vec<Function>,
    dma_pool_grant: DmaPoolGrant,
    interrupt_route_allocated: bool,
    interrupt_route_delivered: u64,
    /// Storage is not our device.
    storage_bind_proof: Option<()>,
}

/// Frames that the device took and gave, as its used rings say.
#[derive(Serialize)]
struct Proof<'a> {
    token: &'a str,
    function: String,
    mac: String,
    transport: TransportKind,
    frames_transmitted: u64,
    frames_received: u64,
}

/// The device's memory, without an address in it.
#[derive(Serialize)]
struct DmaPoolGrant {
    bytes: usize,
    segments: usize,
    isolation: Isolation,
}

impl Evidence {
    /// What an earlier run wrote is no evidence of this one, and is removed.
    pub(super) fn new(directory: PathBuf) -> Self {
        match std::fs::remove_file(directory.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, file = %directory.join(FILE).display(), "old evidence stays");
            }
            Ok(()) | Err(_) => {}
        }
        Self { directory, exchanged: false }
    }

    /// The driver is up (DRIVER_OK).
    pub(super) fn device_up(&self) {
        say("net: virtio-net up");
    }

    /// An address came or went.
    pub(super) fn address_changed(&self, address: &AddressState) {
        let gateway = report::gateway(address).map_or_else(|| "-".to_owned(), |gateway| gateway.to_string());
        match (address, report::cidr(address)) {
            (AddressState::Searching, _) | (_, None) => tracing::warn!("no address any more"),
            (state, Some(cidr)) => {
                say(&format!("net: smoltcp iface up {}", cidr.addr()));
                match state {
                    AddressState::Bound(_) => say(&format!("net: dhcp bound {cidr} gw={gateway}")),
                    AddressState::Fallback(_) => {
                        say(&format!("net: dhcp unavailable (fallback static {cidr})"));
                    }
                    AddressState::Static(_) | AddressState::Searching => {}
                }
                tracing::info!(%cidr, %gateway, "address in use");
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.exchanged
    }

    /// Looks whether the live function has taken a frame of ours and given us one, and writes it down when it has.
    pub(super) fn exchange(
        &mut self,
        backend: &mut Backend,
        driver: &mut NetDevice,
    ) -> Result<(), device::Error> {
        let (received, transmitted) = driver.counters();
        if received.frames == 0 || transmitted.completed == 0 {
            return Ok(());
        }
        self.exchanged = true;
        let interrupts = backend.interrupts();
        // Only a real function is evidence of one.
        let Some(vfio) = backend.function() else { return Ok(()) };
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|_| device::Error::Random)?;
        let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        if let Err(error) = self.write(vfio, driver, interrupts, &token) {
            tracing::error!(%error, file = %self.directory.join(FILE).display(), "cannot write the evidence");
            return Ok(());
        }
        say(&format!("cloudboot-evidence: provider-nic-bound {token}"));
        Ok(())
    }

    fn write(&self, vfio: &Vfio, driver: &NetDevice, interrupts: Option<u64>, token: &str) -> io::Result<()> {
        let functions = Sysfs::system().functions().map_err(io::Error::other)?;
        let mut classes: Vec<String> =
            functions.iter().map(|function| format!("{:06x}", function.class)).collect();
        classes.sort();
        classes.dedup();
        let (received, transmitted) = driver.counters();
        let (bytes, segments) = vfio.dma_grant();
        let info = driver.info();
        let provider = Provider {
            provider_nic_proof: Proof {
                token,
                function: vfio.bdf().to_string(),
                mac: info.mac.map(report::mac).unwrap_or_default(),
                transport: info.transport,
                frames_transmitted: transmitted.completed,
                frames_received: received.frames,
            },
            enumerated_device_classes: classes,
            enumerated_device_inventory: functions,
            dma_pool_grant: DmaPoolGrant { bytes, segments, isolation: vfio.isolation() },
            // A vector is set up for whoever may want to sleep one day; while the rings are polled it stays silent.
            interrupt_route_allocated: interrupts.is_some(),
            interrupt_route_delivered: interrupts.unwrap_or(0),
            storage_bind_proof: None,
        };
        std::fs::create_dir_all(&self.directory)?;
        let text = serde_json::to_vec_pretty(&provider)?;
        netd_durable::replace(&self.directory.join(FILE), FILE_MODE, &[&text[..], b"\n"].concat())
    }
}

/// Writes a marker to standard output.
fn say(marker: &str) {
    let mut out = io::stdout().lock();
    // Nobody may be reading standard output any more, and that is no reason to stop.
    let _ = writeln!(out, "{marker}").and_then(|()| out.flush());
}
