//! The driver against the software device: every frame, in order, both ways.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::sync::Arc;
use std::time::Duration;

use netd_softdev::{Impairment, SoftDevice, SoftTransport, Wire, WireEnd, create};
use netd_virtqueue::{DmaMemory, NetDevice, Options, Transport, status};

struct Machine {
    driver: NetDevice,
    device: SoftDevice<WireEnd>,
}

const MAC: [u8; 6] = [0x42, 0x01, 10, 0, 0, 2];

fn machine(end: WireEnd) -> (Machine, SoftTransport, Arc<DmaMemory>) {
    let (transport, memory, device) = create(MAC, 9000, end).unwrap();
    let driver =
        NetDevice::bring_up(Box::new(transport.clone()), Arc::clone(&memory), &Options::default()).unwrap();
    (Machine { driver, device }, transport, memory)
}

fn pair() -> (Machine, Machine, Wire) {
    let (wire, a, b) = Wire::new(Impairment::default(), 1);
    (machine(a).0, machine(b).0, wire)
}

impl Machine {
    fn send(&mut self, frame: &[u8]) -> bool {
        let (_, tx) = self.driver.queues();
        let Some(mut slot) = tx.lend(frame.len()) else { return false };
        slot.bytes().copy_from_slice(frame);
        slot.send();
        tx.flush().unwrap();
        true
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        self.device.poll().unwrap();
        let mut frames = Vec::new();
        self.driver.queues().0.poll(64, |frame| frames.push(frame.to_vec())).unwrap();
        frames
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + number * 13) as u8).collect()
}

#[test]
fn device_reports_what_it_is() {
    let (a, _b, _wire) = pair();
    let info = a.driver.info();
    assert_eq!((info.mac, info.mtu), (Some(MAC), 9000));
    assert!(a.driver.link_up().unwrap());
}

#[test]
fn frames_of_every_size_arrive_in_order_many_times_around_the_ring() {
    let (mut a, mut b, _wire) = pair();
    let sizes = [60, 61, 1514, 2036, 2037, 4096, 9014, 64];
    for round in 0..2000 {
        let sent = frame(round, sizes[round % sizes.len()]);
        assert!(a.send(&sent));
        a.device.poll().unwrap();
        assert_eq!(b.receive(), [sent], "round {round}");
    }
    let (rx, _) = b.driver.counters();
    assert_eq!(rx.frames, 2000);
    assert!(rx.merged >= 2000 / 8 * 3, "frames over 2036 bytes take several buffers: {rx:?}");
}

#[test]
fn burst_beyond_the_posted_buffers_waits_at_the_device() {
    let (mut a, mut b, _wire) = pair();
    let mut sent = 0;
    while sent < 1000 {
        if a.send(&frame(sent, 100)) {
            sent += 1;
        } else {
            a.device.poll().unwrap();
        }
    }
    a.device.poll().unwrap();
    let mut received = Vec::new();
    for _ in 0..100 {
        received.extend(b.receive());
    }
    assert_eq!(received.len(), 1000);
    assert!(received.iter().enumerate().all(|(number, bytes)| *bytes == frame(number, 100)));
}

#[test]
fn frame_longer_than_a_buffer_cannot_be_lent() {
    let (mut a, _b, _wire) = pair();
    let (_, tx) = a.driver.queues();
    let longest = tx.frame_len_max();
    assert!(longest >= 9014);
    assert!(tx.lend(longest + 1).is_none());
}

#[test]
fn loan_that_is_dropped_loses_no_buffer() {
    let (mut a, _b, _wire) = pair();
    for _ in 0..10_000 {
        assert!(a.driver.queues().1.lend(60).is_some());
    }
}

#[test]
fn device_is_reset_on_drop_and_can_be_brought_up_again() {
    let (_wire, a, _b) = Wire::new(Impairment::default(), 1);
    let (machine, transport, memory) = machine(a);
    assert_eq!(transport.status().unwrap() & status::DRIVER_OK, status::DRIVER_OK);
    drop(machine.driver);
    assert_eq!(transport.status().unwrap(), 0);
    let again = NetDevice::bring_up(Box::new(transport), memory, &Options::default()).unwrap();
    again.shut_down().unwrap();
}

#[test]
fn wire_without_loss_and_with_delay_delivers_late() {
    let (wire, a, b) = Wire::new(Impairment { delay: Duration::from_millis(3), ..Default::default() }, 1);
    let (mut a, mut b) = (machine(a).0, machine(b).0);
    a.send(&frame(0, 60));
    a.device.poll().unwrap();
    assert!(b.receive().is_empty());
    wire.advance_to(Duration::from_millis(3));
    assert_eq!(b.receive(), [frame(0, 60)]);
}
