//! The types of `io.netd.varlink`, field for field.
//!
//! No type here carries a physical address or an IOVA: what clients see is the network, not the memory below it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

/// An address with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// IPv4 in dotted decimal, or IPv6 as in RFC 5952.
    pub address: IpAddr,
    /// TCP or UDP port.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(from: SocketAddr) -> Endpoint {
        Endpoint { address: from.ip(), port: from.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(from: Endpoint) -> SocketAddr {
        SocketAddr::new(from.address, from.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// Whether the device below the sockets works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Frames flow, or would.
    Ready,
    /// It misbehaved and is being reset.
    Resetting,
    /// There is none; every socket call fails.
    Unavailable,
}

/// Where the addresses of the interface come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// No address: the device is unavailable.
    None,
    /// No address yet: DHCP is asking.
    Searching,
    /// A DHCP lease.
    Dhcp,
    /// The configuration.
    Static,
    /// The configuration's fallback, since no DHCP server answered.
    Fallback,
}

/// Frames and their bytes in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Ethernet frames.
    pub frames: u64,
    /// Their bytes, Ethernet header included, checksum not.
    pub bytes: u64,
}

/// Who vouches for this machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockAuthority {
    /// The kernel, which somebody keeps synchronised.
    Kernel,
    /// A time server that netd asked.
    Sntp,
    /// The configuration.
    Operator,
}

/// Whether this machine's clock is trusted where certificates are judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockStatus {
    /// Whether it is.
    pub trusted: bool,
    /// By whom.
    pub by: Option<ClockAuthority>,
    /// Why, or why not, for people.
    pub reason: String,
}

/// Answer of `GetStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it runs.
    pub uptime_seconds: u64,
    /// The devnet switch: while false, no client reaches a peer.
    pub devnet_enabled: bool,
    /// Changes whenever a reload puts other rules in force; begins anew with the process.
    pub rules_generation: u64,
    /// Whether the device works.
    pub device: DeviceState,
    /// Whether the link is up.
    pub link_up: bool,
    /// Where the addresses come from.
    pub address_source: AddressSource,
    /// Addresses with their prefix lengths; empty without a live device.
    pub addresses: Vec<IpNet>,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// Sockets of all clients.
    pub sockets: u32,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
    /// Whether this machine's clock is trusted.
    pub clock: ClockStatus,
    /// Counters by name, among them one per reason to drop a frame.
    pub counters: BTreeMap<String, u64>,
}

/// What kind of device carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A PCI function through VFIO.
    Vfio,
    /// A vhost-user backend.
    VhostUser,
    /// The software device inside the daemon.
    Software,
}

/// What keeps the device inside its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The IOMMU.
    Iommu,
    /// Nothing but the driver's care: VFIO's no-IOMMU mode.
    NoIommu,
}

/// The layout through which the driver talks to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// virtio 0.9 over PCI I/O ports.
    Legacy,
    /// virtio 1.x over PCI capabilities.
    Modern,
    /// Within the process or over vhost-user: no PCI.
    Direct,
}

/// How a worker waits for frames.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// Always polling; no interrupt is ever used.
    Busy,
    /// Polling while there is work, then sleeping on the interrupt.
    Adaptive,
    /// Sleeping on the interrupt.
    Interrupt,
}

/// The direction of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the device.
    Receive,
    /// To the device.
    Transmit,
}

/// One virtqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Index of the queue in the device.
    pub index: u16,
    /// Which way its frames go.
    pub direction: Direction,
    /// Descriptors.
    pub size: u32,
    /// Frames so far.
    pub frames: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Interrupts used so far.
    pub interrupts: u64,
}

/// A feature that the device offered and the driver declined, or that the driver wanted and did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbsentFeature {
    /// As the specification names it, such as `VIRTIO_NET_F_MRG_RXBUF`.
    pub name: String,
    /// Why it is not in use.
    pub reason: String,
}

/// Answer of `GetDevice`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// Whether it works.
    pub state: DeviceState,
    /// Why it does not.
    pub reason: Option<String>,
    /// The PCI function, as `0000:00:03.0`.
    pub function: Option<String>,
    /// What keeps it inside its memory; none for a device without DMA.
    pub isolation: Option<Isolation>,
    /// The transport.
    pub transport: Transport,
    /// How the worker waits for frames.
    pub poll: PollMode,
    /// How long the worker looks for work before it sleeps, in microseconds; none while it never does.
    pub spin_us: Option<u64>,
    /// Ethernet address.
    pub mac: String,
    /// Largest IP packet.
    pub mtu: u16,
    /// Whether the link is up.
    pub link_up: bool,
    /// Features in use, by the specification's names.
    pub features: Vec<String>,
    /// Features not in use, with the reason.
    pub absent_features: Vec<AbsentFeature>,
    /// What it does for the daemon.
    pub offloads: Vec<Offload>,
    /// The queues.
    pub queues: Vec<Queue>,
    /// How often it was reset since the daemon started.
    pub resets: u64,
    /// The other side of a vhost-user device.
    pub backend: Option<VhostUserBackend>,
}

/// Something that the device does for the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offload {
    /// Its name in configuration.
    pub name: String,
    /// Whether it is in use.
    pub on: bool,
    /// Whether it can be switched while the device runs.
    pub switchable: bool,
    /// Why it is as it is.
    pub reason: String,
}

/// Which side of a socket the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketRole {
    /// It connects.
    Client,
    /// It listens.
    Server,
}

/// The backend of a vhost-user device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserBackend {
    /// The socket between it and the daemon.
    pub socket: String,
    /// The daemon's side of it.
    pub role: SocketRole,
    /// Protocol features in use, by the specification's names; empty while there is no session.
    pub protocol_features: Vec<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through whom; none means on the link.
    pub gateway: Option<IpAddr>,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// With its prefix length.
    pub address: IpNet,
    /// `tentative`, `preferred`, `deprecated`, or `duplicated`: somebody else has it.
    pub status: String,
    /// `static`, `fallback`, `dhcp`, `link-local` or `slaac`.
    pub origin: String,
    /// How long new connections begin from it; none is for ever.
    pub preferred_seconds: Option<u64>,
    /// How long it is ours; none is for ever.
    pub valid_seconds: Option<u64>,
}

/// Something that happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEvent {
    /// How long ago.
    pub seconds_ago: u64,
    /// What.
    pub text: String,
}

/// One network interface of the daemon, in the answer of `ListInterfaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Name, such as `net0`.
    pub name: String,
    /// Ethernet address.
    pub mac: String,
    /// Largest IP packet.
    pub mtu: u16,
    /// Whether the link is up.
    pub link_up: bool,
    /// How often it went down or came back since the daemon started.
    pub link_changes: u64,
    /// Where the addresses come from.
    pub address_source: AddressSource,
    /// Addresses in use with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Every address, in use or not.
    pub address_details: Vec<Address>,
    /// What happened lately to the link and the addresses, the latest first.
    pub events: Vec<NetworkEvent>,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// Every route, the longest prefix first.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<IpAddr>,
    /// Host name that the lease gave.
    pub hostname: Option<String>,
    /// Domain that the lease gave.
    pub domain: Option<String>,
    /// Domains that the lease gave to look for short names in.
    pub search: Vec<String>,
    /// Who gave the lease.
    pub dhcp_server: Option<IpAddr>,
    /// Its whole length.
    pub lease_seconds: Option<u64>,
    /// Until the daemon asks for its renewal.
    pub renew_in_seconds: Option<u64>,
    /// Until it asks any server.
    pub rebind_in_seconds: Option<u64>,
    /// Until it gives the address up.
    pub expires_in_seconds: Option<u64>,
}

/// A neighbour on the link, in the answer of `ListNeighbors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbor {
    /// On which interface.
    pub interface: String,
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, once known.
    pub mac: Option<String>,
    /// `incomplete`, `reachable`, `probing`, `failed`, or another state of the daemon's neighbour table.
    pub state: String,
}

/// What carrying payload between clients and frames cost, in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// Payload.
    pub carried_bytes: u64,
    /// Copied by the daemon itself, headers and retransmissions included.
    pub user_copied_bytes: u64,
    /// Copied by the kernel between the daemon and the clients' descriptors.
    pub kernel_copied_bytes: u64,
}

/// Answer of `GetStatistics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Since when everything counts.
    pub uptime_seconds: u64,
    /// Counters by name, one per reason to drop among them.
    pub counters: BTreeMap<String, u64>,
    /// What the resolver did, and what its cache holds.
    pub dns: BTreeMap<String, u64>,
    /// From frames to clients.
    pub received: Copies,
    /// From clients to frames.
    pub sent: Copies,
}

/// One bound and its use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Now; of a rate: what is used up of one second's worth.
    pub used: u64,
    /// At most.
    pub limit: u64,
    /// How often it was in the way.
    pub refused: u64,
}

/// A user and its bounds, in the answer of `ListClients`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientUse {
    /// The user.
    pub uid: u32,
    /// Connections to the daemon's own socket.
    pub connections: Use,
    /// Sockets, connects under way included.
    pub sockets: Use,
    /// What they can take at the very most, the kernel's buffers included.
    pub memory_bytes: Use,
    /// Captures.
    pub captures: Use,
    /// New connections.
    pub connects_per_second: Use,
    /// Datagrams and echo requests.
    pub packets_per_second: Use,
    /// Connections that it closed and that still deliver; beyond the bound the oldest is reset.
    pub closing: Use,
    /// Names being resolved.
    pub names: Use,
}

/// One of the daemon's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// How its bound is called in the configuration, such as `[tcp] connections`.
    pub key: String,
    /// How full it is.
    pub usage: Use,
}

/// All users together, in the answer of `ListClients`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TotalUse {
    /// Connections to the daemon's own socket.
    pub connections: Use,
    /// Sockets, connects under way included.
    pub sockets: Use,
    /// What they can take at the very most, the kernel's buffers included.
    pub memory_bytes: Use,
    /// Captures.
    pub captures: Use,
}

/// Answer of `ListClients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// All users together.
    pub total: TotalUse,
    /// Each that has something now, or had lately.
    pub clients: Vec<ClientUse>,
    /// The tables that all share.
    pub tables: Vec<Table>,
    /// What quotas bound.
    pub quotas: Vec<QuotaUse>,
}

/// One bound of a quota, in the answer of `ListClients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaUse {
    /// Whose: a user, group or unit.
    pub subject: String,
    /// How the bound is called there.
    pub key: String,
    /// How much of it is used.
    pub usage: Use,
    /// The file that the quota stands in.
    pub file: String,
    /// Its line, counted from 1.
    pub line: usize,
}

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketKind {
    /// A TCP connection.
    Tcp,
    /// A TCP listener.
    TcpListener,
    /// A UDP socket.
    Udp,
    /// Raw frames of one type.
    Frames,
}

/// One socket of a client, in the answer of `ListSockets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// The id that its creator was told.
    pub id: u64,
    /// What it is.
    pub kind: SocketKind,
    /// State of RFC 9293, 3.3.2 in lower case (`established`, `fin_wait_1`), `listen`, or `bound`.
    pub state: String,
    /// Its own end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Option<Endpoint>,
    /// Of raw frames, which have no ends.
    pub ether_type: Option<u16>,
    /// The name that was connected to, if its creator asked by name.
    pub name: Option<String>,
    /// User id of its creator.
    pub uid: u32,
    /// Process id of its creator at that time.
    pub pid: u32,
    /// systemd unit of its creator.
    pub unit: Option<String>,
    /// Received, and not yet taken by the client.
    pub receive_queued_bytes: u64,
    /// Written by the client, and not yet acknowledged by the peer; for a listener: connections that wait.
    pub send_queued_bytes: u64,
    /// Payload received so far.
    pub received_bytes: u64,
    /// Payload sent so far.
    pub sent_bytes: u64,
}

/// Answer of `Ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pong {
    /// Who answered.
    pub from: IpAddr,
    /// Time from the request to its answer.
    pub rtt_us: u64,
    /// Time to live of the answer.
    pub ttl: u8,
    /// Payload bytes of the answer.
    pub bytes: u32,
}

/// How a TCP stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEnd {
    /// It has not.
    Open,
    /// Both sides finished, and all was acknowledged.
    Finished,
    /// The peer answered the connect with a reset.
    ConnectionRefused,
    /// The peer sent a reset.
    ConnectionReset,
    /// The peer did not answer any more.
    TimedOut,
    /// A router or the neighbour said that the peer cannot be reached.
    Unreachable,
    /// The client, or the daemon on its behalf, cut it off.
    Aborted,
    /// A fault of the daemon, contained to this stream.
    EngineFault,
    /// The device below it went away.
    DeviceUnavailable,
    /// What the client sent first is not what the grant for the connection demands, and none of it was sent on.
    PolicyDenied,
}

impl StreamEnd {
    /// The named error for an end that is a failure.
    pub const fn error_kind(self) -> Option<ErrorKind> {
        match self {
            StreamEnd::Open | StreamEnd::Finished => None,
            StreamEnd::ConnectionRefused => Some(ErrorKind::ConnectionRefused),
            StreamEnd::ConnectionReset => Some(ErrorKind::ConnectionReset),
            StreamEnd::TimedOut => Some(ErrorKind::TimedOut),
            StreamEnd::Unreachable => Some(ErrorKind::Unreachable),
            StreamEnd::Aborted => Some(ErrorKind::Disconnected),
            StreamEnd::EngineFault => Some(ErrorKind::Internal),
            StreamEnd::DeviceUnavailable => Some(ErrorKind::DeviceUnavailable),
            StreamEnd::PolicyDenied => Some(ErrorKind::PolicyDenied),
        }
    }
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StreamEnd::Open => "netd let go of it while it was open",
            StreamEnd::Finished => "finished",
            StreamEnd::ConnectionRefused => "the peer refused the connection",
            StreamEnd::ConnectionReset => "the peer reset the connection",
            StreamEnd::TimedOut => "the peer stopped answering",
            StreamEnd::Unreachable => "the peer became unreachable",
            StreamEnd::Aborted => "it was cut off on this side",
            StreamEnd::EngineFault => "a fault of netd",
            StreamEnd::DeviceUnavailable => "the device went away",
            StreamEnd::PolicyDenied => "policy cut it: netd's audit says why",
        })
    }
}

/// Answer of `Outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How the stream ended.
    pub end: StreamEnd,
    /// The peer's FIN came, and every byte before it was handed to the client. True is final: whatever became of the
    /// other direction later, what the client read up to the end of file is complete.
    pub receive_finished: bool,
}

/// What `Resolve` is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Both families, as far as they are there.
    #[default]
    Addresses,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The alias itself.
    Cname,
    /// The names of an address.
    Ptr,
    /// Where a service is (RFC 2782).
    Srv,
    /// Text.
    Txt,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Lower ones first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// Its port.
    pub port: u16,
    /// Its host.
    pub target: String,
}

/// Answer of `Resolve`; what was not asked for is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// The name that was found: the one asked for, or below a domain of the search list.
    pub name: String,
    /// The aliases' targets, in order.
    pub aliases: Vec<String>,
    /// Of A and AAAA, IPv6 first.
    pub addresses: Vec<IpAddr>,
    /// Of CNAME and PTR.
    pub names: Vec<String>,
    /// Of SRV, in the order to try them.
    pub services: Vec<Service>,
    /// Of TXT, a text for each record; bytes that are no UTF-8 are replaced.
    pub texts: Vec<String>,
    /// The strings that these texts are put together from, which matter to some (RFC 6763, 6.4).
    pub strings: Vec<String>,
    /// How long this may be kept.
    pub ttl_seconds: u64,
    /// The server's address, or `literal`, `hosts`, `cache`, `multicast`.
    pub source: String,
    /// The other address family did not answer in time.
    pub incomplete: bool,
}

/// What `SetTcpOptions` sets; what is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpOptions {
    /// Whether small segments leave at once.
    pub nodelay: Option<bool>,
    /// After how many idle seconds the peer is asked whether it is there; 0 is never.
    pub keepalive_seconds: Option<u32>,
    /// How long a closed connection may go on to deliver; 0 makes closing a reset.
    pub linger_seconds: Option<u32>,
    /// The time to live of its packets.
    pub ttl: Option<u8>,
}

impl TcpOptions {
    /// Keepalive alone, in whole seconds; none is never.
    pub(crate) fn keepalive(idle: Option<Duration>) -> TcpOptions {
        let seconds = idle.map_or(0, |idle| u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1));
        TcpOptions { keepalive_seconds: Some(seconds), ..TcpOptions::default() }
    }

    /// Linger alone, in whole seconds, rounded up: 0 means something else.
    pub(crate) fn linger(linger: Duration) -> TcpOptions {
        let seconds = linger.as_secs().saturating_add(u64::from(linger.subsec_nanos() > 0));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        TcpOptions { linger_seconds: Some(seconds), ..TcpOptions::default() }
    }
}

/// What `SetUdpOptions` sets; what is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpOptions {
    /// The one peer; with port 0, everybody again.
    pub peer: Option<Endpoint>,
    /// Whether it may send to everybody on the link.
    pub broadcast: Option<bool>,
    /// Time to live towards hosts.
    pub ttl: Option<u8>,
    /// Time to live towards groups.
    pub multicast_ttl: Option<u8>,
    /// Whether what does not fit the path is refused rather than sent in fragments.
    pub dont_fragment: Option<bool>,
    /// A group to join.
    pub join: Option<IpAddr>,
    /// A group to leave.
    pub leave: Option<IpAddr>,
}
