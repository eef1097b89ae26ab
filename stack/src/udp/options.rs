//! What a UDP socket can be told: its peer, its hop limits, its groups.

use core::net::{IpAddr, SocketAddr};

use super::Udp;
use crate::error::Error;
use crate::events::UdpId;
use crate::ip;
use crate::network::{LOOPBACK, Network};
use crate::time::Instant;

/// Groups of one socket: Linux's `igmp_max_memberships`.
const GROUPS_MAX: usize = 20;

impl Udp {
    /// Fixes the peer, or lets the socket speak with everybody again. What others sent before is forgotten. Returns our own address
    /// towards the peer.
    pub(crate) fn connect(
        &mut self,
        id: UdpId,
        peer: Option<SocketAddr>,
        network: &Network,
    ) -> Result<Option<SocketAddr>, Error> {
        let socket = self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?;
        let Some(peer) = peer else {
            socket.peer = None;
            return Ok(None);
        };
        if peer.ip().is_loopback() {
            return Err(Error::Unsupported { what: LOOPBACK });
        }
        if peer.port() == 0 || !ip::is_usable_host(peer.ip()) || network.is_broadcast(peer.ip()) {
            return Err(Error::InvalidInput { what: "a peer has a unicast address and a port other than 0" });
        }
        let source = socket.source_for(peer.ip(), network).filter(|_| network.has_route(peer.ip()));
        let source = source.ok_or(Error::Unreachable { to: peer })?;
        socket.peer = Some(peer);
        socket.queue.retain(|(meta, _)| meta.from == peer);
        socket.queued_bytes = socket.queue.iter().map(|(_, payload)| payload.len()).sum();
        socket.errors.retain(|error| error.to == peer);
        Ok(Some((source, socket.port).into()))
    }

    pub(crate) fn peer(&self, id: UdpId) -> Result<Option<SocketAddr>, Error> {
        self.sockets.get(id.0).map(|socket| socket.peer).ok_or(Error::InvalidSocket)
    }

    pub(crate) fn set_broadcast(&mut self, id: UdpId, allowed: bool) -> Result<(), Error> {
        self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?.broadcast = allowed;
        Ok(())
    }

    /// Whether a datagram that does not fit the path is refused, rather than sent in fragments.
    pub(crate) fn set_dont_fragment(&mut self, id: UdpId, refused: bool) -> Result<(), Error> {
        self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?.dont_fragment = refused;
        Ok(())
    }

    /// Sets the hop limit towards hosts or towards groups.
    pub(crate) fn set_ttl(&mut self, id: UdpId, ttl: u8, groups: bool) -> Result<(), Error> {
        if ttl == 0 {
            return Err(Error::InvalidInput { what: "a hop limit of 0 goes nowhere" });
        }
        let socket = self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?;
        *(if groups { &mut socket.group_ttl } else { &mut socket.ttl }) = ttl;
        Ok(())
    }

    pub(crate) fn join(
        &mut self,
        now: Instant,
        id: UdpId,
        group: IpAddr,
        network: &mut Network,
    ) -> Result<(), Error> {
        let socket = self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?;
        if !group.is_multicast() {
            return Err(Error::InvalidInput { what: "only a multicast group can be joined" });
        }
        if socket.groups.contains(&group) {
            return Ok(());
        }
        if socket.groups.len() >= GROUPS_MAX || !network.join_group(now, group) {
            return Err(Error::QuotaExceeded { what: "multicast groups", limit: GROUPS_MAX });
        }
        socket.groups.push(group);
        Ok(())
    }

    pub(crate) fn leave(
        &mut self,
        now: Instant,
        id: UdpId,
        group: IpAddr,
        network: &mut Network,
    ) -> Result<(), Error> {
        let socket = self.sockets.get_mut(id.0).ok_or(Error::InvalidSocket)?;
        let Some(index) = socket.groups.iter().position(|joined| *joined == group) else {
            return Err(Error::InvalidInput { what: "the socket is not in this group" });
        };
        socket.groups.swap_remove(index);
        network.leave_group(now, group);
        Ok(())
    }
}
