//! The driver against the software device under every combination of features: whatever is negotiated, each frame arrives once and
//! as it was sent.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::collections::VecDeque;
use std::sync::Arc;

use netd_softdev::{FEATURES, Impairment, SoftDevice, SoftTransport, Wire, WireEnd, create_offering};
use netd_virtqueue::{Error, Feature, NetDevice, Options, Switches};
use proptest::prelude::*;

const MAC: [u8; 6] = [0x42, 0x01, 10, 0, 0, 2];
const MTU: u16 = 3000;

/// What a device may or may not offer; the others it always does.
const OPTIONAL: [Feature; 9] = [
    Feature::MRG_RXBUF,
    Feature::CTRL_VQ,
    Feature::CTRL_RX,
    Feature::INDIRECT_DESC,
    Feature::EVENT_IDX,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
    Feature::NOTIFICATION_DATA,
    Feature::RING_RESET,
];

struct Machine {
    driver: NetDevice,
    device: SoftDevice<WireEnd>,
    _transport: SoftTransport,
}

/// A device that offers all but `absent`, and a driver that may use all but `off`.
fn machine(end: WireEnd, absent: u64, off: &[&str], frames: u16) -> Machine {
    let (transport, memory, device) = create_offering(FEATURES & !absent, MAC, MTU, end).unwrap();
    let mut switches = Switches::default();
    assert!(off.iter().all(|name| switches.set(name, false)));
    let options = Options { switches, rx_frames: frames, tx_frames: frames, ..Options::default() };
    let driver = NetDevice::bring_up(Box::new(transport.clone()), Arc::clone(&memory), &options).unwrap();
    Machine { driver, device, _transport: transport }
}

fn pair(absent: u64, frames: u16) -> (Machine, Machine) {
    let (_, a, b) = Wire::new(Impairment::default(), 1);
    (machine(a, absent, &[], frames), machine(b, absent, &[], frames))
}

impl Machine {
    fn send(&mut self, frame: &[u8]) -> bool {
        let (_, tx) = self.driver.queues();
        let Some(mut slot) = tx.lend(frame.len()) else { return false };
        slot.bytes().copy_from_slice(frame);
        slot.send();
        true
    }

    fn flush(&mut self) {
        self.driver.queues().1.flush().unwrap();
    }

    fn receive(&mut self, budget: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.driver.queues().0.poll(budget, |frame| frames.push(frame.to_vec())).unwrap();
        frames
    }
}

/// A broadcast, which passes every filter.
fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| if at < 6 { 0xff } else { (at * 7 + number * 13) as u8 }).collect()
}

/// The features whose bit is set in `choice`.
fn masks(choice: u16) -> u64 {
    OPTIONAL
        .iter()
        .enumerate()
        .filter(|(at, _)| choice >> at & 1 == 1)
        .map(|(_, feature)| feature.mask())
        .sum()
}

#[test]
fn every_combination_of_features_carries_every_frame_around_the_ring() {
    for choice in 0..1 << OPTIONAL.len() {
        let absent = masks(choice);
        let (mut a, mut b) = pair(absent, 8);
        let packed = absent & Feature::RING_PACKED.mask() == 0;
        assert_eq!(a.driver.info().rings, if packed { "packed" } else { "split" });
        for round in 0..30 {
            let sent: Vec<_> =
                (0..5).map(|at| frame(round * 5 + at, [60, 1514, 3014, 64, 2040][at])).collect();
            assert!(sent.iter().all(|frame| a.send(frame)), "{choice:b} {round}");
            a.flush();
            a.device.poll().unwrap();
            let mut received = Vec::new();
            for _ in 0..sent.len() {
                b.device.poll().unwrap();
                received.extend(b.receive(2));
            }
            assert_eq!(received, sent, "without {absent:#x}, round {round}");
        }
    }
}

#[test]
fn feature_that_is_switched_off_is_not_used_and_says_so() {
    let (_, a, _b) = Wire::new(Impairment::default(), 1);
    let machine = machine(a, 0, &["packed", "in_order"], 64);
    let features = &machine.driver.info().features;
    assert!(!features.has(Feature::RING_PACKED) && !features.has(Feature::IN_ORDER));
    assert!(features.has(Feature::INDIRECT_DESC));
    let choice = features.choices.iter().find(|choice| choice.name == "VIRTIO_F_RING_PACKED").unwrap();
    assert_eq!((choice.accepted, choice.reason), (false, "switched off by configuration"));
}

#[test]
fn device_with_a_filter_is_told_what_to_receive() {
    for absent in [0, Feature::RING_PACKED.mask(), Feature::INDIRECT_DESC.mask()] {
        let (mut a, mut b) = pair(absent, 64);
        let outcomes = |machine: &Machine| -> Vec<_> {
            machine.driver.commands().iter().map(|info| (info.command, info.outcome)).collect()
        };
        assert_eq!(outcomes(&a), [("all multicast on", "waiting"), ("promiscuous off", "waiting")]);
        for _ in 0..2 {
            a.device.poll().unwrap();
            a.driver.check_health().unwrap();
        }
        assert_eq!(outcomes(&a), [("all multicast on", "done"), ("promiscuous off", "done")]);
        let foreign = [&[0x42, 0x01, 10, 0, 0, 3][..], &[0; 54]].concat();
        let own = [&MAC[..], &[0; 54]].concat();
        assert!(b.send(&foreign) && b.send(&own) && b.send(&frame(1, 60)));
        b.flush();
        b.device.poll().unwrap();
        a.device.poll().unwrap();
        assert_eq!(a.receive(64), [own, frame(1, 60)]);
    }
}

#[test]
fn doorbell_says_where_the_driver_is() {
    for (absent, expected) in [(Feature::RING_PACKED.mask(), 3), (0, 3 | 1 << 15)] {
        let (mut a, _b) = pair(absent, 64);
        for number in 0..3 {
            assert!(a.send(&frame(number, 60)));
        }
        a.flush();
        assert_eq!(a.device.bell_position(1), Some(expected));
    }
}

#[test]
fn queues_that_are_reset_lose_what_they_held_and_go_on() {
    for absent in [0, Feature::RING_PACKED.mask()] {
        let (mut a, mut b) = pair(absent, 16);
        for round in 0..50 {
            assert!(a.send(&frame(round, 60)));
            a.flush();
            a.device.poll().unwrap();
            // One more is with the device, and is lost with the reset.
            assert!(a.send(&frame(9999, 60)));
            a.flush();
            a.driver.reset_queues().unwrap();
            a.device.poll().unwrap();
            b.device.poll().unwrap();
            assert_eq!(b.receive(64), [frame(round, 60)], "round {round}");
            assert!(b.send(&frame(round, 1000)));
            b.flush();
            b.device.poll().unwrap();
            a.device.poll().unwrap();
            assert_eq!(a.receive(64), [frame(round, 1000)], "round {round}");
        }
    }
}

#[test]
fn queue_reset_without_the_feature_is_refused_by_name() {
    let (mut a, _b) = pair(Feature::RING_RESET.mask(), 16);
    assert!(matches!(a.driver.reset_queues(), Err(Error::NoQueueReset(0))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any features, any sizes, sent and received in any rhythm: what arrives is what was sent, in order, and nothing is lost.
    #[test]
    fn any_rhythm_loses_nothing(
        choice in 0u16..1 << OPTIONAL.len(),
        frames in prop::sample::select(vec![4u16, 16, 256]),
        steps in prop::collection::vec((0u8..6, 14usize..3014), 1..400),
    ) {
        let (mut a, mut b) = pair(masks(choice), frames);
        let (mut expected, mut number) = (VecDeque::new(), 0);
        let check = |received: Vec<Vec<u8>>, expected: &mut VecDeque<Vec<u8>>| {
            for frame in received {
                assert_eq!(Some(frame), expected.pop_front());
            }
        };
        for (step, len) in steps {
            match step {
                0 | 1 => {
                    let bytes = frame(number, len);
                    if a.send(&bytes) {
                        expected.push_back(bytes);
                        number += 1;
                    }
                }
                2 => a.flush(),
                3 => { a.device.poll().unwrap(); }
                4 => { b.device.poll().unwrap(); }
                _ => check(b.receive(1 + len % 64), &mut expected),
            }
        }
        a.flush();
        // Until everything went through both devices, a few buffers at a time.
        for _ in 0..1000 {
            a.device.poll().unwrap();
            b.device.poll().unwrap();
            check(b.receive(64), &mut expected);
        }
        prop_assert!(expected.is_empty(), "{} frames were lost", expected.len());
    }
}
