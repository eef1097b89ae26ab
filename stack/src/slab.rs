//! Storage for sockets under ids that go stale: an index and a generation in one `u64`.
//!
//! A slot's generation grows each time it is emptied, so an id kept after its socket's end names nothing and never the
//! socket that took the slot next.

pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
    limit: usize,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

fn split(id: u64) -> (usize, u32) {
    ((id & 0xffff_ffff) as usize, (id >> 32) as u32)
}

impl<T> Slab<T> {
    /// An empty slab that will hold at most `limit` values.
    pub(crate) fn new(limit: usize) -> Slab<T> {
        Slab { slots: Vec::new(), vacant: Vec::new(), limit: limit.min(u32::MAX as usize) }
    }

    /// From now on it holds at most `limit` values; what is there beyond it stays.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(u32::MAX as usize);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() - self.vacant.len() >= self.limit
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Stores what `make` returns for its id; `None` (and `make` is not called) when full.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u64) -> T) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let id = u64::from(slot.generation) << 32 | u64::from(index);
        slot.value = Some(make(id));
        Some(id)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let (index, generation) = split(id);
        self.slots.get(index).filter(|slot| slot.generation == generation)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let (index, generation) = split(id);
        self.slots.get_mut(index).filter(|slot| slot.generation == generation)?.value.as_mut()
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        // A slot that has used up its generations is retired rather than let an old id come true again.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.vacant.push(index as u32);
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let value = slot.value.as_ref()?;
            Some((u64::from(slot.generation) << 32 | index as u64, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_id_reused_slot_stays_stale() {
        let mut slab = Slab::new(1);
        let first = slab.insert_with(|_| 'a').unwrap();
        assert!(slab.is_full());
        assert_eq!(slab.insert_with(|_| 'x'), None);
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert_with(|_| 'b').unwrap();
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
    }

    #[test]
    fn limit_lowered_keeps_what_is_there_and_takes_no_more() {
        let mut slab = Slab::new(2);
        let ids = ['a', 'b'].map(|value| slab.insert_with(|_| value).unwrap());
        slab.set_limit(1);
        assert_eq!(slab.get(ids[1]), Some(&'b'));
        slab.remove(ids[1]);
        assert_eq!(slab.insert_with(|_| 'x'), None);
        slab.remove(ids[0]);
        assert!(slab.insert_with(|_| 'c').is_some());
    }
}
