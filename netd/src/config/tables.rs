//! `[stack]` and `[tcp]`: how large the stack's tables are, and what connections begin with.

use std::time::Duration;

use netd_policy::file::Spanned;
use netd_stack::Limits;
use serde::Deserialize;

use crate::config::complaint::{Complaint, within};

const KIB: u64 = 1024;
/// No table is larger: at 128 KiB a connection this is more memory than any machine has that runs this daemon.
const ENTRIES_MAX: u64 = 1 << 20;

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStack {
    /// Neighbours; beyond, the one that was not used for the longest time is forgotten.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 512)))]
    neighbors: Option<Spanned<u64>>,
    /// UDP sockets.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65535), extend("default" = 256)))]
    udp_sockets: Option<Spanned<u64>>,
    /// What waits for one UDP socket's client in the stack; more is dropped and counted.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65536), extend("default" = 256)))]
    udp_queue_kib: Option<Spanned<u64>>,
    /// The same, in datagrams.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 256)))]
    udp_queue_datagrams: Option<Spanned<u64>>,
    /// Echo requests under way.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65535), extend("default" = 64)))]
    pings: Option<Spanned<u64>>,
    /// Datagrams that are being put together from fragments; more are dropped and counted.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 64)))]
    fragments: Option<Spanned<u64>>,
    /// The same, of one source.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 16)))]
    fragments_per_source: Option<Spanned<u64>>,
    /// Memory of all fragments.
    #[cfg_attr(feature = "schema", schemars(range(min = 64, max = 1 << 20), extend("default" = 1024)))]
    fragment_kib: Option<Spanned<u64>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTcp {
    /// Connections in any state; more if `[limits] sockets`, and a quarter of it, is more.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 1024)))]
    connections: Option<Spanned<u64>>,
    /// Closed by their clients and still delivering; half of all unless given.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX)))]
    closing: Option<Spanned<u64>>,
    /// The same, of one user: beyond, its oldest is reset; a quarter of `closing` unless given.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX)))]
    closing_per_user: Option<Spanned<u64>>,
    /// Listeners.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65535), extend("default" = 64)))]
    listeners: Option<Spanned<u64>>,
    /// The most connections that wait for one listener's client; more SYNs are not answered.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 128)))]
    backlog: Option<Spanned<u64>>,
    /// Handshakes under way.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 256)))]
    pending: Option<Spanned<u64>>,
    /// The same, of one listener.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 64)))]
    pending_per_listener: Option<Spanned<u64>>,
    /// The same, of one source: an IPv4 address, an IPv6 /64.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = ENTRIES_MAX), extend("default" = 32)))]
    pending_per_source: Option<Spanned<u64>>,
    /// After how long an idle peer is asked whether it is there, unless the client says; 0: never.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 604800), extend("default" = 60)))]
    keepalive_seconds: Option<Spanned<u64>>,
    /// How long until it is asked again.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600), extend("default" = 10)))]
    keepalive_interval_seconds: Option<Spanned<u64>>,
    /// How often, before it is given up.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100), extend("default" = 9)))]
    keepalive_probes: Option<Spanned<u64>>,
}

/// A table of at least one entry.
fn entries(key: &str, value: Option<Spanned<u64>>, default: usize) -> Result<usize, Complaint> {
    up_to(key, value, default, ENTRIES_MAX)
}

fn up_to(key: &str, value: Option<Spanned<u64>>, default: usize, most: u64) -> Result<usize, Complaint> {
    let default = u64::try_from(default).unwrap_or(u64::MAX).min(most);
    within(key, value, default, 1..=most).map(|entries| usize::try_from(entries).unwrap_or(usize::MAX))
}

pub(super) fn check(stack: RawStack, tcp: RawTcp) -> Result<Limits, Complaint> {
    let usual = Limits::default();
    let RawStack {
        neighbors,
        udp_sockets,
        udp_queue_kib,
        udp_queue_datagrams,
        pings,
        fragments,
        fragments_per_source,
        fragment_kib,
    } = stack;
    let RawTcp {
        connections,
        closing,
        closing_per_user,
        listeners,
        backlog,
        pending,
        pending_per_listener,
        pending_per_source,
        keepalive_seconds,
        keepalive_interval_seconds,
        keepalive_probes,
    } = tcp;
    let flows = entries("connections", connections, usual.flows)?;
    let all_pending = entries("pending", pending, usual.pending)?;
    let all_fragments = entries("fragments", fragments, usual.fragments)?;
    let kib = |bytes: usize| bytes / KIB as usize;
    // A bound on a part is at most the bound on the whole: more would be no bound.
    let of = |whole: usize| u64::try_from(whole).unwrap_or(u64::MAX);
    let all_closing = up_to("closing", closing, (flows / 2).max(1), of(flows))?;
    Ok(Limits {
        flows,
        closing: all_closing,
        closing_per_owner: up_to(
            "closing_per_user",
            closing_per_user,
            (all_closing / 4).max(1),
            of(all_closing),
        )?,
        listeners: up_to("listeners", listeners, usual.listeners, 65_535)?,
        backlog: up_to("backlog", backlog, usual.backlog, of(flows))?,
        pending_per_listener: up_to(
            "pending_per_listener",
            pending_per_listener,
            usual.pending_per_listener,
            of(all_pending),
        )?,
        pending: all_pending,
        pending_per_source: up_to(
            "pending_per_source",
            pending_per_source,
            usual.pending_per_source,
            of(all_pending),
        )?,
        // RFC 9293, 3.8.4 leaves the time to the application; a week is as good as never.
        keepalive: Some(within("keepalive_seconds", keepalive_seconds, 60, 0..=604_800)?)
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
        keepalive_interval: Duration::from_secs(within(
            "keepalive_interval_seconds",
            keepalive_interval_seconds,
            usual.keepalive_interval.as_secs(),
            1..=3600,
        )?),
        keepalive_probes: u8::try_from(within(
            "keepalive_probes",
            keepalive_probes,
            usual.keepalive_probes.into(),
            1..=100,
        )?)
        .unwrap_or(u8::MAX),
        udp_sockets: up_to("udp_sockets", udp_sockets, usual.udp_sockets, 65_535)?,
        udp_queue_bytes: up_to("udp_queue_kib", udp_queue_kib, kib(usual.udp_queue_bytes), 65_536)?
            * KIB as usize,
        udp_queue_datagrams: entries("udp_queue_datagrams", udp_queue_datagrams, usual.udp_queue_datagrams)?,
        neighbors: entries("neighbors", neighbors, usual.neighbors)?,
        pings: up_to("pings", pings, usual.pings, 65_535)?,
        fragments_per_source: up_to(
            "fragments_per_source",
            fragments_per_source,
            usual.fragments_per_source,
            of(all_fragments),
        )?,
        fragments: all_fragments,
        fragment_bytes: within(
            "fragment_kib",
            fragment_kib,
            u64::try_from(kib(usual.fragment_bytes)).unwrap_or(u64::MAX),
            64..=1 << 20,
        )
        .map(|kib| usize::try_from(kib).unwrap_or(usize::MAX) * KIB as usize)?,
    })
}
