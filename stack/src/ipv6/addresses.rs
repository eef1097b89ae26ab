//! Our IPv6 addresses: how they come to be, are checked, grow old and go (RFC 4862), and which of them a packet comes from (RFC 6724).
//!
//! ```text
//!              delay, probe, 1 s of silence              preferred lifetime             valid lifetime
//!   Tentative ----------------------------> Preferred ---------------------> Deprecated ---------------> (gone)
//!       |  somebody has it
//!       +------------------> Duplicated
//! ```

use core::hash::Hasher;
use core::net::Ipv6Addr;
use core::time::Duration;

use siphasher::sip::SipHasher24;

use super::cidr::Cidr6;
use crate::info::{AddressOrigin, AddressStatus};
use crate::neighbor::Mac;
use crate::time::Instant;

/// Addresses at once: the link-local one and some prefixes. RFC 8504, 5.4 wants support for several; Linux's limit per interface is
/// 16 (`max_addresses`).
pub(super) const ADDRESSES_MAX: usize = 16;
/// Probes before an address is used, and the silence after the last (RFC 4862, 5.1: DupAddrDetectTransmits and RetransTimer).
pub(super) const PROBES: u8 = 1;
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// An advertisement cannot shorten a valid lifetime below this unless it is authenticated, which none is (RFC 4862, 5.5.3 e).
const VALID_MIN: Duration = Duration::from_secs(2 * 60 * 60);

/// All routers and hosts begin link-local addresses with this (RFC 4291, 2.5.6).
const LINK_LOCAL_PREFIX: u128 = 0xfe80 << 112;

pub(super) struct Address {
    pub(super) address: Ipv6Addr,
    pub(super) prefix_len: u8,
    pub(super) origin: AddressOrigin,
    /// How many addresses were tried before this one (RFC 7217).
    pub(super) attempt: u8,
    pub(super) check: Check,
    /// `None` is for ever.
    pub(super) preferred_until: Option<Instant>,
    pub(super) valid_until: Option<Instant>,
}

/// How far duplicate address detection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// `sent` probes have left; at `next` comes another or, after the last, the address into use.
    Tentative {
        sent: u8,
        next: Instant,
    },
    Passed,
    Duplicated,
}

impl Address {
    pub(super) fn is_usable(&self) -> bool {
        self.check == Check::Passed
    }

    pub(super) fn is_deprecated(&self, now: Instant) -> bool {
        self.preferred_until.is_some_and(|until| now >= until)
    }

    pub(super) fn status(&self, now: Instant) -> AddressStatus {
        match self.check {
            Check::Tentative { .. } => AddressStatus::Tentative,
            Check::Duplicated => AddressStatus::Duplicated,
            Check::Passed if self.is_deprecated(now) => AddressStatus::Deprecated,
            Check::Passed => AddressStatus::Preferred,
        }
    }

    /// Takes the lifetimes of one more advertisement (RFC 4862, 5.5.3 e).
    pub(super) fn refresh(&mut self, now: Instant, preferred: Lifetime, valid: Lifetime) {
        self.preferred_until = preferred.end(now);
        let remaining = self.valid_until.map(|until| until.saturating_duration_since(now));
        let longer = valid
            .0
            .is_none_or(|valid| valid > VALID_MIN || remaining.is_some_and(|remaining| valid > remaining));
        if longer {
            self.valid_until = valid.end(now);
        } else if remaining.is_none_or(|remaining| remaining > VALID_MIN) {
            self.valid_until = Some(now + VALID_MIN);
        }
    }
}

/// A lifetime from the wire, in seconds; `None` is for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lifetime(pub(crate) Option<Duration>);

impl Lifetime {
    pub(crate) fn from_seconds(seconds: u32) -> Lifetime {
        Lifetime((seconds != u32::MAX).then(|| Duration::from_secs(seconds.into())))
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == Some(Duration::ZERO)
    }

    pub(crate) fn end(self, now: Instant) -> Option<Instant> {
        self.0.map(|lifetime| now + lifetime)
    }
}

/// Where the lower 64 bits of our addresses come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InterfaceId {
    /// The hardware address (RFC 4291, appendix A): stable, and the same on every network.
    Eui64,
    /// A keyed hash of prefix, hardware address and attempt (RFC 7217): stable for each network, and meaningless elsewhere.
    Opaque { secret: (u64, u64) },
}

impl InterfaceId {
    /// The address in `prefix`, of which the upper 64 bits count.
    pub(super) fn address(self, prefix: Ipv6Addr, mac: Mac, attempt: u8) -> Ipv6Addr {
        let upper = prefix.to_bits() & (u128::MAX << 64);
        let lower = match self {
            InterfaceId::Eui64 => {
                let [a, b, c, d, e, f] = mac;
                u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
            }
            InterfaceId::Opaque { secret } => {
                let mut hasher = SipHasher24::new_with_keys(secret.0, secret.1);
                hasher.write(&upper.to_be_bytes());
                hasher.write(&mac);
                hasher.write_u8(attempt);
                hasher.finish()
            }
        };
        Ipv6Addr::from_bits(upper | u128::from(lower))
    }
}

/// The link-local address with this interface identifier.
pub(super) fn link_local(id: InterfaceId, mac: Mac, attempt: u8) -> Ipv6Addr {
    id.address(Ipv6Addr::from_bits(LINK_LOCAL_PREFIX), mac, attempt)
}

/// The group in which neighbours ask for `address` (RFC 4291, 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | (address.to_bits() & 0xff_ffff))
}

/// How far an address reaches (RFC 4291, 2.7; RFC 6724, 3.1).
fn scope(address: Ipv6Addr) -> u8 {
    if address.is_multicast() {
        address.octets()[1] & 0x0f
    } else if address.is_unicast_link_local() || address.is_loopback() {
        2
    } else {
        14
    }
}

/// The label of the default policy table (RFC 6724, 2.1), for the ranges that still occur.
fn label(address: Ipv6Addr) -> u8 {
    match address.segments() {
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        [first, ..] if first & 0xfe00 == 0xfc00 => 13,
        _ => 1,
    }
}

/// Which of our addresses a packet to `destination` comes from (RFC 6724, 5; rules 4, 5 and 7 do not arise with one interface and
/// without temporary addresses).
pub(super) fn select_source(addresses: &[Address], destination: Ipv6Addr, now: Instant) -> Option<Ipv6Addr> {
    let usable = addresses.iter().filter(|candidate| candidate.is_usable());
    let wanted = scope(destination);
    let best = usable.max_by_key(|candidate| {
        let reach = scope(candidate.address);
        // Rule 2: the smallest scope that reaches; if none does, the largest there is.
        let fit = if reach >= wanted { (1, -i16::from(reach)) } else { (0, i16::from(reach)) };
        let common = (candidate.address.to_bits() ^ destination.to_bits()).leading_zeros();
        (
            candidate.address == destination,
            fit,
            !candidate.is_deprecated(now),
            label(candidate.address) == label(destination),
            common.min(candidate.prefix_len.into()),
        )
    })?;
    Some(best.address)
}

/// Whether `prefix` may be a prefix for addresses: not link-local, not a group.
pub(super) fn is_assignable(prefix: Cidr6) -> bool {
    let address = prefix.address();
    !address.is_unicast_link_local() && !address.is_multicast() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn address(text: &str, preferred_until: Option<Instant>) -> Address {
        Address {
            address: text.parse().unwrap(),
            prefix_len: 64,
            origin: AddressOrigin::Slaac,
            attempt: 0,
            check: Check::Passed,
            preferred_until,
            valid_until: None,
        }
    }

    #[test]
    fn eui64_and_solicited_node_follow_the_book() {
        let own = link_local(InterfaceId::Eui64, MAC, 0);
        assert_eq!(own.to_string(), "fe80::ff:fe00:1");
        assert_eq!(solicited_node(own).to_string(), "ff02::1:ff00:1");
    }

    #[test]
    fn opaque_identifier_is_stable_per_network_and_changes_with_the_attempt() {
        let id = InterfaceId::Opaque { secret: (1, 2) };
        let (home, work) = ("2001:db8:1::".parse().unwrap(), "2001:db8:2::".parse().unwrap());
        assert_eq!(id.address(home, MAC, 0), id.address(home, MAC, 0));
        let lower = |address: Ipv6Addr| address.to_bits() as u64;
        assert_ne!(lower(id.address(home, MAC, 0)), lower(id.address(work, MAC, 0)));
        assert_ne!(id.address(home, MAC, 0), id.address(home, MAC, 1));
    }

    #[test]
    fn source_is_chosen_by_scope_then_age_then_label_then_prefix() {
        let now = Instant::from_micros(10);
        let all = [
            address("fe80::1", None),
            address("fd00::1", None),
            address("2001:db8:1::1", Some(Instant::from_micros(5))),
            address("2001:db8:2::1", None),
            address("2001:db8:3::1", None),
        ];
        let choose = |to: &str| select_source(&all, to.parse().unwrap(), now).unwrap().to_string();
        assert_eq!(choose("fe80::9"), "fe80::1");
        assert_eq!(choose("ff02::1"), "fe80::1");
        assert_eq!(choose("fd00::9"), "fd00::1");
        assert_eq!(choose("2001:db8:3::9"), "2001:db8:3::1");
        assert_eq!(choose("2001:db8:2::9"), "2001:db8:2::1");
        assert_ne!(choose("2001:db8:1::9"), "2001:db8:1::1", "deprecated although there is another");
        assert_eq!(choose("2001:db8:1::1"), "2001:db8:1::1");
        assert_eq!(select_source(&all[..0], "::2".parse().unwrap(), now), None);
    }

    #[test]
    fn lifetime_short_advertisement_cannot_end_an_address_at_once() {
        let now = Instant::from_micros(0);
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let lifetime = |hours: u32| Lifetime::from_seconds(hours * 3600);
        let mut long = address("2001:db8::1", None);
        long.valid_until = Some(now + hours(10));
        long.refresh(now, lifetime(0), lifetime(0));
        assert_eq!((long.valid_until, long.is_deprecated(now)), (Some(now + hours(2)), true));
        // Below two hours remaining, a shorter one is ignored and a longer one taken.
        long.valid_until = Some(now + hours(1));
        long.refresh(now, lifetime(0), lifetime(0));
        assert_eq!(long.valid_until, Some(now + hours(1)));
        long.refresh(now, lifetime(1), Lifetime::from_seconds(5400));
        assert_eq!(long.valid_until, Some(now + Duration::from_secs(5400)));
        long.refresh(now, lifetime(1), Lifetime::from_seconds(u32::MAX));
        assert_eq!(long.valid_until, None);
    }
}
