//! A link over a tap: an Ethernet interface of the kernel's, of which the software device is the other end. Namespaces,
//! bridges, containers and the host itself are behind it.
//!
//! Before each frame the kernel has the same header as a virtio-net device (`IFF_VNET_HDR`), so that checksums and the cutting of long
//! segments are left to it as they are left to a device, and frames within the host never have them done at all.
//!
//! To make an interface takes CAP_NET_ADMIN. Without it, somebody who has it makes one beforehand and gives it to netd's user
//! (`ip tuntap add dev NAME mode tap user USER`); an interface that was there before is left as its owner set it up.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netd_virtqueue::{OFFLOAD_BYTES, Offload};
use rustix::io::{Errno, readv, writev};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::{Error, Link};

/// Between attempts to attach to an interface that was removed.
const ATTACH_INTERVAL: Duration = Duration::from_secs(1);
/// `IFNAMSIZ` of Linux, which counts the terminating zero.
pub const INTERFACE_NAME_MAX: usize = 15;

/// Our end of a tap, and its return when the interface was removed and made again.
pub struct TapLink {
    name: String,
    mtu: u16,
    /// The kernel puts a header before each frame, and wants one.
    offloads: bool,
    tap: Option<SyncDevice>,
    /// Whether the interface is up, as far as the last frame has shown.
    is_up: bool,
    generation: u64,
    retry_at: Instant,
}

impl TapLink {
    /// Attaches to the tap called `name`; one that does not exist is made, with this IP MTU, and goes with the link. Without `offloads`
    /// every frame on it is as it would be on a wire, in both directions.
    ///
    /// # Errors
    ///
    /// When there is no such tap and it cannot be made, or it is another's.
    pub fn open(name: &str, mtu: u16, offloads: bool) -> Result<Self, Error> {
        let tap = attach(name, mtu, offloads)
            .map_err(|source| Error::Tap { interface: name.to_owned(), source })?;
        Ok(Self {
            name: name.to_owned(),
            mtu,
            offloads,
            tap: Some(tap),
            is_up: true,
            generation: 1,
            retry_at: Instant::now(),
        })
    }

    /// What an error of the tap means: nothing for the moment, or that the interface is gone.
    fn failed(&mut self, errno: Errno) {
        match errno {
            Errno::BADFD => {
                self.tap = None;
                self.retry_at = Instant::now() + ATTACH_INTERVAL;
            }
            Errno::IO => self.is_up = false,
            _ => {}
        }
    }
}

/// Whether `name` can be that of an interface, as the kernel decides it (`dev_valid_name`). A percent sign is a pattern there.
pub fn is_interface_name(name: &str) -> bool {
    let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len()) && name != "." && name != "..";
    fits && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

fn attach(name: &str, mtu: u16, offloads: bool) -> io::Result<SyncDevice> {
    let is_new = !exists(name)?;
    let builder = DeviceBuilder::new().name(name).layer(Layer::L2).offload(offloads).inherit_enable_state();
    let tap = if is_new { builder.mtu(mtu).enable(true) } else { builder }.build_sync()?;
    tap.set_nonblocking(true)?;
    Ok(tap)
}

fn exists(name: &str) -> io::Result<bool> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match name_to_index(&any, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

impl Link for TapLink {
    fn carries_offloads(&self) -> bool {
        self.offloads
    }

    fn send(&mut self, frame: &[u8], offload: &Offload) -> bool {
        // A link without an interface loses frames, like a cable without a plug, and so does one that is down (EIO).
        let Some(tap) = &self.tap else { return true };
        let header = offload.encode();
        let header = if self.offloads { &header[..] } else { &[] };
        match writev(tap, &[IoSlice::new(header), IoSlice::new(frame)]) {
            Ok(_) => {
                self.is_up = true;
                true
            }
            Err(Errno::AGAIN) => false,
            Err(errno) => {
                self.failed(errno);
                true
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Offload)> {
        let mut header = [0; OFFLOAD_BYTES];
        let header_len = if self.offloads { OFFLOAD_BYTES } else { 0 };
        loop {
            let mut parts = [IoSliceMut::new(&mut header[..header_len]), IoSliceMut::new(buffer)];
            match readv(self.tap.as_ref()?, &mut parts) {
                Ok(len) => {
                    // The kernel's headers fit their frames; one that does not belongs to a frame that is none.
                    let len = len.saturating_sub(header_len);
                    if let Ok(offload) = Offload::decode(&header, len) {
                        return Some((len, offload));
                    }
                }
                Err(errno) => {
                    self.failed(errno);
                    return None;
                }
            }
        }
    }

    fn is_up(&self) -> bool {
        self.tap.is_some() && self.is_up
    }

    fn maintain(&mut self) {
        if self.tap.is_some() || Instant::now() < self.retry_at {
            return;
        }
        match attach(&self.name, self.mtu, self.offloads) {
            Ok(tap) => {
                self.tap = Some(tap);
                self.is_up = true;
                self.generation += 1;
            }
            Err(_) => self.retry_at = Instant::now() + ATTACH_INTERVAL,
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.tap.as_ref().map(AsFd::as_fd)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_are_no_interface_names() {
        for name in ["tap0", "netd-0", "x", "fifteen-letters"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:b", "tap%d", "sixteen-letters!", "t\u{e4}p"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }

    #[test]
    fn interface_that_is_no_tap_is_refused_by_name() {
        // Whoever may make interfaces is told that lo is none of them; others, that they may not.
        let error = TapLink::open("lo", 1500, true).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("lo")), "{error:?}");
    }
}
