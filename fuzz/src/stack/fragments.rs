//! Pieces of datagrams, of both versions: what is put together is what was cut, or nothing.
//!
//! One host sends true pieces of its datagrams, in any order, twice, overlapping, with gaps. Another one sends any bytes as
//! pieces. Neither may make the stack deliver a datagram of the first that it did not send.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_stack::{Options, UdpMeta};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, UdpPacket, UdpRepr};

use super::{A6, B6, WAITS, check, wait};
use crate::input::Input;
use crate::support::{A, B, MAC_A, Scripted, config, ip, ip6};

/// Lengths of the true datagrams, UDP header included; the largest needs more pieces than are kept.
const LENGTHS: [usize; 8] = [16, 64, 1400, 1473, 3000, 9000, 30_000, 65_000];
/// Who sends anything.
const LIAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const LIAR6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 3);

/// Bits of a step's first byte.
const VERSION_6: u8 = 0x01;
const MORE: u8 = 0x02;
const RAW: u8 = 0x04;
const THEN_WAIT: u8 = 0x08;

/// `{ how u8, which u8, offset in units of 8 u16, len u16 }`; a piece of the liar brings its own bytes.
pub fn fragments(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut peer = Scripted::with_options(config(MAC_A, A), Options::default());
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.advance(WAITS[5]);
    peer.arp_reply();
    while let Some(how) = input.u8() {
        let (which, offset, len) = (input.u8()?, input.u16()?, input.u16()?);
        let (v6, raw) = (how & VERSION_6 != 0, how & RAW != 0);
        let datagram = datagram(which, v6);
        let from = (usize::from(offset & 0x1fff) * 8).min(datagram.len());
        let to = (from + usize::from(len)).min(datagram.len());
        let (text, more) =
            if raw { (input.short()?, how & MORE != 0) } else { (&datagram[from..to], to < datagram.len()) };
        let frame = match v6 {
            true => piece6(if raw { LIAR6 } else { B6 }, which.into(), offset & 0x1fff, more, text),
            false => piece4(if raw { LIAR } else { B }, which.into(), offset & 0x1fff, more, text),
        };
        peer.frame(&frame);
        peer.poll();
        let honest = |meta: &UdpMeta| [IpAddr::V4(B), IpAddr::V6(B6)].contains(&meta.from.ip());
        let take = |meta: UdpMeta, payload: &[u8]| {
            let sent = LENGTHS.contains(&(payload.len() + 8)) && *payload == text_of(payload.len());
            assert!(sent || !honest(&meta), "a datagram of {} octets that nobody sent", payload.len());
            true
        };
        while peer.stack.udp_receive(socket, take).unwrap() {}
        if how & THEN_WAIT != 0 {
            wait(&mut peer, how >> 4);
        }
        check(&mut peer);
    }
    Some(())
}

fn text_of(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 7) >> 2) as u8).collect()
}

/// A whole UDP datagram to our socket.
fn datagram(which: u8, v6: bool) -> Vec<u8> {
    let len = LENGTHS[usize::from(which) % LENGTHS.len()];
    let (source, destination): (IpAddress, IpAddress) =
        if v6 { (B6.into(), A6.into()) } else { (B.into(), A.into()) };
    let mut bytes = vec![0; len];
    UdpRepr { src_port: 7, dst_port: 9 }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &source,
        &destination,
        len - 8,
        |space| space.copy_from_slice(&text_of(len - 8)),
        &ChecksumCapabilities::default(),
    );
    bytes
}

fn piece4(source: Ipv4Addr, id: u16, offset: u16, more: bool, text: &[u8]) -> Vec<u8> {
    let mut frame = ip(source, A, IpProtocol::Udp, &text[..text.len().min(1480)]);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_ident(id);
    packet.set_dont_frag(false);
    packet.set_more_frags(more || text.len() > 1480);
    packet.set_frag_offset(offset.wrapping_mul(8));
    packet.fill_checksum();
    frame
}

fn piece6(source: Ipv6Addr, id: u32, offset: u16, more: bool, text: &[u8]) -> Vec<u8> {
    // A piece that is not the last one is a multiple of 8 long.
    let fits = &text[..text.len().min(1448)];
    let word = offset << 3 | u16::from(more || text.len() > fits.len());
    let mut payload = vec![17, 0];
    payload.extend(word.to_be_bytes());
    payload.extend(id.to_be_bytes());
    payload.extend_from_slice(fits);
    ip6((source, A6), (IpProtocol::Ipv6Frag, 64), &payload)
}
