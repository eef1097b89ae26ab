//! The bounds of the mux.

use core::time::Duration;

use super::frame::PAYLOAD_BYTES_MAX;
use crate::config::{Checked, within, within_ms};
use crate::error::Error;

/// Credit of both sides when a stream is opened. Fixed.
pub const INITIAL_CREDIT_BYTES: usize = 64 * 1024;
/// The most credit that a stream can have, and the most that is buffered for it in either direction. Fixed.
pub const STREAM_BYTES_MAX: usize = 256 * 1024;
/// Streams of one session. Fixed.
pub const STREAMS_MAX: usize = 128;

/// How much one session may cost, and how patient it is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Streams that are there at once, both sides' together: 128, 1 to [`STREAMS_MAX`].
    pub streams: usize,
    /// What is buffered of a stream that is not read: 256 KiB, from [`INITIAL_CREDIT_BYTES`] to [`STREAM_BYTES_MAX`].
    pub receive_bytes: usize,
    /// What is buffered of a stream that cannot be sent: 256 KiB, 1 KiB to [`STREAM_BYTES_MAX`].
    pub send_bytes: usize,
    /// Data in one frame: 16 KiB, 1 KiB to 32 KiB. An urgent frame waits for one of these at most.
    pub data_bytes: usize,
    /// Frames of class 0 in a row, while others wait: 8, 1 to 64.
    pub urgent_burst: usize,
    /// The unit of the two below: 1 s, 100 ms to a minute.
    pub tick: Duration,
    /// Silence after which the peer is asked whether it is there: 3 ticks, 1 to 100.
    pub keepalive_ticks: u32,
    /// Silence after which it is not: 9 ticks, more than `keepalive_ticks` and up to 1,000.
    pub timeout_ticks: u32,
    /// Frames that break the rules of a stream, after which the session ends instead of the stream: 8, 1 to 1,000.
    pub violations: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            streams: STREAMS_MAX,
            receive_bytes: STREAM_BYTES_MAX,
            send_bytes: STREAM_BYTES_MAX,
            data_bytes: 16 * 1024,
            urgent_burst: 8,
            tick: Duration::from_secs(1),
            keepalive_ticks: 3,
            timeout_ticks: 9,
            violations: 8,
        }
    }
}

impl Config {
    /// Fails with the first value that is out of its bounds.
    pub fn check(self) -> Result<Checked<Config>, Error> {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        within("mux.streams", self.streams, 1..=STREAMS_MAX)?;
        within("mux.receive_bytes", self.receive_bytes, INITIAL_CREDIT_BYTES..=STREAM_BYTES_MAX)?;
        within("mux.send_bytes", self.send_bytes, 1024..=STREAM_BYTES_MAX)?;
        within("mux.data_bytes", self.data_bytes, 1024..=PAYLOAD_BYTES_MAX)?;
        within("mux.urgent_burst", self.urgent_burst, 1..=64)?;
        within_ms("mux.tick_ms", self.tick, 100..=60_000)?;
        within("mux.keepalive_ticks", count(self.keepalive_ticks), 1..=100)?;
        within("mux.timeout_ticks", count(self.timeout_ticks), count(self.keepalive_ticks) + 1..=1000)?;
        within("mux.violations", self.violations, 1..=1000)?;
        Ok(Checked::new(self))
    }
}
