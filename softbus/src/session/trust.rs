//! Whom we trust: pinned keys, revoked keys, and the PIN that is shown.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use super::pairing::Pin;
use crate::error::Error;
use crate::key::PublicKey;
use crate::name::DeviceId;
use crate::random::Random;
use crate::time::Instant;

/// Pinned devices; discovery has room for as many at most.
pub const PINNED_MAX: usize = 65_536;
/// Revoked keys that are remembered. When they are this many, none is added before one was forgotten by the operator.
pub const REVOKED_MAX: usize = 65_536;
/// How often a PIN may be tried: a guess of six digits then succeeds three times in a million.
pub const PIN_TRIES: u8 = 3;

/// How we stand to a key that a device has proven to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the device's.
    Pinned,
    /// We never met.
    Unknown,
}

/// A pinned device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pinned {
    key: PublicKey,
    /// The key that it told us will follow, and until when the old one is good as well.
    successor: Option<(PublicKey, Instant)>,
}

/// A PIN that is shown to whoever stands before this device.
#[derive(Debug)]
struct Shown {
    pin: Pin,
    tries: u8,
    until: Instant,
}

/// Pins, revocations, and at most one PIN. The driver keeps pins and revocations on disk.
#[derive(Debug, Default)]
pub struct Trust {
    pins: BTreeMap<DeviceId, Pinned>,
    revoked: BTreeSet<PublicKey>,
    shown: Option<Shown>,
}

impl Trust {
    /// Nobody is trusted.
    #[must_use]
    pub fn new() -> Trust {
        Trust::default()
    }

    /// The key is the device's from now on, and its only one.
    pub fn pin(&mut self, device: DeviceId, key: PublicKey) -> Result<(), Error> {
        if self.revoked.contains(&key) {
            return Err(Error::Revoked { key });
        }
        if self.pins.len() >= PINNED_MAX && !self.pins.contains_key(&device) {
            return Err(Error::TooMany { what: "pinned devices", count: PINNED_MAX + 1, max: PINNED_MAX });
        }
        self.pins.insert(device, Pinned { key, successor: None });
        Ok(())
    }

    /// The device is no longer trusted, and none of its keys ever again. Gives the keys; sessions with them are to be closed.
    pub fn revoke(&mut self, device: &DeviceId) -> Result<Vec<PublicKey>, Error> {
        let pinned = self.pins.get(device).ok_or_else(|| Error::NotPinned { device: device.clone() })?;
        let keys: Vec<_> = core::iter::once(pinned.key).chain(pinned.successor.map(|(key, _)| key)).collect();
        let count = self.revoked.len() + keys.len();
        if count > REVOKED_MAX {
            return Err(Error::TooMany { what: "revoked keys", count, max: REVOKED_MAX });
        }
        self.revoked.extend(&keys);
        self.pins.remove(device);
        Ok(keys)
    }

    /// A key that was revoked elsewhere, or before the last start.
    pub fn revoke_key(&mut self, key: PublicKey) -> Result<(), Error> {
        if self.revoked.len() >= REVOKED_MAX {
            return Err(Error::TooMany { what: "revoked keys", count: REVOKED_MAX + 1, max: REVOKED_MAX });
        }
        self.revoked.insert(key);
        self.pins.retain(|_, pinned| pinned.key != key);
        Ok(())
    }

    /// The device said, in a session under its pinned key, which key follows; until then both are good.
    pub fn succeed(
        &mut self,
        now: Instant,
        device: &DeviceId,
        successor: PublicKey,
        grace: Duration,
    ) -> Result<(), Error> {
        if self.revoked.contains(&successor) {
            return Err(Error::Revoked { key: successor });
        }
        let pinned = self.pins.get_mut(device).ok_or_else(|| Error::NotPinned { device: device.clone() })?;
        if pinned.key != successor {
            // Twice the grace: the peer itself answers to its old key for as long (see `Identity`).
            pinned.successor = Some((successor, now + grace.saturating_mul(2)));
        }
        Ok(())
    }

    /// How we stand to a device that has proven this key.
    pub fn standing(&self, now: Instant, device: &DeviceId, key: &PublicKey) -> Result<Standing, Error> {
        if self.revoked.contains(key) {
            return Err(Error::Revoked { key: *key });
        }
        let Some(Pinned { key: pinned, successor }) = self.pins.get(device) else {
            return Ok(Standing::Unknown);
        };
        let right = match successor {
            Some((successor, until)) => key == successor || (key == pinned && now < *until),
            None => key == pinned,
        };
        if right {
            return Ok(Standing::Pinned);
        }
        Err(Error::IdentityMismatch { device: device.clone(), key: *key })
    }

    /// All pins: device, key, and the key that follows. What the driver keeps, and what discovery has to know.
    pub fn pins(&self) -> impl Iterator<Item = (&DeviceId, PublicKey, Option<PublicKey>)> {
        let successor = |pinned: &Pinned| pinned.successor.map(|(key, _)| key);
        self.pins.iter().map(move |(device, pinned)| (device, pinned.key, successor(pinned)))
    }

    /// All revoked keys.
    pub fn revoked(&self) -> impl Iterator<Item = PublicKey> {
        self.revoked.iter().copied()
    }

    /// Old keys whose grace is over go.
    pub fn poll(&mut self, now: Instant) {
        for pinned in self.pins.values_mut() {
            if let Some((successor, _)) = pinned.successor.filter(|(_, until)| *until <= now) {
                *pinned = Pinned { key: successor, successor: None };
            }
        }
        if self.shown.as_ref().is_some_and(|shown| shown.until <= now) {
            self.shown = None;
        }
    }

    /// Draws a PIN and opens the window in which it may be tried. Show it to whoever stands before this device, and to nobody else.
    pub fn show_pin(&mut self, now: Instant, window: Duration, random: &mut dyn Random) -> &Pin {
        let shown = Shown { pin: Pin::draw(random), tries: PIN_TRIES, until: now + window };
        &self.shown.insert(shown).pin
    }

    /// Closes the window.
    pub fn hide_pin(&mut self) {
        self.shown = None;
    }

    /// Tries that are left, while a PIN is shown.
    #[must_use]
    pub fn tries_left(&self, now: Instant) -> Option<u8> {
        self.shown.as_ref().filter(|shown| shown.until > now).map(|shown| shown.tries)
    }

    /// One try. It counts from here on: a peer that goes away when it sees that it guessed wrong has used it up.
    pub(super) fn take_try(&mut self, now: Instant) -> Result<Pin, Error> {
        let shown = self.shown.as_mut().filter(|shown| shown.until > now && shown.tries > 0);
        let shown = shown.ok_or(Error::PairingClosed)?;
        shown.tries -= 1;
        Ok(shown.pin.clone())
    }
}
