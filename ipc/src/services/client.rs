//! A blocking client of netd-services.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    End, Error, ErrorKind, FetchOptions, FetchReply, Head, Root, TrustCheck, TrustList, TrustRemoval,
};
use crate::call::{Response, TIMEOUT_MAX};
use crate::client::connection::Connection;
use crate::client::{pick, what_happened};

/// Where netd-services of the system listens.
pub const SYSTEM_SOCKET: &str = "/run/netd-services/services.sock";

/// The environment variable that names the socket instead.
pub const SOCKET_VARIABLE: &str = "NETD_SERVICES_SOCKET";

/// How long netd-services may take for a call that waits for no server.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long until the head of a body: several redirects, each with all of its deadlines; the deadlines themselves are netd-services'.
const HEAD_TIMEOUT: Duration = TIMEOUT_MAX.saturating_mul(4);

/// Where netd-services of this user listens; none without `XDG_RUNTIME_DIR`.
pub fn user_socket() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty())?;
    Some(Path::new(&directory).join("netd/services.sock"))
}

/// netd-services to call. Each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    paths: Vec<PathBuf>,
}

impl Client {
    /// The one at `$NETD_SERVICES_SOCKET` if that is set, else at [`SYSTEM_SOCKET`], else at [`user_socket`].
    pub fn default_paths() -> Client {
        let paths = match std::env::var_os(SOCKET_VARIABLE) {
            Some(path) => vec![path.into()],
            None => [PathBuf::from(SYSTEM_SOCKET)].into_iter().chain(user_socket()).collect(),
        };
        Client { paths }
    }

    /// The one at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Client {
        Client { paths: vec![path.into()] }
    }

    pub(super) fn open(&self) -> Result<Connection, Error> {
        let mut tried = Vec::new();
        for path in &self.paths {
            match Connection::open(path) {
                Ok(connection) => return Ok(connection),
                Err(error) => tried.push((path.clone(), what_happened(error))),
            }
        }
        Err(Error::NotRunning { tried })
    }

    /// Calls a method with one reply and no descriptors.
    ///
    /// # Errors
    /// The named error of the call, or it failed.
    pub fn ask<T: DeserializeOwned>(&self, method: &str, parameters: Value) -> Result<T, Error> {
        self.ask_within(ANSWER_TIMEOUT, method, parameters)
    }

    pub(super) fn ask_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: &str,
        parameters: Value,
    ) -> Result<T, Error> {
        let mut connection = self.open()?;
        let method = format!("io.netd.services.{method}");
        let (response, _) = connection.call(&method, object(parameters), timeout)?;
        returned(response)
    }

    /// The roots of trust, and what is wrong with the rest of their files.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn trust(&self) -> Result<TrustList, Error> {
        self.ask("ListTrust", json!({}))
    }

    /// Installs the certificates of a PEM text as roots, all or none. Takes net.trust.manage.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn add_trust(&self, pem: &str) -> Result<Vec<Root>, Error> {
        #[derive(serde::Deserialize)]
        struct Reply {
            roots: Vec<Root>,
        }
        self.ask("AddTrust", json!({ "pem": pem })).map(|Reply { roots }| roots)
    }

    /// Removes an installed root by the first digits of its SHA-256, or an installed file by its name. Takes net.trust.manage.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn remove_trust(&self, id: &str) -> Result<TrustRemoval, Error> {
        self.ask("RemoveTrust", json!({ "id": id }))
    }

    /// Connects to HOST:PORT, and tells what certificates are shown there and what is thought of them. Takes net.tls.validate.
    ///
    /// # Errors
    /// As [`ask`](Self::ask). That the server is not trusted is an answer.
    pub fn check_trust(&self, target: &str, timeout: Option<Duration>) -> Result<TrustCheck, Error> {
        #[derive(serde::Deserialize)]
        struct Reply {
            check: TrustCheck,
        }
        let timeout_ms = timeout.map(crate::client::milliseconds);
        let parameters = json!({ "target": target, "timeout_ms": timeout_ms });
        self.ask_within(timeout.unwrap_or(ANSWER_TIMEOUT) + ANSWER_TIMEOUT, "CheckTrust", parameters)
            .map(|Reply { check }| check)
    }

    /// Fetches a URL: waits for the head, and hands out the body to be read.
    ///
    /// # Errors
    /// The named error of the fetch, or the call failed.
    pub fn fetch(&self, url: &str, options: &FetchOptions) -> Result<Fetching, Error> {
        let mut connection = self.open()?;
        let FetchOptions { from, validator, compressed, size_max, connect, first_byte, idle } = options;
        let parameters = json!({
            "url": url,
            "from": from,
            "validator": validator,
            "compressed": compressed,
            "size_max": size_max,
            "connect_ms": connect.map(crate::client::milliseconds),
            "first_byte_ms": first_byte.map(crate::client::milliseconds),
            "idle_ms": idle.map(crate::client::milliseconds),
        });
        connection.begin("io.netd.services.Fetch", object(parameters), ANSWER_TIMEOUT)?;
        let (response, mut descriptors) = connection.next(HEAD_TIMEOUT)?;
        let Some(head) = returned::<FetchReply>(response)?.head else {
            return Err(protocol("the first reply to Fetch has no head"));
        };
        let body = pick(&mut descriptors, head.descriptor)?.into();
        Ok(Fetching { connection, head, body })
    }
}

/// A fetch under way. It reads as the body does; whether that was all, [`finish`](Fetching::finish) says.
#[derive(Debug)]
pub struct Fetching {
    connection: Connection,
    head: Head,
    body: File,
}

impl Fetching {
    /// What is known before the body.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Reads the rest, and asks whether the body is complete. Only then is it one.
    ///
    /// # Errors
    /// What kept it from being complete.
    pub fn finish(mut self) -> Result<End, Error> {
        io::copy(&mut self.body, &mut io::sink()).map_err(Error::Body)?;
        let (response, _) = self.connection.next(ANSWER_TIMEOUT)?;
        returned::<FetchReply>(response)?.end.ok_or_else(|| protocol("the last reply to Fetch has no end"))
    }
}

impl Read for Fetching {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.body.read(into)
    }
}

impl AsFd for Fetching {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.body.as_fd()
    }
}

pub(super) fn protocol(message: &str) -> Error {
    Error::Call(crate::Error::Protocol(message.to_owned()))
}

pub(super) fn object(parameters: Value) -> Map<String, Value> {
    match parameters {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

pub(super) fn returned<T: DeserializeOwned>(response: Response) -> Result<T, Error> {
    let Response { parameters, error, continues: _ } = response;
    let parameters = parameters.unwrap_or_else(|| json!({}));
    let Some(name) = error else {
        return serde_json::from_value(parameters)
            .map_err(|error| protocol(&format!("a reply that is not what it should be: {error}")));
    };
    let text = |field: &str| parameters.get(field).and_then(Value::as_str).map(str::to_owned);
    if let Some(kind) = name.strip_prefix("io.netd.services.").and_then(ErrorKind::from_name) {
        return Err(Error::Refused {
            kind,
            message: text("message").unwrap_or_default(),
            reason: text("reason"),
        });
    }
    Err(Error::Call(crate::client::named_error(name, Some(parameters))))
}
