//! What a link leaves to the device, done in software: checksums that are completed, and long segments that are cut.
//!
//! A driver that did not agree to receive such frames gets them as they would have come over a wire.

use netd_virtqueue::{Checksum, Offload, Protocol, Segmentation, ones_complement_sum as sum};

/// An Ethernet header.
const ETHERNET: usize = 14;
const IPV4_HEADER_MIN: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const TCP_HEADER_MIN: usize = 20;
/// Flags of TCP that belong to the end of a segment (FIN, PSH), and to its beginning (CWR).
const TCP_LAST: u8 = 0x01 | 0x08;
const TCP_FIRST: u8 = 0x80;

/// Gives `frame` to `take` as it would go over a wire: complete, and in pieces if it is a long segment. `None`: its headers are not
/// what `offload` says, so that it is nothing at all.
pub(crate) fn finish(frame: &mut [u8], offload: &Offload, mut take: impl FnMut(&[u8])) -> Option<()> {
    match (offload.segmentation, offload.checksum) {
        (Some(segmentation), Checksum::Partial { start, .. }) => {
            cut(frame, &segmentation, usize::from(start), take)
        }
        // Who joins segments has not computed their checksum.
        (Some(_), Checksum::Complete | Checksum::Verified) => None,
        (None, checksum) => {
            checksum.complete(frame)?;
            take(frame);
            Some(())
        }
    }
}

/// Cuts a long segment, whose transport header begins at `start`.
fn cut(frame: &[u8], how: &Segmentation, start: usize, mut take: impl FnMut(&[u8])) -> Option<()> {
    let v4 = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] if start >= ETHERNET + IPV4_HEADER_MIN => true,
        [0x86, 0xdd] if start >= ETHERNET + IPV6_HEADER => false,
        _ => return None,
    };
    let tcp = how.protocol != Protocol::Udp;
    let header_len = match tcp {
        true => usize::from(frame.get(start + 12)? >> 4) * 4,
        false => UDP_HEADER,
    };
    if tcp && header_len < TCP_HEADER_MIN {
        return None;
    }
    let (headers, payload) = frame.split_at_checked(start + header_len)?;
    let step = usize::from(how.segment_len.get());
    let pieces = payload.len().div_ceil(step).max(1);
    let mut piece = Vec::with_capacity(headers.len() + step);
    for number in 0..pieces {
        let from = number * step;
        let bytes = &payload[from..payload.len().min(from + step)];
        piece.clear();
        piece.extend_from_slice(headers);
        piece.extend_from_slice(bytes);
        mend_ip(&mut piece, v4, number as u16);
        if tcp {
            mend_tcp(&mut piece[start..], from as u32, (number == 0, number + 1 == pieces));
        } else {
            let len = (UDP_HEADER + bytes.len()) as u16;
            piece[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
        }
        let offset: u16 = if tcp { 16 } else { 6 };
        let seed = pseudo(&piece, v4, tcp, piece.len() - start);
        piece[start + usize::from(offset)..][..2].copy_from_slice(&seed.to_be_bytes());
        Checksum::Partial { start: start as u16, offset }.complete(&mut piece)?;
        take(&piece);
    }
    Some(())
}

/// Lengths, identification and checksum of the IP header of piece `number`.
fn mend_ip(piece: &mut [u8], v4: bool, number: u16) {
    let ip_len = piece.len() - ETHERNET;
    let ip = &mut piece[ETHERNET..];
    if !v4 {
        ip[4..6].copy_from_slice(&((ip_len - IPV6_HEADER) as u16).to_be_bytes());
        return;
    }
    ip[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
    let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(number);
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[10..12].fill(0);
    let header_len = (usize::from(ip[0] & 15) * 4).clamp(IPV4_HEADER_MIN, ip_len);
    let checksum = !sum(&ip[..header_len]);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Sequence number and flags of a piece that begins `from` octets into its segment.
fn mend_tcp(tcp: &mut [u8], from: u32, (first, last): (bool, bool)) {
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(from);
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    if !first {
        tcp[13] &= !TCP_FIRST;
    }
    if !last {
        tcp[13] &= !TCP_LAST;
    }
}

/// The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo(frame: &[u8], v4: bool, tcp: bool, len: usize) -> u16 {
    let addresses =
        if v4 { &frame[ETHERNET + 12..ETHERNET + 20] } else { &frame[ETHERNET + 8..ETHERNET + 40] };
    let protocol = if tcp { 6 } else { 17 };
    let mut sum = u32::from(sum(addresses)) + protocol + len as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;

    /// A frame of TCP or UDP, whose checksum is left, and what there is to do about it.
    fn long(v4: bool, tcp: bool, payload: &[u8], segment_len: u16) -> (Vec<u8>, Offload) {
        let transport = if tcp { TCP_HEADER_MIN + 12 } else { UDP_HEADER };
        let ip = if v4 { IPV4_HEADER_MIN } else { IPV6_HEADER };
        let start = ETHERNET + ip;
        let mut frame = vec![0; start + transport];
        frame.extend_from_slice(payload);
        frame[12..14].copy_from_slice(if v4 { &[8, 0] } else { &[0x86, 0xdd] });
        frame[14] = if v4 { 0x45 } else { 0x60 };
        let addresses = if v4 { 26..34 } else { 22..54 };
        for (number, byte) in frame[addresses].iter_mut().enumerate() {
            *byte = 10 + number as u8;
        }
        frame[if v4 { 23 } else { 20 }] = if tcp { 6 } else { 17 };
        if tcp {
            frame[start + 4..start + 8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
            frame[start + 12] = (transport as u8 / 4) << 4;
            frame[start + 13] = 0x10 | TCP_LAST | TCP_FIRST;
        }
        let protocol = match (tcp, v4) {
            (false, _) => Protocol::Udp,
            (true, true) => Protocol::Tcp4,
            (true, false) => Protocol::Tcp6,
        };
        let segment_len = NonZeroU16::new(segment_len).unwrap();
        let header_len = (start + transport) as u16;
        let checksum = Checksum::Partial { start: start as u16, offset: if tcp { 16 } else { 6 } };
        let segmentation = Some(Segmentation { protocol, header_len, segment_len });
        (frame, Offload { checksum, segmentation })
    }

    proptest! {
        /// The pieces of a segment carry its payload in order, each with the right lengths, numbers, flags and sums.
        #[test]
        fn segment_is_cut_into_pieces_that_stand_alone(
            v4: bool, tcp: bool, payload in prop::collection::vec(any::<u8>(), 1..5000), segment_len in 1u16..2000,
        ) {
            let (mut frame, offload) = long(v4, tcp, &payload, segment_len);
            let start = ETHERNET + if v4 { IPV4_HEADER_MIN } else { IPV6_HEADER };
            let header_len = frame.len() - payload.len();
            let (mut joined, mut count) = (Vec::new(), 0);
            let total = payload.len().div_ceil(segment_len.into());
            finish(&mut frame, &offload, |piece| {
                count += 1;
                let seed = pseudo(piece, v4, tcp, piece.len() - start);
                assert_eq!(sum(&[&seed.to_be_bytes(), &piece[start..]].concat()), 0xffff, "checksum");
                if v4 {
                    assert_eq!(sum(&piece[14..34]), 0xffff, "header checksum");
                    assert_eq!(u16::from_be_bytes([piece[16], piece[17]]) as usize, piece.len() - 14);
                    assert_eq!(u16::from_be_bytes([piece[18], piece[19]]), count - 1);
                } else {
                    assert_eq!(u16::from_be_bytes([piece[18], piece[19]]) as usize, piece.len() - 54);
                }
                if tcp {
                    let seq = u32::from_be_bytes(piece[start + 4..start + 8].try_into().unwrap());
                    assert_eq!(seq, 0xffff_ff00u32.wrapping_add(joined.len() as u32));
                    assert_eq!(piece[start + 13] & TCP_FIRST != 0, count == 1);
                    assert_eq!(piece[start + 13] & TCP_LAST != 0, usize::from(count) == total);
                } else {
                    assert_eq!(u16::from_be_bytes([piece[start + 4], piece[start + 5]]) as usize, piece.len() - start);
                }
                joined.extend_from_slice(&piece[header_len..]);
            });
            prop_assert_eq!(joined, payload);
            prop_assert_eq!(usize::from(count), total);
        }

        /// No header makes it panic, and what is longer than its pieces never comes out whole.
        #[test]
        fn any_bytes_are_refused_or_cut(
            mut frame in prop::collection::vec(any::<u8>(), 0..300), header: [u8; 10], ethertype in 0usize..3,
        ) {
            if let Some(field) = frame.get_mut(12..14) {
                field.copy_from_slice(&[[8, 0], [0x86, 0xdd], [1, 2]][ethertype]);
            }
            if let Ok(offload) = Offload::decode(&header, frame.len()) {
                let len = frame.len();
                finish(&mut frame, &offload, |piece| assert!(piece.len() <= len));
            }
        }
    }
}
