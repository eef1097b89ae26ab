//! vhost-user, the frontend's side: a device in another process, its rings in memory that both map.
//!
//! ```text
//!   netd (frontend, driver)                          backend (DPDK, Open vSwitch)
//!     requests, replies   <── Unix stream socket ──>
//!     rings, frames       <── sealed memfd, passed once ──>
//!     doorbell, interrupt ──  two eventfds per queue  ──>
//! ```
//!
//! A session is one connection, from [`VhostUser::open`] to its end, with memory of its own: a backend that lost its
//! connection may keep its mapping for as long as it likes, and finds nothing in it but what it knew already. That is why
//! a reset can always be said to be complete: what the backend may still write to belongs to nobody any more.
//!
//! There are no registers: status and configuration are kept here, and what the backend needs of them goes over the socket.
//!
//! **The backend is not trusted.** The memfd is sealed, so that it cannot be cut short under our mapping; addresses in it
//! count from [`ADDRESS_BASE`] and tell nothing of our address space; a request that is not answered in [`ANSWER_TIMEOUT`]
//! ends the session.

mod memory;
mod patience;
mod request;
mod socket;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::transport::{Doorbell, Position, Transport, TransportKind, status};
use crate::{DmaMemory, Error, Fault, Feature, RingAddresses};

use memory::SharedMemory;
use patience::Patience;
pub use socket::{VhostUserRole, VhostUserSocket};

/// Where the shared memory begins for the backend, in ring addresses and in descriptors. Any number would do; this one is far from 0, so
/// that an address that was never set is seen to be none.
const ADDRESS_BASE: u64 = 1 << 32;
/// A backend answers a request within microseconds; one that is being debugged or swapped in may take long. The worker waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries of a ring at most: what QEMU offers, and every backend takes.
const QUEUE_SIZE_MAX: u16 = 1024;
/// Queues without multiqueue: one pair (virtio 1.3, 5.1.2).
const QUEUES_SINGLE: u64 = 2;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: a feature bit that is no virtio feature (vhost-user, "Feature negotiation").
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_F_LOG_ALL`: dirty pages, for migration.
const LOG_ALL: u64 = 1 << 26;
/// What the frontend serves itself or does without: the control queue and what stands on it (virtio 1.3, 5.1.3: bits 17 to 23) are not
/// the backend's business; addresses are not translated (an IOMMU would want an IOTLB served over the socket); an eventfd carries no data with
/// a doorbell; single rings are not reset.
const NOT_OFFERED: u64 = PROTOCOL_FEATURES
    | LOG_ALL
    | 0x7f << 17
    | Feature::ACCESS_PLATFORM.mask()
    | Feature::NOTIFICATION_DATA.mask()
    | Feature::RING_RESET.mask();
/// What the configuration space says is ours to offer: the backend does not see it (bits 3 and 5).
const OFFERED_BY_US: u64 = Feature::MAC.mask() | Feature::MTU.mask();

/// The protocol features that are of use here.
const PROTOCOL_USED: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::STATUS);

/// Where a fresh packed ring begins: at entry 0, both wrap counters 1 (virtio 1.3, 2.8.1), the driver's in bit 15 (vhost-user, "Vring state").
const PACKED_BASE: u16 = 1 << 15;

/// `struct virtio_net_config` up to the MTU (virtio 1.3, 5.1.4).
const CONFIG_BYTES: usize = 12;

/// What a backend does not know of its device, and the frontend decides.
#[derive(Debug, Clone)]
pub struct VhostUserOptions {
    /// The station's address.
    pub mac: [u8; 6],
    /// The largest IP packet.
    pub mtu: u16,
    /// Bytes of memory for rings and frames.
    pub memory_bytes: usize,
}

/// One session with a backend.
pub struct VhostUser {
    frontend: Frontend,
    socket: UnixStream,
    memory: SharedMemory,
    protocol: VhostUserProtocolFeatures,
    /// Feature bits of the backend, vhost-user's own among them.
    backend_features: u64,
    config: [u8; CONFIG_BYTES],
    /// The rings are packed ones.
    packed: bool,
    status: u8,
    queues_max: u64,
    queues: Vec<Queue>,
    /// The interrupt of every queue.
    call: EventFd,
    /// The connection is of no use any more.
    over: bool,
}

/// A queue that the backend was told of.
struct Queue {
    index: u16,
    kick: EventFd,
}

impl VhostUser {
    /// Begins a session over a fresh connection.
    ///
    /// # Errors
    ///
    /// When the memory cannot be had, or the peer is no backend.
    pub fn open(socket: UnixStream, options: &VhostUserOptions) -> Result<Self, Error> {
        let memory = SharedMemory::new(options.memory_bytes, ADDRESS_BASE)?;
        let channel = |step| move |source| Error::VhostUserSystem { step, source };
        let call = EventFd::new(EFD_NONBLOCK).map_err(channel("make an eventfd"))?;
        let connection = socket.try_clone().map_err(channel("share the connection"))?;
        let mut session = Self {
            frontend: Frontend::from_stream(connection, QUEUES_SINGLE),
            socket,
            memory,
            protocol: VhostUserProtocolFeatures::empty(),
            backend_features: 0,
            config: config_of(options),
            packed: false,
            status: 0,
            queues_max: QUEUES_SINGLE,
            queues: Vec::new(),
            call,
            over: false,
        };
        session.introduce()?;
        Ok(session)
    }

    /// The memory that driver and backend share.
    pub fn memory(&self) -> Arc<DmaMemory> {
        Arc::clone(self.memory.dma())
    }

    /// Readable after the backend interrupted.
    pub fn interrupt(&self) -> Result<OwnedFd, Error> {
        let source = |source| Error::VhostUserSystem { step: "share an eventfd", source };
        let raw = self.call.try_clone().map_err(source)?.into_raw_fd();
        // SAFETY: needed because the two libraries own descriptors in types of their own; the clone just gave up its descriptor,
        // so this is its one owner.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// The names of the negotiated protocol features.
    pub fn protocol_features(&self) -> Vec<String> {
        self.protocol.iter_names().map(|(name, _)| format!("VHOST_USER_PROTOCOL_F_{name}")).collect()
    }

    /// How many queues the backend has at most.
    pub fn queues_max(&self) -> u64 {
        self.queues_max
    }

    /// From SET_OWNER to the configuration (vhost-user, "Communication" and "Feature negotiation").
    fn introduce(&mut self) -> Result<(), Error> {
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check("set the owner", self.frontend.set_owner())?;
        self.backend_features = patience.check("tell its features", self.frontend.get_features())?;
        if self.backend_features & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let offered = patience.check("tell its protocol features", self.frontend.get_protocol_features())?;
        self.protocol = offered & PROTOCOL_USED;
        patience.check("take the protocol features", self.frontend.set_protocol_features(self.protocol))?;
        if self.acknowledges() {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        if self.protocol.contains(VhostUserProtocolFeatures::MQ) {
            // Each of a backend's queues is a pair for the frontend.
            let pairs = patience.check("count its queues", self.frontend.get_queue_num())?;
            self.queues_max = pairs.saturating_mul(2).max(QUEUES_SINGLE);
        }
        if self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            let flags = VhostUserConfigFlags::empty();
            let read = self.frontend.get_config(0, CONFIG_BYTES as u32, flags, &[0; CONFIG_BYTES]);
            let (_, bytes) = patience.check("tell its configuration", read)?;
            self.adopt_config(&bytes);
        }
        Ok(())
    }

    /// Takes from the backend's configuration what it has features for.
    fn adopt_config(&mut self, bytes: &[u8]) {
        let mut adopt = |feature: Feature, range: std::ops::Range<usize>| {
            if self.backend_features & feature.mask() != 0
                && let (Some(ours), Some(theirs)) = (self.config.get_mut(range.clone()), bytes.get(range))
            {
                ours.copy_from_slice(theirs);
            }
        };
        adopt(Feature::MAC, 0..6);
        adopt(Feature::STATUS, 6..8);
        adopt(Feature::MTU, 10..12);
    }

    fn acknowledges(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn has_status(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::STATUS)
    }

    /// Tells the backend the status, if it wants to know.
    fn send_status(&mut self, value: u8) -> Result<(), Error> {
        if !self.has_status() || self.over {
            return Ok(());
        }
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check_io("take the status", request::set_status(&self.socket, value, self.acknowledges()))
    }

    /// Lets the backend begin or end its work on every queue.
    fn enable_queues(&mut self, enable: bool) -> Result<(), Error> {
        if self.backend_features & PROTOCOL_FEATURES == 0 {
            // Such a backend's rings are enabled from the start, and started by their first kick.
            return Ok(());
        }
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        for queue in &self.queues {
            let done = self.frontend.set_vring_enable(queue.index.into(), enable);
            patience.check(if enable { "enable a ring" } else { "disable a ring" }, done)?;
        }
        Ok(())
    }

    /// Takes the rings back from a backend that answers: after GET_VRING_BASE a ring is stopped (vhost-user, "Ring states").
    fn stop_queues(&mut self) -> Result<(), Error> {
        let queues = std::mem::take(&mut self.queues);
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        for queue in &queues {
            patience.check("stop a ring", self.frontend.get_vring_base(queue.index.into()))?;
        }
        Ok(())
    }

    /// The end of the session: a connection that failed once is not used again.
    fn abandon(&mut self) {
        self.over = true;
        self.queues.clear();
        // It fails where the other side was faster.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Where the backend finds `address`, which for it is one of our virtual addresses: the same number.
    fn share_memory(&mut self) -> Result<(), Error> {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: ADDRESS_BASE,
            memory_size: self.memory.dma().size() as u64,
            // Only a name that ring addresses are told by, so our own address space is nobody's business.
            userspace_addr: ADDRESS_BASE,
            mmap_offset: 0,
            mmap_handle: self.memory.file().as_raw_fd(),
        };
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check("map the memory", self.frontend.set_mem_table(&[region])).map(drop)
    }
}

impl Transport for VhostUser {
    fn kind(&self) -> TransportKind {
        TransportKind::VhostUser
    }

    fn status(&self) -> Result<u8, Error> {
        if !self.has_status() || self.over {
            return Ok(self.status);
        }
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check_io("tell the status", request::get_status(&self.socket))
    }

    fn set_status(&mut self, value: u8) -> Result<(), Error> {
        if value & status::DRIVER_OK != 0 && self.status & status::DRIVER_OK == 0 {
            self.enable_queues(true)?;
        }
        self.send_status(value)?;
        self.status = value;
        Ok(())
    }

    fn device_features(&self) -> Result<u64, Error> {
        Ok(self.backend_features & !NOT_OFFERED | OFFERED_BY_US)
    }

    fn set_driver_features(&mut self, features: u64) -> Result<(), Error> {
        let agreed = features | PROTOCOL_FEATURES;
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check("take the features", self.frontend.set_features(agreed & self.backend_features))?;
        drop(patience);
        self.packed = features & Feature::RING_PACKED.mask() != 0;
        self.share_memory()
    }

    fn queue_size(&mut self, index: u16) -> Result<u16, Error> {
        Ok(if u64::from(index) < self.queues_max { QUEUE_SIZE_MAX } else { 0 })
    }

    fn queue_size_is_ours_to_choose(&self) -> bool {
        true
    }

    fn used_alignment(&self) -> usize {
        64
    }

    fn enable_queue(&mut self, index: u16, ring: &RingAddresses) -> Result<(), Error> {
        let kick = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| Error::VhostUserSystem { step: "make an eventfd", source })?;
        let addresses = VringConfigData {
            queue_max_size: QUEUE_SIZE_MAX,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: ring.descriptors,
            avail_ring_addr: ring.avail,
            used_ring_addr: ring.used,
            log_addr: None,
        };
        let at = usize::from(index);
        let base = if self.packed { PACKED_BASE } else { 0 };
        let patience = Patience::begin(&self.socket, ANSWER_TIMEOUT)?;
        patience.check("size a ring", self.frontend.set_vring_num(at, ring.size))?;
        patience.check("take a ring's beginning", self.frontend.set_vring_base(at, base))?;
        patience.check("take a ring's addresses", self.frontend.set_vring_addr(at, &addresses))?;
        // The interrupt before the doorbell: a backend may start the ring with the latter.
        patience.check("take a ring's interrupt", self.frontend.set_vring_call(at, &self.call))?;
        patience.check("take a ring's doorbell", self.frontend.set_vring_kick(at, &kick))?;
        self.queues.push(Queue { index, kick });
        Ok(())
    }

    fn doorbell(&self, index: u16) -> Result<Box<dyn Doorbell>, Error> {
        let queue = self.queues.iter().find(|queue| queue.index == index);
        let queue = queue.ok_or(Error::QueueNotEnabled(index))?;
        let kick = queue.kick.try_clone();
        let kick = kick.map_err(|source| Error::VhostUserSystem { step: "share an eventfd", source })?;
        Ok(Box::new(Kick(kick)))
    }

    fn read_config(&self, offset: u8, buffer: &mut [u8]) -> Result<(), Error> {
        let from = usize::from(offset);
        let field = self.config.get(from..from + buffer.len());
        let field = field.ok_or_else(|| Error::Capabilities(format!("no configuration at {offset}")))?;
        buffer.copy_from_slice(field);
        Ok(())
    }

    /// Stops the rings in order while the backend answers. Where it does not, the connection is closed, and the memory with it: the
    /// backend's mapping keeps the pages alive, and they are given to nobody else.
    fn reset(&mut self) -> Result<(), Error> {
        // A backend that was told nothing yet has nothing to stop.
        if !self.over && self.status != 0 {
            let stopped = match self.queues.is_empty() {
                true => Ok(()),
                false => self.enable_queues(false).and_then(|()| self.stop_queues()),
            };
            if stopped.and_then(|()| self.send_status(0)).is_err() {
                self.abandon();
            }
        }
        self.status = 0;
        Ok(())
    }

    fn check_health(&self) -> Result<(), Error> {
        // Between requests there is nothing to read but the end of the connection.
        match request::peek(&self.socket) {
            Ok(request::Pending::Nothing) => Ok(()),
            Ok(request::Pending::End) | Err(_) => Err(Fault::BackendGone.into()),
            Ok(request::Pending::Bytes) => Err(Fault::BackendChatter.into()),
        }
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn config_of(options: &VhostUserOptions) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    config[0..6].copy_from_slice(&options.mac);
    config[6..8].copy_from_slice(&1u16.to_le_bytes());
    config[8..10].copy_from_slice(&1u16.to_le_bytes());
    config[10..12].copy_from_slice(&options.mtu.to_le_bytes());
    config
}

/// A queue's kick eventfd.
struct Kick(EventFd);

impl Doorbell for Kick {
    fn ring(&self, _position: Position) -> io::Result<()> {
        match self.0.write(1) {
            // A counter that takes no more was rung already: by us and not heard yet, or by the backend itself, which shares it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests;
