//! PCI functions through VFIO: find them, take them from the kernel, drive them, give them back.
//!
//! - [`Sysfs`] finds the machine's network functions ([`Function`]).
//! - [`bind`] takes one from its kernel driver and [`give_back`] returns it; what it was, and what the kernel's network had on
//!   it, is kept on disk in between. [`deadman`] gives it back by itself unless a take-over is confirmed.
//! - [`Device`] is an opened function: PCI configuration space, BARs, interrupts, reset. It works the same with an
//!   IOMMU and without ([`Isolation`]).
//! - [`DmaPool`] is memory that the function may reach, with the addresses by which it does.
//!
//! This crate knows PCI, sysfs, VFIO and the kernel's interfaces, and nothing of virtio queues.

mod bar;
mod bdf;
mod bind;
mod clock;
pub mod deadman;
mod device;
mod discover;
mod dma;
mod error;
mod give_back;
mod mac;
mod netlink;
mod network;
mod pagemap;
mod routes;
mod selector;
mod state;
mod sys;
mod sysfs;

#[cfg(test)]
mod fake;

pub use bar::BarMapping;
pub use bdf::Bdf;
pub use bind::{BindOptions, Bound, Isolation, STATE_DIRECTORY, VFIO_PCI, bind, check_bindable, check_group};
pub use clock::kernel_is_synchronised;
pub use device::Device;
pub use discover::{Function, Interface};
pub use dma::{DMA_IOVA_BASE, DmaPool, DmaPoolOptions, DmaSegment};
pub use error::{Error, Region};
pub use give_back::{GiveBackOptions, GivenBack, give_back};
pub use mac::Mac;
pub use network::Restored;
pub use selector::Selector;
pub use sysfs::Sysfs;
