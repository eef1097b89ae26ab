//! Who we are: a device id and its key, and how one key follows another.
//!
//! A key is random, and the driver keeps it in a file that only it can read. Rotation goes in three steps, so that peers which are not
//! there all the time can follow: the next key is made, and peers are told of it in their sessions; after the grace period it is the
//! one that we announce; for another grace period the previous one still answers those whose table is old.

use core::fmt;
use core::time::Duration;

use zeroize::Zeroizing;

use super::noise::public_of;
use crate::error::Error;
use crate::key::{KEY_BYTES, PublicKey};
use crate::name::DeviceId;
use crate::random::{Random, array};
use crate::time::{Instant, earliest};

/// A Curve25519 key pair. Wiped from memory when it is dropped.
pub struct StaticKey {
    private: Zeroizing<[u8; KEY_BYTES]>,
    public: PublicKey,
}

impl StaticKey {
    /// A new key out of nothing but randomness.
    pub fn generate(random: &mut dyn Random) -> Result<StaticKey, Error> {
        StaticKey::from_bytes(array(random))
    }

    /// The key that was kept as these bytes.
    pub fn from_bytes(private: [u8; KEY_BYTES]) -> Result<StaticKey, Error> {
        let private = Zeroizing::new(private);
        Ok(StaticKey { public: public_of(&private)?, private })
    }

    /// What to keep, with mode 0600. Wiped when it is dropped.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        self.private.clone()
    }

    /// What everybody may know.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn private(&self) -> &[u8; KEY_BYTES] {
        &self.private
    }
}

/// Without the private half.
impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A device and its keys.
#[derive(Debug)]
pub struct Identity {
    device: DeviceId,
    current: StaticKey,
    /// The key that follows, and when.
    next: Option<(StaticKey, Instant)>,
    /// The key that still answers, and until when.
    previous: Option<(StaticKey, Instant)>,
    grace: Duration,
}

impl Identity {
    /// A device with one key.
    #[must_use]
    pub fn new(device: DeviceId, current: StaticKey) -> Identity {
        Identity { device, current, next: None, previous: None, grace: Duration::ZERO }
    }

    /// Our name.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The key that we announce and dial with.
    #[must_use]
    pub fn current(&self) -> &StaticKey {
        &self.current
    }

    /// The key that will follow and how long until then: what a peer is told in every session.
    #[must_use]
    pub fn successor(&self, now: Instant) -> Option<(PublicKey, Duration)> {
        let (key, at) = self.next.as_ref()?;
        Some((key.public(), at.saturating_duration_since(now)))
    }

    /// Begins to change to `next`, which takes over after `grace`. A change under way ends with this one instead.
    pub fn rotate(&mut self, now: Instant, next: StaticKey, grace: Duration) {
        self.grace = grace;
        self.next = Some((next, now + grace));
    }

    /// Puts in force what is due; true if we have to announce another key from now on.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.previous.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.previous = None;
        }
        let Some((next, at)) = self.next.take() else { return false };
        if at > now {
            self.next = Some((next, at));
            return false;
        }
        let old = core::mem::replace(&mut self.current, next);
        self.previous = Some((old, now + self.grace));
        true
    }

    /// When to call [`Identity::poll`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = |key: &Option<(StaticKey, Instant)>| key.as_ref().map(|(_, at)| *at);
        earliest(deadline(&self.next), deadline(&self.previous))
    }

    /// The keys that a peer may have dialled, the likeliest first.
    pub(super) fn answering(&self) -> impl Iterator<Item = &StaticKey> {
        let others = [&self.previous, &self.next].into_iter().flatten().map(|(key, _)| key);
        core::iter::once(&self.current).chain(others)
    }
}
