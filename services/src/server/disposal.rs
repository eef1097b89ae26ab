//! Closing what strangers sent, on a thread of its own: the last close of a file can wait for its file system, which can be the stranger's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::share::Share;

/// A way to that thread. What waits there is bounded by the connections: each is handed over with its share, so a user whose
/// descriptors do not close is soon out of connections, and others are not.
#[derive(Debug, Clone)]
pub(crate) struct Disposal(Sender<(Vec<OwnedFd>, Option<Share>)>);

impl Disposal {
    pub(crate) fn start() -> io::Result<Disposal> {
        let (sender, receiver) = channel::<(Vec<OwnedFd>, Option<Share>)>();
        thread::Builder::new()
            .name("disposal".to_owned())
            .spawn(move || receiver.into_iter().for_each(drop))?;
        Ok(Disposal(sender))
    }

    /// Closes these, and gives the share back then.
    pub(crate) fn close(&self, descriptors: Vec<OwnedFd>, share: Option<Share>) {
        // The thread lives as long as there is a sender.
        let _ = self.0.send((descriptors, share));
    }
}
