//! Segments into a live connection, while its owner reads, writes and closes; beside it a connection that must not notice.
//!
//! The peer is one of two kinds. The truthful one sends the octets of one stream, in any pieces and any order, over any window,
//! with a FIN wherever a piece ends at the end: then what is received is that stream, and end of file comes behind all of it.
//! The liar sends any header at all. In the end both connections are given up, and nothing of them may be left.

use core::time::Duration;

use netd_stack::{FlowId, ListenerId};
use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket};

use super::{WAITS, check};
use crate::input::Input;
use crate::support::{A, B, Scripted, Seen, ip, parse_arp, parse_tcp, read, write};

const PORT: u16 = 4000;
/// How long an honest host takes to answer at most.
const ANSWER_TIME: Duration = Duration::from_millis(500);
const BYSTANDER_PORT: u16 = 5000;
const BYSTANDER_SERVICE: u16 = 81;

/// `first byte: bit 0 the peer lies, bit 1 we connect; end of the stream u32`, then steps.
pub fn tcp(data: &[u8]) {
    let mut input = Input::new(data);
    let (Some(kind), Some(end)) = (input.u8(), input.u32()) else { return };
    let mut peer = Scripted::new();
    let mut bystander = Bystander::open(&mut peer);
    let mut connection = Connection::open(&mut peer, kind, end % 200_000);
    while connection.step(&mut peer, &mut input, &mut bystander).is_some() {
        connection.check(&peer);
        bystander.answer(&mut peer);
    }
    peer.queue.room = usize::MAX;
    bystander.exchange(&mut peer);
    connection.give_up(&mut peer);
    bystander.give_up(&mut peer);
    let left: Vec<_> = peer.stack.sockets().collect();
    assert!(left.is_empty(), "left over: {left:?}");
}

struct Connection {
    flow: FlowId,
    lies: bool,
    ports: (u16, u16),
    /// The peer's and our first sequence numbers behind the SYNs.
    base: u32,
    ours: u32,
    /// Where the peer's stream ends.
    end: u32,
    /// How much the owner took; of the true stream, each octet was compared.
    received: usize,
    released: bool,
}

fn octet(offset: u32) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8
}

impl Connection {
    fn open(peer: &mut Scripted, kind: u8, end: u32) -> Connection {
        let lies = kind & 1 != 0;
        let (flow, port, base, ours) = if kind & 2 != 0 {
            let (flow, port, seq) = peer.connecting(PORT);
            (flow, port, 1001, seq.wrapping_add(1))
        } else {
            let (flow, base, ours) = peer.accepted();
            (flow, 80, base, ours)
        };
        let ports = (PORT, port);
        if kind & 2 != 0 && !lies {
            peer.segment(ports, TcpControl::Syn, 1000, Some(ours), &[]);
            peer.poll();
        }
        Connection { flow, lies, ports, base, ours, end, received: 0, released: false }
    }

    fn step(&mut self, peer: &mut Scripted, input: &mut Input<'_>, bystander: &mut Bystander) -> Option<()> {
        match input.u8()? % 12 {
            0..5 if self.lies => self.lie(peer, input)?,
            0..5 => self.tell(peer, input)?,
            5 => peer.poll(),
            6 => {
                // The bystander's peer answers within half a second, and the device takes what it has to say: a connection whose
                // host is silent, or that nothing leaves for minutes, is rightly given up.
                peer.queue.room = usize::MAX;
                let end = peer.now + WAITS[usize::from(input.u8()?) % WAITS.len()];
                while peer.now < end {
                    peer.advance(ANSWER_TIME.min(end.saturating_duration_since(peer.now)));
                    bystander.answer(peer);
                }
            }
            7 => self.take(peer, input.u16()?.into()),
            8 if !self.released => drop(write(&mut peer.stack, self.flow, &vec![7; input.u16()?.into()])),
            9 if !self.released => match input.u8()? % 16 {
                0..8 => drop(peer.stack.tcp_finish(self.flow)),
                8 => peer.stack.tcp_abort(self.flow),
                9 => self.release(peer),
                10 => drop(peer.stack.tcp_set_nodelay(self.flow, false)),
                11 => drop(peer.stack.tcp_set_keepalive(self.flow, Some(Duration::from_secs(1)))),
                _ => {}
            },
            10 => peer.queue.room = usize::from(input.u8()?) % 4,
            11 => peer.queue.room = usize::MAX,
            _ => {}
        }
        bystander.answer(peer);
        Some(())
    }

    /// A piece of the stream: somewhere near what is expected next, or anywhere.
    fn tell(&self, peer: &mut Scripted, input: &mut Input<'_>) -> Option<()> {
        let (how, offset, len) = (input.u8()?, input.u16()?, input.u16()?);
        let queued = peer.stack.tcp_status(self.flow).map_or(0, |status| status.readable);
        let next = (self.received + queued) as u32;
        let from = match how & 3 {
            0 | 1 => next,
            2 => next.saturating_sub(offset.into()),
            _ => next.saturating_add(offset.into()),
        };
        let from = from.min(self.end);
        let to = from.saturating_add(u32::from(len) % 1461).min(self.end);
        let control = if to == self.end { TcpControl::Fin } else { TcpControl::None };
        let text: Vec<u8> = (from..to).map(octet).collect();
        // Everything that we sent is acknowledged, or nothing is.
        let ack = if how & 4 != 0 { self.ours } else { self.acknowledgement(peer) };
        peer.segment(self.ports, control, self.base.wrapping_add(from), Some(ack), &text);
        Some(())
    }

    fn acknowledgement(&self, peer: &Scripted) -> u32 {
        let sent = peer.queue.frames.iter().filter_map(|frame| parse_tcp(frame));
        let ends = sent.map(|seen| seen.seq.wrapping_add(seen.payload.len() as u32));
        ends.max_by_key(|end| end.wrapping_sub(self.ours)).unwrap_or(self.ours)
    }

    /// Any header: numbers near the edges or anywhere, any flags, any options, any window.
    fn lie(&self, peer: &mut Scripted, input: &mut Input<'_>) -> Option<()> {
        let number = |input: &mut Input<'_>, near: u32| {
            let offset = match input.u8()? {
                how @ ..128 => u32::from(how).wrapping_sub(64),
                128..192 => u32::from(input.u16()?).wrapping_sub(1 << 8),
                192..224 => u32::from(input.u16()?).wrapping_add(65_535 - (1 << 8)),
                224..240 => u32::from(input.u16()?).wrapping_add((1 << 31) - (1 << 8)),
                240.. => input.u32()?,
            };
            Some(near.wrapping_add(offset))
        };
        let (seq, ack) = (number(input, self.base)?, number(input, self.ours)?);
        let (flags, window, len) = (input.u8()?, input.u16()?, input.u16()?);
        let options_len = usize::from(input.u8()? % 11) * 4;
        let options = input.bytes(options_len).to_vec();
        let header_len = 20 + options.len().next_multiple_of(4);
        let mut bytes = vec![0; header_len];
        bytes[20..20 + options.len()].copy_from_slice(&options);
        bytes.resize(header_len + usize::from(len) % 1500, 7);
        let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
        segment.set_src_port(self.ports.0);
        segment.set_dst_port(self.ports.1);
        segment.set_seq_number(smoltcp::wire::TcpSeqNumber(seq as i32));
        segment.set_ack_number(smoltcp::wire::TcpSeqNumber(ack as i32));
        segment.set_header_len(header_len as u8);
        segment.set_window_len(window);
        bytes[13] = flags;
        TcpPacket::new_unchecked(&mut bytes[..]).fill_checksum(&B.into(), &A.into());
        peer.frame(&ip(B, A, IpProtocol::Tcp, &bytes));
        Some(())
    }

    fn take(&mut self, peer: &mut Scripted, most: usize) {
        let (received, lies) = (&mut self.received, self.lies);
        let take = |octets: &[u8]| {
            let len = octets.len().min(most);
            for octet_taken in &octets[..len] {
                assert!(
                    lies || *octet_taken == octet(*received as u32),
                    "octet {received} of the stream is another"
                );
                *received += 1;
            }
            len
        };
        let _stale = peer.stack.tcp_receive(self.flow, take);
    }

    fn check(&self, peer: &Scripted) {
        assert_eq!(peer.stack.counters().tcp_engine_faults, 0, "the guard let something through");
        if self.lies || self.released {
            return;
        }
        let Ok(status) = peer.stack.tcp_status(self.flow) else { return };
        let whole = self.received + status.readable >= self.end as usize;
        assert!(!status.receive_finished || whole, "end of file on short data");
    }

    fn release(&mut self, peer: &mut Scripted) {
        let now = peer.now;
        peer.stack.tcp_release(now, self.flow);
        self.released = true;
    }

    /// The owner goes, and time passes with nobody there to answer.
    fn give_up(&mut self, peer: &mut Scripted) {
        if !self.released {
            self.release(peer);
        }
    }
}

/// A connection with an honest peer: what happens beside it must not keep it from carrying data.
struct Bystander {
    flow: FlowId,
    listener: ListenerId,
    /// The next sequence numbers of the peer and of ours, as the peer knows them.
    next: u32,
    expected: u32,
    heard: Vec<u8>,
}

impl Bystander {
    fn open(peer: &mut Scripted) -> Bystander {
        let (listener, _) = peer.stack.tcp_listen(Some(BYSTANDER_SERVICE), 8).unwrap();
        let ports = (BYSTANDER_PORT, BYSTANDER_SERVICE);
        peer.segment(ports, TcpControl::Syn, 500, None, &[]);
        peer.poll();
        peer.arp_reply();
        let syn_ack = peer.segments().into_iter().find(|seen| seen.control == TcpControl::Syn).unwrap();
        let expected = syn_ack.seq.wrapping_add(1);
        peer.segment(ports, TcpControl::None, 501, Some(expected), &[]);
        peer.poll();
        let flow = peer.stack.tcp_accept(listener).unwrap().unwrap();
        Bystander { flow, listener, next: 501, expected, heard: Vec::new() }
    }

    /// What an honest host does with the frames that were sent: it tells its hardware address, and acknowledges.
    fn answer(&mut self, peer: &mut Scripted) {
        for frame in peer.queue.take() {
            super::wire::verify(&frame);
            if parse_arp(&frame).is_some_and(|(.., target)| target == B) {
                peer.arp_reply();
            }
            let ours = frame.get(34..38) == Some(&[0, 81, 0x13, 0x88]);
            if let Some(segment) = parse_tcp(&frame).filter(|_| ours) {
                self.hear(peer, &segment);
            }
        }
    }

    fn hear(&mut self, peer: &mut Scripted, segment: &Seen) {
        assert!(segment.control != TcpControl::Rst, "the bystander was reset");
        if segment.seq == self.expected {
            self.heard.extend_from_slice(&segment.payload);
            self.expected = self.expected.wrapping_add(segment.payload.len() as u32);
        }
        if !segment.payload.is_empty() || segment.seq != self.expected {
            let (next, expected) = (self.next, self.expected);
            peer.segment((BYSTANDER_PORT, BYSTANDER_SERVICE), TcpControl::None, next, Some(expected), &[]);
        }
    }

    /// A request and its answer, after everything that happened.
    fn exchange(&mut self, peer: &mut Scripted) {
        self.answer(peer);
        let ports = (BYSTANDER_PORT, BYSTANDER_SERVICE);
        peer.segment(ports, TcpControl::Psh, self.next, Some(self.expected), b"request");
        self.next = self.next.wrapping_add(7);
        let mut request = Vec::new();
        read(&mut peer.stack, self.flow, &mut request);
        assert_eq!(request, b"request", "the bystander's data did not arrive");
        assert_eq!(write(&mut peer.stack, self.flow, b"answer"), 6);
        for _ in 0..20 {
            peer.advance(Duration::from_millis(100));
            self.answer(peer);
        }
        assert_eq!(self.heard, b"answer", "the bystander's answer did not leave");
    }

    fn give_up(&mut self, peer: &mut Scripted) {
        let now = peer.now;
        peer.stack.tcp_close_listener(now, self.listener);
        peer.stack.tcp_release(now, self.flow);
        // A released connection has a minute, then TIME-WAIT; nobody answers any more.
        for _ in 0..20 {
            peer.advance(Duration::from_secs(10));
            check(peer);
        }
    }
}
