//! `[bus]` of services.toml: what this machine is on the bus, where it is heard, and who may come.

mod shared;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use netd_ipc::services::BusMode;
use netd_policy::file::Spanned;
use netd_policy::{BusDevice, BusService, DevicePattern, HostName};
use netd_softbus::DeviceId;
use netd_softbus::discovery::{self, Acl, Devices, Rule, Services, Shared, Transport};
use netd_softbus::remote::gateway::Rates;
use serde::Deserialize;

use super::remote::Directories;

/// Where sessions are taken unless told otherwise.
const SESSION_PORT: u16 = 34567;
/// Handshakes with one peer in half a minute: the protocol's number.
const HANDSHAKES: u32 = 3;
/// Requests of one device in a second unless told otherwise: what a person or a control loop asks, many times over, and little for this machine.
const REQUESTS_PER_SECOND: u32 = 200;
/// Of one service: half of that, so one service leaves room for the others.
const SERVICE_REQUESTS_PER_SECOND: u32 = 100;
/// More than a session carries.
const REQUESTS_PER_SECOND_MAX: u32 = 100_000;
/// Domains that list devices: each is asked as often as this machine announces itself.
const DOMAINS_MAX: usize = 8;
/// Where keys are kept unless told otherwise.
const STATE_DEFAULT: &str = "/var/lib/netd/bus";

/// What the bus was told.
#[derive(Debug, Clone)]
pub struct Bus {
    /// How far it reaches, if devnet is on.
    pub mode: BusMode,
    /// What this machine calls itself.
    pub device: DeviceId,
    /// Where its key and those of its peers are.
    pub state: PathBuf,
    /// Where it takes sessions (TCP).
    pub port: u16,
    /// Where it hears announcements (UDP).
    pub discovery_port: u16,
    /// Whether it announces itself to the multicast group.
    pub multicast: bool,
    /// Whether it announces itself to the link's broadcast address.
    pub broadcast: bool,
    /// Whom it announces itself to besides.
    pub peers: Vec<SocketAddr>,
    /// Domains whose zones list devices.
    pub dns_sd: Vec<String>,
    /// Who may have a session, and which services.
    pub acl: Acl,
    /// How long a PIN is shown.
    pub pairing: Duration,
    /// Handshakes with one peer in half a minute.
    pub handshakes: u32,
    /// How often it announces itself; a peer that was not heard for three times as long is gone.
    pub announce: Duration,
    /// How often a device may ask something.
    pub rates: Rates,
    /// The directories that it shares, by name.
    pub shares: Directories,
    /// Who keeps the state that all share; none if there is none.
    pub keeper: Option<DeviceId>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawMode {
    #[default]
    Loopback,
    Network,
}

/// As the file has it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raw {
    /// `loopback`: between this machine's clients; `network`: with other devices, while devnet is on.
    #[cfg_attr(feature = "schema", schemars(extend("default" = "loopback")))]
    mode: RawMode,
    /// What this machine calls itself; absent: its host name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    device: Option<Spanned<String>>,
    /// Where its key and those of its peers are kept.
    #[cfg_attr(feature = "schema", schemars(extend("default" = STATE_DEFAULT)))]
    state: Option<PathBuf>,
    /// Where it takes sessions (TCP).
    #[cfg_attr(feature = "schema", schemars(range(min = 1), extend("default" = SESSION_PORT)))]
    port: Option<Spanned<u16>>,
    /// Where it hears and sends announcements (UDP).
    #[cfg_attr(feature = "schema", schemars(range(min = 1), extend("default" = discovery::PORT)))]
    discovery_port: Option<Spanned<u16>>,
    /// Whether it announces itself to the group 239.42.0.1.
    #[cfg_attr(feature = "schema", schemars(extend("default" = true)))]
    multicast: Option<bool>,
    /// Whether it announces itself to the link's broadcast address.
    broadcast: bool,
    /// Whom it announces itself to besides: addresses, with the port if it is another.
    #[cfg_attr(feature = "schema", schemars(length(max = discovery::UNICAST_MAX)))]
    peers: Vec<Spanned<String>>,
    /// Domains whose DNS zones list devices (below `_dsoftbus._udp`), such as `fleet.example`.
    #[cfg_attr(feature = "schema", schemars(length(max = DOMAINS_MAX)))]
    dns_sd: Vec<Spanned<String>>,
    /// How long a PIN is shown.
    #[cfg_attr(feature = "schema", schemars(range(min = 10, max = 3600), extend("default" = 120)))]
    pairing_seconds: Option<Spanned<u64>>,
    /// How often it announces itself. A peer that was not heard for three times as long is gone.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 600), extend("default" = 20)))]
    announce_seconds: Option<Spanned<u64>>,
    /// Handshakes with one peer in half a minute.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000), extend("default" = HANDSHAKES)))]
    handshakes: Option<Spanned<u32>>,
    /// Requests of one device in a second: calls, subscriptions, and what else it asks; twice as many at once.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000), extend("default" = REQUESTS_PER_SECOND)))]
    requests_per_second: Option<Spanned<u32>>,
    /// The same of one service.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000), extend("default" = SERVICE_REQUESTS_PER_SECOND)))]
    service_requests_per_second: Option<Spanned<u32>>,
    /// Who may have a session. Nobody, unless a rule says so.
    acl: Vec<Spanned<RawRule>>,
    /// The directories whose files may be read by those whom a rule allows it.
    share: Vec<Spanned<shared::RawShare>>,
    /// The device that keeps the key-value state; this machine's own id: it keeps it itself. Absent: there is none.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    keeper: Option<Spanned<String>>,
}

/// A rule of who may have a session.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    /// Devices, `camera-1` or `camera-*` (what begins so).
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    devices: Vec<DevicePattern>,
    /// Which services of ours they reach; absent: every one.
    #[serde(default)]
    services: Option<Vec<BusService>>,
    /// Of which shares of ours they read the files; absent: of none.
    #[serde(default)]
    shares: Vec<String>,
    /// Which keys of the state that we keep they read, as prefixes such as `/state/shared/cameras/`, or single keys; absent: none.
    #[serde(default)]
    state: Vec<String>,
    /// Which of them they change; absent: none.
    #[serde(default)]
    state_write: Vec<String>,
}

impl Raw {
    /// Checks it; `wrong` makes an error of a place in the file and what is wrong there.
    pub(crate) fn check<E>(self, wrong: impl Fn(usize, String) -> E) -> Result<Bus, E> {
        let discovery_port =
            check_port("discovery_port", self.discovery_port.as_ref(), discovery::PORT, &wrong)?;
        let port = check_port("port", self.port.as_ref(), SESSION_PORT, &wrong)?;
        let device = check_device(self.device.as_ref(), &wrong)?;
        Ok(Bus {
            mode: match self.mode {
                RawMode::Loopback => BusMode::Loopback,
                RawMode::Network => BusMode::Network,
            },
            keeper: shared::check_keeper(self.keeper.as_ref(), &device, &wrong)?,
            shares: shared::check_shares(self.share, &wrong)?,
            device,
            state: self.state.unwrap_or_else(|| STATE_DEFAULT.into()),
            port,
            discovery_port,
            multicast: self.multicast.unwrap_or(true),
            broadcast: self.broadcast,
            peers: check_peers(&self.peers, discovery_port, &wrong)?,
            dns_sd: check_domains(&self.dns_sd, &wrong)?,
            pairing: check_seconds("pairing_seconds", self.pairing_seconds.as_ref(), 120, 10..=3600, &wrong)?,
            announce: check_seconds("announce_seconds", self.announce_seconds.as_ref(), 20, 1..=600, &wrong)?,
            handshakes: check_count("handshakes", self.handshakes.as_ref(), HANDSHAKES, 1000, &wrong)?,
            rates: Rates {
                per_peer: check_count(
                    "requests_per_second",
                    self.requests_per_second.as_ref(),
                    REQUESTS_PER_SECOND,
                    REQUESTS_PER_SECOND_MAX,
                    &wrong,
                )?,
                per_service: check_count(
                    "service_requests_per_second",
                    self.service_requests_per_second.as_ref(),
                    SERVICE_REQUESTS_PER_SECOND,
                    REQUESTS_PER_SECOND_MAX,
                    &wrong,
                )?,
            },
            acl: check_acl(self.acl, &wrong)?,
        })
    }
}

fn check_port<E>(
    key: &str,
    given: Option<&Spanned<u16>>,
    default: u16,
    wrong: impl Fn(usize, String) -> E,
) -> Result<u16, E> {
    match given {
        None => Ok(default),
        Some(given) if *given.get_ref() == 0 => {
            let message = format!("{key} is 0, and others could not know where that is: give 1 to 65535");
            Err(wrong(given.span().start, message))
        }
        Some(given) => Ok(*given.get_ref()),
    }
}

/// A name that rules can spell, and that is not taken for this machine's own clients.
fn check_device<E>(
    given: Option<&Spanned<String>>,
    wrong: impl Fn(usize, String) -> E,
) -> Result<DeviceId, E> {
    let host;
    let (at, name, what) = match given {
        Some(given) => (given.span().start, given.get_ref(), "device"),
        None => {
            host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            (0, &host, "the host name, which is this machine's device id unless [bus] has a 'device'")
        }
    };
    let device = name.parse::<BusDevice>().map_err(|error| wrong(at, format!("{what}: {error}")))?;
    if device.is_loopback() {
        let message = format!("{what}: '{name}' stands for this machine's own clients; choose another name");
        return Err(wrong(at, message));
    }
    device.as_str().parse().map_err(|error| wrong(at, format!("{what}: {error}")))
}

fn check_peers<E>(
    given: &[Spanned<String>],
    port: u16,
    wrong: impl Fn(usize, String) -> E,
) -> Result<Vec<SocketAddr>, E> {
    if let Some(first_too_many) = given.get(discovery::UNICAST_MAX) {
        let message =
            format!("more than {} peers: let larger fleets use multicast, or dns_sd", discovery::UNICAST_MAX);
        return Err(wrong(first_too_many.span().start, message));
    }
    let parse = |peer: &Spanned<String>| {
        let text = peer.get_ref();
        let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, port));
        text.parse().or_else(|_| bare()).map_err(|_| {
            let message =
                format!("'{text}' is no address: expected one such as 192.0.2.1 or 192.0.2.1:{port}");
            wrong(peer.span().start, message)
        })
    };
    given.iter().map(parse).collect()
}

fn check_domains<E>(given: &[Spanned<String>], wrong: impl Fn(usize, String) -> E) -> Result<Vec<String>, E> {
    if let Some(first_too_many) = given.get(DOMAINS_MAX) {
        return Err(wrong(first_too_many.span().start, format!("more than {DOMAINS_MAX} domains")));
    }
    let check = |domain: &Spanned<String>| {
        let name = domain.get_ref().parse::<HostName>();
        let name = name.map_err(|error| wrong(domain.span().start, format!("dns_sd: {error}")))?;
        Ok(name.to_string())
    };
    given.iter().map(check).collect()
}

fn check_seconds<E>(
    key: &str,
    given: Option<&Spanned<u64>>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
    wrong: impl Fn(usize, String) -> E,
) -> Result<Duration, E> {
    match given {
        None => Ok(Duration::from_secs(default)),
        Some(given) if range.contains(given.get_ref()) => Ok(Duration::from_secs(*given.get_ref())),
        Some(given) => {
            let (least, most) = (range.start(), range.end());
            let message = format!("{key} is {}, and must be between {least} and {most}", given.get_ref());
            Err(wrong(given.span().start, message))
        }
    }
}

fn check_count<E>(
    key: &str,
    given: Option<&Spanned<u32>>,
    default: u32,
    most: u32,
    wrong: impl Fn(usize, String) -> E,
) -> Result<u32, E> {
    match given {
        None => Ok(default),
        Some(given) if (1..=most).contains(given.get_ref()) => Ok(*given.get_ref()),
        Some(given) => {
            let message = format!("{key} is {}, and must be between 1 and {most}", given.get_ref());
            Err(wrong(given.span().start, message))
        }
    }
}

fn check_acl<E>(given: Vec<Spanned<RawRule>>, wrong: impl Fn(usize, String) -> E) -> Result<Acl, E> {
    let mut rules = Vec::new();
    for rule in given {
        let at = rule.span().start;
        let RawRule { devices, services, shares, state, state_write } = rule.into_inner();
        let shared = shared::check_shared(&shares, &state, &state_write).map_err(|error| wrong(at, error))?;
        let nothing = services.as_ref().is_some_and(Vec::is_empty) && shared == Shared::default();
        if devices.is_empty() || nothing {
            let message = "an empty list, so the rule would never apply: name something, or remove the rule";
            return Err(wrong(at, message.to_owned()));
        }
        let named = |error: netd_softbus::Error| wrong(at, error.to_string());
        let services = match services {
            None => Services::All,
            Some(services) => Services::Named(
                services
                    .iter()
                    .map(|service| service.as_str().parse())
                    .collect::<Result<_, _>>()
                    .map_err(named)?,
            ),
        };
        for pattern in devices {
            let (name, prefix) = pattern.parts();
            let name = name.parse().map_err(named)?;
            let devices = if prefix { Devices::Prefix(name) } else { Devices::Exact(name) };
            let (services, shared) = (services.clone(), shared.clone());
            rules.push(Rule { devices, transports: [Transport::Tcp].into(), services, shared });
        }
    }
    Acl::new(rules).map_err(|error| wrong(0, error.to_string()))
}
