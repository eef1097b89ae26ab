//! The bus's time: a point that the caller supplies with every call that needs one.

use core::time::Duration;

pub use netd_time::Instant;

/// A duration in microseconds; what does not fit is as good as for ever.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The earlier of two deadlines, where either may be missing.
pub(crate) fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (only, None) | (None, only) => only,
    }
}
