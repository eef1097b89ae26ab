//! What clients of netd-services see: the interface `io.netd.services`, its types and errors, and a blocking client.

mod bus;
mod bus_client;
mod bus_remote;
mod bus_remote_client;
mod bus_shared;
mod bus_stream;
mod call;
mod client;
mod error;
mod published;
mod trust;

use serde::{Deserialize, Serialize};

pub use bus::{BusDevice, BusEvent, BusMode, BusOutcome, BusPeer, BusPin, BusStatus, BusStreamInfo};
pub use bus_client::{BusService, BusWatch};
pub use bus_remote::{
    BusCall, BusCallEnd, BusCallError, BusOffers, BusPayload, BusPublication, BusServiceInfo, CALL_BYTES_MAX,
    PUBLICATION_BYTES_MAX,
};
pub use bus_remote_client::BusSubscription;
pub use bus_shared::{
    BusChange, BusChanges, BusFile, BusFileKind, BusFilePage, BusFileReader, BusFileReading, BusFileStat,
    BusKey, BusKeyPage, BusValue,
};
pub use bus_stream::BusStream;
pub use call::{BUS_PRIORITY_DEFAULT, BusFilePlace, Call, FetchOptions, INTERFACE, URL_BYTES_MAX};
pub use client::{Client, Fetching, SOCKET_VARIABLE, SYSTEM_SOCKET, user_socket};
pub use error::{Error, ErrorKind};
pub use published::PublishedPort;
pub use trust::{Root, TrustCheck, TrustList, TrustProblem, TrustRemoval};

use crate::types::Endpoint;

/// A certificate that a server sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Whose.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// SHA-256 of its public key, as pins are written: `sha256/` and base64.
    pub spki_sha256: String,
}

/// How a connection is secured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// The one that the server was accepted by, its own certificate first.
    pub chain: Vec<Certificate>,
    /// The root that signed the last of it, with its file.
    pub root: String,
    /// The pin that fits, if the host has any.
    pub pin: Option<String>,
}

/// One exchange with a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// What was asked for.
    pub url: String,
    /// What the server answered.
    pub status: u16,
    /// `HTTP/1.1`, `HTTP/2` or `fixture`.
    pub protocol: String,
    /// The rule that allows it.
    pub rule: String,
    /// The server's address.
    pub peer: Option<Endpoint>,
    /// With https.
    pub tls: Option<Tls>,
    /// Where it redirects.
    pub location: Option<String>,
    /// How long connecting took, names included.
    pub connect_us: Option<u64>,
    /// How long the handshake took.
    pub tls_us: Option<u64>,
    /// From the request to the head of the answer.
    pub first_byte_us: u64,
}

/// What is known of a body before it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Each exchange on the way; the last is the one with the body.
    pub hops: Vec<Hop>,
    /// Where in the resource the body begins.
    pub offset: u64,
    /// Its length from there on, if the server said so.
    pub length: Option<u64>,
    /// What to go on with later.
    pub validator: Option<String>,
    /// Its type.
    pub content_type: Option<String>,
    /// How it was encoded on the way.
    pub encoding: Option<String>,
    /// Index among the descriptors of the reply.
    pub descriptor: usize,
}

/// What is known of a body that came whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Through the pipe.
    pub bytes: u64,
    /// From the server.
    pub received_bytes: u64,
    /// From the call to the end.
    pub total_us: u64,
}

/// A reply of `Fetch`: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchReply {
    /// The first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}
