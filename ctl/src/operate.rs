//! neighbors, routes, dhcp, stats, clients and log: the daemon's tables, counters and bounds.

use std::process::ExitCode;

use netd_ipc::{
    AddressSource, Client, ClientUse, Clients, Copies, Interface, Neighbor, Offload, PollMode, QuotaUse,
    Statistics, Table, TotalUse, Use,
};
use serde_json::json;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, bytes, fields, list, name, or_dash, span, table};

pub(crate) fn neighbors(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let neighbors = client.neighbors()?;
    output.result(&neighbors, || {
        if neighbors.is_empty() { "no neighbors\n".to_owned() } else { neighbors_text(&neighbors) }
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn routes(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let interfaces = client.interfaces()?;
    let routes: Vec<_> = interfaces
        .iter()
        .flat_map(|interface| interface.routes.iter().map(|route| (route, &interface.name)))
        .map(|(route, interface)| json!({ "destination": route.destination, "gateway": route.gateway, "interface": interface }))
        .collect();
    output.result(&routes, || {
        if routes.is_empty() {
            "no routes: there is no address\n".to_owned()
        } else {
            routes_text(&interfaces)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn dhcp(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let interfaces = client.interfaces()?;
    output.result(&interfaces, || {
        if interfaces.is_empty() {
            return "no interfaces: there is no live device (see netctl device)\n".to_owned();
        }
        interfaces.iter().map(lease_text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn stats(client: &Client, output: &Output, arguments: &cli::Stats) -> Result<ExitCode, Error> {
    let mut statistics = client.statistics()?;
    if arguments.drops {
        statistics.counters.retain(|name, _| name.starts_with("drop_"));
    }
    output.result(&statistics, || statistics_text(&statistics, arguments.all))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn clients(client: &Client, output: &Output) -> Result<ExitCode, Error> {
    let clients = client.clients()?;
    output.result(&clients, || clients_text(&clients))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn log(client: &Client, output: &Output, arguments: &cli::Log) -> Result<ExitCode, Error> {
    let previous = client.set_log_level(&arguments.filter)?;
    let now = &arguments.filter;
    output.result(&json!({ "previous": previous, "filter": now }), || {
        format!("netd logs '{now}' now; before, it was '{previous}'\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn poll(client: &Client, output: &Output, arguments: &cli::Poll) -> Result<ExitCode, Error> {
    let mode = match arguments.mode {
        cli::Mode::Busy => PollMode::Busy,
        cli::Mode::Adaptive => PollMode::Adaptive,
        cli::Mode::Interrupt => PollMode::Interrupt,
    };
    let previous = client.set_poll_mode(mode)?;
    output.result(&json!({ "previous": previous, "poll": mode }), || {
        format!("netd's polling is {} now; before, it was {}\n", name(&mode), name(&previous))
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn offload(client: &Client, output: &Output, name: &str, on: bool) -> Result<ExitCode, Error> {
    let device = client.set_offload(name, on)?;
    output.result(&device.offloads, || offloads_text(&device.offloads))?;
    Ok(ExitCode::SUCCESS)
}

/// Every offload, whether it is used, and why.
pub(crate) fn offloads_text(offloads: &[Offload]) -> String {
    let row = |offload: &Offload| {
        let state = if offload.on { "on" } else { "off" };
        let fixed = if offload.switchable || !offload.on {
            ""
        } else {
            " (cannot be switched while the device runs)"
        };
        [offload.name.clone(), state.to_owned(), format!("{}{fixed}", offload.reason)]
    };
    let rows: Vec<_> = offloads.iter().map(row).collect();
    table(["OFFLOAD", "STATE", "REASON"], &rows)
}

fn neighbors_text(neighbors: &[Neighbor]) -> String {
    let row = |neighbor: &Neighbor| {
        let Neighbor { interface, address, mac, state } = neighbor;
        [address.to_string(), or_dash(mac.as_ref()), state.clone(), interface.clone()]
    };
    let rows: Vec<_> = neighbors.iter().map(row).collect();
    table(["ADDRESS", "MAC", "STATE", "INTERFACE"], &rows)
}

fn routes_text(interfaces: &[Interface]) -> String {
    let rows: Vec<_> = interfaces
        .iter()
        .flat_map(|interface| {
            interface.routes.iter().map(|route| {
                let via =
                    route.gateway.map_or_else(|| "on the link".to_owned(), |gateway| gateway.to_string());
                [route.destination.to_string(), via, interface.name.clone()]
            })
        })
        .collect();
    table(["DESTINATION", "GATEWAY", "INTERFACE"], &rows)
}

fn lease_text(interface: &Interface) -> String {
    let mut lines = vec![("interface", interface.name.clone())];
    match interface.address_source {
        AddressSource::Searching => lines.push(("state", "asking for an address".to_owned())),
        AddressSource::Static => lines.push(("state", "not in use: the address is configured".to_owned())),
        AddressSource::None => lines.push(("state", "no live device".to_owned())),
        AddressSource::Fallback => {
            lines.push((
                "state",
                "no server answered: the configured fallback is in use, and asking goes on".to_owned(),
            ));
        }
        AddressSource::Dhcp => lines.push(("state", "bound".to_owned())),
    }
    lines.push(("addresses", list(&interface.addresses)));
    if interface.address_source == AddressSource::Dhcp {
        lines.push(("server", or_dash(interface.dhcp_server)));
        lines.push(("gateway", or_dash(interface.gateway)));
        lines.push(("lease", or_dash(interface.lease_seconds.map(span))));
        lines.push((
            "renewal",
            or_dash(interface.renew_in_seconds.map(|seconds| format!("in {}", span(seconds)))),
        ));
        lines.push((
            "rebinding",
            or_dash(interface.rebind_in_seconds.map(|seconds| format!("in {}", span(seconds)))),
        ));
        lines.push((
            "expiry",
            or_dash(interface.expires_in_seconds.map(|seconds| format!("in {}", span(seconds)))),
        ));
        lines.push(("DNS", list(&interface.dns)));
        lines.push(("NTP", list(&interface.ntp)));
        lines.push(("host name", or_dash(interface.hostname.as_ref())));
        lines.push(("domain", or_dash(interface.domain.as_ref())));
        lines.push(("search", list(&interface.search)));
    }
    fields(&lines)
}

fn statistics_text(statistics: &Statistics, all: bool) -> String {
    let Statistics { uptime_seconds, counters, dns, received, sent } = statistics;
    let row = |direction: &str, copies: &Copies| {
        let Copies { carried_bytes, user_copied_bytes, kernel_copied_bytes } = *copies;
        [
            direction.to_owned(),
            bytes(carried_bytes),
            ratio(user_copied_bytes, carried_bytes),
            ratio(kernel_copied_bytes, carried_bytes),
        ]
    };
    let rows = [row("received", received), row("sent", sent)];
    let mut text = format!("up {}\n\n", span(*uptime_seconds));
    text += &table(["PAYLOAD", ">CARRIED", ">COPIED PER BYTE", ">BY THE KERNEL"], &rows);
    for (heading, counters) in [("COUNTER", counters), ("NAMES", dns)] {
        let shown: Vec<_> = counters
            .iter()
            .filter(|(_, count)| all || **count != 0)
            .map(|(name, count)| [name.clone(), count.to_string()])
            .collect();
        if !shown.is_empty() {
            text.push('\n');
            text += &table([heading, ">SINCE START"], &shown);
        }
    }
    text
}

/// With two decimals, or a dash where nothing was carried.
fn ratio(copied: u64, carried: u64) -> String {
    if carried == 0 {
        return "-".to_owned();
    }
    let hundredths = u128::from(copied) * 100 / u128::from(carried);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn clients_text(clients: &Clients) -> String {
    let count = |bound: &Use| of(bound, |value| value.to_string());
    let memory = |bound: &Use| of(bound, bytes);
    let row = |client: &ClientUse| {
        let ClientUse {
            uid,
            connections,
            sockets,
            memory_bytes,
            captures,
            connects_per_second,
            packets_per_second,
            closing,
            names,
        } = client;
        [
            uid.to_string(),
            count(connections),
            count(sockets),
            memory(memory_bytes),
            count(captures),
            count(connects_per_second),
            count(packets_per_second),
            count(closing),
            count(names),
        ]
    };
    let TotalUse { connections, sockets, memory_bytes, captures } = &clients.total;
    let total = [
        "all".to_owned(),
        count(connections),
        count(sockets),
        memory(memory_bytes),
        count(captures),
        "-".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
    ];
    let rows: Vec<_> = clients.clients.iter().map(row).chain([total]).collect();
    let text = table(
        [
            ">UID",
            ">CONNECTIONS",
            ">SOCKETS",
            ">MEMORY",
            ">CAPTURES",
            ">CONNECTS/S",
            ">PACKETS/S",
            ">CLOSING",
            ">NAMES",
        ],
        &rows,
    );
    let tables: Vec<_> =
        clients.tables.iter().map(|Table { key, usage }| [key.clone(), count(usage)]).collect();
    let tables = match tables.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(["TABLE", ">USED"], &tables)),
    };
    let quotas: Vec<_> = clients
        .quotas
        .iter()
        .map(|QuotaUse { subject, key, usage, file, line }| {
            [subject.clone(), key.clone(), count(usage), format!("{file}:{line}")]
        })
        .collect();
    let quotas = match quotas.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(["QUOTA OF", "BOUND", ">USED", "WHERE"], &quotas)),
    };
    format!(
        "{text}{tables}{quotas}\nused/limit ([limits] in netd.toml, or as named); + and a number: how often the limit was in the way\n"
    )
}

fn of(bound: &Use, show: impl Fn(u64) -> String) -> String {
    let Use { used, limit, refused } = *bound;
    let refused = if refused > 0 { format!(" +{refused}") } else { String::new() };
    format!("{}/{}{refused}", show(used), show(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_has_two_decimals_and_nothing_carried_has_none() {
        assert_eq!(ratio(1040, 1000), "1.04");
        assert_eq!(ratio(5, 0), "-");
    }

    #[test]
    fn clients_text_shows_use_limit_and_refusals() {
        let bound = |used, limit, refused| Use { used, limit, refused };
        let clients = Clients {
            total: TotalUse { sockets: bound(3, 1024, 0), ..TotalUse::default() },
            clients: vec![ClientUse {
                uid: 1000,
                connections: bound(1, 64, 0),
                sockets: bound(256, 256, 7),
                memory_bytes: bound(1 << 20, 160 << 20, 0),
                captures: bound(0, 1, 0),
                connects_per_second: bound(0, 1000, 0),
                packets_per_second: bound(0, 100_000, 0),
                closing: bound(2, 128, 0),
                names: bound(0, 16, 0),
            }],
            tables: vec![Table { key: "[tcp] connections".to_owned(), usage: bound(5, 1024, 1) }],
            quotas: vec![QuotaUse {
                subject: "unit:a.service".to_owned(),
                key: "sockets".to_owned(),
                usage: bound(4, 4, 2),
                file: "q.toml".to_owned(),
                line: 3,
            }],
        };
        let text = clients_text(&clients);
        assert!(text.contains("1000         1/64  256/256 +7  1.0 MiB/160.0 MiB"), "{text}");
        assert!(text.contains(" all"), "{text}");
        assert!(text.contains("unit:a.service  sockets  4/4 +2  q.toml:3\n"), "{text}");
        assert!(text.contains("[tcp] connections  5/1024 +1\n"), "{text}");
    }

    #[test]
    fn statistics_text_shows_copies_and_counters_that_are_not_0() {
        let statistics = Statistics {
            uptime_seconds: 61,
            counters: [("drop_a".to_owned(), 2), ("drop_b".to_owned(), 0)].into(),
            dns: [("cache_hits".to_owned(), 3)].into(),
            received: Copies { carried_bytes: 2048, user_copied_bytes: 2048, kernel_copied_bytes: 2048 },
            sent: Copies::default(),
        };
        let text = statistics_text(&statistics, false);
        assert!(text.contains("received  2.0 KiB             1.00           1.00\n"), "{text}");
        assert!(text.contains("cache_hits"), "{text}");
        assert!(text.contains("drop_a") && !text.contains("drop_b"), "{text}");
        assert!(statistics_text(&statistics, true).contains("drop_b"));
    }
}
