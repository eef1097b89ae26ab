//! ICMP of both versions about packets that we really sent, quoted truly, in part, or with lies.

use core::net::SocketAddr;
use core::time::Duration;

use netd_stack::{Options, PingId, UdpId};

use super::{A6, B6, check, wait};
use crate::input::Input;
use crate::support::{self, A, B, MAC_A, MAC_B, Scripted, config, icmp6};

/// Bits of a message's second byte.
const VERSION_6: u8 = 0x01;
const QUOTES: u8 = 0x02;
const WITH_LIE: u8 = 0x04;

/// `{ 0..6, how u8, type u8, code u8, rest u32, which u8, quoted u8 }`, with a lie `{ at u8, value u8 }`; or a wait, or more packets.
pub fn icmp(data: &[u8]) {
    run(data);
}

struct Sender {
    socket: UdpId,
    pings: Vec<PingId>,
    /// What was sent, of each version: IP packets.
    sent: [Vec<Vec<u8>>; 2],
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut peer = Scripted::with_options(config(MAC_A, A), Options::default());
    peer.advance(Duration::from_secs(3));
    peer.arp_reply();
    let (socket, _) = peer.stack.udp_bind(Some(9)).unwrap();
    let mut sender = Sender { socket, pings: Vec::new(), sent: [Vec::new(), Vec::new()] };
    sender.send(&mut peer);
    while let Some(step) = input.u8() {
        match step % 8 {
            0..6 => peer.frame(&sender.message(&mut input)?),
            6 => wait(&mut peer, input.u8()?),
            _ => sender.send(&mut peer),
        }
        peer.poll();
        sender.collect(&mut peer);
        sender.fetch(&mut peer);
        check(&mut peer);
    }
    Some(())
}

impl Sender {
    /// A connection, a datagram and an echo request, of each version.
    fn send(&mut self, peer: &mut Scripted) {
        let now = peer.now;
        for to in [SocketAddr::from((B, 4000)), SocketAddr::from((B6, 4000))] {
            let _flow = peer.stack.tcp_connect(now, to);
            let _queued = peer.stack.udp_send(now, self.socket, to, None, b"datagram", &mut peer.queue);
            let ping = peer.stack.ping(now, to.ip(), 8, Duration::from_secs(1), &mut peer.queue);
            self.pings.extend(ping);
        }
        peer.poll();
        let mut known = vec![0x60, 0, 0, 0];
        known.extend(B6.octets());
        known.extend([2, 1]);
        known.extend(MAC_B);
        peer.frame(&icmp6((B6, A6), 255, (136, 0), &known));
        peer.poll();
        self.collect(peer);
    }

    fn collect(&mut self, peer: &mut Scripted) {
        for frame in &peer.queue.frames {
            match frame.get(12..14) {
                Some([8, 0]) => self.sent[0].push(frame[14..].to_vec()),
                Some([0x86, 0xdd]) => self.sent[1].push(frame[14..].to_vec()),
                _ => {}
            }
        }
        for sent in &mut self.sent {
            let superfluous = sent.len().saturating_sub(16);
            sent.drain(..superfluous);
        }
    }

    fn message(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let (how, kind, code, rest) = (input.u8()?, input.u8()?, input.u8()?, input.u32()?);
        let v6 = how & VERSION_6 != 0;
        let (which, len) = (input.u8()?, input.u8()?);
        let sent = &self.sent[usize::from(v6)];
        let mut body = match sent.get(usize::from(which) % sent.len().max(1)) {
            Some(packet) if how & QUOTES != 0 => packet[..packet.len().min(len.into())].to_vec(),
            _ => input.bytes(len.into()).to_vec(),
        };
        if how & WITH_LIE != 0 {
            let (at, value) = (input.u8()?, input.u8()?);
            if let Some(byte) = body.get_mut(usize::from(at)) {
                *byte = value;
            }
        }
        let rest = rest.to_be_bytes();
        Some(match v6 {
            true => icmp6((B6, A6), 64, (kind, code), &[&rest[..], &body].concat()),
            false => support::icmp(kind, code, rest, &body),
        })
    }

    /// What became of it, for whoever sent it.
    fn fetch(&mut self, peer: &mut Scripted) {
        while peer.stack.udp_error(self.socket).is_some() {}
        self.pings.retain(|&ping| peer.stack.ping_result(ping).is_none());
        while peer.stack.next_ready().is_some() {}
    }
}
