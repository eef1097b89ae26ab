//! The stack's way to the driver's transmit queue: it writes straight into buffers that the device will read.

use netd_stack::Egress;
use netd_virtqueue::TxQueue;

/// The shortest Ethernet frame without its checksum (IEEE 802.3, 3.2.7). Real devices pad; a software link would not.
const FRAME_LEN_MIN: usize = 60;

pub(super) struct TxEgress<'a>(pub(super) &'a mut TxQueue);

impl Egress for TxEgress<'_> {
    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let Some(mut frame) = self.0.lend(len.max(FRAME_LEN_MIN)) else { return false };
        let (bytes, padding) = frame.bytes().split_at_mut(len);
        padding.fill(0);
        if fill(bytes) {
            frame.send();
            true
        } else {
            false
        }
    }
}
