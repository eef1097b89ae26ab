//! Ephemeral ports (RFC 6056, algorithm 1): a random start, then the next free one.

use core::net::IpAddr;

use crate::error::Error;
use crate::random::Random;

/// The dynamic ports of RFC 6335, 6.
const FIRST: u16 = 49_152;
const COUNT: u32 = 16_384;

/// Whether two sockets on one port are in each other's way: unless they have different addresses.
pub(crate) fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    }
}

/// A free ephemeral port that nobody can predict.
pub(crate) fn ephemeral(random: &mut Random, taken: impl Fn(u16) -> bool) -> Result<u16, Error> {
    let start = random.below(COUNT);
    (0..COUNT)
        .map(|offset| FIRST + ((start + offset) % COUNT) as u16)
        .find(|&port| !taken(port))
        .ok_or(Error::PortsExhausted)
}
