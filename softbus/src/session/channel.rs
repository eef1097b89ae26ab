//! Records: what travels once the handshake is done, and when its keys change.
//!
//! A record is one Noise transport message, whose plaintext begins with a byte that says what it is. The link is reliable and in order, so
//! nonces are counted and not sent: a record that was replayed, reordered, reflected, cut out or made up does not decrypt, and that
//! ends the session.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use snow::StatelessTransportState;

use super::config::Config;
use super::noise::TAG_BYTES;
use crate::config::Checked;
use crate::error::Error;
use crate::mux::MUX_BYTES_MAX;
use crate::time::Instant;

/// The longest record: one frame of the mux, what it is, and the tag. Below Noise's own bound of 65,535 bytes.
pub const RECORD_BYTES_MAX: usize = 1 + MUX_BYTES_MAX + TAG_BYTES;

/// What a record is. The numbers are ours, and fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A frame of the mux.
    Data = 0,
    /// Who the sender says it is: the first record of each side.
    Hello = 1,
    /// The sender's next record is under the next key (Noise, 11.3).
    Rekey = 2,
    /// A message of SPAKE2.
    Pake = 3,
    /// The proof that ends a pairing.
    Confirm = 4,
    /// The key that will follow the sender's own.
    Successor = 5,
    /// The sender is done: what came before is complete.
    Close = 6,
}

impl Kind {
    fn from_u8(byte: u8) -> Result<Kind, Error> {
        const ALL: [Kind; 7] =
            [Kind::Data, Kind::Hello, Kind::Rekey, Kind::Pake, Kind::Confirm, Kind::Successor, Kind::Close];
        ALL.get(usize::from(byte)).copied().ok_or(Error::UnknownRecord { kind: byte })
    }
}

/// Both directions of a session.
pub(super) struct Channel {
    ciphers: StatelessTransportState,
    rekey_bytes: usize,
    rekey_after: Duration,
    peer_rekey_bytes_max: usize,
    sent: Direction,
    received: Direction,
}

#[derive(Default)]
struct Direction {
    nonce: u64,
    /// Under the present key.
    bytes: usize,
    since: Instant,
}

impl Direction {
    fn count(&mut self, bytes: usize) {
        // Snow refuses the last nonce (Noise, 5.1); a session would have to last for centuries.
        self.nonce = self.nonce.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn rekeyed(&mut self, now: Instant) {
        self.bytes = 0;
        self.since = now;
    }
}

impl Channel {
    pub(super) fn new(now: Instant, ciphers: StatelessTransportState, config: &Checked<Config>) -> Channel {
        let direction = || Direction { since: now, ..Direction::default() };
        Channel {
            ciphers,
            rekey_bytes: config.rekey_bytes,
            rekey_after: config.rekey_after,
            peer_rekey_bytes_max: config.peer_rekey_bytes_max,
            sent: direction(),
            received: direction(),
        }
    }

    #[cfg(test)]
    pub(super) fn never_rekey(&mut self) {
        self.rekey_bytes = usize::MAX;
        self.rekey_after = Duration::MAX;
    }

    /// Adds the record to `frames`; after it the notice of a new key, if one is due.
    pub(super) fn seal(
        &mut self,
        now: Instant,
        kind: Kind,
        body: &[u8],
        frames: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        frames.push_back(self.encrypt(kind, body)?);
        let due = self.sent.bytes >= self.rekey_bytes || self.sent.since + self.rekey_after <= now;
        if due {
            frames.push_back(self.encrypt(Kind::Rekey, &[])?);
            self.ciphers.rekey_outgoing();
            self.sent.rekeyed(now);
        }
        Ok(())
    }

    fn encrypt(&mut self, kind: Kind, body: &[u8]) -> Result<Vec<u8>, Error> {
        if body.len() > MUX_BYTES_MAX {
            return Err(Error::TooMany { what: "bytes in a record", count: body.len(), max: MUX_BYTES_MAX });
        }
        let mut plain = Vec::with_capacity(1 + body.len());
        plain.push(kind as u8);
        plain.extend(body);
        let mut record = alloc::vec![0; plain.len() + TAG_BYTES];
        let written = self.ciphers.write_message(self.sent.nonce, &plain, &mut record);
        written.map_err(|_| Error::Crypto { what: "encrypting a record" })?;
        self.sent.count(plain.len());
        Ok(record)
    }

    /// What the record says; nothing if it only announced a new key.
    pub(super) fn open(&mut self, now: Instant, record: &[u8]) -> Result<Option<(Kind, Vec<u8>)>, Error> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(Error::TooMany {
                what: "bytes in a record",
                count: record.len(),
                max: RECORD_BYTES_MAX,
            });
        }
        if self.received.bytes > self.peer_rekey_bytes_max {
            return Err(Error::RekeyOverdue { bytes: self.received.bytes });
        }
        let mut plain = alloc::vec![0; record.len()];
        let read = self.ciphers.read_message(self.received.nonce, record, &mut plain);
        let len = read.map_err(|_| Error::NotAuthentic { message: "record" })?;
        self.received.count(len);
        plain.truncate(len);
        let kind = Kind::from_u8(*plain.first().ok_or(Error::Truncated {
            message: "record",
            field: "kind",
            needed: 1,
            left: 0,
        })?)?;
        if kind == Kind::Rekey {
            self.ciphers.rekey_incoming();
            self.received.rekeyed(now);
            return Ok(None);
        }
        plain.remove(0);
        Ok(Some((kind, plain)))
    }
}
