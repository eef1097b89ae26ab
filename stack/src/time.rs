//! The stack's time, and the engine's.

pub use netd_time::Instant;

/// The same point for the engine, which counts in signed numbers.
pub(crate) trait EngineInstant {
    fn to_engine(self) -> smoltcp::time::Instant;
    fn from_engine(instant: smoltcp::time::Instant) -> Self;
}

impl EngineInstant for Instant {
    fn to_engine(self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.as_micros()).unwrap_or(i64::MAX))
    }

    fn from_engine(instant: smoltcp::time::Instant) -> Instant {
        Instant::from_micros(u64::try_from(instant.total_micros()).unwrap_or(0))
    }
}
