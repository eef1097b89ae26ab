//! Sending and receiving descriptors beside bytes: SCM_RIGHTS (unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};

/// Most descriptors in one message: the kernel's SCM_MAX_FD. A receiver with less room makes the kernel close the rest
/// inside the receiver's system call, and closing can block.
const DESCRIPTORS_MAX: usize = 253;

/// Most descriptors that a message of ours carries.
const SEND_MAX: usize = 4;

/// Sends bytes, with descriptors beside the first of them. Returns how many bytes went; if any did, the descriptors did.
///
/// # Errors
/// As sendmsg(2), and `EINVAL` for more descriptors than a message of ours carries; a broken pipe is never a signal.
pub fn send(
    socket: impl AsFd,
    bytes: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SEND_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    retry_on_intr(|| sendmsg(socket.as_fd(), bytes, &mut control, flags | SendFlags::NOSIGNAL))
}

/// Receives bytes and whatever descriptors came with them, which no child process will inherit. Returns how many bytes
/// came; 0 at the end.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [IoSliceMut<'_>],
    descriptors: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        retry_on_intr(|| recvmsg(socket.as_fd(), bytes, &mut control, flags | RecvFlags::CMSG_CLOEXEC))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

/// Makes bytes that the other end sends with MSG_OOB arrive among the others. Whoever reads descriptors that a stranger may have sent
/// wants this: the kernel drops an urgent byte that is in the way inside of recvmsg(2), with the descriptors beside it, and closing
/// them can block.
///
/// # Errors
/// As setsockopt(2).
pub fn take_urgent_inline(socket: impl AsFd) -> Result<(), Errno> {
    sockopt::set_socket_oobinline(socket, true)
}

#[cfg(test)]
mod tests {
    use rustix::io::{FdFlags, fcntl_getfd, read, write};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn receive_after_send_gets_working_descriptors_that_close_on_exec() {
        let (a, b) = pair(SocketType::STREAM);
        let (x, y) = pair(SocketType::STREAM);
        send(&a, &[IoSlice::new(b"hello")], &[x.as_fd()], SendFlags::empty()).unwrap();
        drop(x);
        let (mut bytes, mut descriptors) = ([0; 16], Vec::new());
        let count =
            receive(&b, &mut [IoSliceMut::new(&mut bytes)], &mut descriptors, RecvFlags::empty()).unwrap();
        assert_eq!(&bytes[..count], b"hello");
        assert_eq!(descriptors.len(), 1);
        assert!(fcntl_getfd(&descriptors[0]).unwrap().contains(FdFlags::CLOEXEC));
        write(&descriptors[0], b"!").unwrap();
        assert_eq!(read(&y, &mut bytes).unwrap(), 1);
    }

    #[test]
    fn receive_without_descriptors_leaves_the_list_empty() {
        let (a, b) = pair(SocketType::SEQPACKET);
        send(&a, &[IoSlice::new(b"one"), IoSlice::new(b"two")], &[], SendFlags::empty()).unwrap();
        let (mut bytes, mut descriptors) = ([0; 16], Vec::new());
        let count =
            receive(&b, &mut [IoSliceMut::new(&mut bytes)], &mut descriptors, RecvFlags::empty()).unwrap();
        assert_eq!((&bytes[..count], descriptors.len()), (&b"onetwo"[..], 0));
    }

    #[test]
    fn send_of_too_many_descriptors_is_refused() {
        let (a, _b) = pair(SocketType::STREAM);
        let many = [a.as_fd(); SEND_MAX + 60];
        assert_eq!(send(&a, &[IoSlice::new(b"x")], &many, SendFlags::empty()), Err(Errno::INVAL));
    }

    #[test]
    fn send_to_a_closed_peer_is_an_error_and_no_signal() {
        let (a, b) = pair(SocketType::STREAM);
        drop(b);
        assert_eq!(send(&a, &[IoSlice::new(b"x")], &[], SendFlags::empty()), Err(Errno::PIPE));
    }
}
