//! What a stack is made from: addresses, limits and the secret.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use serde::Serialize;

use crate::dhcp::LeaseHint;
use crate::error::Error;
use crate::ipv4::Cidr;
use crate::ipv6::Cidr6;

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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where IPv6 addresses come from.
    pub ipv6: Ipv6Addressing,
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

/// Bounds of every table, so that no peer and no client can make the stack grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// TCP connections in any state, half-open ones included. Each owns 128 KiB of buffers: 1024 make 128 MiB.
    pub flows: usize,
    /// TCP listeners.
    pub listeners: usize,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 1024,
            listeners: 64,
            pending_per_listener: 64,
            pending: 256,
            pending_per_source: 32,
            keepalive: Some(Duration::from_secs(60)),
            udp_sockets: 256,
            udp_queue_bytes: 256 * 1024,
            udp_queue_datagrams: 256,
            neighbors: 512,
            pings: 64,
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
        match &self.addressing {
            Addressing::Dhcp { fallback: Some(address), .. } | Addressing::Static(address) => address.check(),
            Addressing::Dhcp { fallback: None, .. } => Ok(()),
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Ipv6Addressing::Static(fixed) = &self.ipv6 else { return Ok(()) };
        let addresses = fixed.addresses.iter().map(Cidr6::address).chain(fixed.gateway);
        match addresses.map(core::net::IpAddr::V6).find(|&address| !crate::ip::is_usable_host(address)) {
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
