//! Where frames go, and what the device does on the way.

use core::num::NonZeroU16;

/// What of a frame that was written is left to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing: it is as it goes over the wire.
    Nothing,
    /// The checksum `offset` bytes into the transport header, which begins at `start` and goes on to the end of the frame. The field
    /// holds the sum of the pseudo-header.
    Checksum {
        /// Where the transport header begins in the frame.
        start: u16,
        /// Where in it the checksum is.
        offset: u16,
    },
    /// The same, and the frame is a segment of TCP to be cut into pieces.
    Segments {
        /// Where the TCP header begins in the frame.
        start: u16,
        /// Where in it the checksum is.
        offset: u16,
        /// Bytes of all headers, which each piece begins with.
        header_len: u16,
        /// Payload of each piece but the last.
        segment_len: NonZeroU16,
        /// Whether it is an IPv6 packet.
        v6: bool,
    },
}

/// The device's transmit side, as the stack sees it: the daemon's over a driver's queue, a test's over a `Vec`.
pub trait Egress {
    /// Whether a buffer is free now.
    fn ready(&self) -> bool;

    /// Lends a buffer of exactly `len` bytes. `fill` writes an Ethernet frame and returns true to send it, false to give the
    /// buffer back. Returns false when no buffer was free (then `fill` was not called) or when `fill` returned false.
    fn transmit(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool;

    /// Whether the device completes the checksums of TCP and UDP, at the moment.
    fn completes_checksums(&self) -> bool {
        false
    }

    /// The longest frame that the device would take now to cut it into segments of TCP over this version of IP. It says `None` too when
    /// buffers for such frames are used up: what is to be sent then leaves in short ones.
    fn long_frame_len(&self, v6: bool) -> Option<usize> {
        let _ = v6;
        None
    }

    /// Like [`transmit`](Self::transmit), for a frame of which `fill` says what it leaves to the device: `None` gives the buffer back.
    /// Nothing is left that the methods above do not promise.
    fn transmit_leaving(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Option<Left>) -> bool {
        self.transmit(len, |buffer| fill(buffer).is_some())
    }
}

/// What the device says of a received frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// Nothing: it must be verified.
    #[default]
    Unknown,
    /// The device found it right.
    Verified,
    /// It was never computed, since the frame did not leave its host: the field `offset` bytes into the transport header at `start` holds
    /// something else.
    Partial {
        /// Where the transport header begins in the frame.
        start: u16,
        /// Where in it the checksum is.
        offset: u16,
    },
}
