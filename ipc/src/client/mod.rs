//! The blocking client library.
//!
//! A [`Client`] keeps a few idle connections to the daemon and opens another whenever a call finds none, so calls from
//! several threads do not wait for each other: a slow connect occupies one connection for as long as it takes.
//!
//! Sockets are plain descriptors with a thin layer above them. The layer is what knows that a stream which was cut
//! short must not look complete; a program that takes the descriptor out (`AsFd`) and reads by itself has to follow the
//! rule in `io.netd.varlink` on its own.

pub(crate) mod connection;
mod endpoints;
mod frames;
mod listener;
mod message;
mod policy;
mod stream;
mod udp;
pub(crate) mod wait;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::call::{
    BoundReply, CONNECT_TIMEOUT, CaptureReply, FramesReply, PING_BYTES, PING_TIMEOUT, StreamReply,
    TIMEOUT_MAX, UdpOptionsReply,
};
use crate::error::{Error, ErrorKind};
use crate::types::{
    Clients, Device, Interface, Neighbor, Outcome, PollMode, Pong, RecordKind, Resolved, Socket, Statistics,
    Status, TcpOptions, UdpOptions,
};

use connection::Connection;
pub use endpoints::ToEndpoints;
pub use frames::Frames;
pub use listener::{Incoming, TcpListener};
pub use stream::{Grant, TcpStream};
pub use udp::{Event, Received, UdpSocket};

/// Where the daemon of the system listens.
pub const SYSTEM_SOCKET: &str = "/run/netd/netd.sock";

/// The environment variable that names the socket instead.
pub const SOCKET_VARIABLE: &str = "NETD_SOCKET";

/// Idle connections kept for later calls.
const IDLE_MAX: usize = 4;

/// How long the daemon may take for a call that waits for no peer, and beyond the timeout of one that does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the daemon itself takes for a name at most.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a daemon of this user listens; none without `XDG_RUNTIME_DIR`.
pub fn user_socket() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty())?;
    Some(Path::new(&directory).join("netd/netd.sock"))
}

/// A daemon to call. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// Connects to the daemon at `$NETD_SOCKET` if that is set, else at [`SYSTEM_SOCKET`], else at [`user_socket`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] with all that was tried, or [`Error::NoPermission`] if one of them is there.
    pub fn connect_default() -> Result<Client, Error> {
        match std::env::var_os(SOCKET_VARIABLE) {
            Some(path) => Client::connect_any(vec![path.into()]),
            None => {
                Client::connect_any([PathBuf::from(SYSTEM_SOCKET)].into_iter().chain(user_socket()).collect())
            }
        }
    }

    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::NoPermission`].
    pub fn connect(path: impl Into<PathBuf>) -> Result<Client, Error> {
        Client::connect_any(vec![path.into()])
    }

    fn connect_any(paths: Vec<PathBuf>) -> Result<Client, Error> {
        let mut tried = Vec::new();
        let mut forbidden = None;
        for path in paths {
            match Connection::open(&path) {
                Ok(connection) => {
                    let idle = Mutex::new(vec![connection]);
                    return Ok(Client { inner: Arc::new(Inner { path, idle }) });
                }
                Err(Errno::ACCESS | Errno::PERM) => forbidden = forbidden.or(Some(path)),
                Err(error) => tried.push((path, what_happened(error))),
            }
        }
        Err(match forbidden {
            Some(path) => Error::NoPermission { path },
            None => Error::NotRunning { tried },
        })
    }

    /// The one client that the constructors of sockets use: connected at the first use, as by
    /// [`Client::connect_default`].
    ///
    /// # Errors
    /// As [`Client::connect_default`]; the next call tries again.
    pub fn shared() -> Result<Client, Error> {
        static SHARED: Mutex<Option<Client>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(client) => Ok(client.clone()),
            None => Ok(shared.insert(Client::connect_default()?).clone()),
        }
    }

    /// Where the daemon listens.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// The call failed.
    pub fn status(&self) -> Result<Status, Error> {
        #[derive(Deserialize)]
        struct Reply {
            status: Status,
        }
        self.ask("GetStatus", json!({})).map(|reply: Reply| reply.status)
    }

    /// The device's state.
    ///
    /// # Errors
    /// The call failed.
    pub fn device(&self) -> Result<Device, Error> {
        #[derive(Deserialize)]
        struct Reply {
            device: Device,
        }
        self.ask("GetDevice", json!({})).map(|reply: Reply| reply.device)
    }

    /// The interfaces with their addresses.
    ///
    /// # Errors
    /// The call failed.
    pub fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            interfaces: Vec<Interface>,
        }
        self.ask("ListInterfaces", json!({})).map(|reply: Reply| reply.interfaces)
    }

    /// The sockets of all clients.
    ///
    /// # Errors
    /// The call failed.
    pub fn sockets(&self) -> Result<Vec<Socket>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            sockets: Vec<Socket>,
        }
        self.ask("ListSockets", json!({})).map(|reply: Reply| reply.sockets)
    }

    /// The neighbours on the link.
    ///
    /// # Errors
    /// The call failed.
    pub fn neighbors(&self) -> Result<Vec<Neighbor>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            neighbors: Vec<Neighbor>,
        }
        self.ask("ListNeighbors", json!({})).map(|reply: Reply| reply.neighbors)
    }

    /// What was counted since the daemon started.
    ///
    /// # Errors
    /// The call failed.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        #[derive(Deserialize)]
        struct Reply {
            statistics: Statistics,
        }
        self.ask("GetStatistics", json!({})).map(|reply: Reply| reply.statistics)
    }

    /// The users with their bounds.
    ///
    /// # Errors
    /// The call failed.
    pub fn clients(&self) -> Result<Clients, Error> {
        self.ask("ListClients", json!({}))
    }

    /// Switches an offload of the device; returns the device as it is then.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, `Unsupported` where the device cannot do that, `PolicyDenied` for whoever does not have
    /// `net.admin`.
    pub fn set_offload(&self, name: &str, on: bool) -> Result<Device, Error> {
        #[derive(Deserialize)]
        struct Reply {
            device: Device,
        }
        self.ask("SetOffload", json!({ "name": name, "on": on })).map(|reply: Reply| reply.device)
    }

    /// Changes what the daemon logs; returns what it logged before.
    ///
    /// # Errors
    /// `InvalidInput` for a filter that is none, `PolicyDenied` for whoever does not have `net.admin`.
    pub fn set_log_level(&self, filter: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Reply {
            previous: String,
        }
        self.ask("SetLogLevel", json!({ "filter": filter })).map(|reply: Reply| reply.previous)
    }

    /// Changes how the daemon waits for frames, until it ends; returns the mode before.
    ///
    /// # Errors
    /// `Unsupported` for a device that can only be polled, `PolicyDenied` for whoever does not have `net.admin`.
    pub fn set_poll_mode(&self, poll: PollMode) -> Result<PollMode, Error> {
        #[derive(Deserialize)]
        struct Reply {
            previous: PollMode,
        }
        self.ask("SetPollMode", json!({ "poll": poll })).map(|reply: Reply| reply.previous)
    }

    /// Opens a TCP connection; `timeout` is [`CONNECT_TIMEOUT`] unless given.
    ///
    /// # Errors
    /// The named error of the connect, or the call failed.
    pub fn tcp_connect(&self, remote: SocketAddr, timeout: Option<Duration>) -> Result<TcpStream, Error> {
        self.connect_to(&remote.ip().to_string(), remote.port(), timeout)
    }

    /// Opens a TCP connection to a host by name, which netd resolves: the first of its addresses that answers and that policy allows.
    /// `timeout` is for all of it, [`CONNECT_TIMEOUT`] unless given.
    ///
    /// A grant for the name may demand TLS ([`Grant::tls`]): then the first bytes that are written must be a ClientHello for that very
    /// name, or the stream is cut.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`, `TimedOut`, the last address's error, or the call failed.
    pub fn tcp_connect_host(
        &self,
        host: &str,
        port: u16,
        timeout: Option<Duration>,
    ) -> Result<TcpStream, Error> {
        self.connect_to(host, port, timeout)
    }

    fn connect_to(&self, host: &str, port: u16, timeout: Option<Duration>) -> Result<TcpStream, Error> {
        let timeout = timeout.unwrap_or(CONNECT_TIMEOUT);
        let parameters = json!({ "address": host, "port": port, "timeout_ms": milliseconds(timeout) });
        let (reply, mut descriptors) = self.call("Connect", parameters, timeout + ANSWER_TIMEOUT)?;
        let StreamReply { id, local, remote, rule, tls, descriptor } = reply;
        let socket = pick(&mut descriptors, descriptor)?;
        let stream = TcpStream::new(self.clone(), socket, id, local.into(), remote.into());
        Ok(stream.granted_by(Grant { rule, tls }))
    }

    /// Opens a TCP connection: to a name as [`tcp_connect_host`](Self::tcp_connect_host) does, otherwise to the first address that answers.
    /// All of it ends at the deadline.
    ///
    /// # Errors
    /// `TimedOut`, or as [`tcp_connect_host`](Self::tcp_connect_host).
    pub fn tcp_connect_deadline(&self, to: impl ToEndpoints, deadline: Instant) -> Result<TcpStream, Error> {
        self.tcp_connect_to(to, Some(deadline))
    }

    pub(crate) fn tcp_connect_to(
        &self,
        to: impl ToEndpoints,
        deadline: Option<Instant>,
    ) -> Result<TcpStream, Error> {
        let timeout = || match deadline {
            None => Ok(None),
            Some(_) => wait::left(deadline, TIMEOUT_MAX, "connecting").map(Some),
        };
        if let Some((host, port)) = to.host()? {
            return self.tcp_connect_host(host, port, timeout()?);
        }
        endpoints::try_each(to, self, deadline, |endpoint| self.tcp_connect(endpoint, timeout()?))
    }

    /// Listens on a TCP port; without one the daemon chooses.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn tcp_listen(&self, port: Option<u16>, backlog: Option<usize>) -> Result<TcpListener, Error> {
        self.tcp_listen_on(None, port, backlog)
    }

    /// The same, on one of the daemon's addresses alone.
    ///
    /// # Errors
    /// As [`tcp_listen`](Client::tcp_listen), and `InvalidInput` for an address that is not the daemon's.
    pub fn tcp_listen_on(
        &self,
        address: Option<IpAddr>,
        port: Option<u16>,
        backlog: Option<usize>,
    ) -> Result<TcpListener, Error> {
        let parameters = json!({ "address": address, "port": port, "backlog": backlog });
        let (reply, mut descriptors) = self.call("Listen", parameters, ANSWER_TIMEOUT)?;
        let BoundReply { id, local, descriptor } = reply;
        Ok(TcpListener::new(self.clone(), pick(&mut descriptors, descriptor)?, id, local.into()))
    }

    /// Binds a UDP port; without one the daemon chooses.
    ///
    /// # Errors
    /// The named error of the call, or the call failed.
    pub fn udp_bind(&self, port: Option<u16>) -> Result<UdpSocket, Error> {
        self.udp_bind_on(None, port)
    }

    /// The same, on one of the daemon's addresses alone: it is where datagrams come from.
    ///
    /// # Errors
    /// As [`udp_bind`](Client::udp_bind), and `InvalidInput` for an address that is not the daemon's.
    pub fn udp_bind_on(&self, address: Option<IpAddr>, port: Option<u16>) -> Result<UdpSocket, Error> {
        let parameters = json!({ "address": address, "port": port });
        let (reply, mut descriptors) = self.call("BindUdp", parameters, ANSWER_TIMEOUT)?;
        let BoundReply { id, local, descriptor } = reply;
        Ok(UdpSocket::new(self.clone(), pick(&mut descriptors, descriptor)?, id, local.into()))
    }

    /// Sends one echo request and waits for the answer; `timeout` is [`PING_TIMEOUT`] unless given, `bytes`
    /// [`PING_BYTES`].
    ///
    /// # Errors
    /// The named error of the ping, `TimedOut` among them, or the call failed.
    pub fn ping(&self, to: IpAddr, timeout: Option<Duration>, bytes: Option<usize>) -> Result<Pong, Error> {
        let timeout = timeout.unwrap_or(PING_TIMEOUT);
        let bytes = bytes.unwrap_or(PING_BYTES);
        let parameters = json!({ "address": to, "timeout_ms": milliseconds(timeout), "bytes": bytes });
        self.call("Ping", parameters, timeout + ANSWER_TIMEOUT).map(|(pong, _)| pong)
    }

    pub(crate) fn set_tcp_options(&self, id: u64, options: TcpOptions) -> Result<(), Error> {
        let TcpOptions { nodelay, keepalive_seconds, linger_seconds, ttl } = options;
        let parameters = json!({
            "id": id, "nodelay": nodelay, "keepalive_seconds": keepalive_seconds, "linger_seconds": linger_seconds,
            "ttl": ttl,
        });
        self.ask("SetTcpOptions", parameters).map(|Nothing {}| ())
    }

    /// Returns the socket's own address towards the peer, if it was given one.
    pub(crate) fn set_udp_options(&self, id: u64, options: UdpOptions) -> Result<Option<SocketAddr>, Error> {
        let UdpOptions { peer, broadcast, ttl, multicast_ttl, dont_fragment, join, leave } = options;
        let parameters = json!({
            "id": id, "peer": peer, "broadcast": broadcast, "ttl": ttl, "multicast_ttl": multicast_ttl,
            "dont_fragment": dont_fragment, "join": join, "leave": leave,
        });
        self.ask("SetUdpOptions", parameters).map(|UdpOptionsReply { local }| local.map(SocketAddr::from))
    }

    /// Resolves a name through the daemon, to addresses (IPv6 first).
    ///
    /// # Errors
    /// `NotFound`, `TimedOut`, or another named error; or the call failed.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        self.resolve_deadline(name, None)
    }

    /// As [`Client::resolve`], until the deadline.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn resolve_deadline(&self, name: &str, deadline: Option<Instant>) -> Result<Vec<IpAddr>, Error> {
        self.resolve_records(name, RecordKind::Addresses, deadline).map(|resolved| resolved.addresses)
    }

    /// Asks for records of one kind, until the deadline.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn resolve_records(
        &self,
        name: &str,
        kind: RecordKind,
        deadline: Option<Instant>,
    ) -> Result<Resolved, Error> {
        // netd gives up by itself. Giving up earlier closes the connection, which is how it learns that.
        let timeout = wait::left(deadline, RESOLVE_TIMEOUT + ANSWER_TIMEOUT, "resolving")?;
        self.call("Resolve", json!({ "name": name, "kind": kind }), timeout).map(|(resolved, _)| resolved)
    }

    /// Copies of the frames that `filter` takes, as the bytes of a pcapng file; all frames with an empty filter. Closing the
    /// descriptor ends it.
    ///
    /// # Errors
    /// `InvalidInput` for a filter that is none, `PolicyDenied`, `QuotaExceeded`, or the call failed.
    pub fn capture(&self, filter: &str, snap_bytes: Option<usize>) -> Result<UnixStream, Error> {
        let parameters = json!({ "filter": filter, "snap_bytes": snap_bytes });
        let (reply, mut descriptors) = self.call("Capture", parameters, ANSWER_TIMEOUT)?;
        let CaptureReply { descriptor } = reply;
        pick(&mut descriptors, descriptor).map(UnixStream::from)
    }

    /// Raw frames of an EtherType, which is this program's alone until it closes them.
    ///
    /// # Errors
    /// `InvalidInput` for a type that netd speaks itself, `AddrInUse` while another program has it, `PolicyDenied`, `DevnetDisabled`,
    /// `QuotaExceeded`, or the call failed.
    pub fn frames(&self, ether_type: u16) -> Result<Frames, Error> {
        let parameters = json!({ "ether_type": ether_type });
        let (reply, mut descriptors) = self.call("OpenFrames", parameters, ANSWER_TIMEOUT)?;
        let FramesReply { id, mac, mtu, descriptor } = reply;
        Frames::new(pick(&mut descriptors, descriptor)?, id, ether_type, (&mac, mtu))
    }

    /// How the stream with this id ended.
    ///
    /// # Errors
    /// `InvalidSocket` if the daemon knows no such stream (any more), or the call failed.
    pub fn outcome(&self, id: u64) -> Result<Outcome, Error> {
        self.ask("Outcome", json!({ "id": id }))
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, parameters: Value) -> Result<T, Error> {
        self.call(method, parameters, ANSWER_TIMEOUT).map(|(reply, _)| reply)
    }

    /// Calls a method of `io.netd`. Only a connection whose call was answered is used again.
    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        parameters: Value,
        timeout: Duration,
    ) -> Result<(T, Vec<OwnedFd>), Error> {
        let parameters = match parameters {
            Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => Map::new(),
        };
        let mut connection = self.take_idle().map_or_else(|| self.open(), Ok)?;
        let (response, descriptors) = connection.call(&format!("io.netd.{method}"), parameters, timeout)?;
        self.give_back(connection);
        if let Some(name) = response.error {
            return Err(named_error(name, response.parameters));
        }
        let parameters = response.parameters.unwrap_or_else(|| json!({}));
        let reply = serde_json::from_value(parameters).map_err(|error| {
            Error::Protocol(format!("the reply to {method} is not what it should be: {error}"))
        })?;
        Ok((reply, descriptors))
    }

    fn open(&self) -> Result<Connection, Error> {
        let path = &self.inner.path;
        Connection::open(path).map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => Error::NoPermission { path: path.clone() },
            error => Error::NotRunning { tried: vec![(path.clone(), what_happened(error))] },
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that became readable or broke while idle belongs to a daemon that went away.
        std::iter::from_fn(|| idle.pop()).find(Connection::is_usable)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// Resolves a name through the [shared client](Client::shared), to addresses in the order to try them; until the deadline.
///
/// # Errors
/// As [`Client::resolve`].
pub fn resolve(name: &str, deadline: Option<Instant>) -> Result<Vec<IpAddr>, Error> {
    Client::shared()?.resolve_deadline(name, deadline)
}

/// What a method returns that returns nothing.
#[derive(Deserialize)]
struct Nothing {}

pub(crate) fn what_happened(error: Errno) -> String {
    match error {
        Errno::NOENT => "no such file".to_owned(),
        Errno::CONNREFUSED => "nobody listens there any more".to_owned(),
        Errno::AGAIN => "it is too busy to take a connection".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}

/// At least 1, so that a timeout below the resolution is no wrong parameter.
pub(crate) fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}

pub(crate) fn pick(descriptors: &mut Vec<OwnedFd>, index: usize) -> Result<OwnedFd, Error> {
    if index >= descriptors.len() {
        let count = descriptors.len();
        return Err(Error::Protocol(format!(
            "descriptor {index} of a reply with {count}; is the process out of them?"
        )));
    }
    Ok(descriptors.swap_remove(index))
}

pub(crate) fn named_error(name: String, parameters: Option<Value>) -> Error {
    let field = |field: &str| {
        let value = parameters.as_ref().and_then(|parameters| parameters.get(field));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if let Some(kind) = name.strip_prefix("io.netd.").and_then(ErrorKind::from_name) {
        return Error::Refused { kind, message: field("message") };
    }
    if name == "org.varlink.service.InvalidParameter" {
        let parameter = field("parameter");
        return Error::Refused {
            kind: ErrorKind::InvalidInput,
            message: format!("the value of '{parameter}' is wrong"),
        };
    }
    Error::Service { name, detail: parameters.map(|parameters| parameters.to_string()).unwrap_or_default() }
}

#[cfg(test)]
mod tests;
