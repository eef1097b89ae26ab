//! The requests that the protocol's library does not have: the device status (vhost-user, VHOST_USER_SET_STATUS and
//! VHOST_USER_GET_STATUS), and a look at whether the connection still stands.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

const SET_STATUS: u32 = 39;
const GET_STATUS: u32 = 40;

/// Version 1 in the two lowest bits of a message's flags.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// `{ u32 request; u32 flags; u32 size; }` in the machine's byte order, then the payload.
const HEADER_BYTES: usize = 12;
const PAYLOAD_BYTES: usize = 8;

/// What lies unread in the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing: it stands.
    Nothing,
    /// Something that nobody asked for.
    Bytes,
    /// Its end.
    End,
}

/// Looks without waiting, and without taking anything.
pub(super) fn peek(socket: &UnixStream) -> io::Result<Pending> {
    let mut byte = [0; 1];
    match recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Ok(Pending::End),
        Ok(_) => Ok(Pending::Bytes),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Pending::Nothing),
        Err(errno) => Err(errno.into()),
    }
}

/// Tells the backend the device status; with `acknowledged` its answer is waited for.
pub(super) fn set_status(mut socket: &UnixStream, status: u8, acknowledged: bool) -> io::Result<()> {
    let flags = VERSION | if acknowledged { FLAG_NEED_REPLY } else { 0 };
    let mut message = [0; HEADER_BYTES + PAYLOAD_BYTES];
    write_header(&mut message, SET_STATUS, flags, PAYLOAD_BYTES);
    message[HEADER_BYTES..].copy_from_slice(&u64::from(status).to_ne_bytes());
    socket.write_all(&message)?;
    match acknowledged {
        true if read_reply(socket, SET_STATUS)? != 0 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }
}

/// Asks the backend for the device status.
pub(super) fn get_status(mut socket: &UnixStream) -> io::Result<u8> {
    let mut message = [0; HEADER_BYTES];
    write_header(&mut message, GET_STATUS, VERSION, 0);
    socket.write_all(&message)?;
    u8::try_from(read_reply(socket, GET_STATUS)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the status has eight bits"))
}

fn write_header(message: &mut [u8], request: u32, flags: u32, payload: usize) {
    message[0..4].copy_from_slice(&request.to_ne_bytes());
    message[4..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&(payload as u32).to_ne_bytes());
}

fn read_reply(mut socket: &UnixStream, request: u32) -> io::Result<u64> {
    let mut reply = [0; HEADER_BYTES + PAYLOAD_BYTES];
    socket.read_exact(&mut reply)?;
    let word = |at: usize| u32::from_ne_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    let fits = word(0) == request
        && word(4) & (VERSION_MASK | FLAG_REPLY) == VERSION | FLAG_REPLY
        && word(8) == PAYLOAD_BYTES as u32;
    if !fits {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its answer is none of vhost-user, version 1",
        ));
    }
    Ok(u64::from(word(12)) | u64::from(word(16)) << 32).map(|value: u64| {
        // Put together in the order of a little-endian machine; on another one the halves are the other way round.
        if cfg!(target_endian = "big") { value.rotate_left(32) } else { value }
    })
}
