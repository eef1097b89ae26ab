//! Grants as decisions use them: names resolved, lists known not to be empty.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::Error;
use crate::config::{GrantConfig, PortRange, SubjectPattern};
use crate::decide::{Request, Subject};

/// Ports that netd may choose when a client leaves the choice to it: the dynamic ports of RFC 6335, 6.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

/// A right that a grant can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    const ALL: [Capability; 7] = [
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Any,
    Uid(u32),
    Gid(u32),
    Unit(String),
}

/// A grant with its names resolved.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    who: Who,
    /// As written in the file, for messages.
    pub(crate) subject: SubjectPattern,
    allow: Vec<Capability>,
    ports: Option<Vec<PortRange>>,
    to: Option<Vec<IpNet>>,
}

/// How far a grant covers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    /// Wholly.
    Full,
    /// Subject and capability fit; the port does not.
    OtherPorts,
    /// Subject, capability and port fit; the peer does not.
    OtherPeers,
    /// Not at all.
    None,
}

impl Grant {
    pub(crate) fn resolve(
        number: usize,
        config: &GrantConfig,
        user: &impl Fn(&str) -> Option<u32>,
        group: &impl Fn(&str) -> Option<u32>,
    ) -> Result<Grant, Error> {
        let empty = |key, what| Err(Error::EmptyList { number, key, what });
        if config.allow.is_empty() {
            return empty("allow", "the grant");
        }
        if config.ports.as_ref().is_some_and(Vec::is_empty) {
            return empty("ports", "the key to allow every port");
        }
        if config.to.as_ref().is_some_and(Vec::is_empty) {
            return empty("to", "the key to allow every peer");
        }
        let who = match &config.subject {
            SubjectPattern::Any => Who::Any,
            SubjectPattern::Uid(uid) => Who::Uid(*uid),
            SubjectPattern::User(name) => {
                Who::Uid(user(name).ok_or_else(|| Error::UnknownUser { number, name: name.clone() })?)
            }
            SubjectPattern::Gid(gid) => Who::Gid(*gid),
            SubjectPattern::Group(name) => {
                Who::Gid(group(name).ok_or_else(|| Error::UnknownGroup { number, name: name.clone() })?)
            }
            SubjectPattern::Unit(name) => Who::Unit(name.clone()),
        };
        Ok(Grant {
            who,
            subject: config.subject.clone(),
            allow: config.allow.clone(),
            ports: config.ports.clone(),
            to: config.to.clone(),
        })
    }

    pub(crate) fn covers(&self, subject: &Subject, capability: Capability, request: &Request) -> Cover {
        if !self.is_for(subject) || !self.allow.contains(&capability) {
            return Cover::None;
        }
        if !self.covers_port(request) {
            return Cover::OtherPorts;
        }
        if !request.peer().is_none_or(|peer| self.covers_peer(peer)) {
            return Cover::OtherPeers;
        }
        Cover::Full
    }

    fn is_for(&self, subject: &Subject) -> bool {
        match &self.who {
            Who::Any => true,
            Who::Uid(uid) => subject.uid == *uid,
            Who::Gid(gid) => subject.gid == *gid,
            Who::Unit(unit) => subject.unit.as_deref() == Some(unit.as_str()),
        }
    }

    fn covers_port(&self, request: &Request) -> bool {
        let Some(ranges) = &self.ports else { return true };
        let covered = |port| ranges.iter().any(|range| range.contains(port));
        match *request {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => covered(remote.port()),
            Request::TcpListen { port: Some(port) } | Request::UdpBind { port: Some(port) } => covered(port),
            // Whichever port netd will choose has to be covered.
            Request::TcpListen { port: None } | Request::UdpBind { port: None } => {
                EPHEMERAL.into_iter().all(covered)
            }
            Request::Ping { to: _ }
            | Request::Resolve
            | Request::Capture
            | Request::Observe
            | Request::Operate => true,
        }
    }

    fn covers_peer(&self, peer: IpAddr) -> bool {
        // ::ffff:10.0.0.1 is 10.0.0.1 (RFC 4291, 2.5.5.2), and must not slip past a scope written for the other form.
        let peer = peer.to_canonical();
        self.to.as_ref().is_none_or(|prefixes| prefixes.iter().any(|prefix| prefix.contains(&peer)))
    }
}
