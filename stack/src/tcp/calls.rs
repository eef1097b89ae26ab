//! What the owner of a connection asks for.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::Tcp;
use super::engine::Fault;
use super::flow::{Flow, FlowStatus, Keepalive, LINGER, Outcome, Stage};
use super::segment::Tuple;
use crate::error::Error;
use crate::events::FlowId;
use crate::ip;
use crate::network::{LOOPBACK, Network};
use crate::ports;
use crate::time::Instant;

/// The longest time that a connection without an owner may be told to linger: an hour of delivering the last window.
const LINGER_MAX: Duration = Duration::from_secs(3600);
/// The shortest idle time before a keepalive; less would be a stream of its own.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

impl Tcp {
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        (host, port): (IpAddr, u16),
        network: &mut Network,
    ) -> Result<FlowId, Error> {
        let unreachable = Error::Unreachable { to: SocketAddr::from((host, port)) };
        if host.is_loopback() {
            return Err(Error::Unsupported { what: LOOPBACK });
        }
        if port == 0 || !ip::is_usable_host(host) || network.is_broadcast(host) {
            return Err(Error::InvalidInput {
                what: "a connection needs a unicast address and a port other than 0",
            });
        }
        let address = network.source_for(host).ok_or(unreachable.clone())?;
        if !network.has_route(host) {
            return Err(unreachable);
        }
        if !self.has_room() {
            return Err(Error::QuotaExceeded { what: "connections", limit: self.limits.flows });
        }
        let tuple_of = |local| Tuple { local: (address, local), remote: (host, port) };
        // Towards ourselves both ends share an address, so the same port would make one end of the two.
        let taken =
            |local| self.by_tuple.contains_key(&tuple_of(local)) || (host == address && local == port);
        let local = ports::ephemeral(&mut network.random, taken)?;
        let tuple = tuple_of(local);
        let connection =
            self.engine.connect(tuple, network.mtu_for(host), self.sequence.initial(now, &tuple));
        let connection = connection.map_err(|Fault| unreachable)?;
        let keepalive = Keepalive::new(&self.limits, now);
        let id = self.flows.insert_with(|_| Flow::new(connection, Stage::Owned, keepalive, now));
        let id = id.ok_or(Error::QuotaExceeded { what: "connections", limit: self.limits.flows })?;
        self.by_tuple.insert(tuple, id);
        network.counters.tcp_opened += 1;
        self.mark_dirty(id);
        Ok(FlowId(id))
    }

    pub(crate) fn status(&self, id: FlowId) -> Result<FlowStatus, Error> {
        self.owned(id).map(Flow::status)
    }

    pub(crate) fn send(&mut self, id: FlowId, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Error> {
        let flow = self.owned_mut(id)?;
        if flow.finished || flow.finish_wanted || flow.outcome.is_some() {
            return Err(Error::NotConnected { outcome: flow.outcome });
        }
        let sent = flow.connection.as_mut().map_or(0, |connection| connection.send(fill));
        if sent > 0 {
            self.mark_dirty(id.0);
        }
        Ok(sent)
    }

    pub(crate) fn receive(&mut self, id: FlowId, take: impl FnOnce(&[u8]) -> usize) -> Result<usize, Error> {
        let flow = self.owned_mut(id)?;
        let taken = flow.connection.as_mut().map_or(0, |connection| connection.receive(take));
        if taken > 0 {
            self.mark_dirty(id.0);
        }
        Ok(taken)
    }

    pub(crate) fn finish(&mut self, id: FlowId) -> Result<(), Error> {
        let flow = self.owned_mut(id)?;
        if flow.finished || flow.outcome.is_some() {
            return Ok(());
        }
        match &mut flow.connection {
            // In SYN-SENT the engine would forget the connection: the FIN has to wait for the handshake.
            Some(_) if !flow.established => flow.finish_wanted = true,
            Some(connection) => connection.finish(),
            None => {}
        }
        flow.finished = true;
        self.mark_dirty(id.0);
        Ok(())
    }

    /// How long to wait before an idle peer is asked whether it is there; `None` never asks.
    pub(crate) fn set_keepalive(&mut self, id: FlowId, idle: Option<Duration>) -> Result<(), Error> {
        let flow = self.owned_mut(id)?;
        flow.set_keepalive(idle.map(|idle| idle.max(KEEPALIVE_MIN)));
        self.mark_dirty(id.0);
        Ok(())
    }

    /// Whether a small segment leaves at once although an earlier one is unacknowledged (RFC 9293, 3.7.4).
    pub(crate) fn set_nodelay(&mut self, id: FlowId, nodelay: bool) -> Result<(), Error> {
        if let Some(connection) = &mut self.owned_mut(id)?.connection {
            connection.set_nodelay(nodelay);
        }
        self.mark_dirty(id.0);
        Ok(())
    }

    /// How long [`Tcp::release`] lets the connection deliver what it has; zero makes it a reset.
    pub(crate) fn set_linger(&mut self, id: FlowId, linger: Option<Duration>) -> Result<(), Error> {
        self.owned_mut(id)?.linger = linger.map_or(LINGER, |linger| linger.min(LINGER_MAX));
        Ok(())
    }

    /// The hop limit of what is sent from now on.
    pub(crate) fn set_hop_limit(&mut self, id: FlowId, hop_limit: u8) -> Result<(), Error> {
        if hop_limit == 0 {
            return Err(Error::InvalidInput { what: "a hop limit of 0 goes nowhere" });
        }
        let flow = self.owned_mut(id)?;
        flow.hop_limit = hop_limit;
        if let Some(connection) = &mut flow.connection {
            connection.set_hop_limit(hop_limit);
        }
        Ok(())
    }

    /// Who is charged for the flow.
    pub(crate) fn set_owner(&mut self, id: FlowId, owner: u32) -> Result<(), Error> {
        self.owned_mut(id)?.owner = owner;
        Ok(())
    }

    pub(crate) fn abort(&mut self, id: FlowId) {
        if self.owned(id).is_ok() {
            self.abort_as(id.0, Outcome::Aborted);
        }
    }

    /// The owner is gone. What it sent is still delivered, within its linger time; what it did not read is lost, and the peer is
    /// told so by a reset (RFC 1122, 4.2.2.13).
    pub(crate) fn release(&mut self, now: Instant, id: FlowId, network: &mut Network) {
        let Ok(flow) = self.owned_mut(id) else { return };
        flow.stage = Stage::Released;
        flow.expires = Some(now + flow.linger);
        let unread = flow.connection.as_ref().is_some_and(|connection| connection.readable() > 0);
        let impatient = flow.linger.is_zero();
        match &mut flow.connection {
            None => {}
            Some(_) if flow.outcome.is_some() && unread => flow.connection = None,
            Some(_) if flow.outcome.is_some() => {}
            Some(_) if unread || impatient || !flow.established => flow.abort(Outcome::Aborted),
            Some(connection) => {
                connection.finish();
                self.closing_begins(id.0, network);
            }
        }
        self.mark_dirty(id.0);
    }

    pub(super) fn abort_as(&mut self, id: u64, outcome: Outcome) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.outcome.is_none() {
            flow.abort(outcome);
        }
        self.mark_dirty(id);
    }

    fn owned(&self, id: FlowId) -> Result<&Flow, Error> {
        self.flows.get(id.0).filter(|flow| flow.stage == Stage::Owned).ok_or(Error::InvalidSocket)
    }

    fn owned_mut(&mut self, id: FlowId) -> Result<&mut Flow, Error> {
        self.flows.get_mut(id.0).filter(|flow| flow.stage == Stage::Owned).ok_or(Error::InvalidSocket)
    }
}
