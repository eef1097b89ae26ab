//! What callers ask, what they get, and what the driver is told to send.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use serde::Serialize;

use super::hosts::Hosts;
use super::name::Name;

/// How the resolver works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Recursive servers in order of preference; beyond [`SERVERS_MAX`](super::SERVERS_MAX) they are ignored.
    pub servers: Vec<SocketAddr>,
    /// Domains below which a relative name is sought; beyond [`SEARCH_MAX`](super::SEARCH_MAX) they are ignored.
    pub search: Vec<Name>,
    /// A name with at least this many dots is first tried as it is (resolv.conf(5): 1).
    pub ndots: usize,
    /// How long a server has in the first round; each further round doubles it (resolv.conf(5): 5 s).
    pub timeout: Duration,
    /// Rounds through all servers (resolv.conf(5): 2).
    pub attempts: u32,
    /// Spreads questions over all healthy servers, instead of preferring the first.
    pub rotate: bool,
    /// The hosts file.
    pub hosts: Hosts,
    /// How names under `.local` are asked for.
    pub mdns: Mdns,
    /// Bounds.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(2),
            attempts: 2,
            rotate: false,
            hosts: Hosts::default(),
            mdns: Mdns { ipv4: true, ipv6: false },
            limits: Limits::default(),
        }
    }
}

/// The multicast groups that are asked for names under `.local`. With neither, those names go to the servers: what a network
/// needs whose directory service was named so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mdns {
    /// 224.0.0.251.
    pub ipv4: bool,
    /// ff02::fb.
    pub ipv6: bool,
}

/// Bounds of a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries under way, with those whose result was not fetched. Each has at most two questions on the wire, and each of
    /// those one socket (two under `.local`).
    pub queries: usize,
    /// Entries of the cache.
    pub cache_entries: usize,
    /// Bytes of the cache, as it accounts for them.
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        // Half a KiB an entry is generous; 256 queries are a browser's page of many hosts, several times over.
        Limits { queries: 256, cache_entries: 2048, cache_bytes: 1 << 20 }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Both; what is there of them.
    Addresses,
    /// The alias itself.
    Cname,
    /// The name of an address: asked by its reverse name, or by the address.
    Ptr,
    /// Where a service is (RFC 2782).
    Srv,
    /// Text.
    Txt,
}

impl Kind {
    /// Whether `data` is of this kind.
    pub(super) fn matches(self, data: &Data) -> bool {
        match data {
            Data::A(_) => matches!(self, Kind::A | Kind::Addresses),
            Data::Aaaa(_) => matches!(self, Kind::Aaaa | Kind::Addresses),
            Data::Cname(_) => self == Kind::Cname,
            Data::Ptr(_) => self == Kind::Ptr,
            Data::Srv { .. } => self == Kind::Srv,
            Data::Txt(_) => self == Kind::Txt,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Addresses => "A or AAAA",
            Kind::Cname => "CNAME",
            Kind::Ptr => "PTR",
            Kind::Srv => "SRV",
            Kind::Txt => "TXT",
        })
    }
}

/// What a caller asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// A domain name in ASCII, or an IP address. A closing dot keeps the search list away.
    pub name: String,
    /// What is sought.
    pub kind: Kind,
}

impl Query {
    /// Asks for the name of an address.
    #[must_use]
    pub fn reverse(address: IpAddr) -> Query {
        Query { name: address.to_string(), kind: Kind::Ptr }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name that the name asked for is an alias of.
    Cname(Name),
    /// A name of the address.
    Ptr(Name),
    /// Where a service is.
    Srv {
        /// Lower ones first.
        priority: u16,
        /// The share among those of one priority.
        weight: u16,
        /// Its port.
        port: u16,
        /// Its host; the root says that the service is not there.
        target: Name,
    },
    /// Strings, each up to 255 bytes, of any bytes.
    Txt(Vec<Vec<u8>>),
}

impl Data {
    /// The address of an A or AAAA record.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Data::A(address) => Some((*address).into()),
            Data::Aaaa(address) => Some((*address).into()),
            Data::Cname(_) | Data::Ptr(_) | Data::Srv { .. } | Data::Txt(_) => None,
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The query was an address, or a name whose answer is fixed (RFC 6761).
    Literal,
    /// The hosts file.
    Hosts,
    /// Fetched earlier, and still good.
    Cache,
    /// A server.
    Server(SocketAddr),
    /// Multicast DNS.
    Multicast,
}

/// What was found: at least one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The name that was found: the one asked for, below a domain of the search list if that is what matched.
    pub name: Name,
    /// The aliases' targets, in order; the last one owns the records. Empty if `name` does.
    pub aliases: Vec<Name>,
    /// The records, without doubles. AAAA stand before A; SRV are in the order to try (RFC 2782).
    pub records: Vec<Data>,
    /// How long they may be kept. Zero for what is not to be kept.
    pub ttl: Duration,
    /// Where they came from; with A and AAAA, the first of them.
    pub source: Source,
    /// With [`Kind::Addresses`]: the other family's question failed or took too long, so there may be more addresses.
    pub incomplete: bool,
}

impl Answer {
    /// The addresses among the records.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.records.iter().filter_map(Data::address)
    }
}

/// Names a query until its result is fetched. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueryId(pub(super) u64);

/// Names a socket that the driver opens for one transaction. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketKey {
    /// The exchange that it belongs to.
    pub(super) exchange: u64,
    /// Its number within the exchange.
    pub(super) serial: u32,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// Open a UDP socket on a fresh, unpredictable port and send `payload` to `server`. If that fails, say so by
    /// [`Resolver::handle_udp_error`](super::Resolver::handle_udp_error).
    Udp {
        /// The socket's name from now on.
        socket: SocketKey,
        /// Where to.
        server: SocketAddr,
        /// One DNS message.
        payload: Vec<u8>,
    },
    /// Send `payload` to a multicast group from the UDP socket `socket`; open it on a fresh port other than 5353 unless
    /// it is open from an earlier transmission. Hop limit 255 (RFC 6762, 11), on the link that netd is on.
    Multicast {
        /// The socket's name.
        socket: SocketKey,
        /// The group, and port 5353.
        group: SocketAddr,
        /// One DNS message.
        payload: Vec<u8>,
    },
    /// Connect to `server` and send `payload`; deliver what comes back by [`Resolver::handle_tcp`](super::Resolver::handle_tcp).
    Tcp {
        /// The connection's name from now on.
        socket: SocketKey,
        /// Where to.
        server: SocketAddr,
        /// One DNS message with its length before it.
        payload: Vec<u8>,
    },
    /// Close the socket, or abort the connection. Comes exactly once for each key that was named before, also after an error
    /// was reported.
    Close {
        /// Which.
        socket: SocketKey,
    },
}

/// What happened on a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpEvent<'a> {
    /// Bytes arrived.
    Bytes(&'a [u8]),
    /// The server finished sending.
    Closed,
    /// It could not be established, or was reset.
    Failed,
}
