//! Packets as the fuzzer wants them, with checksums that are right; and the check of those that the stack sent.

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

/// The longest frame that a stack with an MTU of 1500 may send.
const FRAME_MAX: usize = 1514;

/// Makes the checksums of a frame right, so that a mutation gets past them.
pub(super) fn mend(frame: &mut [u8]) {
    let Ok(mut ethernet) = EthernetFrame::new_checked(frame) else { return };
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(mut packet) = Ipv4Packet::new_checked(ethernet.payload_mut()) else { return };
            packet.fill_checksum();
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            if packet.frag_offset() == 0 && !packet.more_frags() {
                let protocol = packet.next_header();
                mend_payload(protocol, ends, packet.payload_mut());
            }
        }
        EthernetProtocol::Ipv6 => {
            let Ok(mut packet) = Ipv6Packet::new_checked(ethernet.payload_mut()) else { return };
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            let protocol = packet.next_header();
            mend_payload(protocol, ends, packet.payload_mut());
        }
        _ => {}
    }
}

pub(super) fn mend_payload(
    protocol: IpProtocol,
    (source, destination): (IpAddress, IpAddress),
    payload: &mut [u8],
) {
    match (protocol, source, destination) {
        (IpProtocol::Tcp, ..) if TcpPacket::new_checked(&payload[..]).is_ok() => {
            TcpPacket::new_unchecked(payload).fill_checksum(&source, &destination);
        }
        (IpProtocol::Udp, ..) if UdpPacket::new_checked(&payload[..]).is_ok() => {
            UdpPacket::new_unchecked(payload).fill_checksum(&source, &destination);
        }
        (IpProtocol::Icmp, ..) if payload.len() >= 4 => Icmpv4Packet::new_unchecked(payload).fill_checksum(),
        (IpProtocol::Icmpv6, IpAddress::Ipv6(source), IpAddress::Ipv6(destination)) if payload.len() >= 4 => {
            Icmpv6Packet::new_unchecked(payload).fill_checksum(&source, &destination);
        }
        _ => {}
    }
}

/// Checks a frame that the stack sent: nothing a peer says makes it send a malformed one.
pub(super) fn verify(frame: &[u8]) {
    assert!(frame.len() <= FRAME_MAX, "a frame of {} bytes", frame.len());
    let ethernet = EthernetFrame::new_checked(frame).expect("an Ethernet frame");
    let (protocol, ends, payload) = match ethernet.ethertype() {
        EthernetProtocol::Arp => return,
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).expect("an IPv4 packet");
            assert!(packet.verify_checksum(), "a wrong IPv4 checksum");
            if packet.frag_offset() != 0 || packet.more_frags() {
                return;
            }
            (packet.next_header(), (packet.src_addr().into(), packet.dst_addr().into()), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).expect("an IPv6 packet");
            (packet.next_header(), (packet.src_addr().into(), packet.dst_addr().into()), packet.payload())
        }
        other => panic!("a frame of type {other} was sent"),
    };
    verify_payload(protocol, ends, payload);
}

fn verify_payload(protocol: IpProtocol, (source, destination): (IpAddress, IpAddress), payload: &[u8]) {
    let right = match (protocol, source, destination) {
        (IpProtocol::Tcp, ..) => {
            TcpPacket::new_checked(payload).expect("a segment").verify_checksum(&source, &destination)
        }
        (IpProtocol::Udp, ..) => {
            UdpPacket::new_checked(payload).expect("a datagram").verify_checksum(&source, &destination)
        }
        (IpProtocol::Icmp, ..) => Icmpv4Packet::new_checked(payload).expect("a message").verify_checksum(),
        (IpProtocol::Icmpv6, IpAddress::Ipv6(source), IpAddress::Ipv6(destination)) => {
            Icmpv6Packet::new_checked(payload).expect("a message").verify_checksum(&source, &destination)
        }
        // IGMP, and MLD behind a hop-by-hop header: their own tests look at them.
        _ => true,
    };
    assert!(right, "a wrong checksum was sent: {protocol}");
}
