//! What netd counts, as OpenMetrics has it. Names and labels are an interface: dashboards and alerts are built on them (docs/metrics.md).

use std::collections::BTreeMap;
use std::fmt;

use netd_ipc::policy::AuditReport;
use netd_ipc::services::PublishedPort;
use netd_ipc::{Client, Clients, Copies, Device, DeviceState, Direction, Error, Statistics, Status, Use};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// Labels of a sample: name and value.
type Labels = Vec<(&'static str, String)>;

/// What netd says of itself at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    status: Status,
    device: Device,
    statistics: Statistics,
    clients: Clients,
    audit: AuditReport,
}

impl Snapshot {
    /// Asks netd.
    pub(super) fn take(netd: &Client) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            status: netd.status()?,
            device: netd.device()?,
            statistics: netd.statistics()?,
            clients: netd.clients()?,
            audit: netd.audit()?,
        })
    }
}

/// The text of one scrape. Without a snapshot it says that netd is not there.
pub(super) fn text(snapshot: Option<Snapshot>, published: Vec<PublishedPort>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { snapshot, published }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    snapshot: Option<Snapshot>,
    published: Vec<PublishedPort>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.gauge("netd_up", "Whether netd answers", [(vec![], self.snapshot.is_some().into())])?;
        ports(&mut page, &self.published)?;
        let Some(Snapshot { status, device, statistics, clients, audit }) = &self.snapshot else {
            return Ok(());
        };
        daemon(&mut page, status)?;
        of_device(&mut page, device)?;
        counted(&mut page, statistics)?;
        used(&mut page, clients)?;
        page.counter("netd_audit_records", "Audit records written", [(vec![], audit.written)])?;
        let suppressed = [(vec![], audit.suppressed)];
        page.counter("netd_audit_suppressed", "Denials that were not recorded one by one", suppressed)?;
        page.gauge(
            "netd_audit_waiting",
            "Denials of which the log knows nothing yet",
            [(vec![], audit.waiting)],
        )
    }
}

fn daemon(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let version = vec![("version", status.version.clone())];
    page.gauge("netd_build_info", "The running version", [(version, 1)])?;
    page.gauge("netd_uptime_seconds", "How long netd runs", [(vec![], status.uptime_seconds)])?;
    let devnet = [(vec![], status.devnet_enabled.into())];
    page.gauge("netd_devnet_enabled", "Whether the devnet switch is on", devnet)?;
    let trusted = [(vec![], status.clock.trusted.into())];
    page.gauge("netd_clock_trusted", "Whether the clock is trusted where certificates are judged", trusted)?;
    page.gauge("netd_addresses", "Addresses in use", [(vec![], status.addresses.len() as u64)])
}

/// Of netd-services itself, so there without netd, too.
fn ports(page: &mut Page<'_>, published: &[PublishedPort]) -> fmt::Result {
    let samples = |value: fn(&PublishedPort) -> u64| {
        published.iter().map(move |port| (vec![("listen", port.listen.clone())], value(port)))
    };
    let listening = samples(|port| port.listening.into());
    page.gauge("netd_published_listening", "Whether a published port listens", listening)?;
    page.gauge(
        "netd_published_open",
        "Open connections of a published port",
        samples(|port| port.open as u64),
    )?;
    let bytes = published.iter().flat_map(|port| {
        let sample = |direction: &str, bytes| {
            (vec![("listen", port.listen.clone()), ("direction", direction.to_owned())], bytes)
        };
        [sample("receive", port.received_bytes), sample("transmit", port.sent_bytes)]
    });
    page.counter("netd_published_bytes", "Carried by a published port", bytes)?;
    let events = published.iter().flat_map(|port| {
        let labels = |event: &String| vec![("listen", port.listen.clone()), ("event", event.clone())];
        port.counters.iter().map(move |(event, count)| (labels(event), *count))
    });
    page.counter(
        "netd_published_connections",
        "Connections of a published port, by what became of them",
        events,
    )
}

fn of_device(page: &mut Page<'_>, device: &Device) -> fmt::Result {
    let ready = (device.state == DeviceState::Ready).into();
    page.gauge("netd_device_ready", "Whether the device works", [(vec![], ready)])?;
    page.gauge("netd_link_up", "Whether the link is up", [(vec![], device.link_up.into())])?;
    page.counter("netd_device_resets", "Resets after the device failed", [(vec![], device.resets)])?;
    let queues = |value: fn(&netd_ipc::Queue) -> u64| {
        device.queues.iter().map(move |queue| {
            let direction = match queue.direction {
                Direction::Receive => "receive",
                Direction::Transmit => "transmit",
            };
            (vec![("queue", queue.index.to_string()), ("direction", direction.to_owned())], value(queue))
        })
    };
    page.counter("netd_queue_frames", "Frames that passed a queue", queues(|queue| queue.frames))?;
    page.counter("netd_queue_bytes", "Bytes of these frames", queues(|queue| queue.bytes))?;
    page.counter("netd_queue_interrupts", "Interrupts of a queue's vector", queues(|queue| queue.interrupts))
}

fn counted(page: &mut Page<'_>, statistics: &Statistics) -> fmt::Result {
    let Statistics { uptime_seconds: _, counters, dns, received, sent } = statistics;
    let named = |all: &BTreeMap<String, u64>, chosen: fn(&str) -> Option<&str>, label: &'static str| {
        let samples = all.iter().filter_map(move |(name, value)| Some((chosen(name)?, *value)));
        samples.map(move |(name, value)| (vec![(label, name.to_owned())], value)).collect::<Vec<_>>()
    };
    let drops = named(counters, |name| name.strip_prefix("drop_"), "reason");
    page.counter("netd_drops", "Frames and datagrams that were dropped", drops)?;
    let events = named(counters, |name| (!name.starts_with("drop_")).then_some(name), "event");
    page.counter("netd_events", "What the stack and the driver did", events)?;
    page.gauge(
        "netd_resolver",
        "What the resolver did, and what its cache holds",
        named(dns, |name| Some(name), "item"),
    )?;
    let copies = |value: fn(&Copies) -> u64| {
        let sample = |direction: &str, copies| (vec![("direction", direction.to_owned())], value(copies));
        [sample("receive", received), sample("transmit", sent)]
    };
    page.counter("netd_payload_bytes", "Carried for clients", copies(|copies| copies.carried_bytes))?;
    let by_netd = copies(|copies| copies.user_copied_bytes);
    page.counter("netd_copied_bytes", "Copied by netd for that, headers and repetitions included", by_netd)?;
    let by_kernel = copies(|copies| copies.kernel_copied_bytes);
    page.counter("netd_kernel_copied_bytes", "Copied by the kernel, to and from descriptors", by_kernel)
}

/// Bounds: each with what is used of it, and how often it was in the way.
fn used(page: &mut Page<'_>, clients: &Clients) -> fmt::Result {
    let Clients { total, clients, tables, quotas } = clients;
    let mut bounds: Vec<(Labels, Use)> = Vec::new();
    let mut add = |scope: &str, subject: String, bound: &str, usage: Use| {
        let labels = [("scope", scope.to_owned()), ("subject", subject), ("bound", bound.to_owned())];
        bounds.push((labels.into(), usage));
    };
    for (bound, usage) in [
        ("connections", total.connections),
        ("sockets", total.sockets),
        ("memory_bytes", total.memory_bytes),
        ("captures", total.captures),
    ] {
        add("total", String::new(), bound, usage);
    }
    for client in clients {
        for (bound, usage) in [
            ("connections", client.connections),
            ("sockets", client.sockets),
            ("memory_bytes", client.memory_bytes),
            ("captures", client.captures),
            ("connects_per_second", client.connects_per_second),
            ("packets_per_second", client.packets_per_second),
            ("closing", client.closing),
            ("names", client.names),
        ] {
            add("user", client.uid.to_string(), bound, usage);
        }
    }
    for table in tables {
        add("table", String::new(), &table.key, table.usage);
    }
    for quota in quotas {
        add("quota", quota.subject.clone(), &quota.key, quota.usage);
    }
    let samples = |value: fn(&Use) -> u64| {
        bounds.iter().map(move |(labels, usage)| (labels.clone(), value(usage))).collect::<Vec<_>>()
    };
    page.gauge("netd_bound_used", "What is used of a bound", samples(|usage| usage.used))?;
    page.gauge("netd_bound_limit", "The bound", samples(|usage| usage.limit))?;
    page.counter("netd_bound_refused", "How often the bound was in the way", samples(|usage| usage.refused))
}

/// Writes metrics one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// Something that only grows, until netd starts again. The name gets `_total` behind it.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, |metric, value| {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// Something that is so at this moment.
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples, |metric, value| {
            metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
        })
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, u64)>,
        encode: fn(&mut MetricEncoder<'_>, u64) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => encode(&mut metric, value)?,
                false => encode(&mut metric.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }
}
