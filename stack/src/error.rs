//! Why a call failed.

use core::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Why a call failed. The names are the ones that clients of the daemon see.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The configuration's hardware address cannot be a host's.
    #[error("hardware address {mac:02x?} is not a unicast address")]
    InvalidMac {
        /// As configured.
        mac: [u8; 6],
    },
    /// The configuration's MTU is too small.
    #[error("MTU {mtu} is below {min}, the smallest that IPv4 guarantees")]
    InvalidMtu {
        /// As configured.
        mtu: u16,
        /// The smallest that is accepted.
        min: u16,
    },
    /// An address that no host can have.
    #[error("{address} is not the address of a host: a unicast address is needed")]
    InvalidAddress {
        /// As given.
        address: IpAddr,
    },
    /// A prefix that does not exist.
    #[error("prefix length {prefix_len} is not between 0 and 32")]
    InvalidPrefix {
        /// As given.
        prefix_len: u8,
    },
    /// Port 0, or a payload that no packet carries.
    #[error("invalid input: {what}")]
    InvalidInput {
        /// What is wrong.
        what: &'static str,
    },
    /// The stack does not do this (yet).
    #[error("unsupported: {what}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// No such TCP, UDP or ping socket: never made, or gone.
    #[error("no such socket: the id is stale")]
    InvalidSocket,
    /// No such listener: never made, or closed.
    #[error("no such listener: the id is stale")]
    InvalidListener,
    /// The port is taken.
    #[error("port {port} is in use")]
    AddrInUse {
        /// The port asked for.
        port: u16,
    },
    /// None of our addresses.
    #[error("{address} is not an address of this stack, so nothing can be bound to it")]
    AddrNotAvailable {
        /// The address asked for.
        address: IpAddr,
    },
    /// Every ephemeral port is taken.
    #[error("no ephemeral port is free")]
    PortsExhausted,
    /// A table is full.
    #[error("limit of {limit} {what} reached")]
    QuotaExceeded {
        /// The table.
        what: &'static str,
        /// Its size.
        limit: usize,
    },
    /// No address yet, or no route to there.
    #[error("{to} is unreachable: there is no address or no route")]
    Unreachable {
        /// The destination.
        to: SocketAddr,
    },
    /// The destination did not answer, or an error message came back for it.
    #[error("{to} is unreachable: {reason}")]
    HostUnreachable {
        /// The destination.
        to: IpAddr,
        /// What the network said.
        reason: crate::icmp::IcmpError,
    },
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// The device's queue is full: try again after the next poll.
    #[error("no transmit buffer is free")]
    NoBuffers,
    /// The datagram does not fit a packet.
    #[error("datagram of {len} bytes does not fit a packet: the most is {max}")]
    MessageTooLong {
        /// Its length.
        len: usize,
        /// What fits.
        max: usize,
    },
    /// The connection's sending side has been finished, or the connection has ended.
    #[error("not connected: {outcome:?}")]
    NotConnected {
        /// How it ended; `None` if only the sending side is finished.
        outcome: Option<crate::tcp::Outcome>,
    },
    /// The device is gone; this stack will not come back.
    #[error("the network device is gone")]
    DeviceUnavailable,
}
