//! Bounds that users share: so many in all, and so many of one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is bounded, and who has how many of it.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    what: &'static str,
    key: &'static str,
    total_max: usize,
    user_max: usize,
    taken: Arc<Mutex<HashMap<u32, usize>>>,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    uid: u32,
    taken: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Shares {
    /// `key` is how the bound is called in services.toml; that of one user has `_per_user` behind it.
    pub(crate) fn new(what: &'static str, key: &'static str, total_max: usize, user_max: usize) -> Shares {
        Shares { what, key, total_max, user_max, taken: Arc::default() }
    }

    /// Takes one for a user; otherwise the message for it.
    pub(crate) fn take(&self, uid: u32) -> Result<Share, String> {
        let Shares { what, key, total_max, user_max, taken } = self;
        // A panic elsewhere while the lock was held leaves counts, all whole.
        let mut users = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = users.values().sum();
        let own = users.entry(uid).or_default();
        if *own >= *user_max || total >= *total_max {
            let message = format!(
                "too many {what}: {user_max} for one user ('{key}_per_user') and {total_max} in all ('{key}')"
            );
            if *own == 0 {
                users.remove(&uid);
            }
            return Err(message);
        }
        *own += 1;
        Ok(Share { uid, taken: Arc::clone(taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut users = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = users.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_beyond_either_bound_is_refused_and_room_returns() {
        let shares = Shares::new("things", "[limits] things", 3, 2);
        let first = shares.take(1).unwrap();
        let _second = shares.take(1).unwrap();
        assert!(shares.take(1).unwrap_err().contains("2 for one user ('[limits] things_per_user')"));
        let _third = shares.take(2).unwrap();
        assert!(shares.take(3).is_err());
        drop(first);
        let _again = shares.take(3).unwrap();
        assert!(shares.take(1).is_err());
    }
}
