//! Raw frames as they cross a descriptor: each message is an Ethernet frame without its check sequence (IEEE 802.3, 3.1.1).
//!
//! `{ to [6], from [6], EtherType u16 big-endian }`, then the payload.

/// Of a hardware address.
pub const ADDRESS_BYTES: usize = 6;
/// Of the header.
pub const HEADER_BYTES: usize = 2 * ADDRESS_BYTES + 2;

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whom it is for.
    pub to: [u8; ADDRESS_BYTES],
    /// Who sent it.
    pub from: [u8; ADDRESS_BYTES],
    /// What the payload is.
    pub ether_type: u16,
}

impl Header {
    /// As it stands in a frame.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..ADDRESS_BYTES].copy_from_slice(&self.to);
        bytes[ADDRESS_BYTES..2 * ADDRESS_BYTES].copy_from_slice(&self.from);
        bytes[2 * ADDRESS_BYTES..].copy_from_slice(&self.ether_type.to_be_bytes());
        bytes
    }

    /// Whether it is for a group, or for everybody on the link (IEEE 802, 8.2: the first bit on the wire).
    #[must_use]
    pub fn is_for_many(&self) -> bool {
        self.to[0] & 1 == 1
    }
}

/// A frame's header and payload; none if it is shorter than a header.
#[must_use]
pub fn split(frame: &[u8]) -> Option<(Header, &[u8])> {
    let (to, rest) = frame.split_first_chunk()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (ether_type, payload) = rest.split_first_chunk()?;
    Some((Header { to: *to, from: *from, ether_type: u16::from_be_bytes(*ether_type) }, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_written_is_read_the_same_and_less_is_none() {
        let header = Header { to: [0xff; 6], from: [2, 0, 0, 0, 0, 1], ether_type: 0x88b5 };
        let mut frame = header.encode().to_vec();
        assert_eq!(frame[12..], [0x88, 0xb5]);
        assert_eq!(split(&frame[..13]), None);
        frame.extend(b"hello");
        assert_eq!(split(&frame), Some((header, &b"hello"[..])));
        assert!(header.is_for_many());
        assert!(!Header { to: header.from, ..header }.is_for_many());
    }
}
