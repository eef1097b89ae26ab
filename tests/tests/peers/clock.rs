//! The clock's trust: chrony as time server, and a server that is not there.

use netd_tests::peers::{Chrony, Dnsmasq, LeasePlan, OFFICE};
use netd_tests::tapped::{BRIDGE, GATEWAY, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;
use std::fs;

/// The kernel's word does not count, so that the scenario means the same on every machine.
const SNTP: &str = "[clock]\ntrust = \"sntp\"\n";
/// Nobody has it.
const NOBODY: &str = "10.77.0.77";

/// With the time server in option 42.
const WITH_TIME: LeasePlan = LeasePlan { options: &["--dhcp-option=42,10.77.0.1"], ..OFFICE };

fn clock(tapped: &Tapped) -> Result<Value> {
    Ok(tapped.json(&["status"])?["clock"].clone())
}

/// What the audit says of the clock, the latest last.
fn records(tapped: &Tapped) -> Result<Vec<Value>> {
    let log = tapped.path("state/audit/audit.jsonl");
    let text = fs::read_to_string(&log)
        .map_err(|source| Error::Io { action: format!("read {}", log.display()), source })?;
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(all.filter(|record| record["event"] == "clock").collect())
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn clock_is_trusted_once_the_leases_time_server_confirms_it_and_untrusted_while_none_answers() -> Result<()> {
    scenario(&[], |tapped| {
        tapped.start(STATIC, &format!("{SNTP}servers = [\"{NOBODY}\"]\n"))?;
        let silent = format!("time server {NOBODY} does not answer");
        tapped.wait("the silence of a server", |tapped| Ok(clock(tapped)?["reason"] == silent.as_str()))?;
        let untrusted = clock(tapped)?;
        ensure!(untrusted["trusted"] == false && untrusted["by"].is_null(), "{untrusted:#}");
        tapped.stop()?;
        fs::remove_file(tapped.path("netd.sock")).ok();

        let _dnsmasq = Dnsmasq::start(&tapped.namespace, BRIDGE, &WITH_TIME)?;
        let _chrony = Chrony::start(&tapped.namespace, GATEWAY)?;
        tapped.start_with_lease(SNTP)?;
        tapped.wait("a confirmed clock", |tapped| Ok(clock(tapped)?["by"] == "sntp"))?;
        let trusted = clock(tapped)?;
        let reason = trusted["reason"].as_str().unwrap_or_default().to_owned();
        ensure!(reason.starts_with("time server 10.77.0.1 confirms it ("), "{trusted:#}");
        let records = records(tapped)?;
        let said: Vec<_> = records.iter().map(|record| record["trusted"] == true).collect();
        ensure!(said.first() == Some(&false) && said.last() == Some(&true), "the audit has {records:#?}");
        Ok(())
    })
}
