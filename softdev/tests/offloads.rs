//! Offloads between two drivers over two software devices: what one side leaves to the other arrives as it was left, or as it would have
//! come over a wire where the other side did not agree.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::num::NonZeroU16;
use std::sync::Arc;

use netd_softdev::{FEATURES, Impairment, SoftDevice, Wire, WireEnd, create_offering};
use netd_virtqueue::{
    Checksum, Error, Feature, NetDevice, Offload, Options, Protocol, Segmentation, Switches, TxOffloads,
};
use proptest::prelude::*;

const MTU: u16 = 1500;
const IP: usize = 14;
const TCP: usize = IP + 20;
const PAYLOAD: usize = TCP + 20;
const MSS: u16 = 1460;

struct Machine {
    driver: NetDevice,
    device: SoftDevice<WireEnd>,
}

fn machine(end: WireEnd, absent: u64, off: &[&str], frames: u16) -> Machine {
    let (transport, memory, device) =
        create_offering(FEATURES & !absent, [2, 0, 0, 0, 0, 1], MTU, end).unwrap();
    let mut switches = Switches::default();
    assert!(off.iter().all(|name| switches.set(name, false)));
    let options = Options { switches, rx_frames: frames, tx_frames: frames, ..Options::default() };
    let mut machine = Machine {
        driver: NetDevice::bring_up(Box::new(transport), Arc::clone(&memory), &options).unwrap(),
        device,
    };
    machine.settle();
    machine
}

fn pair(off: &[&str]) -> (Machine, Machine) {
    let (_, a, b) = Wire::new(Impairment::default(), 1);
    (machine(a, 0, &[], 256), machine(b, 0, off, 256))
}

impl Machine {
    /// Lets the device obey every command that waits.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.device.poll().unwrap();
            self.driver.check_health().unwrap();
        }
    }

    fn send(&mut self, frame: &[u8], offload: &Offload) -> bool {
        let (_, tx) = self.driver.queues();
        let long = offload.segmentation.is_some();
        {
            let lent = if long { tx.lend_long(frame.len()) } else { tx.lend(frame.len()) };
            let Some(mut slot) = lent else { return false };
            slot.bytes().copy_from_slice(frame);
            slot.send_for(offload);
        }
        tx.flush().unwrap();
        self.device.poll().unwrap();
        true
    }

    fn receive(&mut self) -> Vec<(Vec<u8>, Offload)> {
        let mut frames = Vec::new();
        for _ in 0..4 {
            self.device.poll().unwrap();
            let (rx, _) = self.driver.queues();
            rx.receive(256, |frame, offload| frames.push((frame.to_vec(), offload))).unwrap();
        }
        frames
    }

    fn is_on(&self, name: &str) -> bool {
        self.driver.offloads().iter().find(|info| info.name == name).unwrap().on
    }
}

/// A segment to a group of stations, which passes every filter; its checksum is left.
fn segment(payload: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; PAYLOAD + payload];
    frame[..6].fill(0xff);
    frame[12] = 8;
    frame[IP] = 0x45;
    let ip_len = (frame.len() - IP) as u16;
    frame[IP + 2..IP + 4].copy_from_slice(&ip_len.to_be_bytes());
    frame[IP + 9] = 6;
    frame[IP + 12..TCP].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[TCP + 12] = 0x50;
    for (at, byte) in frame[PAYLOAD..].iter_mut().enumerate() {
        *byte = (at / 7) as u8 ^ seed;
    }
    let seed = pseudo(&frame);
    frame[TCP + 16..TCP + 18].copy_from_slice(&seed.to_be_bytes());
    frame
}

fn sum(bytes: impl Iterator<Item = u8>) -> u16 {
    let bytes: Vec<u8> = bytes.collect();
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| (*low).into()));
    words.fold(0u32, |sum, word| (sum + word) % 0xffff) as u16
}

fn pseudo(frame: &[u8]) -> u16 {
    let len = ((frame.len() - TCP) as u16).to_be_bytes();
    sum(frame[IP + 12..TCP].iter().copied().chain([0, 6, len[0], len[1]]))
}

/// Whether the checksum of a frame that came over a wire is right.
fn is_complete(frame: &[u8]) -> bool {
    let len = ((frame.len() - TCP) as u16).to_be_bytes();
    let header = frame[IP + 12..TCP].iter().copied().chain([0, 6, len[0], len[1]]);
    sum(header.chain(frame[TCP..].iter().copied())) == 0
}

const PARTIAL: Offload =
    Offload { checksum: Checksum::Partial { start: TCP as u16, offset: 16 }, segmentation: None };

fn long() -> Offload {
    let segment_len = NonZeroU16::new(MSS).unwrap();
    let segmentation = Segmentation { protocol: Protocol::Tcp4, header_len: PAYLOAD as u16, segment_len };
    Offload { segmentation: Some(segmentation), ..PARTIAL }
}

#[test]
fn checksum_left_to_the_device_is_left_to_who_agreed_and_completed_for_who_did_not() {
    let frame = segment(100, 1);
    let (mut a, mut b) = pair(&[]);
    assert!(a.send(&frame, &PARTIAL));
    assert_eq!(b.receive(), [(frame.clone(), PARTIAL)]);
    let (mut a, mut b) = pair(&["rx_checksum"]);
    assert!(a.send(&frame, &PARTIAL));
    let received = b.receive();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].1, Offload::NONE);
    assert!(is_complete(&received[0].0) && !is_complete(&frame));
}

#[test]
fn segment_of_64_kib_arrives_in_one_piece_and_mostly_without_a_copy() {
    let (mut a, mut b) = pair(&[]);
    for round in 0..100 {
        let frame = segment(65_495 - usize::from(round), round);
        assert!(a.send(&frame, &long()));
        assert_eq!(b.receive(), [(frame, long())]);
    }
    let (rx, _) = b.driver.counters();
    assert_eq!((rx.merged, rx.segments_joined), (100, 100));
    // 33 buffers each, of 256: one of eight begins at the end of the pool and goes on at its beginning.
    assert!(rx.copied > 0 && rx.copied < rx.bytes / 6, "{} of {} bytes were copied", rx.copied, rx.bytes);
}

#[test]
fn segment_arrives_in_pieces_where_the_receiver_did_not_agree() {
    for off in ["rx_tso4", "rx_checksum", "merged_buffers"] {
        let (mut a, mut b) = pair(&[off]);
        let frame = segment(40_000, 3);
        assert!(a.send(&frame, &long()));
        let received = b.receive();
        assert_eq!(received.len(), 40_000usize.div_ceil(MSS.into()), "without {off}");
        assert!(received.iter().all(|(piece, _)| is_complete(piece)));
        let joined: Vec<u8> = received.iter().flat_map(|(piece, _)| piece[PAYLOAD..].to_vec()).collect();
        assert_eq!(joined, frame[PAYLOAD..]);
    }
}

#[test]
fn long_segments_that_use_up_their_buffers_leave_those_of_other_frames() {
    let (mut a, _b) = pair(&[]);
    let (_, tx) = a.driver.queues();
    let mut sent = 0;
    while let Some(len) = tx.long_frame_len() {
        tx.lend_long(len).unwrap().send_for(&long());
        sent += 1;
    }
    assert_eq!(sent, 16);
    assert!(tx.lend(tx.frame_len_max()).is_some() && tx.lend(tx.frame_len_max() + 1).is_none());
}

#[test]
fn receive_offload_that_is_switched_off_and_on_again_follows_at_the_device() {
    let (mut a, mut b) = pair(&[]);
    let frame = segment(4000, 9);
    for _ in 0..3 {
        b.driver.set_offload("rx_checksum", false).unwrap();
        // Joined segments lack their checksums, so they go with it.
        assert!(!b.is_on("rx_checksum") && !b.is_on("rx_tso4") && !b.is_on("rx_tso6"));
        b.settle();
        assert!(a.send(&frame, &long()));
        assert!(b.receive().iter().all(|(piece, _)| is_complete(piece) && piece.len() <= PAYLOAD + 1460));
        b.driver.set_offload("rx_checksum", true).unwrap();
        assert!(b.is_on("rx_tso4"));
        b.settle();
        assert!(a.send(&frame, &long()));
        assert_eq!(b.receive(), [(frame.clone(), long())]);
    }
}

#[test]
fn transmit_offload_that_is_switched_off_takes_with_it_what_needs_it() {
    let (mut a, _b) = pair(&[]);
    let all = TxOffloads { checksum: true, tso4: true, tso6: true };
    assert_eq!(a.driver.queues().1.offloads(), all);
    a.driver.set_offload("tx_tso4", false).unwrap();
    assert_eq!(a.driver.queues().1.offloads(), TxOffloads { tso4: false, ..all });
    a.driver.set_offload("tx_checksum", false).unwrap();
    assert_eq!(a.driver.queues().1.offloads(), TxOffloads::default());
    a.driver.set_offload("tx_checksum", true).unwrap();
    assert_eq!(a.driver.queues().1.offloads(), TxOffloads { tso4: false, ..all });
}

#[test]
fn offload_that_cannot_be_switched_is_refused_by_name() {
    let (_, a, _b) = Wire::new(Impairment::default(), 1);
    let mut machine = machine(a, Feature::CTRL_GUEST_OFFLOADS.mask(), &["tx_tso6"], 16);
    let set = |machine: &mut Machine, name, on| machine.driver.set_offload(name, on);
    assert!(matches!(set(&mut machine, "warp", true), Err(Error::UnknownOffload { .. })));
    assert!(matches!(set(&mut machine, "rx_tso4", false), Err(Error::OffloadFixed { name: "rx_tso4" })));
    let Err(Error::OffloadAbsent { name: "tx_tso6", why }) = set(&mut machine, "tx_tso6", true) else {
        panic!("what configuration switched off came on");
    };
    assert_eq!(why, "switched off by configuration");
    assert!(set(&mut machine, "tx_tso6", false).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever either side agreed to, and switches meanwhile, the payload arrives in order and whole, and nobody gets what it did not
    /// agree to.
    #[test]
    fn any_agreement_carries_every_segment(
        absent in prop::sample::subsequence(vec![0u64, 1, 2, 7, 11, 15, 17, 34], 0..4),
        frames in prop::sample::select(vec![64u16, 256]),
        steps in prop::collection::vec((0usize..3, 1usize..60_000, any::<bool>()), 1..40),
    ) {
        let absent = absent.iter().fold(0, |mask, bit| mask | 1u64 << bit);
        let (_, a, b) = Wire::new(Impairment::default(), 1);
        let (mut a, mut b) = (machine(a, 0, &[], frames), machine(b, absent, &[], frames));
        for (number, (kind, len, on)) in steps.into_iter().enumerate() {
            let accepted = |name: &str, b: &Machine| b.is_on(name);
            match kind {
                0 => {
                    let _ = b.driver.set_offload(["rx_tso4", "rx_checksum"][len % 2], on);
                    b.settle();
                }
                _ => {
                    let len = if kind == 1 { len.min(1460) } else { len };
                    let frame = segment(len, number as u8);
                    let offload = if len > 1460 { long() } else { PARTIAL };
                    prop_assert!(a.send(&frame, &offload));
                    let received = b.receive();
                    let joined: Vec<u8> = received.iter().flat_map(|(piece, _)| piece[PAYLOAD..].to_vec()).collect();
                    prop_assert!(joined == frame[PAYLOAD..], "{} octets became {}", len, joined.len());
                    for (piece, offload) in &received {
                        let partial = matches!(offload.checksum, Checksum::Partial { .. });
                        prop_assert!(partial || is_complete(piece));
                        prop_assert!(accepted("rx_checksum", &b) || !partial);
                        prop_assert!(accepted("rx_tso4", &b) || piece.len() <= PAYLOAD + 1460);
                    }
                }
            }
        }
    }
}
