//! Closing what clients sent or held, on a thread of its own.
//!
//! Closing a descriptor that a stranger passed can block for as long as the stranger likes (a FUSE file, a socket with
//! SO_LINGER), and so can closing a connection with such descriptors unread in its queue. A connection counts towards
//! the limits until it is closed, so a client that makes this thread wait keeps no more than its share.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::Error;

/// A connection that is over, with the descriptors that came over it.
struct Remains {
    uid: u32,
    descriptors: Vec<OwnedFd>,
}

/// The control thread's handle of the closing thread; that one ends when this is dropped and its queue is empty.
pub(super) struct Disposal {
    remains: Sender<Remains>,
    closed: Receiver<u32>,
}

impl Disposal {
    /// Starts the thread. `wake` is called after each closing.
    pub(super) fn start(wake: impl Fn() + Send + 'static) -> Result<Disposal, Error> {
        // Unbounded channels with bounded content: at most as many entries as the server lets connections exist.
        let (remains, incoming) = channel::<Remains>();
        let (report, closed) = channel();
        let close = move || {
            for Remains { uid, descriptors } in incoming {
                drop(descriptors);
                if report.send(uid).is_ok() {
                    wake();
                }
            }
        };
        thread::Builder::new().name("netd-close".to_owned()).spawn(close).map_err(Error::Thread)?;
        Ok(Disposal { remains, closed })
    }

    /// Hands over one connection of `uid`.
    pub(super) fn close(&self, uid: u32, descriptors: Vec<OwnedFd>) {
        // The thread ends only after this handle does. Were it gone all the same, they would be closed here.
        let _ = self.remains.send(Remains { uid, descriptors });
    }

    /// The users of connections that were closed since the last time, once per connection.
    pub(super) fn closed(&self) -> impl Iterator<Item = u32> {
        self.closed.try_iter()
    }
}
