//! netd.toml: read, checked, and turned into types that cannot be wrong.
//!
//! The file is parsed into `Raw*` types that remember where each value stands, so that every complaint names file, line
//! and column and says what would be right. What leaves this module needs no further checks. The tables that need more than a
//! few keys have a file of their own.

mod audit;
mod clock;
mod complaint;
mod device;
mod dns;
mod network;
mod services;
mod tables;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netd_ipc::PollMode;
use netd_policy::file::{FileError, Places, Spanned};
use netd_policy::{DenyTable, GrantTable, Policy, QuotaTable, Quotas};
use netd_virtqueue::Switches;
use serde::Deserialize;

pub use self::audit::Audit;
use self::audit::RawAudit;
use self::clock::RawClock;
pub use self::clock::{Clock, ClockTrust};
use self::complaint::Complaint;
pub use self::device::{Device, Link, VhostUserDevice};
use self::device::{RawDevice, check_device};
use self::dns::RawDns;
pub use self::dns::{Dns, read_hosts};
pub use self::network::Network;
use self::network::{RawAddress, RawIpv6};
use self::services::RawServices;
use self::tables::{RawStack, RawTcp};
use crate::limits::Limits;
use crate::rules::Settings;
use crate::{names, policy_files};

/// Where the daemon looks for its configuration unless told otherwise.
pub const PATH_DEFAULT: &str = "/etc/netd/netd.toml";

/// A file longer than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Members of the socket's group may connect, policy decides what they may do.
const SOCKET_MODE_DEFAULT: u32 = 0o660;

/// Everything the daemon was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may do what; carries the devnet switch.
    pub policy: Policy,
    /// How much of it.
    pub limits: Limits,
    /// The device to drive.
    pub device: Device,
    /// Features that the driver leaves alone.
    pub features: Switches,
    /// How the worker waits for frames.
    pub poll: PollMode,
    /// The hugetlbfs mount that DMA memory comes from.
    pub hugetlbfs: PathBuf,
    /// Addresses and routes.
    pub network: Network,
    /// How large the stack's tables are.
    pub tables: netd_stack::Limits,
    /// How names are resolved.
    pub dns: Dns,
    /// Whether the clock is believed.
    pub clock: Clock,
    /// Where records of decisions go.
    pub audit: Audit,
    /// Where clients connect; none means the default of the user.
    pub socket: Option<PathBuf>,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// Where leases are kept; none means the default of the user.
    pub state_directory: Option<PathBuf>,
    /// Where evidence of this run is written; none means beside the socket.
    pub runtime_directory: Option<PathBuf>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file says something that makes no sense.
    #[error(transparent)]
    Wrong(#[from] FileError),
    /// A rule does not fit this machine, or itself.
    #[error(transparent)]
    Rule(#[from] netd_policy::Error),
    /// The files of rules are not as they should be.
    #[error(transparent)]
    Files(#[from] policy_files::Error),
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// What clients may reach at all.
    #[serde(default)]
    network: RawNetwork,
    /// The device to drive.
    device: Spanned<RawDevice>,
    /// Where DMA memory comes from.
    #[serde(default)]
    dma: RawDma,
    /// The IPv4 address, and routes.
    #[serde(default)]
    address: Option<Spanned<RawAddress>>,
    /// IPv6 addresses.
    #[serde(default)]
    ipv6: Option<Spanned<RawIpv6>>,
    /// How large the stack's tables are.
    #[serde(default)]
    stack: RawStack,
    /// How many connections there may be, and what they begin with.
    #[serde(default)]
    tcp: RawTcp,
    /// How names are resolved.
    #[serde(default)]
    dns: RawDns,
    /// Whether this machine's clock is believed where certificates are judged.
    #[serde(default)]
    clock: RawClock,
    /// Where records of decisions go.
    #[serde(default)]
    audit: RawAudit,
    /// Where clients connect.
    #[serde(default)]
    ipc: RawIpc,
    /// What outlives the daemon.
    #[serde(default)]
    state: RawState,
    /// Bounds of all clients together, and of each user.
    #[serde(default)]
    limits: Option<Spanned<Limits>>,
    /// Who netd-services is.
    #[serde(default)]
    services: RawServices,
    /// Where other files of rules are.
    #[serde(default)]
    policy: RawPolicy,
    /// What somebody may do. Nobody may do anything that no grant allows.
    #[serde(default)]
    grant: Vec<Spanned<GrantTable>>,
    /// What somebody may not do: wins over every grant.
    #[serde(default)]
    deny: Vec<Spanned<DenyTable>>,
    /// How much of netd somebody may have.
    #[serde(default)]
    quota: Vec<Spanned<QuotaTable>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    /// The devnet switch.
    #[serde(default)]
    devnet: RawDevnet,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevnet {
    /// While it is off, no client reaches a peer, whatever it was granted.
    #[serde(default)]
    enabled: bool,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDma {
    /// The hugetlbfs mount: three huge pages of 2 MiB are needed there.
    hugetlbfs: PathBuf,
}

impl Default for RawDma {
    fn default() -> Self {
        Self { hugetlbfs: PathBuf::from("/dev/hugepages") }
    }
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIpc {
    /// The socket.
    #[cfg_attr(feature = "schema", schemars(extend("default" = netd_ipc::SYSTEM_SOCKET)))]
    socket: Option<PathBuf>,
    /// Its permission bits, octal.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0660")))]
    mode: Option<Spanned<String>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    /// Every `*.toml` in it holds rules; `policy.d` beside this file unless given.
    directory: Option<PathBuf>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    /// Leases by hardware address, and the secret behind IPv6 addresses; /var/lib/netd unless given.
    directory: Option<PathBuf>,
    /// Evidence of this run; beside the socket unless given.
    runtime_directory: Option<PathBuf>,
}

impl Config {
    /// What the worker takes of a reload.
    pub fn settings(&self) -> Settings {
        Settings { network: self.network.clone(), dns: self.dns.clone(), clock: self.clock.clone() }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place and what would be right.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB")));
        }
        Self::parse(path, &fs::read_to_string(path).map_err(read)?)
    }

    /// Checks the text of a file called `path`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let file = path.to_string_lossy();
        let wrong =
            |complaint: Complaint| FileError::at(&file, text, complaint.span.start, complaint.message);
        let raw: Raw = toml::from_str(text).map_err(|error| FileError::of_parser(&file, text, &error))?;
        let Raw {
            network,
            device,
            dma,
            address,
            ipv6,
            stack,
            tcp,
            dns,
            clock,
            audit,
            ipc,
            state,
            limits,
            services,
            policy,
            grant,
            deny,
            quota,
        } = raw;
        let places = Places::of(&path.to_string_lossy(), text);
        let (mut rules, mut quotas) = (places.rules(grant, deny), places.quotas(quota));
        let others = policy_files::load(path, policy.directory.as_deref())?;
        rules.extend(others.rules);
        quotas.extend(others.quotas);
        let policy = Policy::new(network.devnet.enabled, rules, names::user, names::group)?
            .with_quotas(Quotas::new(&quotas, names::user, names::group)?)
            .with_operator(rustix::process::geteuid().as_raw())
            .with_representative(services::check(services).map_err(wrong)?);
        let (device, features, poll) = check_device(device).map_err(wrong)?;
        Ok(Self {
            policy,
            limits: check_limits(limits).map_err(wrong)?,
            device,
            features,
            poll,
            hugetlbfs: dma.hugetlbfs,
            network: network::check(address, ipv6).map_err(wrong)?,
            tables: tables::check(stack, tcp).map_err(wrong)?,
            dns: dns::check(dns).map_err(wrong)?,
            clock: clock::check(clock).map_err(wrong)?,
            audit: audit::check(audit).map_err(wrong)?,
            socket: ipc.socket,
            socket_mode: check_mode(ipc.mode).map_err(wrong)?,
            state_directory: state.directory,
            runtime_directory: state.runtime_directory,
        })
    }

    /// The tables in which `new` differs and that only a restart puts in force.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let Config {
            policy: _,
            limits: _,
            device,
            features,
            poll,
            hugetlbfs,
            network,
            tables,
            dns,
            clock: _,
            audit,
            socket,
            socket_mode,
            state_directory,
            runtime_directory,
        } = self;
        let directories = *state_directory == new.state_directory;
        let directories = directories && *runtime_directory == new.runtime_directory;
        let bounds = |dns: &Dns| (dns.limits, dns.timeout, dns.attempts, dns.rotate, dns.mdns);
        [
            ("[device]", *device == new.device && *features == new.features && *poll == new.poll),
            ("[dma]", *hugetlbfs == new.hugetlbfs),
            ("[ipv6] identifiers", network.stable_identifiers == new.network.stable_identifiers),
            ("[stack] and [tcp]", *tables == new.tables),
            ("[dns] beside servers, search, hosts and queries_per_user", bounds(dns) == bounds(&new.dns)),
            ("[audit]", *audit == new.audit),
            ("[ipc]", *socket == new.socket && *socket_mode == new.socket_mode),
            ("[state]", directories),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(table, _)| table)
        .collect()
    }
}

/// What the file looks like, as JSON Schema has it.
#[cfg(feature = "schema")]
pub fn schema(generator: schemars::SchemaGenerator) -> schemars::Schema {
    generator.into_root_schema_for::<Raw>()
}

fn check_limits(limits: Option<Spanned<Limits>>) -> Result<Limits, Complaint> {
    let Some(limits) = limits else { return Ok(Limits::default()) };
    match limits.get_ref().zero() {
        Some(key) => Err(Complaint::at(
            limits.span(),
            format!(
                "'{key}' is 0, so nobody could do anything: give at least 1 (who may do what is up to grants)"
            ),
        )),
        None => Ok(limits.into_inner()),
    }
}

fn check_mode(mode: Option<Spanned<String>>) -> Result<u32, Complaint> {
    let Some(mode) = mode else { return Ok(SOCKET_MODE_DEFAULT) };
    u32::from_str_radix(mode.get_ref(), 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| Complaint::at(mode.span(), "mode must be octal permission bits such as \"0660\""))
}
