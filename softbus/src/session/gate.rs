//! The gate: how many strangers may have a handshake half done with us, and what proves that they are where they say.
//!
//! Message 1 costs us two exchanges on the curve, and can be sent from any address. While few handshakes are half done, everybody is
//! let in; from [`Config::cookies_from`] on, message 1 is answered with a cookie, a MAC over the sender's address and the message,
//! for which nothing is remembered and no curve is touched; the sender repeats the message with the cookie behind it. At
//! [`Config::half_open_max`] nobody is let in. (The way of RFC 6347, 4.2.1, and of WireGuard's cookies.)
//!
//! ```text
//!  first frame     message 1 [48]                     or message 1 [48] | cookie [16]
//!  its answer      message 2 [48]                     or "NXCK" | cookie [16]
//! ```

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use blake2::Blake2sMac;
use blake2::digest::Mac as _;
use blake2::digest::consts::U16;

use super::config::Config;
use super::noise::SHORT_MESSAGE_BYTES;
use crate::config::Checked;
use crate::error::Error;
use crate::random::{Random, array};
use crate::time::Instant;

const COOKIE_BYTES: usize = 16;
const MARK: [u8; 4] = *b"NXCK";
const ANSWER_BYTES: usize = MARK.len() + COOKIE_BYTES;
/// How long a secret makes cookies; they are good for as long again. As WireGuard has it (5.4.7).
const SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// A place among the half-open handshakes; give it back when the session is ready, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What to do with a first frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// Give the message to a session.
    Proceed {
        /// Its place.
        ticket: Ticket,
        /// Message 1, without the cookie.
        message: Vec<u8>,
    },
    /// Send this frame, and forget the sender.
    Challenge(Vec<u8>),
}

/// See the module's documentation. One for all transports.
#[derive(Debug)]
pub struct Gate {
    config: Checked<Config>,
    /// When each gives up its place. Tickets count up and all have the same patience, so the first is the oldest.
    half_open: BTreeMap<Ticket, Instant>,
    admitted: u64,
    secrets: [[u8; 32]; 2],
    changed: Instant,
}

impl Gate {
    /// Nobody is half-open.
    #[must_use]
    pub fn new(config: Checked<Config>, now: Instant, random: &mut dyn Random) -> Gate {
        let secrets = [array(random), array(random)];
        Gate { config, half_open: BTreeMap::new(), admitted: 0, secrets, changed: now }
    }

    /// Handshakes that are half done.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// A link brought its first frame.
    pub fn admit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &[u8],
        random: &mut dyn Random,
    ) -> Result<Admission, Error> {
        self.expire(now, random);
        let wrong =
            || Error::Length { message: "handshake message 1", len: frame.len(), right: SHORT_MESSAGE_BYTES };
        let (message, cookie) = frame.split_at_checked(SHORT_MESSAGE_BYTES).ok_or_else(wrong)?;
        if !matches!(cookie.len(), 0 | COOKIE_BYTES) {
            return Err(wrong());
        }
        if self.half_open.len() >= self.config.half_open_max {
            return Err(Error::TooMany {
                what: "half-open handshakes",
                count: self.half_open.len() + 1,
                max: self.config.half_open_max,
            });
        }
        if self.half_open.len() >= self.config.cookies_from {
            if cookie.is_empty() {
                let cookie = mac(&self.secrets[0], from, message).finalize().into_bytes();
                return Ok(Admission::Challenge([&MARK[..], &cookie].concat()));
            }
            let made_by = |secret| mac(secret, from, message).verify_slice(cookie).is_ok();
            if !self.secrets.iter().any(made_by) {
                return Err(Error::NotAuthentic { message: "cookie" });
            }
        }
        self.admitted += 1;
        let ticket = Ticket(self.admitted);
        self.half_open.insert(ticket, now + self.config.handshake_timeout);
        Ok(Admission::Proceed { ticket, message: message.to_vec() })
    }

    /// The handshake is done, one way or the other.
    pub fn done(&mut self, ticket: Ticket) {
        self.half_open.remove(&ticket);
    }

    fn expire(&mut self, now: Instant, random: &mut dyn Random) {
        while let Some(oldest) = self.half_open.first_entry().filter(|oldest| *oldest.get() <= now) {
            oldest.remove();
        }
        if self.changed + SECRET_LIFETIME <= now {
            self.secrets = [array(random), self.secrets[0]];
            // After a long pause the previous secret is too old as well.
            if self.changed + SECRET_LIFETIME * 2 <= now {
                self.secrets[1] = array(random);
            }
            self.changed = now;
        }
    }
}

/// The cookie in an answer to message 1, if it is one.
pub(super) fn cookie(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_prefix(&MARK).filter(|_| frame.len() == ANSWER_BYTES)
}

/// A MAC over who sent what.
fn mac(secret: &[u8; 32], from: SocketAddr, message: &[u8]) -> Blake2sMac<U16> {
    let address = match from.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    // The secret is a key of BLAKE2s's own length, which it takes without hashing it.
    Blake2sMac::<U16>::new(&(*secret).into())
        .chain_update(address.octets())
        .chain_update(from.port().to_be_bytes())
        .chain_update(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: [u8; SHORT_MESSAGE_BYTES] = [7; SHORT_MESSAGE_BYTES];

    fn from(host: u8) -> SocketAddr {
        SocketAddr::new([10, 0, 0, host].into(), 34567)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    struct Script(Gate, fastrand::Rng);

    impl Script {
        /// A gate where `half_open` strangers came at the first second.
        fn new(half_open: u8) -> Script {
            let config = Config { half_open_max: 8, cookies_from: 4, ..Config::default() };
            let mut seeded = fastrand::Rng::with_seed(9);
            let gate = Gate::new(config.check().unwrap(), at(0), &mut |bytes: &mut [u8]| seeded.fill(bytes));
            let mut script = Script(gate, seeded);
            for host in 0..half_open {
                assert!(matches!(script.admit(1, host, &MESSAGE), Ok(Admission::Proceed { .. })));
            }
            script
        }

        fn admit(&mut self, second: u64, host: u8, frame: &[u8]) -> Result<Admission, Error> {
            let Script(gate, seeded) = self;
            gate.admit(at(second), from(host), frame, &mut |bytes: &mut [u8]| seeded.fill(bytes))
        }

        /// Asks without a cookie; gives the frame with the one that was answered.
        fn challenged(&mut self, second: u64, host: u8) -> Vec<u8> {
            let Ok(Admission::Challenge(answer)) = self.admit(second, host, &MESSAGE) else {
                panic!("no challenge")
            };
            [&MESSAGE[..], cookie(&answer).unwrap()].concat()
        }
    }

    #[test]
    fn gate_under_load_lets_in_who_repeats_its_cookie() {
        let mut script = Script::new(4);
        let frame = script.challenged(1, 50);
        assert_eq!(script.0.half_open(), 4, "a challenge is not remembered");
        let Ok(Admission::Proceed { message, ticket }) = script.admit(1, 50, &frame) else { panic!() };
        assert_eq!(message, MESSAGE);
        script.0.done(ticket);
        assert_eq!(script.0.half_open(), 4);
    }

    #[test]
    fn cookies_of_another_address_or_message_or_of_long_ago_are_refused() {
        let mut script = Script::new(4);
        let frame = script.challenged(1, 50);
        let refused = Err(Error::NotAuthentic { message: "cookie" });
        assert_eq!(script.admit(1, 51, &frame), refused);
        let mut other = frame.clone();
        other[0] ^= 1;
        assert_eq!(script.admit(1, 50, &other), refused);
        // The others' places end at 11 s: keep the load up.
        let load = |script: &mut Script, second| {
            (0..4).for_each(|host| drop(script.admit(second, host, &MESSAGE).unwrap()));
        };
        load(&mut script, 121);
        assert!(matches!(script.admit(121, 50, &frame), Ok(Admission::Proceed { .. })), "one secret later");
        load(&mut script, 242);
        assert_eq!(script.admit(242, 50, &frame), refused);
    }

    #[test]
    fn gate_full_lets_nobody_in_until_the_oldest_gave_up() {
        let mut script = Script::new(4);
        for host in 50..54 {
            let frame = script.challenged(2, host);
            assert!(matches!(script.admit(2, host, &frame), Ok(Admission::Proceed { .. })));
        }
        let full = Error::TooMany { what: "half-open handshakes", count: 9, max: 8 };
        assert_eq!(script.admit(3, 60, &MESSAGE), Err(full));
        assert!(script.admit(11, 60, &MESSAGE).is_ok(), "the first four came at second 1 and had 10 s");
        assert_eq!(script.0.half_open(), 4);
    }

    #[test]
    fn gate_given_frames_of_other_lengths_names_the_right_one() {
        let mut script = Script::new(0);
        for len in [0, 47, 49, 63, 65, 2000] {
            let wrong = Error::Length { message: "handshake message 1", len, right: 48 };
            assert_eq!(script.admit(1, 1, &alloc::vec![0; len]), Err(wrong));
        }
    }
}
