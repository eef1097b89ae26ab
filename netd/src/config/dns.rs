//! `[dns]`: how names are resolved.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netd_policy::file::Spanned;
use netd_stack::dns::{Hosts, Limits, Mdns, Name};
use serde::Deserialize;

use crate::config::complaint::{Complaint, within};

/// The names that a machine knows by itself (hosts(5)).
const HOSTS_DEFAULT: &str = "/etc/hosts";
/// A hosts file longer than this is a list that belongs into a server: 65,536 names of 64 bytes.
const HOSTS_BYTES_MAX: u64 = 4 << 20;
/// Names under way: each has up to two exchanges of one or two sockets, and the stack has 256 UDP sockets for everybody.
const QUERIES: u64 = 32;
/// How long a server has in the first round: resolv.conf(5) says 5 s, and servers on one's own network answer in milliseconds.
const TIMEOUT_MS: u64 = 2000;
/// Rounds through all servers (resolv.conf(5)).
const ATTEMPTS: u64 = 2;

/// How names are resolved. A reload, or a change of the hosts file, puts another value in force; the bounds need a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Servers; without any, those of the lease or of `[address]` are asked.
    pub servers: Vec<IpAddr>,
    /// Domains below which short names are sought; without any, those of the lease.
    pub search: Vec<Name>,
    /// Where the hosts file is.
    pub hosts_path: PathBuf,
    /// What it says.
    pub hosts: Hosts,
    /// How names under `.local` are asked for.
    pub mdns: Mdns,
    /// How long a server has in the first round.
    pub timeout: Duration,
    /// Rounds through all servers.
    pub attempts: u32,
    /// Whether questions are spread over all servers.
    pub rotate: bool,
    /// Names under way and the cache.
    pub limits: Limits,
    /// Names under way of one user, so that names that nobody answers for leave others theirs.
    pub queries_per_user: usize,
}

impl Default for Dns {
    fn default() -> Dns {
        Dns {
            servers: Vec::new(),
            search: Vec::new(),
            hosts_path: PathBuf::from(HOSTS_DEFAULT),
            hosts: Hosts::default(),
            mdns: Mdns { ipv4: true, ipv6: false },
            timeout: Duration::from_millis(TIMEOUT_MS),
            attempts: ATTEMPTS as u32,
            rotate: false,
            limits: Limits { queries: QUERIES as usize, ..Limits::default() },
            queries_per_user: QUERIES as usize / 2,
        }
    }
}

/// Reads a hosts file. Without one, or with one that cannot be read, there are no names in it; what is wrong with it is logged.
pub fn read_hosts(path: &Path) -> Hosts {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > HOSTS_BYTES_MAX => {
            tracing::warn!(file = %shown, "the hosts file is longer than {HOSTS_BYTES_MAX} bytes and is ignored");
            return Hosts::default();
        }
        Ok(_) | Err(_) => {}
    }
    let hosts = match fs::read_to_string(path) {
        Ok(text) => Hosts::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Hosts::default(),
        Err(error) => {
            tracing::warn!(file = %shown, %error, "the hosts file cannot be read and is ignored");
            Hosts::default()
        }
    };
    for warning in hosts.warnings() {
        tracing::warn!(file = %shown, "hosts: {warning}");
    }
    hosts
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDns {
    /// Servers; without any, those of the lease.
    servers: Vec<IpAddr>,
    /// Domains below which short names are sought; without any, those of the lease.
    search: Vec<Spanned<String>>,
    /// The hosts file, read again within seconds when it changes.
    #[cfg_attr(feature = "schema", schemars(extend("default" = HOSTS_DEFAULT)))]
    hosts: Option<PathBuf>,
    /// How names under .local are asked for.
    mdns: RawMdns,
    /// How long a server has in the first round; each further round doubles it.
    #[cfg_attr(feature = "schema", schemars(range(min = 100, max = 30000), extend("default" = TIMEOUT_MS)))]
    timeout_ms: Option<Spanned<u64>>,
    /// Rounds through all servers.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 8), extend("default" = ATTEMPTS)))]
    attempts: Option<Spanned<u64>>,
    /// Spread questions over the servers instead of preferring the first.
    rotate: bool,
    /// Names under way.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 256), extend("default" = QUERIES)))]
    queries: Option<Spanned<u64>>,
    /// The same, of one user; half of all unless given.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 256)))]
    queries_per_user: Option<Spanned<u64>>,
    /// Answers that are remembered.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1 << 20), extend("default" = 2048)))]
    cache_entries: Option<Spanned<u64>>,
    /// Memory of remembered answers.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1 << 20), extend("default" = 1024)))]
    cache_kib: Option<Spanned<u64>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMdns {
    /// Over IPv4.
    #[default]
    Ipv4,
    /// Over IPv6.
    Ipv6,
    /// Over both.
    Both,
    /// By the servers, as every other name.
    Off,
}

pub(super) fn check(dns: RawDns) -> Result<Dns, Complaint> {
    let RawDns {
        servers,
        search,
        hosts,
        mdns,
        timeout_ms,
        attempts,
        rotate,
        queries,
        queries_per_user,
        cache_entries,
        cache_kib,
    } = dns;
    let domain = |name: Spanned<String>| match Name::parse(name.get_ref()) {
        Ok((name, _)) => Ok(name),
        Err(error) => Err(Complaint::at(name.span(), format!("search: {error}"))),
    };
    let hosts_path = hosts.unwrap_or_else(|| PathBuf::from(HOSTS_DEFAULT));
    let (ipv4, ipv6) = match mdns {
        RawMdns::Ipv4 => (true, false),
        RawMdns::Ipv6 => (false, true),
        RawMdns::Both => (true, true),
        RawMdns::Off => (false, false),
    };
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    // The stack knows 1,024 UDP sockets at most to be of use here: four for each name.
    let queries = within("queries", queries, QUERIES, 1..=256)?;
    let own = within("queries_per_user", queries_per_user, queries.div_ceil(2), 1..=queries)?;
    Ok(Dns {
        servers,
        search: search.into_iter().map(domain).collect::<Result<Vec<_>, _>>()?,
        hosts: read_hosts(&hosts_path),
        hosts_path,
        mdns: Mdns { ipv4, ipv6 },
        timeout: Duration::from_millis(within("timeout_ms", timeout_ms, TIMEOUT_MS, 100..=30_000)?),
        attempts: u32::try_from(within("attempts", attempts, ATTEMPTS, 1..=8)?).unwrap_or(u32::MAX),
        rotate,
        limits: Limits {
            queries: size(queries),
            cache_entries: size(within("cache_entries", cache_entries, 2048, 0..=1 << 20)?),
            cache_bytes: size(within("cache_kib", cache_kib, 1024, 0..=1 << 20)?) * 1024,
        },
        queries_per_user: size(own),
    })
}
