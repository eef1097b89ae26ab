//! The command line.

mod shared;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use netd_vfio::{Bdf, Selector};

pub(crate) use self::shared::{BusFile, BusFileGet, BusFilesCommand, BusStateCommand};
use crate::names::Host;

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
    /// Print JSON, errors included (connect, listen, fetch, bus open and bus serve: on standard error, at the end)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The daemon's state: device, addresses, devnet switch, traffic
    Status,
    /// The device: function, isolation, features, offloads, queues
    Device {
        #[command(subcommand)]
        command: Option<Device>,
    },
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
    /// The rules: check files, show what is in force, explain decisions, learn grants, test expectations
    Policy {
        #[command(subcommand)]
        command: Policy,
    },
    /// The record of denials and of changed rules: show it, or check that nobody changed it
    Audit {
        #[command(subcommand)]
        command: Audit,
    },
    /// Change what netd logs, until it ends
    Log(Log),
    /// Change how netd waits for frames, until it ends
    Poll(Poll),
    /// Send ICMP echo requests
    Ping(Ping),
    /// Resolve a name, or find the name of an address
    Resolve(Resolve),
    /// Show the routers on the way to a host
    Traceroute(Traceroute),
    /// Send one datagram, or receive some
    Udp {
        #[command(subcommand)]
        command: Udp,
    },
    /// Send raw frames of an EtherType, or print those that come
    Frames {
        #[command(subcommand)]
        command: Frames,
    },
    /// Show frames as they pass, or write them to a file for Wireshark
    Capture(Capture),
    /// Connect standard input and output to a TCP port; ends as the connection does
    Connect(Connect),
    /// Accept a TCP connection and connect standard input and output to it
    Listen(Listen),
    /// The bus: devices that find and trust each other, and streams between their services (netd-services is asked)
    Bus(Bus),
    /// The ports of netd's that lead to servers of this machine, and what became of their connections (netd-services is asked)
    Published(Published),
    /// The roots that certificates are believed by: list, add, remove; and what a server shows (netd-services is asked)
    Trust(Trust),
    /// Fetch what an http or https URL names, through netd-services: to standard output, or to a file, whole or not at all
    Fetch(Fetch),
    /// Try the main functions, and print one marker line for each
    Selftest(Selftest),
    /// Whether this machine lets netd take a function, and what mends it where not; exit code 1 if anything fails. Without root, too
    Doctor(Doctor),
    /// Take a network function from the kernel; with --confirm it goes back by itself unless `netctl confirm` follows in time
    Takeover(Takeover),
    /// Say that all is well after `netctl takeover --confirm`: the function stays with netd
    Confirm(Confirm),
    /// Give a network function back to the kernel, with the addresses and routes that it had
    Release(Release),
    /// Write manual pages and shell completions, for the package
    #[command(hide = true)]
    Generate {
        /// Where to
        directory: PathBuf,
    },
    /// Keep the time of a take-over (netctl starts this itself)
    #[command(hide = true)]
    Guard(Guard),
}

#[derive(Debug, Args)]
pub(crate) struct Takeover {
    /// The function: its PCI address, its Ethernet address, or second
    pub(crate) function: Selector,
    /// Give it back after this time, unless confirmed: 60s, 5m
    #[arg(long, value_name = "TIME", value_parser = crate::takeover::time)]
    pub(crate) confirm: Option<Duration>,
    /// Take it even if the default route goes through it; only with --confirm
    #[arg(long, requires = "confirm")]
    pub(crate) allow_default_route: bool,
    /// Where to remember what it was
    #[arg(long, value_name = "DIRECTORY", default_value = netd_vfio::STATE_DIRECTORY)]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Confirm {
    /// The function, as it was named when it was taken
    pub(crate) function: Selector,
    /// Where it is remembered what it was
    #[arg(long, value_name = "DIRECTORY", default_value = netd_vfio::STATE_DIRECTORY)]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The function, as it was named when it was taken
    pub(crate) function: Selector,
    /// How long to wait for another process to let it go, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) wait: Duration,
    /// End the process that holds it, instead of waiting for it alone
    #[arg(long)]
    pub(crate) force: bool,
    /// Where it is remembered what it was
    #[arg(long, value_name = "DIRECTORY", default_value = netd_vfio::STATE_DIRECTORY)]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Guard {
    /// The function
    pub(crate) function: Bdf,
    /// The take-over
    #[arg(long)]
    pub(crate) token: String,
    /// Where it is remembered what it was
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Start the one that keeps the time, and start it again if it is killed
    #[arg(long)]
    pub(crate) supervise: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The function: its PCI address, its Ethernet address, or second
    #[arg(default_value = "second")]
    pub(crate) function: Selector,
    /// Where it is remembered what functions were before they were taken
    #[arg(long, value_name = "DIRECTORY", default_value = netd_vfio::STATE_DIRECTORY)]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Published {
    /// netd-services' socket [default: $NETD_SERVICES_SOCKET, else /run/netd-services/services.sock, else
    /// $XDG_RUNTIME_DIR/netd/services.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) services: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Bus {
    /// netd-services' socket [default: $NETD_SERVICES_SOCKET, else /run/netd-services/services.sock, else
    /// $XDG_RUNTIME_DIR/netd/services.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) services: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: BusCommand,
}

/// DEVICE: a device's id as `netctl bus peers` shows it; loopback is this machine itself.
#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Where the bus reaches, what this machine is on it, and what of it is in use
    Status,
    /// The devices that were heard lately, and those that are trusted (dsoftbus.discover)
    Peers,
    /// The services of this machine's clients, and those that other devices announce; with DEVICE, those that it has for this one, and
    /// what for (dsoftbus.discover, and with DEVICE dsoftbus.session.open)
    Services {
        /// The device to ask
        device: Option<String>,
    },
    /// Show what a DNS zone says of this machine, for `dns_sd` of other devices
    Zone {
        /// The domain whose zone it is, such as fleet.example
        domain: String,
        /// The name that has this machine's address [default: the device's, in the domain]
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Show what happens as it does: devices and services that come and go, sessions (dsoftbus.discover)
    Watch {
        /// End after so many events
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<usize>,
    },
    /// Show a PIN to pair another device with; or, with DEVICE, type the PIN that it shows (net.trust.manage, and with DEVICE
    /// dsoftbus.session.open)
    Pair {
        /// The device that shows a PIN
        device: Option<String>,
        /// What it shows [default: read from standard input, where other users of this machine do not see it]
        #[arg(long, requires = "device")]
        pin: Option<String>,
    },
    /// Trust a device by its key, learnt from its `netctl bus status` (net.trust.manage)
    Pin {
        /// The device
        device: String,
        /// Its key: 64 hexadecimal digits
        key: String,
    },
    /// Trust a device and its keys never again, and end its sessions (net.trust.manage)
    Revoke {
        /// The device
        device: String,
    },
    /// Open a stream to a device's service, and connect standard input and output to it (dsoftbus.session.open,
    /// dsoftbus.stream.open)
    Open {
        /// The device
        device: String,
        /// The service
        service: String,
        /// The stream's class: 0 goes before all others, the rest take turns
        #[arg(short = 'p', long, value_parser = clap::value_parser!(u8).range(0..=7), default_value_t = netd_ipc::services::BUS_PRIORITY_DEFAULT)]
        priority: u8,
        /// How long session and stream may take, in seconds
        #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
        timeout: Duration,
    },
    /// Offer a service, and connect standard input and output to the first stream that is opened to it (dsoftbus.share.service)
    Serve {
        /// The service
        service: String,
        /// Serve one stream after the other, until interrupted
        #[arg(short = 'k', long)]
        keep: bool,
    },
    /// Call a method of a device's service, and print the answer (dsoftbus.session.open, dsoftbus.rpc.call)
    Call {
        /// The device
        device: String,
        /// The service
        service: String,
        /// The method
        method: String,
        /// What it is given: up to 32 KiB; - reads standard input [default: nothing]
        #[arg(allow_hyphen_values = true)]
        payload: Option<String>,
        /// How long session and answer may take, in seconds; then the call is cancelled
        #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
        timeout: Duration,
    },
    /// Offer a service whose calls a program answers, one after the other, until interrupted (dsoftbus.share.service). It is given the
    /// payload on standard input, NETD_BUS_METHOD, NETD_BUS_DEVICE (who calls) and NETD_BUS_TIMEOUT_MS; what it prints is the answer. With exit
    /// code 127 there is no such method; with any other but 0 the call has failed, in the words of its standard error. When the caller gives up or
    /// its deadline passes, the program is killed.
    Answer {
        /// The service
        service: String,
        /// End after so many calls
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<usize>,
        /// The program and its arguments
        #[arg(required = true, last = true)]
        program: Vec<String>,
    },
    /// Offer a service, and publish each line of standard input, until it ends (dsoftbus.share.service)
    Publish {
        /// The service
        service: String,
        /// What the lines are about
        topic: String,
    },
    /// Print what a device's service publishes, each on a line, until interrupted or the service is gone (dsoftbus.session.open,
    /// dsoftbus.rpc.call)
    Subscribe {
        /// The device
        device: String,
        /// The service
        service: String,
        /// What about [default: everything]
        topic: Option<String>,
        /// End after so many
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<usize>,
    },
    /// Files that devices share: what there is, and getting it (dsoftbus.session.open, dsoftbus.share.files)
    Files {
        #[command(subcommand)]
        command: BusFilesCommand,
    },
    /// The values that one device keeps for all, named in services.toml (dsoftbus.session.open, dsoftbus.share.state, to change them
    /// dsoftbus.share.state.write)
    State {
        #[command(subcommand)]
        command: BusStateCommand,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// netd-services' socket [default: $NETD_SERVICES_SOCKET, else /run/netd-services/services.sock, else
    /// $XDG_RUNTIME_DIR/netd/services.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) services: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: TrustCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Show the roots, the pins, and files of roots that cannot be used
    List,
    /// Install the certificates of a PEM file as roots, all or none (net.trust.manage)
    Add {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Remove an installed root, or an installed file (net.trust.manage)
    Remove {
        /// The first digits of the root's SHA-256, or the file's name
        id: String,
    },
    /// Connect to a server, show its certificates, and say whether they are accepted; exit code 1 if not (net.tls.validate)
    Check {
        /// HOST:PORT
        target: String,
        /// How long connecting and the handshake may take, in seconds [default: 30]
        #[arg(long, value_name = "SECONDS", value_parser = crate::cli::seconds)]
        timeout: Option<Duration>,
    },
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

/// SUBJECT: user:NAME, user:UID, group:NAME, unit:NAME.service, or several with commas.
/// CAPABILITY and TARGET: net.tcp.connect NAME:PORT or ADDRESS:PORT; net.udp.send ADDRESS:PORT; net.tcp.listen and net.udp.bind PORT, or any;
/// net.icmp.ping ADDRESS; net.dns.resolve NAME; net.raw ETHERTYPE; net.http.fetch and net.tls.validate HOST:PORT; net.http.devnet, net.trust.manage,
/// net.capture, net.admin and dsoftbus.discover nothing; dsoftbus.session.open, dsoftbus.share.state and dsoftbus.share.state.write DEVICE;
/// dsoftbus.stream.open and dsoftbus.rpc.call DEVICE/SERVICE; dsoftbus.share.files DEVICE/SHARE; dsoftbus.share.service SERVICE.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check policy files, and directories of them, without a daemon (netd.toml: netd check)
    Check {
        /// Files of rules, or directories whose *.toml files hold rules
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The rules in force
    Show,
    /// What netd would decide, and by which rule; exit code 4 if it is denied
    Explain {
        /// Who asks: user:NAME, user:UID, group:NAME, unit:NAME.service, or several with commas
        subject: String,
        /// With which right, such as net.tcp.connect
        capability: String,
        /// About what: ADDRESS:PORT, a port or any, an address, a name; nothing for net.capture, net.admin and the like
        target: Option<String>,
        #[command(flatten)]
        rules: RuleFiles,
    },
    /// Record what a client is denied, and print the smallest grant for it
    Learn(Learn),
    /// Check a file of expectations: tables [[expect]] with subject, capability, target, decision ("allow" or "deny"), and
    /// maybe rule, the end of the deciding rule's FILE:LINE
    Test {
        /// The expectations
        file: PathBuf,
        #[command(flatten)]
        rules: RuleFiles,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Print the last records
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// Go on as they come
        #[arg(short = 'f', long)]
        follow: bool,
        /// The log, if not the one that the daemon names
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
    /// Check the whole log: edited, removed and reordered records, and ends cut off, are found
    Verify(AuditVerify),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditVerify {
    /// The log, - for standard input (as from journalctl -t netd-audit -o cat); if not the one that the daemon names
    #[arg(long, value_name = "PATH", requires_all = ["checkpoint", "key"])]
    pub(crate) file: Option<PathBuf>,
    /// Its checkpoint
    #[arg(long, value_name = "PATH")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "PATH")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RuleFiles {
    /// Decide by these files of rules, or directories of them, instead of what is in force
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    /// With --files: as if the devnet switch were off
    #[arg(long, requires = "files")]
    pub(crate) devnet_off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Learn {
    /// Whose denials: user:NAME, user:UID, group:NAME, unit:NAME.service or any
    pub(crate) client: String,
    /// Do not wait: take what netd remembers
    #[arg(long, conflicts_with = "seconds")]
    pub(crate) past: bool,
    /// Stop after this many seconds; without it, at Enter or the end of standard input
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Switch one of its offloads, until netd ends
    Offload {
        /// Which, as `netctl device` lists them
        name: String,
        /// Whether it is to be used
        state: Switch,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Use it
    On,
    /// Leave it alone
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// error, warn, info, debug, trace, or a filter such as netd=debug,warn
    pub(crate) filter: String,
}

#[derive(Debug, Args)]
pub(crate) struct Poll {
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Look for frames all the time; no interrupt is ever used
    Busy,
    /// Look for a while after the last one, then sleep until the next
    Adaptive,
    /// Sleep at once
    Interrupt,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Whom to ask
    #[arg(value_parser = Host::parse)]
    pub(crate) host: Host,
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
    /// Name or IP address of the peer
    #[arg(value_parser = Host::parse)]
    pub(crate) host: Host,
    /// TCP port of the peer
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Seconds that connecting may take
    #[arg(short = 'w', long, default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Say which address it is, and which rule allows it
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The name; or an address, whose names are sought
    pub(crate) name: String,
    /// What of it
    #[arg(short = 't', long = "type", value_enum)]
    pub(crate) kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Both address families
    Addresses,
    A,
    Aaaa,
    Cname,
    Ptr,
    Srv,
    Txt,
}

#[derive(Debug, Args)]
pub(crate) struct Traceroute {
    /// Name or IP address
    #[arg(value_parser = Host::parse)]
    pub(crate) host: Host,
    /// The longest way
    #[arg(short = 'm', long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) max_ttl: u8,
    /// Datagrams for each step
    #[arg(short = 'q', long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub(crate) probes: u8,
    /// Seconds to wait for each answer
    #[arg(short = 'W', long, default_value = "1", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Udp {
    /// Send one datagram; a refusal by netd or by the peer's machine is an error
    Send(UdpSend),
    /// Print what comes
    Recv(UdpRecv),
}

#[derive(Debug, Args)]
pub(crate) struct UdpSend {
    /// Name or IP address of the peer
    #[arg(value_parser = Host::parse)]
    pub(crate) host: Host,
    /// UDP port of the peer
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// What to send; without it, standard input
    pub(crate) text: Option<String>,
    /// Print the answer, for which this many seconds are waited
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
    /// Send from this port
    #[arg(long, value_name = "PORT")]
    pub(crate) local: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct UdpRecv {
    /// UDP port; 0 lets netd choose and prints which
    pub(crate) port: u16,
    /// How many datagrams
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Seconds to wait for all of them; without it, for ever
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Frames {
    /// Send one frame
    Send(FramesSend),
    /// Print what comes
    Recv(FramesRecv),
}

#[derive(Debug, Args)]
pub(crate) struct FramesSend {
    /// EtherType, such as 0x88b5 (for experiments: IEEE 802, 9.2.4); none that netd speaks itself
    #[arg(value_parser = crate::frames::ether_type)]
    pub(crate) ether_type: u16,
    /// Hardware address of whom it is for; ff:ff:ff:ff:ff:ff is everybody on the link
    pub(crate) to: netd_vfio::Mac,
    /// What to send; without it, standard input
    pub(crate) text: Option<String>,
    /// Print the answer, for which this many seconds are waited
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct FramesRecv {
    /// EtherType, such as 0x88b5
    #[arg(value_parser = crate::frames::ether_type)]
    pub(crate) ether_type: u16,
    /// How many frames
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Seconds to wait for all of them; without it, for ever
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// Which frames, such as 'tcp port 80 and host 192.0.2.1': host, net, port, portrange, tcp, udp, icmp, icmp6, arp, ip,
    /// ip6, src, dst, ether host, broadcast, multicast, less, greater; and, or, not, parentheses
    pub(crate) filter: Vec<String>,
    /// Write pcapng to this file, - for standard output
    #[arg(short = 'w', long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Stop after this many frames
    #[arg(short = 'c', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Keep this many bytes of each frame
    #[arg(short = 's', long = "snap", value_name = "BYTES")]
    pub(crate) snap: Option<usize>,
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
    /// Fetch this https URL through netd-services
    #[arg(long, value_name = "URL")]
    pub(crate) https_url: Option<String>,
    /// netd-services' socket [default: as of fetch]
    #[arg(long, value_name = "PATH")]
    pub(crate) services_socket: Option<PathBuf>,
    /// Seconds to wait for that connection
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) listen_wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// What; http://fixture.local/ is answered from files, without a network
    pub(crate) url: String,
    /// Write to this file. What broke off is kept beside it as FILE.part, and gone on with the next time
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The file must have this digest, or is not written
    #[arg(long, value_name = "HEX", requires = "output", value_parser = crate::fetch::Sha256Text::parse)]
    pub(crate) sha256: Option<crate::fetch::Sha256Text>,
    /// Tell the rule, address, certificates, root, pin and times of each exchange, on standard error
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Show no progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Most bytes, such as 1000, 64K, 10M or 2G
    #[arg(long, value_name = "SIZE", value_parser = crate::fetch::size)]
    pub(crate) max_size: Option<u64>,
    /// Let the server compress (gzip, br, zstd); what is compressed cannot be gone on with
    #[arg(long)]
    pub(crate) compressed: bool,
    /// Seconds for connecting, names and TLS included
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Seconds from the request to the whole head of the answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) first_byte_timeout: Option<Duration>,
    /// Seconds for each KiB of the body
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) idle_timeout: Option<Duration>,
    /// netd-services' socket [default: $NETD_SERVICES_SOCKET, else /run/netd-services/services.sock, else
    /// $XDG_RUNTIME_DIR/netd/services.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) services_socket: Option<PathBuf>,
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
