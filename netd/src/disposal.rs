//! Closing what clients sent or held, on threads of their own.
//!
//! Closing a descriptor that a stranger passed can block for as long as the stranger likes (a FUSE file, a TCP socket with
//! SO_LINGER whose peer does not read), and so can closing a Unix socket with such descriptors unread in its queue. So
//! neither the control thread nor a worker ever closes an end of a client's socket itself. Each user has a thread of its
//! own, so that nobody waits behind another user's descriptors; and what is being closed still counts towards its user's
//! bounds, so that nobody has more of it than it may have. Lingering is switched off before, where it is found, so that
//! a flood of such descriptors is gone as fast as it comes.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use netd_ipc::passing;
use rustix::net::{AddressFamily, RecvFlags, sockopt};

/// Threads kept although they have nothing to close: enough for the users that are busy at the same time, and cheap.
const IDLE_MAX: usize = 8;

/// Descriptors that are looked through per closing, those within others included: a socket buffer's worth of messages that are
/// full of them. Beyond, a client makes its own thread wait.
const LOOKED_THROUGH_MAX: usize = 64 * 1024;
/// Messages without descriptors that are passed over: a socket buffer's worth of small ones. Somebody may be refilling it.
const MESSAGES_MAX: usize = 512;

/// Bytes per read, of which none is wanted.
const READ_BYTES: usize = 64 * 1024;

/// What is to be closed, and what is told back once it is: whose it was, and what it was charged.
#[derive(Debug)]
struct Remains<T> {
    uid: u32,
    charge: T,
    descriptors: Vec<OwnedFd>,
}

/// One user's thread, which ends when this is dropped and its queue is empty.
#[derive(Debug)]
struct Closer<T> {
    remains: Sender<Remains<T>>,
    /// Not told back yet.
    pending: usize,
}

/// The owner's handle of the closing threads. `T` is what the owner gives back to a user once something of its is closed.
#[derive(Debug)]
pub(crate) struct Disposal<T> {
    waker: Arc<mio::Waker>,
    closers: HashMap<u32, Closer<T>>,
    /// For users whose own thread cannot be had.
    spare: Sender<Remains<T>>,
    report: Sender<(u32, T)>,
    closed: Receiver<(u32, T)>,
}

impl<T: Send + 'static> Disposal<T> {
    /// Starts with one thread. `waker` is called after each closing.
    ///
    /// # Errors
    /// The thread cannot be had.
    pub(crate) fn start(waker: Arc<mio::Waker>) -> io::Result<Disposal<T>> {
        // Unbounded channels with bounded content: as many entries as connections and sockets may exist.
        let (report, closed) = channel();
        let spare = start_closer(report.clone(), Arc::clone(&waker))?;
        Ok(Disposal { waker, closers: HashMap::new(), spare, report, closed })
    }

    /// Hands over descriptors of `uid`.
    pub(crate) fn close(&mut self, uid: u32, charge: T, descriptors: Vec<OwnedFd>) {
        let remains = Remains { uid, charge, descriptors };
        if let Some(closer) = self.closers.get_mut(&uid) {
            closer.pending += 1;
            // A thread ends only after its handle does. Were it gone all the same, they would be closed here.
            let _ = closer.remains.send(remains);
            return;
        }
        match start_closer(self.report.clone(), Arc::clone(&self.waker)) {
            Ok(sender) => {
                let _ = sender.send(remains);
                self.closers.insert(uid, Closer { remains: sender, pending: 1 });
            }
            Err(error) => {
                tracing::warn!(%error, uid, "no thread to close this user's descriptors; the common one does");
                let _ = self.spare.send(remains);
            }
        }
    }

    /// One closing that is done since the last time: whose it was, and what it was charged.
    pub(crate) fn next_closed(&mut self) -> Option<(u32, T)> {
        let (uid, charge) = self.closed.try_recv().ok()?;
        let crowded = self.closers.len() > IDLE_MAX;
        if let Some(closer) = self.closers.get_mut(&uid) {
            closer.pending = closer.pending.saturating_sub(1);
            if closer.pending == 0 && crowded {
                self.closers.remove(&uid);
            }
        }
        Some((uid, charge))
    }
}

fn start_closer<T: Send + 'static>(
    report: Sender<(u32, T)>,
    waker: Arc<mio::Waker>,
) -> io::Result<Sender<Remains<T>>> {
    let (sender, remains) = channel::<Remains<T>>();
    let close = move || {
        let mut bytes = vec![0; READ_BYTES];
        for Remains { uid, charge, descriptors } in remains {
            close(descriptors, &mut bytes);
            if report.send((uid, charge)).is_ok() {
                // Failing to wake delays what the owner's next turn does anyway.
                let _ = waker.wake();
            }
        }
    };
    thread::Builder::new().name("netd-close".to_owned()).spawn(close)?;
    Ok(sender)
}

/// Closes descriptors, and what is unread in them, without lingering. What is within others is taken out a message at a time, so
/// that a flood of descriptors never fills the daemon's own table.
fn close(mut descriptors: Vec<OwnedFd>, bytes: &mut [u8]) {
    for _ in 0..LOOKED_THROUGH_MAX {
        let Some(descriptor) = descriptors.pop() else { return };
        // Fails where nothing can linger.
        let _ = sockopt::set_socket_linger(&descriptor, None);
        let mut inside = Vec::new();
        if take_out(&descriptor, bytes, &mut inside) {
            // It may hold more.
            descriptors.push(descriptor);
            descriptors.append(&mut inside);
        }
    }
}

/// Takes the next message with descriptors out of a Unix socket's queue; false if there is none.
fn take_out(descriptor: &OwnedFd, bytes: &mut [u8], inside: &mut Vec<OwnedFd>) -> bool {
    if !sockopt::socket_domain(descriptor).is_ok_and(|domain| domain == AddressFamily::UNIX) {
        return false;
    }
    for _ in 0..MESSAGES_MAX {
        match passing::receive(descriptor, &mut [IoSliceMut::new(bytes)], inside, RecvFlags::DONTWAIT) {
            Ok(_) if !inside.is_empty() => return true,
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use rustix::net::{SendFlags, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Longer than any busy machine takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn disposal() -> (mio::Poll, Disposal<u64>) {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        (poll, Disposal::start(waker).unwrap())
    }

    fn next(disposal: &mut Disposal<u64>) -> (u32, u64) {
        let begun = Instant::now();
        loop {
            if let Some(closed) = disposal.next_closed() {
                return closed;
            }
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn harmless() -> Vec<OwnedFd> {
        vec![UnixStream::pair().unwrap().0.into()]
    }

    /// A TCP socket whose last close waits for a peer that does not read, and that peer.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        sockopt::set_socket_linger(&stream, Some(Duration::from_secs(3600))).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65_536]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        (stream.into(), peer)
    }

    /// A descriptor whose close blocks whatever is tried before: behind more messages than are passed over.
    fn buried(stuck: OwnedFd) -> OwnedFd {
        // Of a stream, small messages are read in one go.
        let (holder, feeder) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_send_buffer_size(&feeder, 4 << 20).unwrap();
        for _ in 0..=MESSAGES_MAX {
            pass(&feeder, &[]);
        }
        pass(&feeder, &[stuck.as_fd()]);
        // From now on the last one is in the queue.
        drop(stuck);
        holder
    }

    fn pass(to: impl AsFd, descriptors: &[BorrowedFd<'_>]) {
        passing::send(to, &[IoSlice::new(b"!")], descriptors, SendFlags::DONTWAIT).unwrap();
    }

    #[test]
    fn lingering_is_switched_off_also_of_what_is_unread_within() {
        let (_poll, mut disposal) = disposal();
        let (stuck, _peer) = lingering();
        disposal.close(1000, 1, vec![stuck]);
        let ((stuck, _other_peer), (holder, feeder)) = (lingering(), UnixStream::pair().unwrap());
        let (outer, outer_feeder) = UnixStream::pair().unwrap();
        pass(&feeder, &[stuck.as_fd()]);
        pass(&outer_feeder, &[holder.as_fd()]);
        drop((stuck, holder));
        disposal.close(1000, 2, vec![outer.into()]);
        assert_eq!([next(&mut disposal), next(&mut disposal)], [(1000, 1), (1000, 2)]);
    }

    #[test]
    fn close_that_blocks_holds_up_its_own_user_alone() {
        let (_poll, mut disposal) = disposal();
        let (stuck, peer) = lingering();
        disposal.close(1000, 1, vec![buried(stuck)]);
        disposal.close(1000, 2, harmless());
        for charge in 0..100 {
            disposal.close(1001, charge, harmless());
            assert_eq!(next(&mut disposal), (1001, charge));
        }
        // A reset by the peer ends the wait.
        drop(peer);
        assert_eq!([next(&mut disposal), next(&mut disposal)], [(1000, 1), (1000, 2)]);
    }

    #[test]
    fn many_users_leave_few_threads() {
        let (_poll, mut disposal) = disposal();
        for uid in 0..100 {
            disposal.close(uid, 7, harmless());
        }
        (0..100).for_each(|_| assert_eq!(next(&mut disposal).1, 7));
        assert!(disposal.closers.len() <= IDLE_MAX, "{}", disposal.closers.len());
    }
}
