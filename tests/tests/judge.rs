//! The judge of captures, judged: what it must find in captures made by hand, and what it must not take for a fault.

use netd_tests::capture::{Allowed, examine, fields};
use netd_tests::{Error, Result, ensure};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::path::PathBuf;
use tempfile::TempDir;

const NETD: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NETD_TEXT: &str = "02:00:00:00:00:01";
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NETD_ADDRESS: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
const PEER_ADDRESS: Ipv4Address = Ipv4Address::new(192, 0, 2, 2);
const NETD_PORT: u16 = 50_000;
/// One of those over which scenarios send bytes without meaning.
const PEER_PORT: u16 = 7000;
/// Initial sequence numbers: netd's goes around within a few segments.
const NETD_ISN: u32 = 0u32.wrapping_sub(2000);
const PEER_ISN: u32 = 1_000_000;
/// One segment.
const MSS: u32 = 1000;

fn ethernet(source: [u8; 6], protocol: EthernetProtocol, body: usize) -> Vec<u8> {
    let destination = if source == NETD { PEER } else { NETD };
    let header = EthernetRepr {
        src_addr: EthernetAddress(source),
        dst_addr: EthernetAddress(destination),
        ethertype: protocol,
    };
    let mut frame = vec![0; header.buffer_len() + body];
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

fn arp() -> Vec<u8> {
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(NETD),
        source_protocol_addr: NETD_ADDRESS,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: PEER_ADDRESS,
    };
    let mut frame = ethernet(NETD, EthernetProtocol::Arp, question.buffer_len());
    question.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

/// A segment of netd's (or of the peer's), with octets counted from 0 behind each side's SYN.
fn segment(netd: bool, control: TcpControl, first: u32, len: u32, acknowledged: Option<u32>) -> Vec<u8> {
    segment_with_block(netd, control, first, len, acknowledged, None)
}

fn segment_with_block(
    netd: bool,
    control: TcpControl,
    first: u32,
    len: u32,
    acknowledged: Option<u32>,
    block: Option<(u32, u32)>,
) -> Vec<u8> {
    let number = |netd: bool, octet: u32| {
        let initial = if netd { NETD_ISN } else { PEER_ISN };
        let syn = u32::from(control != TcpControl::Syn);
        initial.wrapping_add(octet).wrapping_add(syn)
    };
    // What is acknowledged is the other side's, whose SYN has passed whenever there is something to acknowledge.
    let other = |octet: u32| (if netd { PEER_ISN } else { NETD_ISN }).wrapping_add(octet).wrapping_add(1);
    let ports = if netd { (NETD_PORT, PEER_PORT) } else { (PEER_PORT, NETD_PORT) };
    let (from, to) = if netd { (NETD_ADDRESS, PEER_ADDRESS) } else { (PEER_ADDRESS, NETD_ADDRESS) };
    let payload = vec![0x61; len as usize];
    let tcp = TcpRepr {
        src_port: ports.0,
        dst_port: ports.1,
        control,
        seq_number: TcpSeqNumber(number(netd, first).cast_signed()),
        ack_number: acknowledged.map(|octet| TcpSeqNumber(other(octet).cast_signed())),
        window_len: 60_000,
        window_scale: None,
        max_seg_size: (control == TcpControl::Syn).then_some(MSS as u16),
        sack_permitted: control == TcpControl::Syn,
        sack_ranges: [block.map(|(left, right)| (other(left), other(right))), None, None],
        timestamp: None,
        payload: &payload,
    };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let source = if netd { NETD } else { PEER };
    let mut frame = ethernet(source, EthernetProtocol::Ipv4, ip.buffer_len() + tcp.buffer_len());
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    let (from, to) = (IpAddress::Ipv4(from), IpAddress::Ipv4(to));
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[34..]), &from, &to, &checksums);
    frame
}

/// netd opens a connection.
fn handshake() -> Vec<Vec<u8>> {
    vec![
        segment(true, TcpControl::Syn, 0, 0, None),
        segment(false, TcpControl::Syn, 0, 0, Some(0)),
        data(0, 0),
    ]
}

/// Octets from netd.
fn data(first: u32, len: u32) -> Vec<u8> {
    segment(true, TcpControl::None, first, len, Some(0))
}

/// The peer has received everything before this one.
fn acknowledgement(next: u32) -> Vec<u8> {
    segment(false, TcpControl::None, 0, 0, Some(next))
}

/// And reports a block.
fn report(next: u32, block: (u32, u32)) -> Vec<u8> {
    segment_with_block(false, TcpControl::None, 0, 0, Some(next), Some(block))
}

/// A pcap file (draft-ietf-opsawg-pcap): a frame each millisecond, the first round trip too.
fn file(frames: &[Vec<u8>]) -> Result<(TempDir, PathBuf)> {
    let mut bytes = Vec::new();
    bytes.extend(0xa1b2_c3d4u32.to_le_bytes());
    bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(65_535u32.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for (number, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        for field in [1, number as u32 * 1000, len, len] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(frame);
    }
    let io = |source| Error::Io { action: "write a capture".to_owned(), source };
    let directory = tempfile::tempdir().map_err(io)?;
    let path = directory.path().join("made.pcap");
    std::fs::write(&path, bytes).map_err(io)?;
    Ok((directory, path))
}

fn judge(frames: &[Vec<u8>], allowed: &[Allowed]) -> Result<()> {
    let (_directory, path) = file(frames)?;
    examine(&path, NETD_TEXT, allowed)
}

/// It must fail, and say this.
fn expect_finding(frames: &[Vec<u8>], allowed: &[Allowed], words: &str) -> Result<()> {
    match judge(frames, allowed) {
        Ok(()) => Err(Error::Expectation(format!("nothing was found, and {words:?} should be"))),
        Err(error) if error.to_string().contains(words) => Ok(()),
        Err(error) => Err(Error::Expectation(format!("{words:?} was not found, but: {error}"))),
    }
}

/// tshark must have remarked it, for a test of what becomes of the remark.
fn expect_remark(frames: &[Vec<u8>], words: &str) -> Result<()> {
    let (_directory, path) = file(frames)?;
    let remarks = fields(&path, "_ws.expert", &["_ws.expert.message"])?;
    ensure!(remarks.contains(words), "tshark does not remark {words:?} at all:\n{remarks}");
    Ok(())
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn orderly_connection_passes() -> Result<()> {
    let mut frames = handshake();
    frames.extend([data(0, MSS), data(MSS, MSS), acknowledgement(2 * MSS)]);
    frames.push(segment(true, TcpControl::Fin, 2 * MSS, 0, Some(0)));
    frames.push(segment(false, TcpControl::Fin, 0, 0, Some(2 * MSS + 1)));
    judge(&frames, &[])
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn capture_without_a_frame_to_netd_fails() -> Result<()> {
    expect_finding(&[arp()], &[], "no frame with dst")
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn wrong_checksums_fail() -> Result<()> {
    // The last octet of the payload; a bit of the IP header's time to live.
    for (at, of) in [(14 + 20 + 20 + 999, "TCP"), (14 + 8, "IP")] {
        let mut frames = handshake();
        let mut spoiled = data(0, MSS);
        spoiled[at] ^= 1;
        frames.extend([spoiled, acknowledgement(MSS)]);
        expect_finding(&frames, &[], "Bad checksum")
            .map_err(|error| Error::Expectation(format!("{of}: {error}")))?;
    }
    Ok(())
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn checksum_of_the_other_zero_passes() -> Result<()> {
    let (field, payload) = (14 + 20 + 16, 14 + 20 + 20);
    let mut zero = data(0, MSS);
    // A word more by what the checksum is makes the checksum zero.
    let value = |at: usize| u16::from_be_bytes([zero[at], zero[at + 1]]);
    let (sum, carry) = value(payload).overflowing_add(value(field));
    zero[payload..payload + 2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    zero[field..field + 2].fill(0xff);
    let mut frames = handshake();
    frames.extend([zero.clone(), acknowledgement(MSS)]);
    judge(&frames, &[])?;
    // It was computed right: without it the frame is wrong.
    zero[field..field + 2].fill(0x0f);
    let mut frames = handshake();
    frames.extend([zero, acknowledgement(MSS)]);
    expect_finding(&frames, &[], "Bad checksum")
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn malformed_frame_fails() -> Result<()> {
    let mut cut = arp();
    cut.truncate(30);
    let mut frames = handshake();
    frames.push(cut);
    expect_finding(&frames, &[], "Malformed Packet")
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn warning_passes_only_where_it_is_allowed() -> Result<()> {
    let mut frames = handshake();
    frames.push(segment(false, TcpControl::Rst, 0, 0, Some(0)));
    let remark = "Connection reset (RST)";
    expect_finding(&frames, &[], remark)?;
    let because = "the test resets it";
    expect_finding(&frames, &[Allowed { remark, on: "tcp.srcport == 50000", because }], remark)?;
    expect_finding(&frames, &[Allowed { remark: "Zero Window", on: "", because }], remark)?;
    judge(&frames, &[Allowed { remark, on: "tcp.srcport == 7000", because }])
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn acknowledgement_of_octets_that_were_cut_anew_passes() -> Result<()> {
    let remark = "ACKed segment that wasn't captured";
    let mut frames = handshake();
    // The second retransmission begins in what was sent, and ends in what was not.
    frames.extend([data(0, MSS), data(MSS, 500), data(0, MSS), data(MSS, MSS), data(2 * MSS, MSS)]);
    frames.push(acknowledgement(3 * MSS));
    expect_remark(&frames, remark)?;
    judge(&frames, &[])
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn acknowledgement_of_octets_that_did_not_pass_fails() -> Result<()> {
    let remark = "ACKed segment that wasn't captured";
    let mut frames = handshake();
    frames.extend([data(0, MSS), acknowledgement(2 * MSS)]);
    expect_finding(&frames, &[], remark)?;
    // Also when they pass later, which nobody could have known.
    frames.push(data(MSS, MSS));
    expect_finding(&frames, &[], remark)
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn report_of_repetition_passes_only_when_octets_were_repeated() -> Result<()> {
    let remark = "D-SACK Sequence";
    let mut frames = handshake();
    frames.extend([data(0, MSS), data(0, MSS), report(MSS, (0, MSS))]);
    expect_remark(&frames, remark)?;
    judge(&frames, &[])?;
    frames.remove(4);
    expect_finding(&frames, &[], remark)
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn octets_out_of_order_fail_and_those_repeated_at_once_pass() -> Result<()> {
    let remark = "out-of-order segment";
    let mut frames = handshake();
    frames.extend([data(0, MSS), data(MSS, MSS), data(0, MSS), acknowledgement(2 * MSS)]);
    expect_remark(&frames, remark)?;
    judge(&frames, &[])?;
    frames.remove(3);
    // The hole itself is remarked as well.
    let hole = Allowed { remark: "Previous segment(s) not captured", on: "", because: "it comes late" };
    expect_finding(&frames, &[hole], remark)
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn reset_by_whoever_closed_second_passes_and_by_whoever_closed_first_fails() -> Result<()> {
    let remark = "Connection reset (RST)";
    let fin = |netd, acknowledged| segment(netd, TcpControl::Fin, 0, 0, Some(acknowledged));
    let bare = |netd| segment(netd, TcpControl::None, 1, 0, Some(1));
    for netd_first in [true, false] {
        let mut frames = handshake();
        // A FIN and its answer; the second one is repeated and acknowledged twice.
        frames.extend([fin(netd_first, 0), fin(!netd_first, 1), fin(!netd_first, 1)]);
        frames.extend([bare(netd_first), bare(netd_first)]);
        let mut second = frames.clone();
        second.push(segment(!netd_first, TcpControl::Rst, 1, 0, None));
        expect_remark(&second, remark)?;
        judge(&second, &[])?;
        // In TIME-WAIT it should have acknowledged.
        frames.push(segment(netd_first, TcpControl::Rst, 1, 0, None));
        expect_finding(&frames, &[], remark)?;
    }
    Ok(())
}

#[test]
#[ignore = "runs tshark: cargo xtask test"]
fn note_beside_an_allowed_warning_passes() -> Result<()> {
    // As many octets as the peer's window has (60000), the last of them twice: a full window, and a repetition.
    let mut frames = handshake();
    frames.extend((0..60).map(|number| data(number * MSS, MSS)));
    frames.push(data(59 * MSS, MSS));
    expect_remark(&frames, "retransmission")?;
    judge(&frames, &[])
}
