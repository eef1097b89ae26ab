//! Writing pcapng (draft-ietf-opsawg-pcapng): one section, one Ethernet interface, one packet block per frame.
//!
//! Blocks are in the machine's own byte order, as the format wants: a reader sees it from the byte-order magic.

use std::time::Duration;

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the device.
    Received,
    /// To the device.
    Sent,
}

/// Block types.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// LINKTYPE_ETHERNET
const ETHERNET: u16 = 1;

/// The beginning of a file: section header and interface description.
pub(super) fn header(interface: &str, snap_bytes: u32) -> Vec<u8> {
    let mut section = 0x1a2b_3c4d_u32.to_ne_bytes().to_vec();
    // Version 1.0, and a section of unknown length.
    section.extend([1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
    section.extend((-1i64).to_ne_bytes());
    // shb_userappl
    option(&mut section, 4, b"netd");
    end_of_options(&mut section);
    let mut description = [ETHERNET.to_ne_bytes(), 0u16.to_ne_bytes()].concat();
    description.extend(snap_bytes.to_ne_bytes());
    // if_name; if_tsresol 6, microseconds, which is the default and said all the same.
    option(&mut description, 2, interface.as_bytes());
    option(&mut description, 9, &[6]);
    end_of_options(&mut description);
    [block(SECTION_HEADER, &section), block(INTERFACE_DESCRIPTION, &description)].concat()
}

/// One frame, or its beginning; `at` counts from 1970.
pub(super) fn packet(at: Duration, direction: Direction, len: usize, kept: &[u8]) -> Vec<u8> {
    let mut body = 0u32.to_ne_bytes().to_vec();
    body.extend(timestamp(at));
    for len in [kept.len(), len] {
        body.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    }
    body.extend_from_slice(kept);
    pad(&mut body);
    // epb_flags, bits 0-1: 1 inbound, 2 outbound.
    let flags: u32 = if direction == Direction::Received { 1 } else { 2 };
    option(&mut body, 2, &flags.to_ne_bytes());
    end_of_options(&mut body);
    block(ENHANCED_PACKET, &body)
}

/// How many frames were kept, and how many were lost because the reader was too slow.
pub(super) fn statistics(at: Duration, kept: u64, lost: u64) -> Vec<u8> {
    let mut body = 0u32.to_ne_bytes().to_vec();
    body.extend(timestamp(at));
    // isb_ifrecv, isb_ifdrop
    option(&mut body, 4, &(kept + lost).to_ne_bytes());
    option(&mut body, 5, &lost.to_ne_bytes());
    end_of_options(&mut body);
    block(INTERFACE_STATISTICS, &body)
}

fn timestamp(at: Duration) -> [u8; 8] {
    let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
    let (high, low) = ((micros >> 32) as u32, micros as u32);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&high.to_ne_bytes());
    bytes[4..].copy_from_slice(&low.to_ne_bytes());
    bytes
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A block: type, length, body, and the length again.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_ne_bytes();
    [&kind.to_ne_bytes()[..], &len, body, &len].concat()
}
