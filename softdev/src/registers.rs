//! The device's registers, shared by the driver's transport and the device. Control path only.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_virtqueue::{Doorbell, Error, Feature, Position, RingAddresses, Transport, TransportKind, status};

/// Receive, transmit and control queue.
pub(crate) const QUEUES: usize = 3;
/// Entries at most: what QEMU offers at most.
pub(crate) const QUEUE_SIZE_MAX: u16 = 1024;

/// Bit of the status field in the device configuration (virtio 1.3, 5.1.4).
const LINK_UP: u16 = 1;

/// What the driver wrote, and what it may read.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) status: u8,
    pub(crate) driver_features: u64,
    /// The rings that are enabled, each with the generation since when.
    pub(crate) rings: [Option<(RingAddresses, u64)>; QUEUES],
    /// Counts everything that the driver changes, so that the device notices by one comparison.
    pub(crate) generation: u64,
    pub(crate) link_up: bool,
    /// What the device offers.
    offered: u64,
    mac: [u8; 6],
    mtu: u16,
}

/// Everything both sides share beside the memory.
#[derive(Debug)]
pub(crate) struct Shared {
    registers: Mutex<Registers>,
    bell: AtomicBool,
    /// Where the driver said it was when it last rang each queue's bell.
    positions: [AtomicU16; QUEUES],
}

impl Shared {
    pub(crate) fn new(mac: [u8; 6], mtu: u16, offered: u64) -> Self {
        let registers = Registers {
            status: 0,
            driver_features: 0,
            rings: [None; QUEUES],
            generation: 0,
            link_up: false,
            offered,
            mac,
            mtu,
        };
        Self { registers: Mutex::new(registers), bell: AtomicBool::new(false), positions: Default::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Registers> {
        // No code panics while it holds the lock, and every field is valid at any time: poison means nothing here.
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the driver rang since the last call.
    pub(crate) fn take_bell(&self) -> bool {
        self.bell.swap(false, Ordering::Acquire)
    }

    /// The position that came with a queue's last doorbell.
    pub(crate) fn position(&self, index: usize) -> Option<u16> {
        self.positions.get(index).map(|position| position.load(Ordering::Relaxed))
    }
}

/// The driver's way to the software device's registers.
#[derive(Debug, Clone)]
pub struct SoftTransport {
    pub(crate) shared: Arc<Shared>,
}

/// Everything that the device can do.
pub const FEATURES: u64 = Feature::VERSION_1.mask()
    | Feature::MAC.mask()
    | Feature::MTU.mask()
    | Feature::STATUS.mask()
    | Feature::MRG_RXBUF.mask()
    | Feature::CTRL_VQ.mask()
    | Feature::CTRL_RX.mask()
    | Feature::EVENT_IDX.mask()
    | Feature::INDIRECT_DESC.mask()
    | Feature::RING_PACKED.mask()
    | Feature::IN_ORDER.mask()
    | Feature::NOTIFICATION_DATA.mask()
    | Feature::RING_RESET.mask()
    | OFFLOADS;

/// What of it needs a link that [`carries_offloads`](crate::Link::carries_offloads).
pub(crate) const OFFLOADS: u64 = Feature::CSUM.mask()
    | Feature::GUEST_CSUM.mask()
    | Feature::CTRL_GUEST_OFFLOADS.mask()
    | Feature::HOST_TSO4.mask()
    | Feature::HOST_TSO6.mask()
    | Feature::GUEST_TSO4.mask()
    | Feature::GUEST_TSO6.mask();

impl SoftTransport {
    fn slot(index: u16) -> Option<usize> {
        Some(usize::from(index)).filter(|index| *index < QUEUES)
    }
}

impl Transport for SoftTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Software
    }

    fn status(&self) -> Result<u8, Error> {
        Ok(self.shared.lock().status)
    }

    fn set_status(&mut self, value: u8) -> Result<(), Error> {
        let mut registers = self.shared.lock();
        if value == 0 {
            registers.driver_features = 0;
            registers.rings = [None; QUEUES];
        }
        let features_refused = registers.driver_features & !registers.offered != 0;
        registers.status = if features_refused { value & !status::FEATURES_OK } else { value };
        registers.generation += 1;
        Ok(())
    }

    fn device_features(&self) -> Result<u64, Error> {
        Ok(self.shared.lock().offered)
    }

    fn set_driver_features(&mut self, features: u64) -> Result<(), Error> {
        self.shared.lock().driver_features = features;
        Ok(())
    }

    fn queue_size(&mut self, index: u16) -> Result<u16, Error> {
        // A device without the control queue has no third one (virtio 1.3, 5.1.2).
        let control = self.shared.lock().offered & Feature::CTRL_VQ.mask() != 0;
        let there = Self::slot(index).is_some_and(|slot| slot < QUEUES - 1 || control);
        Ok(if there { QUEUE_SIZE_MAX } else { 0 })
    }

    fn queue_size_is_ours_to_choose(&self) -> bool {
        true
    }

    fn used_alignment(&self) -> usize {
        64
    }

    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        let slot = Self::slot(index).ok_or(Error::QueueNotEnabled(index))?;
        let mut registers = self.shared.lock();
        registers.generation += 1;
        registers.rings[slot] = Some((*ring, registers.generation));
        Ok(())
    }

    fn reset_queue(&mut self, index: u16) -> Result<(), Error> {
        let mut registers = self.shared.lock();
        if registers.driver_features & Feature::RING_RESET.mask() == 0 {
            return Err(Error::NoQueueReset(index));
        }
        // The device runs on the thread that polls it, and looks here before it touches a ring: it has stopped.
        let slot = Self::slot(index).ok_or(Error::QueueNotEnabled(index))?;
        registers.generation += 1;
        registers.rings[slot] = None;
        Ok(())
    }

    fn doorbell(&self, index: u16) -> Result<Box<dyn Doorbell>, Error> {
        let slot = Self::slot(index).ok_or(Error::QueueNotEnabled(index))?;
        Ok(Box::new(SoftDoorbell { shared: Arc::clone(&self.shared), slot }))
    }

    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        let registers = self.shared.lock();
        // struct virtio_net_config { u8 mac[6]; le16 status; le16 max_virtqueue_pairs; le16 mtu; } (virtio 1.3, 5.1.4)
        let mut config = [0; 12];
        config[0..6].copy_from_slice(&registers.mac);
        config[6..8].copy_from_slice(&if registers.link_up { LINK_UP } else { 0 }.to_le_bytes());
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&registers.mtu.to_le_bytes());
        let from = usize::from(offset);
        let field = config.get(from..from + buffer.len());
        let field = field.ok_or_else(|| Error::Capabilities(format!("no configuration at {offset}")))?;
        buffer.copy_from_slice(field);
        Ok(())
    }
}

struct SoftDoorbell {
    shared: Arc<Shared>,
    slot: usize,
}

impl Doorbell for SoftDoorbell {
    fn ring(&self, position: Position) -> io::Result<()> {
        self.shared.positions[self.slot].store(position.0, Ordering::Relaxed);
        self.shared.bell.store(true, Ordering::Release);
        Ok(())
    }
}
