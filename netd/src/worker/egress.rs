//! The stack's way to the driver's transmit queue: it writes straight into buffers that the device will read.

use netd_stack::Egress;
use netd_virtqueue::TxQueue;

use crate::capture::{Direction, Taps};

/// Frames go out as long as they are. To pad them to the 60 bytes of IEEE 802.3 is up to a device with a real wire, as
/// for every virtio driver; peers in software (passt for one) take padding for payload.
///
/// Captures are offered what goes out.
pub(super) struct TxEgress<'a>(pub(super) &'a mut TxQueue, pub(super) &'a mut Taps);

impl Egress for TxEgress<'_> {
    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let Some(mut frame) = self.0.lend(len) else { return false };
        if fill(frame.bytes()) {
            self.1.offer(Direction::Sent, frame.bytes());
            frame.send();
            true
        } else {
            false
        }
    }
}
