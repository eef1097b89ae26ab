//! The stack's way to the driver's transmit queue: it writes straight into buffers that the device will read, and leaves to the device
//! what that does better. And the way of what the device says about received frames to the stack.

use netd_stack::{Egress, Integrity, Left};
use netd_virtqueue::{Checksum, Offload, Protocol, Segmentation, TxQueue};

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
        self.transmit_leaving(len, |buffer| fill(buffer).then_some(Left::Nothing))
    }

    fn completes_checksums(&self) -> bool {
        self.0.offloads().checksum
    }

    fn long_frame_len(&self, v6: bool) -> Option<usize> {
        let offloads = self.0.offloads();
        let cuts = if v6 { offloads.tso6 } else { offloads.tso4 };
        self.0.long_frame_len().filter(|_| cuts)
    }

    fn transmit_leaving(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Option<Left>) -> bool {
        let lent = match len > self.0.frame_len_max() {
            true => self.0.lend_long(len),
            false => self.0.lend(len),
        };
        let Some(mut frame) = lent else { return false };
        let Some(left) = fill(frame.bytes()) else { return false };
        let offload = offload(left);
        self.1.offer(Direction::Sent, frame.bytes(), offload.checksum);
        frame.send_for(&offload);
        true
    }
}

/// The stack's word in the driver's.
fn offload(left: Left) -> Offload {
    match left {
        Left::Nothing => Offload::NONE,
        Left::Checksum { start, offset } => {
            Offload { checksum: Checksum::Partial { start, offset }, segmentation: None }
        }
        Left::Segments { start, offset, header_len, segment_len, v6 } => {
            let protocol = if v6 { Protocol::Tcp6 } else { Protocol::Tcp4 };
            let segmentation = Some(Segmentation { protocol, header_len, segment_len });
            Offload { checksum: Checksum::Partial { start, offset }, segmentation }
        }
    }
}

/// The driver's word in the stack's. That segments were joined changes nothing for the stack.
pub(super) fn integrity(offload: Offload) -> Integrity {
    match offload.checksum {
        Checksum::Complete => Integrity::Unknown,
        Checksum::Verified => Integrity::Verified,
        Checksum::Partial { start, offset } => Integrity::Partial { start, offset },
    }
}
