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
    /// `net.capture`
    Capture,
}

impl Capability {
    /// All there are.
    pub const ALL: [Capability; 7] = [
        Capability::TcpConnect,
        Capability::TcpListen,
        Capability::UdpBind,
        Capability::UdpSend,
        Capability::IcmpPing,
        Capability::DnsResolve,
        Capability::Capture,
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
            Capability::Capture => "net.capture",
        }
    }

    /// Whether its requests name a peer by address.
    pub(crate) fn has_peer(self) -> bool {
        matches!(self, Capability::TcpConnect | Capability::UdpSend | Capability::IcmpPing)
    }

    /// Whether its requests can name a host.
    pub(crate) fn has_names(self) -> bool {
        matches!(self, Capability::DnsResolve)
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
