//! The rules in force, shared by the threads: who may do what, and how much of it.
//!
//! They are replaced whole, by a reload: whoever decides takes one snapshot and decides by it, so nothing is ever decided by
//! half of an old configuration and half of a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use netd_policy::Policy;

use crate::config::{Clock, Dns, Network};
use crate::limits::Limits;

/// One configuration's rules.
#[derive(Debug)]
pub struct InForce {
    /// Who may do what; carries the devnet switch.
    pub policy: Policy,
    /// How much.
    pub limits: Limits,
}

/// What a reload changes of the network: the worker, who owns it, takes this out and puts it in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses and routes.
    pub network: Network,
    /// Names.
    pub dns: Dns,
    /// The clock.
    pub clock: Clock,
}

/// The current rules.
#[derive(Debug)]
pub struct Rules {
    current: RwLock<Arc<InForce>>,
    posted: Mutex<Option<Settings>>,
    generation: AtomicU64,
}

impl Rules {
    /// The rules that the daemon starts with.
    pub fn new(policy: Policy, limits: Limits) -> Rules {
        Rules {
            current: RwLock::new(Arc::new(InForce { policy, limits })),
            posted: Mutex::new(None),
            generation: AtomicU64::new(0),
        }
    }

    /// A snapshot to decide by.
    pub fn current(&self) -> Arc<InForce> {
        // A panic elsewhere while the lock was held leaves one whole pointer or the other.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes with every replacement: what was concluded from older rules is to be concluded again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Leaves settings for the worker. Those that it has not taken yet are out of date, and replaced.
    pub fn post(&self, settings: Settings) {
        *self.posted.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes the settings that were left last.
    pub fn take_posted(&self) -> Option<Settings> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts new rules in force.
    pub fn replace(&self, policy: Policy, limits: Limits) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(InForce { policy, limits });
        // After the pointer: who sees the new number sees the new rules.
        self.generation.fetch_add(1, Ordering::Release);
    }
}
