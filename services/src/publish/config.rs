//! `[[publish]]` of services.toml: which ports of netd's lead where, and what each bears.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use netd_policy::file::Spanned;
use serde::Deserialize;

pub use super::target::Target;

/// Published ports: each is a listener of netd's, of which a user has 64 unless told otherwise.
const PORTS_MAX: usize = 64;
/// Connections of one port: each takes some 160 KiB (two buffers here, and those of three sockets), so 64 take 10 MiB; a machine's sshd
/// takes 10 that are not logged in (MaxStartups).
const CONNECTIONS: usize = 64;
/// Netd gives one user 256 sockets unless told otherwise, and 4096 is more than one process's descriptors should serve.
const CONNECTIONS_MAX: usize = 4096;
/// Of one source: an office behind one address, with a session for each.
const CONNECTIONS_PER_SOURCE: usize = 16;
/// New ones of one source: whoever guesses passwords makes more.
const NEW_PER_SECOND: u32 = 10;
const NEW_PER_SECOND_MAX: u32 = 10_000;
/// For the first bytes of a peer. sshd gives two minutes to log in, which begins with these; nginx gives a minute for the whole head.
const REQUEST_READ_SECONDS: u64 = 30;
/// How many bytes these are: the shortest request of HTTP has 18 (`GET / HTTP/1.0`, and two line ends), and SSH's first line is longer
/// (`SSH-2.0-OpenSSH_9.2`).
const REQUEST_READ_BYTES: usize = 16;
const REQUEST_READ_BYTES_MAX: usize = 4096;
/// How long a peer may take nothing of what waits for it: nginx's own time (send_timeout).
const RESPONSE_SEND_SECONDS: u64 = 60;
/// How long the server may take to accept: it is on this machine.
const CONNECT_SECONDS: u64 = 10;
/// What seconds may be.
const SECONDS: RangeInclusive<u64> = 1..=3600;

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where peers connect.
    pub listen: Listen,
    /// Where they are carried to.
    pub to: Target,
    /// Whether the server is told by a PROXY header, version 2, who they are.
    pub proxy_protocol: bool,
    /// How many at once.
    pub connections: usize,
    /// How many at once of one source.
    pub connections_per_source: usize,
    /// How many new ones per second of one source.
    pub new_per_second_per_source: u32,
    /// How long a peer has for its first bytes; none: for ever, as where the server speaks first.
    pub request_read: Option<Duration>,
    /// How many bytes these are.
    pub request_read_bytes: usize,
    /// How long it may take nothing of what waits for it.
    pub response_send: Duration,
    /// How long the server may take to accept.
    pub connect: Duration,
}

/// A port of netd's, on one of its addresses or on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// None: all.
    pub address: Option<IpAddr>,
    /// Not 0.
    pub port: u16,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}", self.port),
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port)),
        }
    }
}

/// A port of netd's that leads to a server of this machine.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    /// A port of netd's, or one of its addresses and a port: "22", "192.0.2.1:22", "[2001:db8::1]:22".
    listen: Spanned<String>,
    /// Where connections are carried to: "127.0.0.1:22", "unix:/run/x.sock", or where a systemd socket unit listens,
    /// "socket-unit:x.socket".
    to: Spanned<String>,
    /// Whether the server is told who the peer is by a header of the PROXY protocol, version 2.
    #[serde(default)]
    proxy_protocol: bool,
    /// Connections at once.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = CONNECTIONS_MAX), extend("default" = CONNECTIONS)))]
    connections: Option<Spanned<usize>>,
    /// Connections at once of one source: an IPv4 address, or an IPv6 /64.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = CONNECTIONS_MAX), extend("default" = CONNECTIONS_PER_SOURCE)))]
    connections_per_source: Option<Spanned<usize>>,
    /// New connections per second of one source; as many may come at once.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = NEW_PER_SECOND_MAX), extend("default" = NEW_PER_SECOND)))]
    new_per_second_per_source: Option<Spanned<u32>>,
    /// How long a peer has for its first bytes; 0: for ever, for protocols in which the server speaks first.
    #[cfg_attr(feature = "schema", schemars(range(max = 3600), extend("default" = REQUEST_READ_SECONDS)))]
    request_read_seconds: Option<Spanned<u64>>,
    /// How many bytes these are.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = REQUEST_READ_BYTES_MAX), extend("default" = REQUEST_READ_BYTES)))]
    request_read_bytes: Option<Spanned<usize>>,
    /// How long a peer may take nothing of what waits for it.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600), extend("default" = RESPONSE_SEND_SECONDS)))]
    response_send_seconds: Option<Spanned<u64>>,
    /// How long the server may take to accept.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600), extend("default" = CONNECT_SECONDS)))]
    connect_seconds: Option<Spanned<u64>>,
}

/// Checks all of them; `wrong` makes an error of a place in the file and what is wrong there.
pub(crate) fn check<E>(ports: Vec<Raw>, wrong: impl Fn(usize, String) -> E) -> Result<Vec<Publish>, E> {
    let mut checked: Vec<Publish> = Vec::new();
    for port in ports {
        let at = port.listen.span().start;
        let port = port.check(&wrong)?;
        if checked.len() == PORTS_MAX {
            return Err(wrong(at, format!("more than {PORTS_MAX} published ports")));
        }
        let clashes = |other: &Publish| {
            let (one, other) = (other.listen, port.listen);
            let same = one.address.is_none() || other.address.is_none() || one.address == other.address;
            one.port == other.port && same
        };
        if let Some(first) = checked.iter().find(|other| clashes(other)) {
            return Err(wrong(at, format!("'{}' is published already, to {}", port.listen, first.to)));
        }
        checked.push(port);
    }
    Ok(checked)
}

impl Raw {
    fn check<E>(self, wrong: impl Fn(usize, String) -> E) -> Result<Publish, E> {
        let seconds =
            |key, given, default, range| number(key, given, default, range, &wrong).map(Duration::from_secs);
        let request_read =
            seconds("request_read_seconds", self.request_read_seconds, REQUEST_READ_SECONDS, 0..=3600)?;
        Ok(Publish {
            listen: parse_listen(self.listen.get_ref())
                .map_err(|message| wrong(self.listen.span().start, message))?,
            to: Target::parse(self.to.get_ref()).map_err(|message| wrong(self.to.span().start, message))?,
            proxy_protocol: self.proxy_protocol,
            connections: number("connections", self.connections, CONNECTIONS, 1..=CONNECTIONS_MAX, &wrong)?,
            connections_per_source: number(
                "connections_per_source",
                self.connections_per_source,
                CONNECTIONS_PER_SOURCE,
                1..=CONNECTIONS_MAX,
                &wrong,
            )?,
            new_per_second_per_source: number(
                "new_per_second_per_source",
                self.new_per_second_per_source,
                NEW_PER_SECOND,
                1..=NEW_PER_SECOND_MAX,
                &wrong,
            )?,
            request_read: Some(request_read).filter(|limit| !limit.is_zero()),
            request_read_bytes: number(
                "request_read_bytes",
                self.request_read_bytes,
                REQUEST_READ_BYTES,
                1..=REQUEST_READ_BYTES_MAX,
                &wrong,
            )?,
            response_send: seconds(
                "response_send_seconds",
                self.response_send_seconds,
                RESPONSE_SEND_SECONDS,
                SECONDS,
            )?,
            connect: seconds("connect_seconds", self.connect_seconds, CONNECT_SECONDS, SECONDS)?,
        })
    }
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    let bare = || text.parse().map(|port| Listen { address: None, port });
    let whole = |address: SocketAddr| Listen { address: Some(address.ip()), port: address.port() };
    match text.parse().map(whole).or_else(|_| bare()) {
        Ok(Listen { port: 0, .. }) => {
            Err(format!("'{text}' has port 0, and others could not know where that is"))
        }
        Ok(listen) => Ok(listen),
        Err(_) => Err(format!("'{text}' is no port: expected one such as \"22\" or \"192.0.2.1:22\"")),
    }
}

fn number<T: PartialOrd + Copy + fmt::Display, E>(
    key: &str,
    given: Option<Spanned<T>>,
    default: T,
    range: RangeInclusive<T>,
    wrong: impl Fn(usize, String) -> E,
) -> Result<T, E> {
    match given {
        None => Ok(default),
        Some(given) if range.contains(given.get_ref()) => Ok(*given.get_ref()),
        Some(given) => {
            let (least, most) = (range.start(), range.end());
            let message = format!("{key} is {}, and must be between {least} and {most}", given.get_ref());
            Err(wrong(given.span().start, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    /// What docs/publish.md shows.
    #[test]
    fn examples_of_the_manual_are_read() {
        let manual = include_str!("../../../docs/publish.md");
        let examples: Vec<&str> = manual
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .filter(|text| text.contains("[[publish]]"))
            .collect();
        assert!(!examples.is_empty());
        for example in examples {
            let config = Config::parse(Path::new("publish.md"), example).unwrap();
            assert!(!config.publish.is_empty(), "{example}");
        }
    }

    #[test]
    fn port_that_names_nothing_more_has_the_defaults() {
        let text =
            "[[publish]]\nlisten = \"[2001:db8::1]:22\"\nto = \"127.0.0.1:22\"\nrequest_read_seconds = 0\n";
        let config = Config::parse(Path::new("services.toml"), text).unwrap();
        let [port] = &config.publish[..] else { panic!("{:?}", config.publish) };
        assert_eq!(port.listen.to_string(), "[2001:db8::1]:22");
        assert_eq!((port.request_read, port.connections), (None, super::CONNECTIONS));
        assert!(!port.proxy_protocol);
    }

    #[test]
    fn wrong_values_are_named_with_their_place() {
        let port = |more: &str| format!("[[publish]]\nlisten = \"22\"\nto = \"127.0.0.1:22\"\n{more}\n");
        let twice = format!("{}{}", port(""), port("").replace("\"22\"", "\"192.0.2.1:22\""));
        for (text, said) in [
            (port("connections = 0"), "services.toml:4:15: connections is 0, and must be between 1 and"),
            (port("response_send_seconds = 0"), "services.toml:4:25: response_send_seconds is 0"),
            (port("deadline = 1"), "services.toml:4:1: unknown field `deadline`"),
            (port("").replace("\"22\"", "\"ssh\""), "services.toml:2:10: 'ssh' is no port"),
            (
                port("").replace("127.0.0.1", "192.0.2.1"),
                "services.toml:3:6: '192.0.2.1:22' is not on this machine",
            ),
            (twice, "services.toml:6:10: '192.0.2.1:22' is published already, to 127.0.0.1:22"),
        ] {
            let error = Config::parse(Path::new("services.toml"), &text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
