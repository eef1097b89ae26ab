//! What a stack is made from: addresses, limits and the secret.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use serde::Serialize;

use crate::dhcp::LeaseHint;
use crate::error::Error;
use crate::ipv4::Cidr;
use crate::ipv6::Cidr6;
use crate::route::Route;

/// The smallest MTU that is taken from a configuration or a DHCP server. RFC 791 obliges every host to accept 576 bytes, so a
/// smaller value is a mistake or an attempt to make us send thousands of tiny packets.
pub const MTU_MIN: u16 = 576;

/// The smallest MTU of a link that carries IPv6 (RFC 8200, 5). On a smaller one there is no IPv6.
pub const MTU_MIN_V6: u16 = 1280;

/// What [`Stack::new`](crate::Stack::new) needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The function's own hardware address; unicast.
    pub mac: [u8; 6],
    /// The largest IP packet the device carries, in bytes; at least [`MTU_MIN`].
    pub mtu: u16,
    /// Where the address comes from.
    pub addressing: Addressing,
    /// Sent to the DHCP server (option 12) when present.
    pub hostname: Option<String>,
    /// The secret behind sequence numbers, ports, transaction ids and hash keys. Fresh from the system's generator
    /// at every start; fixed only in tests.
    pub seed: [u8; 32],
    /// Bounds of every table.
    pub limits: Limits,
}

/// Where the address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Ask a DHCP server, and keep asking.
    Dhcp {
        /// Used from `timeout` on for as long as no server answers.
        fallback: Option<Static>,
        /// How long to ask before falling back.
        timeout: Duration,
    },
    /// Use this.
    Static(Static),
}

/// An address configured by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Static {
    /// Our address and the length of the on-link prefix. With /32 the gateway is taken to be on-link.
    pub cidr: Cidr,
    /// The default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Lowers the MTU of the device.
    pub mtu: Option<u16>,
    /// Name servers, for whoever resolves names.
    pub dns: Vec<Ipv4Addr>,
}

/// What a stack may be told beyond its [`Config`]; the default is right for most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where IPv6 addresses come from.
    pub ipv6: Ipv6Addressing,
    /// Further IPv4 addresses, beside the one of [`Config::addressing`] and in the order of preference; at most
    /// [`SECONDARY_MAX`].
    pub secondary: Vec<Cidr>,
    /// Routes beside those of the lease, preferred to them where both lead to one prefix; at most [`STATIC_ROUTES_MAX`].
    pub routes: Vec<Route>,
    /// How a claim to an IPv4 address is checked.
    pub conflicts: ConflictDetection,
    /// A secret that outlives the process and makes IPv6 addresses that are stable on one network and meaningless on another (RFC
    /// 7217). Without one they are made from the hardware address.
    pub address_secret: Option<[u8; 16]>,
    /// The lease of an earlier run, to be asked for again at once (RFC 2131, 3.2).
    pub lease: Option<LeaseHint>,
}

/// Where IPv6 addresses come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Addressing {
    /// A link-local address, and what routers advertise.
    #[default]
    Auto,
    /// A link-local address and nothing else; routers are not listened to.
    LinkLocal,
    /// A link-local address, and these; routers are not listened to.
    Static(Static6),
    /// None: IPv6 frames are dropped.
    Off,
}

/// IPv6 addresses configured by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Static6 {
    /// Our addresses, each with the length of its on-link prefix.
    pub addresses: Vec<Cidr6>,
    /// The default gateway, usually a link-local address.
    pub gateway: Option<Ipv6Addr>,
    /// Name servers, for whoever resolves names.
    pub dns: Vec<Ipv6Addr>,
}

/// How a claim to an IPv4 address is checked (RFC 5227).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictDetection {
    /// Not at all.
    Off,
    /// The address is used at once, and probed and defended meanwhile: nobody waits seconds for what never happens, and an address
    /// that turns out to be taken is given up (and declined to a DHCP server).
    #[default]
    Optimistic,
    /// The address is used once the probes have remained unanswered, up to seven seconds later.
    Strict,
}

/// IPv4 addresses beside the first: as many as Linux lets an interface have of IPv6 addresses (`max_addresses`). Each has its timers
/// and its probes, and all are searched for each packet.
pub const SECONDARY_MAX: usize = 15;

/// Configured routes: with those of a lease, 128 are searched at most for each packet.
pub const STATIC_ROUTES_MAX: usize = 64;

/// Bounds of every table, so that no peer and no client can make the stack grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections in any state, half-open ones included. Each owns 128 KiB of buffers: 1024 make 128 MiB.
    pub flows: usize,
    /// Connections whose owner is gone and that still have something to deliver, TIME-WAIT not included: half of all. Beyond it the
    /// oldest of the owner with the most is reset.
    pub closing: usize,
    /// The same of one owner (see [`Stack::tcp_set_owner`](crate::Stack::tcp_set_owner)), so that whoever leaves connections to peers
    /// that do not answer loses its own.
    pub closing_per_owner: usize,
    /// TCP listeners.
    pub listeners: usize,
    /// The longest backlog that a listener may ask for: Linux's `somaxconn` before it was raised, and an eighth of the flows.
    pub backlog: usize,
    /// Connections in SYN-RECEIVED per listener; beyond it a SYN is dropped in silence and retransmitted by an honest peer.
    pub pending_per_listener: usize,
    /// Connections in SYN-RECEIVED in all, so that a flood on several listeners leaves room for everybody else's flows.
    pub pending: usize,
    /// Connections in SYN-RECEIVED from one source (an IPv4 address, an IPv6 /64): an eighth of all, so that one host cannot keep
    /// the others out.
    pub pending_per_source: usize,
    /// How long a connection is idle before the peer is asked whether it is there; `None` never asks. Each connection can be
    /// given its own.
    pub keepalive: Option<Duration>,
    /// Between two keepalives that nobody answered. With the number of them a dead peer is found 90 seconds after the idle time
    /// began to count, before the network on the way (GCE: 10 minutes) forgets the connection.
    pub keepalive_interval: Duration,
    /// How many keepalives remain unanswered before the peer is given up: Linux's `tcp_keepalive_probes`.
    pub keepalive_probes: u8,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Bytes that one UDP socket holds for its owner; beyond it datagrams are dropped and counted.
    pub udp_queue_bytes: usize,
    /// Datagrams that one UDP socket holds for its owner.
    pub udp_queue_datagrams: usize,
    /// Neighbours known or being resolved.
    pub neighbors: usize,
    /// Echo requests waiting for their reply or for their owner to fetch it.
    pub pings: usize,
    /// Datagrams that are being put together.
    pub fragments: usize,
    /// Of one source: a quarter, so that one host cannot keep the others out.
    pub fragments_per_source: usize,
    /// Bytes of all their pieces: sixteen datagrams of the largest size.
    pub fragment_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 1024,
            closing: 512,
            closing_per_owner: 128,
            listeners: 64,
            backlog: 128,
            pending_per_listener: 64,
            pending: 256,
            pending_per_source: 32,
            keepalive: Some(Duration::from_secs(60)),
            keepalive_interval: Duration::from_secs(10),
            keepalive_probes: 9,
            udp_sockets: 256,
            udp_queue_bytes: 256 * 1024,
            udp_queue_datagrams: 256,
            neighbors: 512,
            pings: 64,
            fragments: 64,
            fragments_per_source: 16,
            fragment_bytes: 16 * 65_536,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err(Error::InvalidMac { mac: self.mac });
        }
        if self.mtu < MTU_MIN {
            return Err(Error::InvalidMtu { mtu: self.mtu, min: MTU_MIN });
        }
        self.addressing.check()
    }
}

impl Addressing {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Addressing::Dhcp { fallback: Some(address), .. } | Addressing::Static(address) => address.check(),
            Addressing::Dhcp { fallback: None, .. } => Ok(()),
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bound = |what, limit, count: usize| match count > limit {
            true => Err(Error::QuotaExceeded { what, limit }),
            false => Ok(()),
        };
        bound("secondary addresses", SECONDARY_MAX, self.secondary.len())?;
        bound("configured routes", STATIC_ROUTES_MAX, self.routes.len())?;
        let v6 = match &self.ipv6 {
            Ipv6Addressing::Static(fixed) => {
                fixed.addresses.iter().map(Cidr6::address).chain(fixed.gateway).collect()
            }
            Ipv6Addressing::Auto | Ipv6Addressing::LinkLocal | Ipv6Addressing::Off => Vec::new(),
        };
        let v4 = self.secondary.iter().map(Cidr::address);
        let v4 = v4.chain(self.routes.iter().filter_map(|route| route.via)).map(IpAddr::V4);
        let mut hosts = v4.chain(v6.into_iter().map(IpAddr::V6));
        match hosts.find(|&address| !crate::ip::is_usable_host(address)) {
            Some(address) => Err(Error::InvalidAddress { address }),
            None => Ok(()),
        }
    }
}

impl Static {
    /// Whether a host can use these: unicast addresses, and an MTU that IPv4 allows.
    pub fn check(&self) -> Result<(), Error> {
        if !crate::ipv4::is_usable_host(self.cidr.address()) {
            return Err(Error::InvalidAddress { address: self.cidr.address().into() });
        }
        match (self.gateway, self.mtu) {
            (Some(gateway), _) if !crate::ipv4::is_usable_host(gateway) => {
                Err(Error::InvalidAddress { address: gateway.into() })
            }
            (_, Some(mtu)) if mtu < MTU_MIN => Err(Error::InvalidMtu { mtu, min: MTU_MIN }),
            _ => Ok(()),
        }
    }
}
