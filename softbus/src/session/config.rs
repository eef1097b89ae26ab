//! The bounds of sessions.

use core::time::Duration;

use crate::config::{Checked, within, within_ms};
use crate::error::Error;

const SECOND: usize = 1000;
const HOUR: usize = 3600 * SECOND;

/// How long things may take, how many may be half done, and how long a key is used.
#[derive(Debug, Clone)]
pub struct Config {
    /// From the first message to a session that is ready, or that waits to be paired: 10 s, 1 s to a minute.
    pub handshake_timeout: Duration,
    /// How long a session waits for somebody to type a PIN: two minutes, 10 s to an hour.
    pub pairing_timeout: Duration,
    /// Handshakes that strangers began with us and did not finish: 64, 1 to 4,096. Each costs about 2 KiB.
    pub half_open_max: usize,
    /// From so many on, a stranger has to prove its address with a cookie first: 32, 1 to `half_open_max`.
    pub cookies_from: usize,
    /// Bytes under one key: 1 GiB, 64 KiB to 64 GiB.
    pub rekey_bytes: usize,
    /// Time under one key, looked at when something is sent: two minutes (as WireGuard has it), 1 s to a day.
    pub rekey_after: Duration,
    /// Bytes that a peer may send under one key before it is dropped: 128 GiB, `rekey_bytes` to 256 GiB.
    pub peer_rekey_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            handshake_timeout: Duration::from_secs(10),
            pairing_timeout: Duration::from_secs(120),
            half_open_max: 64,
            cookies_from: 32,
            rekey_bytes: 1 << 30,
            rekey_after: Duration::from_secs(120),
            peer_rekey_bytes_max: 1 << 37,
        }
    }
}

impl Config {
    /// Fails with the first value that is out of its bounds.
    pub fn check(self) -> Result<Checked<Config>, Error> {
        within_ms("session.handshake_timeout_ms", self.handshake_timeout, SECOND..=60 * SECOND)?;
        within_ms("session.pairing_timeout_ms", self.pairing_timeout, 10 * SECOND..=HOUR)?;
        within("session.half_open_max", self.half_open_max, 1..=4096)?;
        within("session.cookies_from", self.cookies_from, 1..=self.half_open_max)?;
        within("session.rekey_bytes", self.rekey_bytes, 1 << 16..=1 << 36)?;
        within_ms("session.rekey_after_ms", self.rekey_after, SECOND..=24 * HOUR)?;
        within("session.peer_rekey_bytes_max", self.peer_rekey_bytes_max, self.rekey_bytes..=1 << 38)?;
        Ok(Checked::new(self))
    }
}
