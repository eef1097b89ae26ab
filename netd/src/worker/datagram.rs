//! A UDP socket and the client's descriptor for it: SEQPACKET messages with a header of 32 bytes, the same both ways.

use std::collections::HashSet;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netd_ipc::datagram::{self, Header, Kind, code};
use netd_policy::{Decision, Denial, Request, Subject};
use netd_stack::{Egress, Error, IcmpError, Instant, Stack, UdpError, UdpId};

use crate::audit::Audit;
use crate::rules::Rules;
use crate::worker::messages::{Messages, State, take_some};

/// Peers whose permission is remembered. A socket that speaks to more asks policy again, which is cheap.
const PERMITTED_MAX: usize = 256;
/// The longest message: header and the largest payload of UDP over IPv4.
pub(super) const MESSAGE_BYTES_MAX: usize = datagram::HEADER_BYTES + datagram::PAYLOAD_BYTES_MAX;

/// Who decides whether a datagram may go to a new peer, and who is told when it may not.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) rules: Arc<Rules>,
    pub(super) audit: Arc<Audit>,
}

/// A UDP socket handed to a client.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) messages: Messages,
    pub(super) id: UdpId,
    pub(super) local: SocketAddr,
    owner: Subject,
    permitted: HashSet<SocketAddr>,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    /// Datagrams that the client did not take in time.
    pub(super) overflowed: u64,
}

impl Datagrams {
    pub(super) fn new(descriptor: OwnedFd, id: UdpId, local: SocketAddr, owner: Subject) -> Self {
        Self {
            messages: Messages::new(descriptor),
            id,
            local,
            owner,
            permitted: HashSet::new(),
            received: 0,
            received_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            overflowed: 0,
        }
    }

    /// Hands everything received to the client. What it does not take is dropped: a datagram that waits grows stale.
    pub(super) fn deliver(&mut self, stack: &mut Stack) {
        let Self { messages, id, received, received_bytes, overflowed, .. } = self;
        let mut send = |header: &Header, payload: &[u8]| {
            let (is_data, header) = (header.kind == Kind::Data, header.encode());
            let parts = [IoSlice::new(&header), IoSlice::new(payload)];
            match messages.send(&parts) {
                // What an error carries is no payload of the peer's.
                true if !is_data => {}
                true => {
                    *received += 1;
                    *received_bytes += payload.len() as u64;
                }
                false => *overflowed += 1,
            }
        };
        while let Some(UdpError { to, error, offender }) = stack.udp_error_detail(*id) {
            let mtu = if let IcmpError::FragmentationNeeded { mtu } = error { mtu } else { 0 };
            let header = Header { mtu, ..Header::error(to, icmp_code(error)) };
            match offender {
                IpAddr::V4(reporter) => send(&header, &reporter.octets()),
                IpAddr::V6(reporter) => send(&header, &reporter.octets()),
            }
        }
        while let Ok(true) = stack.udp_receive(*id, |meta, payload| {
            send(&Header { ttl: meta.ttl, ecn: meta.ecn, ..Header::data(meta.from) }, payload);
            true
        }) {}
    }

    /// The rules changed: every peer is decided on again.
    pub(super) fn forget_permissions(&mut self) {
        self.permitted.clear();
    }

    /// Sends what the client wrote, `budget` datagrams at most, each to a new peer only if policy allows it. Returns how many
    /// it took.
    pub(super) fn collect<E: Egress>(
        &mut self,
        now: Instant,
        gate: &Gate,
        (stack, egress): (&mut Stack, &mut E),
        buffer: &mut [u8],
        budget: u32,
    ) -> (u32, State) {
        take_some(budget, || {
            let len = self.messages.take(egress, buffer)?;
            self.transmit(now, gate, stack, egress, &buffer[..len]);
            Ok(())
        })
    }

    fn transmit<E: Egress>(
        &mut self,
        now: Instant,
        gate: &Gate,
        stack: &mut Stack,
        egress: &mut E,
        message: &[u8],
    ) {
        // A message that makes no sense has no peer to report an error about.
        let Ok((header, payload)) = Header::decode(message) else {
            self.overflowed += 1;
            return;
        };
        let failed = match self.permit(gate, header.peer) {
            Some(denied) => Some(denied),
            None => {
                let ttl = (header.ttl > 0).then_some(header.ttl);
                let sent = stack.udp_send(now, self.id, header.peer, ttl, payload, egress);
                if sent.is_ok() {
                    self.sent += 1;
                    self.sent_bytes += payload.len() as u64;
                }
                sent.err().and_then(|error| send_code(&error))
            }
        };
        if let Some(code) = failed {
            // Sent after it was refused, so that what is known by now is what it was refused for.
            let mtu = if code == code::TOO_BIG { stack.path_mtu(header.peer.ip()) } else { 0 };
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            let error = Header { mtu, ..Header::error(header.peer, code) }.encode();
            // A client that does not read its errors loses them.
            let _ = self.messages.send(&[IoSlice::new(&error)]);
        }
    }

    /// The error code if the client may not speak to `peer`.
    fn permit(&mut self, gate: &Gate, peer: SocketAddr) -> Option<u32> {
        if self.permitted.contains(&peer) {
            return None;
        }
        let request = Request::UdpSend { remote: peer };
        match gate.rules.current().policy.decide(&self.owner, &request) {
            Decision::Allow { .. } => {
                if self.permitted.len() < PERMITTED_MAX {
                    self.permitted.insert(peer);
                }
                None
            }
            Decision::Deny { error, reason: _, rule } => {
                gate.audit.denied(&self.owner, &request, error, &rule);
                Some(match error {
                    Denial::DevnetDisabled => code::DEVNET_DISABLED,
                    Denial::PolicyDenied => code::POLICY_DENIED,
                })
            }
        }
    }
}

/// What the network said, as a code of the interface.
fn icmp_code(error: IcmpError) -> u32 {
    match error {
        IcmpError::PortUnreachable => code::PORT_UNREACHABLE,
        IcmpError::FragmentationNeeded { .. } => code::TOO_BIG,
        IcmpError::TimeExceeded => code::TIME_EXCEEDED,
        IcmpError::Prohibited => code::PROHIBITED,
        _ => code::UNREACHABLE,
    }
}

/// Why a datagram was not sent, as a code of the interface; none where trying again is right.
fn send_code(error: &Error) -> Option<u32> {
    match error {
        Error::NoBuffers => None,
        Error::MessageTooLong { .. } => Some(code::TOO_BIG),
        Error::DeviceUnavailable => Some(code::DEVICE_UNAVAILABLE),
        _ => Some(code::NO_ROUTE),
    }
}
