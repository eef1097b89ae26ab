//! From C's pointers to references, and back.

use std::ffi::{CStr, c_char, c_void};
use std::net::{IpAddr, SocketAddr};

use crate::failure::Failure;

/// Room for any IP address as text, with its NUL: `INET6_ADDRSTRLEN`.
pub(crate) const ADDRESS_BYTES: usize = 46;

/// `netd_endpoint`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    address: [c_char; ADDRESS_BYTES],
    port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(from: SocketAddr) -> Endpoint {
        let mut text = [0; ADDRESS_BYTES];
        put_address(from.ip(), &mut text);
        Endpoint { address: text.map(|byte| byte as c_char), port: from.port() }
    }
}

/// Puts an address and its NUL into a buffer of zeros.
pub(crate) fn put_address(address: IpAddr, into: &mut [u8]) {
    // ADDRESS_BYTES hold any address, so nothing is ever cut.
    for (to, from) in into.iter_mut().zip(address.to_string().bytes()) {
        *to = from;
    }
}

/// # Safety
/// `text` is NULL or a string with its NUL that outlives the call.
pub(crate) unsafe fn string<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::invalid("a NULL pointer where a string belongs"));
    }
    // SAFETY: needed to read what C passed; it is a string with its NUL, as this function's caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid("a string that is no UTF-8"))
}

/// # Safety
/// As of [`string`].
pub(crate) unsafe fn address(text: *const c_char) -> Result<IpAddr, Failure> {
    // SAFETY: the promise is this function's own.
    let text = unsafe { string(text) }?;
    text.parse().map_err(|_| Failure::invalid(format!("'{text}' is no IP address")))
}

/// # Safety
/// `buffer` is NULL, or `len` bytes that may be read and that nobody writes during the call.
pub(crate) unsafe fn input<'a>(buffer: *const c_void, len: usize) -> &'a [u8] {
    if buffer.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: needed to read C's buffer; not NULL, and valid for `len` bytes as this function's caller promises.
    unsafe { std::slice::from_raw_parts(buffer.cast(), len) }
}

/// # Safety
/// `buffer` is NULL, or `len` bytes, initialised or not, that nobody else uses during the call.
pub(crate) unsafe fn output<'a>(buffer: *mut c_void, len: usize) -> &'a mut [u8] {
    if buffer.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: needed so that a reference to the buffer is one to initialised bytes; valid for `len` bytes as promised.
    unsafe { std::ptr::write_bytes(buffer.cast::<u8>(), 0, len) };
    // SAFETY: needed to fill C's buffer in place; not NULL, valid for `len` bytes as promised, initialised above.
    unsafe { std::slice::from_raw_parts_mut(buffer.cast(), len) }
}

/// Defines functions of a handle whose other arguments are numbers.
macro_rules! functions {
    ($($name:ident($handle:ident: $type:ty $(, $argument:ident: $kind:ty)*) $(-> $result:ty)? $body:block)*) => {$(
        /// As in `netd.h`.
        ///
        /// # Safety
        /// The handle is one of this library's, and not closed.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($handle: *const $type $(, $argument: $kind)*) $(-> $result)? {
            // SAFETY: needed to use what C holds; it came from `Box::into_raw` and is not closed, as promised.
            let $handle = unsafe { &*$handle };
            $body
        }
    )*};
}
pub(crate) use functions;

/// Defines the functions that close a handle.
macro_rules! closers {
    ($($name:ident($handle:ty);)*) => {$(
        /// As in `netd.h`.
        ///
        /// # Safety
        /// The handle is NULL, or one of this library's, not closed, and in nobody's use.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: *mut $handle) {
            if !handle.is_null() {
                // SAFETY: needed to free what `Box::into_raw` gave away; it comes back once, as promised.
                drop(unsafe { Box::from_raw(handle) });
            }
        }
    )*};
}
pub(crate) use closers;
