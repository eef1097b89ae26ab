//! The virtio-net device (virtio 1.3, 5.1): initialisation, configuration, and its pair of queues.

mod control;
pub(crate) mod offload;
mod rx;
mod switch;
mod tx;

use std::sync::Arc;

use serde::Serialize;

pub use control::CommandInfo;
pub use offload::{BadHeader, Checksum, OFFLOAD_BYTES, Offload, Protocol, Segmentation, ones_complement_sum};
pub use rx::RxQueue;
pub use switch::OffloadInfo;
pub use tx::{TxFrame, TxOffloads, TxQueue};

use control::{Command, ControlQueue};
use rx::Accepted;
use tx::TxPools;

use crate::features::Circumstances;
use crate::frame::{Frame, FramePool, owner};
use crate::transport::status;
use crate::{
    DmaArena, DmaMemory, Doorbell, Error, Fault, Feature, Negotiation, Position, Ring, RingOptions, Switches,
    Transport, TransportKind,
};

/// Queue indices without multiqueue (virtio 1.3, 5.1.2).
const RECEIVEQ1: u16 = 0;
const TRANSMITQ1: u16 = 1;
const CONTROLQ: u16 = 2;

/// `struct virtio_net_config` (5.1.4): where the fields are.
mod config {
    pub(super) const MAC: u8 = 0;
    pub(super) const STATUS: u8 = 6;
    pub(super) const MTU: u8 = 10;
    /// Bit of the status field (5.1.4).
    pub(super) const LINK_UP: u16 = 1;
}

/// `struct virtio_net_hdr` without `num_buffers`, on legacy devices without merged receive buffers (5.1.6.1).
const HEADER_SHORT: usize = 10;
/// The same with `num_buffers`.
const HEADER: usize = 12;
/// Offset of `num_buffers` in the header.
const HEADER_NUM_BUFFERS: usize = 10;

/// Without merged buffers a receive buffer must hold the header and the largest Ethernet frame (5.1.6.3.1).
const FRAME_BYTES_MIN: usize = 1526;

/// What Ethernet puts around an IP packet: addresses and type, and a VLAN tag.
const FRAME_OVERHEAD: usize = 18;

/// The MTU of Ethernet, where the device does not tell its own.
const MTU_DEFAULT: u16 = 1500;
/// The smallest MTU a device may announce (virtio 1.3, 5.1.4.1).
const MTU_MIN: u16 = 68;

/// The longest segment that a device cuts: 64 KiB of IP behind an Ethernet header and a VLAN tag (virtio 1.3, 5.1.6.2).
const LONG_FRAME_BYTES: usize = 65_535 + FRAME_OVERHEAD;
/// One transmit buffer out of so many holds such a segment: 16 of 256 are 1 MiB, 0.8 ms at 10 Gbit/s, and what is sent while all of them
/// are with the device leaves in small frames.
const LONG_FRAMES_SHARE: u16 = 16;

/// The largest number of descriptors that a frame takes: a header of its own and the bytes (legacy without ANY_LAYOUT).
const FRAME_PARTS_MAX: usize = 2;

/// How a device is to be driven.
#[derive(Debug, Clone)]
pub struct Options {
    /// Receive buffers posted at most. A ring may have more entries: 16,384 buffers of 2 KiB would pin 32 MiB per queue.
    pub rx_frames: u16,
    /// Transmit buffers at most.
    pub tx_frames: u16,
    /// Size of each buffer in bytes, header included.
    pub frame_bytes: usize,
    /// Device addresses are IOVAs behind an IOMMU: then the device must promise to obey it.
    pub translated: bool,
    /// The device may write to a frame after it gave it back, as a process that shares the memory can: frames are copied out before
    /// anybody looks at them, and copied in when they are complete.
    pub untrusted: bool,
    /// The MSI-X vector that both queues interrupt with; none for a device that is only polled.
    pub vector: Option<u16>,
    /// Features that are not to be used though the device offers them.
    pub switches: Switches,
}

impl Default for Options {
    fn default() -> Self {
        // 256 full frames are 3 ms of 1 Gbit/s, more than a polling loop is ever away; 2 KiB hold a frame of MTU 1500 and divide a page.
        Self {
            rx_frames: 256,
            tx_frames: 256,
            frame_bytes: 2048,
            translated: false,
            untrusted: false,
            vector: None,
            switches: Switches::default(),
        }
    }
}

/// What is known of a device once it is up.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceInfo {
    /// The register layout.
    pub transport: TransportKind,
    /// The device's MAC address, if it gave one.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// What became of each feature.
    pub features: Negotiation,
    /// Receive and transmit queue.
    pub queues: Vec<QueueInfo>,
    /// `split` or `packed`.
    pub rings: &'static str,
}

/// One queue's shape.
#[derive(Debug, Clone, Serialize)]
pub struct QueueInfo {
    /// Its index.
    pub index: u16,
    /// Ring entries.
    pub size: u16,
    /// Buffers that it cycles through.
    pub frames: u16,
}

/// What went through a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueCounters {
    /// Ethernet frames.
    pub frames: u64,
    /// Their bytes, without virtio headers.
    pub bytes: u64,
    /// Frames that came in several buffers.
    pub merged: u64,
    /// Bytes of frames that were copied before they were lent, since they did not lie in one piece or must not be read in place.
    pub copied: u64,
    /// Frames that stand for several: joined by the device, or for it to cut.
    pub segments_joined: u64,
    /// Received frames that were dropped because the virtio-net header before them was wrong.
    pub bad_headers: u64,
    /// How often the doorbell was rung.
    pub doorbells: u64,
    /// Transmitted frames whose buffers the device gave back.
    pub completed: u64,
    /// Frames that could not be sent because every buffer was with the device.
    pub exhausted: u64,
}

/// A virtio-net device in operation.
///
/// Dropping it resets the device first; if the device does not confirm, its memory is leaked rather than released.
pub struct NetDevice {
    transport: Box<dyn Transport>,
    rx: RxQueue,
    tx: TxQueue,
    control: Option<ControlQueue>,
    info: DeviceInfo,
    /// The features of offloads that are wanted, and those of them that are in use.
    offloads_wanted: u64,
    offloads_on: u64,
    /// The MSI-X vector of both queues.
    vector: Option<u16>,
    memory: Arc<DmaMemory>,
    stopped: bool,
}

impl NetDevice {
    /// Walks the initialisation list of virtio 1.3, 3.1.1 (3.1.2 for legacy devices).
    pub fn bring_up(
        mut transport: Box<dyn Transport>,
        memory: Arc<DmaMemory>,
        options: &Options,
    ) -> Result<Self, Error> {
        // 1. Reset the device.
        transport.reset()?;
        match Self::initialise(&mut *transport, &memory, options) {
            Ok(Queues { rx, tx, control, info }) => {
                let (vector, offloads_wanted) = (options.vector, switch::negotiated(&info.features));
                let offloads_on = offloads_wanted;
                let stopped = false;
                Ok(Self {
                    transport,
                    rx,
                    tx,
                    control,
                    info,
                    offloads_wanted,
                    offloads_on,
                    vector,
                    memory,
                    stopped,
                })
            }
            Err(error) => {
                // 3.1.1: on a failure the driver sets FAILED; the reset then takes the memory back from the device.
                let failed = transport.set_status(status::FAILED).and_then(|()| transport.reset());
                if failed.is_err() {
                    std::mem::forget(memory);
                }
                Err(error)
            }
        }
    }

    fn initialise(
        transport: &mut dyn Transport,
        memory: &Arc<DmaMemory>,
        options: &Options,
    ) -> Result<Queues, Error> {
        let modern = transport.kind() != TransportKind::LegacyPci;
        // 2. and 3. Acknowledge the device, and say that we can drive it.
        let mut state = status::ACKNOWLEDGE;
        transport.set_status(state)?;
        state |= status::DRIVER;
        transport.set_status(state)?;
        // 4. Read the offered features and write what we accept.
        let offered = transport.device_features()?;
        let circumstances = Circumstances { modern, translated: options.translated, off: options.switches };
        let features = Negotiation::choose(offered, circumstances)?;
        transport.set_driver_features(features.accepted)?;
        if modern {
            // 5. and 6. Set FEATURES_OK and see whether it stays.
            state |= status::FEATURES_OK;
            transport.set_status(state)?;
            if transport.status()? & status::FEATURES_OK == 0 {
                return Err(Error::FeaturesRefused(features.accepted));
            }
        }
        // 7. Device-specific set-up: configuration and queues.
        let mac = read_mac(transport, &features)?;
        let mtu = read_mtu(transport, &features)?;
        let shape = FrameShape::of(&features, modern);
        let mut arena = DmaArena::new(Arc::clone(memory));
        if let Some(vector) = options.vector {
            transport.set_queue_vector(RECEIVEQ1, vector)?;
            transport.set_queue_vector(TRANSMITQ1, vector)?;
        }
        let (mut rx, rx_info) = make_rx(transport, (&features, shape), mtu, options, &mut arena)?;
        let (tx, tx_info) = make_tx(transport, (&features, shape), mtu, options, &mut arena)?;
        let mut control = match features.has(Feature::CTRL_VQ) {
            true => Some(make_control_queue(transport, &features, &mut arena)?),
            false => None,
        };
        // 8. The device is live; only now may its doorbells ring.
        rx.fill();
        transport.set_status(state | status::DRIVER_OK)?;
        rx.kick()?;
        if let Some(control) = control.as_mut().filter(|_| features.has(Feature::CTRL_RX)) {
            // A device begins promiscuous (5.1.6.5.1.1). Groups stay open: the stack joins and leaves too many for a table.
            control.submit(Command::AllMulticast(true))?;
            control.submit(Command::Promiscuous(false))?;
        }
        let rings = if features.has(Feature::RING_PACKED) { "packed" } else { "split" };
        let queues = vec![rx_info, tx_info];
        let info = DeviceInfo { transport: transport.kind(), mac, mtu, features, queues, rings };
        Ok(Queues { rx, tx, control, info })
    }

    /// What is known of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What the device was told through its control queue, and what it answered.
    pub fn commands(&self) -> &[CommandInfo] {
        self.control.as_ref().map_or(&[], ControlQueue::commands)
    }

    /// Both queues at once: while a received frame is lent, its answer can be sent.
    pub fn queues(&mut self) -> (&mut RxQueue, &mut TxQueue) {
        (&mut self.rx, &mut self.tx)
    }

    /// Asks for an interrupt at the next received frame and, where every transmit buffer is with the device, at the next one it gives
    /// back. Returns whether there is something to do already: then sleeping would be wrong.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        let received = self.rx.arm()?;
        let sent = !self.tx.ready() && self.tx.arm()?;
        Ok(received || sent)
    }

    /// Goes back to polling: no more interrupts.
    pub fn disarm(&mut self) {
        self.rx.disarm();
        self.tx.disarm();
    }

    /// How many transmitted frames the device holds: they are lost if it is reset now.
    pub fn unsent(&mut self) -> u16 {
        self.tx.reclaim();
        self.tx.outstanding()
    }

    /// Counters of the receive and the transmit queue.
    pub fn counters(&self) -> (QueueCounters, QueueCounters) {
        (self.rx.counters(), self.tx.counters())
    }

    /// Whether the link is up; a device that does not tell is taken to be (5.1.4.2).
    pub fn link_up(&self) -> Result<bool, Error> {
        if !self.info.features.has(Feature::STATUS) {
            return Ok(true);
        }
        let mut status = [0; 2];
        self.transport.read_config(config::STATUS, &mut status)?;
        Ok(u16::from_le_bytes(status) & config::LINK_UP != 0)
    }

    /// Says whether the device asked to be reset, or left the bus; looks for answers to commands.
    ///
    /// # Errors
    ///
    /// When the device needs a reset.
    pub fn check_health(&mut self) -> Result<(), Error> {
        if let Some(control) = &mut self.control {
            control.poll()?;
        }
        self.transport.check_health()
    }

    /// Stops both queues, one after the other, takes every buffer back and starts them again (virtio 1.3, 2.6.1). The device itself is not
    /// reset: features, address and link stay. Frames that it held are lost.
    ///
    /// # Errors
    ///
    /// Without RING_RESET, and when a queue does not stop: then the device may still write, and must be reset as a whole.
    pub fn reset_queues(&mut self) -> Result<(), Error> {
        let able = self.info.features.has(Feature::RING_RESET);
        for queue in [RECEIVEQ1, TRANSMITQ1] {
            if !able {
                return Err(Error::NoQueueReset(queue));
            }
            self.transport.reset_queue(queue)?;
        }
        self.rx.restart();
        self.tx.restart();
        for (queue, ring) in [(RECEIVEQ1, self.rx.addresses()), (TRANSMITQ1, self.tx.addresses())] {
            if let Some(vector) = self.vector {
                self.transport.set_queue_vector(queue, vector)?;
            }
            self.transport.enable_queue(queue, &ring)?;
        }
        Ok(self.rx.kick()?)
    }

    /// Resets the device and waits until it stopped. Afterwards no memory is in its hands, and its rings and frames are nobody's.
    ///
    /// ```no_run
    /// # use netd_virtqueue::{Error, NetDevice};
    /// # fn stop(mut device: NetDevice) -> Result<(), Error> {
    /// let (_rx, tx) = device.queues();
    /// tx.reclaim();
    /// device.shut_down()
    /// # }
    /// ```
    ///
    /// A ring that is used after it does not compile:
    ///
    /// ```compile_fail
    /// # use netd_virtqueue::{Error, NetDevice};
    /// # fn stop(mut device: NetDevice) -> Result<(), Error> {
    /// let (_rx, tx) = device.queues();
    /// let stopped = device.shut_down();
    /// tx.reclaim();
    /// stopped
    /// # }
    /// ```
    pub fn shut_down(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        self.transport.reset()?;
        self.stopped = true;
        Ok(())
    }
}

impl Drop for NetDevice {
    fn drop(&mut self) {
        if !self.stopped && self.stop().is_err() {
            // The device may still write: its memory must outlive it, so it is never given back.
            std::mem::forget(Arc::clone(&self.memory));
        }
    }
}

/// What initialisation makes.
struct Queues {
    rx: RxQueue,
    tx: TxQueue,
    control: Option<ControlQueue>,
    info: DeviceInfo,
}

/// How a frame and its header lie in descriptors.
#[derive(Debug, Clone, Copy)]
struct FrameShape {
    /// Length of the virtio-net header.
    header: usize,
    /// Received frames may span several buffers.
    merged: bool,
    /// Header and bytes need descriptors of their own (6.3: legacy devices without ANY_LAYOUT).
    header_apart: bool,
}

impl FrameShape {
    fn of(features: &Negotiation, modern: bool) -> Self {
        let merged = features.has(Feature::MRG_RXBUF);
        Self {
            header: if modern || merged { HEADER } else { HEADER_SHORT },
            merged,
            header_apart: !modern && !features.has(Feature::ANY_LAYOUT),
        }
    }

    /// Merged receive buffers are one descriptor each, also on legacy devices: this is how Linux has always posted them.
    fn rx_header_apart(self) -> bool {
        self.header_apart && !self.merged
    }

    fn rx_parts(self) -> usize {
        if self.rx_header_apart() { FRAME_PARTS_MAX } else { 1 }
    }

    fn tx_parts(self) -> usize {
        if self.header_apart { FRAME_PARTS_MAX } else { 1 }
    }
}

type FrameRing = Ring<Frame<owner::Device>>;

/// Makes a ring as large as the device says or, where the size is ours to choose, as `buffers` of up to `parts` parts need. Returns it
/// with the number of buffers that it has room for.
fn make_queue<T>(
    transport: &mut dyn Transport,
    index: u16,
    buffers: u16,
    features: &Negotiation,
    parts: usize,
    arena: &mut DmaArena,
) -> Result<(Ring<T>, u16), Error> {
    let offered = transport.queue_size(index)?;
    if offered == 0 {
        return Err(Error::QueueSize { index, size: 0, why: "the features promise this queue" });
    }
    let options = RingOptions::new(features, parts, transport.used_alignment());
    let mut size = offered;
    if transport.queue_size_is_ours_to_choose() {
        let wanted = usize::from(buffers) * options.descriptors_max();
        let wanted = u16::try_from(wanted.next_power_of_two()).unwrap_or(u16::MAX / 2 + 1);
        // A modern device may offer a size that is no power of two for packed rings only (2.7); round down.
        size = (1 << offered.ilog2()).min(wanted);
    }
    let ring = Ring::new(index, size, &options, arena)?;
    transport.enable_queue(index, &ring.addresses())?;
    Ok((ring, buffers.min(size / options.descriptors_max() as u16)))
}

/// Makes the receive queue with its buffers, none of them posted yet.
fn make_rx(
    transport: &mut dyn Transport,
    (features, shape): (&Negotiation, FrameShape),
    mtu: u16,
    options: &Options,
    arena: &mut DmaArena,
) -> Result<(RxQueue, QueueInfo), Error> {
    let (ring, frames) =
        make_queue(transport, RECEIVEQ1, options.rx_frames, features, shape.rx_parts(), arena)?;
    let info = QueueInfo { index: RECEIVEQ1, size: ring.addresses().size, frames };
    // Without merged buffers each one must hold whatever the link carries.
    let whole = if shape.merged { 0 } else { shape.header + FRAME_OVERHEAD + usize::from(mtu) };
    let frame_bytes = options.frame_bytes.max(FRAME_BYTES_MIN).max(whole);
    let pool = FramePool::new(arena, frames, frame_bytes)?;
    let accepted = Accepted {
        checksum: features.has(Feature::GUEST_CSUM),
        tso4: features.has(Feature::GUEST_TSO4),
        tso6: features.has(Feature::GUEST_TSO6),
    };
    let doorbell = transport.doorbell(RECEIVEQ1)?;
    Ok((RxQueue::new(ring, pool, (shape, accepted), doorbell, options.untrusted), info))
}

/// Makes the transmit queue with its buffers.
fn make_tx(
    transport: &mut dyn Transport,
    (features, shape): (&Negotiation, FrameShape),
    mtu: u16,
    options: &Options,
    arena: &mut DmaArena,
) -> Result<(TxQueue, QueueInfo), Error> {
    let (ring, frames) =
        make_queue(transport, TRANSMITQ1, options.tx_frames, features, shape.tx_parts(), arena)?;
    let info = QueueInfo { index: TRANSMITQ1, size: ring.addresses().size, frames };
    let cuts = features.has(Feature::HOST_TSO4) || features.has(Feature::HOST_TSO6);
    let long_frames = if cuts { (frames / LONG_FRAMES_SHARE).max(1).min(frames - 1) } else { 0 };
    let whole = shape.header + FRAME_OVERHEAD + usize::from(mtu);
    let frame_bytes = options.frame_bytes.max(FRAME_BYTES_MIN).max(whole);
    let link = FramePool::new(arena, frames - long_frames, frame_bytes)?;
    let long = match long_frames {
        0 => None,
        count => Some(FramePool::new(arena, count, shape.header + LONG_FRAME_BYTES)?),
    };
    let offloads = switch::transmit(features.accepted);
    let doorbell = transport.doorbell(TRANSMITQ1)?;
    let pools = TxPools { link, long };
    Ok((TxQueue::new(ring, pools, (shape, offloads), doorbell, options.untrusted), info))
}

fn make_control_queue(
    transport: &mut dyn Transport,
    features: &Negotiation,
    arena: &mut DmaArena,
) -> Result<ControlQueue, Error> {
    let (ring, _) = make_queue(transport, CONTROLQ, 1, features, control::PARTS, arena)?;
    ControlQueue::new(CONTROLQ, ring, transport.doorbell(CONTROLQ)?, arena)
}

/// Rings a bell if the ring asks for it. Returns whether it did.
fn ring_bell(bell: &dyn Doorbell, position: Option<Position>, queue: u16) -> Result<bool, Fault> {
    let Some(position) = position else { return Ok(false) };
    bell.ring(position)
        .map_err(|error| Fault::Doorbell { queue, errno: error.raw_os_error().unwrap_or(0) })?;
    Ok(true)
}

fn read_mac(transport: &dyn Transport, features: &Negotiation) -> Result<Option<[u8; 6]>, Error> {
    if !features.has(Feature::MAC) {
        return Ok(None);
    }
    let mut mac = [0; 6];
    transport.read_config(config::MAC, &mut mac)?;
    // A group address cannot be a station's own (IEEE 802): such a device gave none.
    Ok((mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac))
}

fn read_mtu(transport: &dyn Transport, features: &Negotiation) -> Result<u16, Error> {
    if !features.has(Feature::MTU) {
        return Ok(MTU_DEFAULT);
    }
    let mut mtu = [0; 2];
    transport.read_config(config::MTU, &mut mtu)?;
    Ok(u16::from_le_bytes(mtu).max(MTU_MIN))
}

#[cfg(test)]
mod tests;
