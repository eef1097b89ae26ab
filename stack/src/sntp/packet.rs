//! The packet of NTP version 4 as a simple client has it (RFC 5905, 7.3; RFC 4330, 4), and what makes a reply one that can be used.

use core::time::Duration;

/// Without extensions and authentication.
pub(super) const PACKET_BYTES: usize = 48;
/// Version 4, mode 3: a client.
const REQUEST_FLAGS: u8 = 4 << 3 | MODE_CLIENT;
const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
const VERSION: u8 = 4;
/// "Clock is not synchronised" (RFC 5905, figure 9).
const LEAP_ALARM: u8 = 3;
/// Servers beyond are as good as not synchronised (RFC 5905, figure 11).
const STRATUM_MAX: u8 = 15;
/// The most that a server may be off from the clock at the root of its tree, as chrony has it (maxdistance).
const ROOT_DISTANCE_MAX: Duration = Duration::from_secs(3);
/// From the beginning of NTP's first era, 1900, to 1970 (RFC 5905, figure 4).
const SECONDS_1900_TO_1970: u64 = 2_208_988_800;

/// What a server says of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// When our request came, since 1970.
    pub(super) received: Duration,
    /// When the reply left, since 1970.
    pub(super) sent: Duration,
}

/// Why a datagram is no reply to our request: anybody may have sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Too short, not from a server, another version.
    Malformed,
    /// It does not repeat the number that only the server saw.
    Origin,
}

/// Why a server's reply says nothing about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Useless {
    /// It asks to be left alone, or to be asked less often (RFC 5905, 7.4).
    #[error("it answers '{0}' instead of the time")]
    Kiss(KissCode),
    /// It does not know itself.
    #[error("its own clock is not synchronised")]
    Unsynchronised,
    /// Too far from the root.
    #[error("its own time may be off by more than {} seconds", ROOT_DISTANCE_MAX.as_secs())]
    Distant,
    /// Zeros, or sent before it was received.
    #[error("its timestamps make no sense")]
    Nonsense,
}

/// Four letters that a server sends instead of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KissCode([u8; 4]);

impl KissCode {
    /// The server will never answer.
    pub(super) fn is_farewell(self) -> bool {
        matches!(&self.0, b"DENY" | b"RSTR")
    }

    /// It was asked too often.
    pub(super) fn is_rate(self) -> bool {
        self.0 == *b"RATE"
    }
}

impl core::fmt::Display for KissCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// A request that says nothing of this machine (its transmit timestamp is a number that the server repeats: RFC 5905, 8, and
/// RFC 8915's advice for clients without it).
pub(super) fn request(nonce: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = REQUEST_FLAGS;
    packet[40..].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// Reads a reply to the request with this nonce.
///
/// The outer error means: not from the server. The inner one is the server's.
pub(super) fn read(bytes: &[u8], nonce: u64) -> Result<Result<Times, Useless>, Foreign> {
    // Extensions and authenticators may follow; nothing was asked of them.
    let Some(packet) = bytes.first_chunk::<PACKET_BYTES>() else { return Err(Foreign::Malformed) };
    let (leap, version, mode) = (packet[0] >> 6, packet[0] >> 3 & 7, packet[0] & 7);
    if mode != MODE_SERVER || version != VERSION {
        return Err(Foreign::Malformed);
    }
    let [origin, received, sent] = [24, 32, 40].map(|at| word(packet, at));
    if origin != nonce {
        return Err(Foreign::Origin);
    }
    Ok(judge(packet, leap, received, sent))
}

fn judge(packet: &[u8; PACKET_BYTES], leap: u8, received: u64, sent: u64) -> Result<Times, Useless> {
    let stratum = packet[1];
    // Before the leap indicator, which a kiss sets as well (RFC 5905, 7.4).
    if stratum == 0 {
        return Err(Useless::Kiss(KissCode([packet[12], packet[13], packet[14], packet[15]])));
    }
    if leap == LEAP_ALARM || stratum > STRATUM_MAX {
        return Err(Useless::Unsynchronised);
    }
    // RFC 5905, 11.1: the root distance is half the way to the root and what is added on it.
    if short(packet, 4) / 2 + short(packet, 8) > ROOT_DISTANCE_MAX {
        return Err(Useless::Distant);
    }
    let (Some(received), Some(sent)) = (since_1970(received), since_1970(sent)) else {
        return Err(Useless::Nonsense);
    };
    if sent < received {
        return Err(Useless::Nonsense);
    }
    Ok(Times { received, sent })
}

fn word(packet: &[u8; PACKET_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&packet[at..at + 8]);
    u64::from_be_bytes(bytes)
}

/// NTP short format: seconds and 65536ths.
fn short(packet: &[u8; PACKET_BYTES], at: usize) -> Duration {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&packet[at..at + 4]);
    let value = u64::from(u32::from_be_bytes(bytes));
    Duration::from_nanos((value * 1_000_000_000) >> 16)
}

/// A timestamp since 1970; zero means that there is none. Without the top bit it is of the era that begins in 2036 (RFC 4330, 3).
fn since_1970(timestamp: u64) -> Option<Duration> {
    let (seconds, fraction) = (timestamp >> 32, timestamp & 0xffff_ffff);
    let era = if seconds >> 31 == 0 { 1 << 32 } else { 0 };
    let nanos = (fraction * 1_000_000_000) >> 32;
    // With the top bit set the timestamp is after January 1968; what is before 1970 is nobody's time.
    let seconds = (seconds + era).checked_sub(SECONDS_1900_TO_1970)?;
    (timestamp != 0).then(|| Duration::new(seconds, nanos as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_of_both_eras_are_read_and_none_is_told_apart() {
        assert_eq!(since_1970(0), None);
        assert_eq!(since_1970(SECONDS_1900_TO_1970 << 32 | 1 << 31), Some(Duration::from_millis(500)));
        assert_eq!(since_1970((SECONDS_1900_TO_1970 - 1) << 32), None);
        // RFC 5905, figure 4: the first day of the second era, and the last second of the first.
        assert_eq!(since_1970(1), Some(Duration::from_secs(2_085_978_496)));
        assert_eq!(since_1970(0xffff_ffff << 32), Some(Duration::from_secs(2_085_978_495)));
    }

    #[test]
    fn request_says_nothing_but_its_version_and_nonce() {
        let packet = request(0x0102_0304_0506_0708);
        assert_eq!((packet[0], &packet[40..]), (0x23, &[1, 2, 3, 4, 5, 6, 7, 8][..]));
        assert!(packet[1..40].iter().all(|byte| *byte == 0));
    }
}
