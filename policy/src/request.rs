//! Requests: what is asked for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::authority::{Authority, Host};
use crate::bus::{BusDevice, BusService};
use crate::capability::Capability;
use crate::ether_type::EtherType;
use crate::host::HostName;
use crate::index::{Ports, Target};

/// Ports that netd may choose when a client leaves the choice to it: the dynamic ports of RFC 6335, 6.
pub(crate) const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opening a TCP connection.
    TcpConnect {
        /// The peer.
        remote: SocketAddr,
    },
    /// Opening a TCP connection to whatever address a name has.
    TcpConnectName {
        /// The name, as the client has it.
        name: HostName,
        /// The port.
        port: u16,
        /// The address that it turned out to have; none before it is resolved.
        address: Option<IpAddr>,
    },
    /// Accepting TCP connections.
    TcpListen {
        /// The port; none leaves the choice to netd.
        port: Option<u16>,
    },
    /// Receiving datagrams.
    UdpBind {
        /// The port; none leaves the choice to netd.
        port: Option<u16>,
    },
    /// Sending datagrams to a peer.
    UdpSend {
        /// The peer.
        remote: SocketAddr,
    },
    /// An ICMP echo request.
    Ping {
        /// The peer.
        to: IpAddr,
    },
    /// Resolving a name.
    Resolve {
        /// The name; none if it is not a host's, such as the address of a reverse look-up.
        name: Option<HostName>,
    },
    /// Frames of a type, sent and received as they are.
    Raw {
        /// Which.
        ether_type: EtherType,
    },
    /// Fetching over HTTP.
    Fetch {
        /// From whom.
        from: Authority,
    },
    /// Fetching from real servers, whoever they are.
    FetchReal,
    /// Looking at a server's certificates.
    ValidateTls {
        /// Whose.
        of: Authority,
    },
    /// Installing and removing the roots that certificates are checked with.
    ManageTrust,
    /// Copies of everybody's frames.
    Capture,
    /// Looking at who is on the bus.
    DiscoverBus,
    /// Having a session with a device opened.
    OpenBusSession {
        /// With whom.
        device: BusDevice,
    },
    /// Opening a stream to a device's service.
    OpenBusStream {
        /// To whom.
        device: BusDevice,
        /// To what of it.
        service: BusService,
    },
    /// Calling a device's service, or subscribing to what it publishes.
    CallBusService {
        /// Whose.
        device: BusDevice,
        /// Which.
        service: BusService,
    },
    /// Reading the files that a device shares under a name.
    ReadBusShare {
        /// Whose.
        device: BusDevice,
        /// Under which name.
        share: BusService,
    },
    /// Reading the state that a device keeps.
    ReadBusState {
        /// Which device.
        device: BusDevice,
    },
    /// Changing the state that a device keeps.
    WriteBusState {
        /// Which device.
        device: BusDevice,
    },
    /// Offering a service to the bus, and taking the streams that are opened to it.
    ShareBusService {
        /// Which.
        service: BusService,
    },
    /// Asking for decisions about others, and having something recorded: what netd-services does for its clients.
    Represent,
    /// Looking at netd's state.
    Observe,
    /// Changing how netd itself runs.
    Operate,
}

impl Request {
    /// The right it takes; none for looking.
    pub fn capability(&self) -> Option<Capability> {
        match self {
            Request::TcpConnect { remote: _ } | Request::TcpConnectName { .. } => {
                Some(Capability::TcpConnect)
            }
            Request::TcpListen { port: _ } => Some(Capability::TcpListen),
            Request::UdpBind { port: _ } => Some(Capability::UdpBind),
            Request::UdpSend { remote: _ } => Some(Capability::UdpSend),
            Request::Ping { to: _ } => Some(Capability::IcmpPing),
            Request::Resolve { name: _ } => Some(Capability::DnsResolve),
            Request::Raw { ether_type: _ } => Some(Capability::Raw),
            Request::Fetch { from: _ } => Some(Capability::HttpFetch),
            Request::FetchReal => Some(Capability::HttpDevnet),
            Request::ValidateTls { of: _ } => Some(Capability::TlsValidate),
            Request::ManageTrust => Some(Capability::TrustManage),
            Request::Capture => Some(Capability::Capture),
            Request::Operate => Some(Capability::Admin),
            Request::DiscoverBus => Some(Capability::BusDiscover),
            Request::OpenBusSession { device: _ } => Some(Capability::BusSessionOpen),
            Request::OpenBusStream { .. } => Some(Capability::BusStreamOpen),
            Request::CallBusService { .. } => Some(Capability::BusCall),
            Request::ReadBusShare { .. } => Some(Capability::BusShareFiles),
            Request::ReadBusState { device: _ } => Some(Capability::BusShareState),
            Request::WriteBusState { device: _ } => Some(Capability::BusShareStateWrite),
            Request::ShareBusService { service: _ } => Some(Capability::BusShareService),
            Request::Represent | Request::Observe => None,
        }
    }

    /// The ports it is about.
    pub(crate) fn ports(&self) -> Ports {
        match self {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => Ports::One(remote.port()),
            Request::Fetch { from: peer } | Request::ValidateTls { of: peer } => Ports::One(peer.port),
            Request::TcpConnectName { port, .. }
            | Request::TcpListen { port: Some(port) }
            | Request::UdpBind { port: Some(port) } => Ports::One(*port),
            Request::TcpListen { port: None } | Request::UdpBind { port: None } => Ports::Choice(EPHEMERAL),
            // What its scope says in the place of ports.
            Request::Raw { ether_type } => Ports::One(ether_type.number()),
            Request::Ping { to: _ }
            | Request::Resolve { name: _ }
            | Request::FetchReal
            | Request::ManageTrust
            | Request::Capture
            | Request::DiscoverBus
            | Request::OpenBusSession { device: _ }
            | Request::OpenBusStream { .. }
            | Request::CallBusService { .. }
            | Request::ReadBusShare { .. }
            | Request::ReadBusState { device: _ }
            | Request::WriteBusState { device: _ }
            | Request::ShareBusService { service: _ }
            | Request::Represent
            | Request::Observe
            | Request::Operate => Ports::None,
        }
    }

    /// Whom it is about.
    pub(crate) fn target(&self) -> Target<'_> {
        match self {
            Request::Resolve { name: Some(name) }
            | Request::TcpConnectName { name, .. }
            | Request::Fetch { from: Authority { host: Host::Name(name), .. } }
            | Request::ValidateTls { of: Authority { host: Host::Name(name), .. } } => Target::Name(name),
            Request::OpenBusSession { device }
            | Request::ReadBusState { device }
            | Request::WriteBusState { device } => Target::Bus(Some(device), None),
            Request::OpenBusStream { device, service }
            | Request::CallBusService { device, service }
            | Request::ReadBusShare { device, share: service } => Target::Bus(Some(device), Some(service)),
            Request::ShareBusService { service } => Target::Bus(None, Some(service)),
            _ => self.peer().map_or(Target::Nobody, Target::Address),
        }
    }

    /// Whether it makes netd send something where a client wants it: what the devnet switch is about.
    pub fn is_outbound(&self) -> bool {
        match self {
            // The stub backend answers for one host, from files.
            Request::Fetch { from } => !from.is_fixture(),
            Request::FetchReal | Request::ValidateTls { of: _ } | Request::Raw { ether_type: _ } => true,
            // Names are asked of netd's own servers, and a name can carry anything to whoever serves its domain.
            Request::Resolve { name: _ } | Request::TcpConnectName { .. } => true,
            // Between clients of this machine nothing leaves it.
            Request::OpenBusSession { device }
            | Request::OpenBusStream { device, .. }
            | Request::CallBusService { device, .. }
            | Request::ReadBusShare { device, .. }
            | Request::ReadBusState { device }
            | Request::WriteBusState { device } => !device.is_loopback(),
            _ => self.peer().is_some(),
        }
    }

    /// The address that the client chose.
    pub fn peer(&self) -> Option<IpAddr> {
        // ::ffff:10.0.0.1 is 10.0.0.1 (RFC 4291, 2.5.5.2), and must not slip past a scope written for the other form.
        match self {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => Some(remote.ip().to_canonical()),
            Request::Ping { to } => Some(to.to_canonical()),
            Request::Fetch { from: peer } | Request::ValidateTls { of: peer } => peer.address(),
            Request::TcpConnectName { .. }
            | Request::TcpListen { port: _ }
            | Request::UdpBind { port: _ }
            | Request::Resolve { name: _ }
            | Request::Raw { ether_type: _ }
            | Request::FetchReal
            | Request::ManageTrust
            | Request::Capture
            | Request::DiscoverBus
            | Request::OpenBusSession { device: _ }
            | Request::OpenBusStream { .. }
            | Request::CallBusService { .. }
            | Request::ReadBusShare { .. }
            | Request::ReadBusState { device: _ }
            | Request::WriteBusState { device: _ }
            | Request::ShareBusService { service: _ }
            | Request::Represent
            | Request::Observe
            | Request::Operate => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |f: &mut fmt::Formatter<'_>, what: &str, port: &Option<u16>| match port {
            Some(port) => write!(f, "{what} {port}"),
            None => write!(f, "{what} of netd's choice"),
        };
        match self {
            Request::TcpConnect { remote } => write!(f, "TCP connection to {remote}"),
            Request::TcpConnectName { name, port, address: None } => {
                write!(f, "TCP connection to {name}:{port}")
            }
            Request::TcpConnectName { name, port, address: Some(address) } => {
                write!(f, "TCP connection to {name}:{port} at {address}")
            }
            Request::TcpListen { port } => on(f, "listening on TCP port", port),
            Request::UdpBind { port } => on(f, "binding UDP port", port),
            Request::UdpSend { remote } => write!(f, "UDP datagram to {remote}"),
            Request::Ping { to } => write!(f, "echo request to {to}"),
            Request::Resolve { name: Some(name) } => write!(f, "resolving {name}"),
            Request::Resolve { name: None } => f.write_str("resolving what is no host's name"),
            Request::Raw { ether_type } => write!(f, "raw frames of type {ether_type}"),
            Request::Fetch { from } => write!(f, "fetching from {from}"),
            Request::FetchReal => f.write_str("fetching from real servers"),
            Request::ValidateTls { of } => write!(f, "looking at the certificates of {of}"),
            Request::ManageTrust => f.write_str("changing the roots of trust"),
            Request::Capture => f.write_str("capturing frames"),
            Request::DiscoverBus => f.write_str("looking at who is on the bus"),
            Request::OpenBusSession { device } => write!(f, "bus session with {device}"),
            Request::OpenBusStream { device, service } => write!(f, "bus stream to {device}/{service}"),
            Request::CallBusService { device, service } => {
                write!(f, "calls of, and events from, {device}/{service}")
            }
            Request::ReadBusShare { device, share } => write!(f, "reading files of {device}/{share}"),
            Request::ReadBusState { device } => write!(f, "reading the state that {device} keeps"),
            Request::WriteBusState { device } => write!(f, "changing the state that {device} keeps"),
            Request::ShareBusService { service } => write!(f, "offering the service {service} to the bus"),
            Request::Represent => f.write_str("asking for decisions about others"),
            Request::Observe => f.write_str("looking at netd's state"),
            Request::Operate => f.write_str("changing how netd runs"),
        }
    }
}
