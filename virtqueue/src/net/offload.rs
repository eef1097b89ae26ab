//! What one side of a device leaves to the other: the fields of `struct virtio_net_hdr` (virtio 1.3, 5.1.6) as values.
//!
//! The same header goes both ways. A driver says which checksum the device has to complete and how a long segment is to be cut; a device
//! says which checksum was never computed because the frame did not leave the host, and that a segment is one of several that it joined.
//! What comes from the device is compared with the frame before it is believed.

use std::num::NonZeroU16;

/// Bytes of the fields; `num_buffers` and what follows it are not among them.
pub const OFFLOAD_BYTES: usize = 10;

/// `flags` (5.1.6.1): the checksum from `csum_start` on is to be completed; or it was verified.
const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
/// `gso_type` (5.1.6.1).
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: some of the segment says CWR. It changes nothing for us, who neither cut nor count marks.
const GSO_ECN: u8 = 0x80;

/// An Ethernet header: no checksum begins before its end.
const ETHERNET_HEADER: usize = 14;

/// What is known of a frame's transport checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame, and nobody has looked.
    #[default]
    Complete,
    /// It is in the frame, and the device found it right.
    Verified,
    /// The field at `start + offset` holds the sum of the pseudo-header only; the rest, from `start` to the end of the frame, is to be
    /// added by whoever puts it on a wire. A frame that never was on one can hardly have been damaged.
    Partial {
        /// Where the transport header begins in the frame.
        start: u16,
        /// Where in it the checksum is.
        offset: u16,
    },
}

/// The sum of RFC 1071 over `bytes`, not complemented.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    let mut sum = pairs + rest.first().map_or(0, |last| u64::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Checksum {
    /// Does what is left of a frame's checksum. `None`: it lies outside of the frame.
    pub fn complete(self, frame: &mut [u8]) -> Option<()> {
        let Checksum::Partial { start, offset } = self else { return Some(()) };
        let covered = frame.get_mut(usize::from(start)..)?;
        let checksum = !ones_complement_sum(covered);
        // A sum of zero means in UDP that there is none; its other form says the same number (RFC 768).
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        let offset = usize::from(offset);
        covered.get_mut(offset..offset + 2)?.copy_from_slice(&checksum.to_be_bytes());
        Some(())
    }
}

/// What a long segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either. This driver never accepts it; a kernel's tap may hand it over all the same.
    Udp,
}

/// How a long segment is to be cut, or was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// What it carries.
    pub protocol: Protocol,
    /// Bytes before the payload. Only a hint (5.1.6.2): whoever cuts reads the headers.
    pub header_len: u16,
    /// Payload of each piece but the last.
    pub segment_len: NonZeroU16,
}

/// Everything that a header says about its frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// About its checksum.
    pub checksum: Checksum,
    /// About its length.
    pub segmentation: Option<Segmentation>,
}

/// A header that cannot belong to its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the virtio-net header contradicts its frame")]
pub struct BadHeader;

impl Offload {
    /// Nothing is left to do: the frame is as it goes over a wire.
    pub const NONE: Offload = Offload { checksum: Checksum::Complete, segmentation: None };

    /// As it stands in a header.
    #[inline]
    pub fn encode(&self) -> [u8; OFFLOAD_BYTES] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Verified => (F_DATA_VALID, 0, 0),
            Checksum::Partial { start, offset } => (F_NEEDS_CSUM, start, offset),
        };
        let (kind, header_len, segment_len) = match self.segmentation {
            None => (GSO_NONE, 0, 0),
            Some(Segmentation { protocol, header_len, segment_len }) => {
                let kind = match protocol {
                    Protocol::Tcp4 => GSO_TCPV4,
                    Protocol::Tcp6 => GSO_TCPV6,
                    Protocol::Udp => GSO_UDP_L4,
                };
                (kind, header_len, segment_len.get())
            }
        };
        let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, field) in [header_len, segment_len, start, offset].into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads a header that stands before a frame of `frame_len` bytes.
    ///
    /// # Errors
    ///
    /// When it names a checksum outside of the frame, a kind of segment that nobody negotiates, or pieces without payload.
    #[inline]
    pub fn decode(bytes: &[u8; OFFLOAD_BYTES], frame_len: usize) -> Result<Self, BadHeader> {
        // Nearly every frame without offloads.
        if bytes[..2] == [0, GSO_NONE] {
            return Ok(Self::NONE);
        }
        let field = |at: usize| u16::from_le_bytes([bytes[2 + 2 * at], bytes[3 + 2 * at]]);
        let [header_len, segment_len, start, offset] = [field(0), field(1), field(2), field(3)];
        let checksum = match bytes[0] {
            flags if flags & F_NEEDS_CSUM != 0 => {
                let inside = usize::from(start) + usize::from(offset) + 2 <= frame_len;
                if !inside || usize::from(start) < ETHERNET_HEADER {
                    return Err(BadHeader);
                }
                Checksum::Partial { start, offset }
            }
            flags if flags & F_DATA_VALID != 0 => Checksum::Verified,
            // Bits of features that were not negotiated mean nothing (5.1.6.4.2).
            _ => Checksum::Complete,
        };
        let protocol = match bytes[1] & !GSO_ECN {
            GSO_NONE => return Ok(Self { checksum, segmentation: None }),
            GSO_TCPV4 => Protocol::Tcp4,
            GSO_TCPV6 => Protocol::Tcp6,
            GSO_UDP_L4 => Protocol::Udp,
            _ => return Err(BadHeader),
        };
        let segment_len = NonZeroU16::new(segment_len).ok_or(BadHeader)?;
        Ok(Self { checksum, segmentation: Some(Segmentation { protocol, header_len, segment_len }) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_of_linux_for_a_long_segment_reads_as_what_it_is() {
        // As virtio_net_hdr_from_skb writes it: NEEDS_CSUM, TCPV4, hdr_len 66, gso_size 1448, csum_start 34, csum_offset 16.
        let bytes = [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0];
        let offload = Offload::decode(&bytes, 9000).unwrap();
        assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 16 });
        let segmentation = offload.segmentation.unwrap();
        assert_eq!((segmentation.protocol, segmentation.segment_len.get()), (Protocol::Tcp4, 1448));
        assert_eq!(offload.encode(), bytes);
    }

    #[test]
    fn header_that_contradicts_its_frame_is_refused() {
        // A checksum beyond the end, one before the IP header, fragments of UDP, an unknown kind, pieces without payload.
        for bytes in [
            [1, 0, 0, 0, 0, 0, 50, 0, 9, 0],
            [1, 0, 0, 0, 0, 0, 13, 0, 16, 0],
            [1, 3, 0, 0, 100, 0, 34, 0, 6, 0],
            [1, 9, 0, 0, 100, 0, 34, 0, 16, 0],
            [1, 1, 0, 0, 0, 0, 34, 0, 16, 0],
        ] {
            assert_eq!(Offload::decode(&bytes, 60), Err(BadHeader), "{bytes:?}");
        }
        assert!(Offload::decode(&[1, 0, 0, 0, 0, 0, 50, 0, 8, 0], 60).is_ok());
    }

    #[test]
    fn sum_that_would_say_that_there_is_none_is_written_in_its_other_form() {
        let mut frame = vec![0; 44];
        frame[40..42].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(Checksum::Partial { start: 34, offset: 6 }.complete(&mut frame), Some(()));
        assert_eq!(frame[40..42], [0xff, 0xff]);
        assert_eq!(Checksum::Partial { start: 34, offset: 9 }.complete(&mut frame), None);
    }

    proptest! {
        /// Whatever stands in a header is refused, or lies within the frame and survives being written again.
        #[test]
        fn any_header_is_refused_or_within_its_frame(bytes: [u8; OFFLOAD_BYTES], frame_len in 0usize..70_000) {
            let Ok(offload) = Offload::decode(&bytes, frame_len) else { return Ok(()) };
            if let Checksum::Partial { start, offset } = offload.checksum {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame_len);
            }
            prop_assert_eq!(Offload::decode(&offload.encode(), frame_len), Ok(offload));
        }
    }
}
