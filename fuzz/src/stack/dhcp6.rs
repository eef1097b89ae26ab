//! A DHCPv6 server that says anything, behind a router that says to ask one.

use core::time::Duration;

use netd_stack::Options;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, UdpPacket, UdpRepr};

use super::{A6, ALL_NODES, B6, check, wait};
use crate::input::Input;
use crate::support::{A, MAC_A, Scripted, config, icmp6, ip6, ip6_packets};

/// Our identity, and a server's (RFC 8415, 11 and 21.2): options as they stand in a message.
const CLIENT_ID: [u8; 14] = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const SERVER_ID: [u8; 8] = [0, 2, 0, 4, 0, 2, 9, 9];

/// `flags of the advertisement u8`, then `{ 0..6, type u8, options len u16 }` or a wait.
pub fn dhcp6(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let flags = input.u8()?;
    let mut peer = Scripted::with_options(config(MAC_A, A), Options::default());
    peer.advance(Duration::from_secs(3));
    let advertisement = [&[64, flags & 0xc0, 7, 8][..], &[0; 8]].concat();
    peer.frame(&icmp6((B6, ALL_NODES), 255, (134, 0), &advertisement));
    peer.advance(Duration::from_secs(1));
    let mut transaction = [0; 3];
    while let Some(step) = input.u8() {
        transaction = last_transaction(&peer).unwrap_or(transaction);
        check(&mut peer);
        match step % 8 {
            0..6 => {
                let kind = input.u8()?;
                let mut message = vec![kind % 14];
                message.extend(transaction);
                if kind & 0x80 == 0 {
                    message.extend(CLIENT_ID);
                    message.extend(SERVER_ID);
                }
                message.extend_from_slice(input.long()?);
                peer.frame(&to_client(&message));
            }
            _ => wait(&mut peer, input.u8()?),
        }
        peer.poll();
    }
    check(&mut peer);
    Some(())
}

fn last_transaction(peer: &Scripted) -> Option<[u8; 3]> {
    let packets = ip6_packets(&peer.queue.frames);
    let ours = packets
        .iter()
        .rev()
        .find(|(_, packet)| packet.get(6) == Some(&17) && packet.get(42..44) == Some(&[2, 35]))?;
    ours.1.get(49..52)?.try_into().ok()
}

fn to_client(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + message.len()];
    UdpRepr { src_port: 547, dst_port: 546 }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &B6.into(),
        &A6.into(),
        message.len(),
        |space| space.copy_from_slice(message),
        &ChecksumCapabilities::default(),
    );
    ip6((B6, A6), (IpProtocol::Udp, 64), &bytes)
}
