//! Raw frames of one EtherType and the client's descriptor for them: SEQPACKET messages that are Ethernet frames, the same both ways.
//!
//! A frame is copied once each way, at the edge: out of the device's buffer to the client, and from the client into a buffer that the
//! device will read. The type is the client's alone as long as it has it, so that nobody hears another's peers.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use netd_ipc::frames::{ADDRESS_BYTES, HEADER_BYTES, split};
use netd_policy::{Denial, EtherType, Request, Rule, Subject};
use netd_stack::Egress;

use crate::worker::datagram::Gate;
use crate::worker::messages::{Messages, State, take_some};

/// Raw frames handed to a client.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) messages: Messages,
    pub(super) ether_type: EtherType,
    mac: [u8; ADDRESS_BYTES],
    mtu: usize,
    owner: Subject,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    /// Frames that the client did not take in time, and those of its own that were none that it may send.
    pub(super) dropped: u64,
}

impl Frames {
    pub(super) fn new(
        descriptor: OwnedFd,
        ether_type: EtherType,
        (mac, mtu): ([u8; ADDRESS_BYTES], usize),
        owner: Subject,
    ) -> Frames {
        Frames {
            messages: Messages::new(descriptor),
            ether_type,
            mac,
            mtu,
            owner,
            received: 0,
            received_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            dropped: 0,
        }
    }

    /// Hands a received frame of its type to the client, if it is for this machine. What the client does not take is dropped.
    pub(super) fn deliver(&mut self, frame: &[u8]) {
        let Some((header, payload)) = split(frame) else { return };
        if header.to != self.mac && !header.is_for_many() {
            return;
        }
        if self.messages.send(&[IoSlice::new(frame)]) {
            self.received += 1;
            self.received_bytes += payload.len() as u64;
        } else {
            self.dropped += 1;
        }
    }

    /// Sends what the client wrote, `budget` frames at most. Returns how many it took.
    pub(super) fn collect<E: Egress>(
        &mut self,
        gate: &Gate,
        egress: &mut E,
        buffer: &mut [u8],
        budget: u32,
    ) -> (u32, State) {
        take_some(budget, || {
            let len = self.messages.take(egress, buffer)?;
            if !self.transmit(gate, egress, &buffer[..len]) {
                self.dropped += 1;
            }
            Ok(())
        })
    }

    /// Sends a frame if the client may: of its type, from this machine, no longer than the link takes.
    fn transmit<E: Egress>(&mut self, gate: &Gate, egress: &mut E, frame: &[u8]) -> bool {
        let Some((header, payload)) = split(frame) else { return false };
        if header.ether_type != self.ether_type.number() {
            // It asks for what nobody decided on.
            if let Some(ether_type) = EtherType::new(header.ether_type) {
                gate.audit.denied(
                    &self.owner,
                    &Request::Raw { ether_type },
                    Denial::PolicyDenied,
                    &Rule::Default,
                );
            }
            return false;
        }
        if header.from != self.mac || payload.len() > self.mtu {
            return false;
        }
        let sent = egress.transmit(HEADER_BYTES + payload.len(), |lent| {
            // As long as asked for.
            lent.copy_from_slice(frame);
            true
        });
        if sent {
            self.sent += 1;
            self.sent_bytes += payload.len() as u64;
        }
        sent
    }
}
