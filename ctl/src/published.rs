//! published: the ports of netd's that lead to servers of this machine. netd-services is asked.

use std::process::ExitCode;

use netd_ipc::services::{Client, PublishedPort};

use crate::cli;
use crate::error::Error;
use crate::output::{Output, table};

pub(crate) fn run(output: &Output, arguments: &cli::Published) -> Result<ExitCode, Error> {
    let client = match &arguments.services {
        Some(path) => Client::at(path),
        None => Client::default_paths(),
    };
    let ports = client.published()?;
    output.result(&ports, || text(&ports))?;
    Ok(ExitCode::SUCCESS)
}

fn text(ports: &[PublishedPort]) -> String {
    if ports.is_empty() {
        return "no ports are published: [[publish]] of services.toml names some\n".to_owned();
    }
    let row = |port: &PublishedPort| {
        let count = |name: &str| port.counters.get(name).copied().unwrap_or_default();
        let refused: u64 = ["refused_full", "refused_source", "refused_rate"].map(count).iter().sum();
        let dropped: u64 = ["request_late", "response_stalled"].map(count).iter().sum();
        [
            port.listen.clone(),
            port.to.clone(),
            if port.listening { "listening" } else { "waiting" }.to_owned(),
            format!("{} of {}", port.open, port.connections),
            count("accepted").to_string(),
            refused.to_string(),
            dropped.to_string(),
            count("target_failed").to_string(),
            port.received_bytes.to_string(),
            port.sent_bytes.to_string(),
        ]
    };
    let rows: Vec<_> = ports.iter().map(row).collect();
    let headings = [
        "LISTEN",
        "TO",
        "STATE",
        ">OPEN",
        ">ACCEPTED",
        ">REFUSED",
        ">DROPPED",
        ">FAILED",
        ">RECEIVED",
        ">SENT",
    ];
    let problems = ports.iter().filter_map(|port| Some((&port.listen, port.problem.as_ref()?)));
    let problems: String = problems.map(|(listen, why)| format!("{listen}: {why}\n")).collect();
    table(headings, &rows) + &problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_that_does_not_listen_says_why() {
        let port = PublishedPort {
            listen: "22".into(),
            to: "127.0.0.1:22".into(),
            proxy_protocol: false,
            listening: false,
            problem: Some("nobody may".into()),
            open: 0,
            connections: 64,
            received_bytes: 5,
            sent_bytes: 6,
            counters: [
                ("accepted".to_owned(), 9),
                ("refused_full".to_owned(), 1),
                ("refused_rate".to_owned(), 2),
            ]
            .into(),
        };
        let text = text(&[port]);
        assert!(
            text.contains("22      127.0.0.1:22  waiting  0 of 64         9        3        0"),
            "{text}"
        );
        assert!(text.ends_with("22: nobody may\n"), "{text}");
    }
}
