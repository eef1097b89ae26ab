//! The device's side of a split ring: what an honest device does, and everything else that it can write.

use std::num::NonZeroU16;
use std::sync::Arc;

use netd_virtqueue::{Checksum, NetDevice, Offload, Protocol, Segmentation};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use super::FRAMES;
use super::pci::{Function, Ring};
use crate::input::Input;

/// The longest frame (virtio 1.3, 5.1.6.3.1, and a VLAN tag).
const FRAME_LEN_MAX: usize = 65_562;
/// The descriptor names a table of descriptors (virtio 1.3, 2.7.5.3).
const DESC_F_INDIRECT: u16 = 4;
/// A bit of the length: a segment for the device to cut.
const LONG: u16 = 2;
const CUT: Offload = Offload {
    checksum: Checksum::Partial { start: 34, offset: 16 },
    segmentation: Some(Segmentation {
        protocol: Protocol::Tcp4,
        header_len: 54,
        segment_len: NonZeroU16::MIN.saturating_add(1447),
    }),
};
const RX: usize = 0;
const TX: usize = 1;

/// What the device remembers of a queue.
#[derive(Default)]
struct Seen {
    /// The next entry of the available ring.
    avail: u16,
    /// The next slot of the used ring, and the index that was published.
    used: u16,
}

pub(super) struct Device {
    region: Arc<MmapRegion>,
    rings: [Ring; 2],
    seen: [Seen; 2],
    /// Whether it ever did what an honest device does not.
    lied: bool,
    outstanding: usize,
}

impl Device {
    pub(super) fn new(function: &Function, region: Arc<MmapRegion>) -> Device {
        Device { region, rings: function.rings(), seen: Default::default(), lied: false, outstanding: 0 }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let at = address as usize % self.region.size();
        let len = bytes.len().min(self.region.size() - at);
        let place = self.region.as_volatile_slice();
        place.write_slice(&bytes[..len], at).expect("within the region");
    }

    fn read_u16(&self, address: u64) -> u16 {
        let at = address as usize % (self.region.size() - 1);
        self.region.as_volatile_slice().read_obj::<u16>(at).expect("within the region")
    }

    /// The next chain that the driver offered: its head, and the address of its first buffer.
    fn next_available(&mut self, queue: usize) -> Option<(u16, u64)> {
        let (ring, seen) = (self.rings[queue], &self.seen[queue]);
        if self.read_u16(ring.avail + 2) == seen.avail {
            return None;
        }
        let head = self.read_u16(ring.avail + 4 + 2 * u64::from(seen.avail % ring.size));
        self.seen[queue].avail = seen.avail.wrapping_add(1);
        let descriptor = ring.descriptors + 16 * u64::from(head);
        let indirect = self.read_u16(descriptor + 12) & DESC_F_INDIRECT != 0;
        let first = if indirect { self.read_address(descriptor) } else { descriptor };
        Some((head, self.read_address(first)))
    }

    /// The address in a descriptor; all of our memory lies in the lower 4 GiB.
    fn read_address(&self, descriptor: u64) -> u64 {
        u64::from(self.read_u16(descriptor)) | u64::from(self.read_u16(descriptor + 2)) << 16
    }

    fn put_used(&mut self, queue: usize, id: u32, len: u32) {
        let (ring, slot) = (self.rings[queue], self.seen[queue].used);
        let at = ring.used + 4 + 8 * u64::from(slot % ring.size);
        self.write(at, &id.to_le_bytes());
        self.write(at + 4, &len.to_le_bytes());
        self.seen[queue].used = slot.wrapping_add(1);
    }

    fn publish(&self, queue: usize) {
        self.write(self.rings[queue].used + 2, &self.seen[queue].used.to_le_bytes());
    }

    /// One thing that the device or its driver does. Ends with the script, or when the driver has found the device out.
    pub(super) fn step(
        &mut self,
        driver: &mut NetDevice,
        function: &Function,
        input: &mut Input<'_>,
    ) -> Option<()> {
        let step = input.u8()?;
        let queue = usize::from(step >> 7);
        self.lied |= function.lied();
        match step % 16 {
            0 | 1 => self.receive_honestly(input)?,
            2 => self.complete_honestly(),
            3 => self.lie_in_used(queue, input)?,
            4 => {
                self.lied = true;
                self.write(self.rings[queue].used + 2, &input.u16()?.to_le_bytes());
            }
            5 => {
                // Flags or avail_event: when to ring is the device's affair, whatever it says.
                let ring = self.rings[queue];
                let event = ring.used + 4 + 8 * u64::from(ring.size);
                self.write(if step & 0x40 == 0 { ring.used } else { event }, &input.u16()?.to_le_bytes());
            }
            6 => {
                // Anything, anywhere in the memory that they share.
                self.lied = true;
                let (at, value) = (input.u32()?, input.u32()?);
                self.write(u64::from(at) & !3, &value.to_le_bytes());
            }
            7 => {
                self.lied = true;
                function.change(input.u16()?, input.u8()?);
            }
            8..11 => self.poll(driver)?,
            11 | 12 => self.send(driver, input.u16()?)?,
            13 => {
                let _up = driver.link_up();
                driver.check_health().ok()?;
            }
            14 => drop(driver.arm().ok()?),
            _ => driver.disarm(),
        }
        Some(())
    }

    /// A frame, in one buffer; with a count of buffers that may be a lie.
    fn receive_honestly(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (len, buffers) = (input.u16()? % 1600, input.u8()?);
        if let Some((head, address)) = self.next_available(RX) {
            self.lied |= buffers != 0;
            let count = if buffers == 0 { 1 } else { u16::from(buffers) };
            let mut header = [0; 12];
            header[10..].copy_from_slice(&count.to_le_bytes());
            self.write(address, &header);
            self.put_used(RX, head.into(), u32::from(len) + 12);
            self.publish(RX);
        }
        Some(())
    }

    /// Every frame that was sent is done.
    fn complete_honestly(&mut self) {
        for _ in 0..FRAMES {
            let Some((head, _)) = self.next_available(TX) else { break };
            self.put_used(TX, head.into(), 0);
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        self.publish(TX);
    }

    /// An entry of the used ring, published or not.
    fn lie_in_used(&mut self, queue: usize, input: &mut Input<'_>) -> Option<()> {
        let (how, id, len) = (input.u8()?, input.u16()?, input.u32()?);
        self.lied = true;
        let id = match how & 3 {
            0 => u32::from(id),
            1 => u32::from(id) << 16 | 1,
            _ => u32::from(id % 16),
        };
        self.put_used(queue, id, if how & 4 == 0 { len % 2100 } else { len });
        if how & 8 == 0 {
            self.publish(queue);
        }
        Some(())
    }

    fn poll(&self, driver: &mut NetDevice) -> Option<()> {
        let mut lent = 0;
        let polled = driver.queues().0.poll(usize::MAX, |frame| {
            assert!(frame.len() <= FRAME_LEN_MAX, "a frame of {} bytes", frame.len());
            lent += 1;
        });
        assert!(lent <= usize::from(FRAMES), "{lent} frames in {FRAMES} buffers");
        assert!(polled.is_ok() || self.lied, "an honest device is called a liar: {polled:?}");
        polled.ok().map(drop)
    }

    fn send(&mut self, driver: &mut NetDevice, len: u16) -> Option<()> {
        let (_, tx) = driver.queues();
        let fits = usize::from(len) <= tx.frame_len_max();
        let long = tx.offloads().tso4 && len & LONG != 0;
        match if long { tx.lend_long(len.into()) } else { tx.lend(len.into()) } {
            Some(mut frame) => {
                frame.bytes().fill(0x5a);
                // Every other loan is given back unsent.
                if len & 1 == 0 {
                    frame.send_for(if long { &CUT } else { &Offload::NONE });
                    self.outstanding += 1;
                }
            }
            // How many there are depends on the ring, on entries per frame, and on what long segments take of it: at least one.
            None => assert!(long || self.lied || !fits || self.outstanding > 0, "a buffer is lost"),
        }
        let flushed = tx.flush();
        assert!(flushed.is_ok() || self.lied, "an honest device is called a liar: {flushed:?}");
        flushed.ok()
    }
}
