//! The decision: first the devnet switch, then the grants.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::config::{GrantConfig, SubjectPattern};
use crate::grant::{Capability, Cover, Grant};

/// Who asks, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id when it connected; for people to read, never a ground for a decision, since ids are used again.
    pub pid: u32,
    /// systemd unit, if the process runs in one below system.slice.
    pub unit: Option<String>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} (pid {}", self.uid, self.pid)?;
        if let Some(unit) = &self.unit {
            write!(f, ", {unit}")?;
        }
        f.write_str(")")
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Opening a TCP connection.
    TcpConnect {
        /// The peer.
        remote: SocketAddr,
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
    Resolve,
    /// Copies of everybody's frames.
    Capture,
    /// Looking at netd's state.
    Observe,
    /// Changing how netd itself runs.
    Operate,
}

impl Request {
    /// The right it takes; none for looking.
    pub fn capability(&self) -> Option<Capability> {
        match self {
            Request::TcpConnect { remote: _ } => Some(Capability::TcpConnect),
            Request::TcpListen { port: _ } => Some(Capability::TcpListen),
            Request::UdpBind { port: _ } => Some(Capability::UdpBind),
            Request::UdpSend { remote: _ } => Some(Capability::UdpSend),
            Request::Ping { to: _ } => Some(Capability::IcmpPing),
            Request::Resolve => Some(Capability::DnsResolve),
            Request::Capture => Some(Capability::Capture),
            Request::Observe | Request::Operate => None,
        }
    }

    /// Whether it makes netd send something where a client wants it: what the devnet switch is about.
    pub fn is_outbound(&self) -> bool {
        // Names are asked of netd's own servers, and a name can carry anything to whoever serves its domain.
        self.peer().is_some() || *self == Request::Resolve
    }

    /// The peer that the client chose.
    pub fn peer(&self) -> Option<IpAddr> {
        match self {
            Request::TcpConnect { remote } | Request::UdpSend { remote } => Some(remote.ip()),
            Request::Ping { to } => Some(*to),
            Request::TcpListen { port: _ }
            | Request::UdpBind { port: _ }
            | Request::Resolve
            | Request::Capture
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
            Request::TcpListen { port } => on(f, "listening on TCP port", port),
            Request::UdpBind { port } => on(f, "binding UDP port", port),
            Request::UdpSend { remote } => write!(f, "UDP datagram to {remote}"),
            Request::Ping { to } => write!(f, "echo request to {to}"),
            Request::Resolve => f.write_str("resolving a name"),
            Request::Capture => f.write_str("capturing frames"),
            Request::Observe => f.write_str("looking at netd's state"),
            Request::Operate => f.write_str("changing how netd runs"),
        }
    }
}

/// What a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The devnet switch.
    Devnet,
    /// A grant of the configuration.
    Grant {
        /// Which one in the file, counted from 1.
        number: usize,
        /// Its subject as written there.
        subject: SubjectPattern,
    },
    /// Looking at netd's state is open to whoever reaches its socket.
    Observe,
    /// Changing how netd runs is for root and for the user that netd runs as.
    Operator,
    /// No grant: what nothing allows is denied.
    Default,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Devnet => f.write_str("network.devnet.enabled = false"),
            Rule::Grant { number, subject } => write!(f, "grant {number} ({subject})"),
            Rule::Observe => f.write_str("observe"),
            Rule::Operator => f.write_str("operators only"),
            Rule::Default => f.write_str("deny by default"),
        }
    }
}

/// The error that a denied client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The devnet switch is off.
    DevnetDisabled,
    /// No grant covers the request.
    PolicyDenied,
}

/// The answer, with the rule it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow {
        /// Because of this.
        rule: Rule,
    },
    /// It may not.
    Deny {
        /// What the client is told.
        error: Denial,
        /// In a sentence.
        reason: String,
        /// Because of this.
        rule: Rule,
    },
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }
}

/// The rules in force.
#[derive(Debug, Clone)]
pub struct Policy {
    devnet_enabled: bool,
    /// The user that netd runs as.
    operator: Option<u32>,
    grants: Vec<Grant>,
}

impl Policy {
    /// Builds the rules from the configuration; `user` and `group` turn names of this machine into ids.
    ///
    /// # Errors
    /// A grant with an empty list, or with a name that does not exist.
    pub fn new(
        devnet_enabled: bool,
        grants: &[GrantConfig],
        user: impl Fn(&str) -> Option<u32>,
        group: impl Fn(&str) -> Option<u32>,
    ) -> Result<Policy, Error> {
        let grants = grants
            .iter()
            .enumerate()
            .map(|(index, config)| Grant::resolve(index + 1, config, &user, &group))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Policy { devnet_enabled, operator: None, grants })
    }

    /// Lets this user, beside root, change how netd runs: the one that it runs as.
    #[must_use]
    pub fn with_operator(self, uid: u32) -> Policy {
        Policy { operator: Some(uid), ..self }
    }

    /// Whether clients may reach peers at all.
    pub fn devnet_enabled(&self) -> bool {
        self.devnet_enabled
    }

    /// Decides on one request.
    pub fn decide(&self, subject: &Subject, request: &Request) -> Decision {
        let Some(capability) = request.capability() else {
            return match request {
                Request::Operate => self.decide_operate(subject),
                _ => Decision::Allow { rule: Rule::Observe },
            };
        };
        if !self.devnet_enabled && request.is_outbound() {
            return Decision::Deny {
                error: Denial::DevnetDisabled,
                reason: format!(
                    "{request}: the devnet switch is off; an operator turns it on with '[network.devnet] \
                     enabled = true' in netd.toml"
                ),
                rule: Rule::Devnet,
            };
        }
        self.decide_by_grants(subject, capability, request)
    }

    fn decide_operate(&self, subject: &Subject) -> Decision {
        let rule = Rule::Operator;
        if subject.uid == 0 || self.operator == Some(subject.uid) {
            return Decision::Allow { rule };
        }
        let reason =
            format!("{}: only root and the user that netd runs as may, not {subject}", Request::Operate);
        Decision::Deny { error: Denial::PolicyDenied, reason, rule }
    }

    fn decide_by_grants(&self, subject: &Subject, capability: Capability, request: &Request) -> Decision {
        let mut nearest = None;
        for (grant, number) in self.grants.iter().zip(1..) {
            let rule = || Rule::Grant { number, subject: grant.subject.clone() };
            let but = match grant.covers(subject, capability, request) {
                Cover::Full => return Decision::Allow { rule: rule() },
                Cover::OtherPorts => "only for other ports",
                Cover::OtherPeers => "only towards other addresses",
                Cover::None => continue,
            };
            nearest.get_or_insert_with(|| (rule(), but));
        }
        let mut reason = format!("{request}: no grant allows {capability} here to {subject}");
        if let Some((rule, but)) = nearest {
            reason.push_str(&format!("; {rule} allows it, but {but}"));
        }
        Decision::Deny { error: Denial::PolicyDenied, reason, rule: Rule::Default }
    }
}
