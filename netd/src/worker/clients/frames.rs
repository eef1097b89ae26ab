//! Raw frames: opened by clients, offered what is received.

use netd_ipc::ErrorKind;
use netd_ipc::frames::{ADDRESS_BYTES, split};
use netd_policy::{EtherType, Subject};
use rustix::net::SocketType;

use crate::command::Reply;
use crate::worker::clients::calls::quota;
use crate::worker::clients::{Clients, Entry, FRAMES_BYTES, Socket, out_of_descriptors};
use crate::worker::frames::Frames;
use crate::worker::socketpair;

impl Clients {
    pub(in crate::worker) fn open_frames(
        &mut self,
        (token, owner): (u64, Subject),
        ether_type: EtherType,
        (mac, mtu): ([u8; ADDRESS_BYTES], usize),
    ) {
        if self.by_type.contains_key(&ether_type) {
            let message = format!("another program has the frames of type {ether_type}");
            return self.completions.send(token, Reply::Failed(ErrorKind::AddrInUse, message));
        }
        if let Err(exceeded) = self.ledger.reserve(&owner, FRAMES_BYTES) {
            return self.completions.send(token, quota(&exceeded));
        }
        let added = socketpair(SocketType::SEQPACKET).ok().and_then(|(ours, theirs)| {
            let frames = Box::new(Frames::new(ours, ether_type, (mac, mtu), owner.clone()));
            Some((self.add(owner.clone(), Socket::Frames(frames), None)?, theirs))
        });
        let Some((key, descriptor)) = added else {
            self.release(&owner, FRAMES_BYTES);
            return self.completions.send(token, out_of_descriptors());
        };
        self.by_type.insert(ether_type, key);
        let id = self.sockets[key].id;
        self.completions.send(token, Reply::Frames { id, mac, mtu, descriptor });
    }

    /// Offers a received frame to whoever has its type. Without raw frames it costs one comparison.
    #[inline]
    pub(in crate::worker) fn offer_frame(&mut self, frame: &[u8]) {
        if !self.by_type.is_empty() {
            self.deliver_frame(frame);
        }
    }

    fn deliver_frame(&mut self, frame: &[u8]) {
        let ether_type = split(frame).and_then(|(header, _)| EtherType::new(header.ether_type));
        let key = ether_type.and_then(|ether_type| self.by_type.get(&ether_type));
        if let Some(Entry { socket: Socket::Frames(frames), .. }) =
            key.and_then(|key| self.sockets.get_mut(*key))
        {
            frames.deliver(frame);
        }
    }
}
