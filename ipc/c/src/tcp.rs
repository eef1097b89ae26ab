//! Streams and listeners.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netd_ipc::{Client, TcpListener, TcpStream};

use crate::deadline;
use crate::failure::{Failure, count, handle, status};
use crate::raw::{Endpoint, address, closers, functions, input, output, string};

/// As in `netd.h`.
///
/// # Safety
/// `host` is NULL or a string with its NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_tcp_connect(host: *const c_char, port: u16, timeout_ms: u32) -> *mut TcpStream {
    // SAFETY: the promise is this function's own.
    let host = unsafe { string(host) };
    handle(host.and_then(|host| connect(host, port, timeout_ms)))
}

fn connect(host: &str, port: u16, timeout_ms: u32) -> Result<TcpStream, Failure> {
    let client = Client::shared()?;
    if timeout_ms == 0 {
        return Ok(TcpStream::connect((host, port))?);
    }
    let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
    Ok(client.tcp_connect_deadline((host, port), deadline)?)
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
/// As of [`netd_stream_read`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_stream_peek(
    stream: *const TcpStream,
    buffer: *mut c_void,
    len: usize,
) -> isize {
    // SAFETY: needed to use what C holds; both are as promised.
    let (stream, buffer) = unsafe { (&*stream, output(buffer, len)) };
    count(stream.peek(buffer))
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

functions! {
    netd_stream_shutdown_write(stream: TcpStream) -> c_int { status(stream.shutdown_write()) }
    netd_stream_set_read_deadline(stream: TcpStream, deadline_ms: i64) {
        stream.set_read_deadline(deadline(deadline_ms));
    }
    netd_stream_set_write_deadline(stream: TcpStream, deadline_ms: i64) {
        stream.set_write_deadline(deadline(deadline_ms));
    }
    netd_stream_set_nonblocking(stream: TcpStream, nonblocking: c_int) {
        stream.set_nonblocking(nonblocking != 0);
    }
    netd_stream_set_nodelay(stream: TcpStream, nodelay: c_int) -> c_int {
        status(stream.set_nodelay(nodelay != 0))
    }
    netd_stream_set_keepalive(stream: TcpStream, idle_seconds: u32) -> c_int {
        let idle = (idle_seconds > 0).then(|| Duration::from_secs(idle_seconds.into()));
        status(stream.set_keepalive(idle))
    }
    netd_stream_set_linger(stream: TcpStream, seconds: u32) -> c_int {
        status(stream.set_linger(Duration::from_secs(seconds.into())))
    }
    netd_stream_set_ttl(stream: TcpStream, ttl: u8) -> c_int { status(stream.set_ttl(ttl)) }
    netd_stream_local(stream: TcpStream) -> Endpoint { stream.local_addr().into() }
    netd_stream_peer(stream: TcpStream) -> Endpoint { stream.peer_addr().into() }
    netd_stream_fd(stream: TcpStream) -> c_int { stream.as_raw_fd() }
    netd_tcp_accept(listener: TcpListener) -> *mut TcpStream {
        handle(listener.accept().map(|(stream, _)| stream))
    }
    netd_listener_set_deadline(listener: TcpListener, deadline_ms: i64) {
        listener.set_deadline(deadline(deadline_ms));
    }
    netd_listener_set_nonblocking(listener: TcpListener, nonblocking: c_int) {
        listener.set_nonblocking(nonblocking != 0);
    }
    netd_listener_port(listener: TcpListener) -> u16 { listener.local_addr().port() }
    netd_listener_fd(listener: TcpListener) -> c_int { listener.as_raw_fd() }
}

closers! {
    netd_stream_close(TcpStream);
    netd_listener_close(TcpListener);
}

/// As in `netd.h`.
///
/// # Safety
/// `local` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_tcp_listen_on(local: *const c_char, port: u16) -> *mut TcpListener {
    // SAFETY: the promise is this function's own.
    let local = unsafe { address(local) };
    handle(local.and_then(|local| Ok::<_, Failure>(TcpListener::bind_on(local, port)?)))
}

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_tcp_listen(port: u16) -> *mut TcpListener {
    handle(TcpListener::bind(port))
}
