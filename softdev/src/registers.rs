//! The device's registers, shared by the driver's transport and the device. Control path only.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_virtqueue::{Doorbell, Error, Feature, RingAddresses, Transport, TransportKind, status};

/// Receive and transmit queue.
pub(crate) const QUEUES: usize = 2;
/// Entries at most: what QEMU offers at most.
pub(crate) const QUEUE_SIZE_MAX: u16 = 1024;

/// Bit of the status field in the device configuration (virtio 1.3, 5.1.4).
const LINK_UP: u16 = 1;

/// What the driver wrote, and what it may read.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) status: u8,
    pub(crate) driver_features: u64,
    pub(crate) rings: [Option<RingAddresses>; QUEUES],
    /// Counts resets and DRIVER_OKs, so that the device notices a change by one comparison.
    pub(crate) generation: u64,
    pub(crate) link_up: bool,
    mac: [u8; 6],
    mtu: u16,
}

/// Everything both sides share beside the memory.
#[derive(Debug)]
pub(crate) struct Shared {
    registers: Mutex<Registers>,
    bell: AtomicBool,
}

impl Shared {
    pub(crate) fn new(mac: [u8; 6], mtu: u16) -> Self {
        let registers = Registers {
            status: 0,
            driver_features: 0,
            rings: [None; QUEUES],
            generation: 0,
            link_up: false,
            mac,
            mtu,
        };
        Self { registers: Mutex::new(registers), bell: AtomicBool::new(false) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Registers> {
        // No code panics while it holds the lock, and every field is valid at any time: poison means nothing here.
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the driver rang since the last call.
    pub(crate) fn take_bell(&self) -> bool {
        self.bell.swap(false, Ordering::Acquire)
    }
}

/// The driver's way to the software device's registers.
#[derive(Debug, Clone)]
pub struct SoftTransport {
    pub(crate) shared: Arc<Shared>,
}

impl SoftTransport {
    /// What the device offers.
    pub(crate) const FEATURES: u64 = Feature::VERSION_1.mask()
        | Feature::MAC.mask()
        | Feature::MTU.mask()
        | Feature::STATUS.mask()
        | Feature::MRG_RXBUF.mask()
        | Feature::EVENT_IDX.mask();

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
        let features_refused = registers.driver_features & !Self::FEATURES != 0;
        registers.status = if features_refused { value & !status::FEATURES_OK } else { value };
        registers.generation += 1;
        Ok(())
    }

    fn device_features(&self) -> Result<u64, Error> {
        Ok(Self::FEATURES)
    }

    fn set_driver_features(&mut self, features: u64) -> Result<(), Error> {
        self.shared.lock().driver_features = features;
        Ok(())
    }

    fn queue_size(&mut self, index: u16) -> Result<u16, Error> {
        Ok(Self::slot(index).map_or(0, |_| QUEUE_SIZE_MAX))
    }

    fn queue_size_is_ours_to_choose(&self) -> bool {
        true
    }

    fn used_alignment(&self) -> usize {
        64
    }

    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        let slot = Self::slot(index).ok_or(Error::QueueNotEnabled(index))?;
        self.shared.lock().rings[slot] = Some(*ring);
        Ok(())
    }

    fn doorbell(&self, _index: u16) -> Result<Box<dyn Doorbell>, Error> {
        Ok(Box::new(SoftDoorbell { shared: Arc::clone(&self.shared) }))
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
}

impl Doorbell for SoftDoorbell {
    fn ring(&self) -> io::Result<()> {
        self.shared.bell.store(true, Ordering::Release);
        Ok(())
    }
}
