//! What can go wrong between the driver and its device.

use std::io;
use std::path::PathBuf;

/// Everything that can fail while a device is brought up or driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A register or configuration access failed below the transport.
    #[error("{what} of the virtio device could not be accessed")]
    Access {
        /// Which register.
        what: &'static str,
        /// What the access said.
        #[source]
        source: io::Error,
    },
    /// The PCI capabilities do not describe a usable virtio 1.x device.
    #[error("the virtio PCI capabilities are not usable: {0}")]
    Capabilities(String),
    /// Status did not read back as zero in time after a reset.
    #[error("the device did not finish its reset within {0} ms: its status still reads {1:#04x}")]
    ResetTimeout(u64, u8),
    /// The device refused the features that we accepted (FEATURES_OK read back as clear).
    #[error("the device refused the accepted features {0:#x}")]
    FeaturesRefused(u64),
    /// A feature that we cannot work without is not offered.
    #[error("the device does not offer {name}, which is needed: {why}")]
    FeatureMissing {
        /// The specification's name of the feature.
        name: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// A queue that every virtio-net device has is absent, or its size is not usable.
    #[error("virtqueue {index} has size {size}, which is not usable: {why}")]
    QueueSize {
        /// The queue's index.
        index: u16,
        /// What the device said.
        size: u16,
        /// Why that does not do.
        why: &'static str,
    },
    /// A queue was already in use by somebody after the reset, or would not be enabled.
    #[error("virtqueue {0} could not be enabled")]
    QueueNotEnabled(u16),
    /// A single queue did not stop in time.
    #[error("virtqueue {0} did not finish its reset within {1} ms")]
    QueueResetTimeout(u16, u64),
    /// The transport cannot reset a single queue.
    #[error("virtqueue {0} cannot be reset alone: VIRTIO_F_RING_RESET was not negotiated")]
    NoQueueReset(u16),
    /// There is no offload of that name.
    #[error("no offload is called '{name}': there are {known}")]
    UnknownOffload {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: String,
    },
    /// The offload was not negotiated, so that it cannot be switched on.
    #[error("{name} cannot be switched on: {why}")]
    OffloadAbsent {
        /// Its name.
        name: &'static str,
        /// Why it is not there.
        why: &'static str,
    },
    /// The device does not let the offload be switched while it runs.
    #[error(
        "{name} cannot be switched while the device runs, which takes VIRTIO_NET_F_CTRL_GUEST_OFFLOADS; write `{name} = false` into          'features' of '[device]' and restart"
    )]
    OffloadFixed {
        /// Its name.
        name: &'static str,
    },
    /// The device refused a control command, or did not answer it in time.
    #[error("the device {outcome} the control command \"{command}\"")]
    Control {
        /// What was asked for.
        command: &'static str,
        /// What became of it.
        outcome: &'static str,
    },
    /// The device has no room for an interrupt vector.
    #[error("virtqueue {index} could not be given interrupt vector {vector}")]
    NoVector {
        /// The queue's index.
        index: u16,
        /// The vector.
        vector: u16,
    },
    /// A ring lies where the transport cannot express its address.
    #[error("the ring address {0:#x} does not fit the transport's queue register")]
    QueueAddress(u64),
    /// The DMA memory is too small, or too scattered, for what was asked.
    #[error("no {bytes} bytes of device-contiguous DMA memory are left (of {total} in the pool)")]
    OutOfDmaMemory {
        /// What was asked for.
        bytes: usize,
        /// What the pool holds in all.
        total: usize,
    },
    /// The description of a DMA memory contradicts itself.
    #[error(
        "the DMA segment at offset {offset:#x} of {len:#x} bytes is not inside the mapping, or overlaps another"
    )]
    BadSegment {
        /// Offset into the mapping.
        offset: usize,
        /// Length in bytes.
        len: usize,
    },
    /// The socket of a vhost-user backend cannot be reached, or ours not be made.
    #[error("the vhost-user socket {path} cannot be used: {why}")]
    BackendUnreachable {
        /// The socket.
        path: PathBuf,
        /// What that means.
        why: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody connected to our vhost-user socket.
    #[error("no vhost-user backend has connected to {path} yet")]
    BackendAbsent {
        /// The socket.
        path: PathBuf,
    },
    /// A vhost-user backend closed the connection instead of answering.
    #[error("the vhost-user backend closed the connection when asked to {what}")]
    BackendClosed {
        /// What it was to do.
        what: &'static str,
    },
    /// A vhost-user backend did not answer.
    #[error("the vhost-user backend did not {what} within {seconds} s")]
    BackendSilent {
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// A vhost-user backend answered with an error.
    #[error("the vhost-user backend refused to {what}")]
    BackendRefused {
        /// What it was to do.
        what: &'static str,
    },
    /// A vhost-user backend answered with something else.
    #[error("the vhost-user backend was asked to {what}, and {why}")]
    BackendProtocol {
        /// What it was to do.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The system denied what a vhost-user session needs.
    #[error("cannot {step} for the vhost-user device")]
    VhostUserSystem {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The device broke the protocol.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A way in which a device broke the protocol while it was running. The answer to each is a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The used index moved further than there are chains with the device.
    #[error("queue {queue}: the used index jumped by {by} with only {in_flight} buffers in flight")]
    UsedIndexJump {
        /// The queue's index.
        queue: u16,
        /// How far it moved.
        by: u16,
        /// How many chains the device held.
        in_flight: u16,
    },
    /// A used element names a descriptor that does not exist or is not the head of a chain in flight.
    #[error("queue {queue}: the device returned descriptor {id}, which it does not hold")]
    UnknownId {
        /// The queue's index.
        queue: u16,
        /// The id the device wrote.
        id: u32,
    },
    /// A used element claims more bytes than the buffer has room for.
    #[error("queue {queue}: the device claims {len} bytes in a buffer of {capacity}")]
    LengthTooLarge {
        /// The queue's index.
        queue: u16,
        /// What it claims to have written.
        len: u32,
        /// The room there was.
        capacity: u32,
    },
    /// A device that promised to use buffers in order returned one whose predecessors it did not account for.
    #[error("queue {queue}: the device returned descriptor {id} before older ones, though it promised order")]
    OutOfOrder {
        /// The queue's index.
        queue: u16,
        /// The id the device wrote.
        id: u16,
    },
    /// A received frame is shorter than its virtio-net header.
    #[error("queue {queue}: a received buffer holds {len} bytes, less than the virtio-net header")]
    TooShort {
        /// The queue's index.
        queue: u16,
        /// What it claims to have written.
        len: u32,
    },
    /// A merged frame claims no buffer, or more than any frame needs.
    #[error("queue {queue}: a merged frame of {count} buffers is not possible")]
    BadMerge {
        /// The queue's index.
        queue: u16,
        /// What the header said.
        count: u16,
    },
    /// The device asks to be reset (virtio 1.3, 2.1.2).
    #[error("the device set DEVICE_NEEDS_RESET")]
    NeedsReset,
    /// The vhost-user backend closed the connection: it ended, or gave up.
    #[error("the vhost-user backend is gone: it closed its connection")]
    BackendGone,
    /// The vhost-user backend sends what nobody asked for.
    #[error("the vhost-user backend sends messages that were not asked for")]
    BackendChatter,
    /// The doorbell could not be rung.
    #[error("queue {queue}: the doorbell failed (errno {errno})")]
    Doorbell {
        /// The queue's index.
        queue: u16,
        /// The error number of the failed access, 0 if it had none.
        errno: i32,
    },
}
