//! Metrics as Prometheus would scrape them: curl asks, and Prometheus's own Python library reads what comes.

use netd_tests::process::run;
use netd_tests::tapped::{GATEWAY, LIMIT, STATIC, Tapped, scenario};
use netd_tests::{Error, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;

/// Reads OpenMetrics strictly, and prints each sample as one key: its name, and its labels in their order.
const READ: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
samples, helped = {}, 0
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    helped += bool(family.documentation)
    for sample in family.samples:
        labels = ''.join(' %s=%s' % label for label in sample.labels.items())
        assert sample.name + labels not in samples
        samples[sample.name + labels] = sample.value
print(json.dumps(dict(samples=samples, helped=helped)))";

/// One scrape, read.
fn scrape(tapped: &Tapped) -> Result<Value> {
    let socket = tapped.path("metrics.sock");
    let text = tapped.path("metrics.txt");
    let mut curl = tapped.command("curl");
    curl.args(["-sSf", "--max-time", "20", "-o"]).arg(&text).arg("--unix-socket").arg(socket);
    run(curl.args(["-w", "%{content_type}", "http://netd/metrics"])).and_then(|content| {
        ensure!(
            content.starts_with("application/openmetrics-text; version=1.0.0"),
            "the content is {content}"
        );
        Ok(())
    })?;
    let read = run(Command::new("/usr/bin/python3").args(["-c", READ]).arg(text))?;
    serde_json::from_str(&read).map_err(|error| Error::Expectation(format!("{error}: {read}")))
}

/// The metrics that a text names.
fn asked_for(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("netd_"))
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn metrics_are_what_netd_counts_and_say_when_it_is_gone() -> Result<()> {
    scenario(&[], |tapped| {
        tapped.start(STATIC, "")?;
        let more = format!("[metrics]\nsocket = {:?}\nmode = \"0600\"\n", tapped.path("metrics.sock"));
        let mut services = tapped.start_services(&more)?;
        let before = scrape(tapped)?;
        run(&mut tapped.netctl(&["ping", "-c", "3", GATEWAY]))?;
        let after = scrape(tapped)?;
        let (old, new) = (&before["samples"], &after["samples"]);
        let up = ["netd_up", "netd_device_ready", "netd_link_up", "netd_devnet_enabled"];
        ensure!(up.iter().all(|name| new[name] == 1.0), "{after:#}");
        let sent = "netd_queue_frames_total queue=1 direction=transmit";
        let grown = new[sent].as_f64().unwrap_or(0.0) - old[sent].as_f64().unwrap_or(0.0);
        ensure!(grown >= 3.0, "three pings were sent, and {sent} grew by {grown}:\n{after:#}");
        ensure!(new["netd_bound_limit scope=total subject= bound=sockets"].as_f64() > Some(0.0), "{after:#}");
        ensure!(after["helped"].as_u64() >= Some(20), "metrics without a word about them:\n{after:#}");
        let status = tapped.json(&["stats"])?;
        let counters = status["counters"].as_object().cloned().unwrap_or_default();
        for name in counters.keys() {
            let sample = match name.strip_prefix("drop_") {
                Some(reason) => format!("netd_drops_total reason={reason}"),
                None => format!("netd_events_total event={name}"),
            };
            ensure!(new.get(&sample).is_some(), "there is no {sample}:\n{after:#}");
        }

        // The dashboard asks for nothing that is not there.
        for name in asked_for(include_str!("../../../docs/netd.grafana.json")) {
            let there =
                new.as_object().is_some_and(|all| all.keys().any(|key| key.split(' ').next() == Some(name)));
            ensure!(there, "the dashboard asks for {name}, which is not there:\n{after:#}");
        }

        tapped.stop()?;
        let gone = scrape(tapped)?;
        ensure!(gone["samples"] == serde_json::json!({ "netd_up": 0 }), "without netd: {gone:#}");
        services.signal(Signal::TERM)?;
        services.finish(LIMIT)?;
        ensure!(!tapped.path("metrics.sock").exists(), "the socket is left");
        Ok(())
    })
}
