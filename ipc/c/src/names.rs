//! Names and pings.

use std::ffi::{c_char, c_int};
use std::net::IpAddr;
use std::time::Duration;

use netd_ipc::Client;

use crate::deadline;
use crate::failure::{Failure, count, number};
use crate::raw::{ADDRESS_BYTES, address, output, put_address, string};

/// As in `netd.h`.
///
/// # Safety
/// `name` is NULL or a string; `addresses` has `max` rows of `NETD_ADDRESS_BYTES`, or `max` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_resolve(
    name: *const c_char,
    deadline_ms: i64,
    addresses: *mut c_char,
    max: usize,
) -> c_int {
    let bytes = max.saturating_mul(ADDRESS_BYTES);
    // SAFETY: needed to use what C holds; both are as promised.
    let (name, rows) = unsafe { (string(name), output(addresses.cast(), bytes)) };
    let found = name.and_then(|name| Ok(netd_ipc::resolve(name, deadline(deadline_ms))?));
    let filled = found.map(|found| {
        let rows = rows.chunks_exact_mut(ADDRESS_BYTES).zip(found);
        rows.map(|(row, address)| put_address(address, row)).count()
    });
    c_int::try_from(count(filled)).unwrap_or(c_int::MAX)
}

/// As in `netd.h`.
///
/// # Safety
/// `to` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_ping(to: *const c_char, timeout_ms: u32) -> i64 {
    // SAFETY: needed to use what C holds; it is as promised.
    let to = unsafe { address(to) };
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
    number(to.and_then(|to| ping(to, timeout)))
}

fn ping(to: IpAddr, timeout: Option<Duration>) -> Result<u64, Failure> {
    Ok(Client::shared()?.ping(to, timeout, None)?.rtt_us)
}
