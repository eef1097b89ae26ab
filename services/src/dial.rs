//! The way to a server, on netd's sockets: its addresses, those of them that the client may reach, and a connection to the first that answers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use netd_ipc::TcpStream;
use netd_ipc::server::Peer;
use netd_ipc::services::ErrorKind;
use tokio::task::JoinSet;
use tokio::time::sleep;
use url::Host;

use crate::Failure;
use crate::netd::Netd;

/// How long one address is alone before the next is tried as well (RFC 8305, 5: recommended).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses that are tried: both families of the largest services have fewer.
const ADDRESSES_MAX: usize = 16;

/// Whom to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// As decisions and certificates name it.
    pub(crate) host: Host<String>,
    /// Its port.
    pub(crate) port: u16,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Connects for `client`, which was allowed to use `capability` on this very host and port, until the deadline.
///
/// # Errors
/// In netd's words: the name does not exist, nobody answers, or it is not allowed.
pub(crate) async fn dial(
    netd: &Netd,
    client: &Peer,
    capability: &'static str,
    remote: &Remote,
    deadline: Instant,
) -> Result<TcpStream, Failure> {
    let addresses = match &remote.host {
        Host::Ipv4(address) => vec![IpAddr::V4(*address)],
        Host::Ipv6(address) => vec![IpAddr::V6(*address)],
        Host::Domain(name) => {
            let asked = name.clone();
            let found = netd.call(move |netd| netd.resolve_deadline(&asked, Some(deadline))).await?;
            allowed(netd, client, capability, remote, found).await?
        }
    };
    let remotes = interleaved(addresses).into_iter().map(|address| SocketAddr::new(address, remote.port));
    race(netd, remotes.take(ADDRESSES_MAX).collect(), deadline).await
}

/// Those of a name's addresses that are public, or that the client may reach by address: otherwise whoever serves a name could
/// lead a client that trusts it into the networks behind this machine.
async fn allowed(
    netd: &Netd,
    client: &Peer,
    capability: &'static str,
    remote: &Remote,
    found: Vec<IpAddr>,
) -> Result<Vec<IpAddr>, Failure> {
    let (mut allowed, mut refused) = (Vec::new(), None);
    for address in found {
        if is_public(address) {
            allowed.push(address);
            continue;
        }
        let by_address = SocketAddr::new(address.to_canonical(), remote.port).to_string();
        match netd.permit(client, capability, Some(by_address)).await {
            Ok(_) => allowed.push(address),
            Err(failure) => refused = Some((address, failure)),
        }
    }
    match refused {
        Some((address, failure)) if allowed.is_empty() => Err(Failure::new(
            failure.kind,
            format!(
                "'{}' has the address {address}, which is not public, and a grant by name does not reach there: {}",
                remote.host, failure.message
            ),
        )),
        _ if allowed.is_empty() => {
            Err(Failure::new(ErrorKind::NotFound, format!("'{}' has no address", remote.host)))
        }
        _ => Ok(allowed),
    }
}

/// One of each family in turn, beginning with the first (RFC 8305, 4).
fn interleaved(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let Some(first) = addresses.first().map(IpAddr::is_ipv6) else { return addresses };
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let longer = one.len().max(other.len());
    (0..longer).flat_map(|at| [one.get(at), other.get(at)]).flatten().copied().collect()
}

/// The first connection that stands; the others are given up.
async fn race(netd: &Netd, remotes: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, Failure> {
    let mut attempts = JoinSet::new();
    let mut remotes = remotes.into_iter();
    let mut failed = None;
    loop {
        if let Some(remote) = remotes.next() {
            let netd = netd.clone();
            attempts.spawn(async move {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                netd.call(move |netd| netd.tcp_connect(remote, Some(left))).await
            });
        }
        let more = remotes.len() > 0;
        let attempt = tokio::select! {
            attempt = attempts.join_next() => attempt,
            () = sleep(ATTEMPT_DELAY), if more => continue,
        };
        match attempt {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(failure))) => failed = Some(failure),
            Some(Err(error)) => failed = Some(Failure::new(ErrorKind::Internal, error.to_string())),
            None => {
                return Err(failed.unwrap_or_else(|| {
                    Failure::new(ErrorKind::Unreachable, "there is no address to connect to")
                }));
            }
        }
    }
}

/// Whether an address is one of the public Internet's, by the registries of RFC 6890 as far as they matter to a name's answer.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let segments = address.segments();
            // NAT64 (RFC 6052, 2.1) and 6to4 (RFC 3056) carry an IPv4 address.
            let carried = match segments {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
                _ => None,
            };
            if let Some((high, low)) = carried {
                return is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
            }
            is_public_v6(address)
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    let assigned = (a, b, c) == (192, 0, 0);
    !(a == 0
        || a >= 240
        || shared
        || benchmark
        || assigned
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Global unicast is 2000::/3 (RFC 4291, 2.4); everything that names a machine or a site by itself is outside.
    (address.segments()[0] & 0xe000) == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_addresses_are_told_from_those_behind_this_machine() {
        for text in
            ["192.0.2.1", "8.8.8.8", "2001:db8::1", "2606:4700::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
        {
            assert!(is_public(ip(text)), "{text}");
        }
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "::127.0.0.1",
            "64:ff9b:1::1",
        ] {
            assert!(!is_public(ip(text)), "{text}");
        }
    }

    #[test]
    fn families_are_tried_in_turn_beginning_with_the_first() {
        let mixed = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"].map(ip).to_vec();
        let turns = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"].map(ip).to_vec();
        assert_eq!(interleaved(mixed), turns);
        assert_eq!(interleaved(vec![]), Vec::<IpAddr>::new());
    }
}
