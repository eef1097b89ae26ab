//! What stands between a peer and the engine: segments that smoltcp 0.14 handles wrongly never reach it.
//!
//! The guard knows the connection's sequence numbers without looking inside the engine. It reads them from the segments that
//! the engine sends (highest octet sent, right edge of the window announced) and from what the owner took. It stops:
//!
//! * a FIN behind data that the window cuts off: the engine would report end of file on truncated data;
//! * data after a FIN, and a FIN before data that was already received: both would move the end of the stream;
//! * sequence numbers far outside any window, whose distances overflow in the engine (it panics);
//! * acknowledgements of octets that were never sent (RFC 9293, 3.10.7.4);
//! * anything that arrives before our SYN has left (the engine panics);
//! * resets that do not hit the next expected octet exactly: they get a challenge (RFC 5961, 3.2);
//! * a SYN on a connection whose handshake is over: it gets a challenge too (RFC 5961, 4.2).
//!
//! It mends data behind an old acknowledgement, which the engine throws away: a segment that another one overtook, or that was
//! sent before its sender saw what we sent (RFC 9293, 3.10.7.4: only the acknowledgement is ignored).
//!
//! On the way out it mends one thing: the sequence number of a bare ACK during a retransmission.

use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use super::engine::SEND_BUFFER;
use super::segment::Segment;
use crate::ip;

/// How far ahead of the next expected octet a segment may begin. No window that we announce is larger than 64 KiB.
const AHEAD_MAX: i32 = 1 << 17;
/// How far behind a segment may begin and still be an old duplicate worth an ACK; half of what the engine's signed distances
/// can express.
const BEHIND_MAX: i32 = -(1 << 30);

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Hand on the first `keep` octets without the FIN; the peer will send the rest and the FIN again.
    WithoutFin {
        keep: u32,
    },
    /// Hand it on as if it acknowledged `ack` and announced `window`: what the engine knows already.
    WithAcknowledgement {
        ack: u32,
        window: u16,
    },
    Challenge,
    DropEarly,
    DropSequence,
    DropAcknowledgement,
    DropAfterFin,
}

/// What the guard cannot know from the segments alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Octets that wait for the owner.
    pub(crate) readable: usize,
    /// Octets of the owner that the peer has not acknowledged, sent or not.
    pub(crate) unacknowledged: usize,
    /// The handshake is over.
    pub(crate) established: bool,
    /// The peer acknowledged our FIN.
    pub(crate) fin_acknowledged: bool,
}

#[derive(Default, Debug)]
pub(crate) struct Guard {
    /// Sequence number of our first data octet; `None` until our SYN left.
    send_base: Option<u32>,
    /// Octets that the owner gave, modulo 2^32.
    given: u32,
    /// The window of the newest segment of the peer, unscaled.
    peer_window: u16,
    /// One past the highest octet sent; `None` until our SYN left.
    send_highest: Option<u32>,
    /// Sequence number of the peer's first data octet; `None` until its SYN was accepted.
    receive_base: Option<u32>,
    /// Octets that the owner took, modulo 2^32.
    taken: u32,
    /// Right edge of the window that was announced last.
    receive_edge: u32,
    /// One past the highest octet that was let through.
    receive_highest: u32,
    last_window: u16,
    fin_received: bool,
}

fn distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

impl Guard {
    /// Takes note of a segment that the engine sent, as an IP packet, and mends it where the engine errs.
    pub(crate) fn sent(&mut self, packet: &mut [u8]) {
        self.mend(packet);
        self.observe(packet);
    }

    /// A bare ACK carries SND.NXT, which the engine sets back when it retransmits. A peer that already has those octets finds the
    /// ACK left of its window and must drop it unread; when both sides have set back, neither ever learns what the other received.
    /// So the ACK carries SND.MAX, as it does from a stack that never sets back.
    fn mend(&self, packet: &mut [u8]) {
        let (Some(segment), Some(highest)) = (Segment::parse_own(packet), self.send_highest) else {
            return;
        };
        let bare = segment.len() == 0 && !segment.rst && segment.ack.is_some();
        if !bare || distance(segment.seq, highest) >= 0 {
            return;
        }
        let header_len = ip::own_header_len(packet);
        let mut tcp = TcpPacket::new_unchecked(&mut packet[header_len..]);
        tcp.set_seq_number(TcpSeqNumber(highest as i32));
    }

    fn observe(&mut self, packet: &[u8]) {
        let Some(segment) = Segment::parse_own(packet) else { return };
        if segment.rst {
            return;
        }
        self.send_base.get_or_insert(segment.seq.wrapping_add(1));
        let end = segment.seq.wrapping_add(segment.len());
        if self.send_highest.is_none_or(|highest| distance(end, highest) > 0) {
            self.send_highest = Some(end);
        }
        self.last_window = segment.window;
        if let Some(ack) = segment.ack {
            // The window is never scaled: the receive buffer is below 64 KiB.
            self.receive_edge = ack.wrapping_add(u32::from(segment.window));
        }
    }

    /// Takes note that the engine accepted the peer's SYN with this sequence number.
    pub(crate) fn synchronize(&mut self, seq: u32) {
        let base = seq.wrapping_add(1);
        self.receive_base = Some(base);
        self.receive_highest = base;
        // Until our first ACK the engine counts the window from the SYN itself.
        self.receive_edge = seq.wrapping_add(u32::from(self.last_window));
    }

    pub(crate) fn is_synchronized(&self) -> bool {
        self.receive_base.is_some()
    }

    pub(crate) fn took(&mut self, octets: usize) {
        self.taken = self.taken.wrapping_add(octets as u32);
    }

    pub(crate) fn gave(&mut self, octets: usize) {
        self.given = self.given.wrapping_add(octets as u32);
    }

    pub(crate) fn set_fin_received(&mut self) {
        self.fin_received = true;
    }

    pub(crate) fn fin_received(&self) -> bool {
        self.fin_received
    }

    /// The next octet expected (RCV.NXT), with `queued` octets waiting for the owner.
    pub(crate) fn receive_next(&self, queued: usize) -> Option<u32> {
        let base = self.receive_base?;
        Some(
            base.wrapping_add(self.taken)
                .wrapping_add(queued as u32)
                .wrapping_add(u32::from(self.fin_received)),
        )
    }

    /// One past the highest octet sent (SND.MAX).
    pub(crate) fn send_highest(&self) -> Option<u32> {
        self.send_highest
    }

    /// The window that was announced last, as seen from `next`.
    pub(crate) fn window_from(&self, next: u32) -> u16 {
        u16::try_from(distance(self.receive_edge, next).max(0)).unwrap_or(u16::MAX)
    }

    /// The oldest octet that the peer has not acknowledged (SND.UNA).
    fn send_unacknowledged(&self, standing: &Standing) -> Option<u32> {
        let acknowledged = self.given.wrapping_sub(standing.unacknowledged as u32);
        Some(self.send_base?.wrapping_add(acknowledged).wrapping_add(u32::from(standing.fin_acknowledged)))
    }

    /// Judges a segment for a connection that is not listening.
    pub(crate) fn judge(&mut self, segment: &Segment, standing: &Standing) -> Verdict {
        let Some(send_highest) = self.send_highest else { return Verdict::DropEarly };
        if segment.ack.is_some_and(|ack| distance(ack, send_highest) > 0)
            && !segment.rst
            && self.is_synchronized()
        {
            return Verdict::DropAcknowledgement;
        }
        // Before the peer's SYN there is no window; the engine accepts nothing but an exact answer to our SYN.
        let Some(next) = self.receive_next(standing.readable) else { return Verdict::Pass };
        // RFC 5961, 4.2 (RFC 9293, 3.10.7.4): whatever its number. A peer that restarted answers the challenge with a reset that
        // hits exactly; nobody else can.
        if segment.syn && standing.established {
            return Verdict::Challenge;
        }
        let ahead = distance(segment.seq, next);
        if !(BEHIND_MAX..=AHEAD_MAX).contains(&ahead) {
            return Verdict::DropSequence;
        }
        let room = distance(self.receive_edge, next);
        if segment.rst {
            // RFC 5961, 3.2: exact, then it is believed; within the window, then it is challenged; else dropped.
            return match ahead {
                0 => Verdict::Pass,
                1.. if ahead < room => Verdict::Challenge,
                _ => Verdict::DropSequence,
            };
        }
        match self.judge_text(segment, ahead, room, next) {
            Verdict::Pass => self.judge_acknowledgement(segment, standing),
            verdict => verdict,
        }
    }

    /// Judges how old an acknowledgement is.
    fn judge_acknowledgement(&mut self, segment: &Segment, standing: &Standing) -> Verdict {
        let (Some(ack), Some(unacknowledged)) = (segment.ack, self.send_unacknowledged(standing)) else {
            return Verdict::Pass;
        };
        let behind = distance(unacknowledged, ack);
        if behind <= 0 {
            self.peer_window = segment.window;
            return Verdict::Pass;
        }
        // Without text there is nothing in it, and the engine drops it.
        if !standing.established || segment.len() == 0 {
            return Verdict::Pass;
        }
        // RFC 5961, 5.2: older than any window of ours, and nobody who sees the connection sent it.
        if behind as usize > SEND_BUFFER {
            return Verdict::Challenge;
        }
        Verdict::WithAcknowledgement { ack: unacknowledged, window: self.peer_window }
    }

    /// Judges where data and FIN lie.
    fn judge_text(&mut self, segment: &Segment, ahead: i32, room: i32, next: u32) -> Verdict {
        let data_end = segment.seq.wrapping_add(segment.payload_len);
        let beyond_next = distance(data_end, next);
        if self.fin_received {
            return if beyond_next > 0 { Verdict::DropAfterFin } else { Verdict::Pass };
        }
        if segment.fin {
            if distance(data_end, self.receive_highest) < 0 && beyond_next >= 0 {
                return Verdict::DropAfterFin;
            }
            let overhang = distance(data_end, self.receive_edge);
            if segment.payload_len > 0 && room > 0 && overhang > 0 {
                let keep = segment.payload_len.saturating_sub(overhang as u32);
                self.receive_highest = self.receive_edge;
                return Verdict::WithoutFin { keep };
            }
        }
        if segment.payload_len > 0 && ahead < room {
            let end = if distance(data_end, self.receive_edge) > 0 { self.receive_edge } else { data_end };
            if distance(end, self.receive_highest) > 0 {
                self.receive_highest = end;
            }
        }
        Verdict::Pass
    }
}
