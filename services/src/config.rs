//! services.toml: read, checked, and turned into types that cannot be wrong. Every key has a default.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netd_policy::file::{FileError, Spanned};
use netd_policy::{Pins, TimePolicy};
use netd_trust::Directories;
use serde::Deserialize;

use crate::bus::config as bus;
use crate::publish::config as publish;

/// Where it is looked for unless told otherwise. It need not exist.
pub const PATH_DEFAULT: &str = "/etc/netd/services.toml";

/// Who may connect: policy decides what each may do, so everybody may ask.
const SOCKET_MODE_DEFAULT: u32 = 0o666;
/// Who may scrape: the group that owns the socket. Metrics tell who uses how much.
const METRICS_MODE_DEFAULT: u32 = 0o660;
/// A file longer than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything netd-services was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect; none means the default of the user.
    pub socket: Option<PathBuf>,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// netd's socket; none means its default.
    pub netd: Option<PathBuf>,
    /// Where Prometheus scrapes, and with which permission bits; none means nowhere.
    pub metrics: Option<(PathBuf, u32)>,
    /// What clients may have.
    pub limits: Limits,
    /// How it fetches.
    pub fetch: Fetch,
    /// Whom it believes.
    pub trust: Trust,
    /// What it is on the bus.
    pub bus: bus::Bus,
    /// Which ports lead to servers of this machine.
    pub publish: Vec<publish::Publish>,
}

/// Which servers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Where roots are.
    pub directories: Directories,
    /// How the dates of certificates count.
    pub time: TimePolicy,
    /// Which hosts must have which keys.
    pub pins: Arc<Pins>,
}

/// What clients may have of netd-services.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections to its socket: each may hold one unfinished request of 64 KiB.
    pub connections: usize,
    /// Of one user.
    pub connections_per_user: usize,
    /// Fetches under way: each takes up to 2 MiB while it decompresses (8 MiB with zstd), so 32 fit 256 MiB.
    pub fetches: usize,
    /// Of one user.
    pub fetches_per_user: usize,
    /// Streams of the bus: each takes up to 544 KiB, so 256 fit 136 MiB.
    pub bus_streams: usize,
    /// Of one user.
    pub bus_streams_per_user: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            connections_per_user: 32,
            fetches: 32,
            fetches_per_user: 8,
            bus_streams: 256,
            bus_streams_per_user: 64,
        }
    }
}

/// How something is fetched, unless the client says less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Where the stub backend's files are.
    pub fixtures: PathBuf,
    /// Most bytes of a body; a client may ask for less.
    pub size_max: u64,
    /// For connecting, names and TLS included.
    pub connect: Duration,
    /// From the request to the whole head of the answer.
    pub first_byte: Duration,
    /// For each KiB of the body, from the server and to the client.
    pub idle: Duration,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    /// Where clients connect.
    ipc: RawIpc,
    /// Where netd is.
    netd: RawNetd,
    /// Where Prometheus scrapes.
    metrics: RawMetrics,
    /// What clients may have.
    limits: Limits,
    /// How something is fetched, unless the client says less.
    fetch: RawFetch,
    /// Which servers are believed.
    trust: RawTrust,
    /// What this machine is on the bus.
    bus: bus::Raw,
    /// Ports of netd's that lead to servers of this machine.
    publish: Vec<publish::Raw>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTrust {
    /// pkg://trust/: roots of certificates that come with the package; never written to.
    #[cfg_attr(feature = "schema", schemars(extend("default" = Directories::default().packaged)))]
    packaged: Option<PathBuf>,
    /// state:/trust/installed/: what `netctl trust add` installs.
    #[cfg_attr(feature = "schema", schemars(extend("default" = Directories::default().installed)))]
    installed: Option<PathBuf>,
    /// How the dates of certificates count.
    time: TimePolicy,
    /// Hosts that must show one of these public keys in their chain, such as `{ "*.example.org" = ["sha256/..."] }`.
    pins: Pins,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawIpc {
    /// The socket.
    #[cfg_attr(feature = "schema", schemars(extend("default" = netd_ipc::services::SYSTEM_SOCKET)))]
    socket: Option<PathBuf>,
    /// Its permission bits, octal.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0666")))]
    mode: Option<Spanned<String>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNetd {
    /// netd's socket.
    #[cfg_attr(feature = "schema", schemars(extend("default" = netd_ipc::SYSTEM_SOCKET)))]
    socket: Option<PathBuf>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMetrics {
    /// The socket, such as /run/netd-services/metrics.sock; none unless it is named.
    socket: Option<PathBuf>,
    /// Its permission bits, octal.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0660")))]
    mode: Option<Spanned<String>>,
}

#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFetch {
    /// What http(s)://fixture.local/ is answered from.
    fixtures: PathBuf,
    /// Most bytes of a body, decompressed; clients may ask for less.
    size_max_mib: u64,
    /// For connecting, names and TLS included.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 600)))]
    connect_seconds: Spanned<u64>,
    /// From the request to the whole head of the answer.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 600)))]
    first_byte_seconds: Spanned<u64>,
    /// For each KiB of the body.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 600)))]
    idle_seconds: Spanned<u64>,
}

impl Default for RawFetch {
    fn default() -> RawFetch {
        let seconds = |seconds| Spanned::new(0..0, seconds);
        RawFetch {
            fixtures: PathBuf::from("/usr/share/netd/fixtures"),
            // 16 GiB: images of disks are fetched, and nobody fetches more without meaning it.
            size_max_mib: 16 * 1024,
            connect_seconds: seconds(30),
            first_byte_seconds: seconds(60),
            idle_seconds: seconds(60),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says something that makes no sense.
    #[error(transparent)]
    Wrong(#[from] FileError),
}

impl Config {
    /// Reads and checks a file; the defaults if it is the default file and is not there.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would be right.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(PATH_DEFAULT) => {
                String::new()
            }
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB")));
            }
            Ok(_) => fs::read_to_string(path).map_err(read)?,
        };
        Config::parse(path, &text)
    }

    /// Checks the text of a file called `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
        let file = path.to_string_lossy();
        let wrong = |at: usize, message: String| Error::from(FileError::at(&file, text, at, message));
        let raw: Raw = toml::from_str(text).map_err(|error| FileError::of_parser(&file, text, &error))?;
        let Raw { ipc, netd, metrics, limits, fetch, trust, bus, publish } = raw;
        let Limits {
            connections,
            connections_per_user,
            fetches,
            fetches_per_user,
            bus_streams,
            bus_streams_per_user,
        } = limits;
        let bounds =
            [connections, connections_per_user, fetches, fetches_per_user, bus_streams, bus_streams_per_user];
        if bounds.contains(&0) {
            let message = "a bound of [limits] is 0, so nobody could do anything: give at least 1";
            return Err(wrong(text.find("[limits]").unwrap_or(0), message.to_owned()));
        }
        let seconds = |key: &str, value: Spanned<u64>| match *value.get_ref() {
            given @ 1..=600 => Ok(Duration::from_secs(given)),
            given => {
                let message = format!("{key} is {given}, and must be between 1 and 600");
                Err(wrong(value.span().start, message))
            }
        };
        let mode = |mode: Option<Spanned<String>>, default| match mode {
            None => Ok(default),
            Some(mode) => {
                u32::from_str_radix(mode.get_ref(), 8).ok().filter(|bits| *bits <= 0o777).ok_or_else(|| {
                    let message = "mode must be octal permission bits such as \"0666\"";
                    wrong(mode.span().start, message.to_owned())
                })
            }
        };
        let metrics_mode = mode(metrics.mode, METRICS_MODE_DEFAULT)?;
        Ok(Config {
            socket: ipc.socket,
            socket_mode: mode(ipc.mode, SOCKET_MODE_DEFAULT)?,
            netd: netd.socket,
            metrics: metrics.socket.map(|socket| (socket, metrics_mode)),
            limits,
            trust: check_trust(trust),
            bus: bus.check(wrong)?,
            publish: publish::check(publish, wrong)?,
            fetch: Fetch {
                fixtures: fetch.fixtures,
                size_max: fetch.size_max_mib.saturating_mul(1 << 20),
                connect: seconds("connect_seconds", fetch.connect_seconds)?,
                first_byte: seconds("first_byte_seconds", fetch.first_byte_seconds)?,
                idle: seconds("idle_seconds", fetch.idle_seconds)?,
            },
        })
    }
}

/// What the file looks like, as JSON Schema has it.
#[cfg(feature = "schema")]
pub fn schema(generator: schemars::SchemaGenerator) -> schemars::Schema {
    generator.into_root_schema_for::<Raw>()
}

fn check_trust(trust: RawTrust) -> Trust {
    let RawTrust { packaged, installed, time, pins } = trust;
    let default = Directories::default();
    let directories = Directories {
        packaged: packaged.unwrap_or(default.packaged),
        installed: installed.unwrap_or(default.installed),
    };
    Trust { directories, time, pins: Arc::new(pins) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Path::new("services.toml"), text)
    }

    #[test]
    fn empty_file_has_the_defaults_that_the_example_shows() {
        let empty = format!("{:?}", parse("").unwrap());
        let example = include_str!("../../configs/services.toml");
        assert_eq!(format!("{:?}", parse(example).unwrap()), empty);
        // What is commented out is what is in force.
        let shown: String = example
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let mut shown = parse(&shown).unwrap();
        assert_eq!(shown.socket.take(), Some(netd_ipc::services::SYSTEM_SOCKET.into()));
        assert_eq!(shown.netd.take(), Some(netd_ipc::SYSTEM_SOCKET.into()));
        assert_eq!(shown.metrics.take(), Some(("/run/netd-services/metrics.sock".into(), 0o660)));
        shown.bus.device = parse("").unwrap().bus.device;
        assert_eq!(shown.bus.keeper.take().map(|keeper| keeper.to_string()), Some("hub".to_owned()));
        assert_eq!(format!("{shown:?}"), empty);
    }

    #[test]
    fn wrong_values_are_named_with_their_line() {
        for (text, said) in [
            ("[fetch]\nidle_seconds = 0\n", "services.toml:2:16: idle_seconds is 0"),
            ("[ipc]\nmode = \"rw\"\n", "services.toml:2:8: mode must be octal"),
            ("[metrics]\nmode = \"7777\"\n", "services.toml:2:8: mode must be octal"),
            ("\n[limits]\nfetches = 0\n", "services.toml:2:1: a bound of [limits] is 0"),
            ("[fetch]\nproxy = 1\n", "services.toml:2:1: unknown field `proxy`"),
            ("[trust]\ntime = \"lax\"\n", "services.toml:2:8: unknown variant `lax`"),
            ("[bus]\nport = 0\n", "services.toml:2:8: port is 0"),
            ("[bus]\ndevice = \"loopback\"\n", "services.toml:2:10: device: 'loopback' stands for"),
            ("[bus]\ndevice = \"a b\"\n", "services.toml:2:10: device: 'a b' cannot name a device"),
            ("[bus]\npeers = [\"hub\"]\n", "services.toml:2:10: 'hub' is no address"),
            ("[bus]\npairing_seconds = 1\n", "services.toml:2:19: pairing_seconds is 1"),
            ("[[bus.acl]]\ndevices = [\"*\"]\n", "services.toml:2:11: '*' cannot name a device"),
            ("[[bus.acl]]\ndevices = []\n", "services.toml:1:"),
            (
                "[[bus.acl]]\ndevices = [\"a\"]\nshares = [\"a/b\"]\n",
                "services.toml:1:1: shares: 'a/b': this is not how",
            ),
            (
                "[[bus.acl]]\ndevices = [\"a\"]\nstate = [\"/state/\"]\n",
                "services.toml:1:1: state: '/state/': this is not how",
            ),
            ("[[bus.share]]\nname = \"..\"\npath = \"/srv\"\n", "services.toml:1:1: name: this is not how"),
            (
                "[[bus.share]]\nname = \"a\"\npath = \"srv\"\n",
                "services.toml:1:1: path is 'srv': give an absolute one, such as /srv/a",
            ),
            (
                "[[bus.share]]\nname = \"a\"\npath = \"/a\"\n[[bus.share]]\nname = \"a\"\npath = \"/b\"\n",
                "services.toml:4:1: 'a' is shared twice",
            ),
            ("[bus]\nkeeper = \"a/b\"\n", "services.toml:2:10: keeper: 'a/b' cannot name a device"),
            (
                "[trust]\npins = { \"a.example\" = [\"sha256/x\"] }\n",
                "services.toml:2:24: 'sha256/x' is not a pin",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
