//! Offloads on a device that has them: QEMU's virtio-net on a tap with virtio-net headers, where checksums within the host are never
//! computed and segments of 64 KiB never cut. What clients see must be the same with each of them on or off.

use crate::capture::Capture;
use crate::error::Result;
use crate::lab::{Lab, NO_OFFLOADS, TAP, configuration, host_run, scenario_unjudged, scratch};
use crate::process::run;
use crate::vm::Twin;
use crate::{bulk, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Some hundred windows each way.
const BULK_BYTES: u64 = 16 << 20;
/// Emulated on two busy cores some 5 MB/s are seen at worst.
const BULK_LIMIT: Duration = Duration::from_secs(120);
/// What both twins' devices have, and what can be switched while they run.
const OFFLOADS: [&str; 6] = ["tx_checksum", "tx_tso4", "tx_tso6", "rx_checksum", "rx_tso4", "rx_tso6"];
/// Octets in a segment that fits the link.
const SEGMENT_OCTETS: u32 = 1460;

/// Bulk both ways with everything on, seen as long segments on the tap; and again with each offload switched off at run time.
pub fn segments_cross_the_tap_uncut_until_they_are_switched_off(twin: Twin) -> Result<()> {
    scenario_unjudged(twin, |lab| {
        lab.bind()?;
        let netd =
            lab.launch(&configuration(lab.vm.bdf(0), true).replace(NO_OFFLOADS, ""))?.wait_for_lease()?;
        check_on(lab, &OFFLOADS)?;
        let directory = scratch()?;
        let file = directory.path().join("tap.pcap");
        let capture = Capture::start(&lab.namespace, TAP, &file)?;
        bulk::receive(lab, BULK_BYTES, BULK_LIMIT)?;
        bulk::send(lab, BULK_BYTES, BULK_LIMIT)?;
        let file = capture.stop()?;
        for (side, field) in [("received", "ip.dst"), ("sent", "ip.src")] {
            let long = long_segments(&file, &format!("{field} == {}", lab.plan.client))?;
            ensure!(long > 100, "only {long} long segments were {side}");
        }
        ensure!(counted(lab, "device_segments_joined")? > 100, "the driver saw no joined segments");
        ensure!(counted(lab, "device_segments_to_cut")? > 100, "the driver sent no segments to be cut");

        lab.netctl(&["device", "offload", "rx_tso4", "off"])?.success()?;
        lab.netctl(&["device", "offload", "tx_tso4", "off"])?.success()?;
        check_on(lab, &["tx_checksum", "tx_tso6", "rx_checksum", "rx_tso6"])?;
        carries_without(lab)?;
        lab.netctl(&["device", "offload", "rx_checksum", "off"])?.success()?;
        lab.netctl(&["device", "offload", "tx_checksum", "off"])?.success()?;
        check_on(lab, &[])?;
        carries_without(lab)?;
        let refused = lab.netctl(&["device", "offload", "warp", "on"])?;
        ensure!(!refused.is_success(), "an offload that is none was switched on:\n{}", refused.text());
        netd.terminate().map(drop)
    })
}

/// Bulk both ways, of which no segment is joined or to be cut.
fn carries_without(lab: &Lab) -> Result<()> {
    // What the device was told, it does from the next answer on.
    host_run(&lab.namespace, "ping", &["-c", "3", "-i", "0.2", "-W", "5", lab.plan.client])?;
    let before = [counted(lab, "device_segments_joined")?, counted(lab, "device_segments_to_cut")?];
    bulk::receive(lab, BULK_BYTES, BULK_LIMIT)?;
    bulk::send(lab, BULK_BYTES, BULK_LIMIT)?;
    let after = [counted(lab, "device_segments_joined")?, counted(lab, "device_segments_to_cut")?];
    ensure!(before == after, "switched off, and {before:?} became {after:?}");
    Ok(())
}

fn check_on(lab: &Lab, expected: &[&str]) -> Result<()> {
    let device = lab.json("device")?;
    let offloads = device["offloads"].as_array().cloned().unwrap_or_default();
    let on: Vec<&str> = offloads
        .iter()
        .filter(|offload| offload["on"] == true)
        .filter_map(|offload| offload["name"].as_str())
        .collect();
    ensure!(on == expected, "in use are {on:?}, not {expected:?}:\n{device:#}");
    Ok(())
}

fn counted(lab: &Lab, counter: &str) -> Result<u64> {
    let statistics: Value = lab.json("stats")?;
    let value = statistics["counters"][counter].as_u64();
    ensure!(value.is_some(), "no counter {counter}:\n{statistics:#}");
    Ok(value.unwrap_or_default())
}

/// How many segments of a capture are longer than one on a wire.
fn long_segments(file: &Path, of: &str) -> Result<usize> {
    let filter = format!("{of} && tcp.len > {SEGMENT_OCTETS}");
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-Y", &filter, "-T", "fields", "-e", "tcp.len"]);
    Ok(run(&mut tshark)?.lines().count())
}
