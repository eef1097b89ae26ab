//! A polled virtio-net driver in user space (virtio 1.3: split and packed virtqueues, legacy and modern PCI).
//!
//! The crate knows nothing of VFIO, sockets or threads. It meets the machine through three things that the
//! caller brings: a [`Transport`] (the registers of one device; the PCI ones stand on a [`PciFunction`]), a
//! [`DmaMemory`] (a mapping, and where the device sees each piece of it), and the caller's own polling loop.
//!
//! From the top:
//! - [`NetDevice::bring_up`] walks the initialisation list of the specification and gives an [`RxQueue`] and a [`TxQueue`];
//! - [`RxQueue::receive`] lends received frames in place, [`TxQueue::lend`] lends buffers to be filled and sent; an [`Offload`] beside
//!   a frame says what one side leaves to the other: checksums, and long segments of TCP;
//! - [`Ring`] is a virtqueue, split or packed, with a shadow of everything it ever trusts;
//! - a frame buffer's owner (pool, device, stack) is part of its type, so using one after it was given away does not compile.
//!
//! **The device is an adversary.** Whatever it writes (indices, ids, lengths, headers) is read once, compared with
//! our own shadow, and a lie is a [`Fault`]: the caller resets the device. Nothing here panics on what a device says.

mod error;
mod features;
mod frame;
mod memory;
mod net;
mod ring;
mod transport;

pub use error::{Error, Fault};
pub use features::{Choice, Feature, Negotiation, Switches};
pub use memory::{DmaArena, DmaMemory, DmaSegment, DmaSlice};
pub use net::{
    BadHeader, Checksum, CommandInfo, DeviceInfo, NetDevice, OFFLOAD_BYTES, Offload, OffloadInfo, Options,
    Protocol, QueueCounters, QueueInfo, RxQueue, Segmentation, TxFrame, TxOffloads, TxQueue,
    ones_complement_sum,
};
pub use ring::{Part, Position, Ring, RingAddresses, RingLayout, RingOptions, Used};
pub use transport::legacy::LegacyPci;
pub use transport::modern::ModernPci;
pub use transport::vhost_user::{VhostUser, VhostUserOptions, VhostUserRole, VhostUserSocket};
pub use transport::{Doorbell, PciFunction, Transport, TransportKind, open_pci, status};
