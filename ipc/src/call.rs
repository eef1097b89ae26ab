//! Calls: the methods of the interface with their parameters, parsed into types that cannot be wrong.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::datagram::PAYLOAD_BYTES_MAX;
use crate::policy::{Asker, TrustChange};
use crate::server::Peer;
use crate::types::{Endpoint, PollMode, RecordKind, TcpOptions, UdpOptions};

/// The interface file.
pub const INTERFACE: &str = include_str!("../io.netd.varlink");
/// The interface file of the service interface.
pub const SERVICE_INTERFACE: &str = include_str!("../org.varlink.service.varlink");

/// How long a connect may take unless the client says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an echo reply may take unless the client says otherwise.
pub const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest timeout of a call. TCP itself gives a connect up within minutes (RFC 9293, 3.8.3: at least 3 for a SYN).
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Connections that wait for a listener's client, unless it says otherwise.
pub const BACKLOG: usize = 128;
/// Most connections that may wait: Linux' default of net.core.somaxconn, and as listen(2) does, more is cut to it. The daemon's
/// configuration may say less.
pub const BACKLOG_MAX: usize = 4096;
/// Payload of an echo request unless the client says otherwise: what ping(8) sends.
pub const PING_BYTES: usize = 56;

/// Longest text that has a record of its own: a certificate's subject and fingerprint, with room.
pub const DETAIL_BYTES_MAX: usize = 1024;
/// Longest id of a device, in bytes: the bus's own bound.
const DEVICE_BYTES_MAX: usize = 64;

/// Most that is kept of a captured frame, and what is kept unless the client says otherwise: the longest frame.
pub const SNAP_BYTES_MAX: usize = 65_535 + 14;

/// A request as it comes over the socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// `interface.Method`.
    pub method: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// The client wants no reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oneway: bool,
    /// The client takes several replies; netd always sends one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The client wants the connection for another protocol; netd has none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
}

/// A reply as it goes over the socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// What the method returns, or what the error carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Full name of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More replies to this call follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// By address.
    Address(IpAddr),
    /// By name, as the client wrote it.
    Name(String),
}

/// One call, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `org.varlink.service.GetInfo`
    GetInfo,
    /// `org.varlink.service.GetInterfaceDescription`
    GetInterfaceDescription {
        /// Of which interface.
        interface: String,
    },
    /// `io.netd.GetStatus`
    GetStatus,
    /// `io.netd.GetDevice`
    GetDevice,
    /// `io.netd.ListInterfaces`
    ListInterfaces,
    /// `io.netd.ListSockets`
    ListSockets,
    /// `io.netd.ListNeighbors`
    ListNeighbors,
    /// `io.netd.GetStatistics`
    GetStatistics,
    /// `io.netd.ListClients`
    ListClients,
    /// `io.netd.SetLogLevel`
    SetLogLevel {
        /// What to log.
        filter: String,
    },
    /// `io.netd.ListRules`
    ListRules {
        /// The number of the first, counted from 0.
        from: usize,
    },
    /// `io.netd.Explain`
    Explain {
        /// Who would ask.
        asker: Asker,
        /// With which right.
        capability: String,
        /// About what.
        target: Option<String>,
    },
    /// `io.netd.Decide`
    Decide {
        /// For whom.
        client: Peer,
        /// With which right.
        capability: String,
        /// About what.
        target: Option<String>,
    },
    /// `io.netd.RecordTrust`
    RecordTrust {
        /// On whose behalf.
        client: Peer,
        /// What changed.
        change: TrustChange,
        /// Which root.
        detail: String,
    },
    /// `io.netd.RecordState`
    RecordState {
        /// On whose behalf.
        client: Peer,
        /// On which device's behalf, if it is none of a client here.
        device: Option<String>,
        /// Which key, and what became of it.
        detail: String,
    },
    /// `io.netd.ListDenials`
    ListDenials {
        /// Whose.
        subject: String,
        /// From which number on.
        since: u64,
    },
    /// `io.netd.SetPollMode`
    SetPollMode {
        /// How to wait for frames.
        poll: PollMode,
    },
    /// `io.netd.GetAudit`
    GetAudit,
    /// `io.netd.SetOffload`
    SetOffload {
        /// Its name in configuration.
        name: String,
        /// Whether it is to be used.
        on: bool,
    },
    /// `io.netd.Connect`
    Connect {
        /// The peer.
        host: Host,
        /// Its port.
        port: u16,
        /// How long it may take.
        timeout: Duration,
    },
    /// `io.netd.Listen`
    Listen {
        /// One of the daemon's addresses; none is all of them.
        address: Option<IpAddr>,
        /// The port; none leaves the choice to netd.
        port: Option<u16>,
        /// Connections that may wait.
        backlog: usize,
    },
    /// `io.netd.BindUdp`
    BindUdp {
        /// One of the daemon's addresses; none is all of them.
        address: Option<IpAddr>,
        /// The port; none leaves the choice to netd.
        port: Option<u16>,
    },
    /// `io.netd.SetTcpOptions`
    SetTcpOptions {
        /// Of which stream.
        id: u64,
        /// What is to be set.
        options: TcpOptions,
    },
    /// `io.netd.SetUdpOptions`
    SetUdpOptions {
        /// Of which socket.
        id: u64,
        /// What is to be set.
        options: UdpOptions,
    },
    /// `io.netd.Ping`
    Ping {
        /// The peer.
        to: IpAddr,
        /// How long to wait.
        timeout: Duration,
        /// Payload.
        bytes: usize,
    },
    /// `io.netd.Resolve`
    Resolve {
        /// A name, or an address.
        name: String,
        /// What of it.
        kind: RecordKind,
    },
    /// `io.netd.Capture`
    Capture {
        /// Which frames.
        filter: String,
        /// How much of each.
        snap_bytes: usize,
    },
    /// `io.netd.OpenFrames`
    OpenFrames {
        /// Of which type.
        ether_type: u16,
    },
    /// `io.netd.Outcome`
    Outcome {
        /// Of which stream.
        id: u64,
    },
}

/// A call that is none; each is an error of `org.varlink.service`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCall {
    /// No such interface.
    #[error("there is no interface '{0}'")]
    InterfaceNotFound(String),
    /// No such method.
    #[error("there is no method '{0}'")]
    MethodNotFound(String),
    /// A parameter is missing, unknown, or has a value that cannot be.
    #[error("the parameter '{0}' is missing, unknown or wrong")]
    InvalidParameter(String),
}

impl Request {
    /// The method, and the parameters to be taken one by one.
    ///
    /// # Errors
    /// It asks for another protocol on the connection: no method changes it.
    pub(crate) fn open(self) -> Result<(String, Fields), BadCall> {
        let Request { method, parameters, oneway: _, more: _, upgrade } = self;
        if upgrade {
            return Err(BadCall::InvalidParameter("upgrade".to_owned()));
        }
        Ok((method, Fields::new(parameters)))
    }
}

impl BadCall {
    /// The reply that says so.
    pub fn response(&self) -> Response {
        let (name, parameters) = match self {
            BadCall::InterfaceNotFound(interface) => ("InterfaceNotFound", json!({ "interface": interface })),
            BadCall::MethodNotFound(method) => ("MethodNotFound", json!({ "method": method })),
            BadCall::InvalidParameter(parameter) => ("InvalidParameter", json!({ "parameter": parameter })),
        };
        Response {
            parameters: Some(parameters),
            error: Some(format!("org.varlink.service.{name}")),
            continues: false,
        }
    }
}

impl Call {
    /// Understands a request.
    ///
    /// # Errors
    /// The method does not exist, or a parameter is wrong: the first that is.
    pub fn parse(request: Request) -> Result<Call, BadCall> {
        let (method, mut fields) = request.open()?;
        let call = match method.as_str() {
            "org.varlink.service.GetInfo" => Call::GetInfo,
            "org.varlink.service.GetInterfaceDescription" => {
                Call::GetInterfaceDescription { interface: fields.required("interface")? }
            }
            "io.netd.GetStatus" => Call::GetStatus,
            "io.netd.GetDevice" => Call::GetDevice,
            "io.netd.ListInterfaces" => Call::ListInterfaces,
            "io.netd.ListSockets" => Call::ListSockets,
            "io.netd.ListNeighbors" => Call::ListNeighbors,
            "io.netd.GetStatistics" => Call::GetStatistics,
            "io.netd.ListClients" => Call::ListClients,
            "io.netd.SetLogLevel" => Call::SetLogLevel { filter: fields.required("filter")? },
            "io.netd.ListRules" => Call::ListRules { from: fields.optional("from")?.unwrap_or(0) },
            "io.netd.Explain" => Call::Explain {
                asker: Asker {
                    uid: fields.required("uid")?,
                    gid: fields.required("gid")?,
                    unit: fields.optional("unit")?,
                },
                capability: fields.required("capability")?,
                target: fields.optional("target")?,
            },
            "io.netd.Decide" => Call::Decide {
                client: fields.required("client")?,
                capability: fields.required("capability")?,
                target: fields.optional("target")?,
            },
            "io.netd.RecordTrust" => Call::RecordTrust {
                client: fields.required("client")?,
                change: fields.required("change")?,
                detail: fields.detail()?,
            },
            "io.netd.RecordState" => Call::RecordState {
                client: fields.required("client")?,
                device: fields.device()?,
                detail: fields.detail()?,
            },
            "io.netd.ListDenials" => Call::ListDenials {
                subject: fields.required("subject")?,
                since: fields.optional("since")?.unwrap_or(0),
            },
            "io.netd.SetPollMode" => Call::SetPollMode { poll: fields.required("poll")? },
            "io.netd.GetAudit" => Call::GetAudit,
            "io.netd.SetOffload" => {
                Call::SetOffload { name: fields.required("name")?, on: fields.required("on")? }
            }
            "io.netd.Connect" => fields.connect()?,
            "io.netd.Listen" => Call::Listen {
                address: fields.optional("address")?,
                port: fields.port_to_bind()?,
                backlog: fields.backlog()?,
            },
            "io.netd.BindUdp" => {
                Call::BindUdp { address: fields.optional("address")?, port: fields.port_to_bind()? }
            }
            "io.netd.SetTcpOptions" => Call::SetTcpOptions {
                id: fields.required("id")?,
                options: TcpOptions {
                    nodelay: fields.optional("nodelay")?,
                    keepalive_seconds: fields.optional("keepalive_seconds")?,
                    linger_seconds: fields.optional("linger_seconds")?,
                    ttl: fields.optional("ttl")?,
                },
            },
            "io.netd.SetUdpOptions" => Call::SetUdpOptions {
                id: fields.required("id")?,
                options: UdpOptions {
                    peer: fields.optional("peer")?,
                    broadcast: fields.optional("broadcast")?,
                    ttl: fields.optional("ttl")?,
                    multicast_ttl: fields.optional("multicast_ttl")?,
                    dont_fragment: fields.optional("dont_fragment")?,
                    join: fields.optional("join")?,
                    leave: fields.optional("leave")?,
                },
            },
            "io.netd.Ping" => fields.ping()?,
            "io.netd.Resolve" => Call::Resolve {
                name: fields.required("name")?,
                kind: fields.optional("kind")?.unwrap_or_default(),
            },
            "io.netd.Capture" => Call::Capture {
                filter: fields.optional("filter")?.unwrap_or_default(),
                snap_bytes: fields.snap_bytes()?,
            },
            "io.netd.OpenFrames" => Call::OpenFrames { ether_type: fields.required("ether_type")? },
            "io.netd.Outcome" => Call::Outcome { id: fields.required("id")? },
            _ => return Err(not_found(method)),
        };
        fields.finish()?;
        Ok(call)
    }
}

fn not_found(method: String) -> BadCall {
    match method.rsplit_once('.') {
        Some(("io.netd" | "org.varlink.service", _)) | None => BadCall::MethodNotFound(method),
        Some((interface, _)) => BadCall::InterfaceNotFound(interface.to_owned()),
    }
}

/// Parameters that are taken out one by one, so that what is left over is unknown.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn new(parameters: Option<Map<String, Value>>) -> Fields {
        Fields(parameters.unwrap_or_default())
    }

    pub(crate) fn optional<T: for<'de> Deserialize<'de>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, BadCall> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|_| wrong(name)),
        }
    }

    pub(crate) fn required<T: for<'de> Deserialize<'de>>(&mut self, name: &str) -> Result<T, BadCall> {
        self.optional(name)?.ok_or_else(|| wrong(name))
    }

    fn connect(&mut self) -> Result<Call, BadCall> {
        let text: String = self.required("address")?;
        let host = match text.parse() {
            Ok(address) => Host::Address(reachable(address)?),
            // Whether it is a name, the policy says, whose names these are.
            Err(_) => Host::Name(text),
        };
        let port: u16 = self.required("port")?;
        if port == 0 {
            return Err(wrong("port"));
        }
        Ok(Call::Connect { host, port, timeout: self.timeout(CONNECT_TIMEOUT)? })
    }

    fn ping(&mut self) -> Result<Call, BadCall> {
        let bytes = self.optional("bytes")?.unwrap_or(PING_BYTES);
        // The header of an echo request is as long as that of a UDP datagram: 8 bytes (RFC 792).
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(wrong("bytes"));
        }
        Ok(Call::Ping { to: self.peer_address()?, timeout: self.timeout(PING_TIMEOUT)?, bytes })
    }

    fn peer_address(&mut self) -> Result<IpAddr, BadCall> {
        reachable(self.required("address")?)
    }

    fn timeout(&mut self, default: Duration) -> Result<Duration, BadCall> {
        match self.optional("timeout_ms")?.map_or(default, Duration::from_millis) {
            timeout if timeout.is_zero() || timeout > TIMEOUT_MAX => Err(wrong("timeout_ms")),
            timeout => Ok(timeout),
        }
    }

    fn port_to_bind(&mut self) -> Result<Option<u16>, BadCall> {
        Ok(self.optional("port")?.filter(|port| *port != 0))
    }

    fn detail(&mut self) -> Result<String, BadCall> {
        let detail: String = self.required("detail")?;
        if detail.len() > DETAIL_BYTES_MAX { Err(wrong("detail")) } else { Ok(detail) }
    }

    fn device(&mut self) -> Result<Option<String>, BadCall> {
        let device: Option<String> = self.optional("device")?;
        let fits = device.as_ref().is_none_or(|device| device.len() <= DEVICE_BYTES_MAX);
        if fits { Ok(device) } else { Err(wrong("device")) }
    }

    fn backlog(&mut self) -> Result<usize, BadCall> {
        match self.optional("backlog")?.unwrap_or(BACKLOG) {
            0 => Err(wrong("backlog")),
            backlog => Ok(backlog.min(BACKLOG_MAX)),
        }
    }

    fn snap_bytes(&mut self) -> Result<usize, BadCall> {
        match self.optional("snap_bytes")?.unwrap_or(SNAP_BYTES_MAX) {
            0 => Err(wrong("snap_bytes")),
            bytes => Ok(bytes.min(SNAP_BYTES_MAX)),
        }
    }

    pub(crate) fn finish(self) -> Result<(), BadCall> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((unknown, _)) => Err(BadCall::InvalidParameter(unknown)),
        }
    }
}

/// An address that a packet can be sent to. ::ffff:a.b.c.d is a.b.c.d (RFC 4291, 2.5.5.2).
fn reachable(address: IpAddr) -> Result<IpAddr, BadCall> {
    match address.to_canonical() {
        address if address.is_unspecified() => Err(wrong("address")),
        address => Ok(address),
    }
}

fn wrong(name: &str) -> BadCall {
    BadCall::InvalidParameter(name.to_owned())
}

/// What `Connect` returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReply {
    /// Names the stream in `Outcome`.
    pub id: u64,
    /// Its own end.
    pub local: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// What allowed it: a rule with its place.
    pub rule: String,
    /// Of a connection by name: `required` if it must begin with a ClientHello for that name, otherwise `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// What `Capture` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReply {
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// What `OpenFrames` returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramesReply {
    /// Names them in `ListSockets`.
    pub id: u64,
    /// The hardware address that they come from: `42:01:0a:00:00:02`.
    pub mac: String,
    /// The most that a frame may carry, in bytes.
    pub mtu: usize,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// What `SetUdpOptions` returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpOptionsReply {
    /// Of a socket that got a peer: its own address towards that one, and its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Endpoint>,
}

/// What `Listen` and `BindUdp` return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundReply {
    /// Names the socket in `ListSockets`.
    pub id: u64,
    /// Where it is bound.
    pub local: Endpoint,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
