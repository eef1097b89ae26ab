//! A virtio-net device in software, split and packed, for the driver in `netd-virtqueue`.
//!
//! The driver cannot tell it from hardware: it goes through the same [`Transport`](netd_virtqueue::Transport), the same
//! rings in shared memory and the same initialisation. The device has no thread: its owner calls [`SoftDevice::poll`]
//! from the loop that polls the driver, so that a simulation is deterministic and a small machine needs no second core.
//!
//! What lies behind the device is a [`Link`]: [`SocketLink`] (QEMU's stream format: passt, another machine), [`TapLink`] (an
//! interface of the kernel's) or [`Wire`] (in-process, seeded loss, delay, reordering and duplication, in virtual time).
#![forbid(unsafe_code)]

mod device;
mod registers;
mod ring;
mod segment;
mod socket;
mod tap;
mod wire;

pub use device::{SoftDevice, create, create_offering};
pub use registers::{FEATURES, SoftTransport};
pub use ring::{Broken, Buffer, DeviceRing, Mark, Piece};
pub use socket::SocketLink;
pub use tap::{INTERFACE_NAME_MAX, TapLink, is_interface_name};
pub use wire::{Impairment, Wire, WireEnd};

use std::io;
use std::os::fd::BorrowedFd;

use netd_virtqueue::Offload;

/// The longest frame that a link carries: 64 KiB of IP behind an Ethernet header.
pub const FRAME_LEN_MAX: usize = 65_535 + 14;

/// What can go wrong with a software device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memory shared with the driver could not be made.
    #[error("no shared memory of {bytes} bytes for the software device")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The link could not be opened.
    #[error("cannot connect to {path}: is the program that serves this socket (passt, QEMU) running?")]
    Connect {
        /// The socket's path.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The tap could not be made or attached to.
    #[error(
        "cannot use the tap {interface}: to make one needs CAP_NET_ADMIN; for another user, root makes it with \
         `ip tuntap add dev {interface} mode tap user USER` and `ip link set {interface} up`"
    )]
    Tap {
        /// The interface.
        interface: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The driver gave the device a queue or a chain that makes no sense.
    #[error("the driver broke the protocol on queue {0}")]
    Driver(usize),
}

/// Carries Ethernet frames, without blocking.
pub trait Link: Send {
    /// Whether it carries frames that lack their checksum or are long segments, with what there is to do about them. A device on a link
    /// that does not offers no offloads.
    fn carries_offloads(&self) -> bool {
        false
    }
    /// Hands a frame over. `false`: the link is congested, and the same frame should be offered again later. `offload` is
    /// [`Offload::NONE`] unless the link [`carries_offloads`](Self::carries_offloads).
    fn send(&mut self, frame: &[u8], offload: &Offload) -> bool;
    /// Pushes out what `send` may have kept back to send in one go.
    fn flush(&mut self) {}
    /// Takes the next received frame into `buffer`, which has room for [`FRAME_LEN_MAX`], and returns its length and what it lacks.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)>;
    /// Whether there is somebody at the other end.
    fn is_up(&self) -> bool;
    /// Mends a broken link, if it is time to try again.
    fn maintain(&mut self) {}
    /// What to wait for to learn of received frames; `None` for a link that exists in memory only.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// Which descriptor that is: a number above 0 that changes when a broken link is mended with a new one.
    fn generation(&self) -> u64 {
        1
    }
    /// Whether output is kept back until the descriptor is writable.
    fn wants_write(&self) -> bool {
        false
    }
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn carries_offloads(&self) -> bool {
        (**self).carries_offloads()
    }

    fn send(&mut self, frame: &[u8], offload: &Offload) -> bool {
        (**self).send(frame, offload)
    }

    fn flush(&mut self) {
        (**self).flush();
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)> {
        (**self).receive(buffer)
    }

    fn is_up(&self) -> bool {
        (**self).is_up()
    }

    fn maintain(&mut self) {
        (**self).maintain();
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (**self).descriptor()
    }

    fn generation(&self) -> u64 {
        (**self).generation()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}
