//! How streams ended, kept for as long as somebody may ask.

use std::collections::{HashMap, VecDeque};

use netd_ipc::Outcome;

/// Ended streams remembered. A client asks within moments of seeing the end of file, so this is some seconds of the
/// highest rate of connections; at 40 bytes each it costs less than a megabyte.
const REMEMBERED_MAX: usize = 16_384;

/// The ends of the streams that ended last.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    by_id: HashMap<u64, (u32, Outcome)>,
    oldest_first: VecDeque<u64>,
}

impl Outcomes {
    /// Remembers how the stream `id` of user `uid` ended.
    pub(super) fn record(&mut self, id: u64, uid: u32, outcome: Outcome) {
        if self.oldest_first.len() == REMEMBERED_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.oldest_first.push_back(id);
        self.by_id.insert(id, (uid, outcome));
    }

    /// How the stream ended, if `uid` may know: the user that made it, and root.
    pub(super) fn of(&self, id: u64, uid: u32) -> Option<Outcome> {
        self.by_id.get(&id).filter(|(owner, _)| uid == 0 || *owner == uid).map(|(_, outcome)| *outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_ipc::StreamEnd;

    const FINISHED: Outcome = Outcome { end: StreamEnd::Finished, receive_finished: true };

    #[test]
    fn only_the_owner_and_root_may_ask() {
        let mut outcomes = Outcomes::default();
        outcomes.record(7, 1000, FINISHED);
        assert_eq!(outcomes.of(7, 1000), Some(FINISHED));
        assert_eq!(outcomes.of(7, 0), Some(FINISHED));
        assert_eq!(outcomes.of(7, 1001), None);
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut outcomes = Outcomes::default();
        for id in 0..=REMEMBERED_MAX as u64 {
            outcomes.record(id, 0, FINISHED);
        }
        assert_eq!(outcomes.of(0, 0), None);
        assert_eq!(outcomes.of(1, 0), Some(FINISHED));
    }
}
