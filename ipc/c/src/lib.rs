//! netd for C: the functions of `include/netd.h`, over the blocking client library.
//!
//! This crate is the one of the clients' side with `unsafe`: C hands over pointers, and only its caller knows whether they are
//! what the header asks for. Each function turns them into references once, at its beginning ([`raw`]), and is safe code after
//! that. A handle is a `Box` that went out by `Box::into_raw` and comes back once, to be closed.
//!
//! A panic ends the process, as `extern "C"` has it: C cannot be unwound through.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod failure;
pub mod names;
pub mod raw;
pub mod tcp;
pub mod udp;

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// `NETD_NEVER`.
const NEVER: i64 = i64::MAX;

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_clock_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// A moment of `netd_clock_ms`; none for `NETD_NEVER`.
fn deadline(deadline_ms: i64) -> Option<Instant> {
    if deadline_ms == NEVER {
        return None;
    }
    let left = u64::try_from(deadline_ms.saturating_sub(netd_clock_ms())).unwrap_or(0);
    // A moment that no clock reaches is never.
    Instant::now().checked_add(Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_a_moment_of_the_clock_and_the_past_has_passed() {
        assert_eq!(deadline(NEVER), None);
        assert!(deadline(netd_clock_ms() - 1).unwrap() <= Instant::now());
        assert!(deadline(i64::MIN).unwrap() <= Instant::now());
        let later = deadline(netd_clock_ms() + 3_600_000).unwrap();
        assert!(later > Instant::now() + Duration::from_secs(3000));
    }
}
