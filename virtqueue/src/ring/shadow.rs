//! What the driver remembers of a ring in private memory: which descriptors (or buffer ids) are free, and which buffer each one in
//! flight stands for. Nothing that a device writes is believed before it was compared with this.

use crate::Part;

/// A buffer that the device holds.
#[derive(Debug)]
struct Chain<T> {
    /// `None`: nothing in flight has this id.
    token: Option<T>,
    /// Descriptors that it takes in the ring.
    descriptors: u16,
    /// Ids that it takes: in a split ring ids are descriptors, in a packed ring a buffer has one.
    ids: u16,
    /// Bytes that the device may write.
    capacity: u32,
    /// The how-manieth buffer of this ring it is: free-running, and wide enough never to come round.
    sequence: u64,
}

/// A buffer that came back, and what it was.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) token: T,
    pub(super) descriptors: u16,
    pub(super) capacity: u32,
}

/// The free list and the buffers in flight of one ring.
///
/// The free list is a circle of all ids of which the first `free` are free. Without IN_ORDER what comes back goes to the front, for the
/// cache's sake; with it nothing is ever relinked, so that ids are used in ring order (virtio 1.3, 2.7.9).
#[derive(Debug)]
pub(super) struct Shadow<T> {
    chains: Box<[Chain<T>]>,
    next: Box<[u16]>,
    first: u16,
    free: u16,
    in_order: bool,
    /// Buffers put into the ring so far.
    pushed: u64,
    /// Those of them that the device can see.
    published: u64,
    /// Buffers taken back so far.
    popped: u64,
    /// With IN_ORDER: the id of the oldest buffer in flight.
    oldest: u16,
}

impl<T> Shadow<T> {
    pub(super) fn new(size: u16, in_order: bool) -> Self {
        let empty = |_| Chain { token: None, descriptors: 0, ids: 0, capacity: 0, sequence: 0 };
        Self {
            chains: (0..size).map(empty).collect(),
            next: (0..size).map(|id| if id + 1 == size { 0 } else { id + 1 }).collect(),
            first: 0,
            free: size,
            in_order,
            pushed: 0,
            published: 0,
            popped: 0,
            oldest: 0,
        }
    }

    /// Descriptors that no buffer uses.
    #[inline]
    pub(super) fn free(&self) -> u16 {
        self.free
    }

    /// Buffers that the device holds or will see at the next publication.
    pub(super) fn outstanding(&self) -> u16 {
        (self.pushed - self.popped) as u16
    }

    /// Buffers that the device can see.
    #[inline]
    pub(super) fn visible(&self) -> u16 {
        // Without order, buffers may come back while younger ones are not published yet; each that came back was published.
        (self.published - self.popped) as u16
    }

    /// Everything pushed is visible from now on.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.published = self.pushed;
    }

    /// The id that the next buffer will have.
    #[inline]
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// The id after `id`: the next free one, or the next descriptor of the same buffer.
    #[inline]
    pub(super) fn after(&self, id: u16) -> u16 {
        self.next[usize::from(id)]
    }

    /// With IN_ORDER: the id of the oldest buffer in flight.
    #[inline]
    pub(super) fn oldest(&self) -> u16 {
        self.oldest
    }

    /// Remembers a buffer under the id [`first`](Self::first); it takes `ids` of the free ids and `descriptors` of the ring.
    #[inline]
    pub(super) fn insert(&mut self, token: T, parts: &[Part], descriptors: u16, ids: u16) {
        let capacity = parts.iter().filter(|part| part.device_writes).map(|part| part.len).sum();
        let head = self.first;
        for _ in 0..ids {
            self.first = self.next[usize::from(self.first)];
        }
        self.free -= descriptors;
        self.chains[usize::from(head)] =
            Chain { token: Some(token), descriptors, ids, capacity, sequence: self.pushed };
        self.pushed += 1;
    }

    /// The how-manieth of the buffers in sight of the device `id` is, counted from 1 for the oldest (exactly so only with IN_ORDER).
    /// `None`: the device does not hold it.
    #[inline]
    pub(super) fn place(&self, id: u16) -> Option<u64> {
        let chain = self.chains.get(usize::from(id))?;
        let held = chain.token.is_some() && chain.sequence < self.published;
        held.then(|| (chain.sequence + 1).saturating_sub(self.popped))
    }

    /// Takes back the buffer `id`. `None`: the device does not hold it.
    #[inline]
    pub(super) fn remove(&mut self, id: u16) -> Option<Taken<T>> {
        let chain = self.chains.get_mut(usize::from(id))?;
        // A buffer that was not published yet cannot have been used; taking it back would publish memory that is in use elsewhere.
        if chain.sequence >= self.published {
            return None;
        }
        let token = chain.token.take()?;
        let (descriptors, capacity) = (chain.descriptors, chain.capacity);
        let mut last = id;
        for _ in 1..chain.ids {
            last = self.next[usize::from(last)];
        }
        if self.in_order {
            self.oldest = self.next[usize::from(last)];
        } else {
            self.next[usize::from(last)] = self.first;
            self.first = id;
        }
        self.free += descriptors;
        self.popped += 1;
        Some(Taken { token, descriptors, capacity })
    }

    /// Forgets everything and returns what was in flight. Only after the device stopped using the ring.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let size = self.chains.len() as u16;
        let tokens = self.chains.iter_mut().filter_map(|chain| chain.token.take()).collect();
        *self = Self::new(size, self.in_order);
        tokens
    }
}
