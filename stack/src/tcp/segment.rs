//! TCP segments outside the engine: reading what came in, and writing the few that are sent without a connection.

use core::net::IpAddr;

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{IpProtocol, TcpControl, TcpOption, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::checksum::Rest;
use crate::egress::Egress;
use crate::ip;
use crate::network::Network;
use crate::time::Instant;

/// Bytes of a TCP header without options.
const HEADER_LEN: usize = 20;

/// What decides about a segment before the engine sees it. The payload stays in the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    /// As it stands in the header, unscaled.
    pub(crate) window: u16,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) payload_len: u32,
    /// The largest segment that its sender takes, as a SYN says.
    pub(crate) mss: Option<u16>,
}

impl Segment {
    /// Reads and verifies a segment; `None` if it is malformed or its checksum is wrong.
    pub(crate) fn parse(packet: &ip::Packet<'_>) -> Option<Segment> {
        let tcp = TcpPacket::new_checked(packet.payload).ok()?;
        if !packet.verified && !tcp.verify_checksum(&ip::wire(packet.source), &ip::wire(packet.destination)) {
            return None;
        }
        let contradictory = u8::from(tcp.syn()) + u8::from(tcp.fin()) + u8::from(tcp.rst()) > 1;
        if contradictory || tcp.src_port() == 0 || tcp.dst_port() == 0 {
            return None;
        }
        Some(Segment::from_wire(&tcp))
    }

    /// Reads a segment that the engine wrote into an IP packet without options.
    pub(crate) fn parse_own(packet: &[u8]) -> Option<Segment> {
        let tcp = TcpPacket::new_checked(packet.get(ip::own_header_len(packet)..)?).ok()?;
        Some(Segment::from_wire(&tcp))
    }

    fn from_wire(tcp: &TcpPacket<&[u8]>) -> Segment {
        Segment {
            source_port: tcp.src_port(),
            destination_port: tcp.dst_port(),
            seq: tcp.seq_number().0 as u32,
            ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
            window: tcp.window_len(),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            payload_len: tcp.payload().len() as u32,
            mss: if tcp.syn() { mss(tcp.options()) } else { None },
        }
    }

    /// Octets of sequence space that the segment covers (RFC 9293, 3.4: SEG.LEN).
    pub(crate) fn len(&self) -> u32 {
        self.payload_len + u32::from(self.syn) + u32::from(self.fin)
    }
}

/// The MSS among the options of a SYN (RFC 9293, 3.7.1).
fn mss(mut options: &[u8]) -> Option<u16> {
    while !options.is_empty() {
        match TcpOption::parse(options).ok()? {
            (_, TcpOption::EndOfList) => return None,
            (_, TcpOption::MaxSegmentSize(mss)) => return Some(mss),
            (rest, _) => options = rest,
        }
    }
    None
}

/// Both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Tuple {
    pub(crate) local: (IpAddr, u16),
    pub(crate) remote: (IpAddr, u16),
}

/// What a bare segment says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bare {
    /// RST, with an ACK where there was none to take the sequence number from (RFC 9293, 3.5.2).
    Reset { seq: u32, ack: Option<u32> },
    /// The acknowledgement that asks a peer to prove that it meant it (RFC 5961).
    Challenge { seq: u32, ack: u32, window: u16 },
    /// The octet before the next one, which a living peer acknowledges (RFC 9293, 3.8.4).
    Keepalive { seq: u32, ack: u32, window: u16 },
}

impl Bare {
    /// The reset that answers a segment for which there is no connection (RFC 9293, 3.10.7.1).
    pub(crate) fn reset_for(segment: &Segment) -> Bare {
        match segment.ack {
            Some(ack) => Bare::Reset { seq: ack, ack: None },
            None => Bare::Reset { seq: 0, ack: Some(segment.seq.wrapping_add(segment.len())) },
        }
    }

    /// Sends it from the local to the remote end of `tuple`.
    pub(crate) fn send<E: Egress>(self, now: Instant, network: &mut Network, egress: &mut E, tuple: &Tuple) {
        let (control, seq, ack, window_len) = match self {
            Bare::Reset { seq, ack } => (TcpControl::Rst, seq, ack, 0),
            Bare::Challenge { seq, ack, window } | Bare::Keepalive { seq, ack, window } => {
                (TcpControl::None, seq, Some(ack), window)
            }
        };
        let repr = TcpRepr {
            src_port: tuple.local.1,
            dst_port: tuple.remote.1,
            control,
            seq_number: TcpSeqNumber(seq as i32),
            ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (source, destination) = (tuple.local.0, tuple.remote.0);
        let header = ip::Header::new(source, destination, IpProtocol::Tcp);
        let header_len = ip::header_len(destination);
        let mut capabilities = ChecksumCapabilities::default();
        capabilities.tcp = Checksum::None;
        let to = (destination, Rest::Checksum);
        network.send_unfinished(now, egress, to, header_len + HEADER_LEN, |buffer| {
            ip::emit_header(buffer, &header);
            repr.emit(
                &mut TcpPacket::new_unchecked(&mut buffer[header_len..]),
                &ip::wire(source),
                &ip::wire(destination),
                &capabilities,
            );
            true
        });
    }
}
