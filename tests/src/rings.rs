//! The ring formats on a device that offers both, in a virtual machine: packed unless configuration says otherwise.

use crate::error::Result;
use crate::lab::{Lab, configuration, host_run, scenario};
use crate::vm::Twin;
use crate::{bulk, ensure};
use serde_json::Value;
use std::time::Duration;

const PACKED: &str = "VIRTIO_F_RING_PACKED";
/// More than twenty times around a ring of 256 entries, in either format.
const BULK_BYTES: u64 = 8 << 20;
/// Emulated on two busy cores some 5 MB/s are seen at worst.
const BULK_LIMIT: Duration = Duration::from_secs(120);

/// DHCP, ping and TCP on packed rings, and again on split ones after the switch was turned, with or without events by index.
pub fn ring_format_follows_the_offer_and_the_configuration() -> Result<()> {
    scenario(Twin::Viommu, &[], |lab| {
        lab.bind()?;
        let plain = configuration(lab.vm.bdf(0), true);
        let switched = |keys: &str| plain.replace("features = {", &format!("features = {{ {keys},"));
        carries(lab, &plain, true, None)?;
        carries(lab, &switched("event_idx = false"), true, Some("VIRTIO_F_EVENT_IDX"))?;
        carries(lab, &switched("packed = false"), false, Some(PACKED))?;
        carries(lab, &switched("packed = false, event_idx = false"), false, Some("VIRTIO_F_EVENT_IDX"))
    })
}

/// Runs netd with a configuration: a lease, echoes both ways, and some megabytes with their digest.
fn carries(lab: &Lab, configuration: &str, packed: bool, declined: Option<&str>) -> Result<()> {
    let netd = lab.launch(configuration)?.wait_for_lease()?;
    let device = lab.json("device")?;
    let in_use = device["features"].as_array().is_some_and(|all| all.iter().any(|name| name == PACKED));
    ensure!(in_use == packed, "packed rings in use: {in_use}, expected {packed}:\n{device:#}");
    if let Some(name) = declined {
        let reason = reason_for_absence(&device, name);
        ensure!(
            reason == Some("switched off by configuration"),
            "{name} is absent because {reason:?}:\n{device:#}"
        );
    }
    lab.netctl(&["ping", lab.plan.gateway])?.success()?;
    host_run(&lab.namespace, "ping", &["-c", "3", "-i", "0.2", "-W", "5", lab.plan.client])?;
    bulk::receive(lab, BULK_BYTES, BULK_LIMIT)?;
    netd.terminate().map(drop)
}

/// Why a feature is not in use, as `netctl device` says.
fn reason_for_absence<'a>(device: &'a Value, name: &str) -> Option<&'a str> {
    let absent = device["absent_features"].as_array()?;
    absent.iter().find(|feature| feature["name"] == name)?["reason"].as_str()
}
