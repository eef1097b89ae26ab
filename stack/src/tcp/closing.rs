//! Connections whose owner is gone and that still have something to deliver: how many there may be, in all and of one owner.
//!
//! Each holds its place in the table for as long as it may linger, so somebody who leaves connections to peers that do not answer
//! could keep everybody from opening new ones. Beyond a bound the oldest is reset: of the owner who is over its own, else of the
//! one with the most. TIME-WAIT does not count: it gives way by itself when the table is full.

use std::collections::{BTreeMap, VecDeque};

use smoltcp::socket::tcp::State;

use super::Tcp;
use super::flow::{Outcome, Stage};
use crate::config::Limits;
use crate::network::Network;

pub(super) struct Closing {
    /// Oldest first. May name flows that are gone or in TIME-WAIT: they are looked for when a bound seems to be reached.
    by_owner: BTreeMap<u32, VecDeque<u64>>,
    /// Entries in all queues.
    entries: usize,
    limit: usize,
    limit_per_owner: usize,
}

impl Closing {
    pub(super) fn new(limits: &Limits) -> Closing {
        let Limits { closing, closing_per_owner, .. } = *limits;
        Closing { by_owner: BTreeMap::new(), entries: 0, limit: closing, limit_per_owner: closing_per_owner }
    }

    fn is_over(&self, owner: u32) -> bool {
        let of_owner = self.by_owner.get(&owner).map_or(0, VecDeque::len);
        self.entries > self.limit || of_owner > self.limit_per_owner
    }

    fn prune(&mut self, is_closing: impl Fn(u64) -> bool) {
        for queue in self.by_owner.values_mut() {
            queue.retain(|id| is_closing(*id));
        }
        self.by_owner.retain(|_, queue| !queue.is_empty());
        self.entries = self.by_owner.values().map(VecDeque::len).sum();
    }

    /// The flow that has to go so that the bounds hold again.
    fn take_victim(&mut self, owner: u32) -> Option<u64> {
        let own = self.by_owner.get(&owner).filter(|queue| queue.len() > self.limit_per_owner);
        let victim = match own {
            Some(_) => owner,
            None => *self.by_owner.iter().max_by_key(|(_, queue)| queue.len())?.0,
        };
        self.entries -= 1;
        self.by_owner.get_mut(&victim)?.pop_front()
    }
}

impl Tcp {
    fn is_closing(&self, id: u64) -> bool {
        self.flows.get(id).is_some_and(|flow| {
            let over = matches!(flow.state(), State::TimeWait | State::Closed);
            flow.stage == Stage::Released && flow.outcome.is_none() && !over
        })
    }

    /// A flow was released and is not over yet.
    pub(super) fn closing_begins(&mut self, id: u64, network: &mut Network) {
        let Some(flow) = self.flows.get(id) else { return };
        let owner = flow.owner;
        self.closing.by_owner.entry(owner).or_default().push_back(id);
        self.closing.entries += 1;
        if !self.closing.is_over(owner) {
            return;
        }
        let mut closing = core::mem::replace(&mut self.closing, Closing::new(&self.limits));
        closing.prune(|id| self.is_closing(id));
        while closing.is_over(owner) {
            let Some(victim) = closing.take_victim(owner) else { break };
            network.counters.tcp_closing_cut += 1;
            self.abort_as(victim, Outcome::Aborted);
        }
        self.closing = closing;
    }

    /// How many connections are closing without an owner, by the owner that they had.
    pub(crate) fn closing_by_owner(&self) -> BTreeMap<u32, usize> {
        let mut all = BTreeMap::new();
        for (id, flow) in self.flows.iter() {
            if self.is_closing(id) {
                *all.entry(flow.owner).or_default() += 1;
            }
        }
        all
    }
}
