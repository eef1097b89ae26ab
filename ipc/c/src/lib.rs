//! netd for C: the functions of `include/netd.h`, over the blocking client library.
//!
//! This is the one file of the clients' side with `unsafe`: C hands over pointers, and only its caller knows whether they are
//! what the header asks for. Each function turns them into references once, at its beginning, and is safe code after that.
//! A handle is a `Box` that went out by `Box::into_raw` and comes back once, to be closed.
//!
//! A panic ends the process, as `extern "C"` has it: C cannot be unwound through.

#![deny(unsafe_op_in_unsafe_fn)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netd_ipc::{Client, TcpListener, TcpStream, ToEndpoints, UdpSocket};

/// Room for any IP address as text, with its NUL: `INET6_ADDRSTRLEN`.
const ADDRESS_BYTES: usize = 46;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Remembers why, for `netd_error`.
fn fail(error: impl Display) {
    let text: Vec<u8> = error.to_string().into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    // Without NUL bytes it always is one.
    LAST_ERROR.set(CString::new(text).unwrap_or_default());
}

fn handle<T>(made: Result<T, impl Display>) -> *mut T {
    made.map_or_else(|error| (fail(error), std::ptr::null_mut()).1, |made| Box::into_raw(Box::new(made)))
}

fn count(done: Result<usize, impl Display>) -> isize {
    done.map_or_else(|error| (fail(error), -1).1, |count| isize::try_from(count).unwrap_or(isize::MAX))
}

fn status(done: Result<(), impl Display>) -> c_int {
    done.map_or_else(|error| (fail(error), -1).1, |()| 0)
}

/// # Safety
/// `text` is NULL or a string with its NUL that outlives the call.
unsafe fn string<'a>(text: *const c_char) -> Result<&'a str, String> {
    if text.is_null() {
        return Err("InvalidInput: a NULL pointer where a string belongs".to_owned());
    }
    // SAFETY: needed to read what C passed; it is a string with its NUL, as this function's caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| "InvalidInput: a string that is no UTF-8".to_owned())
}

/// # Safety
/// `buffer` is NULL, or `len` bytes that may be read and that nobody writes during the call.
unsafe fn input<'a>(buffer: *const c_void, len: usize) -> &'a [u8] {
    if buffer.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: needed to read C's buffer; not NULL, and valid for `len` bytes as this function's caller promises.
    unsafe { std::slice::from_raw_parts(buffer.cast(), len) }
}

/// # Safety
/// `buffer` is NULL, or `len` bytes, initialised or not, that nobody else uses during the call.
unsafe fn output<'a>(buffer: *mut c_void, len: usize) -> &'a mut [u8] {
    if buffer.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: needed so that a reference to the buffer is one to initialised bytes; valid for `len` bytes as promised.
    unsafe { std::ptr::write_bytes(buffer.cast::<u8>(), 0, len) };
    // SAFETY: needed to fill C's buffer in place; not NULL, valid for `len` bytes as promised, initialised above.
    unsafe { std::slice::from_raw_parts_mut(buffer.cast(), len) }
}

/// Puts an address and its NUL into C's buffer.
fn put_address(address: IpAddr, into: &mut [u8]) {
    let text = address.to_string();
    // ADDRESS_BYTES hold any address, so nothing is ever cut; the rest of the buffer is 0 already.
    for (to, from) in into.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_error() -> *const c_char {
    LAST_ERROR.with_borrow(|error| error.as_ptr())
}

/// As in `netd.h`.
///
/// # Safety
/// `host` is NULL or a string with its NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_tcp_connect(host: *const c_char, port: u16, timeout_ms: u32) -> *mut TcpStream {
    // SAFETY: the promise is this function's own.
    let host = match unsafe { string(host) } {
        Ok(host) => host,
        Err(message) => return handle(Err::<TcpStream, _>(message)),
    };
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
    handle(connect(host, port, timeout))
}

fn connect(host: &str, port: u16, timeout: Option<Duration>) -> Result<TcpStream, String> {
    let client = Client::shared().map_err(|error| error.to_string())?;
    let endpoints = (host, port).to_endpoints(&client).map_err(|error| error.to_string())?;
    let mut last = format!("NotFound: '{host}' has no address");
    for endpoint in endpoints {
        match client.tcp_connect(endpoint, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Defines the functions that only look at a handle.
macro_rules! getters {
    ($($name:ident($handle:ty) -> $result:ty = $get:expr;)*) => {$(
        /// As in `netd.h`.
        ///
        /// # Safety
        /// The handle is one of this library's, and not closed.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: *const $handle) -> $result {
            let get: fn(&$handle) -> $result = $get;
            // SAFETY: needed to look at what C holds; it came from `Box::into_raw` and is not closed, as promised.
            let held = unsafe { &*handle };
            get(held)
        }
    )*};
}

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

getters! {
    netd_stream_fd(TcpStream) -> c_int = |stream| stream.as_raw_fd();
    netd_listener_fd(TcpListener) -> c_int = |listener| listener.as_raw_fd();
    netd_listener_port(TcpListener) -> u16 = |listener| listener.local_addr().port();
    netd_udp_fd(UdpSocket) -> c_int = |socket| socket.as_raw_fd();
    netd_udp_port(UdpSocket) -> u16 = |socket| socket.local_addr().port();
    netd_stream_shutdown_write(TcpStream) -> c_int = |stream| status(stream.shutdown_write());
    netd_tcp_accept(TcpListener) -> *mut TcpStream = |listener| handle(listener.accept().map(|(stream, _)| stream));
}

closers! {
    netd_stream_close(TcpStream);
    netd_listener_close(TcpListener);
    netd_udp_close(UdpSocket);
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `buffer` has `len` bytes that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_stream_read(
    stream: *const TcpStream,
    buffer: *mut c_void,
    len: usize,
) -> isize {
    // SAFETY: needed to use what C holds; both are as promised.
    let (stream, buffer) = unsafe { (&*stream, output(buffer, len)) };
    count(stream.receive(buffer))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `buffer` has `len` bytes that nobody writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_stream_write(
    stream: *const TcpStream,
    buffer: *const c_void,
    len: usize,
) -> isize {
    // SAFETY: needed to use what C holds; both are as promised.
    let (stream, buffer) = unsafe { (&*stream, input(buffer, len)) };
    count(stream.send(buffer))
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_tcp_listen(port: u16) -> *mut TcpListener {
    handle(TcpListener::bind(port))
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_udp_bind(port: u16) -> *mut UdpSocket {
    handle(UdpSocket::bind(port))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `address` is NULL or a string; `payload` has `len` bytes that nobody writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_send(
    socket: *const UdpSocket,
    address: *const c_char,
    port: u16,
    payload: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: needed to use what C holds; all are as promised.
    let (socket, address, payload) = unsafe { (&*socket, string(address), input(payload, len)) };
    let to =
        address.and_then(|text| text.parse().map_err(|_| format!("InvalidInput: '{text}' is no IP address")));
    status(
        to.and_then(|to| {
            socket.send_to(payload, SocketAddr::new(to, port)).map_err(|error| error.to_string())
        }),
    )
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `buffer` has `len` bytes that nobody else uses; `address` is NULL or has `NETD_ADDRESS_BYTES`;
/// `port` is NULL or a number's place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_recv(
    socket: *const UdpSocket,
    buffer: *mut c_void,
    len: usize,
    address: *mut c_char,
    port: *mut u16,
) -> isize {
    // SAFETY: needed to use what C holds; all are as promised.
    let (socket, buffer, address) =
        unsafe { (&*socket, output(buffer, len), output(address.cast(), ADDRESS_BYTES)) };
    let received = socket.recv_from(buffer);
    if let Ok((_, from)) = &received {
        put_address(from.ip(), address);
        if !port.is_null() {
            // SAFETY: needed to answer by a pointer; not NULL, and a number's place as promised.
            unsafe { port.write(from.port()) };
        }
    }
    count(received.map(|(count, _)| count))
}

/// As in `netd.h`.
///
/// # Safety
/// `name` is NULL or a string; `addresses` has `max` rows of `NETD_ADDRESS_BYTES`, or `max` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_resolve(name: *const c_char, addresses: *mut c_char, max: usize) -> c_int {
    let bytes = max.saturating_mul(ADDRESS_BYTES);
    // SAFETY: needed to use what C holds; both are as promised.
    let (name, rows) = unsafe { (string(name), output(addresses.cast(), bytes)) };
    let found = name.and_then(|name| {
        let client = Client::shared().map_err(|error| error.to_string())?;
        client.resolve(name).map_err(|error| error.to_string())
    });
    let filled = found.map(|found| {
        let rows = rows.chunks_exact_mut(ADDRESS_BYTES).zip(found);
        rows.map(|(row, address)| put_address(address, row)).count()
    });
    c_int::try_from(count(filled)).unwrap_or(c_int::MAX)
}
