//! Options of clients' sockets: SetTcpOptions and SetUdpOptions.

use std::net::SocketAddr;
use std::time::Duration;

use netd_ipc::{ErrorKind, TcpOptions, UdpOptions};
use netd_policy::Subject;
use netd_stack::{Error, FlowId, Instant, Stack, UdpId};

use crate::command::Reply;
use crate::worker::clients::{Clients, Socket};
use crate::worker::reply::error_reply;

impl Clients {
    pub(in crate::worker) fn set_tcp_options(
        &mut self,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        id: u64,
        options: TcpOptions,
    ) {
        let flow = self.owned(id, &owner).and_then(|socket| match socket {
            Socket::Stream(stream) => Some(stream.flow),
            Socket::Listener(_) | Socket::Datagrams(_) | Socket::Frames(_) => None,
        });
        let reply = match flow {
            Some(flow) => done(set_tcp(stack, flow, options)),
            None => not_found("TCP connection", id),
        };
        self.completions.send(token, reply);
    }

    pub(in crate::worker) fn set_udp_options(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        (token, owner): (u64, Subject),
        id: u64,
        options: UdpOptions,
    ) {
        let udp = self.owned(id, &owner).and_then(|socket| match socket {
            Socket::Datagrams(datagrams) => Some(datagrams.id),
            Socket::Stream(_) | Socket::Listener(_) | Socket::Frames(_) => None,
        });
        let reply = match udp {
            Some(udp) => {
                set_udp(now, stack, udp, options).map_or_else(|error| error_reply(&error), Reply::UdpSet)
            }
            None => not_found("UDP socket", id),
        };
        self.completions.send(token, reply);
    }

    /// The socket with this id, if it is the caller's, or the caller is root.
    fn owned(&self, id: u64, caller: &Subject) -> Option<&Socket> {
        let mine = |owner: &Subject| caller.uid == 0 || caller.uid == owner.uid;
        self.entries().find(|entry| entry.id == id && mine(&entry.owner)).map(|entry| &entry.socket)
    }
}

fn set_tcp(stack: &mut Stack, flow: FlowId, options: TcpOptions) -> Result<(), Error> {
    let TcpOptions { nodelay, keepalive_seconds, linger_seconds, ttl } = options;
    if let Some(ttl) = ttl {
        stack.tcp_set_hop_limit(flow, ttl)?;
    }
    if let Some(nodelay) = nodelay {
        stack.tcp_set_nodelay(flow, nodelay)?;
    }
    if let Some(seconds) = keepalive_seconds {
        let idle = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        stack.tcp_set_keepalive(flow, idle)?;
    }
    if let Some(seconds) = linger_seconds {
        stack.tcp_set_linger(flow, Some(Duration::from_secs(seconds.into())))?;
    }
    Ok(())
}

/// Returns the socket's own end towards the peer that it is given.
fn set_udp(
    now: Instant,
    stack: &mut Stack,
    udp: UdpId,
    options: UdpOptions,
) -> Result<Option<SocketAddr>, Error> {
    let UdpOptions { peer, broadcast, ttl, multicast_ttl, dont_fragment, join, leave } = options;
    let local = match peer {
        Some(peer) => stack.udp_connect(udp, (peer.port != 0).then(|| SocketAddr::from(peer)))?,
        None => None,
    };
    if let Some(refused) = dont_fragment {
        stack.udp_set_dont_fragment(udp, refused)?;
    }
    if let Some(allowed) = broadcast {
        stack.udp_set_broadcast(udp, allowed)?;
    }
    if let Some(ttl) = ttl {
        stack.udp_set_ttl(udp, ttl)?;
    }
    if let Some(ttl) = multicast_ttl {
        stack.udp_set_multicast_ttl(udp, ttl)?;
    }
    if let Some(group) = join {
        stack.udp_join(now, udp, group)?;
    }
    if let Some(group) = leave {
        stack.udp_leave(now, udp, group)?;
    }
    Ok(local)
}

fn done(result: Result<(), Error>) -> Reply {
    result.map_or_else(|error| error_reply(&error), |()| Reply::Done)
}

fn not_found(what: &str, id: u64) -> Reply {
    Reply::Failed(ErrorKind::InvalidSocket, format!("there is no {what} {id} of yours"))
}
