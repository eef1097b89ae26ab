//! Capabilities: what a grant can give.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A right that a grant can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `net.tcp.connect`
    TcpConnect,
    /// `net.tcp.listen`
    TcpListen,
    /// `net.udp.bind`
    UdpBind,
    /// `net.udp.send`
    UdpSend,
    /// `net.icmp.ping`
    IcmpPing,
    /// `net.dns.resolve`
    DnsResolve,
    /// `net.raw`: frames of an EtherType of the program's own.
    Raw,
    /// `net.http.fetch`: what answers a URL.
    HttpFetch,
    /// `net.http.devnet`: fetching from real servers at all.
    HttpDevnet,
    /// `net.tls.validate`: looking at a server's certificates.
    TlsValidate,
    /// `net.trust.manage`: installing and removing roots.
    TrustManage,
    /// `net.capture`
    Capture,
    /// `net.admin`: changing how netd runs, and seeing what others were denied.
    Admin,
    /// `dsoftbus.discover`: looking at who is on the bus.
    BusDiscover,
    /// `dsoftbus.session.open`: having a session with a device opened.
    BusSessionOpen,
    /// `dsoftbus.stream.open`: opening a stream to a device's service.
    BusStreamOpen,
    /// `dsoftbus.rpc.call`: calling a device's service, and subscribing to what it publishes.
    BusCall,
    /// `dsoftbus.share.service`: offering a service to the bus.
    BusShareService,
    /// `dsoftbus.share.files`: reading the files that a device shares.
    BusShareFiles,
    /// `dsoftbus.share.state`: reading the state that a device keeps.
    BusShareState,
    /// `dsoftbus.share.state.write`: changing it.
    BusShareStateWrite,
}

impl Capability {
    /// All there are.
    pub const ALL: [Capability; 21] = [
        Capability::TcpConnect,
        Capability::TcpListen,
        Capability::UdpBind,
        Capability::UdpSend,
        Capability::IcmpPing,
        Capability::DnsResolve,
        Capability::Raw,
        Capability::HttpFetch,
        Capability::HttpDevnet,
        Capability::TlsValidate,
        Capability::TrustManage,
        Capability::Capture,
        Capability::Admin,
        Capability::BusDiscover,
        Capability::BusSessionOpen,
        Capability::BusStreamOpen,
        Capability::BusCall,
        Capability::BusShareService,
        Capability::BusShareFiles,
        Capability::BusShareState,
        Capability::BusShareStateWrite,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::TcpConnect => "net.tcp.connect",
            Capability::TcpListen => "net.tcp.listen",
            Capability::UdpBind => "net.udp.bind",
            Capability::UdpSend => "net.udp.send",
            Capability::IcmpPing => "net.icmp.ping",
            Capability::DnsResolve => "net.dns.resolve",
            Capability::Raw => "net.raw",
            Capability::HttpFetch => "net.http.fetch",
            Capability::HttpDevnet => "net.http.devnet",
            Capability::TlsValidate => "net.tls.validate",
            Capability::TrustManage => "net.trust.manage",
            Capability::Capture => "net.capture",
            Capability::Admin => "net.admin",
            Capability::BusDiscover => "dsoftbus.discover",
            Capability::BusSessionOpen => "dsoftbus.session.open",
            Capability::BusStreamOpen => "dsoftbus.stream.open",
            Capability::BusCall => "dsoftbus.rpc.call",
            Capability::BusShareService => "dsoftbus.share.service",
            Capability::BusShareFiles => "dsoftbus.share.files",
            Capability::BusShareState => "dsoftbus.share.state",
            Capability::BusShareStateWrite => "dsoftbus.share.state.write",
        }
    }

    /// Whether its requests name a peer by address.
    pub(crate) fn has_peer(self) -> bool {
        use Capability::{HttpFetch, IcmpPing, TcpConnect, TlsValidate, UdpSend};
        matches!(self, TcpConnect | UdpSend | IcmpPing | HttpFetch | TlsValidate)
    }

    /// Whether its requests can name a host.
    pub(crate) fn has_names(self) -> bool {
        use Capability::{DnsResolve, HttpFetch, TcpConnect, TlsValidate};
        matches!(self, TcpConnect | DnsResolve | HttpFetch | TlsValidate)
    }

    /// Whether its requests name a device of the bus.
    pub(crate) fn has_devices(self) -> bool {
        use Capability::{
            BusCall, BusSessionOpen, BusShareFiles, BusShareState, BusShareStateWrite, BusStreamOpen,
        };
        matches!(
            self,
            BusSessionOpen | BusStreamOpen | BusCall | BusShareFiles | BusShareState | BusShareStateWrite
        )
    }

    /// Whether its requests name a service of the bus, or files that are shared under a name.
    pub(crate) fn has_services(self) -> bool {
        use Capability::{BusCall, BusShareFiles, BusShareService, BusStreamOpen};
        matches!(self, BusStreamOpen | BusCall | BusShareService | BusShareFiles)
    }

    pub(crate) fn names() -> String {
        Capability::ALL.map(Capability::name).join(", ")
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Capability, Error> {
        Capability::ALL
            .into_iter()
            .find(|capability| capability.name() == text)
            .ok_or_else(|| Error::Capability(text.to_owned()))
    }
}
