//! Whole Ethernet frames, as they come or with their checksums mended, at a stack that uses everything.

use core::net::SocketAddr;
use core::time::Duration;

use netd_stack::{Addressing, Integrity, Options, Stack};

use super::wire::mend;
use super::{check, wait};
use crate::input::Input;
use crate::support::{A, B, MAC_A, MAC_B, Scripted, config};

/// Bits of the byte in front of a frame.
const FOR_US: u8 = 0x01;
const MENDED: u8 = 0x02;
const THEN_WAIT: u8 = 0x04;
const THEN_USE: u8 = 0x08;
/// The device says that the checksum is right, or (with `MENDED`) that it was never computed.
const VOUCHED_FOR: u8 = 0x80;
/// Where TCP begins in a frame of IPv4 without options, and where its checksum is.
const CHECKSUM_OF_TCP: Integrity = Integrity::Partial { start: 34, offset: 16 };

/// `first byte: bit 0 asks for DHCP`, then `{ flags u8, length u16, frame }`.
pub fn frames(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut peer = busy(input.u8()? & 1 != 0);
    while let (Some(flags), Some(bytes)) = (input.u8(), input.long()) {
        let mut frame = bytes.to_vec();
        if let Some(header) = frame.first_chunk_mut::<12>().filter(|_| flags & FOR_US != 0) {
            header[..6].copy_from_slice(&MAC_A);
            header[6..].copy_from_slice(&MAC_B);
        }
        if flags & MENDED != 0 {
            mend(&mut frame);
        }
        let integrity = match flags & (VOUCHED_FOR | MENDED) {
            VOUCHED_FOR => Integrity::Verified,
            both if both == VOUCHED_FOR | MENDED => CHECKSUM_OF_TCP,
            _ => Integrity::Unknown,
        };
        peer.stack.handle_received(peer.now, (&frame, integrity), &mut peer.queue);
        if flags & THEN_WAIT != 0 {
            wait(&mut peer, flags >> 4);
        }
        if flags & THEN_USE != 0 {
            use_everything(&mut peer.stack);
        }
        peer.poll();
        check(&mut peer);
    }
    Some(())
}

/// A stack with something of every kind under way.
fn busy(dhcp: bool) -> Scripted {
    let mut config = config(MAC_A, A);
    if dhcp {
        config.addressing = Addressing::Dhcp { fallback: None, timeout: Duration::from_secs(1) };
    }
    let mut peer = Scripted::with_options(config, Options::default());
    peer.stack.tcp_listen(Some(80), 8).unwrap();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    peer.advance(Duration::from_secs(3));
    if !dhcp {
        peer.arp_reply();
        let now = peer.now;
        peer.stack.tcp_connect(now, SocketAddr::from((B, 4000))).unwrap();
        peer.stack.ping(now, B.into(), 8, Duration::from_secs(1), &mut peer.queue).unwrap();
        peer.stack
            .udp_send(now, socket, SocketAddr::from((B, 7)), None, b"datagram", &mut peer.queue)
            .unwrap();
        peer.stack.udp_join(now, socket, "239.42.0.1".parse().unwrap()).unwrap();
        peer.stack.udp_join(now, socket, "ff02::4242".parse().unwrap()).unwrap();
        peer.poll();
    }
    peer.queue.take();
    peer
}

/// Takes what arrived, and answers it.
fn use_everything(stack: &mut Stack) {
    use netd_stack::Ready;
    while let Some(ready) = stack.next_ready() {
        match ready {
            Ready::Listener(listener) => drop(stack.tcp_accept(listener)),
            Ready::Flow(flow) => {
                let _taken = stack.tcp_receive(flow, <[u8]>::len);
                let _sent = stack.tcp_send(flow, |space| space.len().min(100));
                if stack.tcp_status(flow).is_ok_and(|status| status.receive_finished) {
                    let _finished = stack.tcp_finish(flow);
                }
            }
            Ready::Udp(socket) => while stack.udp_receive(socket, |_, _| true).is_ok_and(|taken| taken) {},
            _ => {}
        }
    }
}
