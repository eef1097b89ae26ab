//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

/// Looks at netd, and uses its sockets from a shell.
#[derive(Debug, Parser)]
#[command(
    name = "netctl",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 netd cannot be reached; 4 denied by policy or by the \
                  devnet switch."
)]
pub(crate) struct Cli {
    /// netd's socket [default: $NETD_SOCKET, else /run/netd/netd.sock, else $XDG_RUNTIME_DIR/netd/netd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON, errors included (connect and listen: on standard error, at the end)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The daemon's state: device, addresses, devnet switch, traffic
    Status,
    /// The device: function, isolation, features, queues
    Device,
    /// The interfaces: addresses, routes, lease
    Interfaces,
    /// The sockets of all clients
    Sockets(Sockets),
    /// The neighbors on the link
    Neighbors,
    /// The routes, the longest prefix first
    Routes,
    /// The DHCP lease
    Dhcp,
    /// What was counted: reasons to drop, and bytes copied per byte carried
    Stats(Stats),
    /// The users with their bounds and what of them they use
    Clients,
    /// Change what netd logs, until it ends
    Log(Log),
    /// Send ICMP echo requests
    Ping(Ping),
    /// Connect standard input and output to a TCP port; ends as the connection does
    Connect(Connect),
    /// Accept a TCP connection and connect standard input and output to it
    Listen(Listen),
    /// Try the main functions, and print one marker line for each
    Selftest(Selftest),
}

/// Filters as of ss(8); all that are given have to fit.
#[derive(Debug, Args)]
pub(crate) struct Sockets {
    /// TCP
    #[arg(short = 't', long)]
    pub(crate) tcp: bool,
    /// UDP
    #[arg(short = 'u', long)]
    pub(crate) udp: bool,
    /// Listeners alone
    #[arg(short = 'l', long)]
    pub(crate) listening: bool,
    /// A state such as established, close-wait, listen or bound; connected: every state of a connection. May be repeated
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<String>,
    /// Its own port
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// The peer's port
    #[arg(long, value_name = "PORT")]
    pub(crate) dport: Option<u16>,
    /// Either port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Its own address, or a prefix
    #[arg(long, value_name = "PREFIX", value_parser = crate::filter::prefix)]
    pub(crate) src: Option<IpNet>,
    /// The peer's address, or a prefix
    #[arg(long, value_name = "PREFIX", value_parser = crate::filter::prefix)]
    pub(crate) dst: Option<IpNet>,
    /// Of this user, by number
    #[arg(long, value_name = "UID")]
    pub(crate) user: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Also counters that are 0
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Reasons to drop alone
    #[arg(long)]
    pub(crate) drops: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// error, warn, info, debug, trace, or a filter such as netd=debug,warn
    pub(crate) filter: String,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Whom to ask
    #[arg(value_parser = address)]
    pub(crate) address: IpAddr,
    /// How many requests
    #[arg(short = 'c', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Seconds from one request to the next
    #[arg(short = 'i', long, default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Seconds to wait for each answer
    #[arg(short = 'W', long, default_value = "1", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Bytes of payload
    #[arg(short = 's', long, default_value_t = netd_ipc::call::PING_BYTES)]
    pub(crate) size: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// IP address of the peer
    #[arg(value_parser = address)]
    pub(crate) host: IpAddr,
    /// TCP port of the peer
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Seconds that connecting may take
    #[arg(short = 'w', long, default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// TCP port; 0 lets netd choose and prints which
    pub(crate) port: u16,
    /// Accept one connection after the other, for ever; standard input goes to the first ones
    #[arg(short = 'k', long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// The name whose address is asked for
    #[arg(long, default_value = "example.com", value_name = "NAME")]
    pub(crate) dns_name: String,
    /// Accept a connection on this port; somebody has to connect to it meanwhile
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen_port: Option<u16>,
    /// Seconds to wait for that connection
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) listen_wait: Duration,
}

/// An IP address; a name is told apart from a mistyped address.
fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        if text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':') {
            format!("a name, and netctl resolves none yet: give an IP address (try 'getent hosts {text}')")
        } else {
            "not an IP address: expected one such as 192.0.2.1 or 2001:db8::1".to_owned()
        }
    })
}

/// Seconds, with a fraction if need be; not 0, which no timeout or interval means.
fn seconds(text: &str) -> Result<Duration, String> {
    let max = netd_ipc::call::TIMEOUT_MAX;
    let duration = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.filter(|duration| *duration >= Duration::from_millis(1) && *duration <= max).ok_or_else(|| {
        format!("expected seconds such as 1 or 0.2, at least 0.001 and at most {}", max.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn connect_to_a_name_says_that_names_are_not_resolved() {
        let error = Cli::try_parse_from(["netctl", "connect", "example.org", "80"]).unwrap_err().to_string();
        assert!(error.contains("getent hosts example.org"), "{error}");
        let error = Cli::try_parse_from(["netctl", "ping", "1.2.3"]).unwrap_err().to_string();
        assert!(error.contains("expected one such as 192.0.2.1"), "{error}");
    }

    #[test]
    fn json_and_socket_are_taken_before_and_after_the_command() {
        for arguments in [["netctl", "--json", "status"], ["netctl", "status", "--json"]] {
            assert!(Cli::try_parse_from(arguments).unwrap().json);
        }
    }

    #[test]
    fn seconds_take_fractions_and_refuse_nonsense() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        for text in ["0", "-1", "601", "NaN", "inf", "1s", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
