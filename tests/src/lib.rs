//! The test bed of netd: virtual machines with a real VFIO function, namespaces, peers, and the scenarios that run in them.
//!
//! `cargo xtask` is a thin command over this library. Everything here runs real programs: QEMU, dnsmasq, nginx, passt,
//! the kernel's own driver. What is missing is installed when we may, and otherwise is a failure, never a skip.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod bench;
pub mod binaries;
mod bulk;
pub mod bus;
pub mod capture;
pub mod debian;
pub mod demo;
pub mod digest;
pub mod embedded;
mod error;
pub mod fuzzing;
pub mod guest;
pub mod hugefill;
pub mod install;
pub mod lab;
pub mod netns;
pub mod offloads;
pub mod package;
pub mod peers;
pub mod process;
pub mod removal;
pub mod rings;
pub mod scenario;

pub mod takeover;
pub mod tapped;
pub mod testpmd;
pub mod vm;

pub use error::{Error, Result};
