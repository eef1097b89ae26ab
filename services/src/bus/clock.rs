//! The bus's time and randomness, from the system.

use std::time::Duration;

use netd_softbus::Instant;

/// Counts from when it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(tokio::time::Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(tokio::time::Instant::now())
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When tokio has to wake somebody for it.
    pub(super) fn wake_at(&self, at: Instant) -> tokio::time::Instant {
        self.0 + Duration::from_micros(at.as_micros())
    }
}

/// Fills `bytes` with the system's randomness. What comes of it becomes keys and PINs, so there is no going on without.
pub(super) fn random(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        tracing::error!(%error, "the system has no randomness");
        std::process::abort();
    }
}
