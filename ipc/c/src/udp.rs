//! Datagrams.

use std::ffi::{c_char, c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use netd_ipc::UdpSocket;

use crate::deadline;
use crate::failure::{Failure, count, handle, status};
use crate::raw::{Endpoint, address, closers, functions, input, output, string};

/// As in `netd.h`.
#[unsafe(no_mangle)]
pub extern "C" fn netd_udp_bind(port: u16) -> *mut UdpSocket {
    handle(UdpSocket::bind(port))
}

/// As in `netd.h`.
///
/// # Safety
/// `local` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_bind_on(local: *const c_char, port: u16) -> *mut UdpSocket {
    // SAFETY: the promise is this function's own.
    let local = unsafe { address(local) };
    handle(local.and_then(|local| Ok::<_, Failure>(UdpSocket::bind_on(local, port)?)))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `to` is NULL or a string; `payload` has `len` bytes that nobody writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_send_to(
    socket: *const UdpSocket,
    payload: *const c_void,
    len: usize,
    to: *const c_char,
    port: u16,
) -> c_int {
    // SAFETY: needed to use what C holds; all are as promised.
    let (socket, payload, to) = unsafe { (&*socket, input(payload, len), address(to)) };
    status(to.and_then(|to| Ok(socket.send_to(payload, SocketAddr::new(to, port))?)))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `buffer` has `len` bytes that nobody else uses; `from` is NULL or an endpoint's place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_recv_from(
    socket: *const UdpSocket,
    buffer: *mut c_void,
    len: usize,
    from: *mut Endpoint,
) -> isize {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, buffer) = unsafe { (&*socket, output(buffer, len)) };
    let received = socket.recv_from(buffer);
    if let (Ok((_, sender)), false) = (&received, from.is_null()) {
        // SAFETY: needed to answer by a pointer; not NULL, and an endpoint's place as promised.
        unsafe { from.write((*sender).into()) };
    }
    count(received.map(|(count, _)| count))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `host` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_connect(socket: *const UdpSocket, host: *const c_char, port: u16) -> c_int {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, host) = unsafe { (&*socket, string(host)) };
    status(host.and_then(|host| Ok(socket.connect((host, port))?)))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `payload` has `len` bytes that nobody writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_send(
    socket: *const UdpSocket,
    payload: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, payload) = unsafe { (&*socket, input(payload, len)) };
    status(socket.send(payload))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `buffer` has `len` bytes that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_recv(socket: *const UdpSocket, buffer: *mut c_void, len: usize) -> isize {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, buffer) = unsafe { (&*socket, output(buffer, len)) };
    count(socket.recv(buffer))
}

/// As in `netd.h`.
///
/// # Safety
/// The handle is not closed; `group` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_join(socket: *const UdpSocket, group: *const c_char) -> c_int {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, group) = unsafe { (&*socket, address(group)) };
    status(group.and_then(|group| Ok::<(), Failure>(socket.join_multicast(group)?)))
}

/// As in `netd.h`.
///
/// # Safety
/// As of [`netd_udp_join`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netd_udp_leave(socket: *const UdpSocket, group: *const c_char) -> c_int {
    // SAFETY: needed to use what C holds; both are as promised.
    let (socket, group) = unsafe { (&*socket, address(group)) };
    status(group.and_then(|group| Ok::<(), Failure>(socket.leave_multicast(group)?)))
}

functions! {
    netd_udp_disconnect(socket: UdpSocket) -> c_int { status(socket.disconnect()) }
    netd_udp_set_read_deadline(socket: UdpSocket, deadline_ms: i64) {
        socket.set_read_deadline(deadline(deadline_ms));
    }
    netd_udp_set_write_deadline(socket: UdpSocket, deadline_ms: i64) {
        socket.set_write_deadline(deadline(deadline_ms));
    }
    netd_udp_set_nonblocking(socket: UdpSocket, nonblocking: c_int) {
        socket.set_nonblocking(nonblocking != 0);
    }
    netd_udp_set_broadcast(socket: UdpSocket, allowed: c_int) -> c_int {
        status(socket.set_broadcast(allowed != 0))
    }
    netd_udp_set_ttl(socket: UdpSocket, ttl: u8) { socket.set_ttl(ttl); }
    netd_udp_set_dont_fragment(socket: UdpSocket, refused: c_int) -> c_int {
        status(socket.set_dont_fragment(refused != 0))
    }
    netd_udp_set_multicast_ttl(socket: UdpSocket, ttl: u8) -> c_int { status(socket.set_multicast_ttl(ttl)) }
    netd_udp_local(socket: UdpSocket) -> Endpoint { socket.local_addr().into() }
    netd_udp_fd(socket: UdpSocket) -> c_int { socket.as_raw_fd() }
}

closers! {
    netd_udp_close(UdpSocket);
}
